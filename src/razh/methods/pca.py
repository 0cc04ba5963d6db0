"""PCA-sign: the signs of the principal components, the baseline of Gong & Lazebnik, CVPR 2011."""

from typing import Any

from razh.methods.itq import ITQ


class PCA(ITQ):
    """b = sign(V (f − mean)), V the L directions of most variance of the training features (labels are not used).

    ITQ without its rotation: every bit weighs the same, however little variance its component has. Departure: where
    L is above the number of components, random orthogonal combinations of all of them fill the code. `hash_init` has
    no effect.
    """

    def __init__(self, **kwargs: Any) -> None:
        """Build the method; see `HashingMethod` for the arguments."""
        super().__init__(**kwargs)
        self.hash_init = "pca"
