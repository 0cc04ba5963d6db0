"""LightningCLI with razh's arguments, links and callbacks."""

import sys
from argparse import ArgumentError
from pathlib import Path
from typing import Any, cast

from lightning.pytorch import LightningDataModule
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from razh.callbacks.cache import FeatureCache
from razh.callbacks.checkpoint import BestCheckpoint
from razh.callbacks.figures import Figures
from razh.callbacks.retrieval import RetrievalEvaluation
from razh.callbacks.run import RunRecord
from razh.cli import resolve_run_folder
from razh.method import HashingMethod
from razh.parse_errors import explain
from razh.trainer import Trainer

CALLBACKS = {
    "evaluation": RetrievalEvaluation,
    "cache": FeatureCache,
    "checkpoint": BestCheckpoint,
    "figures": Figures,
}


class RazhCLI(LightningCLI):
    """Model and data by class path, facts of the data handed to the model, one folder a run."""

    @classmethod
    def run(cls, command: str) -> "RazhCLI":
        """Parse sys.argv and run the command in it."""
        cls.command = command
        strict = {"parser_mode": "omegaconf", "exit_on_error": False, "allow_abbrev": False}
        return cls(
            HashingMethod,
            LightningDataModule,
            trainer_class=Trainer,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            seed_everything_default=0,
            save_config_callback=RunRecord,
            parser_kwargs={**strict, "prog": "razh", command: strict},
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the command line.

        Raises:
            ValueError: an unknown option or a value of the wrong type, in one line.
        """
        try:
            super().parse_arguments(parser, args)
        except ArgumentError as error:
            sub = self._subcommand_parsers[self.command]
            known = [name[2:] for action in sub._actions for name in action.option_strings if name.startswith("--")]
            raise ValueError(explain(str(error), known, sys.argv)) from error

    command = "train"

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Return the one command that is run; building a parser for each of them would take seconds."""
        skipped = {"train": {"model", "datamodule"}} | LightningCLI.subcommands()
        return {RazhCLI.command: skipped[RazhCLI.command]}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the run's own arguments, the callbacks, and the links from data to model."""
        names = "its name, which also loads experiments/{}/NAME.yaml"
        parser.add_argument("--dataset", type=str | None, default=None, help="Data set: " + names.format("data"))
        parser.add_argument("--method", type=str | None, default=None, help="Method: " + names.format("method"))
        parser.add_argument("--backbone", type=str | None, default=None, help="Backbone: " + names.format("backbone"))
        parser.add_argument(
            "--run_dir", type=str | None, default=None, help="Folder of the run; default runs/DATASET/METHOD/BITS/seedN"
        )
        parser.add_argument(
            "--search", type=dict | None, default=None, help="Search space of the method, for tuning; a run ignores it"
        )
        for key, callback in CALLBACKS.items():
            parser.add_lightning_class_args(callback, key)
        for fact in ("class_attributes", "attribute_vectors", "train_classes"):
            parser.link_arguments(f"data.{fact}", f"model.init_args.{fact}", apply_on="instantiate")
        parser.link_arguments("seed_everything", "data.init_args.seed", compute_fn=int)
        parser.link_arguments("data.init_args.image_size", "model.init_args.backbone.init_args.image_size")

    def before_instantiate_classes(self) -> None:
        """Choose the run folder and point the trainer and the checkpoints at it."""
        config = self.config[self.subcommand]
        folder = resolve_run_folder(config, self.command)
        config.trainer.default_root_dir = str(folder)
        config.checkpoint.dirpath = str(folder / "checkpoints")
        if config.get("ckpt_path") == "last":
            config.ckpt_path = str(folder / "checkpoints" / "last.ckpt")
        elif config.get("ckpt_path") and not Path(config.ckpt_path).is_file():
            raise FileNotFoundError(f"no checkpoint at ckpt_path={config.ckpt_path}; give a file, or `last`")

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the trainer; samplers are the data module's own, which know ranks and epochs."""
        trainer = super().instantiate_trainer(use_distributed_sampler=False, **kwargs)
        return cast("Trainer", trainer)
