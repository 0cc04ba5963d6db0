"""A callback that lets every rank write down what it trains with."""

import json
from pathlib import Path

from lightning.pytorch import Callback


class RankNote(Callback):
    def on_train_start(self, trainer, pl_module):
        path = Path(trainer.default_root_dir) / f"rank{trainer.global_rank}.json"
        path.write_text(json.dumps({"lr": pl_module.lr, "bits": pl_module.bits, "world": trainer.world_size}))
