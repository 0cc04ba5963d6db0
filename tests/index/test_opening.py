"""Engines follow an archive: filled, kept, brought up to date, built again where row numbers have changed."""

import numpy as np
import pytest

from razh.index import opening
from razh.index.archive import ArchiveWriter, Snapshot
from razh.index.gallery import find
from razh.index.opening import follow, open_engine
from tests.index.test_archive import DIGEST, entries
from tests.index.test_engines import clustered, needs_faiss

pytestmark = needs_faiss


@pytest.fixture
def folder(tmp_path):
    with ArchiveWriter(tmp_path / "archive", (16, DIGEST, "best.ckpt")) as writer:
        writer.append(clustered(700, 16), entries([f"photos/{n % 5}/{n}.png" for n in range(700)]))
        writer.commit()
    return tmp_path / "archive"


def lists(folder, engine, where=None, top=30):
    gallery = Snapshot(folder).gallery(where)
    return find(gallery, ["a", "b"], gallery.codes[[1, 3]], [1, -1], top, None, engine)


@pytest.mark.parametrize("name", ["flat", "ivf"])
@pytest.mark.parametrize("where", [None, {"class": ["2", "3"]}])
def test_engines_give_the_lists_of_a_plain_search(name, where, folder):
    with ArchiveWriter(folder) as writer:
        writer.remove([0, 5, 6])
        writer.commit()
    found = lists(folder, open_engine(Snapshot(folder), name, min_recall=1), where)
    plain = lists(folder, None, where)
    assert [one.found for one in found] == [one.found for one in plain]
    for one, exact in zip(found, plain, strict=True):
        assert one.more == exact.more or (one.at_least and one.more < exact.more)


def test_an_engine_follows_what_comes_and_goes(folder):
    before = Snapshot(folder)
    engine = open_engine(before)
    with ArchiveWriter(folder) as writer:
        writer.append(clustered(20, 16, seed=4), entries([f"photos/new/{n}" for n in range(20)]), replaced=[1, 2])
        writer.commit()
    follow(engine, Snapshot(folder), before)
    assert lists(folder, engine)[1].found == lists(folder, None)[1].found


def test_ivf_is_kept_brought_up_to_date_and_built_again(folder, monkeypatch):
    from razh.index.engines.ivf import IVF

    built = []
    trained = IVF._trained
    monkeypatch.setattr(IVF, "_trained", lambda self, codes: built.append(len(codes)) or trained(self, codes))

    def opened():
        engine = open_engine(Snapshot(folder), "ivf", min_recall=1)
        assert [one.found for one in lists(folder, engine)] == [one.found for one in lists(folder, None)]

    opened()
    with ArchiveWriter(folder) as writer:
        writer.append(clustered(20, 16, seed=4), entries([f"photos/new/{n}" for n in range(20)]), replaced=[7])
        writer.commit()
    opened()
    assert built == [700]
    (folder / opening.INDEX).write_bytes(b"damaged")
    opened()
    assert built == [700, 719]
    with ArchiveWriter(folder) as writer:
        writer.remove(range(300))
        writer.commit()
        assert writer.pack()
    opened()
    assert built == [700, 719, 420]


def test_engines_that_cannot_be_are_one_line(folder):
    for name, told in (("flatt", "is unknown; did you mean flat"), ("milvus", "needs --uri, such as")):
        with pytest.raises(ValueError, match=told):
            open_engine(Snapshot(folder), name)


def test_a_list_within_a_radius_is_the_same_with_an_engine(folder):
    gallery = Snapshot(folder).gallery()
    engine = open_engine(Snapshot(folder))
    queries = np.array(gallery.codes[:3])
    wanted = find(gallery, list("abc"), queries, [-1] * 3, 50, 2)
    assert [one.found for one in find(gallery, list("abc"), queries, [-1] * 3, 50, 2, engine)] == [
        one.found for one in wanted
    ]
