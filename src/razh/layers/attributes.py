"""Parts and attributes: which attribute a part shows, and patches that give way to it."""

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Match(NamedTuple):
    """What `AttributeMatcher` returns.

    similarity: (B, K, M) cosine of every part with every attribute.
    choice: (B, K, M) one-hot in the forward pass, soft in the backward pass (straight-through).
    score: (B, K) similarity of each part with the attribute chosen for it.
    """

    similarity: Tensor
    choice: Tensor
    score: Tensor


class FoundParts(NamedTuple):
    """Parts that were found in a batch.

    vectors: (B, K, D), one for each part.
    assignment: (B, N, K + 1) share of every patch in each part; the last column is the background.
    match: the attribute of each part among those of the image's class; None without labels, or without a matcher.
    """

    vectors: Tensor
    assignment: Tensor
    match: Match | None


class ReadAttributes(NamedTuple):
    """Attributes that were read in a batch, and where.

    strength: (B, M), 0 is the training classes' mean, 1 their deviation.
    places: (B, M, N) what each patch adds to a strength; they sum to it.
    assignment: (B, N, K + 1) share of every patch in each part; the last column is the background.
    part: (M,) that each attribute is read from, or from most of all.
    """

    strength: Tensor
    places: Tensor
    assignment: Tensor
    part: Tensor


class AttributeChoice(nn.Module):
    """Choose for each part one of the attributes that the image's class has, by similarities that are given.

    `choice` makes the controls: `nearest` is the method, `random` draws from the image's positive attributes, `other`
    from those the class does not have. `balance > 0` runs that many Sinkhorn steps, so that not all parts of an image
    take one attribute. `gumbel=True` adds noise to the choice in training.
    """

    def __init__(
        self,
        temperature: float = 0.1,
        choice: Literal["nearest", "random", "other"] = "nearest",
        balance: int = 0,
        gumbel: bool = False,
    ) -> None:
        """Build the layer, which has no parameters.

        Args:
            temperature: τ of the softmax over attributes.
            choice: `nearest`, or the controls `random` and `other`.
            balance: Sinkhorn steps over (part, attribute), where parts compete for attributes; 0 for none.
            gumbel: sample the choice in training.
        """
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"match temperature={temperature} must be above 0")
        self.temperature, self.choice, self.balance, self.gumbel = temperature, choice, balance, gumbel

    def choose(self, similarity: Tensor, positive: Tensor, among: Tensor | None = None) -> Match:
        """Choose an attribute for each part by similarities (B, K, M).

        Args:
            similarity: (B, K, M).
            positive: (B, M, bool), attributes of the image.
            among: (K, M, bool), attributes that each part can show; one that can show none of the image's takes any of
                them. None: all.
        """
        if self.choice == "other":  # a class that has every attribute has no others: any will do
            positive = ~positive | positive.all(dim=-1, keepdim=True)
        allowed = positive.unsqueeze(1).expand_as(similarity)
        if among is not None:
            shown = allowed & among
            allowed = torch.where(shown.any(dim=-1, keepdim=True), shown, among | ~among.any(dim=-1, keepdim=True))
        logits = similarity / self.temperature
        if self.choice != "nearest":
            logits = torch.rand_like(logits) + 0 * logits
        elif self.gumbel and self.training:
            logits = logits - torch.empty_like(logits).exponential_().log()
        logits = logits.masked_fill(~allowed, -1e4)
        if self.balance and among is None:  # where each attribute is one part's alone, balance would level them all
            logits = sinkhorn(logits, allowed, self.balance)
        soft = logits.softmax(dim=-1)
        hard = F.one_hot(soft.argmax(dim=-1), soft.shape[-1]).to(soft.dtype)
        choice = hard + (soft - soft.detach())  # in this order the sum is exactly one-hot
        return Match(similarity, choice, (similarity * hard).sum(dim=-1))


class AttributeMatcher(AttributeChoice):
    """Match each part with one of the attributes that the image's class has.

    Of RAZH (arXiv 2503.07037) we know "aligning each part with its nearest attribute" and that attributes are split
    into the image's positive ones and the others. Our reading (a guess): cosine in a learned common space, nearest
    among the positive attributes, straight-through softmax.
    """

    def __init__(self, dim: int, vector_dim: int, embed_dim: int = 64, **choice: Any) -> None:
        """Build the layer.

        Args:
            dim: width D of the parts.
            vector_dim: width V of the attribute vectors.
            embed_dim: width of the common space.
            **choice: see `AttributeChoice`.
        """
        super().__init__(**choice)
        self.part = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, embed_dim, bias=False))
        self.attribute = nn.Linear(vector_dim, embed_dim, bias=False)

    def similarity(self, parts: Tensor, attribute_vectors: Tensor) -> Tensor:
        """Return the cosine (B, K, M) of parts (B, K, D) with attribute vectors (M, V)."""
        return F.normalize(self.part(parts), dim=-1) @ F.normalize(self.attribute(attribute_vectors), dim=-1).T

    def forward(self, parts: Tensor, attribute_vectors: Tensor, positive: Tensor) -> Match:
        """Match parts (B, K, D) with attributes (M, V), of which positive (B, M, bool) are the image's."""
        return self.choose(self.similarity(parts, attribute_vectors), positive)


