"""`razh search`: lists as distances say, queries by path and by image, and what does not belong together."""

import csv
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import razh
from razh.cli.main import main
from razh.index.gallery import Gallery, Paths, find
from razh.index.output import because
from razh.retrieval.packing import pack, unpack
from razh.support.files import write_arrays
from tests.commands.conftest import BITS

NEAR = [[0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 1], [0, 1, 0, 0], [1, 1, 1, 1]]


def gallery(rows=NEAR):
    codes = pack(np.array(rows, dtype=bool))
    return Gallery(codes, Paths.of([f"{row}.png" for row in range(len(codes))]), 4, "", "here")


def test_lists_are_ordered_by_distance_then_row_and_say_how_many_equals_are_cut_off():
    searched = gallery()
    (one,) = find(searched, ["q"], searched.codes[:1], [-1], 2, None)
    assert one.found == [(0, "0.png"), (1, "1.png")]
    assert one.more == 1  # 3.png, at distance 1 as well
    (all_,) = find(searched, ["q"], searched.codes[:1], [-1], 9, None)
    assert [path for _, path in all_.found] == ["0.png", "1.png", "3.png", "2.png", "4.png"]
    assert all_.more == 0


def test_a_query_of_the_file_is_left_out_of_its_own_list():
    searched = gallery([*NEAR, NEAR[0]])
    (one,) = find(searched, ["0.png"], searched.codes[:1], [0], 2, None)
    assert one.found == [(0, "5.png"), (1, "1.png")]
    assert one.more == 1
    (nearest,) = find(searched, ["0.png"], searched.codes[:1], [0], 1, None)
    assert (nearest.found, nearest.more) == ([(0, "5.png")], 0)


def test_within_cuts_lists_off_by_distance():
    searched = gallery()
    (one,) = find(searched, ["q"], searched.codes[:1], [-1], 9, 1)
    assert [distance for distance, _ in one.found] == [0, 1, 1]
    (none,) = find(searched, ["q"], pack(np.array([[1, 0, 0, 1]], dtype=bool)), [-1], 9, 0)
    assert (none.found, none.more) == ([], 0)


def test_paths_are_found_whatever_is_in_them(monkeypatch):
    monkeypatch.setattr("razh.index.gallery.BLOCK_BYTES", 16)
    names = ["a/1.png", "", "a/11.png", "ä/漢.png", "b\n2.png", "odd\udcff.png", "1.png", "a/1.png.png"]
    paths = Paths.of(names)
    assert len(paths) == len(names)
    assert [paths[row] for row in range(len(names))] == names
    assert paths.rows_of(names) == {name: row for row, name in enumerate(names)}
    assert paths.rows_of(["png", "a/1", "nowhere", "ä/漢.png"]) == {"ä/漢.png": 3}
    assert Paths.of([]).rows_of(["a"]) == {}


@pytest.mark.parametrize("order", "<>")
def test_paths_may_be_an_array_of_strings(order, tmp_path, monkeypatch):
    monkeypatch.setattr("razh.index.gallery.BLOCK_BYTES", 64)  # a few at a time
    names = [f"cats/{'ä' * (row % 3)}{row}.png" for row in range(20)]
    codes = np.arange(20, dtype=np.uint8)[:, None]
    array = np.array(names).astype(f"{order}U13")
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "c.npz", codes=codes, paths=array, bits=np.array(8))
        read = Gallery.read(tmp_path / "c.npz")
        assert [read.paths[row] for row in range(20)] == names
        np.testing.assert_array_equal(read.codes, codes)


