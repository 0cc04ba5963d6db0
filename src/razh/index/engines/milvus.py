"""Search by a Milvus server, for collections that one machine does not hold."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from razh.index.engines import Found, check_k, check_rows, ordered
from razh.retrieval.packing import check_packed, code_bytes

__all__ = ["Milvus"]

BATCH = 10_000  # rows of a request
LONGEST = 16_384  # list that a server gives
SPARE = 64  # hits beyond a list, in which its equals mostly end
LONG = 32  # rows side by side from which a range is shorter than a list of them
RANGES = 16  # in one expression: a server of version 2.3 fails at some hundred


class Milvus:
    """An engine, see `razh.index.engines.Engine`: a collection of a server, made where it is not there yet.

    Exact: the server's index is BIN_FLAT. Lists have 16,384 hits at most; where more than that are equally near, any of
    them are listed.

    Args:
        bits: code length L.
        uri: of the server, `http://localhost:19530`.
        collection: its name there.
        token: of the server's user, where it asks for one.

    Raises:
        ImportError: pymilvus is not installed.
        ConnectionError: there is no server.
        ValueError: the collection has codes of another length.
    """

    def __init__(self, bits: int, uri: str, collection: str, token: str = "") -> None:
        try:
            pymilvus: Any = importlib.import_module("pymilvus")
        except ImportError as error:
            raise ImportError(f'engine milvus needs pymilvus ({error}); pip install "pymilvus>=2.4"') from error
        self.bits, self.collection, self._written = bits, collection, True
        try:
            self._client = pymilvus.MilvusClient(uri=uri, token=token, timeout=10)
        except pymilvus.MilvusException as error:
            reason = str(error).splitlines()[0]
            raise ConnectionError(
                f"--uri={uri}: no Milvus server answers ({reason}); start it, or name another"
            ) from None
        dimension = 8 * code_bytes(bits)
        if not self._client.has_collection(collection):
            self._create(pymilvus, dimension)
        fields = {one["name"]: one for one in self._client.describe_collection(collection)["fields"]}
        found = int(fields.get("code", {}).get("params", {}).get("dim", 0))
        if found != dimension:
            raise ValueError(
                f"collection {collection} of {uri} has codes of {found} bits, not {dimension}; drop it there"
            )
        self._client.load_collection(collection)

    def _create(self, pymilvus: Any, dimension: int) -> None:
        schema = self._client.create_schema(auto_id=False)
        schema.add_field("row", pymilvus.DataType.INT64, is_primary=True)
        schema.add_field("code", pymilvus.DataType.BINARY_VECTOR, dim=dimension)
        index = self._client.prepare_index_params()
        index.add_index("code", index_type="BIN_FLAT", metric_type="HAMMING")
        self._client.create_collection(self.collection, schema=schema, index_params=index)

    def __len__(self) -> int:
        (found,) = self._client.query(
            self.collection, filter="", output_fields=["count(*)"], consistency_level=self._level()
        )
        return int(found["count(*)"])

    def _level(self) -> str:
        """Return the consistency of the next question: whoever has written waits for it once, 200 ms, others do not."""
        level, self._written = ("Strong" if self._written else "Bounded"), False
        return level

    @property
    def last(self) -> int:
        """The highest row number that is there; −1: none."""
        # The server sorts nothing by itself: bisect, some twenty small questions.
        low, high = -1, 1 << 40
        if not self._any(0):
            return -1
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._any(middle) else (low, middle)
        return low

    def _any(self, first: int) -> bool:
        return bool(self._client.query(self.collection, filter=f"row >= {first}", limit=1, output_fields=["row"],
                                       consistency_level=self._level()))  # fmt: skip

    def add(self, rows: NDArray[np.int64], codes: NDArray[np.uint8]) -> None:
        """Add codes, see `Engine.add`."""
        codes = check_packed(codes, self.bits, "codes")
        check_rows(rows, codes, self.last)
        for start in range(0, len(rows), BATCH):
            some = zip(rows[start : start + BATCH].tolist(), codes[start : start + BATCH], strict=True)
            self._client.insert(self.collection, [{"row": row, "code": code.tobytes()} for row, code in some])
            self._written = True

    def remove(self, rows: NDArray[np.int64]) -> None:
        """Remove rows, see `Engine.remove`."""
        for start in range(0, len(rows), BATCH):
            self._client.delete(self.collection, ids=rows[start : start + BATCH].tolist())
            self._written = True

    def search(self, codes: NDArray[np.uint8], k: int, where: NDArray[np.bool_] | None = None) -> Found:
        """Return the nearest rows, see `Engine.search`.

        Raises:
            ValueError: also where k is above 16,384.
        """
        check_k(k)
        codes = check_packed(codes, self.bits, "codes")
        if k > LONGEST:
            raise ValueError(f"k is {k}; a Milvus server lists {LONGEST:,} at most, engine flat any number")
        filters = [""] if where is None else list(_filters(where))
        found = [self._one(code.tobytes(), k, filters) for code in codes]
        longest = max((min(k, len(rows)) for _, rows in found), default=0)
        return ordered(found, longest)

    def _one(self, code: bytes, k: int, filters: list[str]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        parts = [self._listed(code, k, expression) for expression in filters]
        empty = np.empty(0, np.int64)
        return (
            np.concatenate([empty, *(distances for distances, _ in parts)]).astype(np.int32),
            np.concatenate([empty, *(rows for _, rows in parts)]),
        )

    def _listed(self, code: bytes, k: int, expression: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return what is nearest, and all that is as near as the last of it, in any order."""
        limit = min(k + SPARE, LONGEST)
        while True:
            (hits,) = self._client.search(
                self.collection, [code], anns_field="code", filter=expression, limit=limit,
                search_params={"metric_type": "HAMMING"}, consistency_level=self._level(),
            )  # fmt: skip
            distances = np.array([hit["distance"] for hit in hits], dtype=np.int64)
            rows = np.array([hit.get("row", hit.get("id")) for hit in hits], dtype=np.int64)
            if len(hits) < limit or limit == LONGEST or distances[-1] > np.sort(distances)[k - 1]:
                return distances, rows
            limit = min(2 * limit, LONGEST)

    def drop(self) -> None:
        """Remove the collection from the server."""
        self._client.drop_collection(self.collection)


def _filters(where: NDArray[np.bool_]) -> Iterator[str]:
    """Yield expressions that choose these rows together: ranges, for images of a folder lie side by side, and lists."""
    edges = np.flatnonzero(np.diff(where.astype(np.int8), prepend=0, append=0)).reshape(-1, 2)
    long = edges[:, 1] - edges[:, 0] >= LONG
    ranges = [f"({first} <= row < {end})" for first, end in edges[long].tolist()]
    for start in range(0, len(ranges), RANGES):
        yield " or ".join(ranges[start : start + RANGES])
    rows = [row for first, end in edges[~long].tolist() for row in range(first, end)]
    for start in range(0, len(rows), BATCH):
        yield f"row in {rows[start : start + BATCH]}"
