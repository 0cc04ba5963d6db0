"""`razh benchmark`: a grid of methods × bits × seeds × protocols, resumable, with tables and curves of it."""

from __future__ import annotations

import argparse
import importlib
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import yaml
from rich.console import Console

from razh.benchmark.cells import Job
from razh.benchmark.grid import Cell, Grid, available, grid_file, read_grid
from razh.benchmark.plan import NOTHING, Plan, tuned_words
from razh.benchmark.rows import long_table, write_csv
from razh.benchmark.runner import PROGRAM, Outcome, Runner, claimed
from razh.benchmark.tuning import Tuned, choose, draw_trials
from razh.files import read_json, write_text
from razh.processes import cores

__all__ = ["main", "run"]

log = logging.getLogger(__name__)
T = TypeVar("T")

_EPILOG = """\
Each cell is an ordinary run (`razh train`) in a process of its own. What is done stays done: start the same command
again after a kill, a crash or Ctrl-C, and it goes on; failed cells are tried again. A cell whose configuration has
changed is computed anew in a folder beside the old one. Options of `razh train` with a dot, such as
--trainer.max_epochs=5, go to all cells.

what it leaves in --out:
  cells.csv            a row a cell: state, all metrics, split fingerprint, configuration hash, versions, cost
  tables.md tables.tex mean ± standard deviation over seeds, best bold, second underlined, significance, ranks
  curves/*.png         mAP over bits
  cells/…/seedN/       the runs, each with its log.txt
  tuning/…             trials, with --tune

examples:
  razh benchmark quick --dataset=cub --backbone=lite0-frozen --data_root=data/cub --jobs=2
  razh benchmark default --dataset=cub --methods=itq,ce,razh --bits=32,64 --seeds=0,1,2
  razh benchmark mine.yaml --tune=8 --dry_run
"""


def main(argv: list[str]) -> int:
    """Run `razh benchmark`.

    Args:
        argv: arguments after `razh benchmark`.

    Returns:
        0 if all cells have a result, 1 if any failed, 130 if it was stopped.

    Raises:
        ValueError: an option or the benchmark's file is wrong, or results do not go together.
        OSError: --out cannot be written, or another benchmark works there.
    """
    return run(argv, "benchmark", "default")


def run(argv: list[str], command: str, default: str, program: Sequence[str] = PROGRAM) -> int:
    """Run a grid.

    Args:
        argv: arguments after the command.
        command: `benchmark` or `ablate`; also the folder below runs/.
        default: the benchmark that is run if none is named.
        program: what computes a cell.
    """
    options, rest = _parser(command, default).parse_known_args(argv)
    if options.jobs < 1 or options.tune < 0:
        name, value, least = ("jobs", options.jobs, 1) if options.jobs < 1 else ("tune", options.tune, 0)
        raise ValueError(f"{name} is {value}, but must be at least {least}")
    path = grid_file(options.name)
    whole = read_grid(path, dataset=options.dataset, backbone=options.backbone, options=_passed_on(options, rest))
    grid = whole.narrowed(
        _split(options.methods, "methods", str),
        _split(options.bits, "bits", int),
        _split(options.seeds, "seeds", int),
        _split(options.protocols, "protocols", str),
    )
    out = Path(options.out or Path("runs") / command / f"{grid.name}-{grid.dataset}")
    order = tuple(dict.fromkeys(method.label for method in (*whole.methods, *grid.methods)))
    plan = Plan.of(grid, order, options.tune).merged_into(out)
    if options.dry_run:
        return _dry_run(grid, plan, out, options.tune)
    runner = Runner(
        options.jobs, program, [g for g in options.gpus.split(",") if g], keep_checkpoints=options.keep_checkpoints
    )
    with claimed(out):
        return _run(grid, plan, out, runner, options.tune, options.by)


