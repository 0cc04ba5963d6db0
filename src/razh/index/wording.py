"""A query in words: the attributes and classes that a sentence names, and the words that say nothing here.

Words are compared by their stems. A part that a phrase names (`black wings`) chooses among the attributes of a value;
without one all of them share it (`red` may be a red crown or a red wing). Sentence vectors, where there are any, are
asked only for phrases of which no word was understood.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Vectors", "Words", "sentence_vectors", "understand"]

Vectors = Callable[[list[str]], NDArray[np.float32]]

STOP = frozenset(
    re.findall(
        r"\w+",
        "a an the and or of with has have having is are was it its that this these which who on in at to for from by "
        "as very quite rather some any photo photos picture image images show find me looks like looking colored",
    )
)
NOT = frozenset(("no", "not", "without", "non", "never"))
ALIKE = {"colour": "color", "grey": "gray", "coloured": "colored"}  # spellings of one word
NEAR = 0.5  # cosine from which a phrase means an attribute


class Words(NamedTuple):
    """What was understood.

    Attributes:
        attributes: strength and weight by position among the attributes' names: strength 0 is of what shall not be
            there, and attributes that share a word share its weight.
        classes: positions of classes that are named.
        unknown: words that say nothing, as they were written.
    """

    attributes: dict[int, tuple[float, float]]
    classes: list[int]
    unknown: list[str]


def _stem(word: str) -> str:
    """Return a word without its ending: crest, crested and crests are one."""
    word = ALIKE.get(word, word)
    for ending in ("ing", "ed", "es", "s", "y"):
        if word.endswith(ending) and len(word) - len(ending) >= 3 and not word.endswith("ss"):
            word = word.removesuffix(ending)
            break
    word = word.removesuffix("e")
    return word[:-1] if len(word) > 3 and word[-1] == word[-2] else word


def _stems(text: str) -> list[str]:
    return [_stem(word) for word in re.findall(r"[^\W_]+", text.lower())]


class _Attribute(NamedTuple):
    """Stems of an attribute's name: what it is of (`crown color`), and its value (`red`)."""

    of: frozenset[str]
    value: frozenset[str]


def _attribute(name: str) -> _Attribute:
    name = re.sub(r"\(.*?\)", "", name)  # remarks: `small_(5_-_9_in)`
    before, mark, value = re.sub("::|=", ":", name).rpartition(":")
    stems = _stems(before)
    of = frozenset(stems[1:] if len(stems) > 1 and stems[0] == _stem("has") else stems)
    said = frozenset(_stems(value))
    return _Attribute(of, (said - of) or said) if mark else _Attribute(frozenset(), said)


def understand(
    text: str,
    names: Sequence[str],
    classes: Sequence[str] = (),
    synonyms: Mapping[str, str] | None = None,
    vectors: Vectors | None = None,
) -> Words:
    """Return which attributes and classes a text names.

    Args:
        text: such as `small red bird with a crest, no spots`.
        names: of the attributes (M).
        classes: names of classes whose attributes are known.
        synonyms: words of parts that mean one thing, both ways.
        vectors: gives sentences their vectors (n, V), of length 1; None: words alone count.

    Raises:
        ValueError: nothing was understood.
    """
    known = [_attribute(name) for name in names]
    same = {_stem(a): _stem(b) for one, two in (synonyms or {}).items() for a, b in ((one, two), (two, one))}
    called = [_called(name) for name in classes]
    of_attributes = frozenset[str]().union(*(one.of | one.value for one in known))
    found, named, unknown = dict[int, tuple[float, float]](), list[int](), list[str]()
    for words, wanted in _phrases(text):
        stems = [frozenset((_stem(word), same.get(_stem(word), _stem(word)))) for word in words]
        used, of_class = _classes(stems, called, of_attributes) if wanted else (set[int](), list[int]())
        named += of_class
        also, chosen = _attributes([stem if at not in used else frozenset() for at, stem in enumerate(stems)], known)
        used |= also
        if not used and vectors is not None and words:
            near = vectors([" ".join(words), *(" ".join(re.findall(r"[^\W_]+", name)) for name in names)])
            likely = near[1:] @ near[0]
            if likely.max(initial=0) >= NEAR:
                chosen, used = {int(likely.argmax()): 1.0}, set(range(len(words)))
        found |= {place: (wanted, share) for place, share in chosen.items()}
        unknown += [word for at, word in enumerate(words) if at not in used]
    if not found and not named:
        raise ValueError(
            f"--text={text}: none of its words is an attribute or a class of this checkpoint; `razh inspect` lists all "
            f"{len(names)} attributes"
        )
    return Words(found, list(dict.fromkeys(named)), list(dict.fromkeys(unknown)))


