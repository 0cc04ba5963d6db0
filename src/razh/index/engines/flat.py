"""Exact search by FAISS's IndexBinaryFlat: every code is looked at, 5 ms for ten million of 64 bits."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from razh.index.engines import Found, check_k, check_rows
from razh.retrieval.packing import check_packed, code_bytes

__all__ = ["Flat"]


class Flat:
    """An engine, see `razh.index.engines.Engine`; exact, also with a filter.

    Args:
        bits: code length L.

    Raises:
        ImportError: FAISS is not installed.
    """

    def __init__(self, bits: int) -> None:
        self.bits = bits
        self._faiss: Any = _faiss()
        self._index = self._faiss.IndexBinaryFlat(8 * code_bytes(bits))
        self.rows = np.empty(0, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.rows)

    def add(self, rows: NDArray[np.int64], codes: NDArray[np.uint8]) -> None:
        """Add codes, see `Engine.add`."""
        codes = check_packed(codes, self.bits, "codes")
        check_rows(rows, codes, int(self.rows[-1]) if len(self.rows) else -1)
        self._index.add(codes)
        self.rows = np.concatenate([self.rows, rows])

    def remove(self, rows: NDArray[np.int64]) -> None:
        """Remove rows, see `Engine.remove`."""
        gone = np.isin(self.rows, rows)
        if gone.any():
            self._index.remove_ids(self._selector(gone))
            self.rows = self.rows[~gone]

    def search(self, codes: NDArray[np.uint8], k: int, where: NDArray[np.bool_] | None = None) -> Found:
        """Return the nearest rows, see `Engine.search`."""
        check_k(k)
        codes = check_packed(codes, self.bits, "codes")
        chosen = None if where is None else where[self.rows]
        k = min(k, len(self) if chosen is None else int(np.count_nonzero(chosen)))
        if not k or not len(codes):
            return np.empty((len(codes), k), np.int32), np.empty((len(codes), k), np.int64)
        if chosen is None:
            near, places = self._index.search(codes, k)
        else:
            parameters = self._faiss.SearchParameters(sel=self._selector(chosen))
            near, places = self._index.search(codes, k, params=parameters)
        return near, self.rows[places]

    def _selector(self, chosen: NDArray[np.bool_]) -> Any:
        return self._faiss.IDSelectorBitmap(np.packbits(chosen, bitorder="little"))


def _faiss() -> Any:
    try:
        return importlib.import_module("faiss")
    except ImportError as error:
        raise ImportError(f'FAISS cannot be imported ({error}); pip install "faiss-cpu>=1.9"') from error
