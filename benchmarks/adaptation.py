"""How long codes take to be fitted to a collection, and the memory: `python benchmarks/adaptation.py`.

Simulated descriptions of clustered images lie in a file of half-precision floats, as in the feature cache. Each fit is
a process of its own; times are also ratios to that of the alternative, ITQ of the same collection.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from razh.collection.code import Known, fit_collection
from razh.collection.judge import trial
from razh.layers.hash import HashHead

CLASSES, PER_CLASS, ATTRIBUTES = 50, 40, 300


def write_rows(path: Path, count: int, width: int) -> None:
    """Write descriptions (n, D) of images in clusters, a few thousand at a time."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(200, width)).astype(np.float32)
    rows = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=(count, width))
    for start in range(0, count, 4096):
        few = rng.integers(0, len(centres), min(4096, count - start))
        rows[start : start + len(few)] = centres[few] + rng.normal(size=(len(few), width)).astype(np.float32)


def known(width: int) -> Known:
    """Return labelled images of some classes, and attributes of as many that are described."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(CLASSES).repeat_interleave(PER_CLASS)
    centres = torch.randn(CLASSES, width, generator=generator)
    rows = centres[labels] + torch.randn(len(labels), width, generator=generator)
    strengths = torch.rand(2 * CLASSES, ATTRIBUTES, generator=generator)
    return Known(rows, labels, strengths[:CLASSES], strengths[CLASSES:])


def fit(what: str, path: Path, bits: int) -> tuple[float, float]:
    """Return seconds of a fit, and the most memory in GB that its process held while it ran."""
    rows = np.load(path, mmap_mode="r")
    given = known(rows.shape[1])
    started = time.perf_counter()
    if what == "ITQ":
        HashHead(rows.shape[1], bits).requires_grad_(False).initialise(torch.from_numpy(rows.astype(np.float32)))
    elif what == "trial":
        trial(rows, lambda at: torch.from_numpy(rows[at][:, :bits].astype(np.float32)), bits, given)
    else:
        fit_collection(rows, bits, given if what == "described classes" else None)
    seconds = time.perf_counter() - started
    return seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    """Print a line a fit."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--images", type=int, nargs="+", default=[5_000, 100_000])
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--bits", type=int, default=64)
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        for count in options.images:
            path = Path(folder) / f"{count}.npy"
            write_rows(path, count, options.width)
            floor = 0.0
            for what in ("ITQ", "described classes", "no label at all", "trial"):
                with context.Pool(1) as pool:
                    seconds, memory = pool.apply(fit, (what, path, options.bits))
                floor = floor or seconds
                print(f"{count:>8,} images  {what:<18} {seconds:6.1f} s {seconds / floor:5.1f} ×  {memory:5.2f} GB")
            path.unlink()


if __name__ == "__main__":
    main()
