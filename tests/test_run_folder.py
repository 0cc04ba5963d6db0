import pytest

from razh import run_folder


@pytest.fixture
def default(tmp_path):
    return tmp_path / "runs" / "cub" / "razh" / "64" / "seed0"


def run_in(folder, last=True):
    """Leave what a run leaves."""
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.yaml").write_text("seed: 0\n")
    if last:
        (folder / "checkpoints" / "last.ckpt").write_bytes(b"")
    return folder


def numbered(default, number):
    return default.with_name(f"{default.name}-{number}")


def test_first_run_takes_the_default(default):
    assert run_folder.choose(None, default, resume=False) == default


def test_empty_folder_counts_as_free(default):
    default.mkdir(parents=True)
    assert run_folder.choose(None, default, resume=False) == default


def test_second_and_third_run_go_beside_it(default):
    run_in(default)
    assert run_folder.choose(None, default, resume=False) == numbered(default, 2)
    run_in(numbered(default, 2))
    assert run_folder.choose(None, default, resume=False) == numbered(default, 3)


def test_numbers_are_compared_as_numbers_and_never_reused(default):
    for number in (2, 9, 10):
        run_in(numbered(default, number))
    assert run_folder.choose(None, default, resume=False) == numbered(default, 11)
    assert [path.name for path in run_folder.existing(default)] == ["seed0-2", "seed0-9", "seed0-10"]


def test_other_names_are_not_mistaken_for_runs(default):
    for name in ("seed01", "seed0-test", "seed0-2b", "xseed0"):
        run_in(default.with_name(name))
    assert run_folder.existing(default) == []
    assert run_folder.choose(None, default, resume=False) == default


def test_explicit_folder_is_taken(default, tmp_path):
    run_in(default)
    assert run_folder.choose(str(tmp_path / "mine"), default, resume=False) == tmp_path / "mine"


@pytest.mark.parametrize("left", ["config.yaml", "metrics.json", "checkpoints"])
def test_explicit_folder_with_a_run_is_refused(default, tmp_path, left):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / left).mkdir()
    with pytest.raises(ValueError, match=r"run_dir=.*mine holds a run already; pass another RUN_DIR"):
        run_folder.choose(str(folder), default, resume=False)


def test_resume_takes_the_newest_run(default):
    for folder in (default, numbered(default, 2), numbered(default, 10)):
        run_in(folder)
    assert run_folder.choose(None, default, resume=True) == numbered(default, 10)


def test_resume_of_an_explicit_folder(default, tmp_path):
    folder = run_in(tmp_path / "mine")
    assert run_folder.choose(str(folder), default, resume=True) == folder


def test_resume_without_a_run(default):
    with pytest.raises(FileNotFoundError, match=r"no run to go on with at .*seed0"):
        run_folder.choose(None, default, resume=True)


def test_resume_without_a_checkpoint(default):
    run_in(default, last=False)
    with pytest.raises(FileNotFoundError, match=r"no checkpoints/last\.ckpt in run_dir=.*seed0"):
        run_folder.choose(None, default, resume=True)
    with pytest.raises(FileNotFoundError, match=r"no checkpoints/last\.ckpt"):
        run_folder.choose(str(default / "none"), default, resume=True)


def test_started_ranks_take_the_folder_they_are_told(default, monkeypatch, tmp_path):
    run_in(default)
    monkeypatch.setenv("RAZH_RUN_DIR", str(default))
    assert run_folder.choose(None, numbered(default, 5), resume=False) == default
    assert run_folder.choose(str(tmp_path), default, resume=True) == default


@pytest.mark.parametrize("variable", ["RANK", "SLURM_PROCID"])
def test_other_ranks_of_a_launcher_do_not_refuse_what_the_first_one_writes(default, monkeypatch, variable):
    run_in(default)
    monkeypatch.setenv(variable, "1")
    assert run_folder.choose(str(default), default, resume=False) == default


@pytest.mark.parametrize("rank", ["0", "1"])
def test_all_ranks_of_a_launcher_go_on_from_the_same_run(default, monkeypatch, rank):
    run_in(default)
    run_in(numbered(default, 2))
    monkeypatch.setenv("RANK", rank)
    assert run_folder.choose(None, default, resume=True) == numbered(default, 2)
