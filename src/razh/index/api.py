"""What Python programs use: `razh.load` gives a `Model`, `razh.Archive.open` an `Archive`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from razh.export.facts import weights_of
from razh.index.archive import ArchiveWriter, Snapshot
from razh.index.loading import explainer, open_network
from razh.index.network import Encoded, Network, One, arrays_of
from razh.index.opening import MIN_RECALL, follow, open_engine
from razh.index.options import Encoding, Precision
from razh.index.queries import Queries, Ranking, features_of, find_each
from razh.index.updating import Report, read_columns, update
from razh.support.files import digest_of

if TYPE_CHECKING:
    from razh.index.describing import Known
    from razh.index.why import Why
    from razh.method import HashingMethod

__all__ = ["Archive", "Hit", "Model", "load"]

PathLike: TypeAlias = "str | os.PathLike[str]"
Images: TypeAlias = "One | Sequence[One]"
"""An image or several: paths (of a folder: all images in it), PIL images, uint8 arrays (H, W), (H, W, 3) or
(n, H, W, 3), uint8 tensors (3, H, W) or (n, 3, H, W); of any size."""


def load(checkpoint: PathLike, device: str | None = None) -> Model:
    """Load a checkpoint that `razh train` wrote, or what `razh export` made of one.

    Args:
        checkpoint: the file; or the folder of an export, here or as `hf://owner/name[@revision]` on the Hugging Face
            hub. An ONNX file needs no torch.
        device: `cpu`, `cuda`, `cuda:1`, …; None for a GPU where there is one.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged or no checkpoint of razh, or there is no such device.
        OSError: the hub cannot be reached.
        ImportError: packages are missing.
    """
    path = weights_of(Path(checkpoint))
    return Model(open_network(path, device), path)


class Model:
    """A trained network that turns images into codes.

    Attributes:
        network: what encodes, by torch or without.
        checkpoint: the file that it came from.
        bits: code length L.
    """

    def __init__(self, network: Network, checkpoint: Path) -> None:
        self.network, self.checkpoint = network, checkpoint
        self.bits = network.bits

    @property
    def method(self) -> HashingMethod:
        """The network as a `torch.nn.Module`.

        Raises:
            ValueError: it was exported to ONNX, and is none.
        """
        return explainer(self.network).method

    def encode(self, images: Images, batch_size: int | None = None, precision: Precision = "32") -> NDArray[np.uint8]:
        """Return packed codes (n, ceil(L / 8)), see `razh.retrieval.packing.unpack`, in the order of the images.

        Args:
            images: one or several; a folder stands for its images in the order of their names.
            batch_size: images at once; None for the device's own.
            precision: `bf16` is faster where the processor has it, and changes some bits.

        Raises:
            OSError: a file cannot be read as an image, or there is none.
            ValueError: an array or tensor is no uint8 image.
        """
        return self.look(images, False, batch_size, precision).codes

    def look(
        self, images: Images, features: bool, batch_size: int | None = None, precision: Precision = "32"
    ) -> Encoded:
        """Return codes, the logits (n, L) whose signs they are, and, if wanted, features (n, D), see `encode`."""
        size, views = batch_size or self.network.batch_size, self._views(images)
        made = [Encoded(np.empty((0, -(-self.bits // 8)), np.uint8), np.empty((0, self.bits), np.float32), None)]
        while some := list(islice(views, size)):
            made.append(self.network.look(np.stack(some), features, precision))
        described = [one.features for one in made if one.features is not None]
        codes, logits = np.concatenate([one.codes for one in made]), np.concatenate([one.logits for one in made])
        return Encoded(codes, logits, np.concatenate(described) if described else None)

    def describe(self, attributes: Mapping[str, float]) -> NDArray[np.uint8]:
        """Return the packed code (1, ceil(L / 8)) of what has these attributes, for `archive.search(codes=…)`.

        What codes make of the training classes is kept in the run of a checkpoint, in an adapted checkpoint, and in
        what was exported; it says what an attribute changes.

        Args:
            attributes: strengths in [0, 1] by name; the beginnings of a name's words are enough.

        Raises:
            ValueError: an attribute is unknown or may be several, or training classes are not known.
        """
        from razh.index.describing import asked, described, known_classes

        known = known_classes(self.network)
        return described(asked(attributes, known.names), known).code

    def adapt(
        self, images: PathLike | Sequence[PathLike], out: PathLike, described: PathLike | None = None, seed: int = 0
    ) -> Model:
        """Return a model whose codes fit a collection of unlabelled images, or this one where they would be no better.

        Args:
            images: folders or files.
            out: checkpoint to write.
            described: table `class,attribute,…` of classes that may occur, in the units that were trained with.
            seed: of clusters and rotation.

        Raises:
            FileNotFoundError: no such images or table.
            ValueError: too few images, a table that does not fit, or an exported or adapted checkpoint.
        """
        if self.checkpoint.suffix != ".ckpt":
            raise ValueError(f"{self.checkpoint} is an exported network; adapt the checkpoint")
        from razh.index.adapting import Start, adapt
        from razh.index.sources import find_images

        paths = [Path(one) for one in ([images] if isinstance(images, str | os.PathLike) else images)]
        table = None if described is None else Path(described)
        device = str(self.method.device)
        found = adapt(Start(self.checkpoint), find_images(paths), Path(out), table, seed=seed, device=device)
        return self if found.fitted is None else load(out, device)

    def why(self, image: One) -> Why:
        """Return the attributes that are found in one image, the strongest first, and where.

        `model.why(query).shared(model.why(hit))` is what two images have in common.

        Raises:
            OSError: the file cannot be read as an image.
            ValueError: it is no image or several, or the checkpoint reads no attributes part by part.
        """
        loaded = explainer(self.network)
        from razh.datamodules.images import read_image, tensor_of
        from razh.index.why import explain

        images = arrays_of(image)
        if len(images) != 1:
            raise ValueError(f"there are {len(images)} images; ask about one at a time")
        return explain(loaded, read_image(images[0]) if isinstance(images[0], Path) else tensor_of(images[0]))

    def _views(self, images: Images) -> Iterator[NDArray[np.uint8]]:
        for image in images if isinstance(images, list | tuple) else [images]:
            yield from map(self.network.view, arrays_of(image))

    def __repr__(self) -> str:
        return f"Model({str(self.checkpoint)!r}, {self.network.kind}, {self.bits} bits)"


class Hit(NamedTuple):
    """An image that was found.

    Attributes:
        path: its name in the archive.
        distance: of its code, in bits.
        file: where it was when it was indexed.
        row: of its code in the archive, until that is packed.
    """

    path: str
    distance: float
    file: str
    row: int


class Archive:
    """An archive that `razh index` made, searched and changed from Python.

    It shows what was there when it was opened, or at the last `refresh`; others may add images meanwhile. torch is
    imported only where an image has to be encoded.
    """

    def __init__(self, folder: Path, engine: str, uri: str | None, min_recall: float, model: Model | None) -> None:
        """Use `Archive.open` or `Archive.create`."""
        self._now = Snapshot(folder)
        self._options = (engine, uri, min_recall)
        self._engine, self._model = open_engine(self._now, *self._options), model
        self._classes: tuple[Snapshot, Known] | None = None

    @classmethod
    def open(
        cls,
        folder: PathLike,
        engine: str = "flat",
        uri: str | None = None,
        min_recall: float = MIN_RECALL,
        model: Model | None = None,
    ) -> Archive:
        """Open an archive.

        Args:
            folder: of the archive.
            engine: `flat` looks at every code, `ivf` at some lists of them, `milvus` asks a server.
            uri: of the Milvus server.
            min_recall: share of the nearest that `ivf` must find when it is built.
            model: that made the codes; None loads the checkpoint that the archive remembers, when it is needed.

        Raises:
            FileNotFoundError: there is no archive.
            ValueError: it is damaged, the engine is unknown or finds too little, or the model is another one.
            ImportError: the package of the engine is not installed.
        """
        made_by = Snapshot(Path(folder)).checkpoint
        if model is not None and made_by not in (digest_of(model.checkpoint), model.network.origin):
            raise ValueError(f"{folder} was made with another checkpoint than {model.checkpoint}; codes do not compare")
        return cls(Path(folder), engine, uri, min_recall, model)

    @classmethod
    def create(cls, folder: PathLike, images: PathLike, model: Model, features: bool = False) -> Archive:
        """Make an archive of a folder of images, or go on with one that was begun.

        Args:
            folder: of the archive.
            images: folder of the images.
            model: that makes the codes.
            features: keep features, too, for `search(rerank=True)`.

        Raises:
            FileNotFoundError: there is no such folder, or it has no images.
            ValueError: `folder` is no archive, or one of another checkpoint.
            BlockingIOError: another process is writing.
        """
        made = (model.bits, digest_of(model.checkpoint), str(model.checkpoint.absolute()))
        with ArchiveWriter(Path(folder), made, features) as writer:
            update(writer, [Path(images)], lambda: model.network, Encoding())
        return cls.open(folder, model=model)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._now)

    @property
    def bits(self) -> int:
        """Code length L."""
        return self._now.bits

    @property
    def model(self) -> Model:
        """The model that made the codes, loaded when it is asked for.

        Raises:
            ValueError: the checkpoint is another file now.
            FileNotFoundError: it is gone; load it from where it is and pass it to `open`.
        """
        if self._model is None:
            path = Path(self._now.checkpoint_path)
            if path.is_file() and digest_of(path) != self._now.checkpoint:
                raise ValueError(f"{path} is not the checkpoint any more that made {self._now.folder}; pass `model`")
            self._model = load(path)
        return self._model

    def search(
        self,
        query: Images | None = None,
        k: int = 10,
        where: Mapping[str, str | Sequence[str]] | None = None,
        within: int | None = None,
        codes: NDArray[np.uint8] | None = None,
        attributes: Mapping[str, float] | None = None,
        text: str | None = None,
        ranking: Literal["hamming", "asymmetric"] = "hamming",
        rerank: bool = False,
    ) -> list[Any]:
        """Return the nearest images: a list of `Hit`, or of such lists where `query` is a list or `codes` are given.

        Args:
            query: an image of the archive by its path, which needs no model and is not found itself, or any other
                image; or a list of them.
            k: most hits of a query.
            where: only images of which this is true: a word, or several, by column (`class`, `folder`, own ones).
            within: only hits up to this Hamming distance.
            codes: packed codes (q, ceil(L / 8)) in the place of images.
            attributes: strengths by attribute in the place of an image, see `describe`.
            text: words in the place of an image, see `understand`.
            ranking: `asymmetric` weighs bits by the query's real-valued logits, for which it is encoded; every code is
                looked at, by no engine.
            rerank: put the first 100 in the order of their features, which the archive must keep.

        Raises:
            OSError: a query is neither in the archive nor a readable image.
            ValueError: k is below 1, no such column or word, codes of another length, not just one of `query`, `codes`,
                `attributes` and `text`, `codes` with another ranking or order, or an archive without features.
        """
        if sum(one is not None for one in (query, codes, attributes, text)) != 1:
            raise ValueError("give either query, codes, attributes or text")
        how = Ranking(ranking == "asymmetric", rerank)
        if codes is not None and how != Ranking():
            raise ValueError(
                "codes have neither logits nor features; give images, attributes or text with ranking or rerank"
            )
        several = codes is not None or isinstance(query, list | tuple)
        conditions = {name: [word] if isinstance(word, str) else list(word) for name, word in (where or {}).items()}
        gallery = self._now.gallery(conditions)
        if codes is not None:
            asked = Queries([""] * len(codes), codes, [-1] * len(codes), [])
        elif query is not None:
            asked = self._queries(list(query) if isinstance(query, list | tuple) else [query], how)
        else:
            asked = self._described(attributes, text, how)
        hits = find_each(gallery, asked, k, within, self._engine, how, spare=0)
        lists = [
            [Hit(path, d, self._now.file_of(path), row) for (d, path), row in zip(one.found, one.rows, strict=True)]
            for one in hits
        ]
        return lists if several else lists[0]

    def describe(self, attributes: Mapping[str, float]) -> NDArray[np.uint8]:
        """Return the packed code (1, ceil(L / 8)) of what has these attributes, for `search(codes=…)`.

        The archive must have images of training classes, whose codes say what an attribute changes.

        Args:
            attributes: strengths in [0, 1] by name; the beginnings of a name's words are enough.

        Raises:
            ValueError: an attribute is unknown or may be several, or there are no images of three training classes.
        """
        return self._described(attributes, None, Ranking()).codes

    def understand(self, text: str) -> tuple[str, list[str]]:
        """Return what `search(text=…)` makes of words, in one line, and the words that say nothing to it.

        Words are matched with the names of the checkpoint's attributes and classes.

        Raises:
            ValueError: none of the words says anything.
        """
        from razh.index.describing import asked_in_words

        asked, unknown = asked_in_words(text, self._known())
        return asked.text, unknown

    def _known(self) -> Known:
        from razh.index.describing import known_classes

        if self._classes is None or self._classes[0] is not self._now:
            self._classes = self._now, known_classes(self.model.network, self._now)
        return self._classes[1]

    def _described(self, attributes: Mapping[str, float] | None, text: str | None, how: Ranking) -> Queries:
        from razh.index.describing import asked, asked_in_words, described

        known = self._known()
        description = asked(attributes or {}, known.names) if text is None else asked_in_words(text, known)[0]
        made = described(description, known)
        if how.features:
            features_of(self._now.gallery())
        return Queries(
            [""], made.code, [-1], [], made.logits if how.asymmetric else None, made.features if how.features else None
        )

    def _queries(self, queries: Sequence[Any], how: Ranking) -> Queries:
        paths = [str(query) for query in queries if isinstance(query, str | os.PathLike)]
        now = self._now
        at, kept = now.gallery().rows_of(paths), features_of(now.gallery()) if how.features else None
        codes, rows = list[NDArray[np.uint8]](), list[int]()
        logits, features = list[NDArray[np.float32]](), list[NDArray[np.float16]]()
        for query in queries:
            row = at.get(str(query), -1) if isinstance(query, str | os.PathLike) else -1
            stored = slice(row, row + 1)
            if row < 0 or how.asymmetric:
                made = self.model.look(now.file_of(now.paths[row]) if row >= 0 else query, how.features)
                logits.append(made.logits)
            codes.append(now.codes[stored] if row >= 0 else made.codes)
            rows += [row] * len(codes[-1])
            described = kept[stored] if kept is not None and row >= 0 else made.features if how.features else None
            features += [] if described is None else [described]
        return Queries(
            [""] * len(rows),
            np.concatenate(codes),
            rows,
            [],
            np.concatenate(logits) if how.asymmetric else None,
            np.concatenate(features) if how.features else None,
        )

    def add(self, folder: PathLike, columns: PathLike | None = None, prune: bool = False) -> Report:
        """Add a folder of images, or bring the archive up to date with one: only what is new or changed is encoded.

        Args:
            folder: with images; the first of its sub-folders on the way to an image is the image's class.
            columns: a CSV file with a column `path` and others, see `razh index --help`.
            prune: remove images whose file is not there any more.

        Raises:
            FileNotFoundError: there is no such folder, or it has no images.
            ValueError: it overlaps with another folder of the archive.
            BlockingIOError: another process is writing.
        """
        with ArchiveWriter(self._now.folder) as writer:
            report = update(writer, [Path(folder)], lambda: self.model.network, Encoding(), prune)
            if columns is not None:
                writer.set_columns(read_columns(Path(columns), writer))
        self.refresh()
        return report

    def remove(self, paths: Sequence[str]) -> int:
        """Take images out by their paths in the archive, and return how many there were; files stay.

        Raises:
            BlockingIOError: another process is writing.
        """
        with ArchiveWriter(self._now.folder) as writer:
            rows = writer.now.rows_of(paths)
            writer.remove(list(rows.values()))
            writer.commit()
            writer.pack()
        self.refresh()
        return len(rows)

    def refresh(self) -> bool:
        """Show what was added and removed since; return whether anything was.

        Raises:
            ValueError: the archive is damaged.
        """
        before, now = self._now, Snapshot(self._now.folder)
        if now.serial == before.serial:
            return False
        if now.numbering == before.numbering:
            follow(self._engine, now, before)
        else:
            self._engine = open_engine(now, *self._options)
        self._now = now
        return True

    def __repr__(self) -> str:
        return f"Archive({str(self._now.folder)!r}, {len(self):,} images of {self.bits} bits)"
