"""`make demo`: what is missing is made, what is there is used again, and the server takes over."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from razh.datamodules.files.tables import read_class_table
from tools import demo


class Served(BaseException):
    """The process became the server."""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Return a function that runs the demo, of few small pictures, and returns the commands that it ran."""
    commands, statuses = [], {}
    for name, value in {"SEEN": 12, "UNSEEN": 2, "EACH": 4, "SHOWN": 3, "PICTURES": 2, "SIDE": 32}.items():
        monkeypatch.setattr(demo, name, value)

    def note(command, **_):
        commands.append(command[3:])
        if command[3] == "train":
            (tmp_path / "home/run").mkdir(parents=True)
            (tmp_path / "home/run/metrics.json").touch()
        if command[3] == "adapt" and not statuses.get("adapt"):
            Path(command[-1].removeprefix("--out=")).touch()
        return SimpleNamespace(returncode=statuses.get(command[3], 0))

    def become(_, command):
        commands.append(command[3:])
        raise Served

    monkeypatch.setattr(subprocess, "run", note)
    monkeypatch.setattr(os, "execv", become)

    def go(*options, **status):
        commands.clear()
        statuses.update(status)
        monkeypatch.setattr(sys, "argv", ["demo.py", f"--home={tmp_path / 'home'}", *options])
        with pytest.raises(Served):
            demo.main()
        return list(commands)

    return go


def test_creatures_are_trained_on_drawn_and_fitted_to_once(run, tmp_path):
    train, adapt, index, serve = run("--port=0")
    assert {"--dataset=synthetic", "--method=razh", "--data.seen_classes=12"} <= set(train)
    folder, archive = tmp_path / "home/creatures", tmp_path / "home/archive-adapted"
    trained, checkpoint = tmp_path / "home/run/checkpoints/best.ckpt", tmp_path / "home/adapted.ckpt"
    table = tmp_path / "home/unseen.csv"
    assert adapt == ["adapt", str(trained), str(folder), f"--describe={table}", f"--out={checkpoint}"]
    classes, attributes, values = read_class_table(table)
    assert (len(classes), len(attributes)) == (2, values.shape[1])
    assert set(classes) < {path.name for path in folder.iterdir()}
    assert index == ["index", str(folder), f"--checkpoint={checkpoint}", f"--out={archive}", "--prune"]
    assert serve == ["serve", str(archive), "--port=0"]
    pictures = sorted(folder.rglob("*.jpg"))
    assert len(pictures) == 5 * 2  # of three seen and both unseen classes
    assert Image.open(pictures[0]).size == (32, 32)
    assert [command[0] for command in run()] == ["index", "serve"]


def test_trained_codes_are_served_where_fitted_ones_bring_nothing(run, tmp_path):
    assert run(adapt=demo.STAYED)[-1][1] == str(tmp_path / "home/archive-best")


def test_photos_need_no_labels_and_are_fitted_to_once(run, tmp_path):
    (tmp_path / "my photos").mkdir()
    adapt, index, serve = run(f"--data_root={tmp_path / 'my photos'}", "--weights=lite0.safetensors", adapt=0)
    assert adapt[:3] == ["adapt", "--backbone=lite0-frozen", "--weights=lite0.safetensors"]
    assert index[1] == str(tmp_path / "my photos")
    assert "my photos-" in serve[1]
    again = run(f"--data_root={tmp_path / 'my photos'}", index=demo.LEFT_OUT)  # some cannot be read: no reason to stop
    assert [command[0] for command in again] == ["index", "serve"]


def test_what_fails_ends_it_with_its_status(run, tmp_path):
    with pytest.raises(SystemExit, match="1"):
        run(f"--data_root={tmp_path}", adapt=1)
    with pytest.raises(SystemExit, match="no folder; name one with photos"):
        run(f"--data_root={tmp_path / 'nowhere'}")
