"""Names as people read them."""

import re
import textwrap

__all__ = ["folded", "readable", "shortened", "wrapped"]


def readable(name: str) -> str:
    """Return the name of a class or an attribute as people write it.

    `004.Groove_billed_Ani` becomes `Groove billed Ani`, `has_wing_color::blue` becomes `wing color: blue`.
    """
    name = re.sub(r"^\d+\.", "", name)
    name = name.removeprefix("has_").replace("::", ": ")
    return " ".join(re.sub(r"[_+]", " ", name).split())


def wrapped(text: str, width: int, lines: int) -> str:
    """Return the text in at most `lines` lines of at most `width` characters; what does not fit becomes an ellipsis."""
    return "\n".join(textwrap.wrap(text, width, max_lines=lines, placeholder="…", break_on_hyphens=False))


def folded(path: str, width: int, lines: int) -> str:
    """Return a path as it is in at most `lines` lines of `width` characters; an ellipsis stands for its middle."""
    room = width * lines
    if len(path) > room:
        head = (room - 1) // 2
        path = f"{path[:head]}…{path[head + 1 - room :]}"
    return "\n".join(path[start : start + width] for start in range(0, len(path), width))


def shortened(text: str, width: int) -> str:
    """Return the text, cut off with an ellipsis behind `width` − 1 characters if it is longer than `width`."""
    return text if len(text) <= width else text[: width - 1].rstrip() + "…"
