"""`razh benchmark`: a grid of methods × bits × seeds × protocols, resumable, with tables and curves of it."""

from __future__ import annotations

import argparse
import importlib
import logging
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from razh.benchmark.grid import KIND, Grid, grid_file, read_grid
from razh.benchmark.jobs import NOTHING, Job, Plan, choose, draw_trials
from razh.benchmark.runner import Outcome, Program, Runner, claimed, razh
from razh.run import recipe
from razh.support.bounds import CountOrZero, Processes, within
from razh.support.files import given_path, given_text, read_json
from razh.support.processes import cores
from razh.support.terminal import Parser, Status, UsageError, console, counted, suggest
from razh.support.yaml_text import as_list

__all__ = ["main", "run"]

log = logging.getLogger(__name__)

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


def run(argv: list[str], command: str, default: str, program: Program = razh) -> int:
    """Run a grid.

    Args:
        argv: arguments after the command.
        command: `benchmark` or `ablate`; also the folder below runs/.
        default: the benchmark that is run if none is named.
        program: what computes a cell, in a process of its own.
    """
    options, rest = _parser(command, default).parse_known_args(argv)
    instead = {"dataset": options.dataset, "backbone": options.backbone}
    whole = read_grid(grid_file(options.name), _passed_on(options, rest), options.tune, **instead)
    grid = whole.narrowed(options.methods, options.bits, options.seeds, options.protocols)
    out = Path(options.out or Path("runs") / command / f"{grid.name}-{grid.dataset}")
    plan = Plan.of(grid, [method.name for method in (*whole.methods, *grid.methods)], out)
    if options.dry_run:
        return _dry_run(grid, plan, out)
    gpus = [gpu for gpu in options.gpus.split(",") if gpu]
    with claimed(out):
        return _run(grid, plan, out, Runner(options.jobs, program, gpus, options.keep_checkpoints), options.by)


def _run(grid: Grid, plan: Plan, out: Path, runner: Runner, by: str) -> int:
    # Before the hours of computing: what the tables need must be there, and of one version of the code.
    importlib.import_module("razh.benchmark.report")
    tuned: dict[str, dict[str, Any]] = {}
    tuned_on = {method.name: method.tuned_on for method in grid.methods}
    if grid.trials:
        trials = {method.name: draw_trials(grid, method, out) for method in grid.methods}
        if runner.run([trial.job for of_method in trials.values() for trial in of_method], "trials").stopped:
            return _stopped(out)  # the options of cells are not known yet
        protocol, bits, seed = grid.tuning
        setting = (
            f"validation classes of {grid.dataset} {protocol.name}, {bits} bits, seed {seed}, {grid.trials} trials"
        )
        for name, of_method in trials.items():
            tuned_on[name] = setting if of_method else NOTHING
            if not of_method:
                continue
            if (best := choose(name, of_method, out)) is None:
                log.error(
                    "%s cannot be tuned: none of %d trials has a validation mAP; its cells are left out",
                    name,
                    grid.trials,
                )
                del tuned_on[name]
                continue
            words = ", ".join(f"{option}={value}" for option, value in best["options"].items()) or "the defaults"
            log.info("%s: validation mAP %.4f with %s", name, best["validation_map"], words)
            tuned[name] = best["options"]
    cells = [
        replace(cell, options={**cell.options, **tuned.get(cell.method.name, {}), **cell.method.options})
        for cell in grid.cells()
        if cell.method.name in tuned_on
    ]
    plan, jobs = plan.with_cells(cells, tuned_on, out)
    plan.write(out)
    status = _conclude(runner.run(jobs, "cells", lambda job: _figure(job, plan.metric)), out, by)
    return status or int(len(tuned_on) < len(grid.methods))


def _figure(job: Job, metric: str) -> str:
    value = read_json(job.folder / "metrics.json").get(metric)
    return f"{metric.removeprefix('test/')} {value:.4f}" if isinstance(value, float) else ""


def _conclude(outcome: Outcome, out: Path, by: str) -> int:
    """Write tables and curves of what there is, and say what is missing."""
    from razh.benchmark.report import write_tables
    from razh.benchmark.results import Results, write_table

    results = Results.of(out, by)
    write_table(results.cells, out / "cells.csv")  # first: it refuses nothing
    states = results.cells["status"].value_counts().to_dict()
    if states.get("done"):
        log.info("%s", write_tables(results, out))
    log.info("%s: %s", out, ", ".join(f"{count} {state}" for state, count in sorted(states.items())))
    for job in outcome.failed:
        log.error("%s failed: %s (%s)", job.name, job.about().get("error"), job.folder / "log.txt")
    if outcome.stopped:
        return _stopped(out)
    suggest("report", out, "--write=results.md")
    return Status.REFUSED if outcome.failed else Status.DONE


