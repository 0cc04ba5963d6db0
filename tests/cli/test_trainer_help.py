"""The help of the trainer's commands says what the parser takes, without asking it."""

import importlib
import sys

import pytest
import yaml

from razh.cli import trainer_help
from razh.cli.parse_errors import parameters
from razh.cli.trainer_help import GROUPS, LINKS, TRAINER, _tree_options, class_options
from razh.run import recipe


def classes_of(value):
    """Yield the class paths in a configuration."""
    if isinstance(value, dict):
        if "class_path" in value:
            yield value["class_path"]
        for inner in value.values():
            yield from classes_of(inner)


def every_class():
    files = recipe.experiments_folder().rglob("*.yaml")
    found = {path for file in files for path in classes_of(yaml.safe_load(file.read_text(encoding="utf-8")))}
    return sorted(found | set(GROUPS.values()))


@pytest.mark.parametrize("path", every_class())
def test_the_sources_say_what_the_constructors_take(path):
    found = class_options(path)
    assert list(found)
    taken = parameters(path)
    assert set(found) == {name.partition(".")[0] for name in taken}
    told = {option.name for option in _tree_options(path, {}, "model")}
    assert {f"model.{name}" for name in taken if "." in name} <= told
    untold = [name for name, option in found.items() if not option.text]
    assert not untold


def test_lightning_is_read_through_its_own_imports():
    found = class_options(TRAINER)
    assert set(found) == set(parameters(TRAINER))
    assert found["max_epochs"].text.startswith("Stop training once")


def test_a_choice_shows_its_own_options_and_defaults(monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    shown = trainer_help.trainer_help("train", "about it", ["--dataset=cub", "--method=itq", "--backbone=lite0"])
    for option in ("dataset=NAME", "bits=L", "data_root=DIR", "weights=FILE", "run_dir=DIR", "print_config"):
        assert f"  --{option} " in shown
    for option in ("data.split_file", "model.bits", "trainer.max_epochs", "cache.directory", "figures.enabled"):
        assert f"  --{option} " in shown
    assert "--model.backbone.split        number of blocks or stages that belong to `embed`. (6)" in shown
    assert "--data.images_per_class" not in shown
    assert "--model.part_temperature" not in shown
    for target in LINKS:
        assert f"--{target.replace('.init_args', '')} " not in shown
    assert "Defaults are those of --dataset=cub --method=itq --backbone=lite0" in shown


def test_commands_that_need_a_checkpoint_say_so():
    shown = trainer_help.trainer_help("validate", "", [])
    assert "the checkpoint (required)" in " ".join(shown.split())
    assert "--resume" not in shown


def test_a_configuration_of_ones_own_is_shown(tmp_path):
    mine = tmp_path / "mine.yaml"
    model = {"class_path": "razh.methods.ce.CE", "init_args": {"bits": 24, "lr": 0.25}}
    mine.write_text(yaml.safe_dump({"model": model}))
    shown = trainer_help.trainer_help("fit", "", [f"--config={mine}"])
    assert "(0.25)" in shown
    assert "(24)" in shown
    with pytest.raises(ValueError, match="did you mean 'razh'"):
        trainer_help.trainer_help("fit", "", ["--method=rahz"])


def test_groups_of_options_are_opened(tmp_path, monkeypatch):
    (tmp_path / "grouped").mkdir()
    (tmp_path / "grouped" / "__init__.py").write_text("")
    (tmp_path / "grouped" / "parts.py").write_text(
        '''"""Doc."""
from dataclasses import dataclass


@dataclass(frozen=True)
class Parts:
    """Parts.

    Attributes:
        count: how many.
    """

    count: int = 8
    shape: str = "round"
    """How they look."""
'''
    )
    (tmp_path / "grouped" / "method.py").write_text(
        '''"""Doc."""
from grouped.parts import Parts


class Method:
    """A method."""

    def __init__(self, parts: Parts = Parts()) -> None:
        """Build it.

        Args:
            parts: of the image.
        """
'''
    )
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    found = list(trainer_help._tree_options("grouped.method.Method", {"parts": {"count": 3}}, "model"))
    assert [(o.name, o.default, o.text) for o in found] == [
        ("model.parts.count", "3", "how many."),
        ("model.parts.shape", "round", "How they look."),
    ]
    assert "grouped" not in sys.modules
