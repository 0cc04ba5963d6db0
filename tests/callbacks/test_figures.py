import logging
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.synthetic import SyntheticDataModule
from razh.backbones.timm import TimmBackbone
from razh.callbacks.figures import Figures, draw
from razh.callbacks.retrieval import RetrievalEvaluation
from razh.methods.ce import CE
from razh.methods.razh import RAZH
from razh.retrieval.codes import Codes
from razh.retrieval.evaluation import evaluate
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


@pytest.fixture
def trainer(data, codes, tmp_path):
    evaluation = RetrievalEvaluation()
    evaluation.codes, evaluation.result = codes, evaluate(codes)
    (tmp_path / "metrics.csv").write_text("epoch,step,train/loss,val/map\n0,3,2.5,0.2\n1,6,1.5,0.4\n2,9,1.0,0.3\n")
    return SimpleNamespace(
        is_global_zero=True,
        default_root_dir=str(tmp_path),
        datamodule=data,
        callbacks=[evaluation],
        checkpoint_callback=SimpleNamespace(monitor="val/map", mode="max"),
    )


def written(trainer):
    return {path.stem for path in (Path(trainer.default_root_dir) / "figures").glob("*")}


def test_a_run_of_razh_has_all_figures(data, trainer, caplog):
    backend = matplotlib.get_backend(auto_select=False)
    with caplog.at_level(logging.WARNING):
        Figures(queries=3, neighbours=4, part_images=4).on_test_end(trainer, build(data, RAZH))
    assert written(trainer) == ALL
    assert not caplog.records
    assert matplotlib.get_backend(auto_select=False) == backend
    for name in ALL:
        path = Path(trainer.default_root_dir) / "figures" / f"{name}.png"
        assert path.stat().st_size < 1_500_000
        with Image.open(path) as image:
            assert np.asarray(image).std() > 5  # something is drawn


def test_without_photos_no_figure_shows_an_image(data, trainer):
    folder = Path(trainer.default_root_dir) / "figures"
    folder.mkdir()
    (folder / "retrieval.png").write_bytes(b"of an earlier run")
    method, figures = build(data, RAZH), Figures(part_images=2, photos=False)
    figures.on_test_end(trainer, method)
    assert written(trainer) == ALL - {"retrieval"}


def test_figures_are_the_same_every_time(data, trainer):
    method, figures = build(data, RAZH), Figures(queries=2, neighbours=2, part_images=2)
    path = Path(trainer.default_root_dir) / "figures"
    figures.on_test_end(trainer, method)
    first = {file.name: file.read_bytes() for file in path.iterdir()}
    figures.on_test_end(trainer, method)
    assert {file.name: file.read_bytes() for file in path.iterdir()} == first


def test_a_method_without_parts_has_no_parts_figure(data, trainer):
    stale = Path(trainer.default_root_dir) / "figures" / "parts.png"
    stale.parent.mkdir()
    stale.write_bytes(b"of an earlier run")
    Figures(queries=2, neighbours=2).on_test_end(trainer, build(data, CE))
    assert written(trainer) == ALL - {"parts"}


def test_without_training_and_without_a_result_little_is_drawn(data, trainer):
    (Path(trainer.default_root_dir) / "metrics.csv").write_text("epoch,step\n")
    trainer.callbacks = []
    Figures().on_test_end(trainer, build(data, CE))
    assert written(trainer) == set()


@pytest.mark.parametrize("change", ["disabled", "other rank"])
def test_nothing_is_drawn_when_disabled_or_on_another_rank(data, trainer, change):
    trainer.is_global_zero = change != "other rank"
    Figures(enabled=change != "disabled").on_test_end(trainer, build(data, CE))
    assert not (Path(trainer.default_root_dir) / "figures").exists()


def test_a_figure_that_fails_leaves_the_others(data, trainer, caplog, monkeypatch):
    monkeypatch.delenv("RAZH_DEBUG", raising=False)

    def fail(*_, **__):
        raise RuntimeError("no such colour\nsecond line")

    monkeypatch.setattr("razh.callbacks.figures.retrieval_rows", fail)
    with caplog.at_level(logging.WARNING):
        Figures(part_images=2).on_test_end(trainer, build(data, RAZH))
    assert written(trainer) == ALL - {"retrieval"}
    assert [record.getMessage() for record in caplog.records] == [
        "figure retrieval was not drawn: RuntimeError: no such colour"
    ]
    monkeypatch.setenv("RAZH_DEBUG", "1")
    with pytest.raises(RuntimeError, match="no such colour"):
        Figures(part_images=2).on_test_end(trainer, build(data, RAZH))


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


@pytest.mark.parametrize("name", ["queries", "neighbours", "part_images"])
def test_numbers_below_one_are_refused(name):
    with pytest.raises(ValueError, match=f"figures.{name}=0"):
        Figures(**{name: 0})
