"""LightningCLI with razh's arguments, links and callbacks."""

import atexit
import logging
import os
import pkgutil
import sys
import warnings
from argparse import ArgumentError
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import yaml
from jsonargparse import Namespace
from lightning.pytorch import Callback
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.plugins.io import TorchCheckpointIO
from omegaconf import OmegaConf

from razh.callbacks.collection import CollectionAdaptation
from razh.callbacks.epochs import EpochLines, StopAfter
from razh.callbacks.logging import LogResult
from razh.callbacks.result import Stage, Writer
from razh.callbacks.run import RunParts, RunRecord
from razh.callbacks.writers import ClassesFile, CodesFile, MetricsFile, ResultTable, WhereCodesAre
from razh.cli.parse_errors import explain
from razh.cli.trainer_help import GROUPS, LINKS
from razh.datamodules.base import ZeroShotDataModule
from razh.method import HashingMethod
from razh.run import checkpoint, devices, loggers, refit
from razh.run import folder as run_folder
from razh.run.checkpoint_io import CheckpointFiles
from razh.run.config import plain, saved_config
from razh.run.recipe import ALIASES, expand
from razh.run.refit import Choice
from razh.run.trainer import Trainer, check_options
from razh.support import bounds, yaml_text
from razh.support.distributed import settle
from razh.support.terminal import UsageError

log = logging.getLogger(__name__)


