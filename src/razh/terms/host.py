"""What terms and encoders may ask of the method that they belong to."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from torch import Tensor

from razh.layers.attributes import AttributeMatcher
from razh.method import HashingMethod
from razh.terms.options import Code, Matching, Mixing, Parts

__all__ = ["TermHost"]


class TermHost(HashingMethod):
    """A method with terms, an encoder and shared layers, as those see it; `TermMethod` builds them.

    Attributes:
        encoder: an `Encoder`, which says how wide what the hash head sees is.
        tools: `Tools`, the layers that terms share, by name.
        code: options of the code; so are `parts`, `matching` and `mixing` those of their groups.
        reads_attributes: parts tell attributes, see `AttributeReader`.
        prototypes: (C', M) class attributes of the training classes, centred.
        strengths: (C, M) how strongly each class has each attribute.
        positive: (C, M) bool, the attributes that a class has more of than others.
    """

    encoder: Any
    tools: Any
    code: Code
    parts: Parts
    matching: Matching
    mixing: Mixing
    reads_attributes: bool
    prototypes: Tensor
    strengths: Tensor
    positive: Tensor

    @abstractmethod
    def new_matcher(self) -> AttributeMatcher:
        """Return a matcher of parts and attributes, with this method's options."""

    @abstractmethod
    def share(self) -> float:
        """Return the share of parts that are replaced now."""
