"""The base of all data modules: annotations, split, attribute vectors and loaders; a data set adds only its facts."""

from __future__ import annotations

import hashlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from razh.datamodules.annotations import Annotations
from razh.datamodules.attributes import attribute_vectors, named_groups
from razh.datamodules.bounds import LARGEST_SEED, refuse_outside
from razh.datamodules.files.integrity import check_images
from razh.datamodules.files.paths import expanded
from razh.datamodules.images import TRANSFORM, evaluation_view, read_image, training_view
from razh.datamodules.items import Array, Batch, Items, whole_batch
from razh.datamodules.protocols import Protocol, make_split
from razh.datamodules.remarks import listed, remarks
from razh.datamodules.sampler import EpochSampler
from razh.datamodules.splits import Rows, Setting, ZeroShotSplit

__all__ = ["Annotations", "Batch", "ZeroShotDataModule"]

log = logging.getLogger(__name__)


class ZeroShotDataModule(L.LightningDataModule, ABC):
    """A data set for zero-shot hashing: seen classes to train on, unseen classes to search for.

    A subclass states `dataset`, `title` and `protocols` and implements `read_annotations`; one without image files also
    overrides `load_image` (or `evaluation_image`) and `image_signatures`. Nothing is read before it is needed, and
    everything is read once.

    Args:
        root: Folder of the data set.
        protocol: Name of the split: one of `protocols`, or `unseen-K%`.
        split_seed: Seed of what the protocol draws, and of the validation classes and images.
        validation_class_share: Share of the seen classes held out to select models on; 0 for no validation.
        validation_image_share: Share of each training class's images held out for the validation database.
        attribute_vectors_file: Where the attributes' vectors come from, see `razh.datamodules.attributes`; None: the
            training classes' rows of the class-attribute matrix.
        image_size: Side S of the images in a batch, pixels.
        batch_size: Training images a batch and device; in validation, test and prediction twice as many.
        num_workers: Loader processes; 0 loads in the main process.
        augment: Random crops and mirroring in training.
        allow_partial: Accept a tree that holds images of some classes only, and cut the others away.
        strict: Refuse damaged and missing images; else they are left out, with a warning and a note in the split.
        max_megapixels: Images of more millions of pixels count as damaged.
        seed: Seed of training order and augmentation.
        setting: What methods may know: `inductive` (images of seen classes), `described` (also the attributes of the
            classes to be searched), `collection` (also the database's images, without labels), or `both`.
        refit: Once validation classes have chosen the epoch, train again on all seen classes, up to that epoch.

    Raises:
        ValueError: A share, size or count is out of range.
    """

    dataset: ClassVar[str] = ""
    """Name of its configuration, experiments/data/NAME.yaml."""
    title: ClassVar[str] = ""
    """Name as its authors write it."""
    subfolder: ClassVar[str] = ""
    """Folder that the official archive unpacks into; `root` may be this folder or its parent."""
    image_folder: ClassVar[str] = "images"
    """Where the images lie in that folder."""
    protocols: ClassVar[Mapping[str, Protocol]] = {}
    """Protocols that the data set has beside `unseen-K%`."""

    def __init__(
        self,
        root: str,
        protocol: str = "ps",
        split_seed: int = 0,
        validation_class_share: float = 0.2,
        validation_image_share: float = 0.1,
        attribute_vectors_file: str | None = None,
        image_size: int = 224,
        batch_size: int = 64,
        num_workers: int = 2,
        augment: bool = True,
        allow_partial: bool = False,
        strict: bool = False,
        max_megapixels: float = 100.0,
        seed: int = 0,
        setting: Setting = "inductive",
        refit: bool = False,
    ) -> None:
        super().__init__()
        refuse_outside(
            split_seed=(split_seed, 0, LARGEST_SEED),
            validation_class_share=(validation_class_share, 0, 0.99),
            validation_image_share=(validation_image_share, 0, 0.99),
            image_size=(image_size, 1, 8_192),
            batch_size=(batch_size, 1, 1_000_000),
            num_workers=(num_workers, 0, 1_024),
            seed=(seed, 0, LARGEST_SEED),
            max_megapixels=(max_megapixels, 0.001, 1e6),
        )
        self.root = Path(expanded(root, "root"))
        self.protocol, self.split_seed = protocol, split_seed
        self.validation_class_share, self.validation_image_share = validation_class_share, validation_image_share
        self.attribute_vectors_file = expanded(attribute_vectors_file, "attribute_vectors_file")
        self.image_size = image_size
        self.batch_size, self.num_workers = batch_size, num_workers
        self.augment, self.allow_partial, self.seed = augment, allow_partial, seed
        self.setting: Setting = setting
        self.refit = refit
        self.strict, self.max_megapixels = strict, max_megapixels
        self._arrays: dict[str, Array] = {}
        self._joined: tuple[Rows, Rows] = (np.zeros(0, np.int64), np.zeros(0, np.int64))
        self._with_image = True
        self._position: dict[str, int] = {}
        self._set_up = False

    # ------------------------------------------------------------------ what a data set implements

    @abstractmethod
    def read_annotations(self) -> Annotations:
        """Read labels, names and class attributes of everything below `root`; classes without images included.

        Raises:
            FileNotFoundError: The data set, or one of its files, is not there.
            ValueError: A file does not have the format that its data set is published in.
        """

    @property
    def folder(self) -> Path:
        """The folder that `annotations.image_paths` are relative to: `root`, or `subfolder` below it."""
        below = self.root / self.subfolder
        return below if below.is_dir() else self.root

    def require_images(self) -> Path:
        """Return the folder with the images.

        Raises:
            FileNotFoundError: There is none; the message says where images come from.
        """
        images = self.folder / self.image_folder
        if not images.is_dir():
            raise FileNotFoundError(
                f"no {self.title} images at {self.root}; run `razh data {self.dataset}`, pass --data_root=…, "
                "or train on --dataset=synthetic"
            )
        return images

    def load_image(self, index: int) -> Tensor:
        """Return image `index` as it is stored, uint8 RGB (3, H, W).

        Raises:
            OSError: The file is missing, cut short or not an image; the message names it.
        """
        return read_image(self.image_path(index), max_megapixels=self.max_megapixels)

    def image_signatures(self) -> Sequence[str]:
        """Return n strings, one an image, that change when what `load_image` returns does: keys of a feature cache.

        Raises:
            NotImplementedError: Images are not files, and the subclass does not say what they depend on.
        """
        if not self.annotations.image_paths:
            raise NotImplementedError(f"{type(self).__name__} has images that are no files: implement image_signatures")
        return self.annotations.signatures

    # ------------------------------------------------------------------ parts, where a data set knows them

    part_synonyms: ClassVar[Mapping[str, str]] = {}
    """What attributes call a part, and what `part_names` calls it."""

    @property
    def part_names(self) -> tuple[str, ...]:
        """Names of the P parts; none if not known."""
        return ()

    @property
    def part_attributes(self) -> NDArray[np.int64] | None:
        """Attribute ids (C, P, …) of each part of each class; None if not known."""
        return None

    def part_masks(self, index: int) -> NDArray[np.uint8] | None:
        """Return the parts of evaluation image `index`, (S, S): 0 nowhere, k + 1 for part k; None if not known."""
        return None

    def part_points(self, index: int) -> NDArray[np.float32] | None:
        """Return x, y and visibility (P, 3) of the parts of evaluation image `index`; None if not known."""
        return None

    # ------------------------------------------------------------------ annotations and split

    @cached_property
    def annotations(self) -> Annotations:
        """What the data set says about itself, without images that cannot be read, and classes without images.

        Raises:
            ValueError: There are such images and `strict` is on, or such classes and `allow_partial` is off.
        """
        complete = self._readable(self.read_annotations())
        images = np.unique(complete.labels)
        if len(images) == len(complete.class_names):
            return complete
        missing = [name for c, name in enumerate(complete.class_names) if c not in set(images.tolist())]
        kind = "readable images" if complete.notes else "images"
        found = (
            f"{len(missing)} of {len(complete.class_names)} classes have no {kind} at {self.root} ({listed(missing)})"
        )
        if not self.allow_partial:
            raise ValueError(
                f"{found}; unpack the complete data set, or pass --data.allow_partial=true to leave them out"
            )
        if len(images) < 2:
            raise ValueError(
                f"{found}; zero-shot learning needs a seen and an unseen class: unpack more of the data set"
            )
        log.warning(
            "%s: left out, the %d others are renumbered from 0; figures are not those of the complete data set",
            found,
            len(images),
        )
        return complete.restricted_to(images)

    def _readable(self, annotations: Annotations) -> Annotations:
        """Check the image files; return the annotations with their signatures, without those that cannot be read."""
        if not annotations.image_paths:
            return annotations
        checked = check_images(self.folder, annotations.image_paths, self.max_megapixels)
        there = np.array([image.there for image in checked])
        broken = np.array([bool(image.problem) for image in checked])
        # A class of which nothing is there was not unpacked: that is `allow_partial`'s to judge.
        told = np.flatnonzero(broken & np.isin(annotations.labels, annotations.labels[there]))
        note = ""
        if len(told):
            note = f"{len(told)} damaged or missing {'image' if len(told) == 1 else 'images'} left out"
            names = listed([annotations.image_paths[i] for i in told])
            found = (
                f"{len(told)} of {len(checked)} images at {self.root} cannot be read ({names}); "
                f"the first: {checked[told[0]].problem}"
            )
            if self.strict:
                raise ValueError(f"{found}; or pass --data.strict=false to leave them out")
            log.warning("left out: %s", found)
        signed = replace(annotations, signatures=tuple(image.signature for image in checked), notes=note)
        return signed.without(np.flatnonzero(broken))

    @property
    def labels(self) -> Rows:
        """Class ids (n,) int64 of all images."""
        return self.annotations.labels

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the C classes in label order."""
        return self.annotations.class_names

    @property
    def attribute_names(self) -> tuple[str, ...]:
        """Names of the M attributes."""
        return self.annotations.attribute_names

    @cached_property
    def class_attributes(self) -> Tensor:
        """Class-attribute matrix (C, M), float32 in [0, 1]."""
        return torch.from_numpy(self.annotations.class_attributes)

    @cached_property
    def attribute_vectors(self) -> Tensor:
        """Vectors of the attributes (M, V), float32; never made from rows of classes that are not trained on."""
        vectors = attribute_vectors(
            self.attribute_vectors_file,
            self.attribute_names,
            self.annotations.class_attributes[self.train_classes.numpy()],
        )
        return torch.from_numpy(vectors)

    @property
    def attribute_groups(self) -> Tensor | None:
        """The part (M,) that each attribute belongs to by its name, int64; None where names say nothing of parts."""
        groups = named_groups(self.attribute_names)
        return None if groups is None else torch.from_numpy(groups[0])

    @property
    def group_names(self) -> tuple[str, ...]:
        """Names of the groups of `attribute_groups`; none where names say nothing of parts."""
        groups = named_groups(self.attribute_names)
        return groups[1] if groups else ()

    @property
    def group_parts(self) -> tuple[tuple[int, ...], ...]:
        """Parts of `part_names` that each group of `attribute_groups` speaks of: those named by its last word."""
        synonyms, spoken = self.part_synonyms, [name.split()[-1] for name in self.group_names]
        return tuple(
            tuple(
                part for part, name in enumerate(self.part_names) if synonyms.get(word, word) in name.casefold().split()
            )
            for word in spoken
        )

    @cached_property
    def split(self) -> ZeroShotSplit:
        """The image lists of `protocol`."""
        return make_split(
            self.protocol,
            self.available_protocols,
            self.annotations,
            seed=self.split_seed,
            validation_class_share=self.validation_class_share,
            validation_image_share=self.validation_image_share,
            setting=self.setting,
            refit=self.refit,
        )

    @property
    def available_protocols(self) -> Mapping[str, Protocol]:
        """The protocols that `protocol` may name beside `unseen-K%`."""
        return self.protocols

    @cached_property
    def train_classes(self) -> Tensor:
        """Sorted ids of the classes that occur in `split.train`, int64."""
        return torch.from_numpy(np.unique(self.labels[self.split.train]))

    @property
    def transform(self) -> str:
        """What turns a stored image into the one that evaluation sees; with an image's signature it says its pixels."""
        return f"{self.dataset}\t{self.image_size}\t{TRANSFORM}"

    @cached_property
    def fingerprint(self) -> str:
        """Hex SHA-256 over all images, in order, and the deterministic transform. It does not depend on the split."""
        digest = hashlib.sha256(self.transform.encode())
        for signature in self.image_signatures():
            digest.update(f"\n{signature}".encode())
        return digest.hexdigest()

    def setup(self, stage: str) -> None:
        """Say what is doubtful about the data, and make sure that all processes have the same.

        Raises:
            ValueError: Another process found other images.
        """
        trainer = self.trainer
        if self._set_up or trainer is None:
            return
        self._set_up = True
        if trainer.world_size > 1:
            mine = (self.fingerprint, self.split.fingerprint)
            same = trainer.strategy.broadcast(mine) == mine
            if not trainer.strategy.reduce_boolean_decision(same, all=True):
                raise ValueError(f"processes find different images at {self.root}; give all nodes the same files")
        if trainer.is_global_zero:
            for line in remarks(self.annotations, self.split):
                log.warning("%s: %s", self.dataset, line)

    # ------------------------------------------------------------------ images

    def image_path(self, index: int) -> Path:
        """Return the file of image `index`."""
        return self.folder / self.annotations.image_paths[index]

    def evaluation_image(self, index: int) -> Tensor:
        """Return image `index` as evaluation and feature caches see it, uint8 (3, S, S): resized, centre cut out."""
        return evaluation_view(self.load_image(index), self.image_size)

    def training_image(self, index: int, draw: int) -> Tensor:
        """Return a random crop of image `index`, mirrored half of the time, uint8 (3, S, S): a function of `draw`."""
        return training_view(self.load_image(index), self.image_size, draw)

    def attach(self, arrays: Mapping[str, Array], drop_image: bool = True) -> None:
        """Serve cached arrays in each batch.

        Training takes a random view of an image if `augment` is on and images are left out, everything else takes
        view 0.

        Args:
            arrays: By batch key, values (views, n, …) of all n images; view 0 belongs to `evaluation_image`, view 1
                to its mirror image. Memory-mapped arrays and `CachedRows` stay on disk.
            drop_image: Leave `image` out of the batch: nothing is decoded, and the loaders need no workers. Else
                images are what they are without arrays: random crops in training.

        Raises:
            ValueError: An array is not of this data set's length, or its name is taken.
        """
        for name, array in arrays.items():
            shape = array.shape
            if len(shape) < 2 or shape[0] < 1 or shape[1] != len(self.labels):
                raise ValueError(
                    f"array {name!r} has shape {shape}, but must be (views, {len(self.labels)}, …); rebuild the cache"
                )
            if name in ("image", "label", "index"):
                raise ValueError(f"array {name!r} has the name of a batch key; choose another")
        self._arrays = dict(arrays)
        self._with_image = not (drop_image and arrays)

    @property
    def attached(self) -> tuple[str, ...]:
        """Names of the cached arrays that each batch has."""
        return tuple(self._arrays)

    # ------------------------------------------------------------------ loaders

    def train_dataloader(self) -> DataLoader[Batch]:
        """Return the loader of `split.train` and of what joined it, in this epoch's order."""
        return self._loader(np.union1d(self.split.train, self._joined[0]), training=True)

    def join(self, rows: Rows, labels: Rows) -> None:
        """Train also on images of `split.unlabelled`, rows (k,), as if of classes `labels` (k,): ids, not their own."""
        self._joined = rows, labels

    def val_dataloader(self) -> DataLoader[Batch] | list[DataLoader[Batch]]:
        """Return one loader of validation queries and database; an empty list if nothing is held out."""
        rows = np.union1d(self.split.validation_query, self.split.validation_database)
        return self._loader(rows) if len(rows) else []

    def test_dataloader(self) -> DataLoader[Batch]:
        """Return one loader of `split.query` and `split.database`."""
        return self._loader(np.union1d(self.split.query, self.split.database))

    def predict_dataloader(self) -> DataLoader[Batch]:
        """Return the loader of the test images."""
        return self.test_dataloader()

    def initialisation_dataloader(self) -> DataLoader[Batch]:
        """Return the train images in order, as in evaluation; every device gets all of them, so all start alike."""
        return self._loader(self.split.train, sharded=False)

    def evaluation_dataloader(self, rows: Rows) -> DataLoader[Batch]:
        """Return a loader of these rows, as evaluation sees them and in this order, all of them on this device."""
        return self._loader(rows, sharded=False)

    def _loader(self, rows: Rows, *, training: bool = False, sharded: bool = True) -> DataLoader[Batch]:
        trainer = self.trainer if sharded else None
        batch_size = self.batch_size if training else 2 * self.batch_size  # nothing is kept for a gradient
        augment = training and self.augment
        workers = self.num_workers if self._with_image else 0
        labels = self.labels
        if training and len(self._joined[0]):
            labels = labels.copy()
            labels[self._joined[0]] = self._joined[1]
        return DataLoader(
            Items(
                labels=labels,
                image=self.training_image if augment else self._plain_image,
                arrays=self._arrays,
                with_image=self._with_image,
                random_view=augment,
            ),
            batch_size=batch_size,
            sampler=EpochSampler(
                rows,
                batch_size,
                shuffle=training,
                seed=self.seed,
                rank=trainer.global_rank if trainer is not None else 0,
                world_size=trainer.world_size if trainer is not None else 1,
                **(self._position if training else {}),
            ),
            num_workers=workers,
            collate_fn=whole_batch,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=workers > 0,
            generator=torch.Generator().manual_seed(self.seed),
        )

    # ------------------------------------------------------------------ going on with a run

    def state_dict(self) -> dict[str, int]:
        """Return the epoch to go on with, and how many of its batches are done: Lightning puts it in checkpoints."""
        loop = self.trainer.fit_loop if self.trainer is not None else None
        if loop is None:
            return {}
        epochs: Any = loop.epoch_progress.current
        batches: Any = loop.epoch_loop.batch_progress.current
        done = int(batches.processed) if epochs.ready > epochs.processed else 0
        return {"epoch": int(epochs.processed), "batches_done": done}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Start the next training loader where a run stopped."""
        self._position = {"epoch": state_dict["epoch"], "batches_done": state_dict["batches_done"]}

    def _plain_image(self, index: int, draw: int) -> Tensor:
        return self.evaluation_image(index)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "trainer": None}  # loader workers need no trainer
