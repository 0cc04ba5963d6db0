"""The state of all global random number generators, as plain values that a checkpoint may hold."""

import random
from typing import Any

import numpy as np
import torch


def take() -> dict[str, Any]:
    """Return the states of this process: Python, NumPy, torch on the CPU and on every GPU it can see."""
    version, numbers, gauss = random.getstate()
    numpy = np.random.get_state(legacy=False)  # noqa: NPY002 - whoever draws from the global one must go on, too
    assert isinstance(numpy, dict)
    return {
        "python": [version, list(numbers), gauss],
        "numpy": {**numpy, "state": {**numpy["state"], "key": numpy["state"]["key"].tolist()}},
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def put(state: dict[str, Any]) -> None:
    """Go on from states that `take` returned; those of GPUs that are not there are left out."""
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    inner = state["numpy"]["state"]
    key = np.array(inner["key"], dtype=np.uint32)
    np.random.set_state({**state["numpy"], "state": {**inner, "key": key}})  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    for device, of_device in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(of_device, device)
