"""An archive's rows: added, replaced, removed, packed, found by path and by column."""

import os
import shutil
import sys

import numpy as np
import pytest

from razh.index import archive, storage
from razh.index.archive import ArchiveWriter, Entries, Snapshot
from razh.index.gallery import find
from razh.index.updating import plan, read_columns
from razh.retrieval.packing import pack
from tests import fake

DIGEST = "d" * 64


def codes_of(rows, bits=12, seed=0):
    return pack(np.random.default_rng(seed).random((rows, bits)) < 0.5)


def entries(names, classes=None, source="photos"):
    stamps = np.arange(len(names), dtype=np.int64)
    return Entries(names, classes or [name.split("/")[1] for name in names], stamps + 100, stamps, source)


def names_of(now):
    return [name for _, name in now.names()]


@pytest.fixture
def folder(tmp_path):
    """Six images in three folders."""
    names = [f"photos/{kind}/{n}.png" for kind in ("cats", "dogs", "dogs/big") for n in range(2)]
    with ArchiveWriter(tmp_path / "archive", (12, DIGEST, "/runs/best.ckpt")) as writer:
        writer.source_of(tmp_path / "photos")
        writer.append(codes_of(6), entries(names))
        writer.commit()
    return tmp_path / "archive"


def test_what_was_added_is_read(folder, tmp_path):
    now = Snapshot(folder)
    assert (len(now), now.bits, now.checkpoint, now.checkpoint_path) == (6, 12, DIGEST, "/runs/best.ckpt")
    assert now.sources == {"photos": str(tmp_path / "photos")}
    np.testing.assert_array_equal(now.codes, codes_of(6))
    assert names_of(now)[-1] == "photos/dogs/big/1.png"
    assert [now.columns["class"][row] for row in range(6)] == ["cats"] * 2 + ["dogs"] * 4
    assert now.columns["folder"].counts(now.alive) == {"photos/cats": 2, "photos/dogs": 2, "photos/dogs/big": 2}
    assert now.sizes.tolist() == [100, 101, 102, 103, 104, 105]
    assert now.problems() == []


@pytest.mark.parametrize("few", [0, 99])
def test_names_are_found_whatever_is_in_them(few, folder, monkeypatch):
    monkeypatch.setattr(archive, "FEW", few)
    odd = ["photos/ä/漢.png", "photos/b\n2.png", "photos/odd\udcff.png", "photos/.png"]
    with ArchiveWriter(folder) as writer:
        writer.append(codes_of(4), entries(odd, [""] * 4))
        writer.commit()
        assert writer.now.rows_of([*odd, "1.png", "photos"]) == {name: 6 + row for row, name in enumerate(odd)}
        assert writer.now.rows_of(["photos/cats/1.png"]) == {"photos/cats/1.png": 1}


def test_rows_with_one_hash_are_told_apart(folder, monkeypatch):
    monkeypatch.setattr(archive, "_hashes", lambda names: np.zeros(len(names), np.uint64))
    with ArchiveWriter(folder) as writer:
        writer.append(codes_of(2), entries(["photos/x/a", "photos/x/b"]))
        writer.commit()
        assert writer.now.rows_of(["photos/x/b", "photos/x/c"]) == {"photos/x/b": 7}


def test_a_replaced_row_is_found_at_its_new_place_only(folder):
    with ArchiveWriter(folder) as writer:
        writer.append(codes_of(1, seed=9), entries(["photos/cats/0.png"]), replaced=[0])
        assert len(Snapshot(folder)) == 6
        writer.commit()
    now = Snapshot(folder)
    assert len(now) == 6
    assert now.rows_of(["photos/cats/0.png"]) == {"photos/cats/0.png": 6}
    (one,) = find(now.gallery(), ["q"], codes_of(6)[:1], [-1], 9, None)
    assert sorted(path for _, path in one.found) == sorted(names_of(now))


