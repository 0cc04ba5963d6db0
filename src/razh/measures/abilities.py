"""What a method may be able to do beside hashing, said by the method itself: find parts, score attributes."""

from typing import Protocol, runtime_checkable

from torch import Tensor

from razh.layers.attributes import FoundParts, ReadAttributes
from razh.method import Batch


@runtime_checkable
class FindsParts(Protocol):
    """A method that can find parts in images; its options decide whether it does."""

    @property
    def finds_parts(self) -> bool:
        """Whether patches are grouped into parts, by centres that the method learns."""

    @property
    def shows_parts(self) -> bool:
        """Whether a picture of what is found tells something: parts that a term shapes, or patches with attributes."""

    @property
    def parts_are_groups(self) -> bool:
        """Whether part k is where the attributes of group k are read, see `attribute_groups` of the data."""

    @property
    def background_from(self) -> float:
        """A place is background where that has more weight than this, else of the part that has the most.

        Parts are many and share what the background leaves: that it outweighs each of them says little.
        """

    def find_parts(self, batch: Batch) -> FoundParts:
        """Return the parts of a batch of images, or of cached patches; `label` is needed for the match alone."""


@runtime_checkable
class ScoresAttributes(Protocol):
    """A method whose layers tell how much of each attribute an image shows; its options decide which layers it has."""

    @property
    def attribute_sources(self) -> tuple[str, ...]:
        """Names of what scores attributes: `hash`, `feature`, `naming`, …; none at all without such layers."""

    def attribute_scores(self, batch: Batch) -> dict[str, Tensor]:
        """Return, by source, scores (B, M) of the attributes; no label is looked at."""


@runtime_checkable
class ReadsAttributes(Protocol):
    """A method that can read attributes part by part; its options decide whether it does."""

    @property
    def reads_parts(self) -> bool:
        """Whether attributes are read from the patches of their parts."""

    def read_attributes(self, batch: Batch) -> ReadAttributes:
        """Return the attributes of a batch of images as they are, not of their views; no label is looked at."""


def reads_parts(module: object) -> bool:
    """Tell whether a method reads attributes part by part, and so needs no class to tell those of an image."""
    return isinstance(module, ReadsAttributes) and module.reads_parts
