import gzip
from pathlib import Path

import numpy as np
import pytest

from razh.retrieval.split_lists import SplitList, audit, read_list

LISTS = Path(__file__).parents[2].parent / "shared" / "data" / "protocol_lists"


def listed(*items):
    return SplitList(items, tuple(item.partition("/")[0] if "/" in item else "" for item in items))


def test_a_clean_protocol_has_no_leak():
    found = audit(listed("u/1", "u/2"), listed("u/3", "s/1", "s/2"), listed("s/1"))
    assert found.leaks == ()
    assert found.notes == ()
    assert found.overlaps == {"query/database": 0, "query/train": 0, "train/database": 1}
    assert found.facts["query classes that are in train"] == 0


def test_every_leak_is_found():
    found = audit(listed("u/1", "u/2", "v/1"), listed("u/1", "s/1", "s/1"), listed("u/2", "s/1"))
    assert found.overlaps == {"query/database": 1, "query/train": 1, "train/database": 1}
    assert [leak.split(":")[0] for leak in found.leaks] == [
        "1 of 3 queries (33%) are in the database",
        "1 of 3 queries (33%) are training images",
        "1 of 2 query classes were trained on",
    ]
    assert any("1 of 3 items are repetitions" in note for note in found.notes)
    assert any("1 query classes have no database image: v" in note for note in found.notes)


@pytest.mark.parametrize(
    ("text", "items", "classes"),
    [
        ("17 3\n4 3\n", ("17", "4"), ("3", "3")),
        ("17 3\n", ("17",), ("3",)),
        ("17 0.5\n4 1\n", ("17", "4"), ("0.5", "1")),
        ("17,0,1\n4,1,0\n", ("17", "4"), ("0 1", "1 0")),
        ("a/1.jpg\n./b/2.jpg\n", ("a/1.jpg", "b/2.jpg"), ("a", "b")),
        ("a/1.jpg 3\nb/2.jpg 4\n", ("a/1.jpg", "b/2.jpg"), ("3", "4")),
        ("a/1.jpg 0 1 0\n", ("a/1.jpg",), ("0 1 0",)),
        ("a/1.jpg,3\n", ("a/1.jpg",), ("3",)),
        ("x\\my photo.jpg\n", ("x/my photo.jpg",), ("x",)),
        ("1.jpg\n2.jpg\n", ("1.jpg", "2.jpg"), ("", "")),
        ("17\n4\n", ("17", "4"), ("", "")),
    ],
)
def test_lists_are_read_as_papers_write_them(tmp_path, text, items, classes):
    (tmp_path / "list.txt").write_text(text)
    with gzip.open(tmp_path / "list.txt.gz", "wt") as file:
        file.write(text)
    for name in ("list.txt", "list.txt.gz"):
        assert read_list(str(tmp_path / name)) == SplitList(items, classes)


def test_index_arrays_and_names_without_folders(tmp_path):
    np.save(tmp_path / "i.npy", np.array([[3], [5]]))
    assert read_list(str(tmp_path / "i.npy")) == SplitList(("3", "5"), ("", ""))
    np.save(tmp_path / "table.npy", np.zeros((2, 3), np.int64))
    with pytest.raises(ValueError, match=r"an array of shape \(2, 3\); a list of items has one dimension"):
        read_list(str(tmp_path / "table.npy"))
    (tmp_path / "list.txt").write_text("train/a/1.jpg\n")
    assert read_list(str(tmp_path / "list.txt"), by_name=True) == SplitList(("1.jpg",), ("a",))


@pytest.mark.shared
@pytest.mark.skipif(not LISTS.is_dir(), reason="../shared absent")
@pytest.mark.parametrize(("paper", "leaked"), [("COMAE", 736), ("PIXEL", 735)])
def test_half_of_the_published_cub_queries_are_in_the_database(paper, leaked):
    query, database, train = (
        read_list(str(LISTS / f"{paper}_cub_{part}.txt.gz")) for part in ("test", "database", "train")
    )
    found = audit(query, database, train)
    assert found.facts["query items"] == 1500
    assert found.overlaps["query/database"] == leaked
    assert found.overlaps["query/train"] == 0
    assert found.leaks == (f"{leaked} of 1500 queries (49%) are in the database: each retrieves itself first",)
