"""What is asked: images of the archive, other images, which a network encodes, and several of them as one question."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from razh.datamodules.files.walk import printable
from razh.export.facts import weights_of
from razh.index.archive import ArchiveGallery
from razh.index.gallery import RERANKED, SPARE, Gallery, Hits, by_features, find
from razh.index.loading import open_network
from razh.index.network import Encoded, Network
from razh.index.options import Encoding
from razh.retrieval import asymmetric
from razh.retrieval.hamming import distances
from razh.support.files import digest_of

if TYPE_CHECKING:
    from razh.index.describing import Described
    from razh.index.engines import Engine

__all__ = ["Queries", "Ranking", "features_of", "find_each", "find_together", "load_for", "resolve"]

AWAY = 0.5  # weight of what is not wanted; at 1 the bits that it shares with what is wanted would say nothing
_BLOCK_ROWS = 1 << 16


class Queries(NamedTuple):
    """Queries that have codes.

    Attributes:
        names: to show.
        codes: packed (q, ceil(L / 8)).
        rows: in the gallery, −1 where they are not in it.
        files: of the images.
        logits: (q, L), where they are ranked by them.
        features: of length 1 (q, D), where they are ordered by them.
    """

    names: list[str]
    codes: NDArray[np.uint8]
    rows: list[int]
    files: list[Path]
    logits: NDArray[np.float32] | None = None
    features: NDArray[np.floating[Any]] | None = None

    def beside(self, name: str, made: Described) -> Queries:
        """Return these queries and one that was described."""

        def joined(mine: NDArray[Any] | None, other: NDArray[Any] | None) -> NDArray[Any] | None:
            if mine is None or other is None:
                return None
            return np.concatenate([mine, other]) if len(self.names) else other

        return Queries(
            [*self.names, name],
            np.concatenate([self.codes, made.code]),
            [*self.rows, -1],
            self.files,
            joined(self.logits, made.logits),
            joined(self.features, made.features),
        )


@dataclass(frozen=True)
class Ranking:
    """How images are ordered.

    Attributes:
        asymmetric: by the real-valued logits of the query, see `razh.retrieval.asymmetric`; else by Hamming distance.
        features: the first `RERANKED` of these by the cosine of their features, which the archive must keep.
    """

    asymmetric: bool = False
    features: bool = False


def resolve(
    gallery: Gallery,
    given: Sequence[str],
    how: Encoding,
    checkpoint: Path | None,
    device: str | None,
    images: Path | None,
    ranking: Ranking = Ranking(),
) -> Queries:
    """Return the queries with their codes, those that need a network last.

    Args:
        gallery: what is searched.
        given: paths in the gallery, or images and folders of them.
        how: images are encoded.
        checkpoint: that made the codes; None for the one that the gallery remembers.
        device: to encode on; None for the default.
        images: the folder that was encoded, where the gallery cannot know it.
        ranking: what queries need beside codes; for logits, also those in the gallery are encoded.

    Raises:
        FileNotFoundError: a query is neither.
        ValueError: the checkpoint is unknown or another one, or no query is a readable image.
    """
    at = gallery.rows_of(given)
    rows = [at[query] for query in given if query in at]
    names = [gallery.paths[row] for row in rows]
    files = [gallery.file_of(name, images) for name in names]
    codes = gallery.codes[rows]
    others = [Path(query) for query in given if query not in at]
    for query in others:
        if not query.exists():
            raise FileNotFoundError(
                f"{printable(query)} is neither a path in {gallery.source} nor an image or a folder here"
            )
    logits: NDArray[np.float32] = np.empty((0, gallery.bits), np.float32)
    kept = features_of(gallery) if ranking.features else None
    features: NDArray[Any] | None = None if kept is None else kept[rows]
    again = files if ranking.asymmetric else []
    if others or again:
        from razh.index.sources import Source, find_images

        source = find_images(others) if others else Source([], [], [])
        why = (
            f"{printable(others[0])} is no path in {gallery.source}, so it has to be encoded"
            if others
            else "--ranking=asymmetric encodes the queries"
        )
        network = load_for(gallery, checkpoint, device, why)
        whole, made = _encoded(network, [*again, *source.files], replace(how, features=ranking.features))
        if len(again) > (first := sum(at < len(again) for at in whole)):
            lost = next(at for at in range(len(again)) if at not in whole)
            raise FileNotFoundError(
                f"{printable(again[lost])} cannot be read, and --ranking=asymmetric encodes the queries; leave it out"
            )
        new = [at - len(again) for at in whole[first:]]
        names += [source.names[at] for at in new]
        rows += [-1] * len(new)
        files = [*files, *(source.files[at] for at in new)]
        codes = np.concatenate([codes, made.codes[first:]])
        logits = made.logits
        if features is not None and made.features is not None:
            features = np.concatenate([features, made.features[first:]])
    return Queries(names, codes, rows, files, logits if ranking.asymmetric else None, features)


def _encoded(network: Network, files: Sequence[Path], how: Encoding) -> tuple[list[int], Encoded]:
    """Return the positions of readable images among files, and what is made of them.

    Raises:
        ValueError: there is none.
    """
    made = list(network.batches(files, how))
    broken = {at: reason for batch in made for at, reason in batch.broken.items()}
    if len(broken) == len(files):
        raise ValueError(f"no query is a readable image; the first: {broken[0]}")
    whole = [at for at in range(len(files)) if at not in broken]
    codes, logits = (np.concatenate([batch[place] for batch in made])[whole] for place in (1, 3))
    described = [batch.features for batch in made if batch.features is not None]
    return whole, Encoded(codes, logits, np.concatenate(described)[whole] if described else None)


def features_of(gallery: Gallery) -> NDArray[np.float16]:
    """Return the features (n, D) that an archive keeps.

    Raises:
        ValueError: it keeps none.
    """
    kept = gallery.archive.features if isinstance(gallery, ArchiveGallery) else None
    if kept is None:
        raise ValueError(
            f"--rerank=features: {gallery.source} keeps no features; make an archive with `razh index --features`"
        )
    return kept


def load_for(gallery: Gallery, checkpoint: Path | None, device: str | None, why: str) -> Network:
    """Load the checkpoint that made the codes of a gallery, or what was exported from it.

    Args:
        gallery: what is searched.
        checkpoint: where it is; None for where it was.
        device: to load it to; None for the default.
        why: it is needed, for the message if it is unknown.

    Raises:
        ValueError: it is unknown, gone, or another one.
    """
    path = checkpoint or gallery.checkpoint_path
    if path is None or not (checkpoint or path.is_file()):
        gone = f" (it was {path})" if path is not None else ""
        raise ValueError(f"{why}; name the --checkpoint that made the codes{gone}")
    path = weights_of(path)
    network = open_network(path, device)
    if network.bits != gallery.bits:
        raise ValueError(f"{path} makes codes of {network.bits} bits, {gallery.source} has {gallery.bits}")
    if gallery.checkpoint and gallery.checkpoint not in (digest_of(path), network.origin):
        raise ValueError(f"{gallery.source} was made with another checkpoint than {path}; its codes do not compare")
    return network


def find_each(
    gallery: Gallery, queries: Queries, top: int, within: int | None, engine: Engine | None, ranking: Ranking,
    spare: int = SPARE,
) -> list[Hits]:  # fmt: skip
    """Return the nearest images of each query, see `find`, ordered as `ranking` says."""
    first = max(top, RERANKED) if ranking.features else top
    hits = find(gallery, queries.names, queries.codes, queries.rows, first, within, engine, spare, queries.logits)
    if not ranking.features:
        return hits
    kept = features_of(gallery)
    if queries.features is None:
        raise ValueError("--rerank=features: a description has features where the archive has images of training "
                         "classes; add some, or leave it out")  # fmt: skip
    return [by_features(one, query, kept, top) for one, query in zip(hits, queries.features, strict=True)]


def find_together(gallery: Gallery, wanted: Queries, unwanted: Queries, top: int, within: int | None) -> Hits:
    """Return the images that are near to all of some queries together, and far from others; every code is looked at.

    Images are ordered by the mean distance to what is wanted, less half of that to what is not; where queries have
    features, the first of these likewise by the mean cosine.

    Args:
        gallery: what is searched; queries that are in it are not found.
        wanted: at least one query.
        unwanted: any number.
        top: length of the list.
        within: largest mean distance to what is wanted; None for any.
    """
    first = top if wanted.features is None else max(top, RERANKED)
    scores, means, rows = (np.empty(0, kind) for kind in (np.float64, np.float64, np.int64))
    for some, score, mean in _scores(gallery, wanted, unwanted, within):
        kept = score < (scores[-1] if len(rows) == first else np.inf)  # rows that come later lose against equals
        scores, means = np.concatenate([scores, score[kept]]), np.concatenate([means, mean[kept]])
        rows = np.concatenate([rows, some[kept]])
        order = np.argsort(scores, kind="stable")[:first]
        scores, means, rows = scores[order], means[order], rows[order]
    name = " + ".join(wanted.names) + "".join(f" − {name}" for name in unwanted.names)
    found = [(round(float(mean), 1), gallery.paths[int(row)]) for mean, row in zip(means, rows, strict=True)]
    hits = Hits(name, found, 0, False, [int(row) for row in rows])
    if wanted.features is None:
        return hits
    query = wanted.features.mean(axis=0, dtype=np.float32)
    if unwanted.features is not None and len(unwanted.features):
        query = query - AWAY * unwanted.features.mean(axis=0, dtype=np.float32)
    return by_features(hits, query, features_of(gallery), top)


def _scores(
    gallery: Gallery, wanted: Queries, unwanted: Queries, within: int | None
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]]:
    """Yield rows that can be found, their scores, and their mean distances to what is wanted."""
    own = [row for row in (*wanted.rows, *unwanted.rows) if row >= 0]
    for start in range(0, len(gallery.codes), _BLOCK_ROWS):
        part = gallery.codes[start : start + _BLOCK_ROWS]
        mean, away = (
            _distances(some, part, gallery.bits).sum(axis=0) / max(1, len(some.codes)) for some in (wanted, unwanted)
        )
        kept = np.ones(len(part), np.bool_) if gallery.mask is None else gallery.mask[start : start + len(part)].copy()
        kept[[row - start for row in own if start <= row < start + len(part)]] = False
        if within is not None:
            kept &= mean <= within
        chosen = np.flatnonzero(kept)
        yield chosen + start, (mean - AWAY * away)[chosen], mean[chosen]


def _distances(queries: Queries, codes: NDArray[np.uint8], bits: int) -> NDArray[Any]:
    if queries.logits is not None:
        return asymmetric.distances(queries.logits, codes, bits) / asymmetric.ONE
    return distances(queries.codes, codes, bits, backend="numpy")
