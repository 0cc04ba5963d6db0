"""TSK: labels become class embeddings, codes are found by alternation. Yang et al., ACM Multimedia 2016."""

from typing import Annotated, Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from razh.layers.hash import HashHead, itq
from razh.losses.attributes import centred_prototypes
from razh.method import Batch, HashingMethod
from razh.support.bounds import Bounds, Count, NonNegative, Positive


class Solution(NamedTuple):
    """What `solve` returns: codes (n, L) of ±1, W (L, M), R (M, M), P (D, L), and the objective after each round."""

    codes: Tensor
    weight: Tensor
    rotation: Tensor
    projection: Tensor
    objective: list[float]


class TSK(HashingMethod):
    """Zero-shot hashing via transferring supervised knowledge, in closed form; no gradient training.

    **A re-implementation from second-hand descriptions** of "Zero-Shot Hashing via Transferring Supervised Knowledge"
    (ACM MM 2016). Supervised discrete hashing (Shen et al., CVPR 2015) with class embeddings in the place of labels:

        min ‖R Y − Wᵀ B‖² + λ‖W‖² + ν‖B − Pᵀ φ(X)‖²   with Rᵀ R = I and B of ±1

    over W, R, P (closed form each) and the codes B (bit by bit, discrete), in turn. An image's code is sign(Pᵀ φ(x)).
    Y holds unit-length embeddings of the training images' classes, centred on the training classes: class attributes,
    or word vectors of the attributes summed with the class's strengths (the paper: word vectors of the class names).
    φ are Gaussian kernels of random anchors (`rbf`, as in the paper as far as known), or the `linear` feature; centred.

    Departures: the paper's term that preserves local structure (a graph over the images) is left out; P has a small
    ridge penalty, since φ may have more dimensions than there are images; B starts from ITQ of the feature.
    A note on the formula: with R square and W free, (R, W) and (I, W R) have the same value, so the rotation cannot
    lower the optimum; it is kept because the method is known by it.
    """

    trains = False

    def __init__(
        self,
        *,
        embedding: Literal["attributes", "vectors"] = "attributes",
        kernel: Literal["rbf", "linear"] = "rbf",
        anchors: Annotated[int, Bounds(1, 65_536, instead="set kernel=linear to go without")] = 500,
        bandwidth: Positive = 1.0,
        embedding_penalty: Positive = 1.0,
        fit_weight: NonNegative = 1e-3,
        projection_penalty: Positive = 1e-2,
        rounds: Count = 10,
        **kwargs: Any,
    ) -> None:
        """Build the method.

        Args:
            embedding: rows of the class-attribute matrix, or the same times the attributes' word vectors.
            kernel: φ, Gaussian kernels of `anchors` or the feature itself.
            anchors: number of training images drawn as anchors; with fewer images they repeat.
            bandwidth: σ of the kernels, in units of the mean distance of images from anchors.
            embedding_penalty: λ.
            fit_weight: ν, how closely codes follow what an image can be given without its label.
            projection_penalty: ridge penalty of P, in units of φ's mean variance.
            rounds: of the alternation.
            **kwargs: see `HashingMethod`; `hash_init` says what codes the alternation starts from.
        """
        super().__init__(**kwargs)
        self.kernel, self.bandwidth, self.rounds = kernel, bandwidth, rounds
        self.embedding_penalty, self.fit_weight = embedding_penalty, fit_weight
        self.projection_penalty = projection_penalty
        dim = self.head.in_features
        if kernel == "rbf":
            self.register_buffer("anchors", torch.zeros(anchors, dim))
            self.register_buffer("precision", torch.ones(()))
            self.head = HashHead(anchors, self.bits)
        table = self.class_attributes @ self.attribute_vectors if embedding == "vectors" else self.class_attributes
        self.register_buffer("embeddings", F.normalize(centred_prototypes(table, self.train_classes), dim=-1))
        # Nothing trains, so the backbone must not look trainable to DDP.
        self.requires_grad_(False)

    anchors: Tensor
    precision: Tensor
    embeddings: Tensor

    def hash_logits(self, batch: Batch) -> Tensor:
        """Return the projected kernels (B, L)."""
        return self.head(self.kernels(self.feature(batch)))  # type: ignore[no-any-return]

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return no terms: everything is fitted before the first step."""
        return {}

    def configure_optimizers(self) -> None:
        """Return no optimiser."""
        return

    def kernels(self, features: Tensor) -> Tensor:
        """Return φ (B, anchors) of features (B, D), or the features for a linear kernel."""
        if self.kernel == "linear":
            return features
        distance = torch.cdist(features.float(), self.anchors.float()).to(features.dtype)
        return torch.exp(-self.precision * distance.square())

    @torch.no_grad()
    def start_from_features(self) -> None:
        """Fit anchors, codes and projection to all training images."""
        features, labels = self.training_features(), self.training_labels()
        if self.kernel == "rbf":
            generator = torch.Generator().manual_seed(0)
            order = torch.randperm(len(features), generator=generator)
            anchors = features[order[torch.arange(len(self.anchors)) % len(order)]]
            distance = torch.cdist(features, anchors).mean().clamp(min=1e-6)
            self.anchors.copy_(anchors)
            self.precision.copy_(1 / (2 * (self.bandwidth * distance) ** 2))
        phi = self.kernels(features.to(self.head.weight)).float().cpu()
        mean = phi.mean(dim=0)
        solution = solve(
            (phi - mean).double(),
            self.embeddings.cpu()[labels].double(),
            self._first_codes(features).double(),
            embedding_penalty=self.embedding_penalty,
            fit_weight=self.fit_weight,
            projection_penalty=self.projection_penalty,
            rounds=self.rounds,
        )
        weight = solution.projection.T.to(phi.dtype)
        self.head.weight.copy_(weight)
        self.head.bias.copy_(-(weight @ mean))
        state = self.trainer.strategy.broadcast({k: v.cpu() for k, v in self.state_dict().items()})
        self.load_state_dict(state)

    def _first_codes(self, features: Tensor) -> Tensor:
        if self.hash_init == "random":
            generator = torch.Generator().manual_seed(0)
            return signs(torch.randn(len(features), self.bits, generator=generator))
        weight, bias = itq(features, self.bits, rotate=self.hash_init == "itq")
        return signs(features @ weight.T + bias)


def solve(
    phi: Tensor,
    embeddings: Tensor,
    codes: Tensor,
    *,
    embedding_penalty: float,
    fit_weight: float,
    projection_penalty: float,
    rounds: int,
) -> Solution:
    """Minimise TSK's objective by turns; rows are images, so that the first term is ‖Y R − B W‖².

    Args:
        phi: φ(X) (n, D), centred.
        embeddings: Y (n, M).
        codes: B (n, L) of ±1 to start from.
        embedding_penalty: λ.
        fit_weight: ν.
        projection_penalty: ridge penalty of P, in units of φ's mean variance; its cost is part of the objective.
        rounds: how often every variable has its turn.
    """
    codes = codes.clone()
    eye = torch.eye(codes.shape[1], dtype=codes.dtype)
    rotation = torch.eye(embeddings.shape[1], dtype=codes.dtype)
    gram = phi.T @ phi
    penalty = projection_penalty * gram.diagonal().mean().clamp(min=1e-12)
    factor = torch.linalg.cholesky(gram + penalty * torch.eye(len(gram), dtype=gram.dtype))
    projection = torch.cholesky_solve(phi.T @ codes, factor)
    weight, objective = torch.zeros(codes.shape[1], embeddings.shape[1], dtype=codes.dtype), []
    for _ in range(rounds):
        rotated = embeddings @ rotation
        weight = torch.linalg.solve(codes.T @ codes + embedding_penalty * eye, codes.T @ rotated)
        left, _, right = torch.linalg.svd(embeddings.T @ (codes @ weight))  # Procrustes
        rotation = left @ right
        codes = _discrete(codes, embeddings @ rotation @ weight.T + fit_weight * phi @ projection, weight @ weight.T)
        projection = torch.cholesky_solve(phi.T @ codes, factor)
        error = (embeddings @ rotation - codes @ weight).square().sum() + embedding_penalty * weight.square().sum()
        fit = (codes - phi @ projection).square().sum() + penalty * projection.square().sum()
        objective.append(float(error + fit_weight * fit))
    return Solution(codes, weight, rotation, projection, objective)


def _discrete(codes: Tensor, wanted: Tensor, gram: Tensor, sweeps: int = 3) -> Tensor:
    """Minimise ‖B W‖² − 2 tr(Bᵀ Q) over codes B (n, L) of ±1, bit by bit; Q is `wanted`, `gram` is W Wᵀ."""
    codes = codes.clone()
    for _ in range(sweeps):
        for bit in range(codes.shape[1]):
            rest = codes @ gram[bit] - codes[:, bit] * gram[bit, bit]
            pull = wanted[:, bit] - rest
            codes[:, bit] = torch.where(pull == 0, codes[:, bit], signs(pull))
    return codes


def signs(values: Tensor) -> Tensor:
    """Return −1 and +1 of any tensor; 0 counts as positive, as in `binarize`."""
    return torch.where(values >= 0, 1.0, -1.0).to(values.dtype)
