"""Trials are fits, validation decides, and every method gets as many."""

import csv
import json
from dataclasses import replace

import pytest

from razh.benchmark.grid import grid_file, read_grid
from razh.benchmark.tuning import best_validation, choose, draw_trials, space_of


@pytest.fixture
def grid():
    return read_grid(grid_file("smoke"))


def method(grid, label):
    return next(m for m in grid.methods if m.label == label)


def test_trials_start_with_the_defaults_and_are_the_same_at_every_start(grid, tmp_path):
    first, again = (draw_trials(grid, method(grid, "ce"), 4, tmp_path) for _ in range(2))
    assert [t.options for t in first] == [t.options for t in again]
    assert first[0].options == {}
    assert all(set(t.options) == set(space_of(grid, method(grid, "ce")).names) for t in first[1:])
    assert len({str(t.options) for t in first}) == 4
    more = draw_trials(grid, method(grid, "ce"), 6, tmp_path)
    assert [t.options for t in more[:4]] == [t.options for t in first]
    assert {job.command for t in first for job in t.jobs} == {"fit"}  # a fit never tests


def test_what_the_benchmark_fixes_is_not_searched(grid, tmp_path):
    fixed = method(grid, "ce")
    fixed.options["model.lr"] = 0.5
    assert "model.lr" not in space_of(grid, fixed).names
    assert space_of(grid, method(grid, "itq")) is None
    of_all = replace(grid, options={**grid.options, "model.lr": 0.5})
    trials = draw_trials(of_all, replace(fixed, options={}), 3, tmp_path)
    assert [trial.options.get("model.lr") for trial in trials] == [None] * 3
    assert all("--model.lr=0.5" in job.arguments for trial in trials for job in trial.jobs)
    assert draw_trials(grid, method(grid, "itq"), 4, None) == []


def test_the_best_epoch_counts_and_nan_does_not(tmp_path):
    (tmp_path / "m.csv").write_text("epoch,val/map\n0,0.3\n1,nan\n2,0.5\n3,\n4,0.4\n")
    assert best_validation(tmp_path / "m.csv") == 0.5
    (tmp_path / "m.csv").write_text("epoch,train/loss\n0,0.3\n")
    assert best_validation(tmp_path / "m.csv") is None


def leave(job, value):
    job.folder.mkdir(parents=True)
    job.note(state="done")
    (job.folder / "status.json").write_text('{"state": "finished"}')
    (job.folder / "metrics.csv").write_text(f"epoch,val/map\n0,{value}\n")
    # A test figure that would decide otherwise, if anything looked at it.
    (job.folder / "metrics.json").write_text(json.dumps({"test/unseen/map": 1 - value}))


def test_the_highest_validation_map_wins_whatever_a_test_would_say(grid, tmp_path):
    trials = draw_trials(grid, method(grid, "ce"), 4, tmp_path)
    for trial, value in zip(trials[:3], [0.4, 0.6, 0.5], strict=True):  # the last one has failed
        leave(trial.jobs[0], value)
    chosen = choose("ce", trials, tmp_path)
    assert chosen.options == trials[1].options
    assert (chosen.default, chosen.best, chosen.tried, chosen.problem) == (0.4, 0.6, 3, "")
    written = json.loads((tmp_path / "tuning" / "ce" / "trials.json").read_text())
    assert [trial["validation_map"] for trial in written["trials"]] == [0.4, 0.6, 0.5, None]
    assert (
        "none of 4 trials" in choose("ce", draw_trials(grid, method(grid, "ce"), 4, tmp_path / "no"), tmp_path).problem
    )


def test_a_tuned_benchmark_uses_the_choice_in_every_cell_and_says_on_what(benchmark, starts, tmp_path):
    assert benchmark("--tune=5", "--jobs=2", "--bits=8,16", "--seeds=3") == 0
    out = tmp_path / "out"
    trials = json.loads((out / "tuning" / "ce" / "trials.json").read_text())["trials"]
    # The stand-in's validation mAP is highest at a learning rate of 0.004.
    rates = [trial["options"].get("model.lr", 1e-3) for trial in trials]
    best = trials[min(range(5), key=lambda i: abs(rates[i] - 4e-3))]
    with (out / "cells.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        options = json.loads(row["options"])
        if row["label"] == "ce":
            assert options["model.lr"] == best["options"]["model.lr"]
            assert row["tuned_on"] == "validation classes of synthetic ps, 8 bits, seed 0, 5 trials"
        else:
            assert "model.lr" not in options
            assert row["tuned_on"] == "nothing to search"
    assert sum(line.startswith("fit ") for line in starts()) == 5
    assert sum(line.startswith("train ") for line in starts()) == 4
    assert f"lr={best['options']['model.lr']:.3g}" in (out / "tables.md").read_text()
    assert benchmark("--tune=5", "--bits=8,16", "--seeds=3") == 0
    assert len(starts()) == 9


def test_a_method_whose_trials_all_fail_is_left_out_and_the_status_says_so(benchmark, starts, monkeypatch, caplog):
    monkeypatch.setenv("FAKE_FAIL", "ce")
    assert benchmark("--tune=2", "--bits=8", "--seeds=0") == 1
    assert "ce cannot be tuned: none of 2 trials has a validation mAP" in caplog.text
    assert not [line for line in starts() if line.startswith("train") and "/ce/" in line]