def test_removed_rows_are_never_found_and_give_their_room_back(folder):
    with ArchiveWriter(folder) as writer:
        writer.remove([1])
        writer.commit()
        assert not writer.pack()
        writer.remove([4])
        writer.commit()
        assert len(writer.now) == 4
        assert len(writer.now.codes) == 6
        before = find(writer.now.gallery(), ["q"], codes_of(1, seed=5), [-1], 9, None)
        assert writer.pack()
        now = writer.now
        assert len(now.codes) == 4
        assert now.alive is None
        assert find(now.gallery(), ["q"], codes_of(1, seed=5), [-1], 9, None) == before
        assert now.rows_of(["photos/dogs/big/1.png", "photos/cats/1.png"]) == {"photos/dogs/big/1.png": 3}
        assert [now.columns["folder"][row] for row in range(4)] == [
            "photos/cats", "photos/dogs", "photos/dogs", "photos/dogs/big"
        ]  # fmt: skip
        writer.append(codes_of(1), entries(["photos/cats/7.png"]))
        writer.commit()
        assert names_of(writer.now)[-2:] == ["photos/dogs/big/1.png", "photos/cats/7.png"]
        assert writer.now.problems() == []


def test_an_archive_can_be_emptied_and_filled_again(folder):
    with ArchiveWriter(folder) as writer:
        writer.remove(range(6))
        writer.commit()
        assert writer.pack()
        assert len(Snapshot(folder)) == 0
        with pytest.raises(ValueError, match="has no images; add some with `razh index add"):
            find(writer.now.gallery(), ["q"], codes_of(1), [-1], 9, None)
    with ArchiveWriter(folder, (8, "other", "other.ckpt")) as writer:  # nothing depends on the old checkpoint
        writer.append(codes_of(1, bits=8), entries(["photos/x/1"]))
        writer.commit()
    assert (Snapshot(folder).bits, names_of(Snapshot(folder))) == (8, ["photos/x/1"])


def test_codes_of_two_checkpoints_are_not_mixed(folder):
    with pytest.raises(ValueError, match="was made with another checkpoint than new"):
        ArchiveWriter(folder, (12, "e" * 64, "new.ckpt"))
    with ArchiveWriter(folder):  # the lock was let go
        pass


def test_conditions_choose_rows(folder):
    now = Snapshot(folder)
    assert np.flatnonzero(now.chosen({"class": ["cats"]})).tolist() == [0, 1]
    assert np.flatnonzero(now.chosen({"folder": ["photos/dogs/"]})).tolist() == [2, 3, 4, 5]
    assert np.flatnonzero(now.chosen({"folder": ["photos/dogs/big", "photos/cats"]})).tolist() == [0, 1, 4, 5]
    assert not now.chosen({"class": ["cats"], "folder": ["photos/dogs"]}).any()
    for where, told in (
        ({"clas": ["cats"]}, "no such column; did you mean class"),
        ({"class": ["cat"]}, "no image of .* has it; did you mean cats"),
    ):
        with pytest.raises(ValueError, match=told):
            now.chosen(where)
    gallery = now.gallery({"class": ["dogs"]})
    (one,) = find(gallery, ["q"], now.codes[:1], [0], 9, None)  # the query itself is a cat
    assert len(gallery) == len(one.found) == 4


def test_own_columns_are_read_kept_and_asked_for(folder, tmp_path):
    table = tmp_path / "facts.csv"
    table.write_text("path,camera,class\nphotos/cats/0.png,hall,\ndogs\\1.png,yard,wolf\nnowhere.png,yard,cat\n")
    with ArchiveWriter(folder) as writer:
        assert writer.set_columns(read_columns(table, writer)) == 2
        writer.append(codes_of(1), entries(["photos/new/1.png"]))
        writer.commit()
        table.write_text("path;camera\nphotos/new/1.png;yard\n")
        assert writer.set_columns(read_columns(table, writer)) == 1
        now = writer.now
    assert [now.columns["camera"][row] for row in range(7)] == ["hall", "", "", "yard", "", "", "yard"]
    assert [now.columns["class"][row] for row in range(7)] == ["", "cats", "dogs", "wolf", "dogs", "dogs", "new"]
    assert np.flatnonzero(now.chosen({"camera": ["yard"]})).tolist() == [3, 6]
    assert now.problems() == []


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "has 0 columns"),
        ("path\na\n", "has 1 columns"),
        ("path,size\na,1\n", "cannot be called 'size'"),
        ("path,a,a\nb,1,2\n", "two columns of one name"),
        ("path,a\nb,1,2\n", "line 2 has other columns"),
    ],
)
def test_tables_that_cannot_be_meant_are_one_line(content, told, folder, tmp_path):
    table = tmp_path / "facts.csv"
    table.write_text(content)
    with ArchiveWriter(folder) as writer, pytest.raises(ValueError, match=told):
        read_columns(table, writer)


