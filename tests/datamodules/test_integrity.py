import logging
import os
import sqlite3
from concurrent.futures import ThreadPoolExecutor

import pytest

from razh.datamodules.files import integrity
from razh.datamodules.files.integrity import cache_folder, check_images
from razh.datamodules.images import MAX_MEGAPIXELS
from tests.fake import write_image

NAMES = [f"{number}.jpg" for number in range(5)]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(integrity, "_SETTLED", -1.0)  # files of the test are never too new
    for seed, name in enumerate(NAMES):
        write_image(tmp_path / "photos" / name, seed)
    return tmp_path / "photos"


@pytest.fixture
def decoded(monkeypatch):
    """Return the list of names of images that are decoded."""
    names, image_problem = [], integrity.image_problem

    def noting(path, limit):
        names.append(path.name)
        return image_problem(path, limit)

    monkeypatch.setattr(integrity, "image_problem", noting)
    return names


def check(folder, names=NAMES, limit=MAX_MEGAPIXELS):
    return check_images(folder, names, limit)


def test_damaged_and_missing_images_are_told_from_good_ones(folder):
    (folder / "1.jpg").write_bytes((folder / "1.jpg").read_bytes()[:300])
    (folder / "2.jpg").unlink()
    (folder / "3.jpg").unlink()
    (folder / "3.jpg").mkdir()
    found = check(folder)
    assert [image.there for image in found] == [True, True, False, False, True]
    assert [bool(image.problem) for image in found] == [False, True, True, True, False]
    assert [len(image.signature) for image in found] == [64, 0, 0, 0, 64]
    assert all("\n" not in image.problem and str(folder / name) in image.problem for image, name in
               zip(found[1:4], NAMES[1:4], strict=True))  # fmt: skip


@pytest.mark.parametrize("kind", ["fifo", "device", "dangling"])
def test_what_is_no_plain_file_is_not_opened(folder, kind):
    (folder / "0.jpg").unlink()
    if kind == "fifo":
        os.mkfifo(folder / "0.jpg")
    else:
        (folder / "0.jpg").symlink_to("/dev/zero" if kind == "device" else "nowhere.jpg")
    assert not check(folder)[0].there


def test_good_images_are_decoded_once(folder, decoded):
    first = check(folder)
    assert sorted(decoded) == NAMES
    decoded.clear()
    assert check(folder) == first
    assert decoded == []


def test_what_changed_is_decoded_again(folder, decoded):
    first = check(folder)
    decoded.clear()
    write_image(folder / "1.jpg", seed=50)
    os.utime(folder / "2.jpg", (1, 1))
    before = (folder / "3.jpg").stat()
    content = bytearray((folder / "3.jpg").read_bytes())
    content[-3] ^= 1  # a picture of the same size
    (folder / "3.jpg").write_bytes(content)
    os.utime(folder / "3.jpg", ns=(before.st_atime_ns, before.st_mtime_ns))  # and of the same time
    again = check(folder)
    assert sorted(decoded) == ["1.jpg", "2.jpg", "3.jpg"]
    assert [a.signature == b.signature for a, b in zip(first, again, strict=True)] == [True, False, True, False, True]


def test_damaged_images_are_tried_at_each_start(folder, decoded):
    (folder / "1.jpg").write_bytes(b"no image")
    check(folder)
    decoded.clear()
    assert check(folder)[1].problem
    assert decoded == ["1.jpg"]


def test_a_file_that_may_still_change_unseen_is_not_remembered(folder, decoded, monkeypatch):
    monkeypatch.setattr(integrity, "_SETTLED", 3600.0)
    check(folder)
    check(folder)
    assert len(decoded) == 10


def test_another_limit_judges_anew(folder):
    assert not check(folder)[0].problem
    assert "megapixels" in check(folder, limit=0.001)[0].problem
    assert not check(folder)[0].problem


def test_what_a_stopped_check_learnt_is_kept(folder, decoded, monkeypatch):
    monkeypatch.setattr(integrity, "_AT_ONCE", 1)
    learnt, examine = [], integrity._examine

    def stopping(path, limit):
        if path.name == "3.jpg":
            raise KeyboardInterrupt
        learnt.append(path.name)
        return examine(path, limit)

    with monkeypatch.context() as patch:
        patch.setattr(integrity, "_examine", stopping)
        with pytest.raises(KeyboardInterrupt):
            check(folder)
    decoded.clear()
    check(folder)
    assert {"3.jpg"} <= set(decoded) <= set(NAMES) - {"0.jpg", "1.jpg", "2.jpg"}


def test_processes_that_ask_at_once_share_one_check(folder, decoded):
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda _: check(folder), range(3)))
    assert sorted(decoded) == NAMES
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("content", [b"no data base at all", None])
def test_damaged_memory_is_begun_anew(folder, decoded, caplog, content):
    first = check(folder)
    (memory,) = (cache_folder() / "images").glob("*.sqlite")
    if content is None:  # its second half
        with memory.open("r+b") as file:
            file.seek(memory.stat().st_size // 2)
            file.write(b"\xff" * (memory.stat().st_size // 2))
    else:
        memory.write_bytes(content)
    decoded.clear()
    assert check(folder) == first
    assert sorted(decoded) == NAMES
    decoded.clear()
    assert check(folder) == first
    assert decoded == []
    assert "WARNING" not in [record.levelname for record in caplog.records]


def test_a_memory_that_cannot_be_written_is_one_line(folder, caplog, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RAZH_CACHE", str(tmp_path / "file"))
    assert len(check(folder)) == 5
    (record,) = (r for r in caplog.records if r.levelname == "WARNING")
    assert record.levelno == logging.WARNING
    assert "set RAZH_CACHE" in record.getMessage()


def test_a_full_disk_does_not_end_a_run(folder, caplog, monkeypatch):
    def full(memory):
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(integrity, "_open", full)
    assert not any(image.problem for image in check(folder))
    assert "disk is full" in caplog.text


def test_names_that_are_not_utf8_are_remembered(folder, decoded):
    name = os.fsdecode(b"caf\xe9.jpg")
    (folder / "0.jpg").rename(folder / name)
    check(folder, [name])
    check(folder, [name])
    assert len(decoded) == 1


def test_no_images_are_no_work(tmp_path):
    assert check_images(tmp_path, [], MAX_MEGAPIXELS) == []
