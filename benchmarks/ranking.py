"""What asymmetric ranking and re-ranking by features gain and cost, beside Hamming distance.

    python benchmarks/ranking.py [--codes run/codes.npz] [--database 200000] [--bits 64]

Gains are of drawn classes: Gaussian features around 200 class means, whose random projections are the logits; and, with
`--codes`, of a run that was tested with `--ranking=asymmetric`. Costs are ratios of processor time, the median of
turns, for one query and the 10 nearest of random codes.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from razh.index.gallery import Gallery, Paths, by_features, find
from razh.retrieval.codes import Codes
from razh.retrieval.evaluation import evaluate
from razh.retrieval.packing import pack

CLASSES, WIDTH, QUERIES, TURNS = 200, 256, 400, 15


def drawn(
    database: int, bits: int, spread: float = 1.5
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
    """Return features (n, D) of length 1, logits (n, L) and labels (n,) of queries, and behind them of a database."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, QUERIES + database)
    features = rng.normal(size=(CLASSES, WIDTH))[labels] + spread * rng.normal(size=(len(labels), WIDTH))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    logits = features @ rng.normal(size=(WIDTH, bits))
    return features.astype(np.float32), logits.astype(np.float32), labels


def gains(database: int, bits: int) -> None:
    """Print the precision of the first ten hits by each order."""
    features, logits, labels = drawn(database, bits)
    packed, kept = pack(logits >= 0), features[QUERIES:].astype(np.float16)
    names = [f"{row}" for row in range(database)]
    gallery = Gallery(packed[QUERIES:], Paths.of(names), bits, "", "drawn")
    none = [-1] * QUERIES
    for name, by in (("hamming", None), ("asymmetric", logits[:QUERIES])):
        lists = find(gallery, [""] * QUERIES, packed[:QUERIES], none, 100, None, logits=by)
        again = [by_features(one, query, kept, 10) for one, query in zip(lists, features, strict=False)]
        for order, found in ((name, lists), (f"{name}, then features", again)):
            first = np.array([one.rows[:10] for one in found])
            right = labels[QUERIES:][first] == labels[:QUERIES, None]
            print(f"drawn: {order:<28} precision@10 {right.mean():.3f}")


def costs(database: int, bits: int) -> None:
    """Print the processor time of each order by that of Hamming distance."""
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(TURNS, bits)).astype(np.float32)
    gallery = Gallery(pack(rng.random((database, bits)) < 0.5), Paths.of([""] * database), bits, "", "random")
    kept, query = rng.normal(size=(database, WIDTH)).astype(np.float16), rng.normal(size=WIDTH).astype(np.float32)

    def hamming(turn: int, top: int = 10) -> object:
        return find(gallery, [""], pack(logits[turn : turn + 1] >= 0), [-1], top, None)

    def asymmetric(turn: int) -> object:
        return find(gallery, [""], pack(logits[turn : turn + 1] >= 0), [-1], 10, None, logits=logits[turn : turn + 1])

    def features(turn: int) -> object:
        return by_features(find(gallery, [""], pack(logits[turn : turn + 1] >= 0), [-1], 100, None)[0], query, kept, 10)

    ways: dict[str, Callable[[int], object]] = {"hamming": hamming, "asymmetric": asymmetric, "then features": features}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(TURNS):
        for name, way in ways.items():
            started = time.thread_time()
            way(turn)
            seconds[name].append(time.thread_time() - started)
    for name, times in seconds.items():
        ratio = np.median(times) / np.median(seconds["hamming"])
        print(f"{database:,} codes: {name:<14} {1000 * np.median(times):7.2f} ms   {ratio:5.1f} x")


def main() -> None:
    """Measure, and print a line a way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--codes", type=Path)
    parser.add_argument("--database", type=int, default=200_000)
    parser.add_argument("--bits", type=int, default=64)
    options = parser.parse_args()
    if options.codes is not None:
        figures = evaluate(Codes.load(options.codes)).metrics
        for name in ("unseen", "zsl"):
            one, two = figures[f"test/{name}/map"], figures[f"test/{name}/asymmetric/map"]
            print(f"{options.codes.name}: {name:<8} mAP {one:.3f}, asymmetric {two:.3f}")
    gains(options.database // 10, options.bits)
    costs(options.database, options.bits)


if __name__ == "__main__":
    main()
