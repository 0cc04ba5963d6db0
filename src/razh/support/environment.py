"""What a run ran on: versions, hardware, state of the repository, memory."""

import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from razh.support.processes import cores

PACKAGES = ("razh", "torch", "torchvision", "lightning", "timm", "omegaconf", "jsonargparse", "wandb", "numpy")
FAISS = ("faiss-gpu", "faiss-cpu")  # one of the two is installed


def facts() -> dict[str, Any]:
    """Return everything as flat names and plain values; what cannot be found out is None."""
    found: dict[str, Any] = {f"environment/{name}": version(name) for name in PACKAGES}
    found["environment/faiss"] = next((f"{name} {version(name)}" for name in FAISS if version(name)), None)
    found |= {
        "environment/python": platform.python_version(),
        "environment/system": platform.platform(),
        "environment/cpu": cpu_name(),
        "environment/cores": cores(),
        "environment/threads": torch.get_num_threads(),
        "environment/gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "environment/cuda": torch.version.cuda if torch.cuda.is_available() else None,
    }
    return found | git_state() | peak_memory()


def version(package: str) -> str | None:
    """Return the version of an installed package; None if it is not there."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def cpu_name() -> str:
    """Return the processor's name as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()


def git_state(folder: Path | None = None) -> dict[str, Any]:
    """Return the commit that the code is at, and whether files differ from it; None outside of a repository."""
    folder = Path(__file__).resolve().parent if folder is None else folder
    commit = _git(folder, "rev-parse", "HEAD")
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no") if commit else None
    return {"git/commit": commit, "git/changed": bool(changed) if changed is not None else None}


def _git(folder: Path, *arguments: str) -> str | None:
    if ".git" not in {p.name for parent in folder.parents for p in parent.glob(".git")}:
        return None  # installed into some other project's environment, or from a wheel
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def peak_memory() -> dict[str, Any]:
    """Return the largest resident set of this process and the largest allocation on its GPU, in MB."""
    resident = None
    if sys.platform != "win32":
        import resource

        units = 1e6 if sys.platform == "darwin" else 1e3  # bytes there, kilobytes on Linux
        resident = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / units, 1)
    gpu = round(torch.cuda.max_memory_allocated() / 1e6, 1) if torch.cuda.is_available() else None
    return {"memory/peak_mb": resident, "memory/gpu_peak_mb": gpu}
