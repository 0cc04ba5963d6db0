"""Hits as CSV, JSON, and a page that needs nothing beside it."""

from __future__ import annotations

import csv
import html
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageOps

from razh.datamodules.files.walk import formats, printable
from razh.index.gallery import Hits
from razh.support.pictures import data_uri

if TYPE_CHECKING:
    from razh.index.why import Shared

__all__ = ["FORMATS", "as_text", "because"]

FORMATS = (".csv", ".json", ".html")
SIDE = 160  # pixels of a picture on a page
_STYLE = (
    "body{font:14px sans-serif;margin:2em}section{display:flex;flex-wrap:wrap;gap:12px}h2{font-size:15px}"
    f"figure{{margin:0;width:{SIDE}px}}img,.none{{width:{SIDE}px;height:{SIDE}px;object-fit:cover;background:#ddd}}"
    "figcaption{font-size:11px;overflow-wrap:anywhere}.query img{outline:3px solid #222}p{color:#555}"
    "@media(prefers-color-scheme:dark){body{background:#111;color:#ddd}p{color:#aaa}.query img{outline-color:#ddd}}"
)


def as_text(
    hits: Sequence[Hits],
    suffix: str,
    file_of: Callable[[str], Path],
    title: str,
    code_of: Callable[[int], str],
    why: Sequence[Mapping[str, Sequence[Shared]]] = (),
) -> str:
    """Return hits in the format of a suffix.

    Args:
        hits: of each query.
        suffix: one of `FORMATS`.
        file_of: where the image of a path is.
        title: of a page.
        code_of: code of a row, in hexadecimal digits.
        why: of each query, what it shares with a hit, by the hit's path; empty: not asked for.
    """
    reasons = why or [{}] * len(hits)
    if suffix == ".json":
        plain = [_plain(one, file_of, code_of, some) for one, some in zip(hits, reasons, strict=True)]
        return json.dumps(plain, ensure_ascii=False, indent=1) + "\n"
    if suffix == ".html":
        return _page(hits, file_of, title, reasons)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("query", "place", "distance", "path", *(["shared"] if why else [])))
    for one, some in zip(hits, reasons, strict=True):
        for place, hit in enumerate(one.found, 1):
            writer.writerow((one.query, place, *hit, *([because(some.get(hit[1], ()))] if why else [])))
    return text.getvalue()


def because(shared: Sequence[Shared], most: int | None = None) -> str:
    """Return the names of the strongest attributes that two images share, each with its strength in both."""
    return "; ".join(
        f"{pair.query.name} ({pair.query.strength:.1f}, {pair.hit.strength:.1f})" for pair in shared[:most]
    )


def _plain(
    one: Hits,
    file_of: Callable[[str], Path],
    code_of: Callable[[int], str],
    why: Mapping[str, Sequence[Shared]],
) -> dict[str, object]:
    found = [
        {
            "place": place,
            "distance": distance,
            "path": path,
            "file": str(file_of(path)),
            "row": row,
            "code": code_of(row),
            **({"shared": [_plain_pair(pair) for pair in why[path]]} if path in why else {}),
        }
        for place, ((distance, path), row) in enumerate(zip(one.found, one.rows, strict=True), 1)
    ]
    return {"query": one.query, "hits": found, "more_at_last_distance": one.more}


def _plain_pair(pair: Shared) -> dict[str, object]:
    places = {
        name: {"strength": round(found.strength, 3), "at": found.at}
        for name, found in zip(pair._fields, pair, strict=True)
    }
    return {"attribute": pair.query.name, "part": pair.query.part, **places}


def _page(
    hits: Sequence[Hits], file_of: Callable[[str], Path], title: str, why: Sequence[Mapping[str, Sequence[Shared]]]
) -> str:
    parts = [f'<!doctype html><meta charset="utf-8"><title>{html.escape(title)}</title><style>{_STYLE}</style>']
    for one, some in zip(hits, why, strict=True):
        parts.append(f"<h2>{html.escape(printable(one.query))}</h2><section>")
        if (asked := file_of(one.query)).is_file():
            parts.append(f'<figure class="query">{_picture(asked)}<figcaption>query</figcaption></figure>')
        for distance, path in one.found:
            words = html.escape(printable(path))
            shared = "".join(f"<br>{html.escape(because([pair]))}" for pair in some.get(path, ())[:3])
            told = f"<b>{distance:g}</b> {words}{shared}"
            parts.append(f"<figure>{_picture(file_of(path))}<figcaption>{told}</figcaption></figure>")
        more = f"<p>{one.more:,} more at distance {one.found[-1][0]:g}</p>" if one.more else ""
        none = "" if one.found else "<p>nothing found</p>"
        parts.append(f"</section>{more}{none}")
    return "\n".join(parts) + "\n"


def _picture(path: Path) -> str:
    """Return a small picture as part of a page; a grey square where there is none to be read."""
    known = formats()
    try:
        with Image.open(path, formats=known) as picture:
            picture.draft("RGB", (2 * SIDE, 2 * SIDE))
            small = ImageOps.fit(ImageOps.exif_transpose(picture).convert("RGB"), (SIDE, SIDE))
            return f'<img alt="" src="{data_uri(small, "JPEG", 80)}">'
    except Exception:  # decoders raise what they like, and a page with one picture less is still a page
        return '<div class="none"></div>'
