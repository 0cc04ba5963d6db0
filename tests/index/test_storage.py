"""What an archive's files are after a kill at any moment, a second writer, damage, and readers beside a writer."""

import os
import signal

import numpy as np
import pytest

from razh.index import storage
from razh.index.storage import Manifest, StorageWriter, check_files, map_files


def content(folder):
    _, files = map_files(folder)
    return {kind: bytes(array) for kind, array in files.items()}


def killed_after(calls, work):
    """Do some work in a process that is killed at so many calls that change the disk."""
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    left = [calls]

    def dies(real):
        def call(*arguments, **options):
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1
            return real(*arguments, **options)

        return call

    for name in ("fsync", "replace", "truncate", "unlink"):
        setattr(os, name, dies(getattr(os, name)))
    try:
        work()
    finally:
        os._exit(0)


@pytest.fixture
def folder(tmp_path):
    with StorageWriter(tmp_path / "a", {"bits": 8}) as writer:
        writer.append({"codes": b"abc"})
        writer.append({"paths": b"x"})
        writer.commit()
    return tmp_path / "a"


def test_what_was_committed_is_there_and_nothing_else(folder):
    with StorageWriter(folder) as writer:
        writer.append({"codes": b"def"})
        writer.append({"codes": b"g"})
        assert content(folder) == {"codes": b"abc", "paths": b"x"}
        writer.commit()
        assert content(folder) == {"codes": b"abcdefg", "paths": b"x"}
        writer.put("codes", [b"1", b"23"])
        writer.append({"codes": b"4"})
        writer.drop("paths")
        writer.commit()
        writer.append({"codes": b"never acknowledged"})
    assert content(folder) == {"codes": b"1234"}
    assert check_files(folder) == []


@pytest.mark.parametrize("calls", range(9))
def test_a_kill_at_any_moment_leaves_one_state_or_the_other(calls, folder, tmp_path):
    before, after = {"codes": b"abc", "paths": b"x"}, {"codes": b"abcd", "paths": b"new"}
    acknowledged = tmp_path / "acknowledged"

    def work():
        with StorageWriter(folder) as writer:
            writer.append({"codes": b"d"})
            writer.put("paths", [b"new"])
            writer.commit()
            acknowledged.touch()

    killed_after(calls, work)
    assert content(folder) in ([after] if acknowledged.exists() else [before, after])
    with StorageWriter(folder) as writer:  # the lock went with the process
        state = content(folder)
        writer.append({"codes": b"!"})
        writer.commit()
    assert content(folder) == {**state, "codes": state["codes"] + b"!"}
    assert check_files(folder) == []
    kept = {one.name for one in Manifest.read(folder).files.values()}
    assert {path.name for path in folder.glob("*.bin")} == kept


def test_the_tail_of_a_killed_writer_does_not_count(folder):
    name = Manifest.read(folder).files["codes"].name
    with (folder / name).open("ab") as file:
        file.write(b"not acknowledged")
    (folder / "codes-99.bin").write_bytes(b"half a file")
    assert content(folder)["codes"] == b"abc"
    with StorageWriter(folder):
        assert (folder / name).read_bytes() == b"abc"
        assert not (folder / "codes-99.bin").exists()


def test_the_second_writer_is_refused_and_readers_are_not(folder):
    with StorageWriter(folder):
        with pytest.raises(BlockingIOError, match=f"is being written by process {os.getpid()}; wait"):
            StorageWriter(folder)
        assert content(folder)["codes"] == b"abc"
    with StorageWriter(folder):
        pass


def test_readers_keep_what_they_have_opened(folder):
    _, files = map_files(folder)
    with StorageWriter(folder) as writer:
        for _ in range(3):
            writer.append({"codes": b"more"})
            writer.put("paths", [b"other"])
            writer.commit()
    assert bytes(files["codes"]) == b"abc"
    assert bytes(files["paths"]) == b"x"


def test_a_reader_whose_files_are_replaced_meanwhile_reads_the_new_state(folder, monkeypatch):
    read, states = Manifest.read, []

    def replaced_after_the_first(path):
        states.append(read(path))
        if len(states) == 1:
            monkeypatch.setattr(Manifest, "read", read)
            with StorageWriter(folder) as writer:
                writer.put("codes", [b"new"])
                writer.commit()
        return states[-1]

    monkeypatch.setattr(Manifest, "read", replaced_after_the_first)
    assert content(folder)["codes"] == b"new"


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda path: path.write_bytes(b"ab"), "has 2 of its 3 bytes"),
        (lambda path: path.unlink(), "is missing"),
    ],
)
def test_what_is_missing_is_one_line(damage, told, folder):
    damage(folder / Manifest.read(folder).files["codes"].name)
    with pytest.raises(ValueError, match=rf"archive .*codes-\d+.bin {told}; make the archive again"):
        map_files(folder)
    assert len(check_files(folder)) == 1
    with pytest.raises(ValueError, match="missing or cut short"):
        StorageWriter(folder)


def test_a_changed_byte_is_found(folder):
    (folder / Manifest.read(folder).files["codes"].name).write_bytes(b"abd")
    assert check_files(folder) == ["codes-1.bin does not match its checksum"]


def test_manifests_that_cannot_be_read_are_one_line(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no archive at .*nowhere; make one with `razh index"):
        map_files(tmp_path / "nowhere")
    manifest = folder / storage.MANIFEST
    text = manifest.read_text()
    for content_, told in (
        ("{", "is damaged"),
        ("[]", "is damaged"),
        (text.replace('"version": 1', '"version": 9'), "has version 9, this razh reads 1; upgrade"),
    ):
        manifest.write_text(content_)
        with pytest.raises(ValueError, match=told):
            map_files(folder)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    with pytest.raises(ValueError, match="is there and no archive"):
        StorageWriter(tmp_path / "full", {})


def test_an_empty_file_is_an_empty_array(folder):
    with StorageWriter(folder) as writer:
        writer.put("codes", [])
        writer.commit()
    _, files = map_files(folder)
    assert files["codes"].dtype == np.uint8
    assert not len(files["codes"])
