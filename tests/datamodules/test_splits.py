import hashlib
import json

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from razh.datamodules.annotations import Annotations
from razh.datamodules.protocols import Protocol, make_split, validation_lists
from razh.datamodules.splits import ZeroShotSplit

LABELS = np.repeat(np.arange(5), 4)  # class c has images 4c … 4c + 3


def annotations(classes=10, images=12, official=None):
    return Annotations(
        labels=np.repeat(np.arange(classes), images),
        class_names=tuple(f"class {c}" for c in range(classes)),
        attribute_names=("a",),
        class_attributes=np.zeros((classes, 1), dtype=np.float32),
        official=official or {},
    )


def split(**changes):
    parts = {
        "protocol": "ps",
        "seen_classes": (0, 1, 2),
        "unseen_classes": (3, 4),
        "validation_classes": (2,),
        "train": [0, 1, 4, 5],
        "validation_query": [8],
        "validation_database": [9, 2],
        "query": [13, 17],
        "database": [3, 6, 7, 10, 11, 12, 14, 15, 16, 18, 19],
        "labels": LABELS,
    }
    return ZeroShotSplit(**{**parts, **changes})


def test_lists_are_sorted_and_read_only():
    value = split(train=[5, 1, 0, 4])
    assert value.train.tolist() == [0, 1, 4, 5]
    assert value.train.dtype == np.int64
    with pytest.raises(ValueError, match="read-only"):
        value.train[0] = 7


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"train": [0, 20]}, "index 20, but there are 20 images"),
        ({"train": [-1, 0]}, "index -1"),
        ({"train": [0, 0]}, "index 0 twice"),
        ({"unseen_classes": (2, 3, 4)}, "classes 2 of split 'ps' are both seen and unseen"),
        ({"validation_classes": (3,)}, "validation classes, but not seen"),
        ({"train": [0, 12]}, "classes 3 of split 'ps' are in train"),
        ({"train": [0, 8], "validation_query": [10]}, "classes 2 of split 'ps' are in train"),
        ({"query": [13, 3]}, "classes 0 of split 'ps' are in query, but not unseen"),
        ({"database": [3, 12]}, "classes 4 of split 'ps' are in query, but not database"),
        ({"database": [3, 12, 13, 16]}, "query and database of split 'ps' share 1 images"),
        ({"validation_query": [0]}, "no validation classes"),
        ({"validation_database": [9, 12]}, "in validation_database, but not seen"),
        ({"validation_database": [2]}, "not in validation_database"),
        ({"validation_database": [9, 0]}, "train and validation_database of split 'ps' share 1"),
        ({"validation_database": [8, 9]}, "validation_query and validation_database"),
    ],
)
def test_refuses(changes, fault):
    with pytest.raises(ValueError, match=fault):
        split(**changes)


def test_released_lists_may_overlap_but_are_measured():
    value = split(database=[3, 12, 13, 16], as_released=True)
    assert value.overlap("query", "database") == 1


def test_fingerprint_depends_on_the_lists_alone():
    assert split().fingerprint == split(protocol="other", train=[5, 4, 1, 0]).fingerprint
    assert split().fingerprint != split(train=[0, 1, 4]).fingerprint
    # moving an image from one list to another changes it although the concatenation stays
    assert (
        split().fingerprint
        != split(validation_query=[8, 9], validation_database=[2, 10], database=[3, 12, 16]).fingerprint
    )


def test_fingerprint_equals_a_slow_hash():
    value, digest = split(), hashlib.sha256()
    for name in ("train", "validation_query", "validation_database", "query", "database"):
        rows = sorted(getattr(value, name).tolist())
        digest.update(f"{name} {len(rows)}\n".encode())
        for row in rows:
            digest.update(row.to_bytes(8, "little"))
    assert value.fingerprint == digest.hexdigest()


def test_plain_values():
    value = split(notes="n")
    plain = json.loads(json.dumps(value.as_dict()))
    assert plain["query"] == [13, 17]
    assert plain["unseen_classes"] == [3, 4]
    assert (plain["notes"], plain["fingerprint"]) == ("n", value.fingerprint)
    assert value.counts()["train"] == 4
    assert value.counts()["seen_classes"] == 3


@settings(max_examples=30, deadline=None)
@given(
    counts=st.lists(st.integers(1, 9), min_size=2, max_size=8),
    share=st.integers(1, 90),
    seed=st.integers(0, 5),
    held=st.sampled_from([0, 0.2, 0.5]),
)
def test_any_share_of_unseen_classes_gives_a_valid_split(counts, share, seed, held):
    labels = np.repeat(np.arange(len(counts)), counts)
    facts = Annotations(labels, tuple(map(str, range(len(counts)))), (), np.zeros((len(counts), 0), np.float32))
    try:
        value = make_split(f"unseen-{share}%", {}, facts, seed=seed, validation_class_share=held)
    except ValueError:
        assume(min(counts) > 1)  # unseen classes of one image have no query
        raise
    assert len(value.unseen_classes) == min(max(round(share / 100 * len(counts)), 1), len(counts) - 1)
    parts = [getattr(value, name) for name in value.SUBSETS]
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(labels)))  # each image exactly once
    assert len(value.train) > 0
    assert (len(value.validation_classes) == 0) == (held == 0 or len(value.seen_classes) == 1)