def _run(grid: Grid, plan: Plan, out: Path, runner: Runner, trials: int, by: str) -> int:
    # Before the hours of computing: what the tables need must be there, and of one version of the code.
    importlib.import_module("razh.benchmark.report")
    tuned: dict[str, Tuned] = {}
    stopped = False
    if trials:
        tuned, stopped = _tune(grid, out, runner, trials)
    problems = {label: found.problem for label, found in tuned.items() if found.problem}
    for label, problem in problems.items():
        log.error("%s cannot be tuned: %s; its cells are left out", label, problem)
    cells = [_with(cell, tuned.get(cell.method.label)) for cell in grid.cells()]
    cells = [cell for cell in cells if cell.method.label not in problems]
    tuned_on = {method.label: method.tuned_on for method in grid.methods}
    if trials:
        tuned_on |= {label: tuned_words(grid, trials) if found.tried else NOTHING for label, found in tuned.items()}
    if stopped:  # the options of cells are not known yet
        return _stopped(out)
    plan, jobs = plan.with_cells(cells, tuned_on, out)
    plan.write(out)
    outcome = runner.run(jobs, "cells", lambda job: _figure(job, plan.metric))
    code = _conclude(outcome, plan, out, by)
    return code or int(bool(problems))


def _tune(grid: Grid, out: Path, runner: Runner, trials: int) -> tuple[dict[str, Tuned], bool]:
    """Run the trials of all methods; return what was chosen, and whether it was stopped before."""
    drawn = {method.label: draw_trials(grid, method, trials, out) for method in grid.methods}
    jobs = [job for of_method in drawn.values() for trial in of_method for job in trial.jobs]
    outcome = runner.run(jobs, "trials")
    chosen = {label: choose(label, of_method, out) for label, of_method in drawn.items()}
    for label, found in chosen.items():
        if found.best is not None:
            words = ", ".join(f"{name}={value}" for name, value in found.options.items()) or "the defaults"
            log.info("%s: validation mAP %.4f with %s", label, found.best, words)
    return chosen, outcome.stopped


def _with(cell: Cell, tuned: Tuned | None) -> Cell:
    """Return a cell with tuned options; those that its method fixes win, which tuning has not touched anyway."""
    if tuned is None or not tuned.options:
        return cell
    return replace(cell, options={**cell.options, **tuned.options, **cell.method.options})


def _figure(job: Job, metric: str) -> str:
    value = read_json(job.folder / "metrics.json").get(metric)
    return f"{metric.removeprefix('test/')} {value:.4f}" if isinstance(value, float) else ""


def _conclude(outcome: Outcome, plan: Plan, out: Path, by: str) -> int:
    """Write tables and curves of what there is, and say what is missing."""
    rows = long_table(out, plan)
    write_csv(rows, out / "cells.csv")  # first: it refuses nothing
    if any(row["status"] == "done" for row in rows):
        write_tables(out, by, rows)
    states = Counter(row["status"] for row in rows)
    log.info("%s: %s", out, ", ".join(f"{count} {state}" for state, count in sorted(states.items())))
    for job in outcome.failed:
        log.error("%s failed: %s (%s)", job.name, job.about().get("error"), job.folder / "log.txt")
    if outcome.stopped:
        return _stopped(out)
    return 1 if outcome.failed else 0


def _stopped(out: Path) -> int:
    log.info("stopped; start the same command again to go on (%s)", out)
    return 130


def write_tables(out: Path, by: str, rows: list[dict[str, Any]] | None = None) -> None:
    """Write tables.md, tables.tex and the curves of a benchmark's folder."""
    from razh.benchmark import report
    from razh.benchmark.summary import Summary

    summary = Summary.of(out, by, rows)
    pictures = report.draw(summary, out / "curves")
    links = {protocol: path.relative_to(out).as_posix() for protocol, path in pictures.items()}
    write_text(out / "tables.md", report.markdown_section(summary, links, level=1))
    write_text(out / "tables.tex", report.tex(summary))
    log.info("%s", report.terminal(summary))


