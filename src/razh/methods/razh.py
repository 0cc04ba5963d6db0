"""RAZH: parts are clustered, matched with attributes, replaced by them, and rebuilt; then hashed."""

import copy
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from razh.backbones.timm import TimmBackbone, pool_grid
from razh.distributed import gather_with_gradient, whole_batch
from razh.layers.attributes import AttributeMatcher, AttributeReplacement, Match, PartResponses
from razh.layers.decoder import PatchDecoder, hide, pixel_targets
from razh.layers.hash import HashHead, straight_through_sign, within_class_whitening
from razh.layers.parts import SoftPartClustering
from razh.layers.posteriors import ClassPosteriors
from razh.losses import attributes as attribute_losses
from razh.losses import hashing as hash_losses
from razh.losses import parts as part_losses
from razh.method import Batch, HashingMethod

log = logging.getLogger(__name__)

SPACES = ("feature", "whitened")
POSTERIORS = ("none", "training", "described")
LABEL_TERMS = ("hash", "semantic", "pairwise", "classification", "naming", "mix_hash")
"""Terms that tell the training classes apart."""


@dataclass(frozen=True)
class Parts:
    """Parts of a batch: vectors (B, K, D), assignment of patches (B, N, K + 1), and the attribute of each part."""

    vectors: Tensor
    assignment: Tensor
    match: Match


