"""Exact Hamming mAP beside the alternatives: time, ratio, peak memory, and the distance to the machine's limit.

One thread, interleaved rounds, medians. The clock counts the processor time of the process, so that other work on the
machine adds no waiting. Ratios from one run are the message; seconds belong to one machine. Peers are
timed on as many queries as their time budget allows and scaled to the whole query set, since all of them work query by
query; ours always runs on the whole query set.

    python benchmarks/retrieval.py --quick
    python benchmarks/retrieval.py --write docs/reference/speed.md
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import logging
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from numpy.typing import NDArray

from razh.retrieval.hamming import histogram
from razh.retrieval.metrics import average_precision
from razh.retrieval.packing import pack, unpack

SIZES = {  # queries, database, classes
    "CUB": (2_967, 11_788, 200),
    "SUN": (1_440, 14_340, 717),
    "AwA2": (7_913, 37_322, 50),
    "CIFAR-10": (10_000, 54_000, 10),
    "million": (1_000, 1_000_000, 100),
}
START, END = "<!-- benchmark: begin -->", "<!-- benchmark: end -->"
BACKENDS = {"razh, numba backend": "numba", "razh, FAISS backend": "faiss", "razh, NumPy backend": "numpy"}
if not importlib.util.find_spec("numba"):
    del BACKENDS["razh, numba backend"]
OURS = next(iter(BACKENDS))


@dataclass(frozen=True)
class Data:
    """Codes around class prototypes, a quarter of the bits flipped; packed, with labels.

    `prepared` holds what peers want instead of packed codes; it is made once, outside the clock.
    """

    query: NDArray[np.uint8]
    database: NDArray[np.uint8]
    query_labels: NDArray[np.int64]
    database_labels: NDArray[np.int64]
    bits: int
    prepared: dict[str, NDArray[np.float32]] = field(default_factory=dict)

    def first(self, queries: int) -> Data:
        """Return the same data with fewer queries."""
        return replace(self, query=self.query[:queries], query_labels=self.query_labels[:queries])

    def signs(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return ±1 codes."""
        if "signs" not in self.prepared:
            self.prepared["signs"] = unpack(self.database, self.bits).astype(np.float32) * 2 - 1
        return unpack(self.query, self.bits).astype(np.float32) * 2 - 1, self.prepared["signs"]

    def one_hot(self) -> NDArray[np.float32]:
        """Return the one-hot labels of the database."""
        if "one_hot" not in self.prepared:
            hot = np.zeros((len(self.database), int(self.database_labels.max()) + 1), dtype=np.float32)
            hot[np.arange(len(hot)), self.database_labels] = 1
            self.prepared["one_hot"] = hot
        return self.prepared["one_hot"]


