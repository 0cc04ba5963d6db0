"""Resumable HTTP downloads: what broke off goes on where it stopped, if the source is still the same file."""

from __future__ import annotations

import http.client
import json
import logging
import re
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.progress import Progress, TaskID

__all__ = ["BACK_OFF", "file_size", "forget", "transfer"]

log = logging.getLogger(__name__)

BACK_OFF = (1.0, 2.0, 5.0, 15.0, 30.0)
"""Seconds to wait after each attempt in a row that brought no byte; after one more it gives up."""

MOST_ATTEMPTS = 1000
"""After so many it gives up, however much each of them brought."""

_TIMEOUT = 60.0
_SLACK = 1 << 26  # bytes that a source of about known size may have more than twice that size
_CHUNK = 1 << 18
_PAGE = (b"<!doctype html", b"<html")
_PASSING = (408, 425, 429, 500, 502, 503, 504)  # HTTP states that another attempt may not meet

State = dict[str, Any]


class _BrokenOff(OSError):
    """An attempt failed in a way that another may not; the message says how."""


def transfer(url: str, part: Path, progress: Progress, size: int, *, exact: bool = False) -> None:
    """Download into a part file, or go on with it, until it is complete.

    Beside the part lies `PART.json`, which says what version of the source it belongs to (strong ETag, Last-Modified,
    size). If the source changes, or the server has no ranges, the download starts anew.

    Args:
        url: Address.
        part: File to write, appended to if it is there.
        progress: Where a bar is shown.
        size: Bytes to expect, about.
        exact: Refuse a source that announces another size.

    Raises:
        OSError: The server refuses, sends a web page, or gave nothing new in several attempts; what there is stays in
            `part`.
        ValueError: `exact`, and the source has another size; or it sends far more than was expected.
    """
    task = progress.add_task(part.name.removesuffix(".razh-part"), total=size, completed=file_size(part))
    attempts, failures, most = 0, 0, file_size(part)
    while True:
        attempts += 1
        try:
            return _attempt(url, part, progress, task, size, exact)
        except _BrokenOff as error:
            # More than ever before is progress; what came anew after the part was thrown away is not.
            failures, most = (0, file_size(part)) if file_size(part) > most else (failures + 1, most)
            if failures > len(BACK_OFF) or attempts == MOST_ATTEMPTS:
                raise OSError(
                    f"{url} cannot be fetched ({error}); run again later to go on from byte {file_size(part)}, "
                    f"or put the file at {part.with_suffix('')} yourself"
                ) from error
            wait = BACK_OFF[max(failures - 1, 0)]
            log.warning("%s: %s; going on from byte %d in %g s", url, error, file_size(part), wait)
            time.sleep(wait)


def forget(part: Path) -> None:
    """Remove a part file and what is known of its source."""
    part.unlink(missing_ok=True)
    _state_file(part).unlink(missing_ok=True)


def file_size(file: Path) -> int:
    """Return the size of a file in bytes, 0 if there is none."""
    return file.stat().st_size if file.is_file() else 0


def _attempt(url: str, part: Path, progress: Progress, task: TaskID, expected: int, exact: bool) -> None:
    """Open one connection and write what it gives; return if the part file is complete, else raise `_BrokenOff`."""
    known = _read_state(part, url)
    offset = file_size(part) if known else 0
    if offset and offset == known.get("size"):
        return
    with (
        _connection_errors(url, part),
        urllib.request.urlopen(_request(url, offset, known), timeout=_TIMEOUT) as reply,
    ):
        found = _state_of(reply, url)
        if reply.status == 206 and not (_start_of(reply) == offset and _same_version(known, found)):
            forget(part)
            raise _BrokenOff("the file at the source is another one than when the download began")
        if reply.status != 206:  # a server without ranges, or a changed file: from the start
            offset = 0
        total = found["size"]
        first = reply.read1(_CHUNK)
        if reply.headers.get_content_type() == "text/html" or first.lstrip()[:14].lower().startswith(_PAGE):
            raise OSError(
                f"{url} sends a web page, not the file (does it ask to log in?); open it in a browser, and put the "
                f"file at {part.with_suffix('')} yourself"
            )
        if exact and total not in (None, expected):
            raise ValueError(
                f"{url} has {total} bytes, but {expected} were expected: the source has changed it; "
                f"get the original from somewhere else and put it at {part.with_suffix('')}"
            )
        _state_file(part).write_text(json.dumps(found) + "\n", encoding="utf-8")
        if total is not None:
            progress.update(task, total=total)
        progress.update(task, completed=offset)
        most = expected if exact else 2 * expected + _SLACK
        _receive(first, reply, part, offset, most, lambda count: progress.advance(task, count))
    if total is not None and file_size(part) < total:
        raise _BrokenOff(f"the connection ended after {file_size(part)} of {total} bytes")


def _request(url: str, offset: int, known: Mapping[str, Any]) -> urllib.request.Request:
    headers = {"User-Agent": "razh", "Accept-Encoding": "identity"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
        if validator := known.get("etag") or known.get("modified"):
            headers["If-Range"] = validator
    return urllib.request.Request(url, headers=headers)


@contextmanager
def _connection_errors(url: str, part: Path) -> Iterator[None]:
    """Turn errors that another attempt may not meet into `_BrokenOff`, and refusals into a plain OSError."""
    try:
        yield
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:  # the part is longer than the file
            forget(part)
        elif error.code not in _PASSING:
            raise OSError(
                f"{url} answers {error.code} {error.reason}; look for a new address, and put the file at "
                f"{part.with_suffix('')} yourself"
            ) from error
        raise _BrokenOff(f"the server answers {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        raise _BrokenOff(f"no connection: {error.reason}") from error
    except (http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError) as error:
        raise _BrokenOff(f"the connection broke off: {error!r}") from error


def _receive(first: bytes, reply: Any, part: Path, offset: int, most: int, advance: Callable[[int], None]) -> None:
    """Append the reply to the part file, cut to `offset`; unbuffered, so that a killed process loses nothing."""
    with part.open("r+b" if part.exists() else "wb", buffering=0) as sink:
        sink.truncate(offset)
        sink.seek(offset)
        chunk = first
        while chunk:
            if sink.tell() + len(chunk) > most:
                raise ValueError(f"{reply.url} sends more than {most} bytes, the most that was expected; it is refused")
            sink.write(chunk)
            advance(len(chunk))
            chunk = reply.read1(_CHUNK)


# ------------------------------------------------------------------------------------------- the version of the source


def _state_file(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _read_state(part: Path, url: str) -> State:
    """Return the version that a part file belongs to; empty if that is not known, so that it is fetched anew."""
    try:
        state = json.loads(_state_file(part).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return state if isinstance(state, dict) and state.get("url") == url else {}


def _state_of(reply: Any, url: str) -> State:
    """Return the version that a reply belongs to; what the server does not say is None."""
    etag = reply.headers.get("ETag")
    size = reply.headers.get("Content-Length")
    if reply.status == 206:
        size = (reply.headers.get("Content-Range") or "").rpartition("/")[2]
    return {
        "url": url,
        "etag": None if etag is None or etag.startswith("W/") else etag,
        "modified": reply.headers.get("Last-Modified"),
        "size": int(size) if size and size.isdigit() else None,
    }


def _start_of(reply: Any) -> int | None:
    match = re.match(r"bytes (\d+)-", reply.headers.get("Content-Range") or "")
    return int(match[1]) if match else None


def _same_version(known: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
    pairs = [(known.get(key), found.get(key)) for key in ("etag", "modified", "size")]
    return all(old == new for old, new in pairs if old is not None and new is not None)
