"""LightningCLI with razh's arguments, links and callbacks."""

import atexit
import logging
import sys
from argparse import ArgumentError
from pathlib import Path
from typing import Any, cast

import yaml
from jsonargparse import Namespace
from lightning.pytorch import LightningDataModule
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.plugins.io import TorchCheckpointIO

from razh import checkpoint, devices, loggers
from razh.callbacks.cache import FeatureCache
from razh.callbacks.checkpoint import BestCheckpoint
from razh.callbacks.figures import Figures
from razh.callbacks.logging import LogResult
from razh.callbacks.measures import PartMeasures
from razh.callbacks.retrieval import RetrievalEvaluation
from razh.callbacks.run import RunRecord, saved_config
from razh.checkpoint_io import CheckpointFiles
from razh.cli import resolve_run_folder
from razh.distributed import settle
from razh.method import HashingMethod
from razh.parse_errors import explain
from razh.trainer import Trainer, check_options

log = logging.getLogger(__name__)
CALLBACKS = {
    "evaluation": RetrievalEvaluation,
    "cache": FeatureCache,
    "checkpoint": BestCheckpoint,
    "figures": Figures,
    "measures": PartMeasures,
}


class RazhCLI(LightningCLI):
    """Model and data by class path, facts of the data handed to the model, one folder a run."""

    @classmethod
    def build(cls, command: str) -> "RazhCLI":
        """Parse sys.argv and do what the class does with it."""
        RazhCLI.command = command
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

    @classmethod
    def run(cls, command: str) -> "RazhCLI":
        """Parse sys.argv and run the command in it."""
        atexit.register(settle)  # also after an error: what is at its end must not be aborted there
        cli = cls.build(command)
        for callback in cli.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, RunRecord):
                callback.finish()
            if isinstance(callback, LogResult):
                callback.finish(cli.trainer)
        return cli

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
        _restore_null(self.config)

    def _parse_ckpt_path(self) -> None:
        """Take no hyper-parameters from a checkpoint: ours hold none, and it is read once, with its own checks."""

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
            "--resume", type=bool, default=True, help="Go on with an unfinished run of this very configuration"
        )
        parser.add_argument(
            "--logger", type=str | None, default=None, help=f"Loggers, by commas: {', '.join(loggers.NAMES)}"
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
        loggers.chosen(config.logger)
        devices.check(config.trainer)
        check_options(config.trainer)
        fitting = self.command in ("train", "fit")
        if not fitting and config.get("ckpt_path") in (None, "", "last"):
            raise ValueError(
                f"ckpt_path={config.get('ckpt_path')}: {self.command} needs a trained network; pass "
                "--ckpt_path=RUN/checkpoints/best.ckpt"
            )
        saved = yaml.safe_load(saved_config(self._parser(self.subcommand), config, fitting=fitting))
        trial = loggers.trial_folder()
        if trial is not None and config.run_dir is None:
            config.run_dir = str(trial)
        place = resolve_run_folder(config, self.command, saved)
        folder = place.folder
        config.trainer.default_root_dir = str(folder)
        config.checkpoint.dirpath = str(folder / "checkpoints")
        if fitting and place.resume:
            self._go_on(config, folder)
        elif config.get("ckpt_path") and not Path(config.ckpt_path).is_file():
            last = ", or `last`" if fitting else ""
            raise FileNotFoundError(f"no checkpoint at ckpt_path={config.ckpt_path}; give a file{last}")

    @staticmethod
    def _go_on(config: Namespace, folder: Path) -> None:
        """Start from the newest complete checkpoint of an unfinished run."""
        found = checkpoint.newest(folder / "checkpoints")
        if found is not None:
            log.info("run_dir=%s: the unfinished run goes on from %s", folder, found.name)
            config.ckpt_path = str(found)
        elif config.get("ckpt_path") == "last":
            raise ValueError(f"no complete checkpoint in {folder}; leave out --ckpt_path=last to start over")
        else:
            log.info("run_dir=%s: the unfinished run has no checkpoint yet and starts over", folder)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the trainer; samplers are the data module's own, which know ranks and epochs."""
        options = self.config[self.subcommand].trainer
        if devices.sync_batch_norm(self.model, options):
            kwargs["sync_batchnorm"] = True
        kwargs |= self._loggers(options)
        trainer = super().instantiate_trainer(use_distributed_sampler=False, **kwargs)
        if trainer.loggers and not options.fast_dev_run:
            text = saved_config(self._parser(self.subcommand), self.config[self.subcommand], fitting=False)
            cast("Trainer", trainer).callbacks.append(LogResult(yaml.safe_load(text)))  # type: ignore[attr-defined]
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = CheckpointFiles()
        return cast("Trainer", trainer)

    def _loggers(self, options: Namespace) -> dict[str, Any]:
        """Return the trainer's loggers: those of `--logger`, beside any of `--trainer.logger`."""
        config = self.config[self.subcommand]
        names = loggers.chosen(config.logger)
        if not names:
            return {}
        group = f"{config.dataset or 'data'}/{config.method or 'method'}"
        ours = loggers.build(names, Path(options.default_root_dir), group)
        given = self._get(self.config_init, "trainer").get("logger")
        theirs = given if isinstance(given, list) else [given] if given and given is not True else []
        return {"logger": [*theirs, *ours]}


def _restore_null(config: Namespace) -> None:
    """Put None where the parser has made text of it, which it does of `null` for an option of a class in a class."""
    for key, value in list(vars(config).items()):
        if value == "None":
            config[key] = None
        elif isinstance(value, Namespace):
            _restore_null(value)
        elif isinstance(value, dict):
            value.update({name: None for name, entry in value.items() if entry == "None"})
