"""From a batch to what the hash head sees: a description of the image, and auxiliary inputs; each knows its width."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn

from razh.backbones.timm import TimmBackbone
from razh.backbones.views import Views
from razh.layers.attributes import AttributeMatcher, PartResponses
from razh.layers.parts import EachPatch
from razh.layers.posteriors import ClassPosteriors
from razh.losses.attributes import centred_prototypes

if TYPE_CHECKING:
    from razh.method import Batch
    from razh.terms.base import Start, Step

T = TypeVar("T")


class Encoder(nn.Module, ABC):
    """Describes an image, and puts auxiliary inputs behind the description, if there are any.

    Attributes:
        description_width: D.
        description_reads: arrays of a feature cache that the description is made from.
        part_reads: arrays that the patches of `sights` are made from.
        reference: array with descriptions by the network as it was built.
        auxiliary: what the hash head sees behind the description, if anything.
    """

    reference: str
    auxiliary: Auxiliary | None

    def __init__(self, description_width: int, description_reads: tuple[str, ...], part_reads: tuple[str, ...]) -> None:
        """Build the encoder, without auxiliary inputs."""
        super().__init__()
        self.description_width, self.auxiliary = description_width, None
        self.description_reads, self.part_reads = description_reads, part_reads

    @property
    def width(self) -> int:
        """Width of what the hash head sees."""
        return self.description_width + (0 if self.auxiliary is None else self.auxiliary.width)

    @property
    def reads(self) -> tuple[str, ...]:
        """Return the arrays of a feature cache that the hash head's input is made from."""
        auxiliary = self.auxiliary
        responds = auxiliary is not None and (auxiliary.told or auxiliary.responses is not None)
        return (*self.description_reads, *(self.part_reads if responds else ()))

    def shown(self, batch: Batch, backbone: TimmBackbone) -> Batch:
        """Return the batch with what is drawn of it for this step."""
        return batch

    @abstractmethod
    def describe(self, step: Step) -> Tensor:
        """Return descriptions (B, D)."""

    @abstractmethod
    def sights(self, step: Step) -> list[Tensor]:
        """Return the patches (B, prefix + N, D) of each picture of the images that is shown."""

    @abstractmethod
    def referred(self, step: Step) -> Tensor:
        """Return the descriptions (B, D) whose similarity codes should keep: those of `reference`, where it is cached.

        A target that trains with the code would be no hold.
        """

    def forward(self, step: Step) -> Tensor:
        """Return what the hash head sees (B, width)."""
        description = self.describe(step)
        return description if self.auxiliary is None else self.auxiliary(description, step)

    def start(self, start: Start) -> None:
        """Fit what is solved for."""
        if self.auxiliary is not None:
            self.auxiliary.start(start)


class Pooled(Encoder):
    """The backbone's feature of the image."""

    reference = "kept"

    def __init__(self, backbone: TimmBackbone) -> None:
        """Build the encoder for a backbone's features."""
        super().__init__(backbone.feature_dim, backbone.caches[-1:], ("patches",))

    def describe(self, step: Step) -> Tensor:
        """Return the features (B, D)."""
        return step.feature

    def sights(self, step: Step) -> list[Tensor]:
        """Return the patches of the image."""
        return [step.patches]

    def referred(self, step: Step) -> Tensor:
        """Return features by the network as it was built, where they are cached, else the features."""
        kept = step.batch.get(self.reference)
        return step.description if kept is None else kept.to(step.method.dtype)


