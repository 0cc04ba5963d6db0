"""The nearest images in a file of codes, as `razh encode` writes it."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from razh.retrieval.hamming import distances, rank
from razh.retrieval.packing import check_packed

__all__ = ["Gallery", "Hits", "find"]


@dataclass(frozen=True, eq=False)
class Gallery:
    """What is searched: packed codes (G, ⌈L/8⌉), the paths of their images, and what made them."""

    codes: NDArray[np.uint8]
    paths: list[str]
    bits: int
    checkpoint: str
    source: str

    @classmethod
    def read(cls, path: Path) -> Gallery:
        """Read a file that `razh encode` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is not such a file, or damaged.
        """
        if not path.is_file():
            raise FileNotFoundError(f"no file of codes at {path}; write one with `razh encode`")
        try:
            with np.load(path, allow_pickle=False) as file:
                found = {name: file[name] for name in file.files}
        except (OSError, ValueError, EOFError, AttributeError, TypeError, zipfile.BadZipFile):
            raise ValueError(f"{path} cannot be read as .npz; write it with `razh encode`") from None
        if missing := [name for name in ("codes", "paths", "bits") if name not in found]:
            raise ValueError(f"{path} lacks {', '.join(missing)}; `razh search` needs a file that `razh encode` wrote")
        bits, paths = int(found["bits"]), [str(name) for name in found["paths"]]
        codes = check_packed(found["codes"], bits, f"codes in {path}")
        if len(codes) != len(paths) or not paths:
            raise ValueError(f"{path} has {len(codes)} codes and {len(paths)} paths; encode the images again")
        return cls(codes, paths, bits, str(found.get("checkpoint", "")), str(path))


@dataclass(frozen=True)
class Hits:
    """A query's list: distance and path of each hit, nearest first, and how many equals of the last were cut off."""

    query: str
    found: list[tuple[int, str]]
    more: int


def find(
    gallery: Gallery, names: Sequence[str], codes: NDArray[np.uint8], rows: Sequence[int], top: int, within: int | None
) -> list[Hits]:
    """Return the nearest images of each query.

    Args:
        gallery: what is searched.
        names: of the queries.
        codes: of the queries, packed (q, ⌈L/8⌉).
        rows: of the queries in the gallery, which are left out of their lists; −1 for none.
        top: length of a list.
        within: largest distance; None for any.
    """
    near, order = rank(codes, gallery.codes, gallery.bits, top + 1)
    hits = []
    for query, (name, own) in enumerate(zip(names, rows, strict=True)):
        listed = [(int(d), int(r)) for d, r in zip(near[query], order[query], strict=True) if r != own]
        listed = [(d, r) for d, r in listed[:top] if within is None or d <= within]
        more = 0
        if len(listed) == top:
            every = distances(codes[query : query + 1], gallery.codes, gallery.bits)[0]
            equal = every == listed[-1][0]
            more = int(equal.sum()) - sum(d == listed[-1][0] for d, _ in listed) - int(own >= 0 and equal[own])
        hits.append(Hits(name, [(d, gallery.paths[r]) for d, r in listed], more))
    return hits
