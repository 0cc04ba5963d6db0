"""Parts and attributes are measured label-free, on one rank, and whatever goes wrong leaves the results."""

import json
import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from razh.backbones.timm import TimmBackbone
from razh.backbones.views import show
from razh.callbacks.measures import PartMeasures
from razh.callbacks.writers import PARTS, shown
from razh.cli.main import main
from razh.datamodules.cub import CUBDataModule
from razh.datamodules.synthetic.data import SyntheticDataModule
from razh.layers.attributes import FoundParts, Match
from razh.measures.collect import MIDDLE, can_be_measured, measure_codes, measure_parts_and_attributes
from razh.measures.described import measure_described
from razh.methods.ce import CE
from razh.methods.razh import RAZH
from razh.retrieval.codes import Codes
from razh.retrieval.packing import pack
from tests.fake import write_cub
from tests.methods.views import razh_views

SIDE = 32
MAX_GAP = 1e-6


@pytest.fixture(scope="module")
def data():
    return SyntheticDataModule(seen_classes=5, unseen_classes=3, images_per_class=8, image_size=SIDE)


def build(data, method=RAZH, **arguments):
    torch.manual_seed(0)
    facts = {name: getattr(data, name) for name in ("class_attributes", "attribute_vectors", "train_classes")}
    if method is RAZH:  # untrained, with the usual number of background centres, everything would be background
        arguments["parts"] = {"background_centres": 1, "temperature": 0.02}
    return method(backbone=TimmBackbone("test_vit", image_size=data.image_size), bits=16, **facts, **arguments)


def middle_of(mask):
    """Return the middle of a mask (S, S) as large as the whole."""
    side = round(MIDDLE.share * SIDE)
    start = (SIDE - side) // 2
    cut = mask[start : start + side, start : start + side].float()
    return torch.nn.functional.interpolate(cut[None, None], (SIDE, SIDE), mode="nearest-exact")[0, 0].long()


class Oracle(nn.Module):
    """A method whose patches are pixels, and whose parts and attributes are the true ones of the synthetic data.

    `wrong` leaves that share of the patches' parts to chance.
    """

    def __init__(self, data, wrong=0.0):
        super().__init__()
        self.data, self.wrong = data, wrong
        self.backbone = SimpleNamespace(grid=(SIDE, SIDE), prefix=0)
        self.device = torch.device("cpu")
        self.finds_parts = self.shows_parts = True
        self.parts_are_groups = True
        self.background_from = 0.5
        self.part_attributes = torch.from_numpy(data.part_attributes)  # (C, 6, 3)
        self.shown = {}
        for index in range(len(data.labels)):
            image, mask = data.load_image(index), torch.from_numpy(data.part_masks(index).astype(np.int64))
            self.shown[bytes(image.numpy())] = index, mask
            self.shown[bytes(image.flip(-1).contiguous().numpy())] = index, mask.flip(-1)
            self.shown[bytes(show(image[None], MIDDLE)[0].numpy())] = index, middle_of(mask)

    def patches(self, batch):
        """Return part ids as one-hot patches; a view of the image has the same view of the parts."""
        rows = []
        for image in batch["image"]:
            index, mask = self.shown[bytes(image.contiguous().numpy())]
            label = self.data.labels[index]
            mask = torch.where(torch.rand(mask.shape) < self.wrong, torch.randint(0, 7, mask.shape), mask)
            weights = torch.nn.functional.one_hot((mask - 1) % 7, 7).float().flatten(0, 1)
            rows.append(torch.cat([weights, torch.full((len(weights), 1), float(label))], dim=1))
        return torch.stack(rows)

    def find_parts(self, batch):
        # The class rides along so that the match can be an oracle, too.
        patches = self.patches(batch)
        label = patches[:, 0, -1].long()
        rows = self.part_attributes[label]  # (B, 6, 3)
        similarity = torch.zeros(*rows.shape[:2], len(self.data.attribute_names)).scatter(2, rows, 1.0)
        match = Match(similarity, similarity, similarity.amax(dim=-1))
        return FoundParts(label[:, None, None].expand(-1, 6, 1), patches[..., :-1], match)