class RazhCLI(LightningCLI):
    """Model and data by class path, facts of the data handed to the model, one folder a run."""

    def __init__(self, command: str, arguments: Sequence[str]) -> None:
        """Parse a command line and run it.

        Args:
            command: `train`, `fit`, `validate`, `test` or `predict`.
            arguments: what stands behind it, short names written out.
        """
        self.command, self.arguments, self.record, self.log = command, arguments, None, None
        self.choice: Choice | None = None
        yaml_text.install()
        # A configuration is saved, put into checkpoints and uploaded: what the environment holds stays out of it.
        with warnings.catch_warnings():  # 2.4 has another name for it, which 2.3 had deprecated
            warnings.simplefilter("ignore")
            OmegaConf.register_new_resolver("oc.env", _refuse_environment, replace=True)
        strict = {"parser_mode": "omegaconf", "exit_on_error": False, "allow_abbrev": False}
        super().__init__(
            HashingMethod,
            ZeroShotDataModule,
            trainer_class=Trainer,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            seed_everything_default=0,
            save_config_callback=None,
            parser_kwargs={**strict, "prog": "razh", command: strict},
            args=[command, *arguments],
        )

    command: str
    arguments: Sequence[str]
    record: RunRecord | None
    log: LogResult | None

    @classmethod
    def run(cls, command: str, arguments: Sequence[str]) -> "RazhCLI":
        """Run a command to its end, see the constructor."""
        atexit.register(settle)  # also after an error: what is at its end must not be aborted there
        cli = cls(command, arguments)
        cli.finish()
        return cli

    def finish(self) -> None:
        """Note that the command has come to its end."""
        for one in (self.record, self.log):
            if one is not None:
                one.finish()

    def next_command(self) -> tuple[str, ...]:
        """Return the command that makes something of the result, as words after `razh`; none where there is no result.

        Photos that were trained on are a collection to search; other codes can be looked at.
        """
        config = self.config[self.subcommand]
        folder = Path(config.trainer.default_root_dir)
        codes, best = folder / "codes.npz", Path(config.get("ckpt_path") or folder / "checkpoints" / "best.ckpt")
        if self.command in ("fit", "validate"):
            saved = folder / "config.yaml"
            return ("test", f"--config={saved}", f"--ckpt_path={best}") if best.is_file() and saved.is_file() else ()
        if self.command == "train" and best.is_file() and self.datamodule.annotations.image_paths:
            return "encode", str(self.datamodule.folder), f"--checkpoint={best}", f"--out={folder / 'images.npz'}"
        return ("evaluate", str(codes), f"--distance_figure={folder / 'distances.png'}") if codes.is_file() else ()

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the command line.

        Raises:
            UsageError: an unknown option or a value of the wrong type, in one line.
            ValueError: a number out of bounds, in one line.
        """
        try:
            self.config = parser.parse_args(args)
        except ArgumentError as error:
            sub = self._subcommand_parsers[self.command]
            known = [name[2:] for action in sub._actions for name in action.option_strings if name.startswith("--")]
            raise UsageError(explain(str(error), known, args)) from error
        _restore_null(self.config)
        _check_bounds(plain(self.config[self.command]))

    def _dump_config(self) -> None:
        """Give plain values to a method that saves its hyper-parameters; the parser's dump is slow."""
        if not hasattr(self, "config_dump"):
            self.config_dump = plain(self.config[self.subcommand])

    def _parse_ckpt_path(self) -> None:
        """Take no hyper-parameters from a checkpoint: ours hold none, and it is read once, with its own checks."""

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]  # a static method there
        """Return the one command that is run; building a parser for each of them would take seconds."""
        skipped = {"train": {"model", "datamodule"}} | LightningCLI.subcommands()
        return {self.command: skipped[self.command]}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the run's own arguments, the callbacks, the links from data to model; `trainer_help` explains them."""
        for name in ("dataset", "method", "backbone", "run_dir", "logger"):
            parser.add_argument(f"--{name}", type=str | None, default=None)
        parser.add_argument("--resume", type=bool, default=True)
        parser.add_argument("--search", type=dict | None, default=None)  # for tuning; a run ignores it
        for key, path in GROUPS.items():
            group = pkgutil.resolve_name(path)
            add = parser.add_lightning_class_args if issubclass(group, Callback) else parser.add_class_arguments
            add(group, key)
        for target, source in LINKS.items():
            fact = source.startswith("data.") and "init_args" not in source  # known once the data module is there
            seed = int if source == "seed_everything" else None
            parser.link_arguments(source, target, compute_fn=seed, apply_on="instantiate" if fact else "parse")

    def before_instantiate_classes(self) -> None:
        """Choose the run folder and point the trainer and the checkpoints at it."""
        config = self.config[self.subcommand]
        loggers.chosen(config.logger)
        devices.check(config.trainer)
        check_options(config.trainer)
        fitting = self.command in ("train", "fit")
        if config.get("ckpt_path") == "" and fitting:
            raise ValueError("ckpt_path is empty; is a variable not set? Give a file, `last`, or leave ckpt_path out")
        if config.get("ckpt_path"):
            config.ckpt_path = os.path.expanduser(config.ckpt_path)
        if not fitting and config.get("ckpt_path") in (None, "", "last"):
            raise ValueError(
                f"ckpt_path={config.get('ckpt_path')}: {self.command} needs a trained network; pass "
                "--ckpt_path=RUN/checkpoints/best.ckpt"
            )
        saved = yaml.safe_load(saved_config(self._parser(self.subcommand), config, fitting=fitting))
        trial = loggers.trial_folder()
        if trial is not None and config.run_dir is None:
            config.run_dir = str(trial)
        place = self.place(config, saved)
        folder = place.folder
        config.trainer.default_root_dir = str(folder)
        config.checkpoint.dirpath = str(folder / "checkpoints")
        if config.data.init_args.get("refit"):
            refit.check(self.command, config.get("ckpt_path"), config.trainer)
            if fitting:
                self.choice = self._select(config, folder)
        if fitting and place.resume:
            self._go_on(config, folder)
        elif config.get("ckpt_path") and not Path(config.ckpt_path).is_file():
            last = ", or `last`" if fitting else ""
            raise FileNotFoundError(f"no checkpoint at ckpt_path={config.ckpt_path}; give a file{last}")

    def place(self, config: Namespace, saved: Mapping[str, Any]) -> run_folder.Place:
        """Choose the run folder, see `razh.run.folder.resolve`."""
        return run_folder.resolve(config, self.command, saved)

    def _select(self, config: Namespace, folder: Path) -> Choice:
        """Have the run with validation classes, unless it is there; return what it has chosen."""
        if not checkpoint.class_at(config.model.class_path, HashingMethod).trains:
            log.info("refit: %s is fitted, not trained: one fit on all seen classes", config.method)
            return Choice()
        if not refit.has_chosen(folder):
            log.info("refit: first the run with validation classes, in %s", folder / run_folder.SELECTION)
            _Selection(folder, self.arguments).finish()
            self._set_seed()
        choice = refit.chosen_in(folder, config.checkpoint.monitor)
        best = "" if choice.score is None else f" ({choice.score:.4f})"
        words = "refit: now on all seen classes, up to epoch %s of %s, which had the best %s%s"
        log.info(words, choice.epochs, config.trainer.max_epochs, choice.monitor, best)
        return choice

    def _go_on(self, config: Namespace, folder: Path) -> None:
        """Start from the newest complete checkpoint of an unfinished run."""
        found = checkpoint.newest(folder / "checkpoints")
        if found is not None:
            reason = run_folder.state(folder).get("reason")
            why = f" (it ended with: {reason})" if reason else ""
            log.info("run_dir=%s: the unfinished run goes on from %s%s", folder, found.name, why)
            config.ckpt_path = str(found)
        elif config.get("ckpt_path") == "last" and self.choice is not None:
            config.ckpt_path = None  # it was told to stop while it selected
        elif config.get("ckpt_path") == "last":
            raise ValueError(f"no complete checkpoint in {folder}; leave out --ckpt_path=last to start over")
        else:
            log.info("run_dir=%s: the unfinished run has no checkpoint yet and starts over", folder)

    def instantiate_classes(self) -> None:
        """Build data, model and trainer; refuse a run folder among the images, where its figures would be data."""
        super().instantiate_classes()
        data, run = self.datamodule, Path(self.config_init[self.subcommand].trainer.default_root_dir).resolve()
        if not data.annotations.image_paths:
            return
        images = (data.folder / data.image_folder).resolve()
        if images in (run, *run.parents):
            raise ValueError(f"run_dir={run} lies among the images of {images}; pass a RUN_DIR outside")

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the trainer; samplers are the data module's own, which know ranks and epochs."""
        options = self.config[self.subcommand].trainer
        if devices.sync_batch_norm(self.model, options):
            kwargs["sync_batchnorm"] = True
        kwargs |= self._loggers(options)
        bar = sys.stdout.isatty() if options.enable_progress_bar is None else options.enable_progress_bar
        kwargs["enable_progress_bar"] = bar
        parser, config, made = (
            self._parser(self.subcommand),
            self.config[self.subcommand],
            self.config_init[self.subcommand],
        )
        after_test: list[Writer] = [CodesFile(), ClassesFile(), MetricsFile(), ResultTable(), made.figures]
        writers: dict[Stage, list[Writer]] = {
            "test": after_test,
            "validate": [MetricsFile(), ResultTable()],
            "predict": [CodesFile(), WhereCodesAre()],
        }
        record = RunRecord(
            parser, config, RunParts(made.cache, made.evaluation, made.checkpoint, made.measures, writers, self.choice)
        )
        self.record = record
        self.save_config_callback = lambda *_: record  # type: ignore[assignment]  # Lightning calls it where it is due
        trainer = super().instantiate_trainer(use_distributed_sampler=False, **kwargs)
        # In front: what tests codes must find them fitted.
        cast("Trainer", trainer).callbacks.insert(0, CollectionAdaptation())  # type: ignore[attr-defined]
        if self.choice is not None and self.choice.epochs is not None:
            cast("Trainer", trainer).callbacks.insert(0, StopAfter(self.choice.epochs))  # type: ignore[attr-defined]
        if not bar:
            cast("Trainer", trainer).callbacks.append(EpochLines())  # type: ignore[attr-defined]
        if trainer.loggers and not options.fast_dev_run:
            self.log = LogResult(yaml.safe_load(saved_config(parser, config, fitting=False)), made.checkpoint)
            cast("Trainer", trainer).callbacks.append(self.log)  # type: ignore[attr-defined]
            after_test.append(self.log)
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


