"""How a run writes and reads its checkpoints: whole or not at all, and never as code."""

import os
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from razh.run import checkpoint as checkpoints
from razh.run.folder import LAST
from razh.support.files import replacing


class CheckpointFiles(TorchCheckpointIO):
    """Write beside the place, flush to the disk, move into it; keep the last checkpoint until the next one is whole.

    A process that is killed, or a disk that is full, leaves the checkpoints of before. Reading never runs code.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint.

        Raises:
            OSError: it cannot be written; nothing is left of it.
        """
        if "://" in str(path):  # not a file of ours: Lightning knows object stores
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        target = Path(path)
        try:
            with replacing(target) as part:
                with part.open("wb") as file:
                    torch.save(checkpoint, file)
                    file.flush()
                    os.fsync(file.fileno())
                if target.name == LAST[0] and target.is_file():
                    os.replace(target, target.with_name(LAST[1]))
            _flush_folder(target.parent)
        except (OSError, RuntimeError) as error:  # torch says RuntimeError where the disk is full
            reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
            raise OSError(
                f"cannot write checkpoint {target} ({reason}); the ones before it are kept: make room, then start "
                "the same command again"
            ) from error

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint as plain values and tensors, whatever the caller asks for."""
        return checkpoints.read(Path(path))


def _flush_folder(folder: Path) -> None:
    """Let the names in a folder reach the disk, where the system can do that."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
