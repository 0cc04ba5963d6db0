"""A hashing method whose hash head sees what an encoder makes of an image, and whose loss is a sum of terms."""

from __future__ import annotations

import logging
import math
from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from razh.features.arrays import ARRAYS
from razh.layers.attributes import (
    AttributeChoice,
    AttributeMatcher,
    AttributeReplacement,
    FoundParts,
    ReadAttributes,
    positive_attributes,
    relative_strengths,
)
from razh.layers.decoder import PatchDecoder
from razh.layers.parts import EachPatch, SoftPartClustering
from razh.layers.posteriors import ClassPosteriors
from razh.layers.reading import AttributeReader, CompetingParts
from razh.losses.attributes import centred_prototypes
from razh.method import Batch
from razh.terms.base import Start, Step, Terms
from razh.terms.encoders import Auxiliary, Encoder, Responses
from razh.terms.host import TermHost
from razh.terms.options import Code, Matching, Mixing, Parts
from razh.terms.parts import PartTerm
from razh.terms.tools import ClassCodes, Tools
from razh.terms.weights import Weights

log = logging.getLogger(__name__)


class TermMethod(TermHost):
    """An encoder, a hash head, and terms with weights; a subclass chooses the encoder and what each option is.

    It can find parts and score attributes, see `razh.measures.abilities`, where its terms need layers for that.
    """

    def __init__(
        self, *, code: Code, parts: Parts, matching: Matching, mixing: Mixing, weights: Weights, **kwargs: Any
    ) -> None:
        """Build encoder, head and terms.

        Args:
            code: resolved, see `Code.resolve`.
            parts: how patches become parts.
            matching: how a part finds its attribute.
            mixing: how parts give way to attributes.
            weights: of the terms.
            **kwargs: see `HashingMethod`.
        """
        self.code, self.parts, self.matching, self.mixing = code, parts, matching, mixing
        self.reads_attributes = weights.attributes > 0 and parts.granularity == "part"
        super().__init__(**kwargs)
        prototypes = centred_prototypes(self.class_attributes, self.train_classes)
        self.register_buffer("prototypes", prototypes[self.train_classes])
        strengths = self.class_attributes
        if matching.strength == "relative":
            strengths = relative_strengths(strengths, self.train_classes)
        self.register_buffer("strengths", strengths, persistent=False)
        self.register_buffer("positive", positive_attributes(strengths, matching.threshold))
        enough = max(code.enough_classes, 1)
        effective = weights.effective(
            clusters=parts.granularity == "part", share_of_classes=len(self.train_classes) / enough
        )
        self.terms = Terms(self, effective, weights.kinds)

    encoder: Encoder
    tools: Tools

    @abstractmethod
    def make_encoder(self) -> Encoder:
        """Return the encoder, without auxiliary inputs."""

    def input_width(self) -> int:
        """Build the encoder and what it shares with the terms; return the width of what the hash head sees."""
        classes, every = len(self.train_classes), len(self.class_attributes)
        self.encoder, self.tools = self.make_encoder(), Tools(self._makers())
        posteriors = responses = None
        if self.code.posteriors == "training":
            posteriors = ClassPosteriors(self.encoder.description_width, classes)
        elif self.code.posteriors == "described":  # more classes to tell apart: sharper
            posteriors = ClassPosteriors(self.encoder.description_width, classes, every - classes, sharpness=30.0)
        if self.code.responses != "none":
            if self.code.responses == "part":
                self.tools.build("clustering")
            responses = Responses(self.new_matcher(), len(self.attribute_vectors), self.code.responses == "patch")
        told = self.code.attributes if self.reads_attributes else 0.0
        if told:
            self.tools.build("clustering", "reader")
        if posteriors is not None or responses is not None or told:
            attributes = self.class_attributes.shape[1]
            self.encoder.auxiliary = Auxiliary(posteriors, responses, told > 0, attributes)
        return self.encoder.width

    def new_matcher(self) -> AttributeMatcher:
        """Return a matcher of random initialisation."""
        return AttributeMatcher(self.backbone.dim, self.attribute_vectors.shape[1], **self._choice())

    def _choice(self) -> dict[str, Any]:
        given = self.matching
        return {
            "temperature": given.temperature, "choice": given.choice, "balance": given.balance, "gumbel": given.gumbel,
        }  # fmt: skip

    def _makers(self) -> dict[str, Callable[[], nn.Module]]:
        """Return what builds each of the layers that terms share."""
        backbone, parts, mixing = self.backbone, self.parts, self.mixing
        groups = self.attribute_groups if parts.order == "attributes_first" and parts.groups == "auto" else None
        count = parts.count if groups is None else int(groups.max()) + 1
        context = parts.context or (1 if backbone.has_weights else 3)
        clustering: Callable[[], nn.Module] = partial(CompetingParts, backbone.dim, count, parts.width, context)
        if parts.order == "parts_first":
            clustering = partial(
                SoftPartClustering,
                backbone.dim,
                count,
                parts.background_centres,
                temperature=parts.temperature,
                centres=parts.centres,
                assignment=parts.assignment,
            )
        reader = partial(
            AttributeReader,
            backbone.dim,
            self.class_attributes[self.train_classes],
            count,
            groups,
            whole=parts.read_from == "image",
            width=parts.width,
        )
        target = 3 * mixing.target_side**2 if mixing.target == "pixel" else backbone.dim
        vector = self.attribute_vectors.shape[1]
        return {
            "classes": partial(ClassCodes, self.bits, len(self.train_classes), self.code),
            "clustering": clustering if parts.granularity == "part" else EachPatch,
            "matcher": partial(AttributeChoice, **self._choice()) if self.reads_attributes else self.new_matcher,
            "reader": reader,
            "replacement": partial(AttributeReplacement, backbone.dim, vector, mixing.replaced_threshold),
            "decoder": partial(PatchDecoder, backbone.token_dim, target, backbone.token_grid),
        }

    def hash_logits(self, batch: Batch) -> Tensor:
        """Return hash logits (B, L): a linear map of `hash_input`; no label is needed."""
        return Step(self, batch).logits

    def hash_input(self, batch: Batch) -> Tensor:
        """Return what the hash head sees: the description (B, D), then auxiliary inputs."""
        return Step(self, batch).hashed

    def description(self, batch: Batch) -> Tensor:
        """Return what the encoder makes of the images (B, D)."""
        return self.encoder.describe(Step(self, batch))

    @property
    def tells_collection(self) -> bool:
        """Whether codes of a collection are fitted to attributes that were read, too."""
        return self.reads_attributes and bool(self.code.collection_attributes) and "reader" in self.tools

    def collection_input(self, batch: Batch) -> Tensor:
        """Return what codes of a collection are fitted to (B, E): the description, of length 1, and attributes read."""
        if not self.tells_collection:
            return self.description(batch)
        step = Step(self, batch)
        told = (self.code.collection_attributes or 0.0) * F.normalize(step.read, dim=-1)
        return torch.cat([F.normalize(self.encoder.describe(step), dim=-1), told], dim=1)

    @property
    def collection_array(self) -> str | None:
        """Name of the array that `collection_input` is made from; None where attributes that were read belong to it."""
        return None if self.tells_collection else self.encoder.reference

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return every term that has a weight, by its name."""
        return self.terms(Step(self, batch), of_code=not self.learns_parts)  # type: ignore[no-any-return]

    @property
    def cached_inputs(self) -> tuple[str, ...]:
        """Return the arrays of a feature cache that the encoder and the terms need."""
        wanted = dict.fromkeys((*self.encoder.reads, *self.terms.reads))
        return tuple(name for name in wanted if ARRAYS[name].offered(self.backbone))

    def share(self) -> float:
        """Return the share ρ of parts that are replaced at this point of training."""
        mixing = self.mixing
        if not mixing.ramp_epochs:
            return mixing.replaced_share
        trainer = self.trainer
        steps = math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
        return mixing.replaced_share * min(trainer.global_step / max(steps, 1) / mixing.ramp_epochs, 1.0)

    # What it is able to do, see `razh.measures.abilities`.

    @property
    def finds_parts(self) -> bool:
        """Whether patches are grouped into parts, by centres that the method learns."""
        return self.tools.clusters

    @property
    def shows_parts(self) -> bool:
        """Whether a term shapes the parts of the images themselves."""
        return any(isinstance(term, PartTerm) for term in self.terms.built.values())

    @property
    def parts_are_groups(self) -> bool:
        """Whether part k is where the attributes of group k are read."""
        by_name = self.parts.order == "attributes_first" and self.parts.groups == "auto"
        return by_name and self.finds_parts and self.attribute_groups is not None

    @property
    def background_from(self) -> float:
        """A place is background where that has more than half of the weight, and more than it should on average."""
        return max(self.parts.background_share, 0.5)

    def find_parts(self, batch: Batch) -> FoundParts:
        """Return the parts of a batch of images, or of cached patches; `label` is needed for the match alone."""
        return Step(self, batch).parts

    @property
    def reads_parts(self) -> bool:
        """Whether attributes are read from the patches of their parts."""
        return self.reads_attributes and self.parts.read_from == "part" and "reader" in self.tools

    def read_attributes(self, batch: Batch) -> ReadAttributes:
        """Return the attributes of a batch of images as they are, not of their views; no label is looked at."""
        step, reader = Step(self, batch), self.tools.reader
        assignment = step.clustered[1]
        places = reader.places(step.patches[:, self.backbone.prefix :], assignment)
        part = reader.shares(assignment.shape[-1] - 1).argmax(dim=-1)
        return ReadAttributes(step.read_own, places, assignment, part)

    @property
    def attribute_sources(self) -> tuple[str, ...]:
        """Names of what scores attributes: `hash` logits, the `feature`, parts that learned `naming`."""
        return tuple(self.terms.sources)

    def attribute_scores(self, batch: Batch) -> dict[str, Tensor]:
        """Return, by source, scores (B, M) of the attributes; no label is looked at."""
        step = Step(self, batch)
        return {source: term.scores(step) for source, term in self.terms.sources.items()}

    # The start.

    def on_fit_start(self) -> None:
        """Say so if `similarity` has nothing to hold on to."""
        super().on_fit_start()
        reference = self.encoder.reference
        if reference in self.terms.reads and reference not in self.trainer.datamodule.attached:  # type: ignore[attr-defined]
            log.warning(
                "similarity follows the network that trains: what it gave before is known from the cache of %r alone; "
                "leave cache.enabled on",
                reference,
            )

    def training_features(self) -> Tensor:
        """Return descriptions (n, D) of all training images; auxiliary inputs mean nothing before training."""
        return super().training_features()[:, : self.encoder.description_width]

    @property
    def code_starts(self) -> int:
        """Epoch at whose start parts can tell attributes, and the code starts from what they tell."""
        if not self.reads_attributes or not self.code.attributes or self._trainer is None:
            return 0
        most = self.trainer.max_epochs
        known = 20 if most is None or most < 1 else most  # without an end, those of a usual run
        return min(round(self.parts.learning_share * known), known - 1)

    @property
    def learns_parts(self) -> bool:
        """Whether parts are learning to tell attributes, and terms of the code weigh nothing yet."""
        starts = self.code_starts
        return starts > 0 and self.current_epoch < starts

    def on_train_epoch_start(self) -> None:
        """Start the code from descriptions and attributes, once parts can tell them."""
        super().on_train_epoch_start()
        if self.current_epoch and self.current_epoch == self.code_starts:
            log.info("epoch %d: the code starts from the attributes that parts tell", self.current_epoch)
            self._start_code()

    def _start_code(self) -> None:
        """Start the posteriors and the hash head from what the training images show now."""
        hashed = super().training_features()
        description, auxiliary = hashed[:, : self.encoder.description_width], self.encoder.auxiliary
        assert auxiliary is not None, "attributes are auxiliary"
        start = Start(self)
        start.features = description
        self.encoder.start(start)
        told = hashed[:, len(description[0]) :][:, auxiliary.first_told : auxiliary.last_told]
        posteriors = self.auxiliary_input(description)
        known = told if posteriors is None else torch.cat([posteriors.float().cpu(), told], dim=1)
        self.head.initialise(description, start.whitening, auxiliary=known)
        self.synchronise(self.head)
        for parameter in self.head.parameters():  # what it had learned of moments is of another head
            for optimizer in self.trainer.optimizers:
                optimizer.state.pop(parameter, None)

    def auxiliary_input(self, features: Tensor) -> Tensor | None:
        """Return the posteriors (n, P) of features (n, D), if the hash head sees them."""
        auxiliary = self.encoder.auxiliary
        if auxiliary is None or auxiliary.posteriors is None:
            return None
        return auxiliary.posteriors(features.to(self.head.weight))  # type: ignore[no-any-return]

    def start_from_features(self) -> None:
        """Let the encoder, the hash head, the shared layers and the terms start from the training images."""
        start = Start(self)
        self.encoder.start(start)
        if self.hash_init != "random":
            self.start_head(start.features, start.whitening if self.hash_init == "whitened" else None)
        self.tools.start(start)
        self.terms.start(start)
