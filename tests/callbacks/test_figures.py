import logging

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image

from razh.backbones.timm import TimmBackbone
from razh.callbacks.figures import Figures, draw
from razh.callbacks.result import RunResult, Selection
from razh.datamodules.synthetic.data import SyntheticDataModule
from razh.methods.ce import CE
from razh.methods.razh import RAZH
from razh.retrieval.codes import Codes
from razh.retrieval.evaluation import Settings, evaluate
from razh.retrieval.packing import pack

ALL = {"classes", "distances", "parts", "precision_recall", "retrieval", "training"}


@pytest.fixture(scope="module")
def data():
    return SyntheticDataModule(seen_classes=5, unseen_classes=3, images_per_class=6, image_size=32)


@pytest.fixture(scope="module")
def codes(data):
    rng = np.random.default_rng(0)
    split, labels = data.split, data.labels
    packed = pack((rng.random((8, 16)) > 0.5)[labels] ^ (rng.random((len(labels), 16)) < 0.2))
    return Codes(
        query_codes=packed[split.query],
        database_codes=packed[split.database],
        query_labels=labels[split.query],
        database_labels=labels[split.database],
        bits=16,
        query_index=split.query,
        database_index=split.database,
        unseen_classes=split.unseen_classes,
        class_names=data.class_names,
    )


def build(data, method):
    torch.manual_seed(0)
    facts = {name: getattr(data, name) for name in ("class_attributes", "attribute_vectors", "train_classes")}
    return method(backbone=TimmBackbone("test_vit", image_size=32), bits=16, **facts)


EPOCHS = [
    {"epoch": n, "step": 3 * n + 3, "train/loss": 2.5 - n, "val/map": value} for n, value in enumerate((0.2, 0.4, 0.3))
]


@pytest.fixture
def result(data, codes, tmp_path):
    """Return a factory of the result of a test of a method."""

    def make(kind=RAZH, **changes):
        found = {"codes": codes, "evaluation": evaluate(codes), "epochs": EPOCHS, "selection": Selection("val/map")}
        method = build(data, kind)
        return RunResult("test", tmp_path, "a run", method, data, Settings(), **(found | changes))

    return make


def written(tmp_path):
    return {path.stem for path in (tmp_path / "figures").glob("*")}


def test_a_run_of_razh_has_all_figures(result, tmp_path, caplog):
    backend = matplotlib.get_backend(auto_select=False)
    with caplog.at_level(logging.WARNING):
        Figures(queries=3, neighbours=4, part_images=4).write(drawn := result())
    assert written(tmp_path) == {path.stem for path in drawn.figures} == ALL
    assert not caplog.records
    assert matplotlib.get_backend(auto_select=False) == backend
    for path in drawn.figures:
        assert path.stat().st_size < 1_500_000
        with Image.open(path) as image:
            assert np.asarray(image).std() > 5  # something is drawn


def test_the_random_ranking_of_the_figure_is_that_of_the_table(codes):
    evaluation = evaluate(codes)
    figure = Figures()._of_evaluation(codes, evaluation, None)["precision_recall"]()
    line, metrics = figure.axes[0].lines[-1], evaluation.metrics
    assert set(line.get_ydata()) == {metrics["test/unseen/precision@1_chance"]}
    assert line.get_label().endswith(f"mAP {metrics['test/unseen/chance']:.3f}")
    first = figure.axes[0].lines[0]
    assert first.get_ydata()[0] == pytest.approx(metrics["test/unseen/precision@1"])
    assert first.get_label() == f"unseen classes, mAP {metrics['test/unseen/map']:.3f}"


def test_without_photos_no_figure_shows_an_image(result, tmp_path):
    folder = tmp_path / "figures"
    folder.mkdir()
    (folder / "retrieval.png").write_bytes(b"of an earlier run")
    Figures(part_images=2, photos=False).write(drawn := result())
    assert written(tmp_path) == {path.stem for path in drawn.figures} == ALL - {"retrieval"}


def test_figures_are_the_same_every_time(result, tmp_path):
    figures, path = Figures(queries=2, neighbours=2, part_images=2), tmp_path / "figures"
    figures.write(drawn := result())
    first = {file.name: file.read_bytes() for file in path.iterdir()}
    figures.write(drawn)
    assert {file.name: file.read_bytes() for file in path.iterdir()} == first


def test_a_method_without_parts_has_no_parts_figure(result, tmp_path):
    stale = tmp_path / "figures" / "parts.png"
    stale.parent.mkdir()
    stale.write_bytes(b"of an earlier run")
    Figures(queries=2, neighbours=2).write(result(CE))
    assert written(tmp_path) == ALL - {"parts"}


def test_without_training_and_without_a_result_little_is_drawn(result, tmp_path):
    Figures().write(result(CE, codes=None, evaluation=None, epochs=[]))
    assert written(tmp_path) == set()


def test_nothing_is_drawn_when_disabled(result, tmp_path):
    Figures(enabled=False).write(result(CE))
    assert not (tmp_path / "figures").exists()


def test_a_figure_that_fails_leaves_the_others(result, tmp_path, caplog, monkeypatch):
    monkeypatch.delenv("RAZH_DEBUG", raising=False)

    def fail(*_, **__):
        raise RuntimeError("no such colour\nsecond line")

    monkeypatch.setattr("razh.callbacks.figures.retrieval_rows", fail)
    with caplog.at_level(logging.WARNING):
        Figures(part_images=2).write(result())
    assert written(tmp_path) == ALL - {"retrieval"}
    assert [record.getMessage() for record in caplog.records] == [
        "figure retrieval was not drawn: RuntimeError: no such colour"
    ]
    monkeypatch.setenv("RAZH_DEBUG", "1")
    with pytest.raises(RuntimeError, match="no such colour"):
        Figures(part_images=2).write(result())


def test_an_interrupt_is_not_swallowed(tmp_path):
    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        draw(tmp_path, {"a": stop})


def test_a_folder_that_cannot_be_written_is_a_warning(tmp_path, caplog, monkeypatch):
    monkeypatch.delenv("RAZH_DEBUG", raising=False)
    (tmp_path / "figures").write_text("a file")
    with caplog.at_level(logging.WARNING):
        drawn = draw(tmp_path / "figures", {"a": lambda: pytest.fail("not reached"), "b": lambda: None})
    assert drawn == []
    assert len(caplog.records) == 2