def _refuse_environment(name: str, *_: str) -> str:
    raise ValueError(f"${{oc.env:{name}}} is not filled in, for a configuration is saved with the run; write the value")


def _check_bounds(config: dict[str, Any]) -> None:
    """Refuse numbers that are out of bounds, by the names that they have on the command line."""
    for problem in bounds.problems(bounds.Seed | bool, config["seed_everything"], "--seed"):
        raise ValueError(problem)
    try:
        bounds.refuse(Trainer, config["trainer"], "--trainer.")
        for group, path in GROUPS.items():
            bounds.refuse(pkgutil.resolve_name(path), config[group], f"--{group}.")
        for group in ("model", "data"):
            bounds.refuse_object(config[group], f"--{group}.")
    except ValueError as error:
        name, _, rest = str(error).partition("=")
        typed = {key: alias for alias, key in ALIASES.items()} | {"--model.backbone.image_size": "--data.image_size"}
        raise ValueError(f"{typed.get(name, name)}={rest}") from None


def _restore_null(config: Namespace) -> None:
    """Put None where the parser has made text of it, which it does of `null` for an option of a class in a class."""
    for key, value in list(vars(config).items()):
        if value == "None":
            config[key] = None
        elif isinstance(value, Namespace):
            _restore_null(value)
        elif isinstance(value, dict):
            value.update({name: None for name, entry in value.items() if entry == "None"})


