"""The nearest images in a file of codes, as `razh encode` writes it."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from razh.index.engines import Engine
from razh.retrieval import asymmetric
from razh.retrieval.hamming import nearest
from razh.retrieval.packing import check_packed
from razh.support.files import ArrayFile

__all__ = ["RERANKED", "Gallery", "Hits", "Paths", "block_of", "by_features", "find"]

BLOCK_BYTES = 1 << 20  # of paths that are looked at together
SPARE = 100
RERANKED = 100  # hits that features put in order, at least
FEW = 8  # names that are faster looked for in a block one by one than in a table of its paths
_END = 255  # behind a name of ASCII, until the zeros that pad it are gone
_END_TO_ZERO = bytes(range(_END)) + b"\0"
ODD = "surrogateescape"  # bytes of a name that is no UTF-8 stay as they are


class Paths:
    """Paths by row, as one block of UTF-8 in which each is ended by a zero byte: a million of them are no objects."""

    def __init__(self, block: NDArray[np.uint8], ends: NDArray[np.int64] | None = None) -> None:
        """Take a block (bytes,), and its zeros where they are known; raises ValueError if the last path has no end."""
        if block.ndim != 1 or block.dtype != np.uint8 or (len(block) and block[-1]):
            raise ValueError(f"paths is no UTF-8 with a zero byte after each path, but {block.dtype} {block.shape}")
        self.block = block
        self.ends = np.flatnonzero(block == 0) if ends is None else ends

    @classmethod
    def of(cls, names: Sequence[str]) -> Paths:
        """Return the paths of that many names."""
        return cls(block_of(names))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, row: int) -> str:
        start = self.ends[row - 1] + 1 if row else 0
        return self.block[start : self.ends[row]].tobytes().decode(errors=ODD)

    def named(self, rows: NDArray[np.int64]) -> list[str]:
        """Return the paths of several rows."""
        ends = self.ends[rows].tolist()
        starts = np.where(rows > 0, self.ends[rows - 1] + 1, 0).tolist()
        block = self.block.data
        return [str(block[start:end], errors=ODD) for start, end in zip(starts, ends, strict=True)]

    def rows_of(self, names: Collection[str]) -> dict[str, int]:
        """Return the row of every name that is among the paths."""
        wanted = {name.encode(errors=ODD): name for name in names}
        found: dict[str, int] = {}
        step = max(1, BLOCK_BYTES * len(self) // max(1, len(self.block)))
        for first in range(0, len(self), step):
            start = self.ends[first - 1] + 1 if first else 0
            text = self.block[start : self.ends[min(first + step, len(self)) - 1]].tobytes()
            if len(wanted) > FEW or any(path in text for path in wanted):
                some = text.split(b"\0")
                if not wanted.keys().isdisjoint(some):
                    found |= {wanted[path]: first + row for row, path in enumerate(some) if path in wanted}
        return found


def block_of(names: Sequence[str]) -> NDArray[np.uint8]:
    """Return the block of bytes of some paths, each ended by a zero."""
    text = "\0".join(names) + "\0" if names else ""
    return np.frombuffer(text.encode(errors=ODD), dtype=np.uint8)


def _read_paths(member: IO[bytes]) -> Paths:
    """Read an .npy of paths: a block of bytes, or an array of strings, of which a few at a time are held."""
    version = npy.read_magic(member)
    header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = header(member)
    if len(shape) != 1 or dtype.kind not in "uU" or not dtype.itemsize:
        raise ValueError(f"paths has shape {shape} and dtype {dtype}")
    if dtype == np.uint8:
        return Paths(np.frombuffer(member.read(shape[0]), dtype))
    blocks = [_of_array(some) for some in _strings(member, shape[0], dtype)]
    return Paths(np.concatenate(blocks) if blocks else block_of([]))


def _of_array(names: NDArray[np.str_]) -> NDArray[np.uint8]:
    """Return the block of an array of strings; of ASCII without a Python string a path."""
    letters = names.view(np.uint32).reshape(len(names), -1)
    if letters.max(initial=0) >= 128:
        return block_of(names.tolist())
    rows = np.full((len(names), letters.shape[1] + 1), _END, dtype=np.uint8)
    rows[:, :-1] = letters
    return np.frombuffer(rows.tobytes().translate(_END_TO_ZERO, b"\0"), dtype=np.uint8)  # without what pads a name


def _strings(member: IO[bytes], count: int, dtype: np.dtype[np.str_]) -> Iterator[NDArray[np.str_]]:
    step = max(1, BLOCK_BYTES // dtype.itemsize)
    for start in range(0, count, step):
        some = min(step, count - start)
        yield np.frombuffer(member.read(some * dtype.itemsize), dtype, some).astype(dtype.newbyteorder("="), copy=False)


@dataclass(frozen=True, eq=False)
class Gallery:
    """What is searched: packed codes (G, ⌈L/8⌉), the paths of their images, and what made them.

    Where there is a `mask` (G,), only rows in it are found.
    """

    codes: NDArray[np.uint8]
    paths: Paths
    bits: int
    checkpoint: str
    source: str
    mask: NDArray[np.bool_] | None = None

    @property
    def checkpoint_path(self) -> Path | None:
        """Where the checkpoint was that made the codes; None: unknown."""
        return None

    def rows_of(self, queries: Sequence[str]) -> dict[str, int]:
        """Return the row of every query that is a path of an image here."""
        return self.paths.rows_of(queries)

    def file_of(self, name: str, images: Path | None) -> Path:
        """Return the file of an image; `images` is the folder that was encoded, where the gallery cannot know it."""
        return (images or Path()) / name

    def __len__(self) -> int:
        """Return how many images can be found."""
        return len(self.codes) if self.mask is None else int(np.count_nonzero(self.mask))

    @classmethod
    def read(cls, path: Path) -> Gallery:
        """Read a file that `razh encode` wrote, or an `.npz` with codes, an array of paths, and bits.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is not such a file, or damaged.
        """
        if not path.is_file():
            raise FileNotFoundError(f"no file of codes at {path}; write one with `razh encode`")
        try:
            with ArrayFile(path) as file:
                if missing := [name for name in ("codes", "paths", "bits") if name not in file.headers]:
                    raise KeyError(", ".join(missing))
                bits, codes = int(file.read("bits")), file.read("codes")
                checkpoint = str(file.read("checkpoint")) if "checkpoint" in file.headers else ""
                with file.open("paths") as member:
                    paths = _read_paths(member)
        except KeyError as error:
            raise ValueError(
                f"{path} lacks {error.args[0]}; `razh search` needs a file that `razh encode` wrote"
            ) from None
        except (OSError, ValueError, TypeError, zlib.error, zipfile.BadZipFile) as error:
            raise ValueError(f"{path} cannot be read as .npz ({error}); write it with `razh encode`") from None
        codes = check_packed(codes, bits, f"codes in {path}")
        if len(codes) != len(paths) or not len(paths):
            raise ValueError(f"{path} has {len(codes)} codes and {len(paths)} paths; encode the images again")
        return cls(codes, paths, bits, checkpoint, str(path))


@dataclass(frozen=True)
class Hits:
    """A query's list.

    Attributes:
        query: its name.
        found: distance and path of each hit, nearest first.
        more: how many equals of the last one were cut off.
        at_least: whether there may be more of them than that.
        rows: of each hit in the gallery.
    """

    query: str
    found: Sequence[tuple[float, str]]
    more: int
    at_least: bool = False
    rows: Sequence[int] = field(default=(), compare=False)


def find(
    gallery: Gallery,
    names: Sequence[str],
    codes: NDArray[np.uint8],
    rows: Sequence[int],
    top: int,
    within: int | None,
    engine: Engine | None = None,
    spare: int = SPARE,
    logits: NDArray[np.float32] | None = None,
) -> list[Hits]:
    """Return the nearest images of each query.

    Args:
        gallery: what is searched.
        names: of the queries.
        codes: of the queries, packed (q, ⌈L/8⌉).
        rows: of the queries in the gallery, which are left out of their lists; −1 for none.
        top: length of a list.
        within: largest distance; None for any.
        engine: has the rows of the gallery that are alive, and searches; None looks at every code, without FAISS.
        spare: hits that an engine is asked for beyond a list, to count the equals of its last one.
        logits: of the queries (q, L), to rank all codes by, see `razh.retrieval.asymmetric`; None: by the codes.

    Raises:
        ValueError: the gallery is empty, or `top` below 1.
    """
    if not len(gallery.codes):
        raise ValueError(f"{gallery.source} has no images; add some with `razh index add {gallery.source} FOLDER`")
    near: NDArray[np.integer[Any]]
    one = 1 if logits is None else asymmetric.ONE
    if logits is not None:
        near, order, equal = asymmetric.nearest(logits, gallery.codes, gallery.bits, top + 1, mask=gallery.mask)
    elif engine is None:
        near, order, equal = nearest(codes, gallery.codes, gallery.bits, top + 1, mask=gallery.mask)
    else:
        where = gallery.mask if len(gallery) < len(engine) else None
        near, order = engine.search(codes, top + 1 + spare, where)
        equal = (near == near[:, -1:]).sum(axis=1)
    hits = []
    for query, (name, own) in enumerate(zip(names, rows, strict=True)):
        others = (order[query] != own) & (order[query] >= 0)
        distances, places = near[query][others], order[query][others]
        kept = slice(top if within is None else min(top, int(np.searchsorted(distances, within * one, side="right"))))
        listed, last = distances[kept], distances[kept][-1:]
        more, at_least = 0, False
        if len(listed) == top:
            ends = last[0] == near[query, -1]  # the list is full of equals up to its end
            at_last = int(equal[query]) if ends else int((near[query] == last).sum())
            listed_too = own >= 0 and (gallery.mask is None or gallery.mask[own])
            asked = codes[query] if logits is None else logits[query]
            own_at_last = listed_too and _distance(asked, gallery.codes[own], gallery.bits) == last[0]
            more = at_last - int((listed == last).sum()) - int(own_at_last)
            at_least = bool(ends) and logits is None and engine is not None and near.shape[1] < len(gallery)
        at, far = places[kept], listed.tolist() if one == 1 else np.round(listed / one, 2).tolist()
        hits.append(Hits(name, list(zip(far, gallery.paths.named(at), strict=True)), more, at_least, at.tolist()))
    return hits


def _distance(query: NDArray[Any], code: NDArray[np.uint8], bits: int) -> int:
    """Return the distance of a packed code to another one (ceil(L / 8),) or to logits (L,)."""
    if query.dtype == np.uint8:
        return int(np.bitwise_count(query ^ code).sum())
    return int(asymmetric.distances(query[None], code[None], bits)[0, 0])


def by_features(hits: Hits, query: NDArray[np.floating[Any]], features: NDArray[np.float16], top: int) -> Hits:
    """Return the first hits of a list by the cosine of their features (n, D) with that of the query (D,).

    Args:
        hits: the nearest by code.
        query: of length 1.
        features: of the gallery, of length 1.
        top: length of the list.
    """
    likeness = features[list(hits.rows)].astype(np.float32) @ query.astype(np.float32)
    order = np.argsort(-likeness, kind="stable")[:top].tolist()
    return Hits(hits.query, [hits.found[place] for place in order], 0, False, [hits.rows[place] for place in order])