def test_an_oracle_is_perfect(data):
    """Its patches are pixels: coarser ones cannot be, see test_parts.py."""
    metrics = measure_parts_and_attributes(Oracle(data), data)
    for place in ("", "seen/"):
        for name in ("nmi", "nmi_foreground", "ari", "ari_foreground", "iou", "foreground_iou"):
            assert metrics[f"parts/{place}{name}"] == pytest.approx(1)
        assert metrics[f"parts/{place}background_share"] == 0
        for name in ("part_accuracy", "exact_accuracy"):
            assert metrics[f"attributes/{place}{name}"] == 1
            assert metrics[f"attributes/{place}{name}_permuted"] < 1
    assert metrics["parts/flip_consistency"] == metrics["parts/flip_consistency_foreground"] == 1
    assert metrics["parts/scale_consistency"] == pytest.approx(1, abs=0.02)  # but for the rims of pixels
    assert metrics["parts/scale_consistency_foreground"] == pytest.approx(1, abs=0.1)
    assert metrics["parts/pointing"] == 1
    assert {name for name in metrics if name.startswith("parts/pointing/")} == {
        f"parts/pointing/{name}" for name in data.group_names
    }
    assert metrics["attributes/auc"] > 0.9  # parts may be hidden
    assert metrics["attributes/exact_accuracy_chance"] == pytest.approx(3 / len(data.attribute_names))
    assert metrics["attributes/seen/matched_exact_accuracy"] == 1
    assert metrics["attributes/seen/matched_exact_accuracy_chance"] == pytest.approx(3 / 18)


def test_figures_fall_with_the_parts(data):
    whole, some, none = (measure_parts_and_attributes(Oracle(data, wrong), data) for wrong in (0.0, 0.1, 1.0))
    for name in (
        "parts/nmi",
        "parts/ari",
        "parts/iou",
        "parts/flip_consistency_foreground",
        "parts/scale_consistency_foreground",
    ):
        assert whole[name] > some[name] + 0.1
        assert some[name] > none[name] + 0.1
    assert none["parts/nmi"] < 0.02
    assert abs(none["parts/ari"]) < 0.02


class Spy:
    """The data with other labels in the batches; what is found must not depend on them."""

    def __init__(self, data):
        self.data = data

    def __getattr__(self, name):
        return getattr(self.data, name)

    def evaluation_dataloader(self, rows):
        for batch in self.data.evaluation_dataloader(rows):
            shifted = (batch["label"] + 1) % len(self.data.class_names)
            yield batch | {"label": Label.of(batch["label"], shifted)}


class Label(torch.Tensor):
    """A label that is the true one for NumPy, and another one for a network."""

    @staticmethod
    def of(true, other):
        label = other.as_subclass(Label)
        label.true = true
        return label

    def numpy(self):
        return self.true.numpy()

    def to(self, *arguments, **options):
        return self.as_subclass(torch.Tensor).to(*arguments, **options)


def test_labels_do_not_reach_the_method(data):
    method = build(data)
    metrics, spied = (measure_parts_and_attributes(method, source) for source in (data, Spy(data)))
    matched = {name for name in metrics if "matched" in name}
    assert matched
    assert {k: v for k, v in metrics.items() if k not in matched} == {
        k: v for k, v in spied.items() if k not in matched
    }
    assert any(metrics[name] != spied[name] for name in matched)  # so the spy does change labels


def test_cached_patches_give_the_same_figures(data):
    method = build(data).eval()
    live = measure_parts_and_attributes(method, data, flip_images=5)
    with torch.no_grad():
        images = torch.stack([data.evaluation_image(i) for i in range(len(data.labels))])
        patches = method.patches({"image": images}).numpy()
    data.attach({"patches": patches[None]})
    try:
        cached = measure_parts_and_attributes(method, data, flip_images=5)
    finally:
        data.attach({})
    assert live.keys() == cached.keys()
    assert max(abs(live[name] - cached[name]) for name in live) < MAX_GAP


