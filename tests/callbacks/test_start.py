"""The state before training: kept in the run folder, tested beside the trained one, and gone without a trace."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.trainer.states import TrainerFn

from razh.callbacks.retrieval import RetrievalEvaluation
from razh.callbacks.start import FILE, StartState
from razh.methods.ce import CE
from razh.methods.itq import ITQ
from razh.run.checkpoint_io import CheckpointFiles


@pytest.fixture
def trainer(tmp_path):
    return SimpleNamespace(
        is_global_zero=True,
        default_root_dir=str(tmp_path),
        strategy=SimpleNamespace(checkpoint_io=CheckpointFiles(), reduce_boolean_decision=lambda value, **_: value),
        precision_plugin=Precision(),
        ckpt_path=None,
        fast_dev_run=0,
    )


@pytest.fixture
def method(make_method):
    return make_method(CE).eval()


def move(method):
    """Train, so to say: every parameter that may change does."""
    with torch.no_grad():
        for parameter in method.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter))


def test_a_batch_has_the_codes_of_before_and_nothing_else_is_changed(trainer, method, make_batch):
    batch = make_batch()
    before = method.encode_step(batch, 0)["code"]
    StartState.save(trainer, method)
    move(method)
    after, state = method.encode_step(batch, 0)["code"], torch.random.get_rng_state()
    assert not torch.equal(before, after)
    start = StartState.load(trainer, method)
    found = start.encode(trainer, batch, 0)
    assert torch.equal(found["code"], before)
    assert torch.equal(found["index"], batch["index"])
    assert torch.equal(method.encode_step(batch, 0)["code"], after)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_frozen_backbone_is_not_written(trainer, tmp_path, make_method, make_backbone):
    method = make_method(CE, make_backbone(freeze="all"))
    StartState.save(trainer, method)
    names = torch.load(tmp_path / FILE, weights_only=True)
    assert not [name for name in names if name.startswith("backbone.")]
    assert "head.weight" in names


def test_a_method_without_training_has_no_start(trainer, make_method):
    StartState.save(trainer, make_method(ITQ))
    assert StartState.load(trainer, make_method(ITQ)) is None


def test_a_run_that_changed_nothing_has_no_start(trainer, method):
    StartState.save(trainer, method)
    assert StartState.load(trainer, method) is None


def test_a_damaged_file_is_a_warning(trainer, method, caplog, tmp_path):
    StartState.save(trainer, method)
    path = tmp_path / FILE
    path.write_bytes(path.read_bytes()[:100])
    assert StartState.load(trainer, method) is None
    assert "the figures before training are left out" in caplog.text
    assert "\n" not in caplog.records[-1].getMessage()


@pytest.mark.parametrize(
    ("option", "change"), [(True, {}), (False, {}), (True, {"ckpt_path": "last.ckpt"}), (True, {"fast_dev_run": 1})]
)
def test_a_run_that_begins_keeps_its_start(trainer, method, tmp_path, option, change):
    callback = RetrievalEvaluation(start=option)
    vars(trainer).update(change)
    callback.on_train_start(trainer, method)
    assert (tmp_path / FILE).exists() == (option and not change)


def test_the_result_of_before_is_that_of_the_old_codes(trainer, make_method, make_batch):
    """One test pass gives two evaluations, each the same as a pass of its own."""
    method, batch = make_method(CE).eval(), make_batch(40)
    rows = np.arange(40)
    labels = batch["label"].numpy()
    split = SimpleNamespace(
        query=rows[labels >= 3][::2],
        database=np.setdiff1d(rows, rows[labels >= 3][::2]),
        seen_classes=(0, 1),
        unseen_classes=(3, 4),
        fingerprint="f",
        protocol="p",
    )
    trainer.datamodule = SimpleNamespace(
        split=split, class_names=tuple("abcdef"), train_classes=torch.tensor([0]), labels=labels
    )
    trainer.limit_test_batches, trainer.loggers, trainer.global_step = 1.0, [], 1
    trainer.state = SimpleNamespace(fn=TrainerFn.TESTING)

    def tested(callback):
        callback.on_test_start(trainer, method)
        callback.on_test_epoch_start(trainer, method)
        callback.on_test_batch_end(trainer, method, method.encode_step(batch, 0), batch, 0)
        callback.on_test_epoch_end(trainer, method)
        return callback

    alone = tested(RetrievalEvaluation(start=False))
    assert alone.before is None
    StartState.save(trainer, method)
    move(method)
    both = tested(RetrievalEvaluation())
    assert both.result.metrics != alone.result.metrics
    expected = {key.replace("test/", "start/"): v for key, v in alone.result.metrics.items() if key.startswith("test/")}
    assert both.before.metrics == expected
