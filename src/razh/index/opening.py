"""The engine of an archive: filled with its rows, or brought up to date with them."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from razh.index.archive import Snapshot
from razh.index.engines import ENGINES, Engine
from razh.support.files import read_json, replacing, write_json
from razh.support.terminal import did_you_mean

__all__ = ["MIN_RECALL", "follow", "open_engine"]

log = logging.getLogger(__name__)
MIN_RECALL = 0.99
STATE, INDEX = "ivf.json", "ivf.faiss"


def open_engine(
    archive: Snapshot, name: str = "flat", uri: str | None = None, min_recall: float = MIN_RECALL
) -> Engine:
    """Return an engine that has the images of an archive.

    `ivf` is built once and kept beside the archive's files; `milvus` is sent what its server does not have yet.

    Args:
        archive: whose images are searched.
        name: one of `razh.index.engines.ENGINES`.
        uri: of a Milvus server.
        min_recall: that `ivf` must have.

    Raises:
        ValueError: an unknown engine, a recall that is too low, or no `uri` where one is needed.
        ImportError: the package of the engine is not installed.
        ConnectionError: there is no server.
    """
    if name == "flat":
        from razh.index.engines.flat import Flat

        engine: Engine = Flat(archive.bits)
        follow(engine, archive, None)
        return engine
    if name == "ivf":
        return _ivf(archive, min_recall)
    if name == "milvus":
        return _milvus(archive, uri)
    raise ValueError(f"--engine={name} is unknown; {did_you_mean(name, ENGINES)}choose {', '.join(ENGINES)}")


def follow(engine: Engine, archive: Snapshot, before: Snapshot | None) -> None:
    """Give an engine that has the rows of one state those of a later one; None: it has none.

    The numbers of rows must be the same in both, see `Snapshot.numbering`.
    """
    live = archive.live_rows()
    if before is not None:
        gone = np.setdiff1d(before.live_rows(), live)
        if len(gone):
            engine.remove(gone)
        live = live[live >= len(before.codes)]
    if len(live):
        engine.add(live, _codes(archive, live))


def _codes(archive: Snapshot, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
    whole = len(rows) == len(archive.codes)
    codes: NDArray[np.uint8] = archive.codes if whole else archive.codes[rows]
    return codes


def _ivf(archive: Snapshot, min_recall: float) -> Engine:
    from razh.index.engines.ivf import IVF

    state, path = read_json(archive.folder / STATE), archive.folder / INDEX
    rows = archive.live_rows()
    if state.get("numbering") == archive.numbering and state.get("recall", 0) >= min_recall and path.is_file():
        try:
            known = int(state["rows"])
            engine = IVF.load(path, archive.bits, rows, _codes(archive, rows), known)
        except RuntimeError:  # FAISS's word for a damaged file
            log.warning("%s is damaged and is built again", path)
        else:
            log.info("%s", state["description"])
            return engine
    engine = IVF(archive.bits, min_recall)
    engine.add(rows, _codes(archive, rows))
    try:
        with replacing(path) as part:
            engine.save(Path(part))
        content = {"numbering": archive.numbering, "rows": len(archive.codes), "recall": engine.recall}
        write_json(archive.folder / STATE, content | {"description": engine.description})
    except OSError as error:
        log.warning("%s cannot be kept (%s); it is built again next time", path, error.strerror or error)
    return engine


def _milvus(archive: Snapshot, uri: str | None) -> Engine:
    from razh.index.engines.milvus import Milvus

    if not uri:
        raise ValueError("--engine=milvus needs --uri, such as http://localhost:19530")
    engine = Milvus(archive.bits, uri, "razh_" + "".join(c if c.isalnum() else "_" for c in archive.numbering))
    last, live = engine.last, archive.live_rows()
    if len(engine) > np.count_nonzero(live <= last):
        engine.remove(np.setdiff1d(np.arange(last + 1), live))
    new = live[live > last]
    if len(new):
        log.info("%s: sending %s codes", uri, f"{len(new):,}")
        engine.add(new, archive.codes[new])
    return engine