class ViewEncoder(Encoder):
    """The mean descriptor of several views of an image, see `TimmBackbone.describe`.

    In training, half of the images show the mean and the others one view, so that the head learns what survives a
    change of view. A network that trains sees one view of each image.
    """

    reference = "descriptors"

    def __init__(self, backbone: TimmBackbone, views: Views, scale: float) -> None:
        """Build the encoder.

        Args:
            backbone: makes the descriptors.
            views: that are shown.
            scale: how much larger than an image its views are shown to a convolutional network.
        """
        self.views, self.size, self.frozen = views, backbone.view_size(scale), backbone.freeze == "all"
        # Where the network trains, the patches of the views are there; of a frozen one, only their descriptors are.
        super().__init__(backbone.descriptor_dim, backbone.view_caches, ("patches",) if self.frozen else ())

    def shown(self, batch: Batch, backbone: TimmBackbone) -> Batch:
        """Return the batch with the patches of its views, if no descriptors are cached.

        In training, those of one view: the same for the whole batch, if images are live or views have several sizes.
        """
        patches, one = batch.get("view_patches"), self.training and not self.frozen
        if patches is None:
            if "descriptors" in batch and self.frozen:
                return batch
            views = (_one_of(self.views),) if one else self.views
            return {**batch, "view_patches": backbone.embed_views(batch["image"], views, self.size)}
        every = backbone.split_views(patches, self.views, self.size)
        if not one or len(every) == 1:
            return batch
        if len({view.shape for view in every}) > 1:
            return {**batch, "view_patches": _one_of(every)}
        drawn = torch.randint(len(every), (len(patches),)).to(patches.device)
        rows = torch.arange(len(patches), device=patches.device)
        return {**batch, "view_patches": torch.stack(every, dim=1)[rows, drawn]}

    def descriptors(self, step: Step) -> Tensor:
        """Return descriptors (B, V, D) of the views that are shown."""
        return step.method.descriptors(step.shown)

    def describe(self, step: Step) -> Tensor:
        """Return the mean descriptors (B, D); in training one view's for half of the images."""
        descriptors = self.descriptors(step)
        mean, views = descriptors.mean(dim=1), descriptors.shape[1]
        if not self.training or views == 1:
            return mean
        rows = torch.arange(len(descriptors), device=descriptors.device)
        drawn = torch.randint(views, (len(descriptors),)).to(descriptors.device)
        single = torch.rand(len(descriptors)).to(descriptors.device) < 0.5
        return torch.where(single[:, None], descriptors[rows, drawn], mean)

    def sights(self, step: Step) -> list[Tensor]:
        """Return the patches of each view that is shown; of the image, where descriptors are cached instead."""
        patches, method = step.shown.get("view_patches"), step.method
        if patches is None:
            return [step.patches]
        return method.backbone.split_views(patches.to(method.dtype), self.views, self.size)

    def referred(self, step: Step) -> Tensor:
        """Return the mean descriptors by the network as it was built, where they are cached, else the descriptions."""
        kept = step.batch.get(self.reference)
        return step.description if kept is None else kept.to(step.method.dtype).mean(dim=1)


class Responses(nn.Module):
    """How near the nearest part, or patch, that an image shows comes to each attribute; the mean over its sights."""

    def __init__(self, matcher: AttributeMatcher, attributes: int, patchwise: bool) -> None:
        """Build the layer.

        Args:
            matcher: compares parts with attributes.
            attributes: number M of attributes.
            patchwise: patches respond, and not the parts that the method's shared clustering finds.
        """
        super().__init__()
        self.width = attributes
        self.layer = PartResponses(matcher, attributes)
        self.patchwise = EachPatch() if patchwise else None

    def forward(self, step: Step, sights: Sequence[Tensor], *, at_random: bool = False) -> Tensor:
        """Return responses (B, M) of patches (B, prefix + N, D) of each sight; `at_random` is the control."""
        return torch.stack([self._of(step, patches, at_random) for patches in sights]).mean(dim=0)

    def _of(self, step: Step, patches: Tensor, at_random: bool) -> Tensor:
        method = step.method
        finder = self.patchwise or method.tools.clustering
        vectors, assignment = finder(patches[:, method.backbone.prefix :])
        present = assignment[..., :-1].sum(dim=1) >= 0.5  # half a patch
        return self.layer(vectors, method.attribute_vectors, present, at_random=at_random)  # type: ignore[no-any-return]


class Auxiliary(nn.Module):
    """What the hash head sees behind the description: which classes an image resembles, how near attributes come."""

    def __init__(
        self, posteriors: ClassPosteriors | None, responses: Responses | None, told: bool, attributes: int
    ) -> None:
        """Build the inputs from those that there are.

        Args:
            posteriors: which classes an image resembles.
            responses: how near attributes come.
            told: the attributes that parts tell, too.
            attributes: number M of attributes.
        """
        super().__init__()
        self.posteriors, self.responses, self.told = posteriors, responses, told
        self.first_told = 0 if posteriors is None else posteriors.width
        self.last_told = self.first_told + (attributes if told else 0)
        self.width = self.last_told + (0 if responses is None else responses.width)

    def forward(self, description: Tensor, step: Step, sights: Sequence[Tensor] | None = None) -> Tensor:
        """Return descriptions (B, D), posteriors (B, P), attributes and responses (B, M) side by side.

        Args:
            description: (B, D).
            step: the batch.
            sights: patches (B, prefix + N, D) that respond, if others than those that the encoder shows.
        """
        joined = [description]
        if self.posteriors is not None:
            joined.append(self.posteriors(description))
        if self.told:
            assert step.told is not None, "who builds the inputs reads attributes"
            joined.append(step.told[: description.shape[0]])
        if self.responses is not None:
            joined.append(self.responses(step, step.sights if sights is None else sights))
        return torch.cat(joined, dim=1)

    def start(self, start: Start) -> None:
        """Fit the posteriors to the training images."""
        if self.posteriors is None:
            return
        method = start.method
        attributes = centred_prototypes(method.class_attributes, method.train_classes)
        unseen = attributes[method.class_position < 0] if self.posteriors.described else None
        targets = method.class_position.cpu()[start.labels]
        known = attributes[method.train_classes]
        self.posteriors.fit(start.features, targets, known, unseen, whitening=start.whitening)
        method.synchronise(self.posteriors)


def _one_of(things: Sequence[T]) -> T:
    """Return one of some things, drawn at random."""
    return things[int(torch.randint(len(things), ()))]
