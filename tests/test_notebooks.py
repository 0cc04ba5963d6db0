"""The notebook runs, cell by cell, on fewer images; and it is small and without outputs."""

import json
from pathlib import Path

import matplotlib as mpl
import pytest

NOTEBOOK = Path(__file__).parents[1] / "docs" / "notebooks" / "creatures.ipynb"


def cells():
    return [cell for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]


def test_it_is_small_and_has_no_outputs():
    assert NOTEBOOK.stat().st_size <= 15_000
    assert not [cell for cell in cells() if cell["outputs"] or cell["execution_count"]]


@pytest.mark.slow
def test_every_cell_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    mpl.use("agg")
    space = {"__name__": "notebook"}
    for cell in cells():
        source = "".join(cell["source"]).replace("PER_CLASS, EPOCHS = 24, 8", "PER_CLASS, EPOCHS = 6, 1")
        exec(compile(source, NOTEBOOK.name, "exec"), space)  # cells are the project's own
    assert space["PER_CLASS"] == 6
    assert len(space["archive"]) == 6 * 28
    assert len(space["by_code"]) == len(space["by_logits"]) == len(space["in_words"]) == 6
    assert space["codes"].shape == (2, 8)
    assert "head colour: red" in space["understood"]
    assert space["unknown"] == ["creature"]
    assert space["status"] in (0, 5)
