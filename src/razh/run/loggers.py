"""Where a run is reported besides its folder: W&B, CSV, TensorBoard, several at once (`--logger=wandb,csv`)."""

from __future__ import annotations

import importlib.util
import logging
import netrc
import os
import secrets
import string
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from razh.support.terminal import did_you_mean

log = logging.getLogger(__name__)

NAMES = ("wandb", "csv", "tensorboard", "none")
RUN_ID = "wandb_run_id"  # file in the run's folder
PROJECT = "razh"
ALPHABET = string.ascii_lowercase + string.digits  # of W&B's own ids
ANSWER_SECONDS = 8.0  # for the server to answer at all
INIT_SECONDS = 20.0  # for it to open the run
FLUSH_SECONDS = 2.0  # between writes of the run's file
FINISH_SECONDS = 300.0  # for the last uploads; what is not uploaded then stays in the folder


def chosen(names: str | None) -> list[str]:
    """Return the loggers that a comma-separated list names.

    Raises:
        ValueError: an unknown name, or `none` beside another.
        ModuleNotFoundError: the package of a logger is not installed.
    """
    found = list(dict.fromkeys(name.strip().lower() for name in (names or "none").split(",") if name.strip()))
    for name in found:
        if name not in NAMES:
            hint = did_you_mean(name, NAMES, quote="'")
            raise ValueError(f"logger={name!r} is unknown; {hint}choose from {', '.join(NAMES)}, or several: wandb,csv")
    if "none" in found and len(found) > 1:
        raise ValueError(f"logger={names!r} says none and another; leave one of them out")
    if "tensorboard" in found and not any(map(importlib.util.find_spec, ("tensorboard", "tensorboardX"))):
        raise ModuleNotFoundError('logger=tensorboard needs a package; pip install "tensorboard>=2.15"')
    return [name for name in found if name != "none"]


def build(names: list[str], folder: Path, group: str) -> list[Logger]:
    """Return loggers that write into the run's folder.

    Args:
        names: from `chosen`.
        folder: of the run.
        group: what W&B groups runs by.
    """
    makers: dict[str, Any] = {
        "wandb": lambda: RunLogger(folder, group),
        "csv": lambda: CSVLogger(save_dir=folder, name="csv"),  # a run that goes on gets the next version
        "tensorboard": lambda: TensorBoardLogger(save_dir=folder, name="tensorboard", version=""),
    }
    return [makers[name]() for name in names]


def trial_folder() -> Path | None:
    """Return the folder of a trial of a W&B sweep, by the ids that its agent gave; None outside of one."""
    sweep, run = os.environ.get("WANDB_SWEEP_ID"), os.environ.get("WANDB_RUN_ID")
    return Path("runs") / "sweep" / sweep / run if sweep and run else None


