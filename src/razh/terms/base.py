"""A term, the values of a batch that terms share, and the terms of a method together."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from razh.layers.attributes import FoundParts, Match
from razh.layers.hash import straight_through_sign, within_class_whitening
from razh.losses.attributes import semantic_logits
from razh.method import Batch
from razh.terms.options import suggestion

if TYPE_CHECKING:
    from razh.terms.host import TermHost


class Mixed(NamedTuple):
    """The first images of a batch after parts gave way to attributes.

    tokens: (n, prefix' + N', D') that the network makes of them.
    weight: (n, N) with which each patch was replaced.
    """

    tokens: Tensor
    weight: Tensor


class Step:
    """The values of one batch that terms and the encoder share, each computed when it is first asked for, and once.

    Attributes:
        method: whose layers compute them.
        batch: as the data module gives it, live or from a cache.
    """

    def __init__(self, method: TermHost, batch: Batch) -> None:
        """Begin a step; nothing is computed yet."""
        self.method, self.batch = method, batch

    @cached_property
    def shown(self) -> Batch:
        """The batch with what the encoder has drawn of it."""
        shown: Batch = self.method.encoder.shown(self.batch, self.method.backbone)
        return shown

    @cached_property
    def targets(self) -> Tensor:
        """Labels (B,) counted among the training classes."""
        return self.method.targets(self.batch)

    @cached_property
    def patches(self) -> Tensor:
        """Patches (B, prefix + N, D) of the images themselves."""
        return self.method.patches(self.batch)

    @cached_property
    def feature(self) -> Tensor:
        """Features (B, D) of the images themselves."""
        cached = self.batch.get("feature")
        return self.method.backbone.encode(self.patches) if cached is None else cached.to(self.method.dtype)

    @cached_property
    def sights(self) -> list[Tensor]:
        """Patches (B, prefix + N, D) of every picture of the images that the encoder shows."""
        sights: list[Tensor] = self.method.encoder.sights(self)
        return sights

    @cached_property
    def hashed(self) -> Tensor:
        """What the hash head sees (B, width): the description, then auxiliary inputs."""
        return self.method.encoder(self)  # type: ignore[no-any-return]

    @property
    def description(self) -> Tensor:
        """The encoder's description of the images (B, D)."""
        return self.hashed[:, : self.method.encoder.description_width]

    @cached_property
    def logits(self) -> Tensor:
        """Hash logits (B, L)."""
        return self.method.head(self.hashed)  # type: ignore[no-any-return]

    @cached_property
    def code(self) -> Tensor:
        """What terms see of the code (B, L): the logits, or their signs, through which the gradient passes."""
        return straight_through_sign(self.logits) if self.method.code.straight_through else self.logits

    def named(self, scores: Tensor) -> Tensor:
        """Return the cross-entropy of naming the class by attribute scores (B, M): γ cos(scores, class attributes)."""
        method = self.method
        return F.cross_entropy(semantic_logits(scores, method.prototypes, method.code.scale), self.targets)

    @cached_property
    def parts(self) -> FoundParts:
        """Parts of the images, each matched with an attribute that the label's class has, if there is a matcher."""
        method, tools = self.method, self.method.tools
        vectors, assignment = self.clustered
        if "label" not in self.batch or "matcher" not in tools:
            return FoundParts(vectors, assignment, None)
        positive, parts = method.positive[self.batch["label"]], vectors.shape[1]
        if "reader" not in tools:
            return FoundParts(vectors, assignment, tools.matcher(vectors, method.attribute_vectors, positive))
        similarity = tools.reader.similarity(self.read_own, parts)
        return FoundParts(vectors, assignment, tools.matcher.choose(similarity, positive, tools.reader.among(parts)))

    @cached_property
    def clustered(self) -> tuple[Tensor, Tensor]:
        """Part vectors (B, K, D) and assignment (B, N, K + 1) of the images themselves."""
        vectors, assignment = self.method.tools.clustering(self.patches[:, self.method.backbone.prefix :])
        return vectors, assignment

    @cached_property
    def read(self) -> Tensor:
        """Standardised attributes (B, M) that parts tell; the mean over the sights of an image."""
        return torch.stack([self.read_of(patches) for patches in self.sights]).mean(dim=0)

    @cached_property
    def told(self) -> Tensor | None:
        """What the hash head sees of attributes (B, M), of length `code.attributes`; None where it sees none.

        No gradient passes: attributes are what they mean, and not what would suit the code.
        """
        length = self.method.code.attributes
        if not length or not self.method.reads_attributes:
            return None
        return length * F.normalize(self.read.detach(), dim=-1)

    @cached_property
    def read_own(self) -> Tensor:
        """Standardised attributes (B, M) that parts of the images themselves tell."""
        places = self.patches[:, self.method.backbone.prefix :]
        return self.method.tools.reader(places, self.clustered[1])  # type: ignore[no-any-return]

    def read_of(self, patches: Tensor) -> Tensor:
        """Return standardised attributes (B, M) of the patches (B, prefix + N, D) of one sight."""
        if patches is self.patches:
            return self.read_own
        tools, places = self.method.tools, patches[:, self.method.backbone.prefix :]
        return tools.reader(places, tools.clustering(places)[1])  # type: ignore[no-any-return]

    @property
    def match(self) -> Match:
        """The match of `parts`."""
        assert self.parts.match is not None, "a term that needs the match uses the matcher"
        return self.parts.match

    @cached_property
    def mixed(self) -> Mixed:
        """The first images with the best-matching parts replaced by the vectors of their attributes."""
        method = self.method
        n, prefix = min(method.mixing.images, len(self.patches)), method.backbone.prefix
        match = Match(*(values[:n] for values in self.match))
        mixed, weight = method.tools.replacement(
            self.patches[:n, prefix:], self.parts.assignment[:n], match, method.attribute_vectors, method.share()
        )
        tokens = method.backbone.contextualise(torch.cat([self.patches[:n, :prefix], mixed], dim=1))
        return Mixed(tokens, weight)


class Start:
    """What layers start from: the training images, looked at when they are first asked for, and once."""

    def __init__(self, method: TermHost) -> None:
        """Begin the start of a method."""
        self.method = method

    @cached_property
    def features(self) -> Tensor:
        """Descriptions (n, D) of all training images; without a cache that is a pass over them."""
        return self.method.training_features()

    @cached_property
    def labels(self) -> Tensor:
        """Their labels (n,)."""
        return self.method.training_labels()

    @cached_property
    def whitening(self) -> Tensor:
        """What whitens the descriptions within classes (D, D)."""
        return within_class_whitening(self.features, self.labels)

    @torch.no_grad()
    def patches(self, images: int = 400) -> Tensor:
        """Return patches (n, N, D) of about that many training images, spread over all; of one view, if there are."""
        method = self.method
        method.eval()
        rows = []
        loader = method.trainer.datamodule.initialisation_dataloader()  # type: ignore[attr-defined]
        step = max(len(loader.sampler) // images, 1)
        for batch in loader:
            chosen = {name: value[::step].to(method.device) for name, value in batch.items()}
            has_own = not {"patches", "image"}.isdisjoint(chosen)
            patches = method.patches(chosen) if has_own else Step(method, chosen).sights[0]
            rows.append(patches[:, method.backbone.prefix :].float().cpu())
        method.train()
        return torch.cat(rows)


class Term(nn.Module, ABC):
    """One term of a loss; its name in configuration, log and tables is that of its weight, see `razh.terms.weights`.

    Attributes:
        uses: shared layers that it needs, by their names in `Tools`.
        reads: arrays of a feature cache that it needs, beside those of the encoder.
        tells_classes: it tells the training classes apart; with few of them, such terms weigh less.
        of_code: it shapes the code, and waits until parts have learned, where the code is told what they read.
        of_clusters: it says how good clusters are, and is left out where nothing is clustered.
        source: its name as a source of attribute scores, see `scores`; empty for none.
    """

    uses: tuple[str, ...] = ()
    tells_classes: bool = False
    of_code: bool = True
    of_clusters: bool = False
    reads: tuple[str, ...] = ()
    source: str = ""

    def __init__(self, method: TermHost) -> None:
        """Build the layers that only this term needs, for a method whose options and facts are there."""
        super().__init__()

    @abstractmethod
    def forward(self, step: Step) -> Tensor:
        """Return the value of the term for a batch."""

    def scores(self, step: Step) -> Tensor:
        """Return how much of each attribute the images show (B, M), where the term is a `source`; no label."""
        raise NotImplementedError(f"{type(self).__name__} scores no attributes")

    def start(self, start: Start) -> None:
        """Take from the training images what the term needs."""


class Terms(nn.Module):
    """The terms of a method that have a weight; the others are not built, nor computed, nor logged."""

    def __init__(self, method: TermHost, weights: Mapping[str, float], kinds: Mapping[str, type[Term]]) -> None:
        """Build the terms, in the order of `kinds`, and the shared layers that they use.

        Args:
            method: whose terms they are.
            weights: by name.
            kinds: by name; the order is that of computation, hence of random draws.

        Raises:
            ValueError: a weight for a term that there is not.
        """
        super().__init__()
        unknown = next((name for name in weights if name not in kinds), None)
        if unknown is not None:
            raise ValueError(f"weights.{unknown} is no term; {suggestion(unknown, kinds)}")
        self.weights = {name: weights[name] for name in kinds if weights.get(name)}
        self.built: dict[str, Term] = {}
        for name in self.weights:
            method.tools.build(*kinds[name].uses)
            self.built[name] = kinds[name](method)
            self.add_module(name, self.built[name])

    def __contains__(self, name: str) -> bool:
        """Tell whether a term has a weight."""
        return name in self.built

    @property
    def reads(self) -> tuple[str, ...]:
        """Return the arrays of a feature cache that the terms need."""
        return tuple(dict.fromkeys(name for term in self.built.values() for name in term.reads))

    @property
    def sources(self) -> dict[str, Term]:
        """Return the terms that score attributes, by their names as sources."""
        return {term.source: term for term in self.built.values() if term.source}

    def forward(self, step: Step, *, of_code: bool = True) -> dict[str, Tensor]:
        """Return every term, weighted, by its name; without `of_code` those of the code weigh nothing."""
        # Computed all the same: under DDP every parameter must have its gradient.
        weights = {
            name: self.weights[name] if of_code or not term.of_code else 0.0 for name, term in self.built.items()
        }
        return {name: weights[name] * term(step) for name, term in self.built.items()}

    def start(self, start: Start) -> None:
        """Let the terms take what they need from the training images."""
        for term in self.built.values():
            term.start(start)
