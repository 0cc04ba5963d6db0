"""Search by FAISS's IndexBinaryIVF: codes in lists by their nearest centre, of which a few are looked at.

Faster than looking at every code by the share of lists that are looked at, and right where codes come in clusters: of
random ones it finds a fifth. So it is measured against exact search when it is built, and refused below a recall.
"""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from razh.index.engines import Found, check_k, ordered
from razh.index.engines.flat import Flat
from razh.retrieval.packing import check_packed, code_bytes

__all__ = ["IVF"]

log = logging.getLogger(__name__)

SAMPLE, NEIGHBOURS = 256, 100  # queries by which the recall is measured, and the length of their lists
LISTS = (1, 4096)
PER_LIST = 64  # codes a centre is trained on
ROUNDS = 10  # of training
FEW = 64  # lists that may all be looked at; of more at most one in
LARGEST_SHARE = 4  # is, for else it would be slower than all codes


class IVF:
    """An engine, see `razh.index.engines.Engine`; without a filter it finds what lies in the lists that it looks at.

    A search with a filter looks at every code and is exact: FAISS has no filter here.

    Args:
        bits: code length L.
        min_recall: share of the nearest codes, by distance, that must be found when the engine is built.

    Attributes:
        recall: measured when it was built.
    """

    def __init__(self, bits: int, min_recall: float = 0.99) -> None:
        self.bits, self.min_recall, self.recall = bits, min_recall, math.nan
        self._flat = Flat(bits)
        self._faiss: Any = self._flat._faiss
        self._index: Any = None

    def __len__(self) -> int:
        return len(self._flat)

    def add(self, rows: NDArray[np.int64], codes: NDArray[np.uint8]) -> None:
        """Add codes, see `Engine.add`; the first ones decide where the centres are.

        Raises:
            ValueError: also where fewer are found than `min_recall` demands; then `flat` is the engine to take.
        """
        self._flat.add(rows, codes)
        if not len(rows):
            return
        first = self._index is None
        if first:
            self._index = self._trained(codes)
        self._index.add_with_ids(np.ascontiguousarray(codes), np.ascontiguousarray(rows))
        if first:
            self._choose(codes)

    def _trained(self, codes: NDArray[np.uint8]) -> Any:
        lists = min(max(int(4 * math.sqrt(len(codes))), LISTS[0]), LISTS[1], max(1, len(codes) // PER_LIST))
        bits = 8 * code_bytes(self.bits)
        quantizer = self._faiss.IndexBinaryFlat(bits)
        index = self._faiss.IndexBinaryIVF(quantizer, bits, lists)
        index.own_fields = True
        quantizer.this.disown()
        index.cp.niter, index.cp.min_points_per_centroid = ROUNDS, 1
        index.use_heap = True  # without, only -1 is found (facebookresearch/faiss#5555)
        sample = np.random.default_rng(0).choice(len(codes), min(len(codes), PER_LIST * lists), replace=False)
        index.train(np.ascontiguousarray(codes[np.sort(sample)]))
        return index

    def _choose(self, codes: NDArray[np.uint8]) -> None:
        """Look at as many lists as the recall needs."""
        queries = codes[np.random.default_rng(1).choice(len(codes), min(len(codes), SAMPLE), replace=False)]
        k = min(NEIGHBOURS, len(codes))
        exact = self._flat.search(queries, k)[0]
        most = max(min(self._index.nlist, FEW), self._index.nlist // LARGEST_SHARE)
        probes = min(8, most)
        while True:
            self._index.nprobe = probes
            near = self._index.search(queries, k)[0]
            # By distance: which of equals are listed does not matter; what was not found has the largest number.
            self.recall = float((near <= exact[:, -1:]).mean())
            if self.recall >= self.min_recall or probes == most:
                break
            probes = min(2 * probes, most)
        log.info("%s", self.description)
        if self.recall < self.min_recall:
            raise ValueError(
                f"engine ivf finds {self.recall:.3f} of the nearest codes, less than --min-recall={self.min_recall:g}: "
                "they lie in no clusters; take --engine=flat, which is exact"
            )

    @property
    def description(self) -> str:
        """What was measured when it was built, in one line."""
        return (
            f"ivf: {self._index.nprobe:,} of {self._index.nlist:,} lists are looked at, recall {self.recall:.3f} "
            f"of the {NEIGHBOURS} nearest of {SAMPLE} codes"
        )

    def remove(self, rows: NDArray[np.int64]) -> None:
        """Remove rows, see `Engine.remove`."""
        gone = np.intersect1d(rows, self._flat.rows)
        if len(gone):
            self._index.remove_ids(gone)
            self._flat.remove(gone)

    def search(self, codes: NDArray[np.uint8], k: int, where: NDArray[np.bool_] | None = None) -> Found:
        """Return the nearest rows, see `Engine.search`."""
        check_k(k)
        codes = check_packed(codes, self.bits, "codes")
        k = min(k, len(self))
        if where is not None or not k:
            return self._flat.search(codes, max(k, 1), where)
        near, places = self._index.search(codes, k)
        lists = []
        for query, distances, rows in zip(codes, near, places, strict=True):
            known = rows >= 0
            if known.all():  # any of the equals at the last distance are listed: take them all, the lowest rows count
                _, distances, rows = self._index.range_search(query[None], int(distances[-1]) + 1)
                known = slice(None)
            lists.append((distances[known].astype(np.int32), rows[known].astype(np.int64)))
        return ordered(lists, k)

    def save(self, path: Path) -> None:
        """Write the index, without the codes that a filter needs."""
        self._faiss.write_index_binary(self._index, str(path))

    @classmethod
    def load(cls, path: Path, bits: int, rows: NDArray[np.int64], codes: NDArray[np.uint8], first_new: int) -> IVF:
        """Read an index that was saved, and bring it up to date.

        Args:
            path: of the file.
            bits: code length L.
            rows: all that there are now (n,).
            codes: theirs (n, ceil(L / 8)).
            first_new: those from this one on were not there when it was saved.

        Raises:
            RuntimeError: the file is damaged.
        """
        engine = cls(bits)
        engine._flat.add(rows, codes)
        engine._index = engine._faiss.read_index_binary(str(path))
        engine._index.remove_ids(np.setdiff1d(np.arange(first_new), rows))
        new = rows >= first_new
        engine._index.add_with_ids(np.ascontiguousarray(codes[new]), np.ascontiguousarray(rows[new]))
        return engine
