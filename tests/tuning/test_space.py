import numpy as np
import pytest
import yaml

from razh.run.recipe import available, config_file, experiments_folder
from razh.tuning.space import NEEDS, SearchSpace, options

SPACE = {
    "model.lr": {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-1},
    "model.hash_init": {"values": ["itq", "random"]},
    "model.parts": {"min": 2, "max": 4},
    "model.scale": {"min": 1.0, "max": 3.0},
    "model.bits": {"distribution": "q_uniform", "min": 16, "max": 64, "q": 16},
    "data.root": {"value": None},
    "model.tau": {"distribution": "log_uniform", "min": -2, "max": 0},
    "model.gamma": {"mu": 5, "sigma": 0.5},
    "model.flag": {"values": [True, False], "probabilities": [0.75, 0.25]},
    "model.step": {"distribution": "q_normal", "mu": 0, "sigma": 1, "q": 0.25},
}


def draws(name, count=4000):
    generator = np.random.default_rng(0)
    space = SearchSpace.from_mapping({name: SPACE[name]})
    return [space.sample(generator)[name] for _ in range(count)]


def test_names_keep_their_order_and_samples_are_plain_values():
    space = SearchSpace.from_mapping(SPACE)
    assert space.names == list(SPACE)
    drawn = space.sample(np.random.default_rng(1))
    assert list(drawn) == list(SPACE)
    assert all(type(value) in (int, float, str, bool, type(None)) for value in drawn.values())
    assert drawn == space.sample(np.random.default_rng(1))
    assert drawn != space.sample(np.random.default_rng(2))


def test_ranges_are_kept_and_filled():
    for name, low, high in (("model.lr", 1e-4, 1e-1), ("model.scale", 1, 3), ("model.tau", np.exp(-2), 1)):
        values = np.array(draws(name))
        assert low <= values.min() < low * 1.1
        assert high * 0.9 < values.max() <= high
    assert np.median(draws("model.lr")) == pytest.approx(10**-2.5, rel=0.15)  # the middle of the logarithms
    assert np.median(draws("model.tau")) == pytest.approx(np.exp(-1), rel=0.1)


def test_choices_are_drawn_evenly_or_by_their_shares():
    assert np.mean([v == "itq" for v in draws("model.hash_init")]) == pytest.approx(0.5, abs=0.03)
    assert np.mean(draws("model.flag")) == pytest.approx(0.75, abs=0.03)
    counts = np.bincount(draws("model.parts"))
    assert list(np.flatnonzero(counts)) == [2, 3, 4]
    assert counts[2:] / 4000 == pytest.approx([1 / 3] * 3, abs=0.03)


def test_steps_and_bell_curves():
    bits = draws("model.bits")
    assert set(bits) == {16, 32, 48, 64}
    assert all(type(v) is int for v in bits)
    assert np.mean(draws("model.gamma")) == pytest.approx(5, abs=0.05)
    assert np.std(draws("model.gamma")) == pytest.approx(0.5, abs=0.03)
    assert all((value / 0.25).is_integer() for value in draws("model.step"))


def test_examples_are_all_choices_or_the_ends():
    parameters = SearchSpace.from_mapping(SPACE).parameters
    assert parameters["model.hash_init"].examples == ["itq", "random"]
    assert parameters["model.parts"].examples == [2, 4]
    assert parameters["model.lr"].examples == pytest.approx([1e-4, 1e-1])
    assert parameters["model.gamma"].examples == [5]


def test_every_distribution_can_be_drawn_from():
    facts = {
        "value": 3, "values": [1, 2], "probabilities": [0.5, 0.5], "min": 1, "max": 2, "q": 1, "mu": 0.0, "sigma": 1.0,
    }  # fmt: skip
    for name, needs in NEEDS.items():
        space = SearchSpace.from_mapping({"x": {"distribution": name, **{key: facts[key] for key in needs}}})
        assert np.isfinite(space.sample(np.random.default_rng(0))["x"])


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (3, r"x=3 must be a mapping, such as \{value: 3\}"),
        ({}, "x has nothing to choose from"),
        ({"values": []}, r"x: values=\[\] must be a list with something in it"),
        ({"values": "abc"}, "x: values='abc' must be a list"),
        ({"min": 1}, "x: distribution uniform needs max"),
        ({"min": 2, "max": 1}, "x: min=2 is above max=1; swap them"),
        ({"min": "3e-4", "max": 1.0}, "x: min='3e-4' is no number; YAML wants a dot in it"),
        ({"min": float("nan"), "max": 1.0}, "x: min=nan is no number"),
        ({"min": True, "max": 4}, "x: min=True is no number"),
        ({"distribution": "log_uniform_values", "min": 0.0, "max": 1.0}, "x: min=0.0 must be above 0"),
        ({"distribution": "lognormal"}, "x: distribution='lognormal' is unknown; choose from constant"),
        ({"distribution": "int_uniform", "min": 0.5, "max": 4}, "must be whole numbers"),
        ({"values": [1, 2], "min": 3}, "x: min does not go with categorical"),
        ({"values": [1, 2], "probabilities": [0.5]}, "one for each of the values"),
        ({"values": [1, 2], "probabilities": [0.5, 0.6]}, "add up to 1"),
        ({"distribution": "q_uniform", "min": 1, "max": 2, "q": 0}, "x: q=0 must be above 0"),
        ({"parameters": {"y": {"value": 1}}}, "x is nested; write its parameters with dots"),
    ],
)
def test_bad_entries_are_named(entry, message):
    with pytest.raises(ValueError, match=message):
        SearchSpace.from_mapping({"x": entry})


@pytest.mark.parametrize("mapping", [{}, None, [1], "x"])
def test_what_is_no_mapping_is_refused(mapping):
    with pytest.raises(ValueError, match="must map options to"):
        SearchSpace.from_mapping(mapping)


def test_sweeps_and_methods_are_read(tmp_path):
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump({"method": "bayes", "parameters": SPACE}, sort_keys=False))
    (tmp_path / "method.yaml").write_text(yaml.safe_dump({"method": "ce", "search": SPACE}, sort_keys=False))
    assert SearchSpace.read(tmp_path / "sweep.yaml") == SearchSpace.read(tmp_path / "method.yaml")
    assert SearchSpace.read(tmp_path / "sweep.yaml").names == list(SPACE)


def test_files_without_a_space_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no search space at"):
        SearchSpace.read(tmp_path / "nowhere.yaml")
    for text, message in (
        ("method: ce\n", "has no search space"),
        ("- 1\n", "has no search space"),
        ("a: [1\n", "is no YAML"),
        ("search: {model.lr: {min: 2, max: 1}}\n", "bad.yaml: model.lr: min=2 is above max=1"),
    ):
        (tmp_path / "bad.yaml").write_text(text)
        with pytest.raises(ValueError, match=message):
            SearchSpace.read(tmp_path / "bad.yaml")


def test_every_space_under_experiments_is_good():
    files = [config_file("method", name) for name in available("method")]
    with_space = [path for path in files if "search" in yaml.safe_load(path.read_text())]
    assert with_space
    for path in [*with_space, *(experiments_folder() / "sweep").glob("*.yaml")]:
        assert SearchSpace.read(path).names


def test_options_are_what_yaml_reads_back():
    values = {"a": 1e-05, "b": True, "c": None, "d": "text", "e": [1, 2], "f": 0.3, "g": 7}
    written = options(values)
    assert written == ["--a=1e-05", "--b=true", "--c=null", "--d=text", "--e=[1, 2]", "--f=0.3", "--g=7"]
