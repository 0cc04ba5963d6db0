import json
import shutil

import pytest
from filelock import FileLock

from razh.run import folder as run_folder


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
    assert run_folder.choose(None, default, resume=False).folder == default


def test_empty_folder_counts_as_free(default):
    default.mkdir(parents=True)
    assert run_folder.choose(None, default, resume=False).folder == default


def test_second_and_third_run_go_beside_it(default):
    run_in(default)
    assert run_folder.choose(None, default, resume=False).folder == numbered(default, 2)
    run_in(numbered(default, 2))
    assert run_folder.choose(None, default, resume=False).folder == numbered(default, 3)


def test_numbers_are_compared_as_numbers_and_never_reused(default):
    for number in (2, 9, 10):
        run_in(numbered(default, number))
    assert run_folder.choose(None, default, resume=False).folder == numbered(default, 11)
    assert [path.name for path in run_folder.existing(default)] == ["seed0-2", "seed0-9", "seed0-10"]


def test_other_names_are_not_mistaken_for_runs(default):
    for name in ("seed01", "seed0-test", "seed0-2b", "xseed0"):
        run_in(default.with_name(name))
    assert run_folder.existing(default) == []
    assert run_folder.choose(None, default, resume=False).folder == default


def test_explicit_folder_is_taken(default, tmp_path):
    run_in(default)
    assert run_folder.choose(str(tmp_path / "mine"), default, resume=False).folder == tmp_path / "mine"


@pytest.mark.parametrize("left", ["config.yaml", "metrics.json", "checkpoints"])
def test_explicit_folder_with_a_run_is_refused(default, tmp_path, left):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / left).mkdir()
    with pytest.raises(ValueError, match=r"run_dir=.*mine holds a run already; pass another RUN_DIR"):
        run_folder.choose(str(folder), default, resume=False)


@pytest.mark.parametrize("theirs", ["metrics.csv", "codes.npz", "split.json", "figures"])
def test_a_folder_with_files_that_a_run_would_replace_is_refused(default, tmp_path, theirs):
    for folder in (tmp_path / "mine", default):
        folder.mkdir(parents=True)
        (folder / theirs).symlink_to(tmp_path / "gone")
        (folder / "thesis.txt").write_text("years")
    with pytest.raises(ValueError, match=f"run_dir=.*mine holds {theirs}, which this run would replace; pass another"):
        run_folder.choose(str(tmp_path / "mine"), default, resume=False)
    assert run_folder.choose(None, default, resume=False).folder == numbered(default, 2)


def test_other_files_of_the_users_are_no_obstacle(default, tmp_path):
    (tmp_path / "thesis.txt").write_text("years")
    assert run_folder.choose(str(tmp_path), default, resume=False).folder == tmp_path


@pytest.mark.parametrize("empty", ["", " "])
def test_an_empty_folder_name_is_an_unset_variable(default, empty):
    with pytest.raises(ValueError, match="run_dir is empty; is a variable not set"):
        run_folder.choose(empty, default, resume=False)


