"""Make the project's environment, and run something in it: `python3 tools/bootstrap.py --extra test -- -m pytest`.

The Makefile calls this before anything is installed. It creates the virtual environment if there is none, installs the
project (editable) with FAISS in the flavour that fits the machine, and remembers what it did: the same call again does
nothing until pyproject.toml changes. Standard library only.
"""

from __future__ import annotations  # so that an older Python reads as far as the line that says it is too old

import argparse
import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OLDEST = (3, 10)
LINK = ROOT / "src/razh/datamodules"  # which `import razh.datamodules` follows


def faiss_flavour(wanted: str) -> str:
    """Return `faiss-gpu` or `faiss-cpu`: as wanted, or by whether an NVIDIA GPU is there."""
    if wanted not in ("auto", "cpu", "gpu"):
        raise SystemExit(f"error: FAISS={wanted} is unknown; take cpu, gpu or auto")
    if wanted == "auto":
        wanted = "gpu" if has_gpu() else "cpu"
    return f"faiss-{wanted}"


def has_gpu() -> bool:
    """Tell whether nvidia-smi lists a GPU."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return False
    listed = subprocess.run([program, "-L"], capture_output=True, text=True, check=False)
    return listed.returncode == 0 and "GPU" in listed.stdout


def python_of(venv: str) -> str:
    """Return the interpreter of a virtual environment, made if need be; of the active one where `venv` is empty."""
    if not venv:
        if sys.prefix == sys.base_prefix and not os.environ.get("CONDA_PREFIX"):
            raise SystemExit("error: VENV= asks for the active environment, but none is active; activate one first")
        return sys.executable
    folder = Path(os.path.expanduser(venv))
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not python.exists():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise SystemExit(f"error: VENV={venv} is there already and is no virtual environment; name another folder")
        say(f"creating {folder} with Python {sys.version.split()[0]}")
        if subprocess.run([sys.executable, "-m", "venv", str(folder)], check=False).returncode:
            shutil.rmtree(folder, ignore_errors=True)  # half an environment would be taken for a whole one
            raise SystemExit("error: no virtual environment could be made; see the message above, or set PYTHON=")
    return str(python)


def installed(python: str) -> Path:
    """Return the file that remembers what was installed into an interpreter's environment."""
    prefix = subprocess.run(
        [python, "-c", "import sys; print(sys.prefix)"], capture_output=True, text=True, check=True
    ).stdout.strip()
    return Path(prefix) / "razh-installed.json"


def install(python: str, extras: list[str]) -> None:
    """Install the project with extras, unless that was done for this pyproject.toml and these extras."""
    state = {"project": str(ROOT), "pyproject": hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest()}
    memory = installed(python)
    known = json.loads(memory.read_text()) if memory.is_file() else {}
    there = set(known.get("extras", []))
    have = there if {k: known.get(k) for k in state} == state else set()
    if set(extras) <= have:
        return
    other = {"faiss-cpu", "faiss-gpu"} & there - set(extras)
    if other:  # the two wheels share a folder: the one that is there stays unless it was asked away by FAISS=
        raise SystemExit(f"error: {other.pop()} is installed here; remove the environment first to change FAISS=")
    every = sorted(have | set(extras))
    say(f"installing razh[{','.join(every)}]")
    command = [
        python,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "-e",
        f"{ROOT}[{','.join(every)}]",
    ]
    if subprocess.run(command, check=False).returncode:
        raise SystemExit("error: the installation failed; see pip's message above")
    memory.write_text(json.dumps(state | {"extras": every}))


def restore_link(link: Path) -> None:
    """Make a link again of the file with its target that Git leaves where links are off, as on Windows."""
    if link.is_dir():
        return
    target = os.path.join("..", "..", "datamodules")
    try:
        link.unlink(missing_ok=True)
        link.symlink_to(target, target_is_directory=True)
    except OSError as error:
        raise SystemExit(
            f"error: {link} must be a link to {target}, and cannot be made ({error}); make it by hand"
        ) from None


def say(text: str) -> None:
    """Write a line to the terminal."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def split(text: str) -> list[str]:
    """Return the options in a text, quoted as in a shell, which has no say in them."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise SystemExit(f"error: ARGS={text} cannot be split into options ({error})") from None


def main() -> None:
    """Read the command line, set the environment up and become its Python, if there is something to run."""
    parser = argparse.ArgumentParser(description="Set up razh's environment; does nothing if it is up to date.")
    parser.add_argument("--venv", default=".venv", help="folder of the virtual environment; empty: the active one")
    parser.add_argument("--faiss", default="auto", help="cpu, gpu, or auto (by whether an NVIDIA GPU is there)")
    parser.add_argument("--extra", action="append", default=[], help="extra of pyproject.toml, e.g. test")
    parser.add_argument(
        "--args", type=split, default=[], help="more arguments of COMMAND, in one text quoted for a shell"
    )
    parser.add_argument("command", nargs="*", help="behind `--`: arguments for the environment's Python")
    options = parser.parse_args()
    if sys.version_info < OLDEST:
        raise SystemExit(
            f"error: Python {sys.version.split()[0]} is too old; razh needs 3.10, set PYTHON=python3.11, say"
        )
    restore_link(LINK)
    python = python_of(options.venv)
    memory = installed(python)
    flavour = faiss_flavour(options.faiss)
    if options.faiss == "auto" and memory.is_file():  # keep what was chosen before
        flavour = next((e for e in json.loads(memory.read_text())["extras"] if e.startswith("faiss-")), flavour)
    install(python, [flavour, *options.extra])
    if options.command:
        os.execv(python, [python, *options.command, *options.args])


if __name__ == "__main__":
    main()
