"""`razh reproduce`: run a finished run again from its saved configuration, and compare."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from razh.support.bounds import NonNegative, within
from razh.support.files import given_path
from razh.support.terminal import Parser, Status, console, counted, suggest

__all__ = ["Difference", "compare", "main"]

COMPARED = ("test/", "start/", "codes/", "parts/", "attributes/", "split/", "refit/")
MACHINE = ("environment/", "git/")

_EPILOG = """\
The run is repeated from RUN/config.yaml in a folder beside it, RUN-again (or --into); options after `--` are passed on
to `razh train`. Figures and codes are then compared exactly, or within --tolerance.

exit status: 0 the same, 5 different; else that of `razh train`.

examples:
  razh reproduce runs/synthetic/razh/64/seed0
  razh reproduce runs/cub/razh/64/seed0 --tolerance 1e-3 -- --trainer.accelerator=cpu
"""


@dataclass(frozen=True)
class Difference:
    """A value of two runs that is not the same."""

    name: str
    first: Any
    second: Any


def main(argv: list[str], razh: Callable[[list[str]], int]) -> int:
    """Run `razh reproduce` and return its exit status.

    Args:
        argv: arguments after `razh reproduce`.
        razh: runs a command line and returns its exit status.

    Raises:
        FileNotFoundError: the run has no config.yaml or metrics.json.
        ValueError: `--into` holds a run already.
    """
    own, passed = (argv[: argv.index("--")], argv[argv.index("--") + 1 :]) if "--" in argv else (argv, [])
    options = _parser().parse_args(own)
    run = options.run if options.run.name not in ("", "..") else options.run.resolve()
    again = options.into or run.with_name(f"{run.name}-again")
    for name in ("config.yaml", "metrics.json", *([] if options.tolerance else ["codes.npz"])):
        if not (run / name).is_file():
            raise FileNotFoundError(f"no {name} in {run}; give the folder of a run that `razh train` has finished")
    if (again / "metrics.json").is_file():
        raise ValueError(f"{again} holds a run already; pass --into=FOLDER, or move it away")
    status = razh(["train", f"--config={run / 'config.yaml'}", f"--run_dir={again}", *passed])
    if status:
        return status
    differences, count = compare(run, again, options.tolerance)
    suggest("compare", run / "codes.npz", again / "codes.npz")
    out = console()
    elsewhere = [d for d in _machine(run, again) if d.first != d.second]
    if elsewhere:
        out.print("made elsewhere: " + ", ".join(f"{d.name} {d.first} → {d.second}" for d in elsewhere))
    if not differences:
        within = f" within {options.tolerance:g}" if options.tolerance else ""
        out.print(f"reproduced: {counted(count, 'value')} and the codes of {run} are the same{within}")
        return Status.DONE
    from rich.table import Table

    table = Table(title=f"different: {len(differences)} of {counted(count, 'value')}")
    for column in ("value", run.name, again.name):
        table.add_column(column)
    for d in differences:
        table.add_row(d.name, str(d.first), str(d.second))
    out.print(table, soft_wrap=False)
    return Status.DIFFERENT


def _parser() -> Parser:
    parser = Parser("reproduce", "Repeat a run from its saved configuration and compare the figures.", _EPILOG)
    parser.add_argument("run", type=given_path, help="folder of a finished run")
    parser.add_argument("--into", type=given_path, default=None, help="folder of the repetition; default RUN-again")
    parser.add_argument(
        "--tolerance", type=float, action=within(NonNegative), default=0.0,
        help="largest difference of a figure that counts as the same; default 0",
    )  # fmt: skip
    return parser


def compare(first: Path, second: Path, tolerance: float = 0.0) -> tuple[list[Difference], int]:
    """Return what differs between two finished runs, and how many values were compared.

    Args:
        first: folder of a run.
        second: folder of its repetition.
        tolerance: largest difference of two figures that counts as none; with 0 the codes are compared, too.
    """
    one, two = (json.loads((folder / "metrics.json").read_text(encoding="utf-8")) for folder in (first, second))
    names = [name for name in dict.fromkeys([*one, *two]) if name.startswith(COMPARED)]
    found = [
        Difference(name, one.get(name), two.get(name))
        for name in names
        if not _same(one.get(name), two.get(name), tolerance)
    ]
    if not tolerance:
        found += _codes(first / "codes.npz", second / "codes.npz")
    return found, len(names)


def _same(one: Any, two: Any, tolerance: float) -> bool:
    if isinstance(one, int | float) and isinstance(two, int | float):
        return abs(one - two) <= tolerance or one == two or (one != one and two != two)  # NaN is NaN
    return bool(one == two)


def _codes(first: Path, second: Path) -> list[Difference]:
    with np.load(first, allow_pickle=False) as one, np.load(second, allow_pickle=False) as two:
        return [
            Difference(f"codes.npz: {name}", "here" if name in one else "–", "other" if name in two else "–")
            for name in dict.fromkeys([*one.files, *two.files])
            if name not in one or name not in two or not np.array_equal(one[name], two[name])
        ]


def _machine(first: Path, second: Path) -> list[Difference]:
    one, two = (json.loads((folder / "metrics.json").read_text(encoding="utf-8")) for folder in (first, second))
    return [Difference(name, one.get(name), two.get(name)) for name in one if name.startswith(MACHINE)]
