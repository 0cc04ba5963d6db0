"""The command line: LightningCLI for everything that needs a trainer, small commands for the rest."""

import importlib
import logging
import os
import sys
import warnings
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from rich.console import Console

from razh import preemption, recipe, run_folder
from razh.parse_errors import unwrap

TRAINER_COMMANDS = {
    "train": "fit, then test the best checkpoint: what `make train` runs",
    "fit": "train only",
    "validate": "rank the validation classes with a checkpoint",
    "test": "rank the unseen classes with a checkpoint",
    "predict": "encode the test images with a checkpoint",
}
OTHER_COMMANDS = {
    "data": "download and unpack a data set",
    "encode": "images to a file of codes, with a trained checkpoint",
    "search": "the nearest images in such a file",
    "evaluate": "the metrics of a file of codes, also of one made elsewhere",
    "compare": "two methods on the same queries: difference, interval, significance",
    "inspect": "what is in a checkpoint",
    "reproduce": "run a finished run again from its configuration, and compare",
    "benchmark": "methods × bits × seeds × protocols: resumable, with tables and curves",
    "ablate": "the switches of RAZH, each against the whole method",
    "report": "tables and curves of benchmarks as one document",
    "sweep": "a hyper-parameter search with W&B: check, create, work on it",
    "tune": "the same search without a server",
    "audit": "overlaps and leaks in published split lists",
}
log = logging.getLogger("razh")


def main(arguments: list[str]) -> int:
    """Run a command line and return its exit status.

    Bad input (ValueError, OSError, missing packages) becomes one line, `error: …`, and status 1; `--debug` shows where
    it was raised. Everything else is a fault of ours and keeps its traceback.
    """
    debug = "--debug" in arguments or os.environ.get("RAZH_DEBUG") == "1"
    arguments = [a for a in arguments if a != "--debug"]
    _log_to_terminal(debug)
    try:
        return _dispatch(arguments)
    except (ValueError, OSError, ImportError, EOFError) as error:
        if debug:
            raise
        _say_error(_one_line(error))
        return 1
    except RuntimeError as error:
        if not debug and (stop := preemption.stop_behind(error)) is not None:
            raise stop from None
        if debug or not preemption.lost_peer(error):
            raise
        _say_error("another process of this run has died; its own message says why")
        return 1
    except KeyboardInterrupt:
        Console(stderr=True).print("interrupted")
        return 130
    except Exception as error:
        # Lightning's word for options that do not go together; asked by name, since importing it takes seconds.
        if debug or type(error).__name__ != "MisconfigurationException":
            raise
        _say_error(_one_line(error))
        return 1


def _say_error(text: str) -> None:
    where = "error" if _rank() == 0 else f"error on rank {_rank()}"
    Console(stderr=True, soft_wrap=True, highlight=False).print(f"{where}: {text}", markup=False)


def _rank() -> int:
    """Return the rank of this process as its launcher told it."""
    return int(next((os.environ[n] for n in ("RANK", "SLURM_PROCID", "LOCAL_RANK") if n in os.environ), "0"))


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.strerror}: {error.filename}"
    lines = unwrap(str(error)).strip().splitlines()
    if lines and lines[0].startswith("Caught ") and "worker process" in lines[0]:  # the loader's own traceback
        lines = [lines[-1].partition(": ")[2] or lines[-1]]
    return " ".join(line.strip() for line in lines) or type(error).__name__


def _dispatch(arguments: list[str]) -> int:
    command, rest = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    if command in OTHER_COMMANDS:
        return int(importlib.import_module(f"razh.commands.{command}").main(rest))
    if command in TRAINER_COMMANDS:
        return _run_trainer(command, rest)
    if command in ("-h", "--help"):
        _show_menu()
        return 0
    if command == "--version":
        from razh import __version__

        Console().print(f"razh {__version__}")
        return 0
    known = ", ".join([*TRAINER_COMMANDS, *OTHER_COMMANDS])
    raise ValueError(f"command {command!r} is unknown; choose from {known}")


def _show_menu() -> None:
    out = Console(highlight=False, soft_wrap=True)
    out.print("razh: zero-shot hashing with part-attribute alignment\n\nusage: razh COMMAND [options]\n", markup=False)
    for name, text in (TRAINER_COMMANDS | OTHER_COMMANDS).items():
        out.print(f"  {name:<10} {text}", markup=False)
    out.print("\nshort options of train, fit, validate, test and predict:", markup=False)
    for kind in recipe.FOLDERS:
        out.print(f"  --{kind:<10} {', '.join(recipe.available(kind))}", markup=False)
    for alias, key in recipe.ALIASES.items():
        out.print(f"  {alias:<12} short for {key}", markup=False)
    out.print("  --profile    show where the time of a run went, after it", markup=False)
    out.print("  --run_dir    folder of the run; default runs/DATASET/METHOD/BITS/seedN", markup=False)
    out.print("  --debug      show where an error was raised", markup=False)
    out.print("\n`razh COMMAND --help` tells the rest, `razh train --print_config` shows a whole config.", markup=False)


