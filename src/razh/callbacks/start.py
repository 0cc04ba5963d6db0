"""The state of a method before its first training step, kept so that a test can say what training has brought."""

import logging
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.func import functional_call

from razh.method import Batch, HashingMethod

__all__ = ["StartState"]

log = logging.getLogger(__name__)
FILE = Path("checkpoints", "start.pt")


class StartState(nn.Module):
    """A method as it was before its first step: what its state was then, around the method as it is now.

    Only what training may change is kept: everything but the frozen part of the backbone. No second network is built;
    a call puts the old tensors in place of the new ones as long as it lasts.
    """

    def __init__(self, method: HashingMethod, state: dict[str, Tensor]) -> None:
        """Take the method and the tensors that it had, by name."""
        super().__init__()
        self.method = method
        self._state = {f"method.{name}": value.to(method.device) for name, value in state.items()}

    def forward(self, batch: Batch, batch_idx: int) -> Batch:
        """Return index, label, logits and code of a batch."""
        return self.method.encode_step(batch, batch_idx)

    def encode(self, trainer: Trainer, batch: Batch, batch_idx: int) -> Batch:
        """Return index, label and the code that each image of a batch had before training; no random state is moved."""
        devices = [self.method.device] if self.method.device.type == "cuda" else []
        with torch.random.fork_rng(devices), trainer.precision_plugin.test_step_context():
            found: Batch = functional_call(self, self._state, (batch, batch_idx))
        return found

    @staticmethod
    def save(trainer: Trainer, method: HashingMethod) -> None:
        """Write the state into the run folder (first rank), unless the method has nothing to train.

        Raises:
            OSError: it cannot be written.
        """
        if not trainer.is_global_zero or not any(p.requires_grad for p in method.parameters()):
            return
        frozen = {f"backbone.{name}" for name, p in method.backbone.named_parameters() if not p.requires_grad}
        state = {name: value for name, value in method.state_dict().items() if name not in frozen}
        trainer.strategy.checkpoint_io.save_checkpoint(state, Path(trainer.default_root_dir) / FILE)

    @classmethod
    def load(cls, trainer: Trainer, method: HashingMethod) -> "StartState | None":
        """Return the start of the run in this folder; None if it trained nothing, or none was kept."""
        path = Path(trainer.default_root_dir) / FILE
        if not path.is_file():
            return None
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # zip, pickle and torch each have their own types
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
            log.warning("%s cannot be read (%s): the figures before training are left out", path, reason)
            return None
        now = method.state_dict()
        return None if all(torch.equal(value, now[name].cpu()) for name, value in state.items()) else cls(method, state)
