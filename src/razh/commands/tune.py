"""`razh tune`: a hyper-parameter search on this machine, with the same search spaces as `razh sweep` and no server."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from razh.support.bounds import Count, Processes, Seed, within
from razh.support.terminal import Parser, Status, console, counted, suggest
from razh.tuning.sweeps import available, command_lines, find

if TYPE_CHECKING:
    import optuna

__all__ = ["main"]

log = logging.getLogger(__name__)

_EPILOG = """\
Options of `razh fit` after these go to every trial: --dataset=cub --bits=32. What is searched wins over them.
A trial trains and validates, and never reads the test split. The same command again goes on with the study, after a
kill, too; several of them, also on other machines with the same disk, work on one study.

what it leaves in runs/tune/STUDY:
  study.db       the study, for Optuna and its dashboard
  trials.csv     a row a trial: value, seconds, reason of a failure, parameters
  trials/NUMBER  the runs, each with its log

examples:
  razh tune razh --dataset=cub --trials=50 --workers=2
  razh tune ce --bits=32 --trials=10
"""


def main(argv: list[str], check_fits: Callable[[Iterable[list[str]]], None]) -> int:
    """Run `razh tune`.

    Args:
        argv: arguments after `razh tune`.
        check_fits: refuses command lines of `razh fit` that have an option which is none.

    Returns:
        0; 1 if no trial has a value.

    Raises:
        ModuleNotFoundError: Optuna is not installed.
        ValueError: no such search, a parameter that a method does not have, or the first trials all failed.
    """
    options, fixed = _parser().parse_known_args(argv)
    if importlib.util.find_spec("optuna") is None:
        raise ModuleNotFoundError('`razh tune` needs Optuna; pip install "optuna>=4"')
    search = find(options.search)
    check_fits(command_lines(search, fixed))

    from razh.tuning.study import Tuner

    folder = Path("runs") / "tune" / (options.study or search.name)
    tuner = Tuner(search, fixed, folder, options.workers, options.sampler_seed)
    return _show(tuner.run(options.trials), search.metric, folder)


def _show(study: optuna.Study, metric: str, folder: Path) -> int:
    from optuna.trial import TrialState

    from razh.tuning.study import chosen

    states = [trial.state for trial in study.trials]
    done, failed = states.count(TrialState.COMPLETE), states.count(TrialState.FAIL)
    out = console()
    if not done:
        out.print(f"no trial of {failed} has a value; see trials.csv in {folder}")
        return Status.REFUSED
    from rich.table import Table

    shown = Table(title=f"{folder.name}: {counted(done, 'trial')}, {failed} failed; best by {metric}")
    for name in ("trial", metric, *study.best_trial.params):
        shown.add_column(name, overflow="fold")
    complete = [trial for trial in study.trials if trial.state is TrialState.COMPLETE]
    complete.sort(key=lambda t: t.value or 0.0, reverse=study.direction.name == "MAXIMIZE")
    for trial in complete[:5]:
        values = [f"{v:.4g}" if isinstance(v, float) else str(v) for v in chosen(trial).values()]
        shown.add_row(str(trial.number), f"{trial.value:.4f}", *values)
    out.print(shown)
    suggest("train", *study.best_trial.user_attrs["options"])
    return Status.DONE


def _parser() -> Parser:
    parser = Parser("tune", "A hyper-parameter search on this machine, by validation classes.", _EPILOG)
    parser.add_argument("search", help=f"a file, or one of {', '.join(available())}")
    parser.add_argument(
        "--trials", type=int, action=within(Count), default=20,
        help="of the study, those of earlier calls included (20)",
    )  # fmt: skip
    parser.add_argument("--workers", type=int, action=within(Processes), default=1, help="trials at a time (1)")
    parser.add_argument("--study", help="its name; that of the search, if not given")
    parser.add_argument("--sampler_seed", type=int, action=within(Seed), default=0, help="of the choices (0)")
    return parser
