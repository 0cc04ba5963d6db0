"""Terms on parts: what they name, how they lie, and which attributes they are near."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from razh.losses import parts
from razh.losses.attributes import alignment_loss, semantic_logits
from razh.support.distributed import gather_with_gradient
from razh.terms.base import Step, Term
from razh.terms.encoders import Responses

if TYPE_CHECKING:
    from razh.terms.host import TermHost


class Naming(Term):
    """Cross-entropy of γ cos(r, a_c): r has, of each attribute, how near the image's nearest part comes to it.

    Of a random part in training, unless `matching.choice` is `nearest`: the control.
    """

    uses = ("clustering",)
    tells_classes = True
    of_code = False
    source = "naming"

    def __init__(self, method: TermHost) -> None:
        """Build what compares parts with attributes; its own, for what matching asks of parts is something else."""
        super().__init__(method)
        self.at_random = method.matching.choice != "nearest"
        self.responses = Responses(method.new_matcher(), len(method.attribute_vectors), patchwise=False)
        self.reads = method.encoder.part_reads

    def forward(self, step: Step) -> Tensor:
        """Return the cross-entropy."""
        return step.named(self.scores(step))

    def scores(self, step: Step) -> Tensor:
        """Return how much of each attribute the parts of each image show (B, M)."""
        return self.responses(step, step.sights, at_random=self.training and self.at_random)  # type: ignore[no-any-return]


class PartTerm(Term):
    """A term on the parts of the images themselves."""

    uses: tuple[str, ...] = ("clustering",)
    of_code = False
    reads: tuple[str, ...] = ("patches",)


class ClusterTerm(PartTerm):
    """A term that says how good clusters are."""

    of_clusters = True


class Orthogonality(ClusterTerm):
    """Mean squared cosine between part vectors of an image: different parts should look different."""

    def forward(self, step: Step) -> Tensor:
        """Return the mean."""
        return parts.orthogonality_loss(step.parts.vectors)


class Presence(ClusterTerm):
    """KL(prior ‖ shares of the whole batch): even shares of the parts, `parts.background_share` of the background."""

    def forward(self, step: Step) -> Tensor:
        """Return the divergence."""
        everywhere = gather_with_gradient(step.parts.assignment)
        return parts.presence_loss(everywhere, step.method.parts.background_share)


class Background(ClusterTerm):
    """Cross-entropy of the outermost ring of patches being background."""

    def forward(self, step: Step) -> Tensor:
        """Return the mean over the ring."""
        return parts.background_loss(step.parts.assignment, step.method.backbone.grid)


class Entropy(ClusterTerm):
    """Entropy of a patch's assignment, in units of its maximum: patches should decide for a part."""

    def forward(self, step: Step) -> Tensor:
        """Return the mean over patches."""
        return parts.entropy_loss(step.parts.assignment)


class Smoothness(ClusterTerm):
    """Total variation of the assignment: neighbours should belong to one part."""

    def forward(self, step: Step) -> Tensor:
        """Return the mean over pairs of neighbours."""
        return parts.total_variation_loss(step.parts.assignment, step.method.backbone.grid)


class Equivariance(ClusterTerm):
    """Mean squared difference between the parts of images shown otherwise and the parts of the images, moved likewise.

    Each image is mirrored or not, cut to a square of at least .6 of its sides, and recoloured; needs live images.
    """

    def forward(self, step: Step) -> Tensor:
        """Return the mean over patches.

        Raises:
            ValueError: images are cached, and there is nothing to show otherwise.
        """
        if "image" not in step.batch:
            raise ValueError(
                "model.weights.equivariance needs live images; set cache.enabled=false, or the weight to 0"
            )
        backbone, images = step.method.backbone, step.batch["image"]
        moves = _moves(images)
        shown = backbone.embed(_recoloured(_moved(images.float(), moves)))[:, backbone.prefix :]
        # Places in half precision would be off by a pixel.
        maps = parts.as_maps(step.parts.assignment.detach().float(), backbone.grid).permute(0, 3, 1, 2)
        wanted = _moved(maps, moves).flatten(2).transpose(1, 2)
        return parts.equivariance_loss(step.method.tools.clustering(shown)[1], wanted)


def _moves(images: Tensor, least: float = 0.6) -> Tensor:
    """Return affine maps (B, 2, 3) that cut out a square of at least that share of the sides; half of them mirrored."""
    drawn = torch.rand(len(images), 4)  # on the CPU, so that all devices draw alike
    share = least + (1 - least) * drawn[:, 0]
    theta = torch.zeros(len(images), 2, 3)
    theta[:, 0, 0] = torch.where(drawn[:, 1] < 0.5, -share, share)
    theta[:, 1, 1] = share
    theta[:, :, 2] = (2 * drawn[:, 2:] - 1) * (1 - share)[:, None]
    return theta.to(images.device)


def _moved(maps: Tensor, moves: Tensor) -> Tensor:
    """Return maps (B, C, H, W) as affine maps (B, 2, 3) show them."""
    places = F.affine_grid(moves, list(maps.shape), align_corners=False)
    return F.grid_sample(maps, places, padding_mode="border", align_corners=False)


def _recoloured(images: Tensor) -> Tensor:
    """Return images (B, 3, H, W) in [0, 255] with channels scaled by up to .4 and shifted together by up to 40."""
    drawn = 2 * torch.rand(len(images), 4, 1, 1).to(images.device) - 1
    return (images * (1 + 0.4 * drawn[:, :3]) + 40 * drawn[:, 3:]).clamp(0, 255)


class Attributes(PartTerm):
    """Mean of (â − t_y)², and cross-entropy of γ cos(â, t_c): t are the training classes' standardised attributes."""

    uses = ("clustering", "reader", "matcher")
    of_clusters = True
    source = "read"

    def __init__(self, method: TermHost) -> None:
        """Keep the training classes' attributes as they are predicted."""
        super().__init__(method)
        strengths = method.class_attributes[method.train_classes]
        self.register_buffer("wanted", method.tools.reader.standardised(strengths), persistent=False)

    wanted: Tensor

    def forward(self, step: Step) -> Tensor:
        """Return the sum of both."""
        logits = semantic_logits(step.read, self.wanted, step.method.code.scale)
        return F.mse_loss(step.read, self.wanted[step.targets]) + F.cross_entropy(logits, step.targets)

    def scores(self, step: Step) -> Tensor:
        """Return the attributes (B, M) that the parts tell."""
        return step.read


class Alignment(PartTerm):
    """−log Σ_{m positive} w_m exp(S_km / t) / Σ_m exp(S_km / t): parts towards positive attributes."""

    uses = ("clustering", "matcher")

    def forward(self, step: Step) -> Tensor:
        """Return the mean over parts."""
        method, label = step.method, step.batch["label"]
        return alignment_loss(step.match.similarity, method.strengths[label], method.positive[label])