class _TerminalHandler(logging.StreamHandler[Any]):
    """Writes to whatever sys.stderr is at the moment: progress bars put themselves in front of it."""

    @property
    def stream(self) -> Any:
        return sys.stderr

    @stream.setter
    def stream(self, value: Any) -> None:
        """Ignore the stream of the moment of creation."""


class _TerminalFormatter(logging.Formatter):
    """Plain lines; what is more than information says so."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return text if record.levelno <= logging.INFO else f"{record.levelname.lower()}: {text}"


def _log_to_terminal(debug: bool) -> None:
    handler = _TerminalHandler()
    handler.setFormatter(_TerminalFormatter("%(message)s"))
    for name in ("razh", "datamodules"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.DEBUG if debug else logging.INFO if _rank() == 0 else logging.ERROR)


def _run_trainer(command: str, arguments: list[str]) -> int:
    # Lightning takes seconds to import; commands without a trainer need not wait for it.
    from razh.lightning_cli import RazhCLI

    if not {"-h", "--help"} & set(arguments):
        arguments = recipe.expand(arguments)
    _quiet_libraries()
    sys.argv = [sys.argv[0], command, *arguments]  # Lightning's launcher starts the other ranks with it
    started_here = run_folder.ENVIRONMENT not in os.environ
    if not started_here and _rank() > 0:
        preemption.end_with_parent()
    try:
        with preemption.Listener():
            RazhCLI.run(command)
    except preemption.Stopped as stop:
        if stop.signum == preemption.REQUEUE:
            preemption.requeue()
        raise
    finally:
        if started_here:
            for name in (run_folder.ENVIRONMENT, run_folder.RESUME):
                os.environ.pop(name, None)
    return 0


def _quiet_libraries() -> None:
    """Silence what a user can neither act on nor learn from: advertisements, and warnings among libraries."""
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*image decoding and encoding capabilities.*")
    # Retrieval figures are computed alike on every device; averaging them once more could only change a last digit.
    warnings.filterwarnings("ignore", message=".*sync_dist=True.*")
    # Methods without training (ITQ) are meant to have no optimiser and no loss.
    warnings.filterwarnings("ignore", message=".*this fit will run with no optimizer.*")
    warnings.filterwarnings("ignore", message=".*`training_step` returned `None`.*")
    # Values are logged by epoch; the interval in steps is out of reach on purpose.
    warnings.filterwarnings("ignore", message=".*is smaller than the logging interval.*")
    # The data module's own sampler leaves out the batches of an epoch that are done; Lightning cannot know that.
    warnings.filterwarnings("ignore", message=".*checkpoint that ended before the epoch ended.*")
    warnings.filterwarnings("ignore", message=".*Checkpoint directory .* exists and is not empty.*")
    warnings.filterwarnings("ignore", message=".*The dirpath has changed.*")  # a test has a folder of its own
    warnings.filterwarnings("ignore", message=".*Grad strides do not match bucket view strides.*")
    advertisement = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    advertisement.addFilter(lambda record: "litlogger" not in record.getMessage() and "💡" not in record.getMessage())


def resolve_run_folder(config: Namespace, command: str, saved: dict[str, Any]) -> run_folder.Place:
    """Return the run's folder, and remember it for the ranks that this process starts.

    Args:
        config: the whole configuration.
        command: the command it is for.
        saved: what the run would save of it; an unfinished run that saved the same goes on.
    """
    bits = config.model.init_args.get("bits", "x")
    name = f"seed{config.seed_everything}" + ("" if command in ("train", "fit") else f"-{command}")
    default = Path("runs") / (config.dataset or "data") / (config.method or "method") / str(bits) / name
    last = config.get("ckpt_path") == "last"
    place = run_folder.choose(config.run_dir, default, resume=last, config=saved if config.resume else None)
    os.environ[run_folder.ENVIRONMENT] = str(place.folder)
    os.environ[run_folder.RESUME] = str(int(place.resume))
    return place


def plain(value: Any) -> Any:
    """Return a configuration as plain dicts, lists, numbers and strings."""
    if isinstance(value, Namespace):
        return {key: plain(v) for key, v in vars(value).items()}
    if isinstance(value, dict):
        return {key: plain(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value if isinstance(value, bool | int | float | str) or value is None else str(value)
