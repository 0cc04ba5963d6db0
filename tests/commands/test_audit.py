import json
from pathlib import Path

import pytest

from razh.commands.audit import main

LISTS = Path(__file__).parents[2].parent / "shared" / "data" / "protocol_lists"


def write(tmp_path, **lists):
    arguments = []
    for name, items in lists.items():
        (tmp_path / f"{name}.txt").write_text("\n".join(items))
        arguments += [f"--{name}", str(tmp_path / f"{name}.txt")]
    return arguments


def test_a_clean_protocol_exits_with_zero(tmp_path, capsys):
    arguments = write(tmp_path, query=["u/1.jpg"], database=["u/2.jpg", "s/1.jpg"], train=["s/1.jpg"])
    assert main(arguments) == 0
    assert "no leak found" in capsys.readouterr().out


def test_a_leak_exits_with_four_and_is_written(tmp_path, capsys):
    arguments = write(tmp_path, query=["u/1.jpg", "u/2.jpg"], database=["u/2.jpg", "s/1.jpg"])
    assert main([*arguments, "--json", str(tmp_path / "a.json")]) == 4
    assert "1 of 2 queries (50%) are in the database" in capsys.readouterr().out
    assert json.loads((tmp_path / "a.json").read_text())["overlaps"] == {"query/database": 1}


def test_names_can_be_compared_without_folders(tmp_path):
    arguments = write(tmp_path, query=["test/1.jpg"], database=["db/1.jpg"])
    assert main(arguments) == 0
    assert main([*arguments, "--by-name"]) == main([*arguments, "--by_name"]) == 4


def test_a_missing_list_is_named(tmp_path):
    arguments = write(tmp_path, query=["a/1.jpg"])
    with pytest.raises(FileNotFoundError, match="no file at"):
        main([*arguments, "--database", str(tmp_path / "none.txt")])


@pytest.mark.shared
@pytest.mark.skipif(not LISTS.is_dir(), reason="../shared absent")
@pytest.mark.parametrize(("paper", "leaked"), [("COMAE", 736), ("PIXEL", 735)])
def test_the_published_cub_lists_leak(paper, leaked, capsys):
    arguments = [
        f"--{name}={LISTS}/{paper}_cub_{part}.txt.gz" for name, part in (("query", "test"), ("database", "database"))
    ]
    assert main(arguments) == 4
    assert f"{leaked} of 1500 queries" in capsys.readouterr().out