def test_parts_of_images_that_no_cache_has_are_measured(data):
    """Methods that train on views have none of the image's own patches."""
    method = build(data, code={"responses": "none"}).eval()
    expected = measure_parts_and_attributes(method, data, flip_images=5)
    with torch.no_grad():
        images = torch.stack([data.evaluation_image(i) for i in range(len(data.labels))])
        features = method.feature({"image": images}).numpy()
    data.attach({"feature": features[None]})
    try:
        found = measure_parts_and_attributes(method, data, flip_images=5)
    finally:
        data.attach({})
    parts = [name for name in expected if name.startswith("parts/")]
    assert parts
    assert max(abs(expected[name] - found[name]) for name in parts) < MAX_GAP


def test_the_feature_that_is_classified_is_measured(data):
    network = TimmBackbone("test_vit", image_size=SIDE, split=2, freeze="all")
    facts = {name: getattr(data, name) for name in ("class_attributes", "attribute_vectors", "train_classes")}
    method = razh_views(backbone=network, bits=16, weights={"classification": 0.1}, **facts).eval()
    seen = []
    method.terms.classification.layer.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    metrics = measure_parts_and_attributes(method, data)
    assert "attributes/auc_feature" in metrics
    with torch.no_grad():
        images = torch.stack([data.evaluation_image(int(i)) for i in data.split.query])
        expected = method.hash_input({"image": images})[:, : method.encoder.description_width]
    torch.testing.assert_close(torch.cat(seen)[: len(expected)], expected)


def test_nothing_is_left_changed(data):
    method = build(data, matching={"choice": "random"}).train()
    state = torch.random.get_rng_state()
    first = measure_parts_and_attributes(method, data)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert method.training
    assert measure_parts_and_attributes(method, data) == first


def test_a_single_true_part_says_nothing(tmp_path):
    """NMI and ARI of one cluster with one cluster are 1 by convention: such figures are left out."""
    write_cub(tmp_path)  # one of its two parts is never visible
    cub = CUBDataModule(str(tmp_path), image_size=SIDE, num_workers=0)
    metrics = measure_parts_and_attributes(build(cub), cub)
    assert "parts/places" in metrics
    assert not any("nmi" in name or "ari" in name for name in metrics)


def test_fewer_images(data):
    method = build(data)
    full, few = (measure_parts_and_attributes(method, data, images=n) for n in (2000, 6))
    assert few["parts/places"] < full["parts/places"]
    assert few.keys() == full.keys()


def test_keypoints_of_cub(tmp_path):
    write_cub(tmp_path)
    cub = CUBDataModule(str(tmp_path), image_size=SIDE, num_workers=0)
    metrics = measure_parts_and_attributes(build(cub), cub)
    # One visible part in each image; on the 40 × 32 images it lies in the cut if 4 ≤ x < 36.
    assert metrics["parts/places"] == sum(4 <= i + 1.5 < 36 for i in cub.split.query)
    assert 0 <= metrics["parts/background_share"] <= 1
    assert "parts/iou" not in metrics
    assert "attributes/exact_accuracy" not in metrics


def test_a_method_without_parts_but_with_attributes(data):
    method = build(data, code={"responses": "none"}, weights=dict.fromkeys(PART_TERMS, 0.0))
    metrics = measure_parts_and_attributes(method, data)
    assert "attributes/auc_hash" in metrics
    assert "attributes/auc_feature" in metrics
    assert not any(name.startswith("parts/") for name in metrics)


