"""PSDZH: class attributes grow into codes by stages, with proxies that mind hard negatives. 2026."""

import math
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from razh.losses.attributes import centred_prototypes
from razh.method import Batch, HashingMethod
from razh.support.bounds import Bounds, NonNegative, Positive, Width


class PSDZH(HashingMethod):
    """Progressive semantic tokens and proxies (PSDZH, 2026).

    **A re-implementation from second-hand descriptions**: only the idea and the list of losses were known to us, no
    equation in full. Known: a cross-entropy of (W_g h)·Aᵀ, an L1 distance between semantic-to-visual tokens and codes,
    and a proxy loss that weighs hard negatives. With h = tanh of the hash logits:

        L = w_g CE((W_g h) · Aᵀ, y) + w_t Σ_s u_s |t_s(a_y) − h| / L + w_p proxy(h, y)

    Guesses of ours: the tokens t_1 … t_S are read off S residual blocks that start from a_y (so they grow from
    semantics towards codes), and a later stage weighs more, u_s ∝ s; the proxies are learned, one a training class;
    the proxy term is a cross-entropy of scaled cosines in which negative j weighs w_j ∝ exp(β cos(h, p_j)), 1 on
    average. Departures: tokens meet the code, not the patches of a transformer. A is centred on the training classes,
    which cross-entropy cannot tell from A itself. The hash head starts from ITQ (our addition).
    """

    def __init__(
        self,
        *,
        stages: Annotated[int, Bounds(1, 1_000, instead="set token_weight=0 to train without tokens")] = 3,
        width: Width = 256,
        scale: Positive = 10.0,
        hardness: NonNegative = 2.0,
        semantic_weight: NonNegative = 1.0,
        token_weight: NonNegative = 1.0,
        proxy_weight: NonNegative = 1.0,
        **kwargs: Any,
    ) -> None:
        """Build the method.

        Args:
            stages: S, of the semantic tokens.
            width: of the blocks that make them.
            scale: γ of the cosines with the proxies.
            hardness: β; 0 weighs all negatives alike.
            semantic_weight: of the cross-entropy with class attributes.
            token_weight: of the distance between tokens and codes.
            proxy_weight: of the proxy loss.
            **kwargs: see `HashingMethod`.
        """
        super().__init__(**kwargs)
        self.scale, self.hardness = scale, hardness
        self.semantic_weight, self.token_weight, self.proxy_weight = semantic_weight, token_weight, proxy_weight
        prototypes = centred_prototypes(self.class_attributes, self.train_classes)[self.train_classes]
        self.register_buffer("prototypes", prototypes)
        self.semantic = nn.Linear(self.bits, prototypes.shape[1])
        self.tokens = SemanticTokens(prototypes.shape[1], self.bits, stages, width)
        self.proxies = nn.Parameter(torch.randn(len(prototypes), self.bits))

    prototypes: Tensor

    def hash_logits(self, batch: Batch) -> Tensor:
        """Return hash logits (B, L): a linear map of the feature, no token needed."""
        return self.head(self.feature(batch))  # type: ignore[no-any-return]

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return semantic cross-entropy, the distance of tokens and codes, and the proxy loss."""
        code, targets = self.hash_logits(batch).tanh(), self.targets(batch)
        scores = self.semantic(code) @ self.prototypes.T
        tokens = self.tokens(self.prototypes)[:, targets]
        proxies = proxy_loss(code, targets, self.proxies, self.scale, self.hardness)
        return {
            "semantic": self.semantic_weight * F.cross_entropy(scores, targets),
            "tokens": self.token_weight * token_loss(tokens, code),
            "proxies": self.proxy_weight * proxies,
        }


class SemanticTokens(nn.Module):
    """Class attributes (C, M) to S tokens in code space (S, C, L), each a step further than the one before."""

    def __init__(self, attributes: int, bits: int, stages: int, width: int) -> None:
        """Build S residual blocks and a read-out for each."""
        super().__init__()
        self.embed = nn.Linear(attributes, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
            for _ in range(stages)
        )
        self.read = nn.ModuleList(nn.Linear(width, bits) for _ in range(stages))

    def forward(self, attributes: Tensor) -> Tensor:
        """Return tokens (S, C, L) in (−1, 1) of class attributes (C, M)."""
        state, tokens = self.embed(attributes), []
        for block, read in zip(self.blocks, self.read, strict=True):
            state = state + block(state)
            tokens.append(read(state).tanh())
        return torch.stack(tokens)


def token_loss(tokens: Tensor, codes: Tensor) -> Tensor:
    """Mean absolute distance of tokens (S, B, L) from codes (B, L); stage s weighs s / (1 + … + S)."""
    stage = torch.arange(1, len(tokens) + 1, device=tokens.device, dtype=tokens.dtype)
    return ((tokens - codes).abs().mean(dim=(1, 2)) * stage / stage.sum()).sum()


def proxy_loss(codes: Tensor, targets: Tensor, proxies: Tensor, scale: float, hardness: float) -> Tensor:
    """Cross-entropy of scaled cosines of codes (B, L) with proxies (C, L), where near negatives weigh more.

    −log e^{γ c_y} / (e^{γ c_y} + Σ_{j≠y} w_j e^{γ c_j}), w_j = (C − 1) softmax_{j≠y}(β c_j); no gradient flows
    through the weights.
    """
    cosine = F.normalize(codes, dim=-1) @ F.normalize(proxies, dim=-1).T
    own = F.one_hot(targets, len(proxies)).bool()
    hard = (hardness * cosine.detach()).masked_fill(own, -torch.inf).log_softmax(dim=-1)
    weight = (hard + math.log(max(len(proxies) - 1, 1))).masked_fill(own, 0.0)
    return F.cross_entropy(scale * cosine + weight, targets)
