"""The command line: LightningCLI for everything that needs a trainer, small commands for the rest."""

from __future__ import annotations

import importlib
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from razh.run import preemption, recipe
from razh.support import terminal
from razh.support.files import expand_home
from razh.support.processes import importing
from razh.support.terminal import Status, UsageError

TRAINER_COMMANDS = {
    "train": "fit, then test the best checkpoint",
    "fit": "train only",
    "validate": "rank the validation classes with a checkpoint",
    "test": "rank the unseen classes with a checkpoint",
    "predict": "encode the test images with a checkpoint",
}
OTHER_COMMANDS = {
    "data": "download and unpack a data set",
    "check": "every problem of a folder of your own images, in a second",
    "adapt": "fit the codes of a checkpoint, or of a bare network, to your own unlabelled images",
    "encode": "images to a file of codes, with a trained checkpoint",
    "index": "an archive of encoded images that grows: add, update, remove, stats, verify",
    "search": "the nearest images in an archive or a file of codes",
    "serve": "a page and a JSON API that search an archive",
    "export": "a checkpoint as ONNX or safetensors, with a model card",
    "evaluate": "the metrics of a file of codes, also of one made elsewhere",
    "compare": "two methods on the same queries: difference, interval, significance",
    "inspect": "what is in a checkpoint",
    "reproduce": "run a finished run again from its configuration, and compare",
    "benchmark": "methods × bits × seeds × protocols: resumable, with tables and curves",
    "ablate": "the switches of RAZH, each against the whole method",
    "report": "runs side by side on one page; tables and curves of benchmarks",
    "sweep": "a hyper-parameter search with W&B: check, create, work on it",
    "tune": "the same search without a server",
    "audit": "overlaps and leaks in published split lists",
}
IMPORT = "--import="
log = logging.getLogger("razh")


def main(arguments: list[str]) -> int:
    """Run a command line and return its exit status (`razh.support.terminal.Status`).

    Bad input (ValueError, OSError, missing packages) becomes one line, `error: …`; `--debug` shows where it was raised.
    Everything else is a fault of ours and keeps its traceback.
    """
    debug = "--debug" in arguments or os.environ.get("RAZH_DEBUG") == "1"
    modules = [a.removeprefix(IMPORT) for a in arguments if a.startswith(IMPORT)]
    arguments = [expand_home(a) for a in arguments if a != "--debug" and not a.startswith(IMPORT)]
    terminal.prepare_streams()
    _log_to_terminal(debug)
    try:
        for module in modules:
            importlib.import_module(module)
        status = _dispatch(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return _interrupted()
    except SystemExit as stop:
        return _stopped(stop)
    except BrokenPipeError as error:
        return Status.PIPE_CLOSED if terminal.close_stdout() else _refused(error, debug)
    except Exception as error:
        return _refused(error, debug)
    return status


def _interrupted() -> int:
    sys.stderr.write("interrupted\n")
    return Status.INTERRUPTED


def _stopped(stop: SystemExit) -> int:
    """Return the status of a process that somebody else ends: Lightning after Ctrl-C, Rich on a closed pipe.

    Both end it with 1, which says nothing.

    Raises:
        SystemExit: the process ends for a reason of its own.
    """
    if isinstance(stop, preemption.Stopped):
        raise stop
    if preemption.behind(stop, KeyboardInterrupt):
        return _interrupted()
    if preemption.behind(stop, BrokenPipeError):
        return Status.PIPE_CLOSED
    raise stop


def _refused(error: Exception, debug: bool) -> int:
    """Say in one line what was refused, and return the status; raise what is a fault of ours."""
    if debug:
        raise error
    if isinstance(error, RuntimeError) and (stop := preemption.stop_behind(error)) is not None:
        raise stop from None
    if isinstance(error, RuntimeError) and preemption.lost_peer(error):
        _say_error("another process of this run has died; its own message says why")
        return Status.REFUSED
    # Lightning's word for options that do not go together is asked by name, since importing it takes seconds.
    ours = isinstance(error, ValueError | OSError | ImportError | EOFError)
    if not ours and type(error).__name__ != "MisconfigurationException":
        raise error
    _say_error(_one_line(error))
    return Status.USAGE if isinstance(error, UsageError) else Status.REFUSED


def _say_error(text: str) -> None:
    where = "error" if _rank() == 0 else f"error on rank {_rank()}"
    sys.stderr.write(f"{where}: {text}\n")


def _rank() -> int:
    """Return the rank of this process as its launcher told it."""
    return int(next((os.environ[n] for n in ("RANK", "SLURM_PROCID", "LOCAL_RANK") if n in os.environ), "0"))


def _one_line(error: Exception) -> str:
    from razh.cli.parse_errors import unwrap

    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.strerror}: {error.filename}"
    lines = unwrap(str(error)).strip().splitlines()
    if lines and lines[0].startswith("Caught ") and "worker process" in lines[0]:  # the loader's own traceback
        lines = [lines[-1].partition(": ")[2] or lines[-1]]
    return " ".join(line.strip() for line in lines) or type(error).__name__


