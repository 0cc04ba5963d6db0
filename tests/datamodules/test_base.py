import functools
import logging
import operator
import pickle

import lightning as L
import numpy as np
import pytest
import torch

from razh.datamodules.annotations import Annotations
from razh.datamodules.base import ZeroShotDataModule
from razh.datamodules.cub import CUBDataModule
from razh.datamodules.folder import FolderDataModule
from tests.fake import write_cub, write_folder


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("folder"), classes=8, images=6)


def folder(root, **arguments):
    defaults = {"protocol": "unseen-25%", "image_size": 24, "batch_size": 5, "num_workers": 0}
    return FolderDataModule(str(root), **{**defaults, **arguments})


class Trainer:
    """What the loaders ask of a trainer."""

    def __init__(self, rank, world, told=None):
        self.global_rank, self.world_size, self.told = rank, world, told
        self.is_global_zero, self.strategy = rank == 0, self

    def broadcast(self, value):
        """Return what rank 0 says."""
        return value if self.told is None else self.told

    def reduce_boolean_decision(self, decision, **_):
        return decision


def everything(loader):
    batches = list(loader)
    return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("validation_class_share", 1.0),
        ("validation_image_share", -0.1),
        ("image_size", 0),
        ("batch_size", 0),
        ("num_workers", -1),
        ("max_megapixels", 0.0),
        ("max_megapixels", float("inf")),
    ],
)
def test_constructor_checks(argument, value):
    with pytest.raises(ValueError, match=f"--data.{argument}={value} must be"):
        folder("anywhere", **{argument: value})


def test_batches_have_the_agreed_form(root):
    data = folder(root)
    batch = next(iter(data.train_dataloader()))
    assert {name: (tuple(v.shape), v.dtype) for name, v in batch.items()} == {
        "image": ((5, 3, 24, 24), torch.uint8),
        "label": ((5,), torch.int64),
        "index": ((5,), torch.int64),
    }
    assert torch.equal(batch["label"], torch.from_numpy(data.labels)[batch["index"]])
    assert data.class_attributes.shape == (8, 3)
    assert data.train_classes.tolist() == sorted(set(data.labels[data.split.train].tolist()))


def test_each_loader_shows_its_list(root):
    data = folder(root)
    split = data.split
    shown = {
        "val": np.union1d(split.validation_query, split.validation_database),
        "test": np.union1d(split.query, split.database),
        "predict": np.union1d(split.query, split.database),
        "initialisation": split.train,
    }
    for name, rows in shown.items():
        batch = everything(getattr(data, f"{name}_dataloader")())
        assert batch["index"].tolist() == rows.tolist()  # in order, nothing twice
        for image, index in zip(batch["image"], batch["index"].tolist(), strict=True):
            assert torch.equal(image, data.evaluation_image(index))
    trained = everything(data.train_dataloader())["index"].tolist()
    assert len(trained) == len(set(trained)) == len(split.train) // 5 * 5
    assert set(trained) <= set(split.train.tolist())


def test_no_validation(root):
    data = folder(root, validation_class_share=0)
    assert data.val_dataloader() == []
    assert len(data.train_classes) == 6


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_share_the_work(root, world):
    modules = [folder(root, batch_size=2) for _ in range(world)]
    for rank, data in enumerate(modules):
        data.trainer = Trainer(rank, world)
    tested = [everything(data.test_dataloader())["index"].tolist() for data in modules]
    whole = np.union1d(modules[0].split.query, modules[0].split.database).tolist()
    assert list(tested) == [whole[rank::world] for rank in range(world)]
    trained = [everything(data.train_dataloader())["index"].tolist() for data in modules]
    assert len({len(share) for share in trained}) == 1
    assert len(set(functools.reduce(operator.iadd, trained, []))) == sum(len(share) for share in trained)
    starts = [everything(data.initialisation_dataloader())["index"].tolist() for data in modules]
    assert all(start == modules[0].split.train.tolist() for start in starts)