class _Selection(RazhCLI):
    """The run with validation classes that comes before a refit: it has a folder in the refit's, and tests nothing."""

    def __init__(self, folder: Path, arguments: Sequence[str]) -> None:
        """Run it.

        Args:
            folder: of the refit.
            arguments: of the refit.
        """
        self.folder = folder / run_folder.SELECTION
        without = ("--data.refit=false", "--ckpt_path=null", "--logger=none", f"--run_dir={self.folder}")
        super().__init__("fit", [*arguments, *without])

    def place(self, config: Namespace, saved: Mapping[str, Any]) -> run_folder.Place:
        """Return the folder; what is there goes on, for the refit has looked at it."""
        return run_folder.Place(self.folder, resume=self.folder.is_dir())

    def instantiate_classes(self) -> None:
        """Build everything; refuse a split that has no validation classes.

        Raises:
            ValueError: nothing can be chosen.
        """
        super().instantiate_classes()
        if not len(self.datamodule.split.validation_query):
            raise ValueError(
                "data.refit=true trains as long as validation classes choose, and there are none; pass "
                f"--data.validation_class_share above {self.datamodule.validation_class_share:g}, or leave it out"
            )


class _Reader(RazhCLI):
    """Reads a command line and stops there: no folder is chosen, nothing is built or run, no seed is set."""

    def before_instantiate_classes(self) -> None:
        """Choose no folder."""

    def instantiate_classes(self) -> None:
        """Build nothing."""

    def _run_subcommand(self, subcommand: str) -> None:
        """Run nothing."""

    def _set_seed(self) -> None:
        """Leave the random numbers alone."""


def check_fits(lines: Iterable[list[str]]) -> None:
    """Ask the parser about every option and every choice of command lines of `razh fit`.

    Nothing is built and no data is touched.

    Raises:
        ValueError: an option that the model or the trainer does not have, with the nearest that there is; a choice
            that it does not take.
    """
    reader = None
    for line in lines:
        arguments = expand(line)
        if reader is None:
            reader = _Reader("fit", arguments)
        else:
            reader.parse_arguments(reader.parser, ["fit", *arguments])
