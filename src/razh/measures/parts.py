"""Found parts beside true ones: mutual information, Rand index, overlap, and consistency under mirroring.

Everything ends in one table (K + 1, P + 1) that counts places by found and true part; the last row and column are the
background. Two settings follow from it: *all*, where places that were found to be background are a cluster of their
own, and *foreground*, where they are left out. What is truly background counts for the overlap alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

__all__ = [
    "Pointing",
    "adjusted_rand_index",
    "agreement",
    "contingency",
    "flip_agreement",
    "foreground_overlap",
    "hard_parts",
    "matched_overlap",
    "near_points",
    "normalised_mutual_information",
    "on_masks",
    "part_pixels",
    "parts_at",
    "point",
]

Ids = NDArray[np.int64]
Floats = NDArray[np.float64]


def hard_parts(assignment: Tensor, background_from: float = 0.5) -> Ids:
    """Return the part of the largest weight (B, N); −1, the background, where that has more than `background_from`.

    Args:
        assignment: weights (B, N, K + 1), background last.
        background_from: see `FindsParts`.
    """
    return _heaviest(assignment, -1, background_from)


def parts_at(
    assignment: Tensor, points: NDArray[np.float32], grid: tuple[int, int], side: int, background_from: float = 0.5
) -> Ids:
    """Return the part that is found at each point (B, P), −1 for the background, see `hard_parts`.

    Weights are interpolated bilinearly between the patches first, as PDiscoFormer measures (ECCV 2024; its code scales
    the maps up to the image, which is the same, and lets the background compete with each part).

    Args:
        assignment: weights (B, N, K + 1), background last.
        points: (B, P, ≥ 2), x and y in pixels of the image, counted from its left and upper edge.
        grid: rows and columns of the patches.
        side: of the image in pixels.
        background_from: see `FindsParts`.
    """
    places = torch.from_numpy(np.asarray(points[..., :2], dtype=np.float32)) * (2 / side) - 1
    sampled = F.grid_sample(
        _maps(assignment, grid), places.unsqueeze(2), mode="bilinear", padding_mode="border", align_corners=False
    )  # (B, K + 1, P, 1)
    return _heaviest(sampled[..., 0], 1, background_from)


def part_pixels(assignment: Tensor, grid: tuple[int, int], side: int, background_from: float = 0.5) -> Ids:
    """Return the part that is found at each pixel (B, side, side), as `parts_at` does."""
    maps = F.interpolate(_maps(assignment, grid), (side, side), mode="bilinear", align_corners=False)
    return _heaviest(maps, 1, background_from)


def _maps(assignment: Tensor, grid: tuple[int, int]) -> Tensor:
    weights = assignment.detach().float().cpu().transpose(1, 2)
    return weights.reshape(*weights.shape[:2], *grid)  # (B, K + 1, rows, columns)


def _heaviest(weights: Tensor, dim: int, background_from: float) -> Ids:
    parts = weights.shape[dim] - 1
    found = weights.narrow(dim, 0, parts).argmax(dim=dim)
    found[weights.select(dim, parts) > background_from] = -1
    return found.cpu().numpy().astype(np.int64)


@dataclass(frozen=True, eq=False)
class Pointing:
    """Whether the strongest patch of a part lies on the true part, of n images and K parts (the pointing game).

    Attributes:
        hit: (n, K) 1.0 or 0.0; NaN where the true part is not seen in the image, or not known.
        chance: (n, K) share of all patches that would hit.
        centre: (n, K) whether the image's centre would.
    """

    hit: Floats
    chance: Floats
    centre: Floats

    def rates(self) -> dict[str, Floats]:
        """Return, by name, the mean over images for each part (K,), NaN for parts that no image shows."""
        seen = ~np.isnan(self.hit)
        count = seen.sum(axis=0)
        values = {"pointing": self.hit, "pointing_chance": self.chance, "pointing_centre": self.centre}
        return {
            name: np.divide(
                np.where(seen, value, 0.0).sum(axis=0), count, where=count > 0, out=np.full(len(count), np.nan)
            )
            for name, value in values.items()
        }


def point(assignment: Tensor, right: NDArray[np.bool_], centre: NDArray[np.bool_]) -> Pointing:
    """Look where the strongest patch of each part lies.

    Args:
        assignment: weights (B, N, K + 1), background last.
        right: (B, K, N), patches that lie on the true part of each part; none where it is not seen.
        centre: (B, K), whether the image's centre does.
    """
    strongest = assignment[..., :-1].argmax(dim=1).cpu().numpy()  # (B, K)
    hit = np.take_along_axis(right, strongest[..., None], axis=2)[..., 0]
    seen = right.any(axis=2)
    return Pointing(np.where(seen, hit, np.nan), right.mean(axis=2), np.where(seen, centre, np.nan))


def near_points(
    points: NDArray[np.float32], parts: Sequence[Sequence[int]], grid: tuple[int, int], side: int, radius: float
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which patches (B, K, N), and whether the image's centre (B, K), lie near a point of each part.

    Args:
        points: (B, P, 3), x and y in pixels, and visibility.
        parts: for each of the K parts, its points of the P.
        grid: rows and columns of the patches.
        side: of the image in pixels.
        radius: in sides.
    """
    rows, columns = (np.arange(count) + 0.5 for count in grid)
    x, y = np.meshgrid(columns / grid[1], rows / grid[0])
    places = np.append(np.stack([x.ravel(), y.ravel()], axis=1), [[0.5, 0.5]], axis=0)  # (N + 1, 2), the centre last
    distance = np.linalg.norm(points[:, :, None, :2] / side - places, axis=-1)  # (B, P, N + 1)
    near = (distance <= radius) & (points[..., 2] > 0)[..., None]
    right = np.stack([near[:, list(own)].any(axis=1) for own in parts], axis=1)
    return right[..., :-1], right[..., -1]


