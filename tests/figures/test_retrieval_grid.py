from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex

from razh.callbacks.shown import main_task, retrieval_rows
from razh.figures.canvas import RIGHT, WRONG
from razh.figures.choice import choose_images, choose_queries
from razh.figures.grid import Neighbour, RetrievalRow, retrieval_figure
from razh.figures.names import readable, shortened, wrapped
from razh.retrieval.codes import Codes
from razh.retrieval.evaluation import evaluate
from razh.retrieval.packing import pack, unpack


def picture(value, side=8):
    return np.full((side, side, 3), value, dtype=np.uint8)


def texts(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def frames(figure, colour):
    """Squares of the size of the neighbours (not the small ones of the legend) with an outline of this colour."""
    patches = figure.axes[0].patches
    largest = max(patch.get_width() for patch in patches)
    return [p for p in patches if p.get_width() == largest and to_hex(p.get_edgecolor()) == colour.lower()]


@pytest.fixture
def codes():
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 6
    bits = (rng.random((6, 32)) > 0.5)[labels] ^ (rng.random((60, 32)) < 0.2)
    packed, query = pack(bits), np.flatnonzero((labels >= 3) & (np.arange(60) < 30))
    database = np.concatenate([query[:4], np.setdiff1d(np.arange(60), query)])  # four queries are in the database too
    return Codes(
        query_codes=packed[query],
        database_codes=packed[database],
        query_labels=labels[query],
        database_labels=labels[database],
        bits=32,
        query_index=query,
        database_index=database,
        unseen_classes=(3, 4, 5),
        class_names=tuple(f"{c:03d}.Class_{c}" for c in range(6)),
    )


def image_of(index):
    """An image whose value is its dataset index."""
    return torch.full((3, 4, 4), int(index), dtype=torch.uint8)


def test_rows_are_the_nearest_images_by_a_slow_count(codes):
    task = main_task(evaluate(codes))
    rows = retrieval_rows(codes, task, image_of, queries=5, neighbours=6)
    bits_of = dict(zip(codes.query_index, unpack(codes.query_codes, 32), strict=True))
    database = unpack(codes.database_codes, 32)
    assert len(rows) == 5
    for row in rows:
        query = int(row.image[0, 0, 0])
        position = int(np.flatnonzero(codes.query_index == query)[0])
        label = int(codes.query_labels[position])
        assert row.name == codes.class_names[label]
        assert row.ap == task.values["map"][position]
        distance = [int((bits_of[query] != other).sum()) for other in database]
        allowed = [g for g in range(len(database)) if codes.database_index[g] != query]
        expected = sorted(allowed, key=lambda g: (distance[g], g))[:6]
        assert [int(n.image[0, 0, 0]) for n in row.neighbours] == [codes.database_index[g] for g in expected]
        assert [n.distance for n in row.neighbours] == [distance[g] for g in expected]
        assert [n.right for n in row.neighbours] == [codes.database_labels[g] == label for g in expected]
        assert [n.group for n in row.neighbours] == [
            "seen" if codes.database_labels[g] < 3 else "unseen" for g in expected
        ]


def test_neighbours_of_trained_and_of_validation_classes_are_told_apart(codes):
    known = replace(codes, validation_classes=(1,))
    rows = retrieval_rows(known, main_task(evaluate(known)), image_of, queries=3, neighbours=60)
    label = dict(zip(codes.database_index.tolist(), codes.database_labels.tolist(), strict=True))
    kinds = {label[int(n.image[0, 0, 0])]: n.group for row in rows for n in row.neighbours}
    assert kinds == {0: "trained", 1: "validation", 2: "trained", 3: "unseen", 4: "unseen", 5: "unseen"}


def test_codes_without_indices_cannot_be_shown(codes):
    bare = Codes(codes.query_codes, codes.database_codes, codes.query_labels, codes.database_labels, 32)
    with pytest.raises(ValueError, match="indices"):
        retrieval_rows(bare, main_task(evaluate(bare)), image_of, 2, 2)


def test_right_and_wrong_have_their_frame_and_mark():
    neighbours = [
        Neighbour(picture(10), "001.A", 3, right=True),
        Neighbour(picture(20), "002.Big_bird", 4, right=False, group="validation"),
        Neighbour(picture(30), "001.A", 5, right=True),
    ]
    figure = retrieval_figure([RetrievalRow(picture(0), "001.A", 0.25, neighbours)] * 2, "the title")
    right, wrong = frames(figure, RIGHT), frames(figure, WRONG)
    assert (len(right), len(wrong)) == (4, 2)
    assert {frame.get_linestyle() for frame in right} == {"solid"}
    assert {frame.get_linestyle() for frame in wrong}.isdisjoint({"solid", "-"})
    words = texts(figure)
    assert words.count("✓") == 4 + 1  # one more in the legend
    assert words.count("✗") == 2 + 1
    assert words.count("AP 0.25") == 2
    assert {"3", "4", "5", "the title"} <= set(words)
    names = [text for text in figure.axes[0].texts if text.get_text() == "(v) Big bird"]
    assert len(names) == 2  # only the wrong one is named
    assert {name.get_style() for name in names} == {"italic"}
    assert len(figure.axes[0].images) == 2 * 4
    assert "number: Hamming distance    (v) validation class (held out)" in words


def test_where_classes_are_not_known_nothing_is_called_right_or_wrong():
    neighbours = [Neighbour(picture(10), "0017", 3), Neighbour(picture(20), "0042", 4)]
    figure = retrieval_figure([RetrievalRow(picture(0), "query", None, neighbours)], "the title")
    assert not frames(figure, RIGHT)
    assert not frames(figure, WRONG)
    words = texts(figure)
    assert {"3", "4", "0017", "0042", "number: Hamming distance"} <= set(words)
    assert not [word for word in words if word in "✓✗" or word.startswith("AP") or "class" in word]


@pytest.mark.parametrize("right", [True, None])
@pytest.mark.parametrize("neighbours", [0, 1, 9])
def test_title_and_legend_fit_beside_few_neighbours(right, neighbours):
    kinds = [Neighbour(picture(1), "b", 1, right=right, group=group) for group in ("trained", "validation")]
    row = RetrievalRow(picture(0), "a", None, kinds * neighbours)
    figure = retrieval_figure([row], "nearest of a file with a name that is rather long · 64 bits")
    renderer = FigureCanvasAgg(figure).get_renderer()
    assert all(text.get_window_extent(renderer).x1 <= figure.bbox.x1 for text in figure.axes[0].texts)


def test_a_grid_without_rows_is_refused():
    with pytest.raises(ValueError, match="rows is empty"):
        retrieval_figure([])


def test_chosen_queries_cover_the_classes_and_good_and_bad_ones():
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 8, 400)
    ap = rng.random(400)
    chosen = choose_queries(ap, labels, 8)
    assert len(set(chosen.tolist())) == 8
    assert set(labels[chosen]) == set(range(8))
    assert (np.diff(ap[chosen]) <= 0).all()
    assert ap[chosen].max() > 0.8
    assert ap[chosen].min() < 0.2
    np.testing.assert_array_equal(chosen, choose_queries(ap, labels, 8))


