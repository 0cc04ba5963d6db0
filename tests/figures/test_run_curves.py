import math

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from razh.figures.canvas import DPI, WRONG, png
from razh.figures.curves import best_epoch, classes_figure, distances, precision_recall, training_figure
from razh.support.files import write_bytes

COUNTS = np.array([[0, 4], [10, 4], [90, 2]])


def rows(*values, **more):
    return [
        {"epoch": str(e), "val/map": "" if v is None else str(v), "train/loss": "1.5", **more}
        for e, v in enumerate(values)
    ]


def labels(figure):
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def test_a_random_ranking_is_a_line_named_with_its_precision_and_map():
    curves = {"unseen classes, mAP 0.6": ([1.0, 0.5, 0.1], [0.4, 0.8, 1.0]), "trained classes": ([0.9], [0.2])}
    figure = precision_recall(curves, (0.09, 0.12), "title")
    unseen, trained, chance = figure.axes[0].lines
    np.testing.assert_array_equal(unseen.get_ydata(), [1.0, 0.5, 0.1])
    np.testing.assert_array_equal(trained.get_xdata(), [0.2])
    assert set(chance.get_ydata()) == {0.09}
    assert sorted(labels(figure)) == sorted([*curves, "random (unseen): precision 0.090, mAP 0.120"])
    assert figure.get_suptitle() == "title"
    assert figure.axes[0].get_ylim()[1] > 1.0
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    extent = figure.legends[0].get_window_extent(renderer)
    assert extent.x0 >= 0
    assert extent.x1 <= figure.bbox.x1


def test_distances_have_the_means_of_the_pairs():
    figure = distances(COUNTS, 1.234, "Unseen queries")
    same, other = (line.get_xdata()[0] for line in figure.axes[0].lines)
    assert same == pytest.approx((0 * 4 + 1 * 4 + 2 * 2) / 10)
    assert other == pytest.approx((1 * 10 + 2 * 90) / 100)
    assert sorted(labels(figure)) == ["other class, mean 1.9", "same class, mean 0.8"]
    assert "1.23" in figure.get_suptitle()


def test_distances_without_a_pair_of_the_same_class():
    counts = np.array([[0, 0], [5, 0]])
    figure = distances(counts, math.nan, "t")
    assert len(figure.axes[0].lines) == 1


@pytest.mark.parametrize(
    ("values", "mode", "best"),
    [((0.1, 0.5, 0.5), "max", 1), ((0.4, 0.2, 0.3), "min", 1), ((None, 0.2), "max", 1), ((None, None), "max", 1)],
)
def test_the_best_epoch_is_the_first_best_or_the_last(values, mode, best):
    assert best_epoch(rows(*values), "val/map", mode) == best


def test_the_best_epoch_without_rows_or_monitor():
    assert best_epoch([]) is None
    assert best_epoch(rows(0.9, 0.1), None) == 1


def test_every_term_has_axes_and_the_best_epoch_is_marked():
    more = {"train/hash": "2.0", "train/mix_hash": "0.001", "val/map_worst": "0.1", "val/map_best": "0.6"}
    figure = training_figure(rows(0.2, 0.4, 0.3, **more), 1, "title")
    shown = [axes for axes in figure.axes if axes.axison]
    titles = [axes.get_title(loc="left").split("   ")[0] for axes in shown]
    assert titles == ["validation mAP", "loss", "hash", "mix hash"]
    np.testing.assert_array_equal(shown[0].lines[0].get_ydata(), [0.2, 0.4, 0.3])
    stars = [line for line in shown[0].lines if line.get_marker() == "*"]
    assert [(star.get_xdata()[0], star.get_ydata()[0]) for star in stars] == [(1, 0.4)]
    for axes in shown:
        assert any(set(line.get_xdata()) == {1} and line.get_color() == WRONG for line in axes.lines)


def test_training_without_validation_shows_the_loss_alone():
    figure = training_figure(rows(None, None), 1)
    assert [axes.get_title(loc="left").split("   ")[0] for axes in figure.axes if axes.axison] == ["loss"]
    with pytest.raises(ValueError, match="no epoch"):
        training_figure([], None)


def test_classes_are_sorted_with_their_chance():
    figure = classes_figure(["001.A_b", "002.C", "003.D"], [0.2, 0.9, 0.5], [0.1, 0.05, 0.2], "title")
    axes = figure.axes[0]
    assert [bar.get_width() for bar in axes.containers[0]] == [0.9, 0.5, 0.2]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["C", "D", "A b"]
    assert [segment[0, 0] for segment in axes.collections[0].get_segments()] == [0.05, 0.2, 0.1]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the best one is on top
    assert "mean of the classes (0.533)" in labels(figure)
    with pytest.raises(ValueError, match="names is empty"):
        classes_figure([], [], [])


def test_of_many_classes_the_best_and_the_worst_are_shown():
    values = np.linspace(0, 1, 200)
    axes = classes_figure([str(c) for c in range(200)], values, np.full(200, 0.1)).axes[0]
    widths = [bar.get_width() for bar in axes.containers[0]]
    np.testing.assert_array_equal(widths, [*values[::-1][:40], *values[::-1][-40:]])
    assert "… 120 classes between are not shown …" in [text.get_text() for text in axes.texts]


def test_a_figure_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    figure = classes_figure(["a"], [0.5], [0.1])
    path = tmp_path / "new" / "classes.png"
    write_bytes(path, png(figure))
    with Image.open(path) as image:
        assert image.size == (int(6.2 * DPI), int((0.21 + 1.25) * DPI))
        assert image.mode == "RGB"
    before = path.read_bytes()
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("no")))
    with pytest.raises(OSError, match="no"):
        write_bytes(path, png(figure))
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["classes.png"]


def test_values_are_alike_as_numbers_and_as_text():
    """A number 0 is a value, text that is empty is none."""
    text = [{"epoch": "0", "train/mix": "0.0", "val/map": ""}, {"epoch": "1", "train/mix": "0.5", "val/map": "0.0"}]
    numbers = [{"epoch": 0, "train/mix": 0.0}, {"epoch": 1, "train/mix": 0.5, "val/map": 0.0}]
    drawn = [training_figure(rows, best_epoch(rows)) for rows in (text, numbers)]
    first, second = ([axes.lines[0].get_ydata() for axes in figure.axes if axes.lines] for figure in drawn)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first, [[np.nan, 0.0], [0.0, 0.5]])
    assert best_epoch(text) == best_epoch(numbers) == 1