def make_data(size: str, bits: int) -> Data:
    """Draw codes; the database in blocks, so that a million of them take little memory."""
    queries, items, classes = SIZES[size]
    rng = np.random.default_rng(0)
    prototypes = rng.random((classes, bits)) < 0.5

    def draw(count: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        labels = rng.integers(0, classes, count)
        parts = [
            pack(prototypes[part] ^ (rng.random((len(part), bits), dtype=np.float32) < 0.25))
            for part in np.array_split(labels, max(1, count // 50_000))
        ]
        return np.concatenate(parts), labels

    query, query_labels = draw(queries)
    database, database_labels = draw(items)
    return Data(query, database, query_labels, database_labels, bits)


# ------------------------------------------------------------------------------------------------- implementations


def razh(data: Data, backend: str) -> float:
    """Histogram and closed form: expected over the order of ties."""
    hist = histogram(data.query, data.database, data.query_labels, data.database_labels, data.bits, backend=backend)  # type: ignore[arg-type]
    return float(average_precision(hist).mean())


def customary_loop(data: Data) -> float:
    """The per-query NumPy loop of the field's repositories: products of one-hot labels and of ±1 codes, argsort."""
    (query, database), hot = data.signs(), data.one_hot()
    total = 0.0
    for code, label in zip(query, np.eye(hot.shape[1], dtype=np.float32)[data.query_labels], strict=True):
        truth = (np.dot(label, hot.T) > 0).astype(np.float32)
        distance = 0.5 * (data.bits - np.dot(code, database.T))
        truth = truth[np.argsort(distance)]
        hits = int(truth.sum())
        if hits:
            total += float(np.mean(np.linspace(1, hits, hits) / (np.flatnonzero(truth == 1) + 1.0)))
    return total / len(query)


def torch_sort(data: Data) -> float:
    """±1 matrix product and a stable sort, in blocks of queries."""
    query, database = (torch.from_numpy(codes) for codes in data.signs())
    labels, own = torch.from_numpy(data.database_labels), torch.from_numpy(data.query_labels)
    ranks = torch.arange(1, len(database) + 1)
    total = 0.0
    for start in range(0, len(query), step := max(1, 2_000_000 // len(database))):
        distance = (data.bits - query[start : start + step] @ database.T) / 2
        order = torch.sort(distance, dim=1, stable=True).indices
        total += _torch_ap(labels[order] == own[start : start + step, None], ranks)
    return total / len(query)


def _torch_ap(relevant: torch.Tensor, ranks: torch.Tensor) -> float:
    precision = relevant.cumsum(dim=1) / ranks
    ap = (precision * relevant).sum(dim=1) / relevant.sum(dim=1).clamp(min=1)
    return float(ap.sum())


def faiss_lists(data: Data, use_heap: bool) -> float:
    """FAISS ranks the whole database; AP of the lists."""
    index = faiss.IndexBinaryFlat(data.database.shape[1] * 8)
    index.use_heap = use_heap
    index.query_batch_size = max(1, min(32, 200_000_000 // (8 * len(data.database) * (data.database.shape[1] * 8 + 1))))
    index.add(data.database)
    ranks = torch.arange(1, len(data.database) + 1)
    total = 0.0
    for start in range(0, len(data.query), step := max(1, 2_000_000 // len(data.database))):
        _, rows = index.search(data.query[start : start + step], len(data.database))
        relevant = torch.from_numpy(data.database_labels[rows] == data.query_labels[start : start + step, None])
        total += _torch_ap(relevant, ranks)
    return total / len(data.query)


def torchmetrics_map(data: Data) -> float:
    """`torchmetrics.RetrievalMAP`, fed with positive scores (it drops others)."""
    from torchmetrics.retrieval import RetrievalMAP

    query, database = (torch.from_numpy(codes) for codes in data.signs())
    metric = RetrievalMAP()
    scores = query @ database.T + (data.bits + 1)
    target = torch.from_numpy(data.query_labels)[:, None] == torch.from_numpy(data.database_labels)
    rows = torch.arange(len(query))[:, None].expand_as(scores)
    metric.update(scores.flatten(), target.flatten(), indexes=rows.flatten())
    return float(metric.compute())


def metric_learning_map(data: Data) -> float:
    """`AccuracyCalculator` of pytorch-metric-learning, mean_average_precision over the whole database."""
    from pytorch_metric_learning.utils.accuracy_calculator import (  # type: ignore[import-untyped]
        AccuracyCalculator,
    )

    query, database = (torch.from_numpy(codes) for codes in data.signs())
    calculator = AccuracyCalculator(include=("mean_average_precision",), k=len(database), device=torch.device("cpu"))
    labels = torch.from_numpy(data.query_labels), torch.from_numpy(data.database_labels)
    return float(calculator.get_accuracy(query, labels[0], database, labels[1])["mean_average_precision"])


def implementations(size: str) -> dict[str, Callable[[Data], float]]:
    """Return name → function; what is not installed, or needs too much memory at this size, is left out."""
    found: dict[str, Callable[[Data], float]] = {
        **{name: partial(razh, backend=backend) for name, backend in BACKENDS.items()},
        "FAISS lists, counters (use_heap=False)": lambda data: faiss_lists(data, False),
        "FAISS lists, default heap": lambda data: faiss_lists(data, True),
        "torch ±1 product + stable sort": torch_sort,
        "customary NumPy loop": customary_loop,
    }
    if importlib.util.find_spec("torchmetrics"):
        found["torchmetrics RetrievalMAP"] = torchmetrics_map
    if importlib.util.find_spec("pytorch_metric_learning") and size != "million":
        found["pytorch-metric-learning"] = metric_learning_map
    return found


# ----------------------------------------------------------------------------------------------------------- limit

LIMIT_SOURCE = r"""
#include <stdint.h>
long limit(const uint64_t *q, long nq, const uint64_t *d, long n, long w) {
  long sum = 0;
  for (long i = 0; i < nq; i++)
    for (long j = 0; j + 4 <= n * w; j += 4) {
      const uint64_t *x = d + j;
      sum += __builtin_popcountll(q[i] ^ x[0]) + __builtin_popcountll(q[i] ^ x[1])
           + __builtin_popcountll(q[i] ^ x[2]) + __builtin_popcountll(q[i] ^ x[3]);
    }
  return sum;
}
"""


def popcount_limit() -> tuple[str, Callable[[Data], float]]:
    """Return what the limit is, and a function that does nothing but xor and popcount of all pairs and adds up."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return "faiss.hamming_count_thres", _faiss_limit
    folder = tempfile.mkdtemp()
    source, library = Path(folder, "limit.c"), Path(folder, "limit.so")
    source.write_text(LIMIT_SOURCE, encoding="utf-8")
    subprocess.run([compiler, "-O3", "-march=native", "-shared", "-fPIC", "-o", library, source], check=True)
    kernel = ctypes.CDLL(str(library)).limit
    kernel.restype = ctypes.c_long

    def run(data: Data) -> float:
        query, database = _words(data.query), _words(data.database)
        sizes = len(query), len(database), database.shape[1]
        pointers = (ctypes.c_void_p(array.ctypes.data) for array in (query, database))
        first, second = pointers
        return float(kernel(first, ctypes.c_long(sizes[0]), second, ctypes.c_long(sizes[1]), ctypes.c_long(sizes[2])))

    return "C loop of xor and popcount, compiled with -O3 -march=native", run


def _words(packed: NDArray[np.uint8]) -> NDArray[np.uint64]:
    wide = np.zeros((len(packed), -(-packed.shape[1] // 8) * 8), dtype=np.uint8)
    wide[:, : packed.shape[1]] = packed
    return wide.view(np.uint64)


def _faiss_limit(data: Data) -> float:
    query, database = (_words(codes).view(np.uint8) for codes in (data.query, data.database))
    count = np.zeros(1, dtype=np.uint64)
    pointer = faiss.swig_ptr
    faiss.hamming_count_thres(
        pointer(query), pointer(database), len(query), len(database), 0, query.shape[1], pointer(count)
    )
    return float(count[0])


# ----------------------------------------------------------------------------------------------------- measurement


def _time(function: Callable[[Data], float], data: Data) -> float:
    start = time.process_time()  # one thread: on an idle machine the same as the wall clock
    function(data)
    return time.process_time() - start


def measure(data: Data, functions: dict[str, Callable[[Data], float]], rounds: int, budget: float) -> dict[str, float]:
    """Return seconds for the whole query set: medians of interleaved rounds."""
    inputs = {}
    for name, function in functions.items():
        few = data.first(4)
        function(few)  # prepares what the peer wants, and compiles
        if name.startswith(("razh", "limit")):
            inputs[name] = data
            continue
        seconds = _time(function, few) / 4
        inputs[name] = data.first(int(np.clip(budget / max(seconds, 1e-6), 2, len(data.query))))
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            scale = len(data.query) / len(inputs[name].query)
            times[name].append(_time(function, inputs[name]) * scale)
    return {name: statistics.median(values) for name, values in times.items()}


def peak_memory(size: str, bits: int) -> float:
    """Return how many MB a fresh process needs beyond the codes for the whole evaluation of a size."""
    command = [sys.executable, __file__, "--memory-of", size, "--bits", str(bits)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def _memory_of(size: str, bits: int) -> None:
    data = make_data(size, bits)
    backend = BACKENDS[OURS]
    razh(Data(data.query[:13], data.database[:100], data.query_labels[:13], data.database_labels[:100], bits), backend)
    before = _current_memory()
    razh(data, backend)
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024) - before)


def _current_memory() -> float:
    """Return the resident memory in MB; where the system does not tell, the peak so far."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(next(line for line in status.read_text().splitlines() if line.startswith("VmRSS")).split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


# ---------------------------------------------------------------------------------------------------------- tables


def _table(bits: int, results: dict[str, dict[str, float]]) -> list[str]:
    """Return a Markdown table: seconds, and times as long as ours."""
    heads = [f"{size} {SIZES[size][0]:,} × {SIZES[size][1]:,}" for size in results]
    lines = [f"| {bits} bits | " + " | ".join(heads) + " |", "| --- |" + " ---: |" * len(heads)]
    names = dict.fromkeys(name for result in results.values() for name in result if name != "limit")
    for name in sorted(
        names, key=lambda one: statistics.median(r[one] / r[OURS] for r in results.values() if one in r)
    ):
        cells = [f"{r[name]:.3g} s ({r[name] / r[OURS]:.3g}×)" if name in r else "–" for r in results.values()]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    if bits % 64 == 0:
        limits = [f"{r['limit']:.3g} s ({r[OURS] / r['limit']:.2f}× away)" for r in results.values()]
        lines.append("| *limit: xor + popcount alone* | " + " | ".join(limits) + " |")
    return [*lines, ""]


def machine() -> str:
    """Return processor, cores and versions."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    packages = f"NumPy {np.__version__}, torch {torch.__version__}, FAISS {faiss.__version__}"
    if OURS in BACKENDS and BACKENDS[OURS] == "numba":
        packages += f", numba {importlib.metadata.version('numba')}"
    who = models[0] if models else platform.processor()
    return f"{who}, {os.cpu_count()} cores, one thread used; Python {platform.python_version()}, {packages}"


def write(path: Path, lines: Iterable[str]) -> None:
    """Put the lines between the markers of a Markdown file."""
    text = path.read_text(encoding="utf-8")
    head, _, rest = text.partition(START)
    _, _, tail = rest.partition(END)
    path.write_text(head + START + "\n\n" + "\n".join(lines) + "\n" + END + tail, encoding="utf-8")


def _pin_one_thread() -> None:
    """Start again with one thread where the environment does not say so: BLAS reads it when it is loaded."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    if any(os.environ.get(name) != "1" for name in names):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **dict.fromkeys(names, "1")})


def main() -> None:
    """Measure, print the tables, and write them on demand."""
    options = _parser().parse_args()
    _pin_one_thread()
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    logging.getLogger("PML").setLevel(logging.ERROR)
    if options.memory_of:
        _memory_of(options.memory_of, options.bits[0])
        return
    sizes = options.sizes or (["CUB", "SUN"] if options.quick else list(SIZES))
    bits = options.bits or ([64] if options.quick else [16, 64, 128])
    what, limit = popcount_limit()
    lines = [f"`python benchmarks/retrieval.py {' '.join(sys.argv[1:])}`", "", f"{machine()}. Limit: {what}.", ""]
    peak = peak_memory("million", 64) if "million" in sizes else None  # first: a child starts with its parent's peak
    for length in bits:
        results = {}
        for size in sizes:
            data = make_data(size, length)
            functions: dict[str, Callable[[Data], Any]] = {**implementations(size), "limit": limit}
            results[size] = measure(data, functions, options.rounds, options.budget)
            print(f"{size} {length} bits: " + ", ".join(f"{k} {v:.3g} s" for k, v in results[size].items()), flush=True)
        lines += _table(length, results)
    if peak is not None:
        lines += [f"Peak memory beyond the codes and labels at 1,000 × 1,000,000, 64 bits: {peak:.0f} MB.", ""]
    print("\n".join(lines))
    if options.write:
        write(Path(options.write), lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Exact Hamming mAP beside the alternatives, on one thread.")
    parser.add_argument("--quick", action="store_true", help="CUB and SUN sizes at 64 bits")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, help="default: all")
    parser.add_argument("--bits", nargs="+", type=int, help="default: 16 64 128")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds; medians are reported")
    parser.add_argument("--budget", type=float, default=0.4, help="seconds a peer may take in a round")
    parser.add_argument("--write", metavar="FILE.md", help="put the tables between the markers of this file")
    parser.add_argument("--memory-of", choices=SIZES, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    main()