def test_unseen_classes_are_named_by_their_attributes(data, monkeypatch):
    method = build(data, weights={"naming": 1.0})
    true = data.class_attributes - data.class_attributes[data.train_classes].mean(dim=0)
    naming = method.terms.naming
    monkeypatch.setattr(naming, "scores", lambda step: 3 * true[step.batch["label"]])
    metrics = measure_parts_and_attributes(method, data)
    assert metrics["attributes/zero_shot/naming"] == 1
    assert metrics["attributes/zero_shot/chance"] == pytest.approx(1 / 3)
    assert 0 <= metrics["attributes/zero_shot/hash"] < 1
    assert 0 <= metrics["attributes/zero_shot/feature"] < 1
    monkeypatch.setattr(naming, "scores", lambda step: -true[step.batch["label"]])
    assert measure_parts_and_attributes(method, data)["attributes/zero_shot/naming"] < 1 / 3
    assert not any("zero_shot" in name for name in measure_parts_and_attributes(Oracle(data), data))  # it has no heads


def test_a_single_unseen_class_needs_no_name():
    one = SyntheticDataModule(seen_classes=5, unseen_classes=1, images_per_class=8, image_size=SIDE)
    assert not any(
        "zero_shot" in name for name in measure_parts_and_attributes(build(one, weights={"naming": 1.0}), one)
    )


def test_a_layer_named_semantic_is_no_head(data):
    method = build(data, CE)
    method.semantic = nn.Linear(16, len(data.attribute_names))
    assert not can_be_measured(method)


def coded(data, bits, **changes):
    """Return bits (n, L) of all images as the codes of a test."""
    split = data.split
    known = {
        "query_codes": pack(bits[split.query]),
        "database_codes": pack(bits[split.database]),
        "query_labels": data.labels[split.query],
        "database_labels": data.labels[split.database],
        "bits": bits.shape[1],
        "unseen_classes": tuple(int(c) for c in split.unseen_classes),
    }
    return Codes(**(known | changes))


@pytest.fixture(scope="module")
def many():
    """Enough classes to learn attributes one by one."""
    return SyntheticDataModule(seen_classes=60, unseen_classes=8, images_per_class=8, image_size=16)


def test_codes_that_are_attributes_tell_them(many):
    bits = many.class_attributes.numpy()[many.labels] > 0
    metrics = measure_codes(coded(many, bits), many)
    assert metrics["attributes/auc_codes"] > 0.97
    assert metrics["attributes/auc_codes_chance_deviation"] < 0.1
    assert metrics["attributes/auc_attributes"] > 10


def test_codes_that_know_the_trained_classes_alone_tell_nothing_of_others(many):
    generator = np.random.default_rng(0)
    bits = generator.random((len(many.labels), 64)) < 0.5
    own = generator.random((len(many.class_names), 64)) < 0.5
    trained = np.isin(many.labels, many.train_classes.numpy())
    bits[trained] = own[many.labels[trained]]
    metrics = measure_codes(coded(many, bits), many)
    assert abs(metrics["attributes/auc_codes"] - 0.5) < 0.05


def test_codes_without_trained_or_unseen_classes_are_not_measured(many):
    bits = np.zeros((len(many.labels), 16), dtype=bool)
    whole = coded(many, bits)
    unseen = np.isin(whole.database_labels, whole.unseen_classes)
    only = {"database_codes": whole.database_codes[unseen], "database_labels": whole.database_labels[unseen]}
    assert measure_codes(coded(many, bits, **only), many) == {}
    assert measure_codes(coded(many, bits, unseen_classes=()), many) == {}
    assert measure_codes(coded(many, bits, unseen_classes=None), many) == {}
    assert measure_codes(whole, many)["attributes/auc_codes"] == pytest.approx(0.5)  # all codes alike


def test_few_codes_are_enough_to_measure(many):
    bits = many.class_attributes.numpy()[many.labels] > 0
    whole, few = (measure_codes(coded(many, bits), many, images) for images in (2000, 40))
    assert whole.keys() == few.keys()
    assert whole["attributes/auc_codes"] > few["attributes/auc_codes"] > 0.5


PART_TERMS = ["attributes", "mix", "mix_hash", "reconstruction", "alignment", "orthogonality", "presence", "background"]
PART_TERMS += ["entropy", "smoothness"]