def test_batches_do_not_depend_on_workers(root):
    one, two = folder(root), folder(root, num_workers=2)
    for alone, shared in (
        (one.train_dataloader(), two.train_dataloader()),
        (one.val_dataloader(), two.val_dataloader()),
    ):
        for epoch in range(2):
            alone.sampler.set_epoch(epoch)
            shared.sampler.set_epoch(epoch)
            for first, second in zip(alone, shared, strict=True):
                assert all(torch.equal(first[name], second[name]) for name in ("image", "label", "index"))


def test_augmentation_changes_with_the_epoch_and_can_be_off(root):
    plain = folder(root, augment=False)
    batch = next(iter(plain.train_dataloader()))
    assert all(
        torch.equal(image, plain.evaluation_image(i))
        for image, i in zip(batch["image"], batch["index"].tolist(), strict=True)
    )
    loader = folder(root).train_dataloader()
    views = []
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)
        seen = everything(loader)
        views.append(dict(zip(seen["index"].tolist(), seen["image"], strict=True)))
    both = views[0].keys() & views[1].keys()
    assert both
    assert not any(torch.equal(views[0][i], views[1][i]) for i in both)


def cache(data, views=2):
    images = torch.stack([data.evaluation_image(i) for i in range(len(data.labels))])
    thumbnails = torch.stack([images, images.flip(-1)])[:views]
    feature = np.arange(views)[:, None, None] * 1000.0 + np.arange(len(images))[:, None] + np.zeros((1, 1, 4))
    return {"feature": feature.astype(np.float16), "thumbnail": thumbnails.numpy()}


@pytest.mark.parametrize("drop", [True, False])
def test_attached_arrays(root, drop, tmp_path):
    data = folder(root, num_workers=1)
    arrays = cache(data)
    np.save(tmp_path / "feature.npy", arrays["feature"])
    arrays["feature"] = np.load(tmp_path / "feature.npy", mmap_mode="r")
    data.attach(arrays, drop_image=drop)
    for loader, may_vary in ((data.test_dataloader(), False), (data.train_dataloader(), drop)):
        assert loader.num_workers == (0 if drop else 1)
        batch = everything(loader)
        assert ("image" in batch) is not drop
        assert batch["feature"].dtype == torch.float16
        view = (batch["feature"][:, 0] >= 1000).long()
        assert torch.equal(batch["feature"][:, 0].long(), view * 1000 + batch["index"])
        assert (0 < view.sum() < len(view)) == may_vary
    if not drop:  # images are what they are without arrays
        shown, live = everything(data.train_dataloader()), everything(folder(root).train_dataloader())
        assert torch.equal(shown["image"], live["image"])
    data.attach({}, drop_image=drop)
    assert "image" in next(iter(data.test_dataloader()))


def test_attached_view_is_fixed_without_augmentation(root):
    data = folder(root, augment=False)
    data.attach(cache(data))
    assert (everything(data.train_dataloader())["feature"] < 1000).all()


def test_attach_refuses(root):
    data = folder(root)
    with pytest.raises(ValueError, match=r"'feature' has shape \(1, 3, 2\), but must be \(views, 48, …\)"):
        data.attach({"feature": np.zeros((1, 3, 2))})
    with pytest.raises(ValueError, match="'label' has the name of a batch key"):
        data.attach({"label": np.zeros((1, 48))})


def test_fingerprint_follows_images_and_size_but_not_the_split(tmp_path):
    root = write_folder(tmp_path / "a", classes=4, images=2)
    same = write_folder(tmp_path / "b", classes=4, images=2)
    base = folder(root).fingerprint
    assert len(base) == 64
    assert folder(root, protocol="unseen-50%", split_seed=3).fingerprint == base
    assert folder(same).fingerprint == base  # wherever it lies
    assert folder(root, image_size=32).fingerprint != base
    file = root / "kind 1" / "0.png"
    file.write_bytes(file.read_bytes() + b"\0")
    assert folder(root).fingerprint != base


