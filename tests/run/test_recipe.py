import pytest
import yaml
from omegaconf import OmegaConf

from razh.run import recipe


def files(arguments):
    """Return the names of the configuration files in a command line, in order."""
    folder = recipe.experiments_folder()
    prefix = f"--config={folder}/"
    return [a.removeprefix(prefix).removesuffix(".yaml") for a in arguments if a.startswith(prefix)]


def test_defaults():
    arguments = recipe.expand([])
    assert files(arguments) == ["base", "data/synthetic", "method/razh", "backbone/tiny"]
    assert arguments[4:] == ["--dataset=synthetic", "--method=razh", "--backbone=tiny"]


def test_files_go_from_general_to_special_and_the_command_line_comes_last():
    arguments = recipe.expand(["--model.lr=0.5", "--method=ce", "--dataset=cub", "--backbone=lite0"])
    assert files(arguments) == ["base", "data/cub", "method/ce", "backbone/lite0"]
    assert arguments[-1] == "--model.lr=0.5"
    assert arguments.index("--method=ce") < arguments.index("--model.lr=0.5")


def test_a_file_of_the_user_comes_after_ours():
    arguments = recipe.expand(["--config=mine.yaml", "--method=ce"])
    assert files(arguments) == ["base", "data/synthetic", "method/ce", "backbone/tiny"]
    assert arguments[-1] == "--config=mine.yaml"


def test_later_files_win_over_earlier_ones():
    merged = OmegaConf.merge(*(OmegaConf.load(a[9:]) for a in recipe.expand(["--method=itq"]) if "--config=" in a))
    itq = yaml.safe_load(recipe.config_file("method", "itq").read_text())
    base = yaml.safe_load((recipe.experiments_folder() / "base.yaml").read_text())
    assert merged.trainer.max_epochs == itq["trainer"]["max_epochs"] != base["trainer"]["max_epochs"]
    assert merged.trainer.precision == base["trainer"]["precision"]


def test_dataset_chooses_its_backbone_unless_one_is_given():
    expected = yaml.safe_load(recipe.config_file("dataset", "cub").read_text())["backbone"]
    assert files(recipe.expand(["--dataset=cub"]))[-1] == f"backbone/{expected}"
    assert files(recipe.expand(["--dataset=cub", "--backbone="]))[-1] == f"backbone/{expected}"
    assert files(recipe.expand(["--dataset=cub", "--backbone=tiny"]))[-1] == "backbone/tiny"


@pytest.mark.parametrize(("alias", "key"), recipe.ALIASES.items())
def test_aliases_with_equals_sign_and_with_space(alias, key):
    assert recipe.expand([f"{alias}=7"])[-1] == f"{key}=7"
    assert recipe.expand([alias, "7"])[-1] == f"{key}=7"


def test_values_may_hold_equals_signs_and_spaces():
    assert recipe.expand(["--data_root=/a b/c=d"])[-1] == "--data.root=/a b/c=d"


@pytest.mark.parametrize("spelling", ["--data_root", "--data-root"])
def test_dashes_and_underscores_are_alike(spelling):
    assert recipe.expand([f"{spelling}=x"])[-1] == "--data.root=x"


def test_kinds_with_a_space():
    assert files(recipe.expand(["--dataset", "awa2", "--method", "ce", "--bits", "16"]))[1:3] == [
        "data/awa2", "method/ce",
    ]  # fmt: skip
    assert recipe.expand(["--bits", "16", "--model.lr", "0.1"])[-3:] == ["--model.bits=16", "--model.lr", "0.1"]


@pytest.mark.parametrize("given", [["--config=a.yaml"], ["--config", "a.yaml"], ["-c", "a.yaml"], ["-c=a.yaml"]])
def test_saved_configuration_is_left_as_it_is(given):
    assert recipe.expand([*given, "--bits=16"]) == [*given, "--model.bits=16"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset=cubb"], r"dataset='cubb' is unknown; did you mean 'cub'\? choose from .*cub.*synthetic"),
        (["--method=rahz"], r"method='rahz' is unknown; did you mean 'razh'\?"),
        (["--backbone=lite"], r"backbone='lite' is unknown; did you mean 'lite0'\?"),
        (["--method=zzz"], "method='zzz' is unknown; choose from adsh, agh, agnet"),
        (["--method="], "method='' is unknown"),
        (["--method"], "--method has no value; write --method=VALUE"),
        (["--bits=8", "--data-root"], "--data_root has no value"),
    ],
)
def test_unknown_names_are_answered_with_the_nearest(arguments, message):
    with pytest.raises(ValueError, match=message):
        recipe.expand(arguments)


def test_every_file_under_experiments_can_be_named():
    for kind, folder in recipe.FOLDERS.items():
        names = recipe.available(kind)
        assert names == sorted(path.stem for path in (recipe.experiments_folder() / folder).glob("*.yaml"))
        assert all(recipe.config_file(kind, name).is_file() for name in names)
        for name in names:
            assert yaml.safe_load(recipe.config_file(kind, name).read_text())[kind] == name


def test_every_dataset_names_a_backbone_that_exists():
    for name in recipe.available("dataset"):
        assert len(files(recipe.expand([f"--dataset={name}"]))) == 4


def test_profile_stands_for_the_profiler():
    assert recipe.expand(["--profile", "--bits=8"])[-2:] == [
        "--trainer.profiler=razh.run.profiler.RunProfiler",
        "--model.bits=8",
    ]


def test_a_command_line_can_be_expanded_again():
    """The launcher starts the other ranks with the expanded one."""
    once = recipe.expand(["--method=ce", "--backbone=test-vit"])
    again = recipe.expand(once)
    assert [a for a in again if a not in once] == []
    assert [name for name in files(again) if name.startswith("backbone")] == ["backbone/test-vit"] * 2


def test_a_file_of_ones_own_may_not_say_something_else(tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text("method: itq\nbackbone: tiny\n")
    with pytest.raises(ValueError, match=r"--method=ce contradicts method: itq of .*mine.yaml"):
        recipe.expand(["--method=ce", "--config", str(mine)])
    assert f"--config={mine}" in recipe.expand(["--method=itq", f"--config={mine}", "--backbone="])
    mine.write_text("a: [")
    assert f"--config={mine}" in recipe.expand(["--method=itq", f"--config={mine}"])  # the parser says what is wrong
