import re
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
YAMLS = sorted((ROOT / "experiments").rglob("*.yaml"))


@pytest.fixture(scope="module")
def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def environment():
    return yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def conda(environment):
    """Return conda's packages, name to version bound ("" for none)."""
    listed = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    return dict(re.fullmatch(r"([\w-]+)\s*(.*)", entry).groups() for entry in listed)


@pytest.fixture(scope="module")
def pip(environment):
    return next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))


def requirements(project, *extras):
    return [Requirement(text) for text in [*project["dependencies"], *sum_of(project, extras)]]


def sum_of(project, extras):
    return [text for extra in extras for text in project["optional-dependencies"][extra]]


def test_environment_is_named_after_the_project(environment, project):
    assert environment["name"] == project["name"] == "razh"
    assert environment["channels"] == ["conda-forge"]


def test_environment_installs_the_project_with_faiss_for_gpus(pip, project):
    assert pip == ["-e .[faiss-gpu]"]
    assert "faiss-gpu" in project["optional-dependencies"]


def test_pythons_agree(conda, project):
    ours, theirs = SpecifierSet(project["requires-python"]), SpecifierSet(conda["python"])
    minors = [f"3.{minor}" for minor in range(6, 20)]
    allowed = [version for version in minors if version in theirs]
    assert allowed, "no Python satisfies environment.yml"
    assert all(version in ours for version in allowed)
    assert allowed[0] == next(version for version in minors if version in ours)


def test_no_version_is_stated_twice(conda, project):
    every = {r.name.lower() for r in requirements(project, *project["optional-dependencies"])}
    assert not every & {name.lower() for name in conda}
    assert [name for name, bound in conda.items() if bound] == ["python"]


def test_no_package_is_listed_twice(project):
    names = [requirement.name.lower() for requirement in requirements(project)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("extra", ["faiss-cpu", "faiss-gpu"])
def test_faiss_is_an_extra_and_never_a_dependency(project, extra):
    assert [Requirement(text).name for text in project["optional-dependencies"][extra]] == [extra]
    assert not any(requirement.name.startswith("faiss") for requirement in requirements(project))


@pytest.mark.parametrize(("version", "allowed"), [("2.6.2", False), ("2.6.3", False), ("2.6.1", True), ("2.6.4", True)])
def test_malicious_releases_of_lightning_are_excluded(project, version, allowed):
    lightning = next(r for r in requirements(project) if r.name == "lightning")
    assert lightning.specifier.contains(version) == allowed


def test_every_dependency_has_a_lower_bound(project):
    for requirement in requirements(project, "faiss-cpu", "faiss-gpu", "text", "test"):
        assert any(bound.operator in (">=", "~=", "==") for bound in requirement.specifier), str(requirement)


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_experiment_parses(path):
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert isinstance(content, dict)
    assert content


def test_there_are_experiments():
    assert {path.parent.name for path in YAMLS} >= {"experiments", "data", "method", "backbone"}