def sinkhorn(logits: Tensor, allowed: Tensor, steps: int) -> Tensor:
    """Balance logits (B, K, M) so that each allowed attribute is taken by about the same share of an image's parts."""
    for _ in range(steps):
        taken = logits.softmax(dim=-1).sum(dim=1, keepdim=True)  # (B, 1, M)
        logits = (logits - taken.clamp(min=1e-3).log()).masked_fill(~allowed, -1e4)
    return logits


class PartResponses(nn.Module):
    """Describe an image by how near its nearest part comes to each attribute; no label is needed.

    Our addition: it lets parts reach the code, or name classes, at test, too. RAZH (arXiv 2503.07037) matches parts
    with attributes in training alone.
    """

    def __init__(self, matcher: AttributeMatcher, attributes: int) -> None:
        """Build the layer.

        Args:
            matcher: compares parts with attributes; its own, for what codes ask of it is not what attributes mean.
            attributes: number M of attributes.
        """
        super().__init__()
        self.matcher = matcher
        self.norm = nn.LayerNorm(attributes)

    def forward(self, parts: Tensor, attribute_vectors: Tensor, present: Tensor, *, at_random: bool = False) -> Tensor:
        """Return responses (B, M); an image's have mean 0 and deviation 1 before they are scaled and shifted.

        Args:
            parts: (B, K, D).
            attribute_vectors: (M, V).
            present: (B, K, bool), which parts the image shows; if none, all count.
            at_random: of a part drawn for the image, in the place of each attribute's nearest: the control.
        """
        similarity = self.matcher.similarity(parts, attribute_vectors)
        present = present | ~present.any(dim=1, keepdim=True)
        if at_random:
            drawn = torch.rand_like(similarity[..., 0]).masked_fill(~present, -1.0).argmax(dim=1)
            chosen = similarity[torch.arange(len(drawn), device=drawn.device), drawn]
        else:
            chosen = similarity.masked_fill(~present.unsqueeze(-1), -1.0).amax(dim=1)
        return self.norm(chosen)  # type: ignore[no-any-return]


class AttributeReplacement(nn.Module):
    """Replace the patches of the best-matching parts by the vectors of their attributes.

    "… replace the image parts with the corresponding attribute vectors, gradually" (RAZH's abstract). Our reading
    (a guess): of all (image, part) pairs of the batch the best-scoring share is replaced; a patch is mixed by the
    weight with which it belongs to replaced parts; the share is ramped up by the caller.
    """

    def __init__(self, dim: int, vector_dim: int, threshold: float = -1.0) -> None:
        """Build the layer.

        Args:
            dim: width D of the patches.
            vector_dim: width V of the attribute vectors.
            threshold: pairs of a lower similarity are never replaced; -1 for no threshold.
        """
        super().__init__()
        self.threshold = threshold
        self.to_patch = nn.Sequential(nn.Linear(vector_dim, dim), nn.GELU(), nn.Linear(dim, dim))

    def forward(
        self, patches: Tensor, assignment: Tensor, match: Match, attribute_vectors: Tensor, share: float
    ) -> tuple[Tensor, Tensor]:
        """Return mixed patches (B, N, D) and the weight (B, N) with which each was replaced.

        Args:
            patches: (B, N, D).
            assignment: (B, N, K) or (B, N, K + 1); a last column beyond K is background and stays.
            match: of the K parts.
            attribute_vectors: (M, V).
            share: of the (image, part) pairs to replace, in [0, 1]; parts that an image does not show do not count.
        """
        # No gradient into the assignment: what is not replaced costs nothing, so parts would learn to be nowhere.
        parts = assignment[..., : match.score.shape[1]].detach()  # (B, N, K)
        present = parts.sum(dim=1) >= 0.5  # half a patch
        replaced = best_share(match.score.detach(), share, present & (match.score >= self.threshold))  # (B, K)
        weights = parts * replaced.unsqueeze(1)
        as_patch = match.choice @ self.to_patch(attribute_vectors)  # (B, K, D)
        weight = weights.sum(dim=-1)
        return (1 - weight).unsqueeze(-1) * patches + weights @ as_patch, weight


def best_share(score: Tensor, share: float, eligible: Tensor) -> Tensor:
    """Return which entries of score (B, K) are among the best `share` of the eligible ones (B, K), as 0.0 and 1.0."""
    wanted = round(share * int(eligible.sum()))
    best = score.masked_fill(~eligible, -torch.inf).flatten().topk(wanted).indices
    return torch.zeros_like(score).flatten().index_fill(0, best, 1.0).view_as(score)


def relative_strengths(class_attributes: Tensor, train_classes: Tensor) -> Tensor:
    """Return how much more (C, M) of each attribute a class has than training classes have on average; 0 where less.

    What nearly every class has, such as black eyes, tells nothing of a part: it is always right. A class that has more
    of nothing keeps its strengths as they are. Our addition.
    """
    relative = (class_attributes - class_attributes[train_classes].mean(dim=0)).clamp(min=0)
    return torch.where(relative.any(dim=-1, keepdim=True), relative, class_attributes)


def positive_attributes(class_attributes: Tensor, threshold: float) -> Tensor:
    """Return which attributes (C, M, bool) each class has: strength at least `threshold` of the class's strongest."""
    strongest = class_attributes.amax(dim=-1, keepdim=True)
    return (class_attributes >= threshold * strongest) & (class_attributes > 0) | (class_attributes == strongest)