def test_default_vectors_ignore_classes_that_are_not_trained_on(root, tmp_path):
    data = folder(root)
    table = (root / "attributes.csv").read_text().splitlines()
    others = set(range(8)) - set(data.train_classes.tolist())
    changed = [line if row - 1 not in others else f"kind {row - 1},0.5,0.0,1.0" for row, line in enumerate(table)]
    assert changed != table
    (tmp_path / "changed.csv").write_text("\n".join(changed))
    again = folder(root, attributes_file=str(tmp_path / "changed.csv"))
    assert not torch.equal(data.class_attributes, again.class_attributes)
    assert torch.equal(data.attribute_vectors, again.attribute_vectors)
    assert data.attribute_vectors.shape[0] == 3


def test_lightning_runs_it(root):
    class Sum(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(()))
            self.seen = []

        def training_step(self, batch, index):
            self.seen.append(batch["index"].tolist())
            return (batch["image"].float().mean() * self.weight - 1).square()

        def validation_step(self, batch, index):
            assert batch["image"].dtype == torch.uint8

        def predict_step(self, batch, index):
            return batch["index"]

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=1e-9)

    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = L.Trainer(max_epochs=2, accelerator="cpu", use_distributed_sampler=False, **quiet)
    model, data = Sum(), folder(root)
    trainer.fit(model, data)
    half = len(model.seen) // 2
    assert model.seen[:half] != model.seen[half:]  # Lightning sets the epoch
    predicted = torch.cat(trainer.predict(model, data)).tolist()
    assert predicted == np.union1d(data.split.query, data.split.database).tolist()
    assert pickle.loads(pickle.dumps(data)).trainer is None


@pytest.fixture
def damaged(tmp_path):
    """A folder of which one image is cut short and one is empty; class `kind 3` is whole."""
    root = write_folder(tmp_path / "damaged", classes=4, images=5)
    (root / "kind 0" / "1.png").write_bytes((root / "kind 0" / "1.png").read_bytes()[:100])
    (root / "kind 2" / "4.png").write_bytes(b"")
    return root


def test_damaged_images_are_left_out_with_a_count(damaged, caplog):
    data = folder(damaged)
    assert len(data.labels) == len(data.annotations.image_paths) == len(data.image_signatures()) == 18
    assert data.split.notes == "2 damaged or missing images left out"
    (record,) = (r for r in caplog.records if r.levelname == "WARNING")
    text = record.getMessage()
    assert "2 of 20 images" in text
    assert "kind 0/1.png, kind 2/4.png" in text
    assert "\n" not in text
    assert len(everything(data.test_dataloader())["index"]) == len(data.split.query) + len(data.split.database)
    for file in ("kind 0/1.png", "kind 2/4.png"):
        (damaged / file).unlink()
    without = folder(damaged)
    assert without.split.notes == ""
    assert without.split.fingerprint == data.split.fingerprint
    assert without.fingerprint == data.fingerprint


def test_strict_refuses_damaged_images(damaged):
    with pytest.raises(ValueError, match=r"2 of 20 images at .*kind 0/1.png.*--data.strict=false") as caught:
        _ = folder(damaged, strict=True).split
    assert "\n" not in str(caught.value)


def test_class_that_loses_all_its_images_is_named(damaged, caplog):
    for file in (damaged / "kind 3").iterdir():
        file.write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"1 of 4 classes have no readable images at .*\(kind 3\).*allow_partial=true"):
        _ = folder(damaged).split
    data = folder(damaged, allow_partial=True)
    assert data.class_names == ("kind 0", "kind 1", "kind 2")
    assert data.split.notes == "7 damaged or missing images left out"
    assert data.labels.tolist() == [0] * 4 + [1] * 5 + [2] * 4
    assert len(data.image_signatures()) == 13


