"""An archive for many clients at once: lists, pictures and reasons, by row number; every answer is of one state."""

from __future__ import annotations

import io
import math
import os
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from razh.datamodules.attributes import named_groups
from razh.datamodules.files.walk import MAX_MEGAPIXELS, formats
from razh.index.archive import Snapshot
from razh.index.describing import FEWEST, Asked, Known, asked, asked_in_words, described, known_classes
from razh.index.gallery import find
from razh.index.loading import explainer

if TYPE_CHECKING:
    import torch

    from razh.index.api import Model
    from razh.index.why import Why
    from razh.serve.decoding import Picture

__all__ = ["Gone", "Hit", "Query", "Reasons", "Results", "Searcher"]

T = TypeVar("T")
DEEPEST = 10_000  # places of a list that can be paged to
UPLOADS, PICTURES, REASONS = 256, 2_048, 256  # that are remembered
REFRESH = 1.0  # seconds between two looks whether the archive has changed
FEW_WORDS = 1_000  # of a column that are offered as filters
SMALL, LARGE = 320, 1_024  # pixels of the longer side


class Gone(LookupError):
    """A row, an upload or a numbering that is not there any more."""


class Query(NamedTuple):
    """What is asked.

    Attributes:
        code: packed (1, ceil(L / 8)); None lists the archive.
        row: of the archive's own image, −1 for others.
        name: path of that image.
        understood: what was described, as it was understood.
        unknown: words that say nothing here.
        attributes: names of those that are wanted.
    """

    code: NDArray[np.uint8] | None = None
    row: int = -1
    name: str = ""
    understood: str = ""
    unknown: Sequence[str] = ()
    attributes: Sequence[str] = ()


class Hit(NamedTuple):
    """An image in a list; `distance` is None where nothing was asked."""

    row: int
    path: str
    group: str
    distance: int | None


class Results(NamedTuple):
    """A page of a list.

    Attributes:
        numbering: names what rows stand for, see `Snapshot.numbering`.
        total: how many images can be paged through.
        hits: of the page.
        query: what was asked.
    """

    numbering: str
    total: int
    hits: list[Hit]
    query: Query


class Reasons(NamedTuple):
    """What a model found in an image: `why`, and the box that it sees, as shares of width and height."""

    why: Why
    box: tuple[float, float, float, float]


class Remembered(Generic[T]):
    """The last values by key, up to so many; threads share it."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._values: OrderedDict[Any, T] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Any) -> T | None:
        """Return the value of a key, which is used last then, or None."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
            return self._values.get(key)

    def put(self, key: Any, value: T) -> T:
        """Remember a value and return it."""
        with self._lock:
            self._values[key] = value
            while len(self._values) > self.most:
                self._values.popitem(last=False)
        return value

    def of(self, key: Any, make: Callable[[], T]) -> T:
        """Return the value of a key, made if it is not there."""
        found = self.get(key)
        return self.put(key, make()) if found is None else found


class Upload(NamedTuple):
    """An image that a client sent, and its code."""

    picture: Picture
    code: NDArray[np.uint8]


