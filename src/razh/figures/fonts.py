"""Fonts for names in scripts that matplotlib's own font lacks."""

import logging
from functools import cache

from matplotlib.font_manager import FontEntry, FontProperties, findfont, fontManager, get_font

__all__ = ["families"]

log = logging.getLogger(__name__)

USUAL = "sans-serif"
NO_SCRIPT = "Last Resort"  # has every character, as a box that names the script


@cache
def families(characters: frozenset[str]) -> tuple[str, ...]:
    """Return the families of installed fonts that have these characters together, the usual one first.

    What it lacks comes from few fonts: next is the one that has most of what is missing. Characters that no font has
    are warned of, with the way out.
    """
    found, missing = [USUAL], characters - _characters(findfont(FontProperties(family=[USUAL])))
    files = {font.fname: font.name for font in fontManager.ttflist if _plain(font)} if missing else {}
    while missing and (has := max((missing & _characters(file) for file in files), key=len, default=frozenset())):
        found.append(next(name for file, name in files.items() if has <= _characters(file)))
        missing -= has
    if missing:
        log.warning(
            "no installed font has %s: boxes stand for them in figures; install a font of that script (Noto has all)",
            " ".join(sorted(missing)[:10]),
        )
    return tuple(found)


def _plain(font: FontEntry) -> bool:
    return font.style == "normal" and font.weight in (400, "normal", "regular") and not font.name.startswith(NO_SCRIPT)


@cache
def _characters(file: str) -> frozenset[str]:
    try:
        return frozenset(map(chr, get_font(file).get_charmap()))
    except (OSError, RuntimeError):  # removed since fonts were listed, or of a kind that cannot be drawn
        return frozenset()