def test_a_tilde_is_the_home_folder(default, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert run_folder.choose("~/mine", default, resume=False).folder == tmp_path / "mine"


def test_resume_takes_the_newest_run(default):
    for folder in (default, numbered(default, 2), numbered(default, 10)):
        run_in(folder)
    assert run_folder.choose(None, default, resume=True).folder == numbered(default, 10)


def test_resume_of_an_explicit_folder(default, tmp_path):
    folder = run_in(tmp_path / "mine")
    assert run_folder.choose(str(folder), default, resume=True).folder == folder


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
    assert run_folder.choose(None, numbered(default, 5), resume=False).folder == default
    assert run_folder.choose(str(tmp_path), default, resume=True).folder == default


@pytest.mark.parametrize("variable", ["RANK", "SLURM_PROCID"])
def test_other_ranks_of_a_launcher_do_not_refuse_what_the_first_one_writes(default, monkeypatch, variable):
    run_in(default)
    monkeypatch.setenv(variable, "1")
    assert run_folder.choose(str(default), default, resume=False).folder == default


@pytest.mark.parametrize("rank", ["0", "1"])
def test_all_ranks_of_a_launcher_go_on_from_the_same_run(default, monkeypatch, rank):
    run_in(default)
    run_in(numbered(default, 2))
    monkeypatch.setenv("RANK", rank)
    assert run_folder.choose(None, default, resume=True).folder == numbered(default, 2)


CONFIG = {"seed_everything": 0, "model": {"init_args": {"lr": 0.1}}, "trainer": {"enable_progress_bar": True}}


def unfinished_in(folder, config=CONFIG, state="running"):
    """Leave what a run leaves that was killed."""
    run_in(folder)
    (folder / "config.yaml").write_text(json.dumps(config))
    (folder / "status.json").write_text(json.dumps({"state": state}))
    return folder


@pytest.mark.parametrize("state", ["running", "stopped"])
def test_unfinished_run_of_the_same_configuration_goes_on(default, tmp_path, state):
    unfinished_in(default, state=state)
    assert run_folder.choose(None, default, resume=False, config=CONFIG) == run_folder.Place(default, True)
    folder = unfinished_in(tmp_path / "mine", state=state)
    assert run_folder.choose(str(folder), default, resume=False, config=CONFIG) == run_folder.Place(folder, True)


def test_a_run_that_had_written_its_status_alone_goes_on(default, tmp_path):
    for folder, explicit in ((default, None), (tmp_path / "mine", str(tmp_path / "mine"))):
        unfinished_in(folder)
        (folder / "config.yaml").unlink()
        with_checkpoints = run_folder.difference(folder, CONFIG)
        shutil.rmtree(folder / "checkpoints")
        assert with_checkpoints == "its config.yaml is missing"
        assert run_folder.choose(explicit, default, resume=False, config=CONFIG) == run_folder.Place(folder, True)


@pytest.mark.parametrize("end", ["finished", "result", "no status", "broken status"])
def test_finished_run_does_not_go_on(default, end):
    unfinished_in(default, state="finished" if end == "finished" else "running")
    if end == "result":
        (default / "metrics.json").write_text("{}")
    if end == "no status":
        (default / "status.json").unlink()
    if end == "broken status":
        (default / "status.json").write_text('{"state": "runn')
    assert run_folder.choose(None, default, resume=False, config=CONFIG).folder == numbered(default, 2)
    with pytest.raises(ValueError, match="holds a run already"):
        run_folder.choose(str(default), default, resume=False, config=CONFIG)


def test_older_unfinished_run_of_the_same_configuration_is_found(default):
    unfinished_in(default)
    unfinished_in(numbered(default, 2), CONFIG | {"seed_everything": 1})
    run_in(numbered(default, 3))
    assert run_folder.choose(None, default, resume=False, config=CONFIG) == run_folder.Place(default, True)
    other = CONFIG | {"seed_everything": 2}
    assert run_folder.choose(None, default, resume=False, config=other) == run_folder.Place(numbered(default, 4))


def test_explicit_folder_with_another_configuration_names_the_difference(tmp_path, default):
    folder = unfinished_in(tmp_path / "mine")
    other = {**CONFIG, "model": {"init_args": {"lr": 0.2}}}
    with pytest.raises(ValueError, match=r"another configuration \(model\.init_args\.lr is 0\.1 there, 0\.2 here\)"):
        run_folder.choose(str(folder), default, resume=False, config=other)
    (folder / "config.yaml").write_text("a: [")
    with pytest.raises(ValueError, match=r"its config\.yaml cannot be read"):
        run_folder.choose(str(folder), default, resume=False, config=CONFIG)


def test_what_no_result_depends_on_may_differ(tmp_path, default):
    folder = unfinished_in(tmp_path / "mine")
    quiet = CONFIG | {"trainer": {"enable_progress_bar": False}}
    assert run_folder.choose(str(folder), default, resume=False, config=quiet).resume
    profiled = CONFIG | {"trainer": {"profiler": {"class_path": "some.Profiler", "init_args": {"top": 3}}}}
    assert run_folder.choose(str(folder), default, resume=False, config=profiled).resume


def test_starting_over_takes_a_folder_of_its_own(default):
    unfinished_in(default)
    assert run_folder.choose(None, default, resume=False) == run_folder.Place(numbered(default, 2))
    with pytest.raises(ValueError, match="holds a run already"):
        run_folder.choose(str(default), default, resume=False)


def test_run_at_work_is_not_joined(default, monkeypatch):
    unfinished_in(default)
    with FileLock(default / ".lock"):
        with pytest.raises(OSError, match=r"another run works in run_dir=.*seed0.*--resume=false"):
            run_folder.choose(None, default, resume=False, config=CONFIG)
        monkeypatch.setenv("RANK", "1")  # the lock may be that of its own first rank
        assert run_folder.choose(None, default, resume=False, config=CONFIG).resume


@pytest.mark.parametrize("rank", ["0", "1", "5"])
def test_all_ranks_come_to_the_same_place(default, monkeypatch, rank):
    run_in(default)
    monkeypatch.setenv("RANK", rank)
    assert run_folder.choose(None, default, resume=False, config=CONFIG).folder == numbered(default, 2)
    unfinished_in(numbered(default, 2))
    place = run_folder.Place(numbered(default, 2), True)
    assert run_folder.choose(None, default, resume=False, config=CONFIG) == place


def test_started_ranks_are_told_whether_the_run_goes_on(default, monkeypatch):
    monkeypatch.setenv("RAZH_RUN_DIR", str(default))
    for word, resume in (("1", True), ("0", False)):
        monkeypatch.setenv("RAZH_RESUME", word)
        assert run_folder.choose(None, default, resume=False, config=CONFIG).resume == resume


def test_last_but_one_checkpoint_is_enough_to_go_on(default):
    run_in(default, last=False)
    (default / "checkpoints" / "last-1.ckpt").write_bytes(b"")
    assert run_folder.choose(None, default, resume=True) == run_folder.Place(default, True)
