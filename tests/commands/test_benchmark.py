"""The command line of benchmarks: a real cell, and what is refused in one line."""

import csv
import json

import pytest
import yaml

from razh.cli.main import main
from tests.benchmark.fake import ROOT


@pytest.mark.slow
def test_a_real_cell_from_end_to_end(tmp_path):
    arguments = ["benchmark", "smoke", "--methods=itq", "--bits=8", "--seeds=0", f"--out={tmp_path / 'out'}"]
    assert main([*arguments, "--data.seen_classes=6", "--data.unseen_classes=3"]) == 0
    with (tmp_path / "out" / "cells.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    split = json.loads((tmp_path / "out" / row["folder"] / "split.json").read_text())
    assert row["split/fingerprint"] == split["fingerprint"]
    assert 0 < float(row["test/unseen/map"]) < 1
    assert float(row["time/total_seconds"]) <= float(row["cost/wall_seconds"])
    assert "| itq " in (tmp_path / "out" / "tables.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["benchmark", "quik"], "benchmark='quik' is unknown; did you mean 'quick'?"),
        (["benchmark", "smoke", "--methods=itk"], "method='itk' is unknown"),
        (["benchmark", "smoke", "--bits=8,x"], "--bits: '8,x' is refused; give whole numbers"),
        (["benchmark", "smoke", "--seeds="], "seeds is empty"),
        (["benchmark", "smoke", "--jobs=0"], "--jobs=0 must be a whole number from 1"),
        (["benchmark", "smoke", "--tune=-1"], "--tune=-1 must be"),
        (["benchmark", "smoke", "--foo=1"], "option --foo=1 is unknown"),
        (["benchmark", "smoke", "--dataset=cup"], "dataset='cup' is unknown; did you mean 'cub'?"),
        (["ablate", "--backbone=tinny"], "backbone='tinny' is unknown"),
        (["benchmark", "smoke", "--out=/dev/null/x"], "cannot write to out=/dev/null/x"),
    ],
)
def test_bad_input_is_one_line(arguments, words, capsys):
    assert main(arguments) == (2 if words.startswith(("--bits", "option")) else 1)
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert words in lines[0]


@pytest.mark.parametrize("command", ["benchmark", "ablate", "report"])
def test_help_says_what_there_is(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert "examples:" in text
    assert ("--tune" in text) == (command != "report")


def test_an_ablation_counts_its_cells(tmp_path, capsys):
    assert main(["ablate", "--dataset=cub", "--seeds=0,1", "--dry_run", f"--out={tmp_path / 'x'}"]) == 0
    text = capsys.readouterr().out
    assert "Ablation of RAZH: cub, vit-small" in text
    cells = 2 * len(yaml.safe_load((ROOT / "experiments/benchmark/ablation.yaml").read_text())["methods"])
    assert cells > 40
    assert f"{cells} cells: {cells} missing" in text
