import logging
import math
from types import SimpleNamespace

import lightning as L
import pytest
import torch

from razh.datamodules.synthetic.data import SyntheticDataModule
from razh.layers.hash import itq
from razh.method import HashingMethod
from razh.methods.ce import CE
from razh.methods.itq import ITQ


class Plain(HashingMethod):
    """The least that a method can be."""

    def hash_logits(self, batch):
        return self.head(self.feature(batch))

    def losses(self, batch):
        logits = self.hash_logits(batch)
        return {"size": logits.square().mean(), "sum": 0.1 * logits.sum(dim=1).square().mean()}


@pytest.fixture(scope="module")
def data():
    return SyntheticDataModule(seen_classes=6, unseen_classes=2, images_per_class=10, image_size=32, batch_size=8)


def method_for(data, make_backbone, kind=CE, **arguments):
    facts = {name: getattr(data, name) for name in ("class_attributes", "attribute_vectors", "train_classes")}
    return kind(backbone=make_backbone(arguments.pop("name", "test_vit")), bits=8, **facts, **arguments)


def trainer(**arguments):
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return L.Trainer(
        accelerator="cpu", max_epochs=1, enable_model_summary=False, **{**quiet, "num_sanity_val_steps": 0, **arguments}
    )


def test_both_methods_must_be_written(facts, make_backbone):
    with pytest.raises(TypeError, match="abstract"):
        HashingMethod(backbone=make_backbone(), **facts)


def test_targets_count_labels_among_the_training_classes(make_method):
    method = make_method(Plain)
    assert method.targets({"label": torch.tensor([4, 0, 3, 1])}).tolist() == [3, 0, 2, 1]
    assert method.targets({"label": torch.tensor([2, 5])}).tolist() == [-1, -1]  # unseen: cross-entropy refuses them


def test_permuted_attributes_are_those_of_other_training_classes(make_method, facts):
    true = facts["class_attributes"]
    control, again = (make_method(Plain, permuted_attributes=True) for _ in range(2))
    trained = facts["train_classes"]
    unseen = [c for c in range(len(true)) if c not in trained.tolist()]
    assert torch.equal(control.class_attributes, again.class_attributes)
    assert torch.equal(control.class_attributes[unseen], true[unseen])
    assert not (control.class_attributes[trained] == true[trained]).all(dim=1).any()
    rows = {tuple(row.tolist()) for row in true[trained]}
    assert {tuple(row.tolist()) for row in control.class_attributes[trained]} == rows
    assert torch.equal(make_method(Plain).class_attributes, true)


def test_codes_are_the_signs_of_the_logits(make_method, make_batch):
    method, images = make_method(Plain).eval(), make_batch()["image"]
    assert torch.equal(method.codes(images), method(images) >= 0)
    assert method.codes(images).dtype == torch.bool


def test_encode_step_returns_index_label_and_code(make_method, make_batch):
    method, batch = make_method(Plain).eval(), make_batch()
    for step in (method.validation_step, method.test_step, method.predict_step):
        rows = step(batch, 0)
        assert torch.equal(rows["index"], batch["index"])
        assert torch.equal(rows["label"], batch["label"])
        assert torch.equal(rows["code"], method.codes(batch["image"]))


def test_what_is_cached_is_taken_and_the_rest_computed(make_method, make_batch):
    method, batch = make_method(Plain).eval(), make_batch()
    patches = method.backbone.embed(batch["image"])
    feature = method.backbone.encode(patches)
    torch.testing.assert_close(method.feature({"patches": patches}), feature)
    torch.testing.assert_close(method.feature(batch), feature)
    cached = torch.randn(8, method.backbone.feature_dim).half()
    assert torch.equal(method.feature({"feature": cached, "patches": patches}), cached.float())


@pytest.mark.parametrize(("freeze", "wanted"), [("none", ()), ("trunk", ("patches",)), ("all", ("feature",))])
def test_last_cached_output_is_asked_for(make_method, make_backbone, freeze, wanted):
    assert make_method(Plain, make_backbone(split=1, freeze=freeze)).cached_inputs == wanted


def test_facts_travel_with_the_weights(make_method):
    state = make_method(Plain).state_dict()
    assert {"class_attributes", "attribute_vectors", "train_classes", "class_position"} <= state.keys()


@pytest.mark.parametrize("bits", [0, -1])
def test_bits_must_be_positive(make_method, bits):
    with pytest.raises(ValueError, match=f"bits={bits}"):
        make_method(Plain, bits=bits)


def test_checkpoint_of_another_code_length_is_refused_by_name(make_method):
    with pytest.raises(ValueError, match=r"codes of 16 bits, model\.bits is 12; pass --bits=16"):
        make_method(Plain).on_load_checkpoint({"state_dict": make_method(Plain, bits=16).state_dict()})
    make_method(Plain).on_load_checkpoint({"state_dict": make_method(Plain).state_dict()})


# ---------------------------------------------------------------- training