class RAZH(HashingMethod):
    """Zero-shot hashing based on reconstruction with part alignment (arXiv 2503.07037).

    **A re-implementation from the paper's abstract**; its body, hyper-parameters and code were not available. From the
    abstract: patches are grouped into parts by clustering, parts are matched with attributes, matched parts are
    replaced by attribute vectors step by step, and images are reconstructed. From second-hand summaries: a mix branch
    and a reconstruction branch, a split into an image's own attributes and the others, and a loss of hash +
    classification + reconstruction terms. Everything else is a guess of ours and is marked so:

    - soft assignment to shared centres with a background slot (guess; asked for by the users of this project);
    - straight-through nearest own attribute, and the alignment term (guess);
    - own is what a class has more of than others (our addition: else all parts take one of the few attributes that
      nearly every class has);
    - the share of replaced parts rises linearly over `ramp_epochs` (the paper: "gradually"; the form is a guess);
    - both branches predict pixels per patch, normalised as in MAE (guess);
    - classification by cosine with centred class attributes, on the feature and on the hash logits (guess);
    - `similarity`: the code keeps the pairwise similarity of the feature that the network gave before it was trained
      (our addition);
    - hash head started from PCA + ITQ (our addition);
    - where a network with trained weights is frozen, this start and `similarity` see features whitened within classes:
      what a network has most of need not be what tells classes apart (our addition);
    - where the network trains from nothing, the hash head also sees how near the nearest part comes to each attribute
      (`part_responses`; our addition: else parts would not reach the code at test);
    - the hash head can see which classes an image resembles (`posteriors`; our addition, off);
    - parts can learn to name the class by attributes (`naming`; our addition, off).

    At test there is no label, hence no replacement and no decoder: the code is the sign of the hash head.

    A term of weight 0 is neither computed nor logged, and modules that only it needs are not built.
    """

    def __init__(
        self,
        *,
        hash_init: Literal["itq", "pca", "whitened", "random"] | None = None,
        parts: int = 8,
        background_centres: int = 16,
        part_init: Literal["kmeans", "random"] = "kmeans",
        part_temperature: float = 0.1,
        part_centres: Literal["shared", "image"] = "shared",
        part_assignment: Literal["soft", "hard"] = "soft",
        granularity: Literal["part", "patch"] = "part",
        background_share: float = 0.65,
        own_threshold: float = 0.5,
        attribute_strength: Literal["relative", "absolute"] = "relative",
        attribute_choice: Literal["nearest", "random", "other"] = "nearest",
        match_temperature: float = 0.1,
        match_balance: int = 3,
        match_gumbel: bool = False,
        replaced_share: float = 0.5,
        replaced_threshold: float = -1.0,
        ramp_epochs: float = 3.0,
        hidden_share: float = 0.5,
        target: Literal["pixel", "feature"] = "pixel",
        target_side: int = 4,
        branch_images: int = 16,
        classifier: Literal["semantic", "linear"] = "semantic",
        scale: float = 10.0,
        hash_classifier: Literal["linear", "cosine"] = "linear",
        margin: float = 0.2,
        contrast_below: int = 0,
        contrast_temperature: float = 0.3,
        straight_through: bool = False,
        similarity_space: Literal["feature", "whitened"] | None = None,
        attribute_share: float = 0.0,
        untrained_attribute_share: float = 1.0,
        enough_classes: int = 0,
        hash_weight: float = 1.0,
        semantic_weight: float = 1.0,
        pairwise_weight: float = 0.0,
        similarity_weight: float = 10.0,
        quantization_weight: float = 0.0,
        balance_weight: float = 0.0,
        classification_weight: float = 0.1,
        naming_weight: float = 0.0,
        mix_weight: float = 0.1,
        mix_hash_weight: float = 0.1,
        reconstruction_weight: float = 0.1,
        alignment_weight: float = 0.1,
        part_responses: Literal["none", "part", "patch"] | None = None,
        posteriors: Literal["none", "training", "described"] = "none",
        orthogonality_weight: float = 0.1,
        presence_weight: float = 1.0,
        background_weight: float = 0.1,
        entropy_weight: float = 0.1,
        smoothness_weight: float = 0.1,
        equivariance_weight: float = 0.0,
        **kwargs: Any,
    ) -> None:
        """Build the method.

        Args:
            hash_init: see `HashingMethod`. None: `whitened` where a network with trained weights is frozen, else `itq`.
            parts: number K of parts, besides the background.
            background_centres: centres whose shares add up to the background.
            part_init: start the centres from k-means of training patches, or at random. Features of an untrained
                network are no start: with `hash_init=random` the centres start at random, too.
            part_temperature: τ of the soft assignment.
            part_centres: `shared` by all images, or refined per `image`.
            part_assignment: `soft`, or `hard` as an ablation.
            granularity: replace whole `part`s, or each `patch` on its own as an ablation (without any part terms).
            background_share: share of the patches that the presence term wants to be background.
            own_threshold: an attribute is a class's own from this share of its strongest attribute on.
            attribute_strength: what makes an attribute a class's own: having more of it than training classes have on
                average (`relative`), or much of it (`absolute`).
            attribute_choice: `nearest`, or `random` among the own ones, or an `other` one: the controls.
            match_temperature: τ of the match.
            match_balance: Sinkhorn steps, so that not all parts take one attribute; 0 for none.
            match_gumbel: sample the match.
            replaced_share: ρ, the share of (image, part) pairs that are replaced after the ramp.
            replaced_threshold: pairs of lower similarity are never replaced.
            ramp_epochs: epochs over which the share rises from 0; 0 for no ramp.
            hidden_share: share of patches hidden in the reconstruction branch.
            target: what the branches predict: `pixel`s, or the `feature` of the patch as an ablation.
            target_side: pixels of a cell's side in the target.
            branch_images: images of a batch that pass through the two branches (each costs one more `encode`).
            classifier: `semantic` (cosine with class attributes), or `linear` as a control.
            scale: γ of the cosine logits.
            hash_classifier: of the `hash` term: `linear`, or `cosine` with learnt class codes and a margin (CosFace).
            margin: of the cosine classifier.
            contrast_below: codes of fewer bits have no such classifier: `hash` contrasts pairs of them (SupCon).
            contrast_temperature: t of that contrast.
            straight_through: the terms on the hash logits see their signs, and the gradient passes.
            similarity_space: what `similarity` keeps is the cosine of centred features as they are, or of features
                `whitened` by what differs within a class, see `within_class_whitening`. None: `whitened` where a
                network with trained weights is frozen, else `feature`.
            attribute_share: share of the classes' attribute similarity in what `similarity` keeps; the rest is the
                feature's.
            untrained_attribute_share: the same where the network starts without trained weights, and its features know
                nothing that is worth keeping.
            enough_classes: with fewer training classes, terms on labels (`LABEL_TERMS`) weigh (classes /
                `enough_classes`)³ of their weight, if the network started from trained weights: what tells few classes
                apart says little about others, and the network knows better. 0 for never.
            hash_weight: cross-entropy of a classifier on the hash logits, or the contrast of short codes.
            semantic_weight: cross-entropy of the hash logits' cosine with the class attributes.
            pairwise_weight: pairwise likelihood of the hash logits.
            similarity_weight: keeps the feature's similarity in the code; where layers train, that of the network as it
                was built, if it had trained weights and features are cached.
            quantization_weight: pull of the logits towards ±1.
            balance_weight: every bit should split a batch in half.
            classification_weight: classification of the feature.
            naming_weight: cross-entropy of naming the class by attributes alone, each counting as much as its nearest
                part comes to it; a random part, unless `attribute_choice` is `nearest`.
            mix_weight: reconstruction in the mix branch.
            mix_hash_weight: cross-entropy of the hash logits of the mixed images.
            reconstruction_weight: reconstruction of hidden patches.
            alignment_weight: parts towards own attributes, away from others.
            part_responses: the hash head sees, beside the feature, how near the nearest `part`, or `patch`, comes to
                each attribute. None: `default_responses` where the network trains from nothing, else `none`.
            posteriors: the hash head sees, beside the feature, which of the `training` classes the image resembles, see
                `ClassPosteriors`; or of all classes that are `described` by attributes, those without training images,
                the unseen ones among them, included. The second asks for attributes of the classes to be searched
                (class-transductive zero-shot learning): do not compare it with methods that do without them.
            orthogonality_weight: different parts should look different.
            presence_weight: parts should have even shares of the batch, the background `background_share`.
            background_weight: patches at the rim of the image should be background.
            entropy_weight: patches should decide for a part.
            smoothness_weight: neighbours should belong to one part (total variation).
            equivariance_weight: parts of the mirrored image should be mirrored; needs live images (no cache).
            **kwargs: see `HashingMethod`.

        Raises:
            ValueError: a share out of [0, 1], a temperature that is not above 0, fewer than one image for the branches,
                a negative number of classes, or posteriors or a space of no such kind.
        """
        backbone: TimmBackbone = kwargs["backbone"]
        whitened = backbone.frozen_with_weights
        super().__init__(hash_init=hash_init or ("whitened" if whitened else "itq"), **kwargs)
        _check_shares(
            replaced_share=replaced_share,
            hidden_share=hidden_share,
            background_share=background_share,
            attribute_share=attribute_share,
            untrained_attribute_share=untrained_attribute_share,
        )
        if not contrast_temperature > 0:
            raise ValueError(f"contrast_temperature={contrast_temperature} must be above 0")
        self.margin, self.contrast_temperature = margin, contrast_temperature
        self.straight_through = straight_through
        self.attribute_share = attribute_share if self.backbone.has_weights else untrained_attribute_share
        if enough_classes < 0:
            raise ValueError(f"enough_classes={enough_classes} must be at least 0; 0 never weighs labels less")
        if branch_images < 1:
            raise ValueError(f"branch_images={branch_images} must be at least 1; switch a branch off by weight 0")
        self.part_init, self.granularity, self.target, self.target_side = part_init, granularity, target, target_side
        self.responses = part_responses or (self.default_responses if self.trains_from_nothing else "none")
        if self.responses == "part":
            self.responses = granularity
        self.replaced_share, self.ramp_epochs, self.hidden_share = replaced_share, ramp_epochs, hidden_share
        self.branch_images, self.scale, self.background_share = branch_images, scale, background_share
        self.attribute_choice = attribute_choice
        if granularity == "patch":  # nothing is clustered, so nothing tells how good the clusters are
            orthogonality_weight = presence_weight = background_weight = 0.0
            entropy_weight = smoothness_weight = equivariance_weight = 0.0
        self.weights = {
            "hash": hash_weight,
            "semantic": semantic_weight,
            "pairwise": pairwise_weight,
            "similarity": similarity_weight,
            "quantization": quantization_weight,
            "balance": balance_weight,
            "classification": classification_weight,
            "naming": naming_weight,
            "mix": mix_weight,
            "mix_hash": mix_hash_weight,
            "reconstruction": reconstruction_weight,
            "alignment": alignment_weight,
            "orthogonality": orthogonality_weight,
            "presence": presence_weight,
            "background": background_weight,
            "entropy": entropy_weight,
            "smoothness": smoothness_weight,
            "equivariance": equivariance_weight,
        }
        if len(self.train_classes) < enough_classes and self.backbone.has_weights:
            for term in LABEL_TERMS:
                self.weights[term] *= (len(self.train_classes) / enough_classes) ** 3
        prototypes = attribute_losses.centred_prototypes(self.class_attributes, self.train_classes)
        self.register_buffer("prototypes", prototypes[self.train_classes])
        strengths = self.class_attributes
        if attribute_strength == "relative":
            strengths = attribute_losses.relative_strengths(strengths, self.train_classes)
        self.register_buffer("strengths", strengths, persistent=False)
        self.register_buffer("own", attribute_losses.own_attributes(strengths, own_threshold))
        self.feature_width = self.head.in_features
        self._build_similarity(similarity_space or ("whitened" if whitened else "feature"))
        self.posteriors = self._posteriors(posteriors)
        responses = len(self.attribute_vectors) if self.responses != "none" else 0
        if self.posteriors is not None or responses:
            beside = 0 if self.posteriors is None else self.posteriors.width
            self.head = HashHead(self.feature_width + beside + responses, self.bits)
        self._build_classifiers(classifier, "contrast" if self.bits < contrast_below else hash_classifier)
        self._build_parts(
            SoftPartClustering(
                self.backbone.dim,
                parts,
                background_centres,
                temperature=part_temperature,
                centres=part_centres,
                assignment=part_assignment,
            ),
            AttributeMatcher(
                self.backbone.dim,
                self.attribute_vectors.shape[1],
                temperature=match_temperature,
                choice=attribute_choice,
                balance=match_balance,
                gumbel=match_gumbel,
            ),
            replaced_threshold,
        )

    prototypes: Tensor
    strengths: Tensor
    own: Tensor
    feature_mean: Tensor
    feature_whitening: Tensor

    def _build_similarity(self, space: str) -> None:
        if space not in SPACES:
            raise ValueError(f"similarity_space={space!r} must be one of {', '.join(SPACES)}")
        self.whitens = space == "whitened" and self.uses("similarity")
        self.register_buffer("feature_mean", torch.zeros(self.feature_width))
        if self.whitens:
            self.register_buffer("feature_whitening", torch.eye(self.feature_width))

    def _posteriors(self, kind: str) -> ClassPosteriors | None:
        if kind not in POSTERIORS:
            raise ValueError(f"posteriors={kind!r} must be one of {', '.join(POSTERIORS)}")
        classes, every = len(self.train_classes), len(self.class_attributes)
        if kind == "training":
            return ClassPosteriors(self.feature_width, classes)
        if kind == "described":  # more classes to tell apart: sharper
            return ClassPosteriors(self.feature_width, classes, every - classes, sharpness=30.0)
        return None

    def _build_classifiers(self, kind: str, hash_kind: str) -> None:
        attributes, classes = self.prototypes.shape[1], len(self.train_classes)
        self.hash_kind = hash_kind
        if self.uses("hash", "mix_hash") and hash_kind != "contrast":
            self.hash_classifier = nn.Linear(self.bits, classes, bias=hash_kind == "linear")
        if self.uses("semantic"):
            self.hash_semantic = nn.Linear(self.bits, attributes)
        if self.uses("classification"):
            self.semantic = kind == "semantic"
            self.classifier = nn.Linear(self.feature_width, attributes if self.semantic else classes)

    def _build_parts(self, clustering: SoftPartClustering, matcher: AttributeMatcher, threshold: float) -> None:
        backbone = self.backbone
        part_terms = ("orthogonality", "presence", "background", "entropy", "smoothness", "equivariance")
        self.uses_parts = self.uses("mix", "mix_hash", "alignment", *part_terms)
        if ((self.uses_parts or self.uses("naming")) and self.granularity == "part") or self.responses == "part":
            self.clustering = clustering
        if self.uses("mix", "mix_hash", "alignment"):
            self.matcher = matcher
        if self.responses != "none":
            self.responder = PartResponses(copy.deepcopy(matcher), len(self.attribute_vectors))
        if self.uses("naming"):
            self.namer = PartResponses(copy.deepcopy(matcher), len(self.attribute_vectors))
        if self.uses("mix", "mix_hash"):
            self.replacement = AttributeReplacement(backbone.dim, self.attribute_vectors.shape[1], threshold)
        if self.uses("reconstruction"):
            self.mask_vector = nn.Parameter(torch.zeros(backbone.dim))
        if self.uses("mix", "reconstruction"):
            target_dim = 3 * self.target_side**2 if self.target == "pixel" else backbone.dim
            self.decoder = PatchDecoder(backbone.token_dim, target_dim, backbone.token_grid)

    def uses(self, *terms: str) -> bool:
        """Tell whether any of these terms has a weight."""
        return any(self.weights[term] for term in terms)

    @property
    def trains_from_nothing(self) -> bool:
        """Whether the whole network trains, and did not start from trained weights."""
        return self.backbone.freeze == "none" and not self.backbone.has_weights

    def hash_logits(self, batch: Batch) -> Tensor:
        """Return hash logits (B, L): a linear map of `hash_input`; no label is needed."""
        return self.head(self.hash_input(batch))  # type: ignore[no-any-return]

    def hash_input(self, batch: Batch) -> Tensor:
        """Return what the hash head sees: the feature (B, D), then posteriors (B, P) and responses (B, M), if any."""
        if self.responses == "none":
            return self._with_posteriors(self.described(batch))
        batch = self.shown(batch)
        return torch.cat([self._with_posteriors(self.described(batch)), self.part_response(batch)], dim=1)

    def _with_posteriors(self, features: Tensor) -> Tensor:
        return features if self.posteriors is None else torch.cat([features, self.posteriors(features)], dim=1)

    def described(self, batch: Batch) -> Tensor:
        """Return the description (B, D) of the whole image: the feature."""
        return self.feature(batch)

    def shown(self, batch: Batch) -> Batch:
        """Return the batch with what several terms need, computed once: the patches."""
        return {**batch, "patches": self.patches(batch)}

    def part_response(self, batch: Batch) -> Tensor:
        """Return how near the nearest part of each image comes to each attribute (B, M), see `PartResponses`."""
        return self.of_patches(batch, self._response)

    def attribute_scores(self, batch: Batch) -> Tensor:
        """Return how much of each attribute the parts of each image show (B, M), as `naming` learned it; no label."""
        return self.of_patches(batch, self._attribute_scores)

    def of_patches(self, batch: Batch, describe: Callable[[Tensor], Tensor]) -> Tensor:
        """Return what `describe` makes of the patches (B, N, D) of each image."""
        return describe(self.patches(batch))

    def _response(self, patches: Tensor) -> Tensor:
        vectors, present = self._shown_parts(patches, self.responses)
        return self.responder(vectors, self.attribute_vectors, present)  # type: ignore[no-any-return]

    def _attribute_scores(self, patches: Tensor) -> Tensor:
        vectors, present = self._shown_parts(patches, self.granularity)
        at_random = self.training and self.attribute_choice != "nearest"
        return self.namer(vectors, self.attribute_vectors, present, at_random=at_random)  # type: ignore[no-any-return]

    def _shown_parts(self, patches: Tensor, granularity: str) -> tuple[Tensor, Tensor]:
        """Return parts (B, K, D) and which of them an image shows (B, K)."""
        vectors, assignment = self._cluster(self._spatial_patches(patches), granularity)
        return vectors, assignment[..., :-1].sum(dim=1) >= 0.5  # half a patch

    default_responses: Literal["part", "patch"] = "part"
    """What responds to attributes where the network trains from nothing."""

    kept_input = "kept"
    """Array of a feature cache that has what the network knew as it was built."""

    @property
    def part_inputs(self) -> tuple[str, ...]:
        """Return the arrays of a feature cache that the terms on patches need."""
        seen = self.sees_patches or self.responses != "none" or self.uses("naming")
        return (*self.backbone.caches, "thumbnail") if seen and self.backbone.caches else ()

    @property
    def sees_patches(self) -> bool:
        """Whether terms on parts or branches need the patches of the image itself."""
        return self.uses_parts or self.uses("reconstruction")

    @property
    def keeps_start(self) -> bool:
        """Whether `similarity` keeps what the network knew as it was built: it did know, and layers of it train."""
        return self.backbone.freeze != "all" and self.backbone.has_weights and self.uses("similarity")

    @property
    def cached_inputs(self) -> tuple[str, ...]:
        """Return the arrays of a feature cache that the terms need."""
        return (*(self.part_inputs or super().cached_inputs), *([self.kept_input] if self.keeps_start else []))

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return every term that has a weight, by its name."""
        if self.sees_patches:
            batch = {**batch, "patches": self.patches(batch)}
        elif self.uses("naming"):
            batch = self.shown(batch)
        terms = self._hash_terms(self.hash_input(batch), batch)
        if self.uses("naming"):
            scores = attribute_losses.semantic_logits(self.attribute_scores(batch), self.prototypes, self.scale)
            terms["naming"] = F.cross_entropy(scores, self.targets(batch))
        if self.sees_patches:
            patches = self.patches(batch)
            if self.uses_parts:
                terms |= self._part_terms(patches, batch)
            if self.uses("reconstruction"):
                terms["reconstruction"] = self._reconstruction_term(patches, batch)
        return {name: self.weights[name] * value for name, value in terms.items()}

    def _hash_terms(self, hashed: Tensor, batch: Batch) -> dict[str, Tensor]:
        logits, targets = self.head(hashed), self.targets(batch)
        feature = hashed[:, : self.feature_width]
        if self.straight_through:
            logits = straight_through_sign(logits)
        terms = {}
        if self.uses("hash"):
            terms["hash"] = self._hash_loss(logits, targets)
        if self.uses("semantic"):
            scores = attribute_losses.semantic_logits(self.hash_semantic(logits), self.prototypes, self.scale)
            terms["semantic"] = F.cross_entropy(scores, targets)
        if self.uses("pairwise"):
            every, labels = whole_batch(logits, targets)
            terms["pairwise"] = hash_losses.pairwise_likelihood_loss(every, labels)
        if self.uses("similarity"):
            kept = self._in_similarity_space(self.kept_feature(feature, batch))
            every, features, attributes = whole_batch(logits, kept, self.prototypes[targets])
            terms["similarity"] = hash_losses.similarity_loss(every, features, attributes, self.attribute_share)
        if self.uses("quantization"):
            terms["quantization"] = hash_losses.quantization_loss(logits)
        if self.uses("balance"):
            terms["balance"] = hash_losses.bit_balance_loss(gather_with_gradient(logits))
        if self.uses("classification"):
            scores = self.classifier(feature)
            if self.semantic:
                scores = attribute_losses.semantic_logits(scores, self.prototypes, self.scale)
            terms["classification"] = F.cross_entropy(scores, targets)
        return terms

    def _in_similarity_space(self, features: Tensor) -> Tensor:
        centred = (features - self.feature_mean).detach()
        return centred @ self.feature_whitening if self.whitens else centred

    def _hash_loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        if self.hash_kind == "contrast":
            every, labels = whole_batch(logits, targets)
            return hash_losses.supervised_contrastive_loss(every, labels, self.contrast_temperature)
        if self.hash_kind == "linear":
            return F.cross_entropy(self.hash_classifier(logits), targets)
        return hash_losses.cosine_margin_loss(logits, self.hash_classifier.weight, targets, self.scale, self.margin)

    def kept_feature(self, feature: Tensor, batch: Batch) -> Tensor:
        """Return the feature (B, D) whose similarity the code should keep, given what the hash head sees (B, D).

        That is the feature by the network as it was built, where layers train and a cache has it: a target that trains
        with the code would be no hold.
        """
        kept = batch.get(self.kept_input)
        return feature if kept is None else kept.to(self.dtype)

    def parts(self, batch: Batch) -> Parts:
        """Return the parts of a batch, each matched with an attribute that the label's class has."""
        return self._match(self._spatial_patches(self.patches(batch)), batch)

    def _spatial_patches(self, patches: Tensor) -> Tensor:
        return patches[:, self.backbone.prefix :]

    def _cluster(self, patches: Tensor, granularity: str) -> tuple[Tensor, Tensor]:
        """Return parts (B, K, D) and assignment (B, N, K + 1) of patches (B, N, D)."""
        if granularity == "part":
            return self.clustering(patches)  # type: ignore[no-any-return]
        identity = torch.eye(patches.shape[1], device=patches.device, dtype=patches.dtype)  # each patch is a part
        return patches, F.pad(identity, (0, 1)).expand(len(patches), -1, -1)

    def _match(self, patches: Tensor, batch: Batch) -> Parts:
        vectors, assignment = self._cluster(patches, self.granularity)
        return Parts(vectors, assignment, self.matcher(vectors, self.attribute_vectors, self.own[batch["label"]]))

    def _part_terms(self, patches: Tensor, batch: Batch) -> dict[str, Tensor]:
        spatial = self._spatial_patches(patches)
        if self.uses("mix", "mix_hash", "alignment"):
            parts = self._match(spatial, batch)
            vectors, assignment = parts.vectors, parts.assignment
        else:
            vectors, assignment = self.clustering(spatial)
        terms = {}
        if self.uses("orthogonality"):
            terms["orthogonality"] = part_losses.orthogonality_loss(vectors)
        if self.uses("presence"):
            everywhere = gather_with_gradient(assignment)
            terms["presence"] = part_losses.presence_loss(everywhere, self.background_share)
        if self.uses("background"):
            terms["background"] = part_losses.background_loss(assignment, self.backbone.grid)
        if self.uses("entropy"):
            terms["entropy"] = part_losses.entropy_loss(assignment)
        if self.uses("smoothness"):
            terms["smoothness"] = part_losses.total_variation_loss(assignment, self.backbone.grid)
        if self.uses("equivariance"):
            terms["equivariance"] = self._equivariance_term(assignment, batch)
        if self.uses("alignment"):
            label = batch["label"]
            terms["alignment"] = attribute_losses.alignment_loss(
                parts.match.similarity, self.strengths[label], self.own[label]
            )
        if self.uses("mix", "mix_hash"):
            terms |= self._mix_terms(patches, parts, batch)
        return terms

    def _equivariance_term(self, assignment: Tensor, batch: Batch) -> Tensor:
        if "image" not in batch:
            raise ValueError("model.equivariance_weight needs live images; set cache.enabled=false, or the weight to 0")
        flipped = self._spatial_patches(self.backbone.embed(batch["image"].flip(-1)))
        return part_losses.flip_equivariance_loss(assignment, self.clustering(flipped)[1], self.backbone.grid)

    def share(self) -> float:
        """Return the share ρ of parts that are replaced at this point of training."""
        if not self.ramp_epochs:
            return self.replaced_share
        steps = math.ceil(self.trainer.num_training_batches / self.trainer.accumulate_grad_batches)
        epochs = self.trainer.global_step / max(steps, 1)
        return self.replaced_share * min(epochs / self.ramp_epochs, 1.0)

    def _mix_terms(self, patches: Tensor, parts: Parts, batch: Batch) -> dict[str, Tensor]:
        n, prefix = min(self.branch_images, len(patches)), self.backbone.prefix
        match = Match(*(t[:n] for t in parts.match))
        mixed, weight = self.replacement(
            patches[:n, prefix:], parts.assignment[:n], match, self.attribute_vectors, self.share()
        )
        tokens = self.backbone.contextualise(torch.cat([patches[:n, :prefix], mixed], dim=1))
        terms = {}
        if self.uses("mix"):
            terms["mix"] = self._decode(tokens, weight, patches[:n, prefix:], batch)
        if self.uses("mix_hash"):
            hashed = self._with_posteriors(self.backbone.pool(tokens))
            if self.responses != "none":  # those of the image as it was: what replaced a part should not respond
                hashed = torch.cat([hashed, self._response(patches[:n])], dim=1)
            logits = self.head(hashed)
            terms["mix_hash"] = self._hash_loss(logits, self.targets(batch)[:n])
        return terms

    def _reconstruction_term(self, patches: Tensor, batch: Batch) -> Tensor:
        n, prefix = min(self.branch_images, len(patches)), self.backbone.prefix
        visible, hidden = hide(patches[:n, prefix:], self.mask_vector, self.hidden_share)
        tokens = self.backbone.contextualise(torch.cat([patches[:n, :prefix], visible], dim=1))
        return self._decode(tokens, hidden, patches[:n, prefix:], batch)

    def _decode(self, tokens: Tensor, weight: Tensor, patches: Tensor, batch: Batch) -> Tensor:
        """Return the error of decoding tokens, at the cells where weight (n, N) says that something was taken away."""
        backbone = self.backbone
        if self.target == "pixel":
            images = batch["image"] if "image" in batch else batch["thumbnail"]
            target = pixel_targets(images[: len(tokens)], backbone.token_grid, self.target_side)
        else:
            normed = F.layer_norm(patches.detach(), patches.shape[-1:])
            target = pool_grid(normed, backbone.grid, backbone.token_grid)
        error = (self.decoder(backbone.spatial(tokens)) - target).square().mean(dim=-1)
        cells = pool_grid(weight.unsqueeze(-1), backbone.grid, backbone.token_grid).squeeze(-1)
        return attribute_losses.masked_mean(error, cells)

    def on_fit_start(self) -> None:
        """Say so if `similarity` has nothing to hold on to."""
        super().on_fit_start()
        if not self.keeps_start:
            return
        kept = self.kept_input
        if kept not in self.trainer.datamodule.attached:  # type: ignore[attr-defined]
            log.warning(
                "similarity follows the network that trains: what it gave before is known from the cache of %r alone; "
                "leave cache.enabled on",
                kept,
            )

    def training_features(self) -> Tensor:
        """Return descriptions (n, D) of all training images; what parts respond means nothing before training."""
        return super().training_features()[:, : self.feature_width]

    def beside(self, features: Tensor) -> Tensor | None:
        """Return the posteriors (n, P) of features (n, D), if the hash head sees them."""
        return None if self.posteriors is None else self.posteriors(features.to(self.head.weight))

    def start_from_features(self) -> None:
        """Fit the posteriors, start the hash head, and take the mean that the similarity term centres features with."""
        starts_head = self.hash_init != "random"
        if starts_head or self.posteriors is not None or self.uses("similarity"):
            features = self.training_features()  # once: without a cache that is a pass over all images
        whitening = None
        if self.whitens or self.posteriors is not None or self.hash_init == "whitened":
            whitening = within_class_whitening(features, self.training_labels())
        if self.posteriors is not None:
            attributes = attribute_losses.centred_prototypes(self.class_attributes, self.train_classes)
            targets = self.class_position.cpu()[self.training_labels()]
            described = attributes[self.class_position < 0] if self.posteriors.described else None
            self.posteriors.fit(features, targets, attributes[self.train_classes], described, whitening=whitening)
            self.synchronise(self.posteriors)
        if starts_head:
            self.start_head(features, whitening)
        if hasattr(self, "clustering") and self.part_init == "kmeans" and starts_head:
            self.clustering.initialise(self._some_patches(), self.backbone.grid)
            self.synchronise(self.clustering)
        if self.uses("similarity"):
            self.feature_mean.copy_(self.trainer.strategy.broadcast(features.mean(dim=0)))
        if self.whitens and whitening is not None:
            self.feature_whitening.copy_(self.trainer.strategy.broadcast(whitening))

    @torch.no_grad()
    def _some_patches(self, images: int = 400) -> Tensor:
        """Return patches (n, N, D) of about that many training images, spread over the whole set."""
        self.eval()
        rows = []
        loader = self.trainer.datamodule.initialisation_dataloader()  # type: ignore[attr-defined]
        step = max(len(loader.sampler) // images, 1)
        for batch in loader:
            chosen = {name: value[::step].to(self.device) for name, value in batch.items()}
            rows.append(self._spatial_patches(self.patches(chosen)).float().cpu())
        self.train()
        return torch.cat(rows)


def _check_shares(**shares: float) -> None:
    """Raise ValueError unless each lies in [0, 1]."""
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise ValueError(f"{name}={share} must lie in [0, 1]")