def on_masks(
    masks: NDArray[np.integer], parts: Sequence[Sequence[int]], grid: tuple[int, int]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which patches' centres (B, K, N), and whether the image's centre (B, K), lie on each part.

    Args:
        masks: (B, S, S), true parts, −1 for the background.
        parts: for each of the K parts, its true parts.
        grid: rows and columns of the patches.
    """
    side = masks.shape[-1]
    rows, columns = (((np.arange(count) + 0.5) * side / count).astype(int) for count in grid)
    there = masks[:, rows][:, :, columns].reshape(len(masks), -1)  # (B, N)
    middle = masks[:, side // 2, side // 2]
    right = np.stack([np.isin(there, list(own)) for own in parts], axis=1)
    return right, np.stack([np.isin(middle, list(own)) for own in parts], axis=1)


def contingency(found: Ids, true: Ids, parts: int, true_parts: int) -> Ids:
    """Count places by found and true part, (K + 1, P + 1); background (−1) is the last row and column.

    Args:
        found: ids −1 … K − 1 of any shape.
        true: ids −1 … P − 1 of the same places.
        parts: number K of parts that can be found.
        true_parts: number P of true parts.
    """
    rows, columns = parts + 1, true_parts + 1
    cells = (found % rows) * columns + true % columns  # −1 becomes the last one
    return np.bincount(cells.ravel(), minlength=rows * columns).reshape(rows, columns)


def normalised_mutual_information(table: Ids) -> float:
    """Return the mutual information of two clusterings, over the mean of their entropies; 1 is agreement, 0 chance.

    Two clusterings of one cluster each agree (1), as scikit-learn has it.

    Args:
        table: (K, P), how many items both clusterings put where.

    Raises:
        ValueError: the table counts nothing.
    """
    joint = _counts(table) / table.sum()
    rows, columns = joint.sum(axis=1), joint.sum(axis=0)
    if len(rows) == len(columns) == 1:
        return 1.0
    ratio = np.divide(joint, rows[:, None] * columns, where=joint > 0, out=np.ones_like(joint))
    information = float((joint * np.log(ratio)).sum())
    mean_entropy = 0.5 * (_entropy(rows) + _entropy(columns))
    return min(max(information / mean_entropy, 0.0), 1.0)


def adjusted_rand_index(table: Ids) -> float:
    """Return the share of pairs that both clusterings treat alike, adjusted for chance (Hubert & Arabie, 1985).

    1 is agreement, 0 is the expectation for random clusterings of the same sizes; it can be negative.

    Args:
        table: (K, P), how many items both clusterings put where.

    Raises:
        ValueError: the table counts nothing.
    """
    counts = _counts(table)
    together = _pairs(counts).sum()
    first, second = _pairs(counts.sum(axis=1)).sum(), _pairs(counts.sum(axis=0)).sum()
    if first == together == second:  # the same partition, or one item
        return 1.0
    expected = first * second / _pairs(counts.sum())
    return float((together - expected) / (0.5 * (first + second) - expected))


def _counts(table: Ids) -> Floats:
    """Return the table without empty rows and columns."""
    if not table.sum():
        raise ValueError("the table counts no items; nothing can be compared")
    counts: Floats = table[table.sum(axis=1) > 0][:, table.sum(axis=0) > 0].astype(np.float64)
    return counts


def _entropy(shares: Floats) -> float:
    return float(-(shares * np.log(shares)).sum())


def _pairs(counts: Floats) -> Floats:
    return np.asarray(counts * (counts - 1) / 2)


def matched_overlap(table: Ids) -> Floats:
    """Return the intersection over union (P,) of each true part with its found part; NaN where a part never occurs.

    Found parts are matched with true ones one to one, so that the sum is largest; what is left without one has 0.
    Places that truly are background count against the found part that takes them.

    Args:
        table: (K + 1, P + 1) of `contingency`.
    """
    both = table[:-1, :-1].astype(np.float64)  # (K, P)
    size, true_size = table[:-1].sum(axis=1), table[:, :-1].sum(axis=0)
    union = size[:, None] + true_size - both
    overlap = np.divide(both, union, where=union > 0, out=np.zeros_like(both))
    found, true = linear_sum_assignment(overlap, maximize=True)
    result = np.zeros(len(true_size))
    result[true] = overlap[found, true]
    return np.where(true_size > 0, result, np.nan)


def foreground_overlap(table: Ids) -> float:
    """Return the intersection over union of all found with all true parts; 1 where there are neither."""
    both, union = table[:-1, :-1].sum(), table.sum() - table[-1, -1]
    return float(both / union) if union else 1.0


def flip_agreement(found: Ids, mirrored: Ids, grid: tuple[int, int]) -> tuple[float, float]:
    """Return how many patches have the same part in the mirrored image, among all and among those of parts.

    The second share counts patches that belong to a part in at least one of the two images (agreement on the
    background is easy), and is NaN where there are none.

    Args:
        found: part ids (B, N) of images, −1 for the background.
        mirrored: part ids (B, N) of the horizontally mirrored images.
        grid: rows and columns of the patches.
    """
    return agreement(found, mirrored.reshape(len(mirrored), *grid)[:, :, ::-1].reshape(found.shape))


def agreement(found: Ids, again: Ids) -> tuple[float, float]:
    """Return how many places have the same part twice, among all and among those of parts, see `flip_agreement`.

    Args:
        found: part ids (B, N), −1 for the background.
        again: part ids (B, N) of the same places.
    """
    same, foreground = found == again, (found >= 0) | (again >= 0)
    return float(same.mean()), float(same[foreground].mean()) if foreground.any() else float("nan")
