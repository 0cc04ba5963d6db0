"""What a user types behind `make` arrives in Python as typed, and no shell or make runs any of it."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HOSTILE = """it's; touch x `touch x` $(touch x) $(shell touch x) ${HOME} $HOME $$ "q" \\ %, # \u00e9 &| >x *"""
NAMES = (
    "VENV",
    "DATASET",
    "METHOD",
    "DATA_ROOT",
    "RUN_DIR",
    "NAME",
    "SWEEP",
    "RUN",
    "WEIGHTS",
    "JOBS",
    "LOGGER",
    "ARGS",
)
PASSED = {
    "setup": ["--venv={}"],
    "data": ["{}", "--root={}"],
    "train": [
        "--dataset={}",
        "--method={}",
        "--data_root={}",
        "--run_dir={}",
        "--weights={}",
        "--logger={}",
        "--args={}",
    ],
    "demo": ["--data_root={}", "--weights={}", "--args={}"],
    "sweep": ["{}", "--method={}", "--weights={}", "--args={}"],
    "tune": ["{}", "--dataset={}", "--method={}", "--args={}"],
    "test": ["--args={}"],
    "lint": ["--venv={}"],
    "docs": ["--args={}"],
    "format": ["--venv={}"],
    "benchmark": ["{}", "--dataset={}", "--jobs={}", "--args={}"],
    "ablate": ["{}", "--data_root={}", "--args={}"],
    "reproduce": ["{}", "--args={}"],
    "benchmark-retrieval": ["--args={}"],
    "benchmark-step": ["--args={}"],
    "benchmark-training": ["--args={}"],
    "benchmark-startup": ["--args={}"],
    "report": ["--args={}"],
}


@pytest.fixture
def make(tmp_path):
    """Return a function that runs a target with a program in Python's place that writes its arguments down."""
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    stub = tmp_path / "python stub"
    stub.write_text('#!/bin/sh\nprintf "%s\\0" "$@" >> "$NOTES"\n')
    stub.chmod(0o755)
    (tmp_path / "work").mkdir()
    notes = tmp_path / "notes"

    def run(*words, **environment):
        notes.unlink(missing_ok=True)
        subprocess.run(
            ["make", "-f", ROOT / "Makefile", f"PYTHON={stub}", *words],
            cwd=tmp_path / "work",
            env={"PATH": os.environ["PATH"], "NOTES": str(notes), **environment},
            check=True,
        )
        assert list((tmp_path / "work").iterdir()) == []  # nothing was run
        return notes.read_text(encoding="utf-8").split("\0")

    return run


@pytest.mark.parametrize("target", PASSED)
def test_values_arrive_as_typed(make, target):
    found = make(target, *(f"{name}={HOSTILE}" for name in NAMES))
    assert [word for word in PASSED[target] if word.format(HOSTILE) not in found] == []


def test_values_of_the_environment_and_those_of_several_lines_arrive_too(make):
    found = make("train", "DATA_ROOT=/data/$HOME x\ntouch x", METHOD="ce; touch x $(shell touch x)")
    assert "--data_root=/data/$HOME x\ntouch x" in found
    assert "--method=ce; touch x $(shell touch x)" in found


def test_what_is_not_given_is_not_passed(make):
    found = make("train", "DATA_ROOT=")
    given = [word for word in found[found.index("--") :] if word.startswith("--")]
    assert given == ["--", "--dataset=synthetic", "--method=razh", "--bits=64", "--seed=0"]
    assert not [word for word in make("benchmark") if word.startswith("--dataset")]
    assert not [word for word in make("tune") if word.startswith("--method")]
