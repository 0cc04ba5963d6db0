"""Bounds of the options of data sets."""

from __future__ import annotations

__all__ = ["LARGEST_SEED", "refuse_outside"]

LARGEST_SEED = 2**32 - 1  # of NumPy's generators


def refuse_outside(**options: tuple[float, float, float]) -> None:
    """Refuse options that are out of range, NaN among them.

    Args:
        **options: value, smallest and largest, by name.

    Raises:
        ValueError: The first such option.
    """
    for name, (value, low, high) in options.items():
        if not low <= value <= high:
            raise ValueError(f"--data.{name}={value!s:.30} must be from {low:,} to {high:,}")
