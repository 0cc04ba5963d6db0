"""The base of all data modules: annotations, split, attribute vectors and loaders; a data set adds only its facts."""

from __future__ import annotations

import hashlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.annotations import Annotations
from datamodules.attributes import attribute_vectors
from datamodules.images import TRANSFORM, content_signature, evaluation_view, read_image, training_view
from datamodules.items import Batch, Items, whole_batch
from datamodules.protocols import Protocol, make_split
from datamodules.sampler import EpochSampler
from datamodules.splits import Rows, ZeroShotSplit

__all__ = ["Annotations", "Batch", "ZeroShotDataModule"]

log = logging.getLogger(__name__)


class ZeroShotDataModule(L.LightningDataModule, ABC):
    """A data set for zero-shot hashing: seen classes to train on, unseen classes to search for.

    A subclass states `dataset`, `title` and `protocols` and implements `read_annotations`; one without image files also
    overrides `load_image` (or `evaluation_image`) and `image_signature`. Nothing is read before it is needed, and
    everything is read once.

    Args:
        root: Folder of the data set.
        protocol: Name of the split: one of `protocols`, or `unseen-K%`.
        split_seed: Seed of what the protocol draws, and of the validation classes and images.
        validation_class_share: Share of the seen classes held out to select models on; 0 for no validation.
        validation_image_share: Share of each training class's images held out for the validation database.
        attribute_vectors_file: Where the attributes' vectors come from, see `datamodules.attributes`; None: the
            training classes' rows of the class-attribute matrix.
        image_size: Side S of the images in a batch, pixels.
        batch_size: Training images a batch and device.
        eval_batch_size: Images a batch and device in validation, test and prediction.
        num_workers: Loader processes; 0 loads in the main process.
        augment: Random crops and mirroring in training.
        allow_partial: Accept a tree that holds images of some classes only, and cut the others away.
        seed: Seed of training order and augmentation.

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
        eval_batch_size: int = 128,
        num_workers: int = 2,
        augment: bool = True,
        allow_partial: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        shares = {"validation_class_share": validation_class_share, "validation_image_share": validation_image_share}
        for argument, share in shares.items():
            if not 0 <= share < 1:
                raise ValueError(f"{argument} is {share}, but must be at least 0 and below 1")
        sizes = {"image_size": image_size, "batch_size": batch_size, "eval_batch_size": eval_batch_size}
        for argument, size in sizes.items():
            if size < 1:
                raise ValueError(f"{argument} is {size}, but must be at least 1")
        if num_workers < 0:
            raise ValueError(f"num_workers is {num_workers}, but must be at least 0")
        self.root = Path(root)
        self.protocol, self.split_seed = protocol, split_seed
        self.validation_class_share, self.validation_image_share = validation_class_share, validation_image_share
        self.attribute_vectors_file, self.image_size = attribute_vectors_file, image_size
        self.batch_size, self.eval_batch_size, self.num_workers = batch_size, eval_batch_size, num_workers
        self.augment, self.allow_partial, self.seed = augment, allow_partial, seed
        self._arrays: dict[str, NDArray[np.generic]] = {}
        self._with_image = True
        self._position: dict[str, int] = {}

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
                f"no {self.title} images at {self.root}; run `make data DATASET={self.dataset}`, pass DATA_ROOT=…, "
                "or train on DATASET=synthetic"
            )
        return images

    def load_image(self, index: int) -> Tensor:
        """Return image `index` as it is stored, uint8 RGB (3, H, W).

        Raises:
            OSError: The file is missing, cut short or not an image; the message names it.
        """
        return read_image(self.image_path(index))

    def image_signature(self) -> Iterable[str]:
        """Yield lines that change when an image of the data set changes: see `content_signature`."""
        for index, path in enumerate(self.annotations.image_paths):
            yield f"{path}\t{content_signature(self.image_path(index))}"

    # ------------------------------------------------------------------ parts, where a data set knows them

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
        """Everything the data set says about itself; without the classes that have no images if that is allowed."""
        complete = self.read_annotations()
        images = self._classes_with_images(complete)
        if len(images) == len(complete.class_names):
            return complete
        missing = [name for c, name in enumerate(complete.class_names) if c not in set(images.tolist())]
        listed = ", ".join(missing[:3]) + (" …" if len(missing) > 3 else "")
        found = f"{len(missing)} of {len(complete.class_names)} classes have no images at {self.root} ({listed})"
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

    def _classes_with_images(self, annotations: Annotations) -> Rows:
        """Return the ids of classes of which at least one listed image is on disk."""
        listed = np.unique(annotations.labels)
        if not annotations.image_paths:
            return listed
        order = np.argsort(annotations.labels, kind="stable")
        groups = np.split(order, np.searchsorted(annotations.labels[order], listed)[1:])
        files = ((self.folder / annotations.image_paths[i] for i in rows) for rows in groups)
        return listed[[any(file.is_file() for file in of_class) for of_class in files]]

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
        )

    @property
    def available_protocols(self) -> Mapping[str, Protocol]:
        """The protocols that `protocol` may name beside `unseen-K%`."""
        return self.protocols

    @cached_property
    def train_classes(self) -> Tensor:
        """Sorted ids of the classes that occur in `split.train`, int64."""
        return torch.from_numpy(np.unique(self.labels[self.split.train]))

    @cached_property
    def fingerprint(self) -> str:
        """Hex SHA-256 over the image list and the deterministic transform: key of a feature cache.

        It does not depend on the split: one cache serves all protocols.
        """
        digest = hashlib.sha256(f"{self.dataset}\t{self.image_size}\t{TRANSFORM}\n".encode())
        for line in self.image_signature():
            digest.update(f"{line}\n".encode(errors="surrogateescape"))  # file names that are not UTF-8
        return digest.hexdigest()

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

    def attach(self, arrays: Mapping[str, ArrayLike], drop_image: bool = True) -> None:
        """Serve cached arrays in each batch.

        Training takes a random view of an image if `augment` is on and images are left out, everything else takes
        view 0.

        Args:
            arrays: By batch key, arrays (views, n, …) over all n images; view 0 belongs to `evaluation_image`, view 1
                to its mirror image. Memory-mapped arrays stay on disk.
            drop_image: Leave `image` out of the batch: nothing is decoded, and the loaders need no workers. Else
                images are what they are without arrays: random crops in training.

        Raises:
            ValueError: An array is not of this data set's length, or its name is taken.
        """
        for name, array in arrays.items():
            shape = np.shape(array)
            if len(shape) < 2 or shape[0] < 1 or shape[1] != len(self.labels):
                raise ValueError(
                    f"array {name!r} has shape {shape}, but must be (views, {len(self.labels)}, …); rebuild the cache"
                )
            if name in ("image", "label", "index"):
                raise ValueError(f"array {name!r} has the name of a batch key; choose another")
        self._arrays = {name: np.asanyarray(array) for name, array in arrays.items()}
        self._with_image = not (drop_image and arrays)

    @property
    def attached(self) -> tuple[str, ...]:
        """Names of the cached arrays that each batch has."""
        return tuple(self._arrays)

    # ------------------------------------------------------------------ loaders

    def train_dataloader(self) -> DataLoader[Batch]:
        """Return the loader of `split.train`, in this epoch's order."""
        return self._loader(self.split.train, training=True)

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
        batch_size = self.batch_size if training else self.eval_batch_size
        augment = training and self.augment
        workers = self.num_workers if self._with_image else 0
        return DataLoader(
            Items(
                labels=self.labels,
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
