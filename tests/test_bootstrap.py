import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tools import bootstrap


@pytest.fixture
def prefix(tmp_path):
    return tmp_path / "env"


@pytest.fixture
def calls(monkeypatch, prefix):
    """Run no program: note the command lines, and answer the question for sys.prefix."""
    prefix.mkdir()
    noted, status = [], SimpleNamespace(code=0)

    def run(command, **arguments):
        if command[1:2] == ["-c"]:
            return SimpleNamespace(returncode=0, stdout=f"{prefix}\n")
        noted.append([str(part) for part in command])
        return SimpleNamespace(returncode=status.code, stdout="")

    monkeypatch.setattr(subprocess, "run", run)
    return SimpleNamespace(noted=noted, status=status)


def fake_nvidia(folder, monkeypatch, text, status=0):
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\necho '{text}'\nexit {status}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin")


@pytest.mark.parametrize(
    ("text", "status", "found"),
    [("GPU 0: NVIDIA H100 (UUID: x)", 0, True), ("No devices found.", 0, False), ("GPU", 9, False)],
)
def test_gpu_is_what_nvidia_smi_lists(tmp_path, monkeypatch, text, status, found):
    fake_nvidia(tmp_path, monkeypatch, text, status)
    assert bootstrap.has_gpu() == found
    assert bootstrap.faiss_flavour("auto") == ("faiss-gpu" if found else "faiss-cpu")