def test_a_search_by_path_needs_no_torch(tmp_path):
    names = [f"{row}.png" for row in range(5)]
    write_arrays(tmp_path / "c.npz", {"codes": np.eye(5, 1, dtype=np.uint8), "paths": Paths.of(names).block, "bits": 8})
    code = """
import sys
from razh.cli.main import main
assert main(sys.argv[1:]) == 0
assert not {"torch", "matplotlib", "scipy", "lightning"} & set(sys.modules)
"""
    command = [sys.executable, "-c", code, "search", str(tmp_path / "c.npz"), "3.png"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "0.png" in done.stdout
    assert f"razh search {tmp_path / 'c.npz'} 3.png --out=hits.csv" in done.stderr


@pytest.fixture
def encoded(trained, photos, tmp_path):
    out = tmp_path / "codes.npz"
    assert main(["encode", str(photos), "--checkpoint", str(trained[0]), "--out", str(out), "--workers=0"]) == 0
    return out


def search(*arguments):
    return main(["search", *map(str, arguments)])


def test_paths_of_the_file_need_no_model(encoded, capsys, tmp_path):
    with np.load(encoded) as file:
        codes, paths = unpack(file["codes"], BITS), file["paths"].tolist()
    capsys.readouterr()
    assert search(encoded, paths[2], "--top=3") == 0
    told = capsys.readouterr().out
    near = (codes != codes[2]).sum(axis=1)
    order = [row for row in np.lexsort((np.arange(7), near)) if row != 2][:3]
    for row in order:
        assert paths[row] in told
    assert search(encoded, paths[2], paths[0], "--top=2", "--out", tmp_path / "hits.csv") == 0
    with (tmp_path / "hits.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["query"] for row in rows] == [paths[2]] * 2 + [paths[0]] * 2
    assert [row["place"] for row in rows] == ["1", "2", "1", "2"]
    assert [(row["path"], int(row["distance"])) for row in rows[:2]] == [(paths[r], near[r]) for r in order[:2]]


def test_names_are_printed_as_they_are(photos, trained, tmp_path, capsys):
    (photos / "cats" / "1.png").rename(photos / "cats" / "[bold]1[red].png")
    out = tmp_path / "codes.npz"
    assert main(["encode", str(photos), "--checkpoint", str(trained[0]), "--out", str(out), "--workers=0"]) == 0
    capsys.readouterr()
    assert search(out, "cats/[bold]1[red].png") == 0
    assert capsys.readouterr().out.splitlines()[0].strip() == "cats/[bold]1[red].png"
    assert search(out, "cats/3.png", "--within=12") == 0
    assert "cats/[bold]1[red].png" in capsys.readouterr().out


def test_control_characters_in_names_do_not_break_tables(photos, trained, tmp_path, capsys):
    (photos / "cats" / "1.png").rename(photos / "cats" / "line\nbreak\x1b[1m.png")
    out = tmp_path / "codes.npz"
    assert main(["encode", str(photos), "--checkpoint", str(trained[0]), "--out", str(out), "--workers=0"]) == 0
    capsys.readouterr()
    assert search(out, "cats/line\nbreak\x1b[1m.png") == 0
    assert capsys.readouterr().out.splitlines()[0].strip() == r"cats/line\nbreak\x1b[1m.png"
    assert search(out, "cats/3.png") == 0
    assert r"cats/line\nbreak\x1b[1m.png" in capsys.readouterr().out


def test_images_are_encoded_and_drawn(encoded, trained, photos, tmp_path, capsys):
    new = tmp_path / "queries" / "new.png"
    new.parent.mkdir()
    shutil.copy(photos / "cats" / "3.png", new)
    figure = tmp_path / "hits.png"
    more = ["--checkpoint", trained[0], "--workers=0", "--figure", figure, "--images", photos, "--top=4"]
    assert search(encoded, new, *more, "--out", tmp_path / "hits.csv") == 0
    first = (tmp_path / "hits.csv").read_text().splitlines()[1].split(",")
    assert first[:3] == ["new.png", "1", "0"]
    assert first[3] == "cats/3.png"
    with Image.open(figure) as drawn:
        assert drawn.width > 4 * 96
    assert search(encoded, new.parent, "cats/1.png", *more, "--out", tmp_path / "two.csv") == 0
    named = {line.split(",")[0] for line in (tmp_path / "two.csv").read_text().splitlines()[1:]}
    assert named == {"cats/1.png", "new.png"}


def test_what_does_not_belong_together_is_one_line(encoded, trained, photos, tmp_path, capsys):
    image = tmp_path / "new.png"
    shutil.copy(photos / "cats" / "3.png", image)
    other = tmp_path / "other.ckpt"
    content = torch.load(trained[0], weights_only=True)
    content["razh"]["dataset"] = "another"
    torch.save(content, other)
    with np.load(encoded) as file:
        arrays = {name: file[name] for name in file.files}
    np.savez(tmp_path / "bits.npz", **arrays | {"bits": np.array(13)})
    np.savez(tmp_path / "cut.npz", **arrays | {"paths": arrays["paths"][1:]})
    np.savez(tmp_path / "none.npz", labels=arrays["labels"])
    (tmp_path / "words.npz").write_text("no codes at all")
    (tmp_path / "broken.png").write_text("no image at all")
    checkpoint = ["--checkpoint", trained[0], "--workers=0"]
    capsys.readouterr()
    for words, arguments in (
        ("no file of codes at", [tmp_path / "nowhere.npz", "cats/1.png"]),
        ("lacks codes, paths, bits", [tmp_path / "none.npz", "cats/1.png"]),
        ("cannot be read as .npz", [tmp_path / "words.npz", "cats/1.png"]),
        ("7 codes and 6 paths", [tmp_path / "cut.npz", "cats/1.png"]),
        ("is no path in", [encoded, image]),
        ("nowhere.png is neither a path in", [encoded, "nowhere.png", *checkpoint]),
        ("made with another checkpoint", [encoded, image, "--checkpoint", other]),
        ("makes codes of 12 bits", [tmp_path / "bits.npz", image, *checkpoint]),
        ("no query is a readable image", [encoded, tmp_path / "broken.png", *checkpoint]),
        ("cannot be used", [encoded, image, *checkpoint, "--device=gpu"]),
        ("--images=nowhere: no file", [encoded, "cats/1.png", "--images=nowhere", f"--figure={tmp_path / 'f.png'}"]),
        ("--top=0 must be a whole number from 1", [encoded, "cats/1.png", "--top=0"]),
        ("--max-megapixels=-1", [encoded, "cats/1.png", "--max-megapixels=-1"]),
        ("--within=-1 must be a whole number from 0", [encoded, "cats/1.png", "--within=-1"]),
        ("--figure needs --images", [encoded, "cats/1.png", "--figure=x.png"]),
    ):
        assert search(*arguments) == 1
        errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1, words
        assert words in errors[0]


def test_why_a_hit_was_found_is_told_in_every_format(reading, photos, tmp_path, capsys):
    archive, query = tmp_path / "archive", "photos/cats/3.png"
    assert main(["index", str(photos), "--checkpoint", str(reading), "--out", str(archive)]) == 0
    model = razh.load(reading)
    own, hit = model.why(photos / "cats/3.png"), model.why(photos / "cats/5.png")
    told = because(own.shared(hit))
    assert main(["search", str(archive), query, "--why", "--out", str(tmp_path / "hits.json")]) == 0
    (one,) = json.loads((tmp_path / "hits.json").read_text())
    (found,) = [found for found in one["hits"] if found["path"] == "photos/cats/5.png"]
    assert [pair["attribute"] for pair in found["shared"]] == [pair.query.name for pair in own.shared(hit)]
    for pair in found["shared"]:
        assert set(pair) == {"attribute", "part", "query", "hit"}
        assert min(pair["query"]["strength"], pair["hit"]["strength"]) > 0
    assert main(["search", str(archive), query, "--why", "--out", str(tmp_path / "hits.csv")]) == 0
    rows = list(csv.DictReader((tmp_path / "hits.csv").open()))
    assert told in [row["shared"] for row in rows]
    assert main(["search", str(archive), query, "--why", "--out", str(tmp_path / "hits.html")]) == 0
    for part in filter(None, told.split("; ")):
        assert part in (tmp_path / "hits.html").read_text()
    capsys.readouterr()
    assert main(["search", str(archive), query, "--why"]) == 0
    assert "shared attributes" in capsys.readouterr().out
    drawn, plain = tmp_path / "why.png", tmp_path / "hits.png"
    assert main(["search", str(archive), query, "--why", "--figure", str(drawn)]) == 0
    assert main(["search", str(archive), query, "--figure", str(plain)]) == 0
    with Image.open(drawn) as why, Image.open(plain) as hits:
        assert why.height > hits.height  # the query above each of its hits


def test_why_is_refused_where_nothing_can_be_told(trained, photos, tmp_path, capsys):
    archive = str(tmp_path / "archive")
    assert main(["index", str(photos), "--checkpoint", str(trained[0]), "--out", archive]) == 0
    assert main(["search", archive, "photos/cats/3.png", "--why"]) == 1
    assert "CE and reads no attributes part by part" in capsys.readouterr().err
    assert main(["search", archive, "photos/cats/3.png", "--why", "--not=photos/cats/5.png"]) == 1
    assert "leave --describe, --text, --together, --not and --duplicates out" in capsys.readouterr().err
