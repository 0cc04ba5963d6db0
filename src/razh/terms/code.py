"""Terms on hash logits and on the description: what makes codes of one class near, and keeps what is known."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from razh.losses import hashing
from razh.support.distributed import gather_with_gradient, whole_batch
from razh.terms.base import Start, Step, Term

if TYPE_CHECKING:
    from razh.terms.host import TermHost


class Hash(Term):
    """Classes told by the code: CE(W b), CosFace with class codes, or, of short codes, SupCon; see `ClassCodes`."""

    uses = ("classes",)
    tells_classes = True

    def forward(self, step: Step) -> Tensor:
        """Return the loss of the codes' classes."""
        return step.method.tools.classes(step.code, step.targets)  # type: ignore[no-any-return]


class Semantic(Term):
    """Cross-entropy of γ cos(W b, a_c), of the code b with the centred attributes a_c of the training classes."""

    tells_classes = True
    source = "hash"

    def __init__(self, method: TermHost) -> None:
        """Build the map from codes to attributes."""
        super().__init__(method)
        self.layer = nn.Linear(method.bits, method.prototypes.shape[1])

    def forward(self, step: Step) -> Tensor:
        """Return the cross-entropy."""
        return step.named(self.layer(step.code))

    def scores(self, step: Step) -> Tensor:
        """Return the attributes (B, M) that the hash logits tell."""
        return self.layer(step.logits)  # type: ignore[no-any-return]


class Pairwise(Term):
    """Pairwise likelihood of same and other classes over the whole batch (DPSH)."""

    tells_classes = True

    def forward(self, step: Step) -> Tensor:
        """Return the negative log-likelihood."""
        every, labels = whole_batch(step.code, step.targets)
        return hashing.pairwise_likelihood_loss(every, labels)


class Similarity(Term):
    """Mean of (cos(b_i, b_j) − (1 − s) cos(z_i, z_j) − s cos(a_i, a_j))² over pairs of the whole batch.

    z are reference descriptions: what the encoder gave before it was trained, if it knew anything, centred, and
    whitened within classes where `code.similarity_space` says so; a are class attributes, s is their share.
    """

    def __init__(self, method: TermHost) -> None:
        """Build the centre, and the whitening if it is asked for."""
        super().__init__(method)
        width = method.encoder.description_width
        self.whitens = method.code.similarity_space == "whitened"
        self.register_buffer("mean", torch.zeros(width))
        if self.whitens:
            self.register_buffer("whitening", torch.eye(width))
        self.share = method.code.attribute_share
        if method.backbone.freeze != "all" and method.backbone.has_weights:  # layers train, and knew something before
            self.reads = (method.encoder.reference,)

    mean: Tensor
    whitening: Tensor

    def forward(self, step: Step) -> Tensor:
        """Return the mean squared difference."""
        centred = (step.method.encoder.referred(step) - self.mean).detach()
        kept = centred @ self.whitening if self.whitens else centred
        told = step.told
        if told is not None:  # as the hash head sees them: the description of length 1, then what was read
            kept = torch.cat([F.normalize(kept, dim=1), told], dim=1)
        every, kept, attributes = whole_batch(step.code, kept, step.method.prototypes[step.targets])
        return hashing.similarity_loss(every, kept, attributes, self.share)

    def start(self, start: Start) -> None:
        """Take the mean and the whitening of the training images."""
        self.mean.copy_(start.features.mean(dim=0))
        if self.whitens:
            self.whitening.copy_(start.whitening)
        start.method.synchronise(self)


class Quantization(Term):
    """Mean of (1 − |tanh h|)²: the logits are drawn towards ±1."""

    def forward(self, step: Step) -> Tensor:
        """Return the mean squared distance."""
        return hashing.quantization_loss(step.code)


class Balance(Term):
    """Squared mean of every bit over the whole batch: each should split it in half."""

    def forward(self, step: Step) -> Tensor:
        """Return the mean over bits."""
        return hashing.bit_balance_loss(gather_with_gradient(step.code))


class Classification(Term):
    """Cross-entropy of the description's classes: γ cos(W z, a_c) with attributes, or W z as a control."""

    tells_classes = True
    of_code = False

    def __init__(self, method: TermHost) -> None:
        """Build the map from descriptions to attributes, or to classes."""
        super().__init__(method)
        classes, attributes = method.prototypes.shape
        self.source = "feature" if method.code.feature_classifier == "semantic" else ""
        self.layer = nn.Linear(method.encoder.description_width, attributes if self.source else classes)

    def forward(self, step: Step) -> Tensor:
        """Return the cross-entropy."""
        scores = self.layer(step.description)
        return step.named(scores) if self.source else F.cross_entropy(scores, step.targets)

    def scores(self, step: Step) -> Tensor:
        """Return the attributes (B, M) that the description tells."""
        return self.layer(step.description)  # type: ignore[no-any-return]
