"""How long many clients at once wait for `razh serve`: `python benchmarks/serving.py ARCHIVE --clients 50`.

Each client does what a visitor does: it searches with an image of the archive, gets the first pictures of the list,
and, every fifth time, sends a photo and asks why its first hit was found. Every answer is looked at; p50 and p95 are
milliseconds of wall time, and the ratio is that to one client alone, measured before. Needs an archive whose checkpoint
is there (`make demo` leaves one in runs/demo).
"""

import argparse
import http.client
import json
import statistics
import subprocess
import sys
import threading
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

from razh.index.archive import Snapshot

PICTURES, EVERY = 6, 5
Times = dict[str, list[float]]


class Visitor:
    """A client with one connection, which it keeps."""

    def __init__(self, host: str, number: int, photo: bytes, times: Times, lost: list[str]) -> None:
        self.line = http.client.HTTPConnection(host, timeout=120)
        self.number, self.photo, self.times, self.lost = number, photo, times, lost

    def ask(self, kind: str, path: str, body: bytes | dict[str, object] | None = None) -> bytes:
        """Ask, and note how long that took or that it failed."""
        content = json.dumps(body).encode() if isinstance(body, dict) else body
        headers = {"Content-Type": "application/json"} if isinstance(body, dict) else {}
        begun = time.perf_counter()
        try:
            self.line.request("GET" if body is None else "POST", path, content, headers)
            answer = self.line.getresponse()
            found = answer.read()
            if answer.status >= 300:
                raise OSError(f"status {answer.status}: {found[:200]!r}")
        except (OSError, http.client.HTTPException) as error:
            self.lost.append(f"{kind}: {error!r}")
            self.line.close()
            return b"{}"
        self.times[kind].append(time.perf_counter() - begun)
        return found

    def visit(self, rounds: int, rows: int) -> None:
        """Search so many times."""
        facts = json.loads(self.ask("archive", "/api/archive"))
        numbering = facts.get("numbering", "")
        for at in range(rounds):
            query: dict[str, object] = {"row": (self.number * 37 + at * 11) % rows, "numbering": numbering}
            if at % EVERY == EVERY - 1:
                query = {"upload": json.loads(self.ask("photo", "/api/uploads", self.photo)).get("upload")}
            found = json.loads(self.ask("search", "/api/search", {"query": query}))
            hits = found.get("hits", [])
            if len(hits) != min(24, rows - ("row" in query)):
                self.lost.append(f"search: {len(hits)} hits")
            for hit in hits[:PICTURES]:
                self.ask("picture", f"/api/images/{numbering}/{hit['row']}")
            if facts.get("why") and "upload" in query and hits:
                self.ask("why", "/api/why", {"query": query, "row": hits[0]["row"], "numbering": numbering})


def measured(host: str, clients: int, rounds: int, photo: bytes, rows: int) -> tuple[Times, list[str], float]:
    """Return times by kind, what was lost, and the seconds that all of it took."""
    times: Times = defaultdict(list)
    lost: list[str] = []
    together = threading.Barrier(clients)

    def one(number: int) -> None:
        together.wait()
        Visitor(host, number, photo, times, lost).visit(rounds, rows)

    begun = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(one, range(clients)))
    return times, lost, time.perf_counter() - begun


def main() -> None:
    """Measure one client, then many."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("archive")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    command = [sys.executable, "-u", "-m", "razh", "serve", options.archive, "--port=0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        host = urlsplit(server.stdout.readline().rpartition(" ")[2].strip()).netloc
        snapshot = Snapshot(Path(options.archive))
        with open(snapshot.file_of(snapshot.paths[int(snapshot.live_rows()[0])]), "rb") as file:
            photo = file.read()
        alone, _, _ = measured(host, 1, options.rounds, photo, len(snapshot))
        times, lost, wall = measured(host, options.clients, options.rounds, photo, len(snapshot))
    finally:
        server.terminate()
        server.wait()
    count = sum(map(len, times.values()))
    print(f"{len(snapshot):,} images, {options.clients} clients: {count:,} answers in {wall:.1f} s, {len(lost)} lost")
    print(f"{'':<10} {'answers':>8} {'p50':>9} {'p95':>9} {'alone p50':>10} {'ratio':>7}")
    for kind in ("archive", "search", "picture", "photo", "why"):
        if len(times[kind]) > 1:
            p50, p95 = statistics.median(times[kind]), statistics.quantiles(times[kind], n=20)[-1]
            one = statistics.median(alone[kind])
            figures = f"{1e3 * p50:6.0f} ms {1e3 * p95:6.0f} ms {1e3 * one:7.1f} ms {p95 / one:5.0f} ×"
            print(f"{kind:<10} {len(times[kind]):>8,} {figures}")
    if lost:
        raise SystemExit(f"lost, the first: {lost[0]}")


if __name__ == "__main__":
    main()