class RunLogger(WandbLogger):
    """Lightning's W&B logger for one run folder; nothing that W&B does or lacks stops the run.

    The run starts online where there are a key and a server that answers, else offline, with a line that says why; it
    is kept in the folder then, and `wandb sync` uploads it. The run's id is kept in the folder, too: a run that goes on
    there is the same run in W&B. `WANDB_MODE`, `WANDB_PROJECT`, `WANDB_ENTITY` and what else W&B reads from the
    environment hold. Only the first rank has a run.
    """

    def __init__(self, folder: Path, group: str) -> None:
        """Build the logger; the run starts when it is first asked for.

        Args:
            folder: of the run; its last parts are the run's name.
            group: what W&B groups runs by.
        """
        self.folder, self.broken = Path(folder), False
        parts = self.folder.parts
        name = "/".join(parts[1:]) if parts[0] == "runs" else self.folder.name
        super().__init__(
            name=os.environ.get("WANDB_NAME") or name,
            save_dir=folder,
            project=os.environ.get("WANDB_PROJECT") or PROJECT,
            id=None,
            group=os.environ.get("WANDB_RUN_GROUP") or group,
        )
        self._wandb_init.pop("anonymous", None)  # Lightning passes it on, W&B warns that it is no more

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The run, started at the first call."""
        if self._experiment is None:
            self._experiment = run = self._start()
            self.attempt(lambda: run.define_metric("trainer/global_step"))
            self.attempt(lambda: run.define_metric("*", step_metric="trainer/global_step", step_sync=True))
        return self._experiment

    def _start(self) -> Any:
        self._wandb_init["id"] = self._id = run_id(self.folder)
        given = os.environ.get("WANDB_MODE")
        if given in ("offline", "dryrun", "disabled"):
            return self._open("disabled" if given == "disabled" else "offline")
        reason = why_offline()
        if reason is None:
            try:
                return self._open("online")
            except Exception as error:  # whatever the server or its client says: the run is worth more
                reason = first_line(error)
                self._give_up()
        where = self.folder / "wandb"
        log.warning("W&B: %s; the run is kept offline, `wandb sync %s/offline-run-*` uploads it", reason, where)
        try:
            return self._open("offline")
        except Exception as error:
            self._give_up()
            log.warning("W&B cannot write to %s either (%s); the run goes on without it", where, first_line(error))
            return self._open("disabled")

    def _open(self, mode: str) -> Any:
        import wandb

        known = wandb.Settings.model_fields
        # A killed run loses what has not been written: 15 s of it by W&B's own choice.
        wanted: dict[str, Any] = {"init_timeout": INIT_SECONDS, "x_transaction_log_flush_interval": FLUSH_SECONDS}
        if "WANDB_FINISH_TIMEOUT" not in os.environ:
            wanted["finish_timeout"] = FINISH_SECONDS
        settings = wandb.Settings(**{name: value for name, value in wanted.items() if name in known})
        arguments = {**self._wandb_init, "mode": mode, "settings": settings}
        if os.environ.get("WANDB_SWEEP_ID"):  # the agent has set them, W&B would warn
            arguments = {name: value for name, value in arguments.items() if name not in ("id", "project")}
        return wandb.init(**arguments)

    @staticmethod
    def _give_up() -> None:
        """End W&B's service: it remembers the run that it could not open, and would refuse it once more."""
        import wandb

        try:
            wandb.teardown(exit_code=1)
        except Exception as error:
            log.debug("W&B's service does not end: %s", first_line(error))

    @property
    def online(self) -> bool:
        """Whether the run goes to a server."""
        return self._experiment is not None and not getattr(self._experiment, "offline", True)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log values; what W&B fails of is said once."""
        self.attempt(lambda: super(RunLogger, self).log_metrics(metrics, step))

    @rank_zero_only
    def log_hyperparams(self, params: Any) -> None:
        """Add to the run's configuration; what W&B fails of is said once."""
        self.attempt(lambda: super(RunLogger, self).log_hyperparams(params))

    def attempt(self, action: Any) -> None:
        """Do something with W&B's run; after a failure, which is said, nothing more is tried."""
        if self.broken:
            return
        try:
            action()
        except Exception as error:  # the client's service may be gone, the disk full, the server changed
            self.broken = True
            log.warning("W&B stopped working (%s); the run goes on without it", first_line(error))

    @rank_zero_only
    def finish(self, exit_code: int = 0) -> None:
        """End the run in W&B and wait for the last uploads, `FINISH_SECONDS` at most."""
        run, self._experiment = self._experiment, None
        if run is None or isinstance(run, str):
            return
        online = not getattr(run, "offline", True)
        self.attempt(lambda: run.finish(exit_code=exit_code))
        if online and answer(base_url()) is not None:
            log.warning("W&B: no connection at the end; `wandb sync %s/run-*` uploads the rest", self.folder / "wandb")


def run_id(folder: Path) -> str:
    """Return the id that the folder's run has in W&B: kept there, else given by a sweep's agent, else a new one."""
    path = folder / RUN_ID
    try:
        kept = path.read_text(encoding="utf-8").strip()
    except OSError:
        kept = ""
    if kept:
        return kept
    made = os.environ.get("WANDB_RUN_ID") or "".join(secrets.choice(ALPHABET) for _ in range(8))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{made}\n", encoding="utf-8")
    except OSError as error:  # the run's own record will say so, and stop
        log.warning("the run's id in W&B cannot be kept: %s", first_line(error))
    return made


def why_offline() -> str | None:
    """Return why W&B cannot be used online; None if it can."""
    if not has_key(base_url()):
        return "no API key (`wandb login`, or WANDB_API_KEY)"
    return answer(base_url())


def base_url() -> str:
    """Return the address of the W&B server, from the environment or W&B's own settings."""
    import wandb  # takes a second, and most runs do without it

    return str(wandb.setup().settings.base_url)


def has_key(url: str) -> bool:
    """Tell whether there is a key for a server: in the environment or in the netrc file."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    places = [Path(os.environ["NETRC"])] if "NETRC" in os.environ else [Path.home() / n for n in (".netrc", "_netrc")]
    return any(_netrc_has(path.expanduser(), urlsplit(url).netloc) for path in places)


def _netrc_has(path: Path, host: str) -> bool:
    try:
        return netrc.netrc(str(path)).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def answer(url: str) -> str | None:
    """Ask a server for anything; return what is wrong if it does not answer in `ANSWER_SECONDS`, else None.

    In a thread of its own: looking up a name can take minutes, and nothing can cut that short.
    """
    problems: list[str | None] = [f"{url} does not answer in {ANSWER_SECONDS:.0f} s"]

    def ask() -> None:
        try:
            with urllib.request.urlopen(url, timeout=ANSWER_SECONDS):  # (proxies of the environment hold)
                problems.append(None)
        except urllib.error.HTTPError:
            problems.append(None)  # it answers
        except (OSError, ValueError) as error:
            problems.append(f"{url} cannot be reached ({getattr(error, 'reason', None) or first_line(error)})")

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(ANSWER_SECONDS)
    return problems[-1]


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