def _dry_run(grid: Grid, plan: Plan, out: Path, trials: int) -> int:
    """Say what would be computed, and start nothing."""
    _, jobs = plan.with_cells(list(grid.cells()), {}, out)
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{grid.title}: {grid.dataset}, {grid.backbone}, into {out}", markup=False)
    for axis, values in (
        ("methods", [method.label for method in grid.methods]),
        ("bits", grid.bits),
        ("seeds", grid.seeds),
        ("protocols", [protocol.name for protocol in grid.protocols]),
    ):
        console.print(f"  {axis}: {', '.join(str(value) for value in values)}", markup=False)
    if trials:
        setting = grid.tuning
        fits = sum(len(t.jobs) for m in grid.methods for t in draw_trials(grid, m, trials, out))
        console.print(
            f"  tuning first: {fits} fits at {setting.bits} bits, protocol {setting.protocol.name}", markup=False
        )
        console.print(f"  then {len(jobs)} cells", markup=False)
        return 0
    states = Counter(job.state for job in jobs)
    found = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    console.print(f"  {len(jobs)} cells: {found}", markup=False)
    return 0


def _passed_on(options: argparse.Namespace, rest: list[str]) -> dict[str, Any]:
    """Return options for all cells from the command line.

    Raises:
        ValueError: an argument is no `--name.with.dots=value`.
    """
    found: dict[str, Any] = {}
    for argument in rest:
        name, equals, value = argument.partition("=")
        if not name.startswith("--") or "." not in name or not equals:
            raise ValueError(
                f"option {argument} is unknown; `--help` lists them, those of `razh train` are --a.b=value"
            )
        found[name[2:]] = yaml.safe_load(value) if value else value
    if options.data_root:
        found["data.root"] = options.data_root
    if options.weights:
        found["model.backbone.checkpoint"] = options.weights
    return found


def _split(text: str | None, name: str, kind: Callable[[str], T]) -> list[T] | None:
    if text is None:
        return None
    try:
        return [kind(part.strip()) for part in text.split(",") if part.strip()]
    except ValueError:
        raise ValueError(f"{name}={text!r} is refused; give whole numbers with commas between them") from None


def _parser(command: str, default: str) -> argparse.ArgumentParser:
    about = {
        "benchmark": "Methods beside each other: a grid of methods × bits × seeds × protocols, and its tables.",
        "ablate": "The switches of RAZH, one at a time, each against the whole method on the same queries.",
    }
    parser = argparse.ArgumentParser(
        prog=f"razh {command}",
        description=about[command],
        epilog=_EPILOG if command == "benchmark" else _EPILOG.replace("razh benchmark quick", "razh ablate"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        exit_on_error=True,
    )
    names = ", ".join(available())
    parser.add_argument(
        "name", nargs="?", default=default, metavar="NAME|FILE", help=f"{names}, or a YAML file ({default})"
    )
    what = parser.add_argument_group("what is run on what")
    what.add_argument("--dataset", metavar="NAME", help="data set (the file's, else synthetic)")
    what.add_argument("--backbone", metavar="NAME", help="backbone (the file's, else the data set's own)")
    what.add_argument("--data_root", metavar="DIR", help="folder of the data set")
    what.add_argument("--weights", metavar="FILE", help="weights of the backbone")
    axes = parser.add_argument_group("parts of the grid; what is left out stays as it is in the file")
    axes.add_argument("--methods", metavar="A,B", help="rows of the file, or other methods")
    axes.add_argument("--bits", metavar="16,64", help="code lengths")
    axes.add_argument("--seeds", metavar="0,1", help="seeds of training; splits have their own, data.split_seed")
    axes.add_argument("--protocols", metavar="A,B", help="protocols of the file, or other ones of the data set")
    how = parser.add_argument_group("how")
    how.add_argument("--jobs", type=int, default=1, metavar="N", help=f"processes at a time (1; cores here: {cores()})")
    how.add_argument("--gpus", default="", metavar="0,1", help="share these GPUs out among the processes, one each")
    how.add_argument("--out", metavar="DIR", help=f"folder of everything (runs/{command}/NAME-DATASET)")
    how.add_argument(
        "--tune", type=int, default=0, metavar="N",
        help="first N trials for each method over the search space in its file, the defaults being one of them; "
        "validation classes choose, test classes are not touched (0: defaults)",
    )  # fmt: skip
    how.add_argument("--by", choices=("query", "class"), default="query", help="what significance swaps (query)")
    how.add_argument(
        "--keep_checkpoints", action="store_true", help="of finished cells too; they are removed otherwise"
    )
    how.add_argument("--dry_run", action="store_true", help="say what would be computed, and start nothing")
    return parser
