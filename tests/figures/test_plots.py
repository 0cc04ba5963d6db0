import numpy as np
import pytest

from razh.figures.plots import distance_figure, in_format, precision_recall_figure
from razh.retrieval.codes import Codes
from razh.retrieval.evaluation import evaluate
from razh.retrieval.report import group_curves
from razh.support.files import write_bytes


def test_curves_are_drawn_with_labels_from_the_first_rank_on():
    precision, recall = np.array([0.9, 0.7, 0.5]), np.array([0.1, 0.2, 1.0])
    figure = precision_recall_figure({"a": (precision, recall), "b": (precision, recall)}, "64 bits")
    axes = figure.axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title()) == ("recall", "precision", "64 bits")
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["a", "b"]
    np.testing.assert_array_equal(axes.lines[0].get_xdata(), recall)
    assert axes.lines[0].get_color() != axes.lines[1].get_color()


@pytest.mark.parametrize(
    ("held_out", "names"),
    [
        ((2,), ["unseen classes", "validation classes (held out)", "trained classes"]),
        ((), ["unseen classes", "trained classes"]),
        (None, ["unseen classes", "seen classes"]),
    ],
)
def test_every_group_of_queries_has_one_curve(held_out, names):
    rng = np.random.default_rng(0)
    query, database = (rng.integers(0, 256, (n, 1), dtype=np.uint8) for n in (10, 50))
    labels = np.repeat([3, 4], 5), np.arange(50) % 5
    codes = Codes(query, database, *labels, 8, unseen_classes=(3, 4), validation_classes=held_out)
    assert [name.partition(", mAP 0.")[0] for name in group_curves(evaluate(codes))] == names


def test_distances_are_shares_of_their_pairs():
    figure = distance_figure(np.array([3, 1]), np.array([0, 8]))
    axes = figure.axes[0]
    assert [bar.get_height() for bar in axes.containers[0]] == [0.75, 0.25]
    assert [bar.get_height() for bar in axes.containers[1]] == [0.0, 1.0]


@pytest.mark.parametrize(("suffix", "start"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")])
def test_figures_are_written_in_the_format_of_their_suffix(tmp_path, suffix, start):
    path = tmp_path / "new" / f"curve{suffix}"
    write_bytes(path, in_format(distance_figure(np.ones(3), np.ones(3)), path.name))
    assert path.read_bytes().startswith(start)


def test_an_unknown_format_is_refused():
    with pytest.raises(ValueError, match="suffix must be one of"):
        in_format(distance_figure(np.ones(3), np.ones(3)), "curve.xyz")
