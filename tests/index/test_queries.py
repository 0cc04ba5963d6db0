"""Several queries as one, what is not wanted, near duplicates, and the formats of hits."""

import json
import re

import numpy as np
import pytest

from razh.index import duplicates
from razh.index.duplicates import groups
from razh.index.gallery import Gallery, Hits, Paths
from razh.index.output import as_text
from razh.index.queries import AWAY, Queries, find_together
from razh.retrieval.packing import pack, unpack
from tests import fake


def gallery(codes, bits, mask=None):
    return Gallery(codes, Paths.of([f"{row}" for row in range(len(codes))]), bits, "", "here", mask)


def queries(codes, rows=None):
    return Queries([f"q{n}" for n in range(len(codes))], codes, rows or [-1] * len(codes), [])


@pytest.mark.parametrize("block", [7, 1 << 16])
@pytest.mark.parametrize("unwanted", [0, 2])
def test_what_is_near_to_all_and_far_from_others_comes_first(block, unwanted, monkeypatch):
    monkeypatch.setattr("razh.index.queries._BLOCK_ROWS", block)
    rng = np.random.default_rng(0)
    bits, codes, asked = 12, pack(rng.random((60, 12)) < 0.5), pack(rng.random((5, 12)) < 0.5)
    mask = rng.random(60) < 0.7
    found = find_together(
        gallery(codes, bits, mask), queries(asked[:3], [-1, 9, -1]), queries(asked[3 : 3 + unwanted]), 10, 7
    )
    near = (unpack(asked, bits)[:, None] != unpack(codes, bits)[None]).sum(axis=2)
    mean = near[:3].mean(axis=0)
    score = mean - (AWAY * near[3 : 3 + unwanted].mean(axis=0) if unwanted else 0)
    allowed = [row for row in range(60) if mask[row] and row != 9 and mean[row] <= 7]
    wanted = sorted(allowed, key=lambda row: (round(score[row], 9), row))[:10]
    assert [path for _, path in found.found] == [str(row) for row in wanted]
    assert [distance for distance, _ in found.found] == [round(mean[row], 1) for row in wanted]


def one_by_one(codes, bits, within, rows):
    """Groups of rows that are linked, by comparing all pairs."""
    near = (unpack(codes, bits)[:, None] != unpack(codes, bits)[None]).sum(axis=2) <= within
    left, found = set(rows), []
    for row in rows:
        group, new = set(), {row} & left
        while new:
            group |= new
            new = {other for one in new for other in left if near[one, other]} - group
        left -= group
        found += [sorted(group)] if len(group) > 1 else []
    return found


@pytest.mark.parametrize("within", [0, 1, 2, 5])
@pytest.mark.parametrize("bits", [13, 64])
def test_duplicates_are_those_of_all_pairs(bits, within):
    rng = np.random.default_rng(bits)
    codes = pack((rng.random((20, bits)) < 0.5)[rng.integers(0, 20, 90)] ^ (rng.random((90, bits)) < 1.5 / bits))
    assert groups(gallery(codes, bits), within) == one_by_one(codes, bits, within, range(90))
    mask = rng.random(90) < 0.6
    assert groups(gallery(codes, bits, mask), within) == one_by_one(codes, bits, within, np.flatnonzero(mask).tolist())


def test_too_many_pairs_are_refused(monkeypatch):
    monkeypatch.setattr(duplicates, "MOST_PAIRS", 1000)
    codes = pack(np.random.default_rng(0).random((300, 8)) < 0.5)
    with pytest.raises(ValueError, match=r"--within=3 is too far for duplicates among .* lower it"):
        groups(gallery(codes, 8), 3)
    assert groups(gallery(codes[:1], 8), 2) == groups(gallery(codes[:0], 8), 2) == []


def test_hits_are_written_in_every_format(tmp_path):
    fake.write_image(tmp_path / "a.png", seed=0)
    hits = [Hits("q<b>", [(0, "a.png"), (3, "gone&.png")], 2, False, [4, 7])]
    assert as_text(hits, ".csv", tmp_path.joinpath, "t", "{:02x}".format).splitlines()[1:] == [
        "q<b>,1,0,a.png",
        "q<b>,2,3,gone&.png",
    ]
    (one,) = json.loads(as_text(hits, ".json", tmp_path.joinpath, "t", "{:02x}".format))
    assert one["hits"][1] == {
        "place": 2,
        "distance": 3,
        "path": "gone&.png",
        "file": str(tmp_path / "gone&.png"),
        "row": 7,
        "code": "07",
    }
    assert one["more_at_last_distance"] == 2
    page = as_text(hits, ".html", tmp_path.joinpath, "t", "{:02x}".format)
    assert len(re.findall('src="data:image/jpeg;base64,[A-Za-z0-9+/=]{100,}"', page)) == 1
    assert page.count('class="none"') == 1
    assert "q&lt;b&gt;" in page
    assert "gone&amp;.png" in page
    assert "http" not in page
