import os
import shutil

import pytest

from razh.datamodules.files import survey
from razh.datamodules.files.survey import class_ids, image_problems, remarks
from tests.fake import write_folder, write_image


@pytest.fixture
def root(tmp_path):
    return write_folder(tmp_path / "mine", classes=4, images=2)


def look(root, **options):
    return survey.survey(root, root / "attributes.csv", **options)


def edit(root, *pairs):
    text = (root / "attributes.csv").read_text(encoding="utf-8")
    for old, new in pairs:
        text = text.replace(old, new)
    (root / "attributes.csv").write_text(text, encoding="utf-8")


def test_a_sound_folder(root):
    found = look(root)
    assert (found.problems, found.notes, image_problems(found), remarks(found)) == ((), (), [], [])
    assert found.images["kind 1"] == ["0.png", "1.png"]


def test_case_and_blanks_are_no_difference_where_one_folder_is_meant(root):
    edit(root, ("kind 0", "KIND  0"), ("kind 1", "Kind 1"))
    found = look(root)
    assert found.problems == ()
    assert found.folder_of["Kind 1"] == "kind 1"
    (note,) = found.notes
    assert note.endswith("than their folders are taken for them: 'KIND  0' = 'kind 0', 'Kind 1' = 'kind 1'")
    write_image(root / "KIND 1" / "0.png", 0)
    if len(list(root.iterdir())) == 6:  # a file system with one case has one folder
        assert len([line for line in look(root).problems if "'kind 1'" in line.casefold()]) == 3


def test_names_without_a_partner_get_a_guess(root):
    edit(root, ("kind 0", "kind_0"), ("kind 3", "other"))
    (root / "kind 3").rename(root / "más")
    problems = look(root).problems
    assert "folder 'kind 0' in" in problems[0]
    assert "(did you mean 'kind_0'?)" in problems[0]
    assert [("folder 'más'" in problems[1]), ("'other'" in problems[3]), len(problems)] == [True, True, 4]
    assert len(look(root, partial=True).problems) == 2


def test_a_table_of_other_names_is_one_problem(root):
    edit(root, *((f"kind {c}", f"type {c}") for c in range(4)))
    assert [line.partition(" (")[0] for line in look(root).problems] == [
        f"no row of {root / 'attributes.csv'} names a folder of {root}"
    ]
    (root / "attributes.csv").write_text("attribute,kind 0,kind 1,kind 2,kind 3\nred,1,0,1,0\n")
    assert "lies on its side" in look(root).problems[0]


def test_a_root_one_level_too_high_or_too_low_is_named(root, tmp_path):
    shutil.move(root, tmp_path / "photos" / "train")
    (line,) = look(tmp_path / "photos").problems
    assert f"but {tmp_path / 'photos' / 'train'} does (kind 0, …); give that one" in line
    (line,) = look(tmp_path / "photos" / "train" / "kind 0").problems
    assert "give its parent if it is one class" in line
    (tmp_path / "none").mkdir()
    assert "holds no images" in look(tmp_path / "none").problems[0]


def test_images_are_looked_at_by_their_headers(root):
    (root / "kind 0" / "0.png").write_bytes(b"no image")
    (root / "kind 1" / "0.png").write_bytes(b"")
    shutil.copy(root / "kind 2" / "0.png", root / "kind 3" / "copy.png")
    lines = image_problems(look(root))
    assert [line.rpartition("; ")[0].partition("mine/")[2] for line in lines] == [
        "kind 0/0.png begins like no image",
        "kind 1/0.png is empty",
        f"kind 2/0.png and {root / 'kind 3' / 'copy.png'} are one image in two classes",
    ]


def test_remarks(root):
    (root / "kind 0" / "0.png").unlink()
    (root / "kind 1" / "notes.txt").write_text("")
    write_image(root / "kind 1" / "more" / "0.png", 0)
    write_image(root / "stray.png", 0)
    write_image(root / "kind 1" / ".ipynb_checkpoints" / "0.png", 0)
    (root / "attributes.csv").write_text("class,a,b\n" + "".join(f"kind {c},1,{c}\n" for c in range(4)))
    assert remarks(look(root)) == [
        "folder 'kind 0' holds one image",
        f"folder {root / 'kind 1' / 'more'} is not searched; move its images up",
        "images beside the class folders are not taken: 1",
        "1 file of other kinds passed over: .txt 1",
        "attributes that are the same for all classes tell nothing: 'a'",
    ]


def test_a_folder_that_cannot_be_read_is_named(root, monkeypatch):
    scan = os.scandir

    def refuses(place):
        if place.name == "kind 1":
            raise PermissionError(13, "Permission denied")
        return scan(place)

    monkeypatch.setattr(os, "scandir", refuses)
    first = look(root).problems[0]
    assert first == f"folder {root / 'kind 1'} cannot be read (Permission denied); change its permissions"


def test_class_ids():
    assert class_ids(["Lion", "käfer"], ["bear", "lion", "Ka\u0308fer"]) == (1, 2)
    with pytest.raises(
        ValueError, match=r"names 'lien' \(did you mean 'lion'\?\), 'X' .*but the classes are x, x , lion"
    ):
        class_ids(["lien", "X"], ["x", "x ", "lion"])
