"""Options of methods made of terms, in groups: `model.code.margin`, `model.parts.count`, `model.mixing.images`, …."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from razh.support.bounds import Bounds, Cosine, Count, CountOrZero, NonNegative, Positive, PositiveShare, Share, Side
from razh.support.terminal import did_you_mean

if TYPE_CHECKING:
    from razh.backbones.timm import TimmBackbone

T = TypeVar("T")


@dataclass(frozen=True)
class Code:
    """How a description becomes a code, and how terms tell classes by it.

    Attributes:
        classifier: of the `hash` term: `linear`, or `cosine` with learnt class codes and a margin (CosFace).
        margin: of the cosine classifier.
        scale: γ of all cosine logits.
        contrast_below: codes of fewer bits have no classifier: `hash` contrasts pairs of them (SupCon).
        contrast_temperature: t of that contrast.
        straight_through: the terms on the hash logits see their signs, and the gradient passes.
        feature_classifier: of the `classification` term: `semantic` (cosine with class attributes), or `linear` as a
            control.
        posteriors: the hash head also sees which of the `training` classes the image resembles, see `ClassPosteriors`;
            or of all classes that are `described` by attributes, those without training images, the unseen ones among
            them, included. The second asks for attributes of the classes to be searched (class-transductive zero-shot
            learning): do not compare it with methods that do without them. auto: the method's own choice where a
            network with trained weights is frozen, else `none`.
        attributes: length of the attributes that were read, which the hash head sees behind the description; an image's
            description has about length 1. 0 for none; they need `weights.attributes`.
        attributes_from: number of training classes from which on that is so; what few classes teach to read says little
            of others. It does not count for `untrained_attributes`.
        untrained_attributes: the same where the network has no trained weights, whose features tell less.
        collection_attributes: length of the attributes that were read in what codes of a collection are fitted to,
            beside a description of length 1. 0 for none; None: `attributes`, however few classes taught them, or
            `untrained_attributes`.
        responses: the hash head also sees how near the nearest `part`, or `patch`, comes to each attribute. auto: the
            method's own choice where the network trains from random initialisation, else `none`.
        similarity_space: what `similarity` keeps is the cosine of centred descriptions as they are (`feature`), or of
            such as are `whitened` by what differs within a class, see `within_class_whitening`. auto: `whitened` where
            a network with trained weights is frozen, else `feature`.
        attribute_share: share of the classes' attribute similarity in what `similarity` keeps; the rest is the
            description's.
        untrained_attribute_share: the same where the network has no trained weights, and its features know nothing
            that is worth keeping.
        enough_classes: with fewer training classes, terms that tell classes apart weigh (classes / `enough_classes`)³
            of their weight, if the network started from trained weights: what tells few classes apart says little about
            others, and the network knows better. 0 for never.
    """

    classifier: Literal["linear", "cosine"] = "linear"
    margin: NonNegative = 0.2
    scale: Positive = 10.0
    contrast_below: CountOrZero = 0
    contrast_temperature: Positive = 0.3
    straight_through: bool = False
    feature_classifier: Literal["semantic", "linear"] = "semantic"
    posteriors: Literal["auto", "none", "training", "described"] = "auto"
    attributes: NonNegative = 0.0
    attributes_from: CountOrZero = 0
    untrained_attributes: NonNegative = 0.0
    collection_attributes: NonNegative | None = None
    responses: Literal["auto", "none", "part", "patch"] = "auto"
    similarity_space: Literal["auto", "feature", "whitened"] = "auto"
    attribute_share: Share = 0.0
    untrained_attribute_share: Share = 1.0
    enough_classes: CountOrZero = 0

    def __post_init__(self) -> None:
        """Refuse a value that is none of the choices (ValueError); numbers are checked by whoever takes the group."""
        _check_choices(self, "code")

    def resolve(
        self,
        backbone: TimmBackbone,
        granularity: Literal["part", "patch"],
        classes: int,
        *,
        posteriors: Literal["none", "training"],
        responses: Literal["none", "part", "patch"],
    ) -> Code:
        """Return the options with everything automatic chosen for a backbone.

        Args:
            backbone: whether it is frozen, and has trained weights, decides.
            granularity: of the parts; where patches are parts of their own, patches respond.
            classes: number of training classes.
            posteriors: of a frozen network with trained weights.
            responses: where a network trains from random initialisation.
        """
        frozen, knows = backbone.frozen_with_weights, backbone.has_weights
        chosen: Any = self.responses
        length = self.attributes if knows else self.untrained_attributes
        enough = not knows or classes >= self.attributes_from
        if chosen == "auto":
            chosen = responses if backbone.freeze == "none" and not knows else "none"
        return dataclasses.replace(
            self,
            posteriors=(posteriors if frozen else "none") if self.posteriors == "auto" else self.posteriors,
            responses=granularity if chosen == "part" else chosen,
            similarity_space=("whitened" if frozen else "feature")
            if self.similarity_space == "auto"
            else self.similarity_space,
            attributes=length if enough else 0.0,
            collection_attributes=length if self.collection_attributes is None else self.collection_attributes,
            attribute_share=self.attribute_share if knows else self.untrained_attribute_share,
            enough_classes=self.enough_classes if knows else 0,
        )


@dataclass(frozen=True)
class Parts:
    """How patches become parts.

    Attributes:
        order: `attributes_first`: parts are where the attributes of a group are read, see `CompetingParts`; or
            `parts_first`: patches are clustered, and a cluster is matched with an attribute then, see
            `SoftPartClustering`.
        groups: of attributes first. auto: the attributes' names say which part each belongs to, `head colour: red`, and
            there are as many parts as they name; where they do not, it is learned, as with `learned`.
        read_from: the `part` of each attribute, or the whole `image`: the control.
        learning_share: share of the epochs in which parts learn to tell attributes; then the code starts from what they
            tell.
        width: of the layers that find parts and read attributes.
        context: number of layers that tell attributes first where a part is, each of which looks twice as far as the
            one before. 0: one where the network has trained weights, whose patches know of the whole image, else three.
        count: number K of parts, besides the background; attributes that name their parts say it themselves.
        background_centres: centres whose shares add up to the background.
        init: start the centres from k-means of training patches, or at random. Features of an untrained network are no
            start: with `hash_init=random` the centres start at random, too.
        temperature: τ of the soft assignment; smaller is harder.
        centres: `shared` by all images, or refined per `image`.
        assignment: `soft`, or `hard` as an ablation.
        granularity: match and replace whole `part`s, or each `patch` on its own as an ablation (without any terms on
            clusters).
        background_share: share of the patches that the `presence` term wants to be background.
    """

    order: Literal["attributes_first", "parts_first"] = "parts_first"
    groups: Literal["auto", "learned"] = "auto"
    read_from: Literal["part", "image"] = "part"
    learning_share: Share = 0.6
    width: Count = 112
    context: Annotated[int, Bounds(0, 8)] = 0
    count: Count = 8
    background_centres: Count = 16
    init: Literal["kmeans", "random"] = "kmeans"
    temperature: Positive = 0.1
    centres: Literal["shared", "image"] = "shared"
    assignment: Literal["soft", "hard"] = "soft"
    granularity: Literal["part", "patch"] = "part"
    background_share: Share = 0.65

    def __post_init__(self) -> None:
        """Refuse a value that is none of the choices (ValueError); numbers are checked by whoever takes the group."""
        _check_choices(self, "parts")


@dataclass(frozen=True)
class Matching:
    """How a part finds its attribute.

    Attributes:
        threshold: an attribute of a class is positive from this share of its strongest attribute on.
        strength: what makes an attribute positive for a class: having more of it than training classes have on average
            (`relative`), or much of it (`absolute`).
        choice: `nearest`, or `random` among the positive ones, or an `other` one: the controls.
        temperature: τ of the match.
        balance: Sinkhorn steps, so that not all parts take one attribute; 0 for none.
        gumbel: sample the match.
    """

    threshold: PositiveShare = 0.5
    strength: Literal["relative", "absolute"] = "relative"
    choice: Literal["nearest", "random", "other"] = "nearest"
    temperature: Positive = 0.1
    balance: CountOrZero = 3
    gumbel: bool = False

    def __post_init__(self) -> None:
        """Refuse a value that is none of the choices (ValueError); numbers are checked by whoever takes the group."""
        _check_choices(self, "matching")


@dataclass(frozen=True)
class Mixing:
    """How parts give way to attributes, and what is rebuilt.

    Attributes:
        replaced_share: ρ, the share of (image, part) pairs that are replaced after the ramp.
        replaced_threshold: pairs of lower similarity are never replaced.
        ramp_epochs: epochs over which the share rises from 0; 0 for no ramp.
        hidden_share: share of patches hidden in the reconstruction branch.
        target: what the branches predict: `pixel`s, or the `feature` of the patch as an ablation.
        target_side: pixels of a cell's side in the target.
        images: of a batch that pass through the two branches (each costs one more `encode`).
    """

    replaced_share: Share = 0.5
    replaced_threshold: Cosine = -1.0
    ramp_epochs: NonNegative = 3.0
    hidden_share: Share = 0.5
    target: Literal["pixel", "feature"] = "pixel"
    target_side: Side = 4
    images: Count = 16

    def __post_init__(self) -> None:
        """Refuse a value that is none of the choices (ValueError); numbers are checked by whoever takes the group."""
        _check_choices(self, "mixing")


def chosen(default: T, given: T | dict[str, Any]) -> T:
    """Return a group of options, of which a dict (from a checkpoint, say) names those that differ from `default`.

    Raises:
        ValueError: an option that the group does not have, or something that is no group.
    """
    kind = type(default)
    if type(given) is kind:
        return given
    if not isinstance(given, dict):
        raise ValueError(f"{given!r} is no group of options; give {kind.__name__}(…), or a dict of some of its options")
    known = [field.name for field in dataclasses.fields(default)]  # type: ignore[arg-type]
    for name in given:
        if name not in known:
            raise ValueError(f"{kind.__name__} has no option {name}; {suggestion(name, known)}")
    return dataclasses.replace(default, **given)  # type: ignore[type-var]


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return what to write instead of a name that is not known."""
    names = list(known)
    return f"{did_you_mean(name, names)}choose from {', '.join(names)}"


def _check_choices(options: object, group: str) -> None:
    for name, kind in get_type_hints(type(options)).items():
        value = getattr(options, name)
        if get_origin(kind) is Literal and value not in get_args(kind):
            raise ValueError(f"{group}.{name}={value!r} must be one of {', '.join(get_args(kind))}")
