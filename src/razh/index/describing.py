"""A query without an image: what is known of its attributes, turned into a code by the classes that have both."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from razh.index.archive import Snapshot
from razh.index.wording import Vectors, understand
from razh.retrieval.packing import pack, unpack
from razh.support.terminal import did_you_mean

if TYPE_CHECKING:
    from razh.index.network import Network

__all__ = ["Asked", "Described", "Known", "asked", "asked_in_words", "described", "known_classes", "named", "parse"]

PENALTY = 1.0  # of the ridge, in units of the mean variance of an attribute
FEWEST = 3  # classes from which something can be learnt


class Known(NamedTuple):
    """Classes of which attributes are known, and what a network makes of the images of some of them.

    Attributes:
        names: of the attributes (M).
        attributes: strengths (C, M) of the classes with images.
        logits: mean hash logits, or mean signs of codes, of their images (C, L).
        features: mean features (F, D) of the images of the first F of them, where the archive keeps some.
        class_names: of all classes that the checkpoint knows (A).
        of_class: their attributes (A, M).
        synonyms: words of parts that mean one thing.
    """

    names: Sequence[str]
    attributes: NDArray[np.float32]
    logits: NDArray[np.float32]
    features: NDArray[np.float32] | None = None
    class_names: Sequence[str] = ()
    of_class: NDArray[np.float32] | None = None
    synonyms: Mapping[str, str] = {}  # a default that nobody writes to


class Asked(NamedTuple):
    """What is described.

    Attributes:
        attributes: strength in [0, 1] and weight by position among the attributes; strength 1 is that of the strongest
            class.
        classes: positions among `Known.class_names`, whose attributes count in the mean where none is named.
        text: as it was understood.
    """

    attributes: Mapping[int, tuple[float, float]]
    classes: Sequence[int] = ()
    text: str = ""


class Described(NamedTuple):
    """What a description is searched by.

    Attributes:
        code: packed (1, ceil(L / 8)).
        logits: (1, L), whose signs it is.
        features: (1, D) of length 1, where the archive keeps them.
    """

    code: NDArray[np.uint8]
    logits: NDArray[np.float32]
    features: NDArray[np.float32] | None


def known_classes(network: Network, archive: Snapshot | None = None) -> Known:
    """Return the classes that a network knows by their images, with what its codes make of these.

    Of training classes, and of described ones that the codes were fitted to: images of an archive, by the names of
    classes, where it has images of `FEWEST` of them; of the others what the network keeps.

    Raises:
        ValueError: the checkpoint knows no attributes.
    """
    info, facts = network.info, network.classes()
    names, strengths = info.get("attribute_names") or [], facts.attributes
    classes = facts.names or info.get("class_names") or []
    if not names or len(names) != strengths.shape[1]:
        raise ValueError("a description needs a checkpoint that knows the names of its attributes; train on data that "
                         "has attributes")  # fmt: skip
    labels, logits, features = _seen_in(archive, facts.looked_at, classes) if archive is not None else ([], [], [])
    if facts.logits is not None:
        if len(labels) < FEWEST:
            labels, logits, features = [], [], []
        rows = np.flatnonzero(np.isfinite(facts.logits).all(axis=1))
        kept = {facts.looked_at[row]: facts.logits[row] for row in rows}
        size = _size([logits[at] for at, label in enumerate(labels) if label in kept])
        others = _size([kept[label] for label in labels if label in kept])
        new = [label for label in kept if label not in labels]
        labels, logits = labels + new, logits + [kept[label] * (size / others) for label in new]
    return Known(
        names,
        strengths[labels],
        np.array(logits, np.float32).reshape(len(labels), network.bits),
        np.array(features) if features else None,
        classes[: len(strengths)],
        strengths,
        info.get("part_synonyms") or {},
    )


def _size(logits: Sequence[NDArray[np.float32]]) -> float:
    """Return the mean length of logits, 1 where there are none: signs and logits of classes differ in it alone."""
    return float(np.mean([np.linalg.norm(one) for one in logits])) or 1.0 if logits else 1.0


def _seen_in(
    archive: Snapshot, trained: Sequence[int], classes: Sequence[str]
) -> tuple[list[int], list[NDArray[np.float32]], list[NDArray[np.float32]]]:
    """Return the training classes of which an archive has images, and the mean signs and features of these."""
    column = archive.columns["class"]
    numbers = {column.words[number]: number for number in range(len(column.words))}
    alive = np.ones(len(archive.codes), np.bool_) if archive.alive is None else archive.alive
    found, signs, features = list[int](), list[NDArray[np.float32]](), list[NDArray[np.float32]]()
    for label in trained:
        number = numbers.get(classes[label]) if label < len(classes) else None
        rows = np.flatnonzero((column.numbers == number) & alive)  # none of a class that is not here
        if number is not None and len(rows):
            found.append(label)
            signs.append(2 * unpack(archive.codes[rows], archive.bits).mean(axis=0, dtype=np.float32) - 1)
            if archive.features is not None:
                features.append(archive.features[rows].mean(axis=0, dtype=np.float32))
    return found, signs, features


def asked(description: Mapping[str, float], names: Sequence[str]) -> Asked:
    """Return what is described by strengths in [0, 1] by attribute.

    Raises:
        ValueError: an attribute is unknown or may be several, or nothing is described.
    """
    if not description:
        raise ValueError("nothing is described; name an attribute")
    found = {named(given, names): (strength, 1.0) for given, strength in description.items()}
    return Asked(found, (), ", ".join(f"{names[place]}:{strength:g}" for place, (strength, _) in found.items()))


def asked_in_words(text: str, known: Known, vectors: Vectors | None = None) -> tuple[Asked, list[str]]:
    """Return what a text describes, and the words that say nothing here.

    Args:
        text: such as `small red bird with a crest`.
        known: the classes.
        vectors: gives sentences their vectors, see `razh.index.wording.understand`.

    Raises:
        ValueError: nothing was understood.
    """
    words = understand(text, known.names, known.class_names, known.synonyms, vectors)
    parts = [f"like {known.class_names[place]}" for place in words.classes]
    parts += [
        ("" if strength else "no ") + known.names[place] + (f" (1/{1 / weight:.0f})" if weight < 1 else "")
        for place, (strength, weight) in words.attributes.items()
    ]
    return Asked(words.attributes, words.classes, ", ".join(parts)), words.unknown


def parse(text: str) -> dict[str, float]:
    """Return strengths by attribute of a description: `crown color=red, bill shape=hooked:0.8`; 1 where none is given.

    Raises:
        ValueError: a strength is no number in [0, 1], or nothing is described.
    """
    found: dict[str, float] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, colon, strength = (
            part.rpartition(":")
            if re.search(r":(\s*[-+.\d][-+.\w]*|\w+)$", part) and "::" not in part
            else (part, "", "")
        )
        try:
            found[name.strip()] = float(strength) if colon else 1.0
        except ValueError:
            raise ValueError(
                f"--describe: {strength!r} of {part!r} is no strength; write a number from 0 to 1"
            ) from None
    if wrong := [name for name, strength in found.items() if not 0 <= strength <= 1]:
        raise ValueError(f"--describe: {wrong[0]}:{found[wrong[0]]:g} must be from 0 (without it) to 1")
    if not found:
        raise ValueError("--describe is empty; name attributes, such as `crown color=red, bill shape=hooked:0.8`")
    return found


def named(given: str, names: Sequence[str]) -> int:
    """Return which attribute is meant: by its words, in any order, of which the beginnings are enough.

    Raises:
        ValueError: none, or several are; the message lists what is near.
    """
    wanted = _words(given)
    known = [_words(name) for name in names]
    if exact := [place for place, words in enumerate(known) if set(words) == set(wanted)]:
        return exact[0]
    begun = [
        place
        for place, words in enumerate(known)
        if wanted and all(any(word.startswith(part) for word in words) for part in wanted)
    ]
    if len(begun) == 1:
        return begun[0]
    if begun:
        some = ", ".join(names[place] for place in begun[:5])
        raise ValueError(f"{given!r} may be {some}{', …' if len(begun) > 5 else ''}; say which")
    spelled = {" ".join(words): name for words, name in zip(known, names, strict=True)}
    hint = did_you_mean(" ".join(wanted), spelled)
    raise ValueError(f"{given!r} is no attribute of this checkpoint; {hint}`razh inspect` lists all {len(names)}")


def _words(name: str) -> list[str]:
    """Return the words of a name without what tables put around them: `has_crown_color::red` is crown, color, red."""
    words = re.findall(r"[^\W_]+", name.lower())
    return words[1:] if len(words) > 1 and words[0] == "has" else words


def described(description: Asked, known: Known) -> Described:
    """Return the code of what is described.

    Attributes that are not named are those of the mean class, or of the classes that are. A ridge regression of logits
    (and features) on attributes, both without their means, says what the others change.

    Args:
        description: what is asked for.
        known: classes with attributes and logits.

    Raises:
        ValueError: there are too few classes, or they are all alike in what is described.
    """
    attributes = known.attributes.astype(np.float64)
    if len(attributes) < FEWEST:
        raise ValueError(f"a description needs {FEWEST} classes with attributes and images, there are "
                         f"{len(attributes)}; name the checkpoint where its run lies, which keeps them, or add images "
                         "of the training classes to the archive, in folders that are named as these")  # fmt: skip
    mean, difference = attributes.mean(axis=0), np.zeros(attributes.shape[1])
    if description.classes and known.of_class is not None:
        difference = known.of_class[list(description.classes)].mean(axis=0) - mean
    for place, (strength, weight) in description.attributes.items():
        low, high = attributes[:, place].min(), attributes[:, place].max()
        difference[place] = weight * (low + strength * (high - low) - mean[place])
    length = np.linalg.norm(difference)
    if not length:
        raise ValueError(f"{description.text} is the same for all classes; name what tells them apart")
    found = _predicted(attributes, known.logits, difference / length)
    features = None
    if known.features is not None:
        features = _predicted(attributes[: len(known.features)], known.features, difference / length)
        features /= max(float(np.linalg.norm(features)), 1e-12)
    return Described(pack(found >= 0), found, features)


def _predicted(
    attributes: NDArray[np.float64], values: NDArray[np.float32], difference: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Return the values (1, V) of what differs (M) so from the mean class, by a ridge from classes (C, M), (C, V)."""
    mean = values.mean(axis=0, dtype=np.float64)
    centred = attributes - attributes.mean(axis=0)
    lengths = np.linalg.norm(centred, axis=1, keepdims=True)
    centred = centred / np.maximum(lengths, 1e-12)
    # Dual form: classes are fewer than attributes.
    kernel = centred @ centred.T
    penalty = PENALTY * kernel.diagonal().mean() * len(centred) / attributes.shape[1]
    weights = np.linalg.solve(kernel + penalty * np.eye(len(kernel)), values - mean)
    found: NDArray[np.float32] = (mean + difference @ centred.T @ weights)[None].astype(np.float32)
    return found