def schedule(method, steps):
    """Return the factors of the learning rate over a run."""
    method._trainer = SimpleNamespace(estimated_stepping_batches=steps)
    made = method.configure_optimizers()
    optimizer, scheduler = made["optimizer"], made["lr_scheduler"]["scheduler"]
    factors = []
    for _ in range(steps):
        factors.append([group["lr"] / group["initial_lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    assert all(row == pytest.approx([row[0]] * len(row)) for row in factors)
    return optimizer, [row[0] for row in factors]


def test_learning_rate_rises_then_falls_as_a_cosine(make_method):
    _, factors = schedule(make_method(Plain, warmup=0.1), 40)
    assert factors[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    expected = [0.5 * (1 + math.cos(math.pi * (step - 4) / 36)) for step in range(4, 40)]
    assert factors[4:] == pytest.approx(expected)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_learning_rate_of_short_runs_is_sane(make_method, steps):
    _, factors = schedule(make_method(Plain, warmup=0.5), steps)
    assert all(0 <= factor <= 1 for factor in factors)
    assert factors[0] > 0


def test_backbone_has_its_own_learning_rate(make_method):
    method = make_method(Plain, lr=1e-2, backbone_lr=1e-4)
    optimizer, _ = schedule(method, 3)
    rest, backbone = optimizer.param_groups
    assert {id(p) for p in backbone["params"]} == {id(p) for p in method.backbone.parameters()}
    assert {id(p) for p in rest["params"]} == {id(p) for p in method.head.parameters()}
    assert (rest["initial_lr"], backbone["initial_lr"]) == (1e-2, 1e-4)


def test_frozen_backbone_has_no_group(make_method, make_backbone):
    optimizer, _ = schedule(make_method(Plain, make_backbone(split=1, freeze="all")), 3)
    assert len(optimizer.param_groups) == 1


def test_step_sums_and_logs_the_terms(make_method, make_batch, monkeypatch):
    method, batch, logged = make_method(Plain).eval(), make_batch(), {}
    monkeypatch.setattr(method, "log_dict", lambda values, **kwargs: logged.update(values))
    monkeypatch.setattr(method, "log", lambda name, value, **kwargs: logged.update({name: value}))
    loss, terms = method.training_step(batch, 0), method.losses(batch)
    torch.testing.assert_close(loss, terms["size"] + terms["sum"])
    assert {name: float(value) for name, value in logged.items()} == pytest.approx(
        {"train/size": terms["size"].item(), "train/sum": terms["sum"].item(), "train/loss": loss.item()}
    )
    assert not any(value.requires_grad for value in logged.values())


@pytest.mark.parametrize("hash_init", ["itq", "pca", "random"])
def test_head_starts_from_the_training_features(data, make_backbone, hash_init):
    method = method_for(data, make_backbone, hash_init=hash_init)
    before = method.head.weight.detach().clone()
    run = SimpleNamespace(datamodule=data, ckpt_path=None, strategy=SimpleNamespace(broadcast=lambda x: x))
    method._trainer = run
    method.train()
    method.on_fit_start()
    assert method.training
    if hash_init == "random":
        assert torch.equal(method.head.weight, before)
        return
    images = torch.stack([data.evaluation_image(int(index)) for index in data.split.train])
    with torch.no_grad():
        weight, bias = itq(method.eval().backbone.encode(method.backbone.embed(images)), 8, rotate=hash_init == "itq")
        codes = method.codes(images)
    agreement = (codes == (method.feature({"image": images}) @ weight.T + bias >= 0)).float().mean()
    assert agreement > 0.97  # other batches, hence other last digits
    assert (codes.float().mean(dim=0) > 0).all()


def test_resumed_run_keeps_the_head_of_its_checkpoint(data, make_backbone):
    method = method_for(data, make_backbone)
    before = method.head.weight.detach().clone()
    method._trainer = SimpleNamespace(datamodule=data, ckpt_path="last.ckpt")
    method.on_fit_start()
    assert torch.equal(method.head.weight, before)


@pytest.mark.parametrize(("freeze", "warned"), [("none", False), ("all", True)])
def test_frozen_random_weights_are_warned_of(make_method, make_backbone, caplog, monkeypatch, freeze, warned):
    monkeypatch.setattr(logging.getLogger("razh"), "propagate", True)  # the command line turns it off
    method = make_method(Plain, make_backbone(split=1, freeze=freeze), hash_init="random")
    method._trainer = SimpleNamespace(ckpt_path=None)
    with caplog.at_level(logging.WARNING, logger="razh.method"):
        method.on_fit_start()
    assert ("random weights" in caplog.text) == warned


def test_trainer_runs_a_method(data, make_backbone):
    method = method_for(data, make_backbone)
    before = {name: p.detach().clone() for name, p in method.named_parameters()}
    run = trainer()
    run.fit(method, datamodule=data)
    assert {"train/classification", "train/loss"} <= run.callback_metrics.keys()
    assert all(not torch.equal(p, before[name]) for name, p in method.named_parameters() if "bias" not in name)
    rows = run.predict(method, datamodule=data)
    index = torch.cat([batch["index"] for batch in rows])
    assert sorted(index.tolist()) == sorted([*data.split.query.tolist(), *data.split.database.tolist()])


def test_trainer_runs_a_method_that_trains_nothing(data, make_backbone):
    method = method_for(data, make_backbone, kind=ITQ)
    before = {name: p.detach().clone() for name, p in method.named_parameters()}
    trainer(limit_train_batches=1).fit(method, datamodule=data)
    changed = {name for name, p in method.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {"head.weight", "head.bias"}