def _dispatch(arguments: list[str]) -> int:
    if not arguments:
        _show_menu()
        return Status.USAGE
    command, rest = arguments[0], arguments[1:]
    if command in OTHER_COMMANDS:
        with importing(f"razh.commands.{command}"):
            module = importlib.import_module(f"razh.commands.{command}")
        return int(module.main(rest, TRAINER_FOR[command]) if command in TRAINER_FOR else module.main(rest))
    if command in TRAINER_COMMANDS:
        return _run_trainer(command, rest)
    if command in ("-h", "--help"):
        _show_menu()
        return Status.DONE
    if command == "--version":
        from razh import __version__

        sys.stdout.write(f"razh {__version__}\n")
        return Status.DONE
    known = [*TRAINER_COMMANDS, *OTHER_COMMANDS]
    hint = terminal.did_you_mean(command, known)
    raise UsageError(f"command {command} is unknown; {hint}choose from {', '.join(known)}")


def _check_fits(lines: Iterable[list[str]]) -> None:
    from razh.cli.lightning_cli import check_fits  # Lightning takes seconds to import

    check_fits(lines)


# What a command needs of the trainer's command line; it is handed over, since a command knows nothing of the others.
TRAINER_FOR: dict[str, Callable[..., Any]] = {"reproduce": main, "sweep": _check_fits, "tune": _check_fits}


def _show_menu() -> None:
    def rows(texts: Mapping[str, str], mark: str = "") -> list[str]:
        return [f"  {mark + name:<12} {text}" for name, text in texts.items()]

    lines = [
        "razh: zero-shot hashing with part-attribute alignment",
        "",
        "usage: razh COMMAND [options]",
        "",
        *rows(TRAINER_COMMANDS | OTHER_COMMANDS),
        "",
        "what train, fit, validate, test and predict are told first:",
        *rows({kind: ", ".join(recipe.available(kind)) for kind in recipe.FOLDERS}, "--"),
        *rows({alias: f"short for {key}" for alias, key in recipe.ALIASES.items()}),
        "",
        terminal.STATUSES,
        "`razh COMMAND --help` tells the rest. --debug shows where an error was raised; --import=MODULE imports a",
        "module of yours first, which checkpoints of methods in it need.",
    ]
    sys.stdout.write("\n".join(lines) + "\n")


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
    log.handlers, log.propagate = [handler], False
    log.setLevel(logging.DEBUG if debug else logging.INFO if _rank() == 0 else logging.ERROR)


def _run_trainer(command: str, arguments: list[str]) -> int:
    rest = [argument for argument in arguments if argument not in ("-h", "--help")]
    if len(rest) < len(arguments):
        from razh.cli.trainer_help import trainer_help

        sys.stdout.write(trainer_help(command, TRAINER_COMMANDS[command], rest))
        return Status.DONE
    arguments = recipe.expand(arguments)
    # Lightning takes seconds to import: what can be refused before it is.
    with importing("razh.cli.lightning_cli"):
        from razh.cli.lightning_cli import RazhCLI
        from razh.run import folder as run_folder

    _quiet_libraries()
    sys.argv = [sys.argv[0], command, *arguments]  # Lightning's launcher starts the other ranks with it
    started_here = run_folder.ENVIRONMENT not in os.environ
    if not started_here and _rank() > 0:
        preemption.end_with_parent()
    try:
        with preemption.Listener():
            made = RazhCLI.run(command, arguments)
    except preemption.Stopped as stop:
        if stop.signum == preemption.REQUEUE:
            preemption.requeue()
        raise
    finally:
        if started_here:
            for name in (run_folder.ENVIRONMENT, run_folder.RESUME):
                os.environ.pop(name, None)
    if words := made.next_command():
        terminal.suggest(*words)
    return Status.DONE


def _quiet_libraries() -> None:
    """Silence what a user can neither act on nor learn from: advertisements, and warnings among libraries."""
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    # A frozen network is in evaluation mode on purpose.
    warnings.filterwarnings("ignore", message=".*in eval mode at the start of training.*")
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
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        for handler in logging.getLogger(name).handlers:
            if type(handler) is logging.StreamHandler:  # Lightning's own; whoever listens beside it hears all
                handler.addFilter(_worth_telling)


def _worth_telling(record: logging.LogRecord) -> bool:
    """Leave out what Lightning says it does: which devices there are, that it loads, restores, stops."""
    return record.levelno > logging.INFO or "Time limit" in record.getMessage()