def test_more_queries_than_classes_and_fewer_queries_than_asked():
    ap, labels = np.array([0.1, 0.9, 0.5, 0.3]), np.array([0, 0, 0, 1])
    assert choose_queries(ap, labels, 3).tolist() == sorted(choose_queries(ap, labels, 3), key=lambda q: -ap[q])
    assert choose_queries(ap, labels, 99).tolist() == [1, 2, 3, 0]
    many = choose_queries(np.linspace(0, 1, 21), np.arange(21), 3)
    assert many.tolist() == [20, 10, 0]  # easiest, middle and hardest class


def test_images_are_chosen_one_a_class():
    labels = np.repeat(np.arange(10), 5)
    chosen = choose_images(np.arange(10, 50), labels, 4)
    assert labels[chosen].tolist() == [2, 4, 7, 9]
    assert choose_images(np.arange(5), labels, 4).tolist() == [2]
    assert choose_images(np.arange(0), labels, 4).tolist() == []


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("004.Groove_billed_Ani", "Groove billed Ani"),
        ("has_wing_color::blue", "wing color: blue"),
        ("has_size::small_(5_-_9_in)", "size: small (5 - 9 in)"),
        ("grizzly+bear", "grizzly bear"),
        ("07 red-headed plain-winged", "07 red-headed plain-winged"),
    ],
)
def test_names_are_made_readable(name, read):
    assert readable(name) == read


def test_long_names_are_cut_with_an_ellipsis():
    assert shortened("abcdef", 6) == "abcdef"
    assert shortened("abcdefg", 6) == "abcde…"
    assert wrapped("07 red-headed plain-winged", 16, 2) == "07 red-headed\nplain-winged"
    assert wrapped("one two three four", 9, 1) == "one two…"
