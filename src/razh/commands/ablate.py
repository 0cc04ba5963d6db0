"""`razh ablate`: the switches of RAZH, each against the whole method."""

from __future__ import annotations

from razh.commands.benchmark import run

__all__ = ["main"]


def main(argv: list[str]) -> int:
    """Run `razh ablate`: `razh benchmark` with another default and another folder.

    Args:
        argv: arguments after `razh ablate`.

    Returns:
        0 if all cells have a result, 1 if any failed, 130 if it was stopped.

    Raises:
        ValueError: an option or the file is wrong, or results do not go together.
        OSError: --out cannot be written, or another benchmark works there.
    """
    return run(argv, "ablate", "ablation")