class Searcher:
    """Searches an archive, whatever is added to it meanwhile.

    Args:
        folder: of the archive.
        model: that made its codes; None: only images of the archive can be asked for.

    Raises:
        FileNotFoundError: there is no archive.
        ValueError: it is damaged.
    """

    def __init__(self, folder: Path, model: Model | None) -> None:
        self._snapshot, self._looked = Snapshot(folder), time.monotonic()
        self.model = model
        self._network, self._looking = threading.Lock(), threading.Lock()
        self._uploads: Remembered[Upload] = Remembered(UPLOADS)
        self._pictures: Remembered[bytes] = Remembered(PICTURES)
        self._reasons: Remembered[Reasons] = Remembered(REASONS)
        self._facts: Remembered[Any] = Remembered(4)

    # ------------------------------------------------------------------------------------------------- what there is

    @property
    def now(self) -> Snapshot:
        """The archive as it is, at most `REFRESH` seconds ago."""
        if time.monotonic() - self._looked > REFRESH and self._looking.acquire(blocking=False):
            try:
                fresh = Snapshot(self._snapshot.folder)
                if fresh.serial != self._snapshot.serial:
                    self._snapshot = fresh
                self._looked = time.monotonic()
            finally:
                self._looking.release()
        return self._snapshot

    def facts(self) -> dict[str, Any]:
        """Return what a page needs to know of the archive and of what can be asked."""
        now = self.now
        names = self.attribute_names
        groups = named_groups(names)
        parts = [groups[1][number] for number in groups[0]] if groups else [""] * len(names)
        problem = self._describing_problem(now)
        return {
            "name": ", ".join(now.sources) or now.folder.name,
            "images": len(now),
            "bits": now.bits,
            "numbering": now.numbering,
            "method": "" if self.model is None else self.model.network.kind,
            "uploads": self.model is not None,
            "why": self.model is not None and self.model.network.tells_why,
            "attributes": [{"name": name, "part": part} for name, part in zip(names, parts, strict=True)]
            if not problem
            else [],
            "attributes_problem": problem,
            "filters": self._facts.of(("filters", now.serial), lambda: _filters(now)),
        }

    @property
    def attribute_names(self) -> list[str]:
        """Names of the attributes that the checkpoint knows."""
        return (
            [] if self.model is None else [str(name) for name in self.model.network.info.get("attribute_names") or []]
        )

    def _describing_problem(self, now: Snapshot) -> str:
        """Return why nothing can be described, in one line; "" where it can."""
        if self.model is None:
            return "the checkpoint that made the archive is not there"
        if not self.attribute_names:
            return "the checkpoint knows no attributes"
        known = self._known(now)
        return (
            ""
            if len(known.attributes) >= FEWEST
            else "neither the archive nor the folder of the checkpoint knows 3 training classes"
        )

    def _known(self, now: Snapshot) -> Known:
        assert self.model is not None
        network = self.model.network
        known: Known = self._facts.of(("known", now.serial), lambda: known_classes(network, now))
        return known

    # --------------------------------------------------------------------------------------------------- what is asked

    def of_row(self, row: int, numbering: str) -> Query:
        """Return the query that an image of the archive is; raises `Gone`."""
        now = self._at(numbering, row)
        return Query(now.codes[row : row + 1], row, now.paths[row])

    def of_upload(self, key: str) -> Query:
        """Return the query that an upload is; raises `Gone`."""
        return Query(self._upload(key).code)

    def of_attributes(self, strengths: Mapping[str, float]) -> Query:
        """Return the query of what is described.

        Raises:
            ValueError: an attribute is unknown, may be several, or nothing can be described.
        """
        known = self._describable()
        return _described(asked(strengths, known.names), known=known)

    def of_words(self, text: str) -> Query:
        """Return the query of what a text describes; raises as `of_attributes` does."""
        known = self._describable()
        return _described(*asked_in_words(text, known), known=known)

    def _describable(self) -> Known:
        now = self.now
        if problem := self._describing_problem(now):
            raise ValueError(f"attributes cannot be asked for: {problem}")
        return self._known(now)

    def upload(self, picture: Picture) -> str:
        """Encode an upload and return the key by which it can be asked for."""
        if self.model is None:
            raise ValueError("the checkpoint that made the archive is not there; start `razh serve` with --checkpoint")
        with self._network:
            code = self.model.network.look(picture.view[None]).codes
        key = secrets.token_urlsafe(12)
        self._uploads.put(key, Upload(picture, code))
        return key

    def preview(self, key: str) -> bytes:
        """Return a smaller copy of an upload, JPEG; raises `Gone`."""
        return self._upload(key).picture.preview

    def _upload(self, key: str) -> Upload:
        found = self._uploads.get(key)
        if found is None:
            raise Gone("this photo is not remembered any more; send it again")
        return found

    def _at(self, numbering: str, row: int) -> Snapshot:
        now = self.now
        if numbering != now.numbering:
            raise Gone("the archive was packed and its rows have new numbers; search again")
        if not 0 <= row < len(now.codes) or (now.alive is not None and not now.alive[row]):
            raise Gone(f"the archive has no image {row} any more; search again")
        return now

    # ---------------------------------------------------------------------------------------------------- what is found

    def search(self, query: Query, where: Mapping[str, Sequence[str]], offset: int, limit: int) -> Results:
        """Return a page of the images nearest to a query, by (distance, row), or of all.

        All come in the archive's order where they are filtered, and else in one that shows at once what there is.

        Raises:
            ValueError: a filter that the archive does not have.
        """
        now = self.now
        gallery, group = now.gallery(where), now.columns["class"]
        last = min(offset + limit, DEEPEST)
        page: list[tuple[int, int | None]]
        if query.code is None:
            rows = np.arange(len(now.codes)) if gallery.mask is None else np.flatnonzero(gallery.mask)
            rows = rows if where else rows[_spread(len(rows))]
            total, page = len(rows), [(int(row), None) for row in rows[offset:last]]
        else:
            # Every code is looked at: any number of threads can search a snapshot while the archive grows.
            (hits,) = find(gallery, [""], query.code, [query.row], last, None)
            own = query.row >= 0 and (gallery.mask is None or bool(gallery.mask[query.row]))
            found = zip(hits.rows[offset:], hits.found[offset:], strict=True)
            total, page = len(gallery) - own, [(int(row), int(distance)) for row, (distance, _) in found]
        shown = [Hit(row, now.paths[row], group[row], distance) for row, distance in page]
        return Results(now.numbering, min(total, DEEPEST), shown, query)

    def picture(self, row: int, numbering: str, large: bool) -> bytes:
        """Return a smaller copy of an image of the archive, JPEG, without what cameras write beside the pixels.

        Raises:
            Gone: there is no such row, or its file cannot be read as an image.
        """
        file = self._file(self._at(numbering, row), row)
        return self._pictures.of((numbering, row, large), lambda: _smaller(file, LARGE if large else SMALL))

    def _file(self, now: Snapshot, row: int) -> Path:
        """Return the file of a row; a path that would lead out of the folders that were indexed is none."""
        name = now.paths[row]
        source, _, inside = name.partition("/")
        if source not in now.sources or os.path.isabs(inside) or ".." in Path(inside).parts:
            raise Gone(f"image {row} lies in none of the folders of the archive")
        return Path(now.file_of(name))

    # ---------------------------------------------------------------------------------------------------------- why

    def why_row(self, row: int, numbering: str) -> Reasons:
        """Return what the model finds in an image of the archive.

        Raises:
            Gone: there is no such row, or its file cannot be read.
            ValueError: the checkpoint cannot tell.
        """
        file = self._file(self._at(numbering, row), row)
        return self._reasons.of((numbering, row), lambda: self._explained(lambda: _read(file)))

    def why_upload(self, key: str) -> Reasons:
        """Return what the model finds in an upload; raises as `why_row` does."""
        picture = self._upload(key).picture
        return self._reasons.of(key, lambda: self._explained(lambda: _tensor(picture), picture.size))

    def _explained(self, read: Callable[[], torch.Tensor], size: tuple[int, int] | None = None) -> Reasons:
        if self.model is None:
            raise ValueError("the checkpoint that made the archive is not there; start `razh serve` with --checkpoint")
        loaded, image = explainer(self.model.network), read()
        from razh.index.why import explain  # needs torch

        with self._network:
            why = explain(loaded, image)
        width, height = size or (image.shape[-1], image.shape[-2])
        side = min(width, height)
        box = ((width - side) / 2 / width, (height - side) / 2 / height, side / width, side / height)
        return Reasons(why, box)


