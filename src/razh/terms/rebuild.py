"""Terms that rebuild images: where parts gave way to attributes, and where patches were hidden."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from razh.backbones.timm import pool_grid
from razh.layers.decoder import hide, pixel_targets
from razh.losses.attributes import masked_mean
from razh.terms.base import Step, Term
from razh.terms.parts import PartTerm

if TYPE_CHECKING:
    from razh.terms.host import TermHost


class Mix(PartTerm):
    """Error of the pixels of replaced patches, rebuilt from the mixed image: an attribute must say how a part looks."""

    uses = ("clustering", "matcher", "replacement", "decoder")
    reads = ("patches", "thumbnail")

    def forward(self, step: Step) -> Tensor:
        """Return the mean over replaced patches."""
        return rebuilding_error(step, *step.mixed)


class MixHash(PartTerm):
    """The `hash` term of the mixed images; they respond as they were: what replaced a part should not respond."""

    uses = ("clustering", "matcher", "replacement", "classes")
    tells_classes = True
    of_code = True

    def forward(self, step: Step) -> Tensor:
        """Return the loss of the codes' classes."""
        method, tokens = step.method, step.mixed.tokens
        n, seen = len(tokens), method.backbone.pool(tokens)
        if method.encoder.auxiliary is not None:
            seen = method.encoder.auxiliary(seen, step, [step.patches[:n]])
        return method.tools.classes(method.head(seen), step.targets[:n])  # type: ignore[no-any-return]


class Reconstruction(Term):
    """Error of the pixels of hidden patches, rebuilt from a random share of the others, as in MAE."""

    uses = ("decoder",)
    of_code = False
    reads = ("patches", "thumbnail")

    def __init__(self, method: TermHost) -> None:
        """Build what stands in the place of a hidden patch."""
        super().__init__(method)
        self.mask_vector = nn.Parameter(torch.zeros(method.backbone.dim))

    def forward(self, step: Step) -> Tensor:
        """Return the mean over hidden patches."""
        method, patches = step.method, step.patches
        n, prefix = min(method.mixing.images, len(patches)), method.backbone.prefix
        visible, hidden = hide(patches[:n, prefix:], self.mask_vector, method.mixing.hidden_share)
        tokens = method.backbone.contextualise(torch.cat([patches[:n, :prefix], visible], dim=1))
        return rebuilding_error(step, tokens, hidden)


def rebuilding_error(step: Step, tokens: Tensor, weight: Tensor) -> Tensor:
    """Return the mean squared error of decoding tokens, at the cells where something was taken away.

    Args:
        step: of whose first n images the tokens are.
        tokens: (n, prefix' + N', D').
        weight: (n, N) with which each patch was taken away.
    """
    backbone, mixing = step.method.backbone, step.method.mixing
    if mixing.target == "pixel":
        images = step.batch["image"] if "image" in step.batch else step.batch["thumbnail"]
        target = pixel_targets(images[: len(tokens)], backbone.token_grid, mixing.target_side)
    else:
        patches = step.patches[: len(tokens), backbone.prefix :].detach()
        target = pool_grid(F.layer_norm(patches, patches.shape[-1:]), backbone.grid, backbone.token_grid)
    error = (step.method.tools.decoder(backbone.spatial(tokens)) - target).square().mean(dim=-1)
    cells = pool_grid(weight.unsqueeze(-1), backbone.grid, backbone.token_grid).squeeze(-1)
    return masked_mean(error, cells)
