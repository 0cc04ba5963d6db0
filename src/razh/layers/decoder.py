"""Tokens back to pixels, for the two reconstruction branches."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PatchDecoder(nn.Module):
    """Predict, for every token, the pixels of its cell of the image (or another target of the same grid).

    Two layers per token and one depth-wise 3 × 3 mixing of neighbours: the decoder is kept weak on purpose, so that
    what it rebuilds has to be in the tokens.
    """

    def __init__(self, dim: int, target_dim: int, grid: tuple[int, int], width: int = 256) -> None:
        """Build the decoder.

        Args:
            dim: width D' of the tokens.
            target_dim: numbers to predict for each token.
            grid: rows and columns of the tokens.
            width: of the hidden layer.
        """
        super().__init__()
        self.grid = grid
        self.enter = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, width), nn.GELU())
        self.mix = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.leave = nn.Linear(width, target_dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return predictions (B, N', target_dim) of tokens (B, N', D')."""
        hidden = self.enter(tokens)
        maps = hidden.transpose(1, 2).unflatten(2, self.grid)
        return self.leave(hidden + self.mix(maps).flatten(2).transpose(1, 2))  # type: ignore[no-any-return]


def pixel_targets(images: Tensor, grid: tuple[int, int], side: int) -> Tensor:
    """Return the pixels of each cell, normalised per cell as in MAE (arXiv 2111.06377).

    Args:
        images: uint8 (B, 3, H, W); any size, a thumbnail will do.
        grid: rows and columns of the cells.
        side: pixels of a cell's side after resizing.

    Returns:
        (B, N', 3 × side × side), mean 0 and variance 1 in every cell.
    """
    pixels = F.interpolate(images.float() / 255, (grid[0] * side, grid[1] * side), mode="area")
    cells = F.unfold(pixels, side, stride=side).transpose(1, 2)  # (B, N', 3 side²)
    centred = cells - cells.mean(dim=-1, keepdim=True)
    return centred / (centred.square().mean(dim=-1, keepdim=True) + 1e-4).sqrt()


def hide(patches: Tensor, mask_vector: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Return patches (B, N, D) of which a random share is replaced by mask_vector (D,), and which: (B, N)."""
    hidden = torch.rand(patches.shape[:2], device=patches.device) < share
    return torch.where(hidden.unsqueeze(-1), mask_vector.to(patches.dtype), patches), hidden.to(patches.dtype)
