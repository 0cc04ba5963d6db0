"""`razh ablate`: the switches of RAZH, each against the whole method."""

from razh.commands.benchmark import run

__all__ = ["main"]


def main(argv: list[str]) -> int:
    """Run `razh ablate`: `razh benchmark` with another default and another folder; see there."""
    return run(argv, "ablate", "ablation")