# -------------------------------------------------------------------------------------------------------- the callback


class Trainer(SimpleNamespace):
    def __init__(self, data, rank=0, **changes):
        self.waited = []
        super().__init__(
            datamodule=data,
            is_global_zero=rank == 0,
            fast_dev_run=0,
            limit_test_batches=1.0,
            global_step=7,
            loggers=[],
            strategy=SimpleNamespace(barrier=self.waited.append),
        )
        self.__dict__.update(changes)


def test_the_first_rank_measures_and_all_wait(data):
    method, logged = build(data), []
    logger = SimpleNamespace(log_metrics=lambda metrics, step: logged.append((metrics, step)))
    trainers = [Trainer(data, rank, loggers=[logger] if rank == 0 else []) for rank in (0, 1)]
    first, second = (PartMeasures(flip_images=2).measure(trainer, method, None) for trainer in trainers)
    assert first == measure_parts_and_attributes(method, data, flip_images=2)
    assert second == {}
    assert logged == [(first, 7)]
    assert [len(trainer.waited) for trainer in trainers] == [1, 1]


def test_codes_of_any_method_are_measured(data):
    codes = coded(data, np.random.default_rng(0).random((len(data.labels), 16)) < 0.5)
    trainer = Trainer(data)
    method = build(data, CE)
    found = PartMeasures().measure(trainer, method, codes)
    assert found == measure_codes(codes, data) | measure_described(method, data, codes)
    assert "test/described/map" in found
    assert "attributes/auc_codes" in found
    assert len(trainer.waited) == 1
    with_parts = PartMeasures(flip_images=2).measure(trainer, build(data), codes)
    assert {"attributes/auc_codes", "parts/nmi", "attributes/auc"} <= with_parts.keys()


@pytest.mark.parametrize("change", ["disabled", "limited", "fast_dev_run", "no parts"])
def test_nothing_is_measured(data, change):
    trainer = Trainer(data)
    trainer.limit_test_batches = 2 if change == "limited" else 1.0
    trainer.fast_dev_run = change == "fast_dev_run"
    method = build(data, CE) if change == "no parts" else build(data)
    assert can_be_measured(method) == (change != "no parts")
    assert PartMeasures(enabled=change != "disabled").measure(trainer, method, None) == {}
    assert trainer.waited == []


def test_a_failure_leaves_the_results(data, caplog, monkeypatch):
    def fail(*_):
        raise ValueError("part_locs.txt is cut short\nsecond line")

    monkeypatch.setattr(data, "part_masks", fail, raising=True)
    trainer, measures = Trainer(data), PartMeasures()
    monkeypatch.delenv("RAZH_DEBUG", raising=False)
    with caplog.at_level(logging.WARNING):
        assert measures.measure(trainer, build(data), None) == {}
    assert len(trainer.waited) == 1
    assert [record.getMessage() for record in caplog.records] == [
        "parts and attributes were not measured: ValueError: part_locs.txt is cut short"
    ]
    monkeypatch.setenv("RAZH_DEBUG", "1")
    with pytest.raises(ValueError, match="cut short"):
        measures.measure(trainer, build(data), None)


def test_what_the_table_shows_is_measured(data):
    codes = coded(data, np.zeros((len(data.labels), 16), dtype=bool))
    measured = measure_parts_and_attributes(build(data, weights={"naming": 1.0}), data)
    assert set(PARTS) <= (measured | measure_codes(codes, data)).keys()
    assert all(shown(name) for name in PARTS)


def test_a_run_writes_and_shows_them(tmp_path, capsys):
    small = ["--data.images_per_class=8", "--data.seen_classes=6", "--data.unseen_classes=3", "--trainer.max_epochs=1"]
    quiet = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--figures.enabled=false"]
    assert main(["train", *small, *quiet, "--bits=8", "--model.weights.naming=1", f"--run_dir={tmp_path / 'run'}"]) == 0
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert set(PARTS) <= metrics.keys()
    assert "parts/iou" in capsys.readouterr().out
