"""Names as people read them."""

import re
import textwrap

__all__ = ["readable", "shortened", "wrapped"]


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


def shortened(text: str, width: int) -> str:
    """Return the text, cut off with an ellipsis behind `width` − 1 characters if it is longer than `width`."""
    return text if len(text) <= width else text[: width - 1].rstrip() + "…"