def _called(name: str) -> list[str]:
    """Return the stems of a class's name, in order, without the number that data sets put before it."""
    empty = {_stem(word) for word in STOP}
    stems = [stem for stem in _stems(name) if stem not in empty]
    return [stem for stem in stems if not stem.isdigit()] or stems


def _phrases(text: str) -> list[tuple[list[str], float]]:
    """Return the words of each phrase without those that mean nothing, and 1, or 0 where it says what is not there."""
    phrases = []
    for part in re.split(r"[,;.]|\b(?:and|but|with)\b|(?=\b(?:no|not|without)\b)", text.lower()):
        words = re.findall(r"[^\W_]+", part)
        kept = [word for word in words if word not in STOP | NOT]
        if kept:
            phrases.append((kept, 0.0 if NOT.intersection(words) else 1.0))
    return phrases


def _classes(
    stems: list[frozenset[str]], called: Sequence[Sequence[str]], of_attributes: frozenset[str]
) -> tuple[set[int], list[int]]:
    """Return which words name classes, and these: one by all words of its name, else all by their last (gull)."""
    said = frozenset[str]().union(*stems)
    kinds = said - of_attributes
    whole = [place for place, name in enumerate(called) if name and said.issuperset(name)]
    whole = whole or [place for place, name in enumerate(called) if name and name[-1] in kinds]
    used = {at for at, stem in enumerate(stems) for place in whole if not stem.isdisjoint(called[place])}
    return used, whole


def _attributes(stems: list[frozenset[str]], known: Sequence[_Attribute]) -> tuple[set[int], dict[int, float]]:
    """Return which words of a phrase name attributes, and these with their shares."""
    used, found = set[int](), dict[int, float]()
    for group in _groups(stems, known):
        said = frozenset[str]().union(*(stems[at] for at in group))
        least = min(1, max((len(said & one.of) for one in known), default=0))  # a part that is named must be the one
        for at in group:
            having = [place for place, one in enumerate(known) if stems[at] & one.value and len(said & one.of) >= least]
            having = [place for place in having if known[place].value <= said] or having
            agreeing = {place: len(said & (known[place].of | known[place].value)) for place in having}
            most = max(agreeing.values(), default=0)
            chosen = [place for place in having if agreeing[place] == most]
            if chosen:
                used.add(at)
            for place in chosen:
                found[place] = max(found.get(place, 0.0), 1 / len(chosen))
                used |= {where for where in group if stems[where] & known[place].of}
    return used, found


def _groups(stems: list[frozenset[str]], known: Sequence[_Attribute]) -> list[list[int]]:
    """Return runs of words that belong together: what is neither part nor value ends one (`red bird long tail`)."""
    said = frozenset[str]().union(*(one.of | one.value for one in known))
    groups = list[list[int]]([[]])
    for at, stem in enumerate(stems):
        if stem & said:
            groups[-1].append(at)
        else:
            groups.append([])
    return [group for group in groups if group]


def sentence_vectors(model: str) -> Vectors:
    """Return what gives sentences their vectors of length 1, by a model of sentence-transformers.

    Args:
        model: its name or folder.

    Raises:
        ValueError: sentence-transformers is not installed, or there is no such model.
    """
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        raise ValueError(f'--text-model={model} needs a package; pip install "sentence-transformers>=3.0"') from None
    try:
        network = SentenceTransformer(model)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"--text-model={model} cannot be loaded ({reason}); name a folder, or leave it out") from None

    def vectors(sentences: list[str]) -> NDArray[np.float32]:
        return np.asarray(network.encode(sentences, normalize_embeddings=True, show_progress_bar=False), np.float32)

    return vectors
