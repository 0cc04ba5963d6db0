"""What the terms of a method weigh: a term is one class, and one field here."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass, fields

from razh.support.bounds import NonNegative
from razh.terms import code, parts, rebuild
from razh.terms.base import Term

TERMS: dict[str, type[Term]] = {
    re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower(): kind
    for module in (code, parts, rebuild)
    for name, kind in inspect.getmembers(module, inspect.isclass)
    if issubclass(kind, Term) and not inspect.isabstract(kind)
}
"""All terms by their names: those of their classes, in small letters."""


@dataclass(frozen=True)
class Weights:
    """Weight of each term on codes and parts, by its name; one of weight 0 is neither built nor computed nor logged.

    Terms are computed, and draw random numbers, in this order.

    Attributes:
        hash: classes told by the code, see `code.classifier`.
        semantic: cross-entropy of the code's cosine with the class attributes.
        pairwise: pairwise likelihood of the hash logits.
        similarity: keeps the description's similarity in the code; where layers train, that of the network as it was
            built, if it had trained weights and features are cached.
        quantization: pull of the logits towards ±1.
        balance: every bit should split a batch in half.
        classification: classification of the description, see `code.feature_classifier`.
        naming: cross-entropy of naming the class by attributes alone, each counting as much as its nearest part comes
            to it; a random part, unless `matching.choice` is `nearest`.
        orthogonality: different parts should look different.
        presence: parts should have even shares of the batch, the background `parts.background_share`.
        background: patches at the rim of the image should be background.
        entropy: patches should decide for a part.
        smoothness: neighbours should belong to one part (total variation).
        equivariance: parts stay where they are if an image is mirrored, cut and recoloured; needs live images (no
            cache), and one pass of the network more.
        alignment: parts towards positive attributes, away from others.
        attributes: the class's attributes told by what is read of them, see `AttributeReader`.
    """

    hash: NonNegative = 1.0
    semantic: NonNegative = 0.0
    pairwise: NonNegative = 0.0
    similarity: NonNegative = 10.0
    quantization: NonNegative = 0.0
    balance: NonNegative = 0.0
    classification: NonNegative = 0.0
    naming: NonNegative = 0.0
    orthogonality: NonNegative = 0.0
    presence: NonNegative = 0.0
    background: NonNegative = 0.0
    entropy: NonNegative = 0.0
    smoothness: NonNegative = 0.0
    equivariance: NonNegative = 0.0
    alignment: NonNegative = 0.0
    attributes: NonNegative = 0.0

    @property
    def kinds(self) -> dict[str, type[Term]]:
        """Return the class of every term, by its name."""
        return {option.name: TERMS[option.name] for option in fields(self)}

    def effective(self, *, clusters: bool, share_of_classes: float = 1.0) -> dict[str, float]:
        """Return what each term weighs after all.

        Args:
            clusters: whether anything is clustered; else terms that say how good clusters are weigh nothing.
            share_of_classes: of what would be enough; terms that tell classes apart weigh its cube, if it is below 1.
                What tells few classes apart says little about others.
        """
        factor = min(share_of_classes, 1.0) ** 3
        return {
            name: getattr(self, name)
            * (factor if kind.tells_classes else 1.0)
            * (1.0 if clusters or not kind.of_clusters else 0.0)
            for name, kind in self.kinds.items()
        }