def test_folders_have_names_of_their_own_and_do_not_overlap(folder, tmp_path):
    for place in ("photos/cats", "other/photos", "moved/photos"):
        (tmp_path / place).mkdir(parents=True)
    with ArchiveWriter(folder) as writer:
        assert writer.source_of(tmp_path / "photos") == "photos"
        assert writer.source_of(tmp_path / "other" / "photos") == "photos-2"
        for inside in (tmp_path / "photos" / "cats", tmp_path):
            with pytest.raises(ValueError, match=r"overlaps with .*photos, which is in"):
                writer.source_of(inside)
        os.rename(tmp_path / "photos", tmp_path / "gone")
        assert writer.source_of(tmp_path / "moved" / "photos") == "photos"
        writer.commit()
    now = Snapshot(folder)
    assert now.file_of("photos/cats/1.png") == str(tmp_path / "moved" / "photos" / "cats" / "1.png")
    assert now.name_of(str(tmp_path / "other" / "photos" / "a.png")) == "photos-2/a.png"
    assert now.name_of("elsewhere/a.png") == "elsewhere/a.png"


def test_a_plan_tells_new_changed_and_gone_images_apart(folder, tmp_path):
    photos = tmp_path / "photos"
    for kind, number in (("cats", 0), ("cats", 1), ("new", 0)):
        fake.write_image(photos / kind / f"{number}.png", seed=number)
    state = (photos / "cats" / "0.png").stat()
    stamps = np.array([[state.st_size], [state.st_mtime_ns]])
    with ArchiveWriter(folder) as writer:
        writer.append(codes_of(1), Entries(["photos/cats/0.png"], ["cats"], *stamps, "photos"), replaced=[0])
        writer.append(codes_of(1), entries(["more/x/0.png"], source="more"))
        writer.commit()
        work = plan(writer, photos)
        assert [work.names[at] for at in work.todo] == ["photos/cats/1.png", "photos/new/0.png"]
        assert [writer.now.paths[row] for row in work.gone] == [
            f"photos/{kind}/{n}.png" for kind in ("dogs", "dogs/big") for n in range(2)
        ]
        with pytest.raises(ValueError, match="is a file; name the folder"):
            plan(writer, photos / "cats" / "0.png")


def test_damage_is_told(folder):
    (path,) = folder.glob("column.class-*.bin")
    path.write_bytes(b"\xff" + path.read_bytes()[1:])
    assert Snapshot(folder).problems() == [f"{path.name} does not match its checksum"]


class Told(BaseException):
    """What a signal raises, between any two lines."""


def told_at(line):
    """Return a tracer that raises at this line of those that run in an archive, counted from 1."""
    passed = 0

    def trace(frame, event, _):
        nonlocal passed
        if frame.f_code.co_filename not in (archive.__file__, storage.__file__):
            return None
        if event == "line":
            passed += 1
            if passed == line:
                sys.settrace(None)
                raise Told
        return trace

    return trace


def test_who_is_told_to_stop_at_any_line_commits_whole_rows_or_none(folder, tmp_path, monkeypatch):
    """`razh index` commits on its way out, wherever the signal found it: within `append`, and within `commit`, too."""
    monkeypatch.setattr(storage, "_to_disk", lambda descriptor, flush: flush())
    added = [["photos/cats/0.png", "photos/new/a.png"], ["photos/new/b.png", "photos/new/longer name.png"]]
    first = dict(zip(names_of(Snapshot(folder)), codes_of(6).tolist(), strict=True))
    later = dict(
        zip([*added[0], *added[1]], [*codes_of(2, seed=1).tolist(), *codes_of(2, seed=2).tolist()], strict=True)
    )
    line, stopped, sizes = -1, True, set()
    while stopped:
        line, stopped = line + 2, False
        copy = shutil.copytree(folder, tmp_path / "copy" / str(line))
        tracer = sys.gettrace()
        with ArchiveWriter(copy) as writer:
            sys.settrace(told_at(line))
            try:
                writer.append(codes_of(2, seed=1), entries(added[0]), [0])
                writer.commit()
                writer.append(codes_of(2, seed=2), entries(added[1]))
                writer.commit()
            except Told:
                stopped = True
            finally:
                sys.settrace(tracer)
                writer.commit()
        now = Snapshot(copy)
        assert now.problems() == [], line
        names = names_of(now)
        assert len(set(names)) == len(names), line
        for row, name in now.names():
            assert now.codes[row].tolist() in (first.get(name), later.get(name)), line
        sizes.add(len(names))
    assert line > 50
    assert sizes >= {6, 7, 9}
