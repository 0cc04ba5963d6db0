from dataclasses import replace

import pytest
import yaml

from razh.benchmark.grid import grid_file, read_grid
from razh.benchmark.jobs import config_hash, train_job
from razh.run import recipe


@pytest.fixture
def cell():
    return next(read_grid(grid_file("smoke")).cells())


def test_the_hash_sees_what_a_result_depends_on(cell):
    others = [
        replace(cell, bits=24),
        replace(cell, seed=7),
        replace(cell, dataset="cub"),
        replace(cell, backbone="test-vit"),
        replace(cell, method=replace(cell.method, method="ce")),
        replace(cell, options={**cell.options, "model.lr": 3.0}),
    ]
    assert len({config_hash(one) for one in [cell, *others]}) == len(others) + 1
    assert config_hash(replace(cell, method=replace(cell.method, name="another name"))) == config_hash(cell)


def test_the_hash_does_not_see_where_files_lie(cell, tmp_path):
    hashes = set()
    for place in ("here", "there"):
        (tmp_path / place / "cub").mkdir(parents=True)
        (tmp_path / place / "weights").write_text("12345")
        paths = {"data.root": str(tmp_path / place / "cub"), "model.w": str(tmp_path / place / "weights")}
        hashes.add(config_hash(replace(cell, options=paths)))
    assert len(hashes) == 1
    (tmp_path / "there" / "weights").write_text("other weights")
    hashes.add(config_hash(replace(cell, options=paths)))
    assert len(hashes) == 2


def test_the_hash_sees_files_but_not_search_spaces_or_comments(cell, tmp_path, monkeypatch):
    folder = tmp_path / "experiments"
    for file in recipe.experiments_folder().rglob("*.yaml"):
        target = folder / file.relative_to(recipe.experiments_folder())
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(file.read_text())
    before = config_hash(cell)
    monkeypatch.setattr(recipe, "experiments_folder", lambda: folder)
    assert config_hash(cell) == before
    method = folder / "method" / "itq.yaml"
    method.write_text(method.read_text() + "# words\nsearch: {model.lr: {values: [1]}}\n")
    assert config_hash(cell) == before
    base = yaml.safe_load((folder / "base.yaml").read_text())
    base["trainer"]["precision"] = "bf16-mixed"
    (folder / "base.yaml").write_text(yaml.safe_dump(base))
    assert config_hash(cell) != before


def test_another_configuration_gets_a_folder_of_its_own(cell, tmp_path):
    first = train_job(cell, tmp_path)
    first.folder.mkdir(parents=True)
    first.note(state="running")
    (first.folder / "metrics.json").write_text("{}")
    assert train_job(cell, tmp_path).state == "done"
    changed = train_job(replace(cell, options={"model.lr": 3.0}), tmp_path)
    assert changed.folder.parent == first.folder.parent
    assert changed.folder.name == f"seed0-{changed.hash[:8]}"
    assert changed.state == "missing"
    assert train_job(cell, tmp_path).folder == first.folder


def test_the_command_is_an_ordinary_run(cell, tmp_path):
    job = train_job(cell, tmp_path)
    assert {"--dataset=synthetic", "--method=itq", "--bits=8", "--seed=0", "--figures.enabled=false"} <= set(
        job.arguments
    )
    assert "--data.protocol=ps" in job.arguments
    assert f"--run_dir={tmp_path / 'cells' / 'itq' / 'ps' / '8' / 'seed0'}" in job.arguments


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        ("error: first\nerror: old\nepoch 1\repoch 2\n", "old"),
        ("loading\n\nKilled  \n\n", "Killed"),
        ("\n", "no output"),
        (None, "no output"),
    ],
)
def test_the_last_error_is_the_reason_else_the_last_line(cell, tmp_path, log, reason):
    job = train_job(cell, tmp_path)
    job.folder.mkdir(parents=True)
    if log is not None:
        (job.folder / "log.txt").write_text(log)
    assert job.reason() == reason


def test_what_an_earlier_attempt_printed_is_no_reason(cell, tmp_path):
    job = train_job(cell, tmp_path)
    job.folder.mkdir(parents=True)
    (job.folder / "log.txt").write_text("error: earlier\nnow\n")
    assert (job.reason(), job.reason(len("error: earlier\n"))) == ("earlier", "now")
