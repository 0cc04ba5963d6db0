"""RAZH-Views: RAZH's hash terms on descriptors of several views, started from features whitened within classes."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from razh.backbones.timm import TimmBackbone
from razh.backbones.views import NAMED, Views
from razh.method import Batch
from razh.methods.razh import RAZH

T = TypeVar("T")


class RAZHViews(RAZH):
    """RAZH, improved where the evidence said so (docs/experiments.md); **not the paper's method**.

    - Encoding: the mean descriptor of four views of the image, see `TimmBackbone.describe`. They show a frozen network
      objects at four `sizes` (the image, its middle .7 and .55, all `view_scale` times as large, and it as it is;
      two of them mirrored); a network that trains sees the image, its middle .7, and both `mirrored`. In training half
      of the images show the mean, the others one view, so that the head learns what survives a change of view. Costs
      four passes of the backbone for each image.
    - A frozen network's codes are made of the descriptor and of which training classes it resembles (`posteriors`).
    - Start: PCA + ITQ of features whitened within classes (`hash_init=whitened`).
    - Classes are told by the cosine of the code with learnt class codes and a margin (`hash_classifier=cosine`), in the
      place of RAZH's linear and semantic classifiers. Codes of fewer than 32 bits (`contrast_below`) have no class
      codes: pairs of them are contrasted.
    - The terms see signs and pass the gradient on (`straight_through`).
    - `similarity` keeps a mixture of the mean descriptor's and the class attributes' similarity (`attribute_share`); of
      a network without trained weights the attributes' alone, as RAZH does. Descriptors of a frozen network are
      whitened within classes before (`similarity_space`): what a network has most of need not be what tells classes
      apart.
    - With fewer than 26 training classes (`enough_classes`) the classes weigh less against that.
    - The terms on parts and both branches have weight 0: on frozen backbones nothing that was measured came from them.
      Any of them is switched on by its weight. Where the network trains from nothing, the hash head also sees how near
      the nearest patch of the views comes to each attribute (`part_responses`).

    Where a frozen trunk's last stages train, an image shows one view a step, from cached patches of all views, and
    `similarity` keeps that of the network as it was built; as it does where the whole network trains.
    """

    def __init__(
        self,
        *,
        hash_init: Literal["itq", "pca", "whitened", "random"] = "whitened",
        hash_classifier: Literal["linear", "cosine"] = "cosine",
        contrast_below: int = 32,
        straight_through: bool = True,
        attribute_share: float = 0.3,
        enough_classes: int = 26,
        views: Literal["sizes", "mirrored"] | None = None,
        view_scale: float = 9 / 7,
        posteriors: Literal["none", "training", "described"] | None = None,
        semantic_weight: float = 0.0,
        similarity_weight: float = 10.0,
        classification_weight: float = 0.0,
        mix_weight: float = 0.0,
        mix_hash_weight: float = 0.0,
        reconstruction_weight: float = 0.0,
        alignment_weight: float = 0.0,
        orthogonality_weight: float = 0.0,
        presence_weight: float = 0.0,
        background_weight: float = 0.0,
        entropy_weight: float = 0.0,
        smoothness_weight: float = 0.0,
        **kwargs: Any,
    ) -> None:
        """Build the method; see `RAZH` for the arguments, of which these have other defaults.

        Its own are `views` (None: `sizes` of frozen networks, else `mirrored`) and `view_scale`: how
        much larger than an image its views are shown to a convolutional network. If a network with trained weights is
        frozen, `posteriors` are by default those of the `training` classes, else they are `none`.

        Raises:
            ValueError: views of no such name, a scale that is not above 0, or a weight for `mix_hash`, whose
                mixed images have no views.
        """
        if mix_hash_weight:
            raise ValueError(
                f"mix_hash_weight={mix_hash_weight} needs the feature that RAZH hashes; set it to 0, or METHOD=razh"
            )
        if views is not None and views not in NAMED:
            raise ValueError(f"views={views!r} must be one of {', '.join(NAMED)}; leave it out for the default")
        if not view_scale > 0:
            raise ValueError(f"view_scale={view_scale} must be above 0; 1 shows views as large as the image")
        backbone: TimmBackbone = kwargs["backbone"]
        posteriors = posteriors or ("training" if backbone.frozen_with_weights else "none")
        super().__init__(
            hash_init=hash_init,
            posteriors=posteriors,
            hash_classifier=hash_classifier,
            contrast_below=contrast_below,
            straight_through=straight_through,
            attribute_share=attribute_share,
            enough_classes=enough_classes,
            semantic_weight=semantic_weight,
            similarity_weight=similarity_weight,
            classification_weight=classification_weight,
            mix_weight=mix_weight,
            mix_hash_weight=mix_hash_weight,
            reconstruction_weight=reconstruction_weight,
            alignment_weight=alignment_weight,
            orthogonality_weight=orthogonality_weight,
            presence_weight=presence_weight,
            background_weight=background_weight,
            entropy_weight=entropy_weight,
            smoothness_weight=smoothness_weight,
            **kwargs,
        )
        self.views: Views = NAMED[views or ("sizes" if self.backbone.freeze == "all" else "mirrored")]
        self.view_scale = view_scale

    kept_input = "descriptors"

    def input_dim(self, backbone: TimmBackbone) -> int:
        """Return the width of a descriptor."""
        return backbone.descriptor_dim

    @property
    def view_size(self) -> int:
        """Side in pixels of the views that the network sees."""
        return self.backbone.view_size(self.view_scale)

    @property
    def cached_inputs(self) -> tuple[str, ...]:
        """Return what RAZH's terms on patches need, and what is cached of the views.

        Descriptors are those of the network as it is built: where layers train, `similarity` keeps what they knew, if
        that was anything.
        """
        own = {"none": (), "trunk": ("view_patches",), "all": ("descriptors",)}[self.backbone.freeze]
        of_image = self.sees_patches or self.backbone.freeze == "all"  # else the patches of the views respond
        return (*(self.part_inputs if of_image else ()), *own, *([self.kept_input] if self.keeps_start else []))

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return every term that has a weight, by its name; all terms on views see the same ones."""
        return super().losses(self.shown(batch))

    def shown(self, batch: Batch) -> Batch:
        """Return the batch with the patches of its views, see `TimmBackbone.embed_views`, if no descriptors are cached.

        A network that trains sees one view of each image; the same for the whole batch, if images are live or views
        have several sizes.
        """
        patches = batch.get("view_patches")
        one = self.training and self.backbone.freeze != "all"
        if patches is None:
            if "descriptors" in batch and self.backbone.freeze == "all":
                return batch
            views = (_one_of(self.views),) if one else self.views
            return {**batch, "view_patches": self.backbone.embed_views(batch["image"], views, self.view_size)}
        every = self.backbone.split_views(patches, self.views, self.view_size)
        if not one or len(every) == 1:
            return batch
        if len({view.shape for view in every}) > 1:
            return {**batch, "view_patches": _one_of(every)}
        drawn = torch.randint(len(every), (len(patches),)).to(patches.device)
        rows = torch.arange(len(patches), device=patches.device)
        return {**batch, "view_patches": torch.stack(every, dim=1)[rows, drawn]}

    default_responses = "patch"

    def of_patches(self, batch: Batch, describe: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the mean of what `describe` makes of the patches of each view; of the image, if it has no views."""
        patches = self.shown(batch).get("view_patches")
        if patches is None:
            return super().of_patches(batch, describe)
        each = self.backbone.split_views(patches.to(self.dtype), self.views, self.view_size)
        return torch.stack([describe(view) for view in each]).mean(dim=0)

    def descriptors(self, batch: Batch) -> Tensor:
        """Return descriptors (B, V, D) of the views of each image, see `TimmBackbone.describe` and `shown`."""
        batch = self.shown(batch)
        patches = batch.get("view_patches")
        if patches is None:
            return batch["descriptors"].to(self.dtype)
        return self.backbone.descriptors(patches.to(self.dtype), self.views, self.view_size)

    def described(self, batch: Batch) -> Tensor:
        """Return the mean descriptor (B, D); in training one view's for half of the images."""
        descriptors = self.descriptors(batch)
        mean, views = descriptors.mean(dim=1), descriptors.shape[1]
        if not self.training or views == 1:
            return mean
        rows = torch.arange(len(descriptors), device=descriptors.device)
        drawn = torch.randint(views, (len(descriptors),)).to(descriptors.device)
        single = torch.rand(len(descriptors)).to(descriptors.device) < 0.5
        return torch.where(single[:, None], descriptors[rows, drawn], mean)

    def kept_feature(self, feature: Tensor, batch: Batch) -> Tensor:
        """Return the mean descriptor (B, D) by the network as it was built; where it is not kept, what is hashed."""
        kept = batch.get(self.kept_input)
        return feature if kept is None else kept.to(self.dtype).mean(dim=1)


def _one_of(things: Sequence[T]) -> T:
    """Return one of some things, drawn at random."""
    return things[int(torch.randint(len(things), ()))]
