"""Files are the old one or the whole new one."""

import argparse
import os
import stat
import struct
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest

from razh.support import files
from razh.support.files import ArrayFile, expand_home, given_path, remove_leftovers, replacing, write_arrays, write_text

DEAD = 1 << 23  # above the largest number of a process


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    path = tmp_path / "table.csv"
    write_text(path, "old")

    def interrupted():
        with replacing(path) as part:
            part.write_text("half", encoding="utf-8")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text(encoding="utf-8") == "old"
    assert os.listdir(tmp_path) == ["table.csv"]


def test_a_write_makes_its_folder_and_replaces_what_is_there(tmp_path):
    path = tmp_path / "deep" / "one.npz"
    for value in (1, 2):
        write_arrays(path, {"codes": np.full(3, value)})
    with np.load(path, allow_pickle=False) as file:
        assert file["codes"].tolist() == [2, 2, 2]
    assert os.listdir(path.parent) == ["one.npz"]


def test_arrays_of_objects_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"pickle|Object"):
        write_arrays(tmp_path / "one.npz", {"names": np.array([object()], dtype=object)})
    assert not os.listdir(tmp_path)


def test_of_a_link_the_target_is_replaced_and_a_file_keeps_its_permissions(tmp_path):
    (tmp_path / "real").mkdir()
    target = tmp_path / "real" / "a.json"
    target.write_text("old")
    target.chmod(0o640)
    (tmp_path / "link").symlink_to(target)
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert target.read_text() == "new"
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    (tmp_path / "dangling").symlink_to(tmp_path / "none.json")
    write_text(tmp_path / "dangling", "made")
    assert (tmp_path / "none.json").read_text() == "made"


def test_what_cannot_be_replaced_is_refused_in_one_line(tmp_path):
    (tmp_path / "fixed").write_text("old")
    (tmp_path / "fixed").chmod(0o444)
    (tmp_path / "round").symlink_to("round")
    for path, message in (
        (tmp_path / "fixed", "is read-only"),
        (tmp_path, "is a folder; give a file"),
        (tmp_path / "round", "symbolic links"),
    ):
        with pytest.raises(OSError, match=message):
            write_text(path, "new")
    assert (tmp_path / "fixed").read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == ["fixed", "round"]


def test_devices_and_pipes_are_written_through(tmp_path, capfd):
    with pytest.raises(OSError, match="No space left") as error:
        write_arrays(Path("/dev/full"), {"codes": np.zeros(9)})
    assert error.value.filename == "/dev/full"
    assert stat.S_ISCHR(os.stat("/dev/full").st_mode)
    write_text(Path("/dev/stdout"), "text")
    assert capfd.readouterr().out == "text"
    os.mkfifo(tmp_path / "pipe")
    found = []
    reader = threading.Thread(target=lambda: found.append((tmp_path / "pipe").read_bytes()))
    reader.start()
    write_arrays(tmp_path / "pipe", {"codes": np.arange(3)})
    reader.join(5)
    assert found[0].startswith(b"PK")
    assert (tmp_path / "pipe").is_fifo()


def test_names_may_be_as_long_as_the_system_allows(tmp_path):
    write_text(tmp_path / ("n" * 255), "text")
    assert os.listdir(tmp_path) == ["n" * 255]


def test_errors_name_the_file_that_was_asked_for(tmp_path):
    with pytest.raises(OSError, match="No such file") as error, replacing(tmp_path / "a.txt"):
        pass  # nothing was written
    assert error.value.filename == str(tmp_path / "a.txt")


def test_only_leftovers_of_dead_processes_are_removed(tmp_path):
    ours = [f".a.npz.{DEAD}.razh-part", f".b.{DEAD}.razh-part"]
    others = [f".a.{os.getpid()}.razh-part", ".a.7.part", "a.razh-part", ".x.razh-part", f"sub/.a.{DEAD}.razh-part"]
    (tmp_path / "sub").mkdir()
    for name in (*ours, *others):
        (tmp_path / name).write_text("")
    (tmp_path / f".link.{DEAD}.razh-part").symlink_to(tmp_path / "sub")
    remove_leftovers(tmp_path, "a.npz")
    assert [(tmp_path / name).exists() for name in ours] == [False, True]
    remove_leftovers(tmp_path)
    remove_leftovers(tmp_path / "none")
    assert not (tmp_path / ours[1]).exists()
    assert all(os.path.lexists(tmp_path / name) for name in (*others, f".link.{DEAD}.razh-part"))


def test_a_tilde_is_the_home_folder_wherever_a_word_or_its_value_begins_with_it(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    words = ["~/a", "--out=~/a", "~", "--x=~", "--data.root=~/b:key", "a~b", "--x=a~", "--~", "c/~x", "k=~/a"]
    assert [expand_home(word) for word in words] == [
        "/home/me/a", "--out=/home/me/a", "/home/me", "--x=/home/me", "--data.root=/home/me/b:key", "a~b", "--x=a~",
        "--~", "c/~x", "k=~/a",
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["", " "])
def test_an_empty_path_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match="is a variable not set"):
        given_path(text)


def header(shape, dtype="'<f8'"):
    text = f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (header("(5000000000, 500)"), "20000000000000 bytes, but has 16"),
        (header("(3,)"), "24 bytes, but has 16"),
        (header("(1,)"), "8 bytes, but has 16"),
        (header("(2,)", "'|O'"), "Python objects"),
        (header("(2,"), "[Hh]eader|EOF"),
        (b"\x93NUMPY\x09\x09", "version"),
        (b"", "zip file|magic"),
    ],
)
@pytest.mark.parametrize("packed", [True, False])
def test_arrays_that_are_not_what_they_say_are_refused_by_their_headers(tmp_path, content, message, packed):
    path = tmp_path / "a"
    path.write_bytes(content + bytes(16))
    if packed:
        with zipfile.ZipFile(tmp_path / "b", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.write(path, "codes.npy")
        path = tmp_path / "b"
    with pytest.raises(ValueError, match=message) as error:
        ArrayFile(path)
    assert "\n" not in str(error.value)


def test_no_more_is_read_than_memory_has_room_for_and_changes_are_found(tmp_path, monkeypatch):
    np.savez(tmp_path / "a.npz", codes=np.arange(1000))
    with ArrayFile(tmp_path / "a.npz") as file:
        assert file.headers["codes"].shape == (1000,)
        assert file.read("codes").sum() == 499_500
        monkeypatch.setattr(files, "free_memory", lambda: 7_999)
        with pytest.raises(ValueError, match=r"codes takes 0\.0 GB of memory"):
            file.read("codes")
    monkeypatch.undo()
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[4000] ^= 1
    (tmp_path / "a.npz").write_bytes(content)
    with ArrayFile(tmp_path / "a.npz") as file, pytest.raises(ValueError, match="CRC"):
        file.read("codes")
