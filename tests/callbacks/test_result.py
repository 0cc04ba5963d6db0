"""A run's result is made once and handed on: no writer reads what another has written."""

import csv
import json

import numpy as np
import pytest
import torch

from razh.backbones.timm import TimmBackbone
from razh.callbacks.result import RunResult
from razh.callbacks.writers import CodesFile, MetricsFile, ResultTable, WhereCodesAre
from razh.datamodules.synthetic.data import SyntheticDataModule
from razh.methods.ce import CE
from razh.retrieval.codes import Codes
from razh.retrieval.evaluation import Settings, evaluate
from razh.retrieval.packing import pack
from razh.run.history import History


@pytest.fixture
def result(tmp_path):
    """Return a factory of the result of a test of CE."""
    data = SyntheticDataModule(seen_classes=5, unseen_classes=3, images_per_class=6, image_size=32)
    facts = {name: getattr(data, name) for name in ("class_attributes", "attribute_vectors", "train_classes")}
    method = CE(backbone=TimmBackbone("test_vit", image_size=32), bits=16, **facts)
    packed, split = pack(np.random.default_rng(0).random((len(data.labels), 16)) < 0.5), data.split
    codes = Codes(
        query_codes=packed[split.query],
        database_codes=packed[split.database],
        query_labels=data.labels[split.query],
        database_labels=data.labels[split.database],
        bits=16,
        unseen_classes=split.unseen_classes,
    )

    def make(stage="test", **changes):
        found = {"codes": codes, "evaluation": evaluate(codes), "start": evaluate(codes, prefix="start/")}
        found |= {"measures": {"parts/nmi": 0.5}, "seconds": {"cache": 0.25, "total": 3.0}, "facts": {"run/resumed": 0}}
        return RunResult(stage, tmp_path, "synthetic · CE · 16 bits", method, data, Settings(), **(found | changes))

    return make


def test_a_test_is_written_and_shown(result, tmp_path, capsys):
    for writer in (CodesFile(), MetricsFile(), ResultTable()):
        writer.write(made := result())
    assert Codes.load(tmp_path / "codes.npz").bits == 16
    found = json.loads((tmp_path / "metrics.json").read_text())
    assert found == made.metrics | {"run/resumed": 0}
    assert list(found)[-4:] == ["parts/nmi", "time/cache_seconds", "time/total_seconds", "run/resumed"]
    assert {"test/unseen/map", "start/unseen/map", "codes/bit_balance"} <= found.keys()
    shown = capsys.readouterr().out
    assert all(words in shown for words in ("synthetic · CE · 16 bits", "test/unseen/map", "parts/nmi", "run folder: "))


def test_no_writer_needs_what_another_has_written(result, tmp_path, capsys):
    """In any order, and alone: all they know is the result."""
    ResultTable().write(result())
    assert "test/unseen/map" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
    MetricsFile().write(result())
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]


def test_a_prediction_ranks_nothing_and_says_where_the_codes_are(result, tmp_path, capsys):
    made = result("predict", evaluation=None, start=None)
    for writer in (CodesFile(), WhereCodesAre(), MetricsFile(), ResultTable()):
        writer.write(made)
    assert [path.name for path in tmp_path.iterdir()] == ["codes.npz"]
    sizes = f"{len(made.codes.query_codes)} queries and {len(made.codes.database_codes)} database items"
    assert capsys.readouterr().out == f"codes of {sizes}, 16 bits: {tmp_path / 'codes.npz'}\n"


def test_without_codes_nothing_is_written(result, tmp_path, capsys):
    for writer in (CodesFile(), MetricsFile(), ResultTable(), WhereCodesAre()):
        writer.write(result(codes=None, evaluation=None, start=None))
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().out == ""


def test_epochs_are_kept_and_not_read_again(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("epoch,step,train/loss\n0,3,2.5\n1,6,1.5\n")  # of an earlier process of the run
    history = History(path)
    history.keep(1)
    path.unlink()
    history.add({"epoch": 1, "step": 6, "train/loss": torch.tensor(0.1).item(), "val/map": 0.25})
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["0", "1"]
    assert [row["train/loss"] for row in rows] == ["2.5", "0.10000000149011612"]
    assert [row["val/map"] for row in rows] == ["", "0.25"]
    history.keep(0)
    assert path.read_text().splitlines() == ["epoch,step"]
