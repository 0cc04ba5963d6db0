"""The walk that finds images for all commands: what it takes, what it passes over, and what it says."""

import logging
import os
import sys
import types

import pytest
from PIL import Image

from razh.datamodules.files import walk as walk_module
from razh.datamodules.files.walk import Walk, formats, printable, suffixes


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_images_are_listed_in_order_with_or_without_what_lies_below(tmp_path):
    touch(tmp_path, "b/2.JPG", "b/1.png", "b/notes.txt", "b/._1.png", "a/c/3.jpeg")
    walk = Walk()
    assert walk.images(tmp_path) == ["a/c/3.jpeg", "b/1.png", "b/2.JPG"]
    assert walk.images(tmp_path / "b", below=False) == ["1.png", "2.JPG"]
    assert walk.images(tmp_path / "absent") == []
    assert walk.left_out == []
    assert walk.images(tmp_path / "a", below=False) == []
    assert walk.left_out == [f"folder {tmp_path / 'a/c'} is not searched; move its images up"]


def test_hidden_and_system_folders_are_passed_over_unless_they_are_named(tmp_path):
    hidden = [".ipynb_checkpoints", ".Trash-1000/files", "@eaDir", "#recycle", "$RECYCLE.BIN", "__MACOSX", "lost+found"]
    touch(tmp_path, "a.jpg", *(f"{folder}/b.jpg" for folder in hidden), "System Volume Information/c.jpg", "Thumbs.db")
    walk = Walk()
    assert walk.images(tmp_path) == ["a.jpg"]
    assert not walk.kinds
    assert walk.images(tmp_path / "@eaDir") == ["b.jpg"]
    assert walk.images(tmp_path / ".Trash-1000") == ["files/b.jpg"]


def test_a_folder_is_a_folder_whatever_its_name(tmp_path):
    touch(tmp_path, "a.jpg/b.png")
    assert Walk().images(tmp_path) == ["a.jpg/b.png"]


def test_linked_folders_are_searched_once_and_circles_end(tmp_path):
    touch(tmp_path, "photos/real/1.jpg", "elsewhere/2.jpg")
    photos = tmp_path / "photos"
    (photos / "again").symlink_to("real")  # by its name before the folder that it leads to
    (photos / "real" / "up").symlink_to("..")
    (photos / "other").symlink_to("../elsewhere")
    (photos / "another").symlink_to("../elsewhere")
    (photos / "circle.jpg").symlink_to("circle.jpg")
    assert Walk().images(photos) == ["another/2.jpg", "circle.jpg", "real/1.jpg"]


def test_links_to_nothing_and_pipes_are_left_to_the_reader(tmp_path):
    (tmp_path / "gone.jpg").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe.jpg")
    assert Walk().images(tmp_path) == ["gone.jpg", "pipe.jpg"]


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    touch(tmp_path, "a/1.jpg", "b/2.jpg")
    scan = os.scandir

    def refuses(place):
        if place.name == "a":
            raise PermissionError(13, "Permission denied")
        return scan(place)

    monkeypatch.setattr(os, "scandir", refuses)
    walk = Walk()
    assert walk.images(tmp_path) == ["b/2.jpg"]
    assert walk.unreadable == [f"folder {tmp_path / 'a'} cannot be read (Permission denied)"]


def test_names_that_are_not_utf8_are_left_out_by_name(tmp_path):
    touch(tmp_path, "a.jpg", os.fsdecode(b"caf\xe9.jpg"))
    walk = Walk()
    assert walk.images(tmp_path) == ["a.jpg"]
    assert walk.left_out == [
        rf"image file {tmp_path}/caf\udce9.jpg has a name that is not UTF-8; rename it",
    ]


def test_other_kinds_are_counted_in_one_line(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(walk_module, "suffixes", lambda: frozenset({".jpg"}))
    touch(tmp_path, "a.jpg", "1.mov", "2.MOV", "b.heic", "sub/README")
    walk = Walk()
    walk.images(tmp_path)
    with caplog.at_level(logging.INFO, "razh.datamodules"):
        walk.report("photos")
    assert caplog.messages == [
        "photos: 4 files of other kinds passed over: .mov 2, .heic 1, no suffix 1; install pillow-heif to read .heic"
    ]


def test_names_are_escaped_for_printing():
    assert printable("plain é \\ '.jpg") == "plain é \\ '.jpg"
    assert printable("a\nb\x1b[31m.jpg") == r"a\nb\x1b[31m.jpg"
    assert printable(os.fsdecode(b"\xff.jpg")) == r"\udcff.jpg"


def test_suffixes_are_those_of_pictures_that_can_be_decoded():
    assert {".jpg", ".jpeg", ".jfif", ".jpe", ".mpo", ".png", ".webp", ".gif", ".bmp", ".tif", ".jp2"} <= suffixes()
    assert (".avif" in suffixes()) == ("AVIF" in Image.OPEN)
    assert not {".eps", ".ps", ".pdf", ".wmf", ".emf", ".mpg", ".h5", ".grib", ".fits", ".bufr", ".txt"} & suffixes()


def test_heif_is_read_where_its_plugin_is(monkeypatch):
    plugin = types.ModuleType("pillow_heif")
    plugin.register_heif_opener = lambda: monkeypatch.setitem(Image.OPEN, "HEIF", (None, lambda prefix: False))
    monkeypatch.setitem(sys.modules, "pillow_heif", plugin)
    formats.cache_clear()
    try:
        assert "HEIF" in formats()
    finally:
        formats.cache_clear()


@pytest.mark.parametrize(("names", "words"), [(["a.txt"], "1 file of"), (["a.txt", "b.txt"], "2 files of")])
def test_counts_have_a_singular(names, words, tmp_path):
    touch(tmp_path, *names)
    walk = Walk()
    walk.images(tmp_path)
    assert walk.others().startswith(words)
