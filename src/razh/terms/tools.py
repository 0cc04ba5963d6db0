"""Layers that several terms, or terms and the encoder, share."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn import functional as F

from razh.layers.attributes import AttributeChoice, AttributeReplacement
from razh.layers.decoder import PatchDecoder
from razh.layers.parts import EachPatch, SoftPartClustering
from razh.layers.reading import AttributeReader, CompetingParts, Standardise
from razh.losses import hashing
from razh.support.distributed import whole_batch
from razh.terms.options import Code

if TYPE_CHECKING:
    from razh.terms.base import Start


class ClassCodes(nn.Module):
    """Tells the training classes by the code: linearly, by learnt class codes, or, of short codes, by pairs."""

    def __init__(self, bits: int, classes: int, code: Code) -> None:
        """Build the classifier that `code` asks for; codes of fewer than `code.contrast_below` bits have none."""
        super().__init__()
        self.code = code
        self.kind = "contrast" if bits < code.contrast_below else code.classifier
        if self.kind != "contrast":
            self.layer = nn.Linear(bits, classes, bias=self.kind == "linear")

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of logits (B, L) of images of the classes `targets` (B,)."""
        if self.kind == "contrast":
            every, labels = whole_batch(logits, targets)
            return hashing.supervised_contrastive_loss(every, labels, self.code.contrast_temperature)
        if self.kind == "linear":
            return F.cross_entropy(self.layer(logits), targets)
        return hashing.cosine_margin_loss(logits, self.layer.weight, targets, self.code.scale, self.code.margin)


class Tools(nn.Module):
    """Layers that are shared; each is built when it is first asked for.

    The order in which terms are made is thus the order of random initialisation, and nothing draws for a layer that
    nobody uses.
    """

    classes: ClassCodes
    clustering: SoftPartClustering | CompetingParts | EachPatch
    reader: AttributeReader
    matcher: AttributeChoice
    replacement: AttributeReplacement
    decoder: PatchDecoder

    def __init__(self, makers: Mapping[str, Callable[[], nn.Module]]) -> None:
        """Take what builds each layer, by its name."""
        super().__init__()
        self.makers = dict(makers)

    def build(self, *names: str) -> None:
        """Build what is not there yet."""
        for name in names:
            if name not in self:
                self.add_module(name, self.makers[name]())

    def __contains__(self, name: str) -> bool:
        """Tell whether a layer has been built."""
        return name in self._modules

    def start(self, start: Start) -> None:
        """Take the scale of training patches, and the centres of clusters from their k-means, if not at random."""
        clustering, method = self._modules.get("clustering"), start.method
        starts = [module for module in self.modules() if isinstance(module, Standardise)]
        if starts and method.backbone.has_weights:
            for module in starts:
                module.initialise(start.patches())
                method.synchronise(module)
        if method.hash_init == "random":
            return
        if isinstance(clustering, SoftPartClustering) and method.parts.init == "kmeans":
            patches = start.patches()
            side = math.isqrt(patches.shape[1])
            clustering.initialise(patches, (side, side))
            method.synchronise(clustering)

    @property
    def clusters(self) -> bool:
        """Whether patches are grouped by learnt centres."""
        return isinstance(self._modules.get("clustering"), SoftPartClustering | CompetingParts)
