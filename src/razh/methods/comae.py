"""COMAE: an attribute prototype network beside an angular hash loss. Li et al., ICMR 2025 (arXiv 2402.16424)."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from razh.layers.regression import attribute_regression_loss
from razh.losses.attributes import attribute_contrast_loss, centred_prototypes, map_compactness_loss
from razh.losses.hashing import centre_distances, cosine_margin_loss, supervised_contrastive_loss
from razh.method import Batch, HashingMethod
from razh.support.bounds import NonNegative, Positive
from razh.support.distributed import whole_batch


class COMAE(HashingMethod):
    """Comprehensive attribute exploration: constraints by point, by pair and by class.

    **A re-implementation from the abstract and second-hand descriptions** of "COMAE: COMprehensive Attribute
    Exploration for Zero-shot Hashing". Known: attributes are regressed by an attribute prototype network (Xu et al.,
    NeurIPS 2020): one prototype p_m an attribute, whose products with the patches z_n are the attribute's map and
    whose maximum over the patches is the prediction â_m; beside it stand a contrast of attributes and a supervised
    contrast of classes that ties code, image representation and attributes; the hash loss is ADSH's. All in all:

        L = CE(s (cos(h, w_c) − m [c = y])) − α mean d + β var d          see `adsh`
          + w_k CE(softmax(â · A), y) + w_r ‖â − a_y‖² / M + w_m compactness of the maps        point by point
          + w_p contrast of the attributes over the batch + w_c SupCon over (h, U â, V f)       pairs, classes

    Guesses of ours: the form of the attribute contrast (`attribute_contrast_loss`; all attributes take part), the three
    views of the class contrast and their linear maps U and V, a bias for each attribute, layer-normalised patches, and
    all weights. A is centred on the training classes, which a cross-entropy cannot tell from A. With a frozen backbone
    nothing but the class contrast would carry attributes into the code; `attributes_in_code` adds a linear map of â to
    the hash logits (our addition; its weights start at 0).

    Departures: the patches are those at the backbone's split point, so that they can be cached, not the last feature
    map; maps are softmaxed before their compactness is measured; the hash head starts from ITQ.
    """

    def __init__(
        self,
        *,
        scale: Positive = 10.0,
        margin: NonNegative = 0.2,
        mean_weight: NonNegative = 1.0,
        variance_weight: NonNegative = 1.0,
        attributes_in_code: bool = True,
        classification_weight: NonNegative = 1.0,
        regression_weight: NonNegative = 1.0,
        compactness_weight: NonNegative = 0.1,
        contrast_weight: NonNegative = 0.1,
        contrast_temperature: Positive = 0.1,
        class_weight: NonNegative = 0.1,
        class_temperature: Positive = 0.1,
        **kwargs: Any,
    ) -> None:
        """Build the method.

        Args:
            scale: s of the angular hash loss.
            margin: m of the angular hash loss.
            mean_weight: α, of the mean distance of two class weights.
            variance_weight: β, of the variance of these distances.
            attributes_in_code: add a linear map of the predicted attributes to the hash logits.
            classification_weight: of the cross-entropy of the predicted attributes.
            regression_weight: of their squared error.
            compactness_weight: of the attribute maps.
            contrast_weight: of the contrast between attributes.
            contrast_temperature: of the same.
            class_weight: of the supervised contrast of classes.
            class_temperature: of the same.
            **kwargs: see `HashingMethod`.

        Raises:
            ValueError: fewer than three training classes, whose distances have no variance.
        """
        super().__init__(**kwargs)
        classes, attributes = len(self.train_classes), self.class_attributes.shape[1]
        if classes < 3:
            raise ValueError(f"comae needs at least 3 training classes, got {classes}; take another method or more")
        self.scale, self.margin = scale, margin
        self.mean_weight, self.variance_weight = mean_weight, variance_weight
        self.classification_weight, self.regression_weight = classification_weight, regression_weight
        self.compactness_weight = compactness_weight
        self.contrast_weight, self.contrast_temperature = contrast_weight, contrast_temperature
        self.class_weight, self.class_temperature = class_weight, class_temperature
        known = self.class_attributes[self.train_classes]
        self.register_buffer("prototypes", centred_prototypes(self.class_attributes, self.train_classes))
        self.register_buffer("mean_strength", known.mean(dim=0))
        self.network = AttributePrototypes(self.backbone.dim, self.mean_strength)
        self.weight = nn.Parameter(torch.randn(classes, self.bits))
        self.attribute_view = nn.Linear(attributes, self.bits, bias=False)
        self.feature_view = nn.Linear(self.head.in_features, self.bits, bias=False)
        self.attribute_code = nn.Linear(attributes, self.bits, bias=False) if attributes_in_code else None
        if self.attribute_code is not None:
            nn.init.zeros_(self.attribute_code.weight)

    prototypes: Tensor
    mean_strength: Tensor

    def hash_logits(self, batch: Batch) -> Tensor:
        """Return hash logits (B, L) of the feature, and of the predicted attributes where they have a part in it."""
        if self.attribute_code is None:
            return self.head(self.feature(batch))  # type: ignore[no-any-return]
        patches = self.patches(batch)
        return self._code(self._feature_of(patches, batch), self.network(self._spatial(patches))[0])

    @property
    def cached_inputs(self) -> tuple[str, ...]:
        """Return all arrays of a feature cache: the attribute maps need patches."""
        return tuple(dict.fromkeys((*self.backbone.caches, *super().cached_inputs)))

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return the angular hash loss and the constraints on attributes by point, pair and class."""
        patches, label, targets = self.patches(batch), batch["label"], self.targets(batch)
        predicted, maps = self.network(self._spatial(patches))
        feature = self._feature_of(patches, batch)
        logits, distances = self._code(feature, predicted), centre_distances(self.weight)
        strength = self.class_attributes[label]
        scores = predicted @ self.prototypes[self.train_classes].T
        views = torch.cat([logits, self.attribute_view(predicted - self.mean_strength), self.feature_view(feature)])
        every, strengths = whole_batch(predicted, strength)
        contrast = attribute_contrast_loss(every, strengths, self.contrast_temperature)
        views, labels = whole_batch(views, label.repeat(3))
        classes = supervised_contrastive_loss(views, labels, self.class_temperature)
        return {
            "hash": cosine_margin_loss(logits, self.weight, targets, self.scale, self.margin),
            "distance": -self.mean_weight * distances.mean(),
            "variance": self.variance_weight * distances.var(),
            "classification": self.classification_weight * F.cross_entropy(scores, targets),
            "regression": self.regression_weight * attribute_regression_loss(predicted, strength),
            "compactness": self.compactness_weight * map_compactness_loss(maps, self.backbone.grid),
            "contrast": self.contrast_weight * contrast,
            "classes": self.class_weight * classes,
        }

    def _code(self, feature: Tensor, predicted: Tensor) -> Tensor:
        logits: Tensor = self.head(feature)
        return logits if self.attribute_code is None else logits + self.attribute_code(predicted - self.mean_strength)

    def _feature_of(self, patches: Tensor, batch: Batch) -> Tensor:
        return self.feature(batch) if self.views or "feature" in batch else self.backbone.encode(patches)

    def _spatial(self, patches: Tensor) -> Tensor:
        return patches[:, self.backbone.prefix :]


class AttributePrototypes(nn.Module):
    """One prototype an attribute; its products with the patches are the attribute's map, their maximum its strength."""

    def __init__(self, dim: int, mean_strength: Tensor) -> None:
        """Build the layer; predictions start near `mean_strength` (M,) for patches of width `dim`."""
        super().__init__()
        self.norm = nn.LayerNorm(dim, elementwise_affine=False)
        self.prototypes = nn.Parameter(torch.randn(len(mean_strength), dim) * 0.1 / dim**0.5)
        self.bias = nn.Parameter(mean_strength.clone())

    def forward(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Return predicted strengths (B, M) and maps (B, M, N) of patches (B, N, D)."""
        maps = self.prototypes @ self.norm(patches).transpose(1, 2)
        return maps.amax(dim=-1) + self.bias, maps
