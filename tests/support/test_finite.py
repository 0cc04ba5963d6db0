"""A loss or a weight that is not finite ends a run in one line, and reaches neither a checkpoint nor a code."""

from types import SimpleNamespace
from typing import ClassVar

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from razh import method
from razh.backbones.timm import load_weights
from razh.datamodules.synthetic.data import SyntheticDataModule
from razh.method import HashingMethod
from razh.support import distributed
from razh.support.finite import LossWatch, Step, strange_entry

INF, NAN = float("inf"), float("nan")


class Plain(HashingMethod):
    """Two terms; the second is what is written into `second` for a step."""

    second: ClassVar[dict[int, float]] = {}

    def hash_logits(self, batch):
        return self.head(self.feature(batch))

    def losses(self, batch):
        logits = self.hash_logits(batch)
        return {"size": logits.square().mean(), "sum": logits.mean() * self.second.get(self.global_step, 0.1)}


class Poison(L.Callback):
    """Makes a weight infinite behind the last loss of an epoch."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.current_epoch == 1 and batch_idx == 1:
            pl_module.head.weight.data[0, 0] = INF


@pytest.fixture(scope="module")
def data():
    return SyntheticDataModule(seen_classes=6, unseen_classes=2, images_per_class=10, image_size=32, batch_size=8)


@pytest.fixture
def build(data, make_backbone):
    facts = {name: getattr(data, name) for name in ("class_attributes", "attribute_vectors", "train_classes")}
    return lambda: Plain(make_backbone("test_vit"), bits=8, hash_init="random", lr=0.002, **facts)


def fit(tmp_path, model, data, *callbacks, **options):
    kept = ModelCheckpoint(tmp_path, save_last=True)
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=3, limit_train_batches=2, limit_val_batches=1, num_sanity_val_steps=0,
        callbacks=[*callbacks, kept], enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
        logger=False, **options,
    )  # fmt: skip
    trainer.fit(model, datamodule=data)


def test_first_loss_that_is_not_finite_ends_the_run_and_leaves_the_last_good_checkpoint(tmp_path, build, data):
    model = build()
    model.second = {3: NAN}
    with pytest.raises(ValueError, match=r"^loss term sum is nan in epoch 1, step 3, at learning rate ") as caught:
        fit(tmp_path, model, data)
    told, last = str(caught.value), tmp_path / "last.ckpt"
    assert f"lower --model.lr (now 0.002); the last good checkpoint is {last}, from which the same options" in told
    assert "\n" not in told
    kept = torch.load(last, weights_only=True)
    assert kept["global_step"] == 2
    assert strange_entry(kept["state_dict"]) is None


def test_at_the_first_step_the_learning_rate_is_not_to_blame(tmp_path, build, data):
    model = build()
    model.second = {0: INF}
    with pytest.raises(ValueError, match=r"step 0.*: look at the options of this term.*; there is no checkpoint yet$"):
        fit(tmp_path, model, data)


def test_half_precision_is_named(tmp_path, build, data):
    model = build()
    model.second = {1: NAN}
    with pytest.raises(ValueError, match=r"or pass --trainer\.precision=32-true"):
        fit(tmp_path, model, data, precision="bf16-mixed")


def test_weights_that_are_not_finite_reach_no_checkpoint_and_no_evaluation(tmp_path, build, data):
    with pytest.raises(ValueError, match=r"^weights head.weight are not finite in epoch 1, step 4: lower --model.lr"):
        fit(tmp_path, build(), data, Poison())
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 2


def test_where_a_look_means_waiting_it_is_taken_every_so_many_steps(monkeypatch, build):
    model, steps = build(), []
    monkeypatch.setattr(method, "EVERY", 3)
    monkeypatch.setattr(method, "world", lambda: (0, 2))
    monkeypatch.setattr(model, "_stop_on", steps.append)
    model._trainer = SimpleNamespace(
        optimizers=[], global_step=7, current_epoch=1, state=SimpleNamespace(fn="fit"), precision="32-true",
        checkpoint_callback=None, ckpt_path=None,
    )  # fmt: skip
    for value in (0.0, NAN, 1.0, 2.0, 3.0, 4.0):
        model._watch_loss(("one",), torch.tensor([value]), torch.tensor(value))
    assert [step and step.partition(":")[0] for step in steps] == [
        "loss term one is nan in epoch 1, step 7, at learning rate 0.002", None,
    ]  # fmt: skip


def test_one_rank_ends_all(monkeypatch):
    def gather(into, mine):
        into[:] = [None, "rank 1 has it"]

    assert distributed.first_of_all("here") == "here"
    monkeypatch.setattr(distributed, "world", lambda: (0, 2))
    monkeypatch.setattr(distributed.dist, "all_gather_object", gather)
    with pytest.raises(ValueError, match="rank 1 has it"):
        HashingMethod._stop_on(None)


def step(number, *terms, loss=None):
    values = torch.tensor(terms)
    return Step(0, number, 0.1, ("one", "two", "three")[: len(terms)], values, values.sum() if loss is None else loss)


def test_the_first_of_several_steps_is_named_and_all_are_forgotten():
    watch = LossWatch()
    for entry in (step(0, 1.0), step(1, 1.0, INF, NAN), step(2, NAN)):  # a term may come and go
        watch.add(entry)
    assert watch.first_problem().problem() == "loss term two is inf in epoch 0, step 1, at learning rate 0.1"
    assert len(watch) == 0
    assert watch.first_problem() is None


def test_a_sum_may_overflow():
    watch = LossWatch()
    watch.add(step(5, 3e38, 3e38))
    assert watch.first_problem().problem().startswith("the sum of the loss terms is inf in epoch 0, step 5")


def test_strange_entries():
    state = {"count": torch.tensor(3), "empty": torch.zeros(0), "fine": torch.ones(2), "name": "x"}
    assert strange_entry(state) is None
    assert strange_entry({}) is None
    assert strange_entry({**state, "half": torch.tensor([1.0, -INF]).half(), "late": torch.tensor(NAN)}) == "half"


def test_logits_that_are_not_finite_are_no_codes(build):
    model = build().eval()
    images = torch.zeros(3, 3, 32, 32, dtype=torch.uint8)
    batch = {"image": images, "index": torch.arange(3), "label": torch.zeros(3)}
    assert model.encode_step(batch, 0)["code"].shape == (3, 8)
    model.head.weight.data[0] = NAN
    for codes in (lambda: model.codes(images), lambda: model.encode_step(batch, 0)):
        with pytest.raises(ValueError, match="hash logits of 3 of 3 images are not finite"):
            codes()


def test_features_that_are_not_finite_or_allow_no_start_are_named(monkeypatch, build):
    model = build()
    features = torch.ones(4, 3)
    features[2, 0] = NAN
    data = SimpleNamespace(initialisation_dataloader=lambda: [{"feature": features}])
    model._trainer = SimpleNamespace(datamodule=data, ckpt_path=None)
    with pytest.raises(ValueError, match="features of 1 of 4 images are not finite"):
        model.training_features()
    monkeypatch.setattr(model, "start_from_features", lambda: torch.linalg.cholesky(-torch.eye(2)))
    with pytest.raises(ValueError, match=r"allow no start .*--model\.hash_init=random$") as caught:
        model.on_fit_start()
    assert "\n" not in str(caught.value)


def test_backbone_weights_that_are_not_finite_are_refused(tmp_path, make_backbone):
    backbone = make_backbone("test_vit")
    state = backbone.model.state_dict()
    state["norm.bias"][0] = NAN
    torch.save(state, tmp_path / "bad.pth")
    with pytest.raises(ValueError, match=r"weights norm.bias of backbone.checkpoint=.*bad.pth are not finite"):
        load_weights(backbone.model, tmp_path / "bad.pth")
