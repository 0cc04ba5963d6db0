"""How long the command line takes to start, and one search in a million codes: `python benchmarks/startup.py`.

Every measurement is a fresh process: wall time and processor time (medians), peak memory, and the ratio of the
processor time to that of `import numpy`, the floor, which is measured in turn with it: a busy machine slows both.
The codes are written by another process: memory that this one had held would count as its children's.
"""

import argparse
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from razh.cli.main import OTHER_COMMANDS, TRAINER_COMMANDS
from razh.support.files import write_arrays

RAZH = [sys.executable, "-m", "razh"]
FLOOR = [sys.executable, "-c", "import numpy"]


def codes_file(path: Path, count: int, bits: int) -> list[str]:
    """Write `count` random codes as `razh encode` does; return 1,000 paths."""
    rng = np.random.default_rng(0)
    names = [f"class_{row % 1000:03d}/image_{row:07d}.jpg" for row in range(count)]
    codes = rng.integers(0, 256, (count, bits // 8), dtype=np.uint8)
    write_arrays(path, {"codes": codes, "paths": np.array(names), "bits": np.array(bits), "checkpoint": np.array("")})
    return names[:: max(1, count // 1000)][:1000]


def measured(command: list[str]) -> tuple[float, float, float]:
    """Return wall seconds, processor seconds and peak MB of a process."""
    begun = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)}: status {os.waitstatus_to_exitcode(status)}")
    return time.perf_counter() - begun, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def report(name: str, command: list[str], rounds: int) -> None:
    """Print a line of medians."""
    pairs = [(measured(command), measured(FLOOR)) for _ in range(rounds)]
    wall, used, memory = (statistics.median(values) for values in zip(*(ours for ours, _ in pairs), strict=True))
    ratio = statistics.median(ours[1] / floor[1] for ours, floor in pairs)
    print(f"{name:<34} {wall:6.2f} s {used:6.2f} s {memory:6.0f} MB {ratio:6.1f} ×")


def main() -> None:
    """Measure everything."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--codes", type=int, default=1_000_000)
    parser.add_argument("--bits", type=int, default=64)
    options = parser.parse_args()
    print(f"{'':<34} {'wall':>8} {'CPU':>8} {'peak':>9} {'/ numpy':>8}")
    for command in [[], *[[name] for name in [*TRAINER_COMMANDS, *OTHER_COMMANDS]]]:
        report(" ".join(["razh", *command, "--help"]), [*RAZH, *command, "--help"], options.rounds)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "codes.npz"
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            names = pool.apply(codes_file, (file, options.codes, options.bits))
        report("search, 1 query", [*RAZH, "search", str(file), names[7]], options.rounds)
        out = ["--out", str(Path(folder) / "hits.csv")]
        report("search, 1,000 queries", [*RAZH, "search", str(file), *names, *out], 1)


if __name__ == "__main__":
    main()
