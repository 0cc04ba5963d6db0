"""RAZH-Views: RAZH's hash terms on descriptors of several views, started from features whitened within classes."""

from typing import Any, Literal

import torch
from torch import Tensor

from razh.backbones.timm import TimmBackbone
from razh.method import Batch
from razh.methods.razh import RAZH


class RAZHViews(RAZH):
    """RAZH, improved where the evidence said so (docs/experiments.md); **not the paper's method**.

    - Encoding: the mean descriptor of four views of the image (itself, its middle enlarged, and the mirror images of
      both), see `TimmBackbone.describe`. In training half of the images show the mean, the others one view, so that
      the head learns what survives a change of view. Costs four passes of the backbone for each image.
    - Start: PCA + ITQ of features whitened within classes (`hash_init=whitened`).
    - Classes are told by the cosine of the code with learnt class codes and a margin (`hash_classifier=cosine`), in the
      place of RAZH's linear and semantic classifiers.
    - The terms see signs and pass the gradient on (`straight_through`).
    - `similarity` keeps a mixture of the mean descriptor's and the class attributes' similarity (`attribute_share`).
    - The terms on parts and both branches have weight 0: on frozen backbones nothing that was measured came from them.
      Any of them is switched on by its weight.

    A backbone whose trunk alone is frozen serves cached patches, which show one view only.
    """

    def __init__(
        self,
        *,
        hash_init: Literal["itq", "pca", "whitened", "random"] = "whitened",
        hash_classifier: Literal["linear", "cosine"] = "cosine",
        straight_through: bool = True,
        attribute_share: float = 0.3,
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

        Raises:
            ValueError: a weight for `mix_hash`, whose mixed images have no views.
        """
        if mix_hash_weight:
            raise ValueError(
                f"mix_hash_weight={mix_hash_weight} needs the feature that RAZH hashes; set it to 0, or METHOD=razh"
            )
        super().__init__(
            hash_init=hash_init,
            hash_classifier=hash_classifier,
            straight_through=straight_through,
            attribute_share=attribute_share,
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

    def input_dim(self, backbone: TimmBackbone) -> int:
        """Return the width of a descriptor."""
        return backbone.descriptor_dim

    @property
    def cached_inputs(self) -> tuple[str, ...]:
        """Return what RAZH's terms on patches need, and the descriptors."""
        needs_patches = self.uses_parts or self.uses("reconstruction")
        if self.backbone.freeze == "all":
            return (*(super().cached_inputs if needs_patches else ()), "descriptors")
        return super().cached_inputs

    def hash_input(self, batch: Batch) -> Tensor:
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
        """Return the mean descriptor (B, D), whichever view was shown."""
        return self.descriptors(batch).mean(dim=1) if "descriptors" in batch else feature
