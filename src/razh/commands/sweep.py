"""`razh sweep`: check a W&B sweep against the methods' options, create it, and start an agent."""

from __future__ import annotations

import argparse
import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import yaml

from razh.support.bounds import Count, within
from razh.support.terminal import Parser, Status, UsageError, suggest
from razh.tuning.sweeps import Search, available, command_lines, find

__all__ = ["main"]

log = logging.getLogger(__name__)
ARGUMENTS = "${args}"
_AGENT = re.compile(r"wandb agent (\S+)")

_EPILOG = """\
Options of `razh fit` after these go to every trial: --dataset=cub --bits=32. What the sweep varies wins over them.
A trial is a run of `razh fit` in runs/sweep/SWEEP/RUN: it trains and validates, and never reads the test split.

examples:
  razh sweep razh --dataset=cub --count=20
  razh sweep razh --check
  razh sweep --agent=ENTITY/razh/SWEEP --count=5
"""


def main(argv: list[str], check_fits: Callable[[Iterable[list[str]]], None]) -> int:
    """Run `razh sweep`.

    Args:
        argv: arguments after `razh sweep`.
        check_fits: refuses command lines of `razh fit` that have an option which is none.

    Returns:
        0, or the status of W&B's client.

    Raises:
        ValueError: no such sweep, or a parameter that a method does not have.
        OSError: there is no key, or no server.
    """
    options, fixed = _parser().parse_known_args(argv)
    if options.agent:
        return _agent(options.agent, options.count)
    if not options.sweep:
        raise UsageError(f"no sweep is named; give a file, or one of {', '.join(available())}")
    search = find(options.sweep)
    check_fits(command_lines(search, fixed))
    log.info("sweep %s: %d parameters, all of them options", search.name, len(search.space.names))
    if options.check:
        suggest("sweep", *(word for word in argv if word != "--check"))
        return Status.DONE
    _refuse_without_server()
    agent = _create(search, fixed, options)
    return _agent(agent, options.count) if agent else Status.REFUSED


def _create(search: Search, fixed: list[str], options: argparse.Namespace) -> str | None:
    """Create the sweep with W&B's client; return what its agents are given, None if that failed."""
    folder = Path("runs") / "sweep"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{search.name}.yaml"
    path.write_text(yaml.safe_dump(resolved(search, fixed), sort_keys=False), encoding="utf-8")
    command = [*_client("sweep"), "--name", options.name or search.name, "--project", options.project]
    command += ["--entity", options.entity] if options.entity else []
    done = subprocess.run([*command, str(path)], env=_environment(), stderr=subprocess.PIPE, text=True, check=False)
    sys.stderr.write(done.stderr)
    found = _AGENT.search(re.sub(r"\x1b\[[0-9;]*m", "", done.stderr))
    return found[1] if done.returncode == 0 and found else None


def resolved(search: Search, fixed: list[str]) -> dict[str, Any]:
    """Return the sweep as it is sent: options that all trials have stand before those that the sweep chooses."""
    command = [str(word) for word in search.sweep["command"]]
    if ARGUMENTS not in command:
        raise ValueError(f"sweep {search.name}: its command lacks {ARGUMENTS}, so no trial would get its parameters")
    at = command.index(ARGUMENTS)
    return search.sweep | {"command": [*command[:at], *search.fixed, *fixed, *command[at:]]}


def _agent(sweep: str, count: int | None) -> int:
    _refuse_without_server()
    command = [*_client("agent"), "--forward-signals", *(["--count", str(count)] if count else []), sweep]
    return subprocess.run(command, env=_environment(), check=False).returncode


def _client(command: str) -> list[str]:
    return [sys.executable, "-m", "wandb", command]


def _environment() -> dict[str, str]:
    """Return an environment in which `python` is the one that runs this: agents look it up by name."""
    return {**os.environ, "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])}


def _refuse_without_server() -> None:
    from razh.run.loggers import why_offline

    reason = why_offline()
    if reason is not None:
        raise OSError(f"W&B: {reason}; sweeps need its server, `razh tune` does the same without")


def _parser() -> Parser:
    parser = Parser(
        "sweep",
        "A hyper-parameter search with W&B: checked, created, and worked on by an agent.",
        _EPILOG,
    )
    parser.add_argument("sweep", nargs="?", help=f"a file, or one of {', '.join(available())}")
    parser.add_argument("--agent", metavar="ID", help="join this sweep (ENTITY/PROJECT/ID) and create none")
    parser.add_argument(
        "--count", type=int, action=within(Count), help="trials of the agent; until the sweep ends, if not given"
    )
    parser.add_argument("--check", action="store_true", help="check the parameters and stop")
    parser.add_argument("--project", default=os.environ.get("WANDB_PROJECT") or "razh", help="in W&B (razh)")
    parser.add_argument("--entity", help="user or team in W&B")
    parser.add_argument("--name", help="of the sweep in W&B; that of the file, if not given")
    return parser