def test_no_gpu_without_nvidia_smi(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not bootstrap.has_gpu()


def test_flavour_as_asked(monkeypatch):
    monkeypatch.setattr(bootstrap, "has_gpu", lambda: pytest.fail("not asked"))
    assert bootstrap.faiss_flavour("cpu") == "faiss-cpu"
    assert bootstrap.faiss_flavour("gpu") == "faiss-gpu"
    with pytest.raises(SystemExit, match="FAISS=tpu is unknown; take cpu, gpu or auto"):
        bootstrap.faiss_flavour("tpu")


def test_environment_is_created_once(calls, tmp_path):
    folder = tmp_path / "venv"
    python = bootstrap.python_of(str(folder))
    assert calls.noted == [[sys.executable, "-m", "venv", str(folder)]]
    Path(python).parent.mkdir(parents=True)
    Path(python).touch()
    assert bootstrap.python_of(str(folder)) == python
    assert len(calls.noted) == 1


def test_active_environment(monkeypatch):
    monkeypatch.setenv("CONDA_PREFIX", "/conda/envs/razh")
    assert bootstrap.python_of("") == sys.executable
    monkeypatch.delenv("CONDA_PREFIX")
    monkeypatch.setattr(sys, "prefix", sys.base_prefix)
    with pytest.raises(SystemExit, match="none is active"):
        bootstrap.python_of("")


def test_installation_happens_once_for_the_same_project(calls, prefix):
    bootstrap.install("python", ["faiss-cpu"])
    assert calls.noted[0][-2:] == ["-e", f"{bootstrap.ROOT}[faiss-cpu]"]
    bootstrap.install("python", ["faiss-cpu"])
    assert len(calls.noted) == 1
    bootstrap.install("python", ["faiss-cpu", "test"])
    assert calls.noted[1][-1].endswith("[faiss-cpu,test]")
    bootstrap.install("python", ["faiss-cpu"])  # fewer are there already
    assert len(calls.noted) == 2
    assert json.loads((prefix / "razh-installed.json").read_text())["extras"] == ["faiss-cpu", "test"]


def test_changed_pyproject_is_installed_again(calls, prefix):
    bootstrap.install("python", ["faiss-cpu"])
    memory = prefix / "razh-installed.json"
    memory.write_text(json.dumps(json.loads(memory.read_text()) | {"pyproject": "older"}))
    bootstrap.install("python", ["faiss-cpu"])
    assert len(calls.noted) == 2


def test_failed_installation_is_not_remembered(calls, prefix):
    calls.status.code = 1
    with pytest.raises(SystemExit, match="installation failed"):
        bootstrap.install("python", ["faiss-cpu"])
    assert not (prefix / "razh-installed.json").exists()


@pytest.mark.parametrize("pyproject", [None, "older"])
def test_two_flavours_of_faiss_never_share_an_environment(calls, prefix, pyproject):
    bootstrap.install("python", ["faiss-cpu"])
    memory = prefix / "razh-installed.json"
    if pyproject:
        memory.write_text(json.dumps(json.loads(memory.read_text()) | {"pyproject": pyproject}))
    with pytest.raises(SystemExit, match="faiss-cpu is installed here; remove the environment first"):
        bootstrap.install("python", ["faiss-gpu"])
    assert len(calls.noted) == 1


def test_main_keeps_the_flavour_that_is_there(calls, prefix, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["bootstrap.py", "--venv", str(tmp_path / "venv"), "--extra=test"])
    monkeypatch.setattr(bootstrap, "has_gpu", lambda: False)
    bootstrap.main()
    monkeypatch.setattr(bootstrap, "has_gpu", lambda: True)  # say, a driver that came later
    bootstrap.main()
    installs = [command[-1] for command in calls.noted if "pip" in command]
    assert installs == [f"{bootstrap.ROOT}[faiss-cpu,test]"]


def test_main_refuses_an_old_python(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["bootstrap.py"])
    monkeypatch.setattr(bootstrap, "OLDEST", (99, 0))
    with pytest.raises(SystemExit, match="is too old; razh needs"):
        bootstrap.main()


def test_needs_only_the_standard_library():
    """It runs before anything is installed, also under `python -S -I`, which sees no packages."""
    done = subprocess.run(
        [sys.executable, "-S", "-I", bootstrap.__file__, "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "--faiss" in done.stdout


def test_a_folder_that_is_no_environment_is_neither_filled_nor_removed(calls, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    calls.status.code = 1  # venv fails
    with pytest.raises(SystemExit, match=r"VENV=.*mine is there already and is no virtual environment"):
        bootstrap.python_of(str(tmp_path / "mine"))
    assert (tmp_path / "mine" / "thesis.txt").exists()
    assert calls.noted == []


def test_the_home_folder_may_be_written_as_a_tilde(calls, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert bootstrap.python_of("~/venv").startswith(str(tmp_path / "venv"))


def test_what_follows_runs_in_the_environment_with_options_that_no_shell_has_read(calls, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    started = []
    monkeypatch.setattr(os, "execv", lambda program, words: started.append(words))
    options = "--model.lr=1e-4 --x='a b' ; touch x $(touch x) `touch x`"
    monkeypatch.setattr(sys, "argv", ["bootstrap.py", "--faiss=cpu", f"--args={options}", "--", "-m", "razh", "fit"])
    bootstrap.main()
    passed = ["--model.lr=1e-4", "--x=a b", ";", "touch", "x", "$(touch", "x)", "`touch", "x`"]
    assert [words[1:] for words in started] == [["-m", "razh", "fit", *passed]]
    monkeypatch.setattr(sys, "argv", ["bootstrap.py", "--args='a", "--", "-m", "razh"])
    with pytest.raises(SystemExit, match="ARGS='a cannot be split into options"):
        bootstrap.main()


def test_a_link_that_git_wrote_as_a_file_is_a_link_again(tmp_path):
    (tmp_path / "datamodules").mkdir()
    link = tmp_path / "src" / "razh" / "datamodules"
    link.parent.mkdir(parents=True)
    for leave in (lambda: link.write_text("../../datamodules"), link.unlink, lambda: None):
        leave()
        bootstrap.restore_link(link)
        assert link.is_symlink()
        assert link.resolve() == tmp_path / "datamodules"


def test_a_link_that_cannot_be_made_says_what_to_do(tmp_path, monkeypatch):
    link = tmp_path / "datamodules"
    monkeypatch.setattr(type(link), "symlink_to", lambda *_, **__: (_ for _ in ()).throw(OSError("no privilege")))
    with pytest.raises(SystemExit, match=r"must be a link .* cannot be made \(no privilege\)"):
        bootstrap.restore_link(link)
