"""Trials are fits, validation decides, and every method gets as many."""

import csv
import json
from dataclasses import replace

from razh.benchmark.grid import grid_file, read_grid
from razh.benchmark.jobs import choose, draw_trials, search_space


def grid(trials=4, options=None):
    return read_grid(grid_file("smoke"), options, trials)


def method(name):
    return next(m for m in grid().methods if m.name == name)


def test_trials_start_with_the_defaults_and_are_the_same_at_every_start(tmp_path):
    first, again = (draw_trials(grid(), method("ce"), tmp_path) for _ in range(2))
    assert [t.options for t in first] == [t.options for t in again]
    assert first[0].options == {}
    assert all(set(t.options) == set(search_space(grid(), method("ce")).names) for t in first[1:])
    assert len({str(t.options) for t in first}) == 4
    more = draw_trials(grid(6), method("ce"), tmp_path)
    assert len(more) == 6
    assert [t.options for t in more[:4]] == [t.options for t in first]
    assert {trial.job.command for trial in first} == {"fit"}  # a fit never tests


def test_what_the_benchmark_fixes_is_not_searched(tmp_path):
    fixed = replace(method("ce"), options={"model.lr": 0.5})
    assert "model.lr" not in search_space(grid(), fixed).names
    assert search_space(grid(), method("itq")).names == []
    trials = draw_trials(grid(3, {"model.lr": 0.5}), method("ce"), tmp_path)
    assert [trial.options.get("model.lr") for trial in trials] == [None] * 3
    assert all("--model.lr=0.5" in trial.job.arguments for trial in trials)
    assert draw_trials(grid(), method("itq"), tmp_path) == []


def test_the_best_epoch_counts_and_nan_does_not(tmp_path):
    trial = draw_trials(grid(), method("ce"), tmp_path)[0]
    leave(trial.job, 0)
    (trial.job.folder / "metrics.csv").write_text("epoch,val/map\n0,0.3\n1,nan\n2,0.5\n3,\n4,0.4\n")
    assert trial.value() == 0.5
    (trial.job.folder / "metrics.csv").write_text("epoch,train/loss\n0,0.3\n")
    assert trial.value() is None


def leave(job, value):
    job.folder.mkdir(parents=True)
    job.note(state="done")
    (job.folder / "status.json").write_text('{"state": "finished"}')
    (job.folder / "metrics.csv").write_text(f"epoch,val/map\n0,{value}\n")
    # A test figure that would decide otherwise, if anything looked at it.
    (job.folder / "metrics.json").write_text(json.dumps({"test/unseen/map": 1 - value}))


def test_the_highest_validation_map_wins_whatever_a_test_would_say(tmp_path):
    trials = draw_trials(grid(), method("ce"), tmp_path)
    for trial, value in zip(trials[:3], [0.4, 0.6, 0.5], strict=True):  # the last one has failed
        leave(trial.job, value)
    chosen = choose("ce", trials, tmp_path)
    assert chosen == {"trial": 1, "validation_map": 0.6, "options": trials[1].options}
    written = json.loads((tmp_path / "tuning" / "ce" / "trials.json").read_text())
    assert [trial["validation_map"] for trial in written["trials"]] == [0.4, 0.6, 0.5, None]
    assert choose("ce", draw_trials(grid(), method("ce"), tmp_path / "no"), tmp_path) is None


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
