"""What all commands share with the terminal: exit statuses, the parser, the console, the next command to type."""

from __future__ import annotations

import argparse
import codecs
import difflib
import io
import logging
import os
import re
import select
import shlex
import shutil
import sys
from collections.abc import Iterable, Sequence
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "Parser",
    "Status",
    "UsageError",
    "close_stdout",
    "console",
    "counted",
    "did_you_mean",
    "prepare_streams",
    "spelled",
    "suggest",
    "told_apart",
]

log = logging.getLogger(__name__)


class Status(IntEnum):
    """Exit statuses; a process that a signal stopped has 128 + its number (`razh.run.preemption`)."""

    DONE = 0
    REFUSED = 1
    USAGE = 2
    LEFT_OUT = 3
    LEAK = 4
    DIFFERENT = 5
    INTERRUPTED = 130
    PIPE_CLOSED = 141


STATUSES = """\
exit status:
    0  done
    1  refused or failed; one line on stderr says why and what to do
    2  the command line cannot be read: an unknown command or option (also in a file), a missing
       argument, a value of another kind
    3  done, but some inputs are left out, each by its name (encode)
    4  a leak was found (audit)
    5  the run was repeated, and something differs (reproduce)
  130  interrupted (Ctrl-C); 143 ended by SIGTERM; 141 nobody reads the output any more
"""


class UsageError(ValueError):
    """A command line that cannot be read; the exit status is 2."""


class Parser(argparse.ArgumentParser):
    """A command's parser: no abbreviations, hyphens and underscores alike, and errors in one line.

    Args:
        command: the word after `razh`.
        description: what it does.
        epilog: what else the help says, its lines as they are.
    """

    def __init__(self, command: str, description: str, epilog: str = "") -> None:
        super().__init__(
            prog=f"razh {command}",
            description=description,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> tuple[Any, list[str]]:  # type: ignore[override]
        """Parse as usual, with every option in the spelling that it was declared in."""
        declared = {spelled(name): name for name in self._option_string_actions}
        given = list(sys.argv[1:] if args is None else args)
        end = given.index("--") if "--" in given else len(given)
        for position, argument in enumerate(given[:end]):
            name, equals, value = argument.partition("=")
            given[position] = declared.get(spelled(name), name) + equals + value
        return super().parse_known_args(given, namespace)

    def error(self, message: str) -> NoReturn:
        """Refuse the command line.

        Raises:
            UsageError: always.
        """
        _, unrecognized, rest = message.partition("unrecognized arguments: ")
        if unrecognized:
            name = next((word for word in rest.split() if word.startswith("-")), rest).partition("=")[0]
            kind = "option" if name.startswith("-") else "argument"
            message = f"{kind} {name} is unknown"
            hint = did_you_mean(name, self._option_string_actions)
        else:
            hint = ""
        raise UsageError(f"{message}; {hint}`{self.prog} --help` lists what can be typed")


def spelled(argument: str) -> str:
    """Return an argument with its option's name spelled with underscores; what is no long option stays as it is."""
    name, equals, value = argument.partition("=")
    return f"--{name[2:].replace('-', '_')}{equals}{value}" if name.startswith("--") else argument


RENAMED = {  # last words of options, before and now
    "route": "backend",
    "shuffled_attributes": "permuted_attributes",
    "own_threshold": "positive_threshold",
    "draws": "splits",
}


def did_you_mean(name: str, known: Iterable[str], quote: str = "") -> str:
    """Return `did you mean …? ` with the nearest of the known names, nothing where none is near; or the new name."""
    known = list(known)
    renamed = re.sub(r"\w+$", lambda word: RENAMED.get(word[0], word[0]), name)
    if renamed != name and renamed in known:
        return f"it is {renamed} now; "
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {quote}{close[0]}{quote}? " if close else ""


def counted(number: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun: `1 image`, `2,000 images`; `plural` for what does not end in s."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def told_apart(first: str, second: str) -> tuple[str, str]:
    """Return what two paths differ in: without the folders that both begin with and the parts that both end with."""
    one, two = list(Path(first).with_suffix("").parts), list(Path(second).with_suffix("").parts)
    if one == two:
        return (first, second) if first != second else (f"{first} (1)", f"{second} (2)")
    for end in (0, -1):
        while len(one) > 1 and len(two) > 1 and one[end] == two[end]:
            del one[end], two[end]
    return "/".join(one), "/".join(two)


# ------------------------------------------------------------------------------------------------------------ output

ASCII = {
    "•": "*", "·": "|", "×": "x", "±": "+-", "≥": ">=", "≤": "<=", "≈": "~", "−": "-", "–": "-", "—": "-", "…": "...",
    "→": "->", "│": "|", "─": "-", "━": "-", "✓": "ok", "⌈": "ceil(", "⌉": ")",
}  # fmt: skip


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    """Write what an encoding lacks in ASCII: signs by what they look like, anything else by its number."""
    assert isinstance(error, UnicodeEncodeError)
    lacking = error.object[error.start : error.end]
    return "".join(ASCII.get(c) or c.encode("ascii", "backslashreplace").decode() for c in lacking), error.end


def prepare_streams() -> None:
    """Let no character that the terminal's code page lacks end a command."""
    codecs.register_error("razh", _in_ascii)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="razh")


def close_stdout() -> bool:
    """Tell whether nobody reads what is written (`razh … | head`), and if so send the rest nowhere."""
    try:
        descriptor = sys.stdout.fileno()
        waiting = select.poll()
        waiting.register(descriptor, select.POLLERR)
        gone = bool(waiting.poll(0))
    except (AttributeError, OSError, ValueError):  # Windows has no poll; a stream in memory has no descriptor
        return False
    if gone:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, descriptor)
        os.close(nowhere)
    return gone


def console() -> Console:
    """Return the console for results: text as it is, lines as long as they are."""
    from rich.console import Console  # `--help` does without

    return Console(soft_wrap=True, highlight=False, markup=False, emoji=False)


def suggest(*words: str | Path) -> None:
    """Say which command comes next, quoted for a shell.

    It goes where all messages go, to stderr: results on stdout stay as they are for whoever reads them.

    Args:
        *words: the command line after `razh`.
    """
    log.info("next: %s %s", _program(), shlex.join(str(word) for word in words))


def _program() -> str:
    """Return how this very program is called from here."""
    python = Path(sys.executable)
    script = shutil.which("razh")
    if script is not None and Path(script).parent == python.parent:
        return "razh"
    here = Path.cwd()
    shown = python.relative_to(here) if python.is_relative_to(here) else python
    return f"{shlex.quote(str(shown))} -m razh"