def _stopped(out: Path) -> int:
    log.info("stopped; start the same command again to go on (%s)", out)
    return Status.INTERRUPTED


def _dry_run(grid: Grid, plan: Plan, out: Path) -> int:
    """Say what would be computed, and start nothing."""
    _, jobs = plan.with_cells(list(grid.cells()), {}, out)
    terminal = console()
    terminal.print(f"{grid.title}: {grid.dataset}, {grid.backbone}, into {out}")
    names = {"methods": [m.name for m in grid.methods], "protocols": [p.name for p in grid.protocols]}
    for axis, values in {**names, "bits": grid.bits, "seeds": grid.seeds}.items():
        terminal.print(f"  {axis}: {', '.join(str(value) for value in values)}")
    if grid.trials:
        protocol, bits, _ = grid.tuning
        fits = sum(len(draw_trials(grid, method, out)) for method in grid.methods)
        terminal.print(f"  tuning first: {fits} fits at {bits} bits, protocol {protocol.name}")
        terminal.print(f"  then {counted(len(jobs), 'cell')}")
        return Status.DONE
    found = sorted(Counter(job.state for job in jobs).items())
    terminal.print(f"  {counted(len(jobs), 'cell')}: {', '.join(f'{count} {state}' for state, count in found)}")
    return Status.DONE


def _passed_on(options: argparse.Namespace, rest: list[str]) -> dict[str, Any]:
    """Return options for all cells from the command line.

    Raises:
        ValueError: an argument is no `--name.with.dots=value`.
    """
    found: dict[str, Any] = {}
    for argument in rest:
        name, equals, value = argument.partition("=")
        if not name.startswith("--") or "." not in name or not equals:
            raise UsageError(
                f"option {argument} is unknown; `--help` lists them, those of `razh train` are --a.b=value"
            )
        value = as_list(value) if name in recipe.NAMES else value
        found[name[2:]] = yaml.safe_load(value) if value else value
    files = {"data.root": options.data_root, "model.backbone.checkpoint": options.weights}
    return found | {name: value for name, value in files.items() if value}


def _names(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in _names(text)]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is refused; give whole numbers with commas between them") from None


def _parser(command: str, default: str) -> Parser:
    about = "Methods beside each other: a grid of methods × bits × seeds × protocols, and its tables."
    if command == "ablate":
        about = "The switches of RAZH, one at a time, each against the whole method on the same queries."
    parser = Parser(
        command, about, _EPILOG.replace("benchmark quick", "ablate" if command == "ablate" else "benchmark quick")
    )
    add = parser.add_argument
    names = ", ".join(recipe.available(KIND))
    add("name", nargs="?", default=default, metavar="NAME|FILE", help=f"{names}, or a YAML file ({default})")
    add = parser.add_argument_group("what is run on what").add_argument
    add("--dataset", metavar="NAME", help="data set (the file's, else synthetic)")
    add("--backbone", metavar="NAME", help="backbone (the file's, else the data set's own)")
    add("--data_root", type=given_text, metavar="DIR", help="folder of the data set")
    add("--weights", type=given_text, metavar="FILE", help="weights of the backbone")
    add = parser.add_argument_group("parts of the grid; what is left out stays as it is in the file").add_argument
    add("--methods", type=_names, metavar="A,B", help="rows of the file, or other methods")
    add("--bits", type=_numbers, metavar="16,64", help="code lengths")
    add("--seeds", type=_numbers, metavar="0,1", help="seeds of training; splits have their own, data.split_seed")
    add("--protocols", type=_names, metavar="A,B", help="protocols of the file, or other ones of the data set")
    add = parser.add_argument_group("how").add_argument
    jobs = f"processes at a time (1; cores here: {cores()})"
    add("--jobs", type=int, action=within(Processes), default=1, metavar="N", help=jobs)
    add("--gpus", default="", metavar="0,1", help="share these GPUs out among the processes, one each")
    add("--out", type=given_path, metavar="DIR", help=f"folder of everything (runs/{command}/NAME-DATASET)")
    add(
        "--tune", type=int, action=within(CountOrZero), default=0, metavar="N",
        help="first N trials for each method over the search space in its file, the defaults being one of them; "
        "validation classes choose, test classes are not touched (0: defaults)",
    )  # fmt: skip
    add("--by", choices=("query", "class"), default="query", help="what significance swaps (query)")
    add("--keep_checkpoints", action="store_true", help="of finished cells too; they are removed otherwise")
    add("--dry_run", action="store_true", help="say what would be computed, and start nothing")
    return parser