def test_listed_images_that_are_missing_are_left_out(tmp_path, caplog):
    root = write_cub(tmp_path)
    (root / "images" / "003.Bird_3" / "Bird_0001_2.jpg").unlink()
    data = CUBDataModule(str(root), protocol="unseen-25%", num_workers=0)
    assert len(data.labels) == 47
    assert "1 of 48 images" in caplog.text
    assert data.split.notes == "1 damaged or missing image left out"
    assert data.part_locations().shape[0] == 47
    with pytest.raises(ValueError, match=r"1 of 48 images .*no image file .*--data.strict=false"):
        _ = CUBDataModule(str(root), protocol="unseen-25%", strict=True).annotations


def test_official_lists_lose_what_is_left_out():
    whole = Annotations(
        np.array([0, 0, 1, 1]),
        ("a", "b"),
        ("x",),
        np.eye(2, 1, dtype=np.float32),
        ("0", "1", "2", "3"),
        {"trainval": np.array([0, 1]), "test_unseen": np.array([2, 3])},
        signatures=("p", "q", "r", "s"),
    )
    left = whole.without(np.array([1, 2]))
    assert {name: rows.tolist() for name, rows in left.official.items()} == {"trainval": [0], "test_unseen": [1]}
    assert (left.image_paths, left.signatures, left.labels.tolist()) == (("0", "3"), ("p", "s"), [0, 1])


def test_all_processes_must_find_the_same_images(root):
    data = folder(root)
    data.trainer = Trainer(1, 2)
    data.setup("fit")
    other = folder(root)
    other.trainer = Trainer(1, 2, told=("other images", "other split"))
    with pytest.raises(ValueError, match="processes find different images at"):
        other.setup("fit")


def test_what_is_doubtful_is_said_once_and_by_the_first_process(tmp_path, caplog):
    data = folder(write_folder(tmp_path, classes=4, images=3))
    data.annotations.class_attributes[:, 1] = 0.5
    for rank, said in ((1, 0), (0, 1), (0, 1)):
        data.trainer = Trainer(rank, 1)
        data.setup("fit")
        assert caplog.text.count("folder: 1 attribute has the same value") == said
        data._set_up = data._set_up and rank == 0


class Bare(ZeroShotDataModule):
    """A data set without files."""

    def read_annotations(self):
        return Annotations(np.array([0, 0, 2]), ("a", "b", "c"), ("x",), np.eye(3, 1, dtype=np.float32))

    def load_image(self, index):
        return torch.full((3, 8, 8), index, dtype=torch.uint8)


def test_classes_without_images(caplog):
    with pytest.raises(ValueError, match=r"1 of 3 classes have no images at x \(b\).*--data.allow_partial=true"):
        _ = Bare("x").annotations
    with caplog.at_level(logging.WARNING):
        data = Bare("x", allow_partial=True, protocol="unseen-50%", image_size=4)
        assert data.class_names == ("a", "c")
    assert "left out" in caplog.text
    assert data.labels.tolist() == [0, 0, 1]
    assert data.annotations.class_ids == (0, 2)
    assert data.class_attributes.tolist() == [[1.0], [0.0]]
    assert data.evaluation_image(2).unique().tolist() == [2]


def test_annotations_refuse_what_does_not_fit():
    good = {
        "labels": np.array([0, 1]),
        "class_names": ("a", "b"),
        "attribute_names": ("x",),
        "class_attributes": np.zeros((2, 1), np.float32),
    }
    Annotations(**good)
    for change, fault in [
        ({"class_attributes": np.zeros((2, 2), np.float32)}, "class_attributes has shape"),
        ({"class_attributes": np.full((2, 1), 1.5, np.float32)}, "must lie in"),
        ({"class_attributes": np.full((2, 1), np.nan, np.float32)}, "must lie in"),
        ({"labels": np.array([0, 2])}, "labels span 0 … 2"),
        ({"image_paths": ("a",)}, "1 image paths, but 2 labels"),
        ({"class_ids": (1,)}, "1 class ids"),
    ]:
        with pytest.raises(ValueError, match=fault):
            Annotations(**{**good, **change})


def test_missing_root(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no CUB images at .*; run `razh data cub`, pass --data_root=…, or"):
        _ = CUBDataModule(str(tmp_path / "nowhere")).split
