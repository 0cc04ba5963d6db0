"""Annotated points of a stored image, in the image that evaluation sees."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from razh.datamodules.images import resized_shape

__all__ = ["evaluation_points"]


def evaluation_points(points: NDArray[np.float32], height: int, width: int, size: int) -> NDArray[np.float32]:
    """Take points through `razh.datamodules.images.evaluation_view`: shorter side to `size`, centre cut out.

    Args:
        points: (P, 3): x and y in pixels of the stored image, counted from its left and upper edge, and visibility.
        height: Of the stored image.
        width: Of the stored image.
        size: Side of the cut.

    Returns:
        (P, 3): x and y in the cut, and 1 for points that are visible and lie in it, else 0.
    """
    rows, columns = resized_shape(height, width, size)
    top, left = round((rows - size) / 2), round((columns - size) / 2)
    x, y = points[:, 0] * (columns / width) - left, points[:, 1] * (rows / height) - top
    inside = (x >= 0) & (x < size) & (y >= 0) & (y < size)
    return np.stack([x, y, inside & (points[:, 2] > 0)], axis=1).astype(np.float32)
