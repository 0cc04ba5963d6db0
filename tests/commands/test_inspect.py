import json
import os
from pathlib import Path

import pytest
import torch

from razh.cli.main import main
from razh.run.checkpoint import SCHEMA


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return the folder of a small finished run."""
    folder = tmp_path_factory.mktemp("inspect") / "run"
    small = ["--data.seen_classes=6", "--data.unseen_classes=3", "--data.images_per_class=8"]
    small += ["--data.image_size=32", "--data.batch_size=8", "--trainer.max_epochs=1", "--trainer.accelerator=cpu"]
    quiet = ["--figures.enabled=false", "--measures.enabled=false", "--trainer.enable_progress_bar=false"]
    assert main(["train", "--method=ce", "--bits=12", *small, *quiet, f"--run_dir={folder}"]) == 0
    return folder


def test_shows_what_the_checkpoint_is(run, capsys):
    assert main(["inspect", str(run / "checkpoints/best.ckpt")]) == 0
    shown = capsys.readouterr().out
    for word in ("razh.methods.ce.CE", "bits: 12", "synthetic", "test_efficientnet", "with 1 process", "9: "):
        assert word in shown, word
    split = json.loads((run / "split.json").read_text())
    assert split["fingerprint"] in shown


def test_json_has_all_names(run, capsys):
    assert main(["inspect", "--json", str(run / "checkpoints/last.ckpt")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["schema"] == SCHEMA
    assert found["epoch"] == 0
    assert found["step"] == found["progress"]["images"] // 8
    assert len(found["class_names"]) == 9
    assert len(found["attribute_names"]) == 90
    assert found["split_protocol"] == "ps"
    state = torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert found["values"] == sum(v.numel() for v in state.values())


def test_bomb_does_not_go_off_anywhere(run, tmp_path, capsys):
    """Neither looking at a checkpoint, nor testing, training on or encoding with it runs what is in it."""
    content = torch.load(run / "checkpoints/best.ckpt", weights_only=True)
    mark, bomb = tmp_path / "mark", tmp_path / "bomb.ckpt"
    torch.save(content | {"extra": Bomb(mark)}, bomb)
    config, image = f"--config={run / 'config.yaml'}", tmp_path / "a.png"
    image.write_bytes(b"")
    for command in (
        ["inspect", str(bomb)],
        ["test", config, f"--ckpt_path={bomb}", f"--run_dir={tmp_path / 'test'}"],
        ["train", config, f"--ckpt_path={bomb}", f"--run_dir={tmp_path / 'train'}"],
        ["encode", str(image), "--checkpoint", str(bomb)],
    ):
        assert main(command) == 1
        assert "unsafe code" in capsys.readouterr().err
    assert not mark.exists()
    torch.load(bomb, weights_only=False)  # it would have gone off
    assert mark.exists()


@pytest.mark.parametrize("kept", [0, 100, -1])
def test_damaged_file_is_one_line(run, tmp_path, capsys, kept):
    whole = (run / "checkpoints/best.ckpt").read_bytes()
    (tmp_path / "a.ckpt").write_bytes(whole[:kept])
    assert main(["inspect", str(tmp_path / "a.ckpt")]) == 1
    error = capsys.readouterr().err
    assert "cannot be read" in error
    assert len(error.strip().splitlines()) == 1


def test_file_that_is_not_there(capsys):
    assert main(["inspect", f"nowhere{os.sep}a.ckpt"]) == 1
    assert "no checkpoint at" in capsys.readouterr().err