def test_seed_decides():
    facts = annotations()
    first, again, other = (make_split("unseen-30%", {}, facts, seed=seed) for seed in (0, 0, 1))
    assert first.fingerprint == again.fingerprint != other.fingerprint


def test_draws_never_change():
    """The fingerprint is part of published results: this fails if a seeded draw changes."""
    assert make_split("unseen-30%", {}, annotations()).fingerprint.startswith("3180149cc891")


@pytest.mark.parametrize("name", ["last10", "unseen-0%", "unseen-91%", "unseen-100%", "unseen-20", "PS"])
def test_unknown_protocol_lists_those_there_are(name):
    with pytest.raises(
        ValueError, match=rf"protocol is '{name}', but this data set has ps, comae, unseen-K% \(K from 1 to 90\)"
    ):
        make_split(name, {"ps": Protocol(unseen=(1,)), "comae": Protocol(unseen=(1,))}, annotations())


def test_proposed_split_follows_the_lists():
    official = {"trainval": np.arange(0, 90), "test_seen": np.arange(90, 96), "test_unseen": np.arange(96, 120)}
    protocols = {"ps": Protocol(unseen=(8, 9), official=True)}
    value = make_split("ps", protocols, annotations(official=official), validation_class_share=0.25)
    assert value.query.tolist() == [*range(97, 108, 2), *range(109, 120, 2)]  # every other one of each class
    assert value.database.tolist() == [*range(90, 96), *range(96, 108, 2), *range(108, 120, 2)]
    assert value.notes == ""
    assert len(value.validation_classes) == 2
    parts = np.concatenate([value.train, value.validation_query, value.validation_database])
    assert sorted(parts.tolist()) == list(range(90))


def test_proposed_split_refuses_another_row_order():
    official = {"trainval": np.arange(0, 100), "test_seen": np.arange(100, 101), "test_unseen": np.arange(101, 120)}
    with pytest.raises(ValueError, match="mix seen and unseen classes"):
        make_split("ps", {"ps": Protocol(unseen=(8, 9), official=True)}, annotations(official=official))


def test_proposed_split_without_lists_says_so(caplog):
    value = make_split("ps", {"ps": Protocol(unseen=(8, 9), official=True)}, annotations(), validation_class_share=0)
    assert "80/20" in value.notes
    assert "no published image lists found" in caplog.text
    assert len(value.train) == 8 * 10  # 80 % of 12 is 9.6


def test_counts_per_class():
    protocols = {"comae": Protocol(unseen=(8, 9), train_per_class=5, query_per_class=3)}
    value = make_split("comae", protocols, annotations(), validation_class_share=0)
    assert (len(value.train), len(value.query), len(value.database)) == (8 * 5, 2 * 3, 120 - 46)
    with pytest.raises(ValueError, match="class 'class 0' has 12 images and the protocol takes 13"):
        make_split("comae", {"comae": Protocol(unseen=(9,), train_per_class=13)}, annotations())
    with pytest.raises(ValueError, match="class 'class 9' has 12 images and the protocol takes 12"):
        make_split("comae", {"comae": Protocol(unseen=(9,), query_per_class=12)}, annotations())


def test_legacy_overlap_is_about_the_share_that_chance_gives(caplog):
    """Drawn as CUB's lists were: 30 of about 59 queries, the database the rest of another shuffle."""
    protocols = {"comae-legacy": Protocol(unseen=(8, 9), train_per_class=30, query_per_class=30, as_released=True)}
    value = make_split("comae-legacy", protocols, annotations(images=59))
    shared = value.overlap("query", "database")
    assert 0.3 < shared / len(value.query) < 0.7
    assert f"{shared} of 60 queries are also in the database" in caplog.text
    assert f"{shared} of 60" in value.notes
    assert len(value.database) == 10 * 29


def test_protocol_without_unseen_classes_left():
    with pytest.raises(ValueError, match="leaves no unseen class among the 10 classes present"):
        make_split("last10", {"last10": Protocol(unseen=(150,))}, annotations())


def test_class_ids_survive_a_cut():
    facts = annotations().restricted_to(np.array([2, 5, 9]))
    value = make_split("ps", {"ps": Protocol(unseen=(9,))}, facts)
    assert value.unseen_classes == (2,)


def test_validation_lists_by_a_slow_count():
    rows = np.setdiff1d(np.arange(20), [3, 7])
    validation, train, query, database = validation_lists(rows, LABELS, 0, 0.4, 0.25)
    assert len(validation) == 2
    for c in range(5):
        own = [r for r in rows if LABELS[r] == c]
        if c in validation:
            assert [r for r in query if LABELS[r] == c] == own[1::2]
            assert [r for r in database if LABELS[r] == c] == own[::2]
        else:
            assert sum(LABELS[r] == c for r in database) == round(0.25 * len(own))
            assert sum(LABELS[r] == c for r in train) == len(own) - round(0.25 * len(own))