def _described(wanted: Asked, unknown: Sequence[str] = (), *, known: Known) -> Query:
    names = [known.names[place] for place, (strength, _) in wanted.attributes.items() if strength]
    return Query(described(wanted, known).code, understood=wanted.text, unknown=unknown, attributes=names)


def _spread(count: int) -> NDArray[np.int64]:
    """Return all of so many places in an order whose beginning is spread over them: it shows what there is."""
    step = next((step for step in range(int(count * 0.618) or 1, count) if math.gcd(step, count) == 1), 1)
    return np.arange(count) * step % max(count, 1)


def _filters(now: Snapshot) -> list[dict[str, Any]]:
    """Return the words of each column that tells images apart, by frequency, with their counts."""
    found = []
    for name, column in now.columns.items():
        counts = {word: count for word, count in column.counts(now.alive).items() if word}
        if len(counts) > 1:
            words = sorted(counts, key=str.casefold) if len(counts) <= FEW_WORDS else list(counts)[:FEW_WORDS]
            found.append({"column": name, "words": [{"word": word, "count": counts[word]} for word in words]})
    return found


def _smaller(file: Path, side: int) -> bytes:
    known = formats()
    try:
        with Image.open(file, formats=known) as picture:
            if picture.width * picture.height > MAX_MEGAPIXELS * 1e6:
                raise Gone(f"image file {file.name} has too many pixels")
            picture.draft("RGB", (2 * side, 2 * side))
            upright = ImageOps.exif_transpose(picture).convert("RGB")
            upright.thumbnail((side, side))
            content = io.BytesIO()
            upright.save(content, "JPEG", quality=82)
    except Gone:
        raise
    except Exception:  # decoders raise what they like
        raise Gone(f"image file {file.name} cannot be read") from None
    return content.getvalue()


def _tensor(picture: Picture) -> torch.Tensor:
    import torch

    return torch.from_numpy(picture.view)


def _read(file: Path) -> torch.Tensor:
    from razh.datamodules.images import read_image

    try:
        return read_image(file)
    except OSError as error:
        raise Gone(str(error)) from None
