"""A method that fails on one rank, as a user's own might."""

import os
from typing import Any

from razh.method import Batch
from razh.methods.ce import CE

HOW = ("raises", "killed")


class FailsOnOneRank(CE):
    """CE; RAZH_TEST_FAILS names a rank, and whether it raises in its third step or is killed."""

    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        rank, _, how = os.environ["RAZH_TEST_FAILS"].partition(" ")
        if self.global_rank == int(rank) and self.global_step == 2:
            if how == HOW[1]:
                os.kill(os.getpid(), 9)
            raise ValueError("image 17 is not to my taste")
        return super().training_step(batch, batch_idx)
