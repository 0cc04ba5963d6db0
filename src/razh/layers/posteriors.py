"""Features to class posteriors, in closed form: which training classes an image resembles."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from razh.layers.hash import within_class_whitening


class ClassPosteriors(nn.Module):
    """Describe an image by the classes that it resembles; no label is needed, and an unseen class resembles several.

    Scores are dot products with the directions of the class means, in the space that is whitened within classes and in
    units of a training image's mean length: cosines on average, and one linear map (a linear discriminant). The output
    is the square root of their softmax, so that dot products of two images are the Bhattacharyya coefficient of their
    posteriors. Nothing here is trained by gradient: `fit` solves for it.

    Classes of which no image is known can be `described` by their attributes: their means are predicted from those of
    the training classes by ridge regression. Since images resemble classes that were fitted to images more, described
    ones get a lead (calibrated stacking; Chao et al., ECCV 2016).
    """

    def __init__(
        self,
        dim: int,
        classes: int,
        described: int = 0,
        *,
        sharpness: float = 15.0,
        weight: float = 4.0,
        lead: float = 0.1,
        penalty: float = 1.0,
    ) -> None:
        """Build the layer; its outputs are those of no knowledge until `fit`.

        Args:
            dim: width D of the features.
            classes: number of classes with images.
            described: number of classes with attributes alone.
            sharpness: what scores are multiplied by before the softmax.
            weight: length of an output; a feature weighs 1, see `HashHead.initialise`.
            lead: added to the scores of described classes.
            penalty: of the ridge regression, beside attributes of length 1.
        """
        super().__init__()
        self.classes, self.described = classes, described
        self.sharpness, self.weight, self.penalty = sharpness, weight, penalty
        self.register_buffer("directions", torch.zeros(classes + described, dim))
        self.register_buffer("mean", torch.zeros(dim))
        leads = torch.cat([torch.zeros(classes), torch.full((described,), lead)])
        self.register_buffer("leads", leads, persistent=False)

    directions: Tensor
    mean: Tensor
    leads: Tensor

    @property
    def width(self) -> int:
        """Number P of outputs."""
        return self.classes + self.described

    @torch.no_grad()
    def fit(
        self,
        features: Tensor,
        targets: Tensor,
        attributes: Tensor | None = None,
        described: Tensor | None = None,
        *,
        whitening: Tensor | None = None,
    ) -> None:
        """Solve for the directions that tell the training classes apart.

        Args:
            features: (n, D) of training images.
            targets: (n,), their classes, counted from 0.
            attributes: (classes, M) centred attributes of the classes with images, if any class is described.
            described: (described, M) centred attributes of those without.
            whitening: (D, D), that of these features within classes, if it is known already.

        Raises:
            ValueError: a class has no image, so that its mean is unknown.
        """
        features, targets = features.float().cpu(), targets.cpu()
        count = torch.bincount(targets, minlength=self.classes)
        if not count.all():
            raise ValueError(
                f"{int((count == 0).sum())} of {self.classes} training classes have no image; set model.posteriors=none"
            )
        mean = features.mean(dim=0)
        if whitening is None:
            whitening = within_class_whitening(features, targets)
        white = (features - mean) @ whitening
        length = white.norm(dim=1).mean().clamp(min=1e-12)
        means = torch.zeros(self.classes, features.shape[1]).index_add_(0, targets, white) / count[:, None]
        if attributes is not None and described is not None:
            means = torch.cat([means, predicted_means(means, attributes.cpu(), described.cpu(), self.penalty)])
        self.mean.copy_(mean)
        self.directions.copy_(F.normalize(means, dim=1) @ whitening / length)  # the whitening is symmetric

    def forward(self, features: Tensor) -> Tensor:
        """Return square roots (B, P) of the posteriors of features (B, D), `weight` times."""
        scores = (features - self.mean) @ self.directions.T + self.leads
        logs: Tensor = (self.sharpness * scores).log_softmax(dim=-1)
        return self.weight * (0.5 * logs).exp()  # the square root alone has no gradient at 0


def left_out_means(means: Tensor, attributes: Tensor, penalty: float) -> Tensor:
    """Return means (C, D) of classes as `predicted_means` would give them from the other classes.

    Args:
        means: (C, D).
        attributes: (C, M), centred.
        penalty: of the ridge.
    """
    known = F.normalize(attributes.double(), dim=1)
    inverse = torch.linalg.inv(known @ known.T + penalty * torch.eye(len(known), dtype=torch.double))
    left_out: Tensor = means - inverse @ means.double() / inverse.diagonal()[:, None]
    return left_out.to(means.dtype)


def predicted_means(means: Tensor, attributes: Tensor, described: Tensor, penalty: float) -> Tensor:
    """Return means (C', D) of classes that are described by attributes (C', M), given those of others.

    Ridge regression from attributes of length 1 to means, in its dual form: there are fewer classes than attributes.

    Args:
        means: (C, D).
        attributes: (C, M), centred.
        described: (C', M), centred by the same mean.
        penalty: of the ridge.
    """
    known, asked = F.normalize(attributes.double(), dim=1), F.normalize(described.double(), dim=1)
    kernel = known @ known.T + penalty * torch.eye(len(known), dtype=torch.double)
    solved: Tensor = torch.linalg.solve(kernel, means.double())
    return (asked @ known.T @ solved).to(means.dtype)
