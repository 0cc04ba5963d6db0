"""What is done stays done, failures are seen, and nothing is computed twice."""

import csv
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter

import pytest
from filelock import FileLock

from tests.benchmark import fake


def cells_csv(out):
    with (out / "cells.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_grid_is_computed_once_and_its_tables_are_written(benchmark, starts, tmp_path, caplog):
    assert benchmark("--jobs=2") == 0
    out = tmp_path / "out"
    rows = cells_csv(out)
    assert [row["status"] for row in rows] == ["done"] * 8
    assert len({(r["label"], r["protocol"], r["bits"], r["seed"]) for r in rows}) == 8
    row = rows[0]
    metrics = json.loads((out / row["folder"] / "metrics.json").read_text())
    assert float(row["test/unseen/map"]) == metrics["test/unseen/map"]
    assert row["split/fingerprint"] == "f" * 64
    assert len(row["config_hash"]) == 64
    assert float(row["cost/wall_seconds"]) > 0
    assert {p.name for p in out.iterdir()} >= {"cells.csv", "tables.md", "tables.tex", "plan.json"}
    assert "[8/8]" in caplog.text
    assert "left" in caplog.text
    before = starts()
    assert len(before) == 8
    assert benchmark("--jobs=2") == 0
    assert starts() == before


def test_more_of_the_grid_later_joins_the_same_tables(benchmark, starts, tmp_path):
    assert benchmark("--methods=itq", "--bits=8") == 0
    assert len(cells_csv(tmp_path / "out")) == 2
    assert benchmark("--methods=ce", "--bits=8") == 0
    assert Counter(row["label"] for row in cells_csv(tmp_path / "out")) == {"itq": 2, "ce": 2}
    assert len(starts()) == 4


def test_killed_outright_nothing_lives_on_and_nothing_is_computed_twice(benchmark, starts, tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_SLEEP", "60")
    monkeypatch.setenv("FAKE_SLEEPER", "1")  # the four cells of the first seed take no time
    code = "from razh.commands.benchmark import run; from tests.benchmark import fake; "
    code += f"run(['smoke', '--jobs=2', '--out={tmp_path / 'out'}'], 'benchmark', 'smoke', program=fake.run)"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=fake.ROOT, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 50
    while len(starts()) < 6:
        assert time.monotonic() < deadline, "no cell was computed"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    started = starts()
    while any(_alive(int(line.split()[-1])) for line in started):
        assert time.monotonic() < deadline, "a child lives on"
        time.sleep(0.02)
    done = {str(path.parent) for path in (tmp_path / "out").rglob("metrics.json")}
    assert len(done) == 4
    monkeypatch.setenv("FAKE_SLEEP", "0")
    assert benchmark("--jobs=2") == 0
    again = starts()[len(started) :]
    assert not {line.split()[1] for line in again} & done
    assert len(again) == 4
    assert [row["status"] for row in cells_csv(tmp_path / "out")] == ["done"] * 8


def _alive(process):
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_ctrl_c_stops_the_children_and_says_how_to_go_on(benchmark, starts, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("FAKE_SLEEP", "30")

    def interrupt():
        deadline = time.monotonic() + 30
        while len(starts()) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    began = time.monotonic()
    assert benchmark("--jobs=2") == 130
    thread.join()
    assert time.monotonic() - began < 20
    assert "start the same command again" in caplog.text
    states = Counter(row["status"] for row in cells_csv(tmp_path / "out"))
    assert states == {"interrupted": 2, "missing": 6}


def test_a_failure_is_shown_recorded_and_stops_no_other(benchmark, starts, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("FAKE_FAIL", "ce")
    assert benchmark("--bits=8", "--jobs=2") == 1
    rows = cells_csv(tmp_path / "out")
    assert {(row["label"], row["status"]) for row in rows} == {("itq", "done"), ("ce", "failed")}
    failed = next(row for row in rows if row["status"] == "failed")
    assert failed["error"] == "this cannot work"
    assert "some words" in (tmp_path / "out" / failed["folder"] / "log.txt").read_text()
    assert "failed: this cannot work" in caplog.text
    assert "- ce, ps, 8 bits, seed 0: failed: this cannot work" in (tmp_path / "out" / "tables.md").read_text()
    monkeypatch.delenv("FAKE_FAIL")
    assert benchmark("--bits=8") == 0
    again = {row["config_hash"]: row for row in cells_csv(tmp_path / "out")}
    assert {row["status"] for row in again.values()} == {"done"}
    retried = again[failed["config_hash"]]
    assert retried["cost/attempts"] == "2"
    assert float(retried["cost/wall_seconds"]) > float(failed["cost/wall_seconds"])  # of both attempts
    assert len([line for line in starts() if "/itq/" in line]) == 2
    aside = tmp_path / "out" / "cells" / "ce" / "ps" / "8" / "seed0.failed1"
    assert "this cannot work" in (aside / "log.txt").read_text()


def test_a_process_that_was_killed_counts_as_failed_and_goes_on_in_its_folder(benchmark, tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_KILL", "itq")
    assert benchmark("--methods=itq", "--bits=8", "--seeds=0") == 1
    monkeypatch.delenv("FAKE_KILL")
    row = cells_csv(tmp_path / "out")[0]
    assert (row["status"], row["error"]) == ("interrupted", "killed by signal 9")
    assert benchmark("--methods=itq", "--bits=8", "--seeds=0") == 0
    assert (tmp_path / "out" / row["folder"] / "metrics.json").is_file()
    assert cells_csv(tmp_path / "out")[0]["cost/attempts"] == "2"


def test_a_cell_that_is_still_computed_elsewhere_is_waited_for(benchmark, starts, tmp_path, caplog):
    folder = tmp_path / "out" / "cells" / "itq" / "ps" / "8" / "seed0"
    from razh.benchmark.grid import grid_file, read_grid
    from razh.benchmark.jobs import train_job

    job = train_job(next(read_grid(grid_file("smoke")).cells()), tmp_path / "out")
    assert job.folder == folder
    folder.mkdir(parents=True)
    job.note(state="running")
    lock = FileLock(folder / ".lock", thread_local=False)
    lock.acquire()

    def finish():
        deadline = time.monotonic() + 30
        while "waiting for it" not in caplog.text and time.monotonic() < deadline:
            time.sleep(0.02)
        fake.leave_result(folder, "itq", 8, 0)
        lock.release()

    thread = threading.Thread(target=finish)
    thread.start()
    assert benchmark("--methods=itq", "--bits=8") == 0
    thread.join()
    assert "waiting for it" in caplog.text
    assert [line.split()[1].split("/")[-1] for line in starts()] == ["seed1"]


def test_two_benchmarks_in_one_folder_are_refused(benchmark, tmp_path):
    (tmp_path / "out").mkdir()
    with (
        FileLock(tmp_path / "out" / ".benchmark.lock"),
        pytest.raises(OSError, match="another benchmark works in out="),
    ):
        benchmark()


def test_other_settings_in_the_same_folder_are_refused(benchmark, starts):
    assert benchmark("--methods=itq", "--bits=8", "--seeds=0") == 0
    with pytest.raises(ValueError, match=r"options/trainer.max_epochs=1, this one has 7; pass another --out"):
        benchmark("--methods=ce", "--trainer.max_epochs=7")
    with pytest.raises(ValueError, match="--tune=0, this one has 3; pass another --out"):
        benchmark("--methods=ce", "--tune=3")
    assert len(starts()) == 1


def test_cores_and_gpus_are_shared_out_among_the_processes(benchmark, tmp_path, monkeypatch):
    monkeypatch.setattr("razh.benchmark.runner.cores", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert benchmark("--bits=8", "--jobs=2", "--gpus=3,5") == 0
    logs = [path.read_text() for path in (tmp_path / "out").rglob("log.txt")]
    assert all("threads 4 " in text for text in logs)
    assert {text.split("gpus ")[1].split()[0] for text in logs} == {"3", "5"}


def test_checkpoints_of_finished_cells_are_removed_unless_they_are_wanted(benchmark, tmp_path):
    for out, arguments, kept in (("a", [], False), ("b", ["--keep_checkpoints"], True)):
        folder = tmp_path / out / "cells" / "itq" / "ps" / "8" / "seed0" / "checkpoints"
        folder.mkdir(parents=True)
        (folder / "best.ckpt").write_text("")
        assert benchmark("--methods=itq", "--bits=8", "--seeds=0", *arguments, out=tmp_path / out) == 0
        assert (folder / "best.ckpt").exists() == kept


def test_a_dry_run_starts_nothing_and_counts_what_is_left(benchmark, starts, tmp_path, capsys):
    assert benchmark("--methods=itq", "--seeds=0") == 0
    assert benchmark("--dry_run") == 0
    assert "8 cells: 2 done, 6 missing" in capsys.readouterr().out
    assert benchmark("--dry_run", "--tune=3", out=tmp_path / "other") == 0
    assert "tuning first: 3 fits at 8 bits" in capsys.readouterr().out  # ITQ has nothing to search
    assert len(starts()) == 2
    assert not (tmp_path / "other").exists()
