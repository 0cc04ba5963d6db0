"""Paths as users write them."""

from __future__ import annotations

import os
from typing import overload

__all__ = ["expanded"]


@overload
def expanded(path: str, argument: str) -> str: ...
@overload
def expanded(path: None, argument: str) -> None: ...
def expanded(path: str | None, argument: str) -> str | None:
    """Return a path with the home folder for a leading `~` or `~user`; None stays None.

    Args:
        path: The path, or what begins with one.
        argument: Its name in errors.

    Raises:
        ValueError: The path is empty, like that of a variable which is not set.
    """
    if path is not None and not str(path).strip():
        raise ValueError(f"{argument} is empty; is a variable not set? Give a path, or leave the option out")
    return None if path is None else os.path.expanduser(path)
