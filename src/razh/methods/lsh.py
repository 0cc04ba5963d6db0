"""LSH: random hyperplanes. Charikar, "Similarity Estimation Techniques from Rounding Algorithms", STOC 2002."""

import torch

from razh.methods.itq import ITQ


class LSH(ITQ):
    """b = sign(W (f − mean)), W of independent normal numbers from the run's seed; nothing is learnt but the mean.

    Two images differ in a bit with the probability angle / π, the angle being that of their features. Departure: the
    mean of the training features is taken off, since features behind a ReLU all lie in one corner, where hyperplanes
    through the origin hardly part them. `hash_init` has no effect.
    """

    @torch.no_grad()
    def start_from_features(self) -> None:
        """Draw the hyperplanes, and put them through the mean of the training features."""
        self.head.weight.normal_()
        weight = self.head.weight.detach().float().cpu()  # the features come from there
        state = {"weight": weight, "bias": -weight @ self.fitting_features().mean(dim=0)}
        self.head.load_state_dict(self.trainer.strategy.broadcast({k: v.cpu() for k, v in state.items()}))
