"""Loss terms and weights that are not finite: found without waiting for the device at every step."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

EVERY = 50  # steps between two looks, where a look is a wait for the device or for other ranks


class Step(NamedTuple):
    """The loss of one step: when it was, at what learning rate, and its terms and their sum, still on their device."""

    epoch: int
    step: int
    rate: float
    names: tuple[str, ...]
    terms: Tensor
    loss: Tensor

    def problem(self) -> str | None:
        """Return which number is not finite, and when; None if all are."""
        when = f"in epoch {self.epoch}, step {self.step:,}, at learning rate {self.rate:g}"
        for name, value in zip(self.names, self.terms.tolist(), strict=True):
            if not math.isfinite(value):
                return f"loss term {name} is {value} {when}"
        total = float(self.loss)
        return None if math.isfinite(total) else f"the sum of the loss terms is {total} {when}"


class LossWatch:
    """The losses since the last look."""

    def __init__(self) -> None:
        self._steps: list[Step] = []

    def __len__(self) -> int:
        return len(self._steps)

    def add(self, step: Step) -> None:
        """Keep a step's loss until the next look."""
        self._steps.append(step)

    def first_problem(self) -> Step | None:
        """Return the first step since the last look whose loss is not finite, and forget the others."""
        steps, self._steps = self._steps, []
        sums = torch.stack([step.loss for step in steps]).tolist() if steps else []
        # A term that is not finite leaves no sum that is.
        return next((step for step, total in zip(steps, sums, strict=True) if not math.isfinite(total)), None)


def strange_entry(state: Mapping[str, object]) -> str | None:
    """Return the name of the first tensor of a state that is not finite; the device is waited for once."""
    tensors = {k: v for k, v in state.items() if isinstance(v, Tensor) and v.is_floating_point() and v.numel()}
    if not tensors:
        return None
    fine = torch.stack([value.isfinite().all() for value in tensors.values()]).tolist()
    return next((name for name, good in zip(tensors, fine, strict=True) if not good), None)
