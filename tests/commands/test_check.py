import pytest

from razh.commands import check
from tests.fake import write_folder


@pytest.fixture
def root(tmp_path):
    return write_folder(tmp_path / "my photos")


def test_a_sound_folder_gets_the_next_line(root, capsys, monkeypatch):
    said = []
    monkeypatch.setattr(check, "suggest", lambda *words: said.extend(words))
    assert check.main([str(root), "--unseen_classes", "kind 1,Kind 2"]) == 0
    assert "5 classes, 20 images (4 to 4 a class, median 4), 3 attributes" in capsys.readouterr().out
    assert said == ["train", "--dataset=folder", f"--data_root={root}", "--data.unseen_classes=kind 1,Kind 2"]


def test_all_problems_are_listed(root, capsys):
    table = root / "attributes.csv"
    table.write_text(table.read_text().replace("kind 0", "Kind 0").replace("kind 4", "kin 4"))
    (root / "kind 1" / "0.png").write_bytes(b"no image")
    assert check.main([str(root), "--unseen_classes", "owl"]) == 1
    shown = capsys.readouterr().out
    assert shown.count("problem: ") == 4
    assert shown.count("note: ") == 1
    assert "4 problems in" in shown


def test_a_folder_without_a_table(root, capsys):
    (root / "attributes.csv").unlink()
    assert check.main([str(root)]) == 1
    assert "without a table `razh encode` works all the same" in capsys.readouterr().out
    assert check.main([str(root), "--write-template"]) == 0
    assert (root / "attributes.csv").read_text(encoding="utf-8-sig").splitlines()[:2] == [
        "class,first attribute",
        "kind 0,",
    ]
    with pytest.raises(FileExistsError, match=r"attributes.csv is there already, and stays"):
        check.main([str(root), "--write-template"])
