import errno
import os
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from razh.backbones.views import MIRRORED, SIZES, views_key
from razh.callbacks import cache
from razh.callbacks import fill as filling
from razh.callbacks.cache import FeatureCache
from razh.datamodules.folder import FolderDataModule
from razh.datamodules.synthetic.data import SyntheticDataModule
from razh.features import arrays
from razh.features.arrays import CachedArray, Key, Source
from razh.features.store import CacheFolder, row_keys
from razh.methods.ce import CE
from razh.methods.razh import RAZH
from razh.terms.base import Step
from tests.fake import write_folder, write_image
from tests.methods.views import razh_views

SIZE = 32
FREEZES = [("test_vit", 2, "all"), ("test_vit", 0, "trunk"), ("test_efficientnet", 3, "trunk")]


def data_module(**arguments):
    small = {"seen_classes": 6, "unseen_classes": 2, "images_per_class": 6, "image_size": SIZE, "num_workers": 0}
    return SyntheticDataModule(**{**small, "batch_size": 8, **arguments})


@pytest.fixture(scope="module")
def data():
    return data_module()


class Strategy:
    root_device = torch.device("cpu")

    def barrier(self, name):
        pass

    def broadcast(self, value):
        return value

    def reduce_boolean_decision(self, decision, **_):
        return decision


def trainer(data):
    return SimpleNamespace(datamodule=data, strategy=Strategy(), is_global_zero=True)


@pytest.fixture
def method(make_method, make_backbone):
    def make(name="test_vit", split=2, freeze="all", kind=RAZH, seed=0, knows=False, **arguments):
        torch.manual_seed(seed)
        backbone = make_backbone(name, split, freeze=freeze)
        backbone.has_weights = knows
        if kind is RAZH:  # parts first, with the branches that need thumbnails
            branches = {"attributes": 0.0, "alignment": 0.1, "mix": 0.1, "mix_hash": 0.1, "reconstruction": 0.1}
            arguments = {"parts": {"order": "parts_first"}, "weights": branches} | arguments
        return make_method(kind, backbone, **arguments)

    return make


@pytest.fixture
def described():
    """Return the list of how many images each call of the network gets that is asked for views."""
    return []


@pytest.fixture
def computed(monkeypatch, described):
    """Return the list of how many images each call of the network gets."""
    counts, compute = [], cache.compute

    def counting(together, source, images, device):
        (described if together[0].key.of_views else counts).append(len(images))
        return compute(together, source, images, device)

    monkeypatch.setattr(cache, "compute", counting)
    return counts


def fill(method, data, stage="fit", **arguments):
    callback = FeatureCache(**arguments)
    callback.setup(trainer(data), method, stage)
    return callback


def folders(tmp_path):
    return sorted(path.name for path in (tmp_path / "cache").iterdir() if path.is_dir())


def needed_rows(data, flips=True):
    """Return how many (view, image) rows a split needs."""
    split = data.split
    names = ("train", "validation_query", "validation_database", "query", "database")
    images = np.unique(np.concatenate([getattr(split, name) for name in names]))
    return len(images) + (len(split.train) if flips else 0)


@pytest.mark.parametrize(("name", "split", "freeze"), FREEZES)
def test_cached_values_equal_the_live_ones(method, name, split, freeze):
    data, model = data_module(), method(name, split, freeze)
    fill(model, data)
    model.eval()
    loaders = (data.test_dataloader(), data.initialisation_dataloader())
    for batch in (batch for loader in loaders for batch in loader):
        assert "image" not in batch
        images = torch.stack([data.evaluation_image(int(index)) for index in batch["index"]])
        with torch.no_grad():
            live = model.hash_logits({"image": images})
            torch.testing.assert_close(batch["patches"].float(), model.backbone.embed(images), rtol=1e-2, atol=1e-2)
            torch.testing.assert_close(model.hash_logits(batch), live, rtol=1e-2, atol=1e-2)
        assert torch.equal(batch["thumbnail"], images)  # 32 pixels are below the thumbnail's side
        assert torch.equal(batch["label"], torch.from_numpy(data.labels)[batch["index"]])


def test_training_takes_the_image_or_its_mirror_image(method):
    data, model = data_module(), method()
    fill(model, data)
    seen = {False: 0, True: 0}
    for batch in data.train_dataloader():
        for row, index in enumerate(batch["index"]):
            image = data.evaluation_image(int(index))
            mirrored = not torch.equal(batch["thumbnail"][row], image)
            shown = image.flip(-1) if mirrored else image
            assert torch.equal(batch["thumbnail"][row], shown)
            with torch.no_grad():
                live = model.backbone.eval().embed(shown[None])[0]
            torch.testing.assert_close(batch["patches"][row].float(), live, rtol=1e-2, atol=1e-2)
            seen[mirrored] += 1
    assert min(seen.values()) > 0


def test_second_run_computes_nothing(method, computed, tmp_path):
    fill(method(), data_module())
    assert sum(computed) == needed_rows(data_module())
    computed.clear()
    again = data_module()
    fill(method(), again)
    assert computed == []
    assert len(folders(tmp_path)) == 1
    assert "patches" in next(iter(again.test_dataloader()))


def test_next_stage_of_a_run_does_nothing(method, data, computed, monkeypatch):
    callback, model = fill(method(), data), method()
    monkeypatch.setattr(callback, "_rows", None)
    callback.setup(trainer(data), model, "test")
    assert callback.seconds > 0


def test_killed_fill_goes_on_with_the_missing_rows(method, computed, monkeypatch):
    write, calls = CacheFolder.write, []

    def failing(self, rows, values):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(len(rows))
        write(self, rows, values)

    monkeypatch.setattr(CacheFolder, "write", failing)
    with pytest.raises(KeyboardInterrupt):
        fill(method(), data_module())
    monkeypatch.setattr(CacheFolder, "write", write)
    computed.clear()
    data, model = data_module(), method()
    fill(model, data)
    assert sum(computed) == needed_rows(data) - sum(calls)
    model.eval()
    for batch in data.test_dataloader():
        images = torch.stack([data.evaluation_image(int(index)) for index in batch["index"]])
        with torch.no_grad():
            torch.testing.assert_close(batch["patches"].float(), model.backbone.embed(images), rtol=1e-2, atol=1e-2)


def test_row_killed_before_its_mark_is_computed_again(method, computed):
    data, model = data_module(), method()
    callback = fill(model, data)
    segment = next(path / "0" for path in callback.directory.iterdir() if path.is_dir())
    for name, value in (("done", 0), ("feature", 99)):
        array = np.load(segment / f"{name}.npy", mmap_mode="r+")
        array[5] = value
        array.flush()
    computed.clear()
    fill(method(), data_module())
    assert computed == [1]
    assert not (np.load(segment / "feature.npy", mmap_mode="r")[5] == 99).any()


def test_other_split_adds_only_its_own_rows(method, computed):
    first, second = data_module(), data_module(protocol="unseen-50%", split_seed=3)
    assert first.fingerprint == second.fingerprint
    fill(method(), first)
    computed.clear()
    fill(method(), second)
    added = np.setdiff1d(second.split.train, first.split.train)
    assert 0 < sum(computed) <= len(added) + needed_rows(second, flips=False)


def test_cache_with_mirror_images_serves_a_run_without_them(method, computed):
    """Mirror images of rows that are in training now, but were not then, are not there: none may be served."""
    fill(method(), data_module())
    computed.clear()
    data, model = data_module(protocol="unseen-50%", split_seed=3), method()
    fill(model, data, flips=False)
    assert sum(computed) == 0 or sum(computed) < needed_rows(data, flips=False)
    for batch in data.train_dataloader():
        images = torch.stack([data.evaluation_image(int(index)) for index in batch["index"]])
        assert torch.equal(batch["thumbnail"], images)
        with torch.no_grad():
            live = model.backbone.eval().embed(images)
        torch.testing.assert_close(batch["patches"].float(), live, rtol=1e-2, atol=1e-2)


def photos(root, **arguments):
    return FolderDataModule(str(root), protocol="unseen-25%", image_size=SIZE, num_workers=0, **arguments)


def served(data):
    """Return features by the path of their image."""
    loader = data.evaluation_dataloader(np.arange(len(data.labels)))
    features = torch.cat([batch["feature"] for batch in loader])
    return dict(zip(data.annotations.image_paths, features, strict=True))


def test_only_new_images_are_computed(method, computed, tmp_path):
    root = write_folder(tmp_path / "photos", classes=4, images=5)
    fill(method(kind=CE), data := photos(root), flips=False)
    before = served(data)
    computed.clear()
    (root / "kind 1" / "2.png").unlink()
    (root / "kind 3" / "0.png").rename(root / "kind 3" / "renamed.png")
    os.utime(root / "kind 0" / "0.png", (1, 1))
    write_image(root / "kind 2" / "a new one.png", seed=77)
    write_image(root / "kind 2" / "3.png", seed=78)  # another picture under an old name
    fill(method(kind=CE), data := photos(root), flips=False)
    assert sum(computed) == 2
    after = served(data)
    assert len(after) == 20
    model = method(kind=CE).eval()
    for path, feature in after.items():
        if "new" in path or path == "kind 2/3.png":
            image = data.evaluation_image(data.annotations.image_paths.index(path))
            with torch.no_grad():
                live = model.backbone.encode(model.backbone.embed(image[None]))[0]
            torch.testing.assert_close(feature.float(), live, rtol=1e-2, atol=1e-2)
        else:
            assert torch.equal(feature, before[path.replace("renamed", "0")])


def test_images_with_the_same_content_are_computed_once(method, computed, tmp_path):
    root = write_folder(tmp_path / "photos", classes=4, images=5)
    shutil.copy(root / "kind 0" / "0.png", root / "kind 1" / "copy.png")
    fill(method(kind=CE), data := photos(root), flips=False)
    assert sum(computed) == 20
    features = served(data)
    assert torch.equal(features["kind 0/0.png"], features["kind 1/copy.png"])


def test_a_second_data_set_gets_its_own_rows_and_leaves_the_first_in_peace(method, computed, tmp_path):
    one, two = (write_folder(tmp_path / name, classes=4, images=5) for name in ("one", "two"))
    for seed, path in enumerate(sorted(two.rglob("*.png"))):
        write_image(path, seed=100 + seed)
    fill(method(kind=CE), first := photos(one), flips=False)
    features = served(first)
    fill(method(kind=CE), photos(two), flips=False)
    assert sum(computed) == 40
    assert all(torch.equal(features[path], feature) for path, feature in served(first).items())


def test_mirror_images_are_added_to_a_cache_without_them(method, computed):
    fill(method(), data_module(), flips=False)
    computed.clear()
    data = data_module()
    fill(method(), data, flips=True)
    assert sum(computed) == len(data.split.train)


def source_of(model, data=None):
    return Source(model.backbone, (data or data_module()).transform, SIZE, model.views, model.view_size)


def cache_key(data, model):
    return source_of(model, data).frozen_key


def test_a_new_array_is_one_declaration(method, monkeypatch, tmp_path):
    """It is computed, kept in a folder of its own, and served; no other file knows its name."""
    brightness = CachedArray(
        "brightness",
        key=Key("brightness"),
        shape=lambda source: (1,),
        compute=lambda images: images.images.float().mean(dim=(1, 2, 3))[:, None],
        dtype=torch.float32,
    )
    monkeypatch.setitem(arrays.ARRAYS, "brightness", brightness)
    monkeypatch.setattr(CE, "cached_inputs", ("feature", "brightness"))
    fill(method(kind=CE), data := data_module())
    assert [name.partition("-")[2].partition("-")[2] for name in folders(tmp_path)] == ["", "brightness"]
    batch = next(iter(data.test_dataloader()))
    assert batch.keys() == {"index", "label", "feature", "brightness"}
    images = torch.stack([data.evaluation_image(int(index)) for index in batch["index"]])
    assert torch.equal(batch["brightness"][:, 0], images.float().mean(dim=(1, 2, 3)))


def test_an_array_that_nobody_declared_is_refused_by_name(method, monkeypatch):
    monkeypatch.setattr(CE, "cached_inputs", ("featur",))
    with pytest.raises(ValueError, match="cached_inputs names 'featur', which is none of patches, feature, "):
        fill(method(kind=CE), data_module())


def test_key_follows_weights_network_and_transform(method, make_backbone, data):
    key = cache_key(data, method())
    assert cache_key(data, method()) == key
    others = [
        cache_key(data, method(seed=1)),
        cache_key(data, method(split=3)),
        cache_key(data, method(freeze="trunk")),
        cache_key(data, method("test_efficientnet")),
        cache_key(data_module(image_size=48), method()),
    ]
    assert len({key, *others}) == 1 + len(others)


def test_key_of_a_trunk_does_not_follow_what_is_trained(method, data):
    model = method(freeze="trunk")
    key = cache_key(data, model)
    with torch.no_grad():
        model.backbone.stages[-1].mlp.fc1.weight.add_(1)
        model.head.weight.add_(1)
    assert cache_key(data, model) == key
    with torch.no_grad():
        model.backbone.stages[0].mlp.fc1.weight[0, 0] += 1e-3
    assert cache_key(data, model) != key


def test_other_weights_fill_another_folder(method, tmp_path):
    fill(method(), data_module())
    fill(method(seed=1), data_module())
    assert len(folders(tmp_path)) == 2


def one_line(caught):
    message = str(caught.value)
    assert "\n" not in message
    assert "--cache.directory" in message
    return message


def test_disk_too_small_is_an_error_before_anything_is_written(method, data, monkeypatch, tmp_path):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(OSError, match=r"needs .* GB .* free") as caught:
        fill(method(), data)
    one_line(caught)
    assert folders(tmp_path) == []


def test_disk_that_fills_up_leaves_nothing_that_is_trusted(method, computed, monkeypatch, tmp_path):
    allocate, calls = os.posix_fallocate, []

    def full(*arguments):
        calls.append(arguments)
        if len(calls) > 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        allocate(*arguments)

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="cannot reserve") as caught:
        fill(method(), data_module())
    assert "No space left" in one_line(caught)
    assert folders(tmp_path) == []
    assert computed == []
    monkeypatch.setattr(os, "posix_fallocate", allocate)
    fill(method(), data_module())  # the lock was given back, and nothing stands in the way
    assert sum(computed) == needed_rows(data_module())


@pytest.mark.parametrize("cut", [None, 40, 130])
def test_damaged_segment_is_not_trusted(tmp_path, caplog, cut):
    store, keys = CacheFolder(tmp_path / "store", {"feature": ((2,), "float16")}), row_keys("abc", 0)
    store.reserve(keys)
    store.write(np.arange(3), {"feature": np.ones((3, 2))})
    assert store.find(keys)[1].all()
    if cut is None:
        (store.folder / "0" / "feature.npy").unlink()
    else:
        os.truncate(store.folder / "0" / "feature.npy", cut)
    store.look()
    assert store.segments == []
    assert not store.find(keys)[1].any()
    assert "is damaged and does not count" in caplog.text
    store.reserve(keys[:2])
    store.look()
    assert store.segments == ["1"]
    assert store.find(keys)[0].tolist() == [0, 1, -1]


def test_segment_killed_while_its_space_was_reserved_is_cleared_away(tmp_path):
    store = CacheFolder(tmp_path / "store", {"feature": ((2,), "float16")})
    (store.folder / ".0.part").mkdir(parents=True)
    (store.folder / ".0.part" / "feature.npy").write_bytes(b"half")
    store.look()
    assert store.segments == []
    store.reserve(row_keys(["a"], 0))
    assert [path.name for path in store.folder.iterdir()] == store.segments == ["0"]


def test_space_is_really_there(method, data):
    folder = next(path for path in fill(method(), data).directory.iterdir() if path.is_dir())
    for path in folder.glob("0/*.npy"):
        assert path.stat().st_blocks * 512 >= path.stat().st_size, path.name


@pytest.mark.parametrize(
    ("freeze", "arguments"), [("none", {}), ("all", {"enabled": False})], ids=["nothing frozen", "switched off"]
)
def test_without_a_cache_batches_keep_their_images(method, tmp_path, freeze, arguments):
    data = data_module()
    fill(method(freeze=freeze), data, **arguments)
    assert set(next(iter(data.test_dataloader()))) == {"image", "label", "index"}
    assert not (tmp_path / "cache").exists()


def test_method_gets_only_the_arrays_it_asks_for(method):
    data = data_module()
    fill(method(kind=CE), data)
    assert set(next(iter(data.test_dataloader()))) == {"feature", "label", "index"}


def test_directory_is_the_argument_the_environment_or_the_home(monkeypatch, tmp_path):
    assert FeatureCache(directory=str(tmp_path / "own")).directory == tmp_path / "own"
    assert FeatureCache().directory == tmp_path / "cache"
    monkeypatch.delenv("RAZH_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert FeatureCache().directory == tmp_path / ".cache" / "razh"


def test_directory_that_is_a_file_is_one_line(method, data, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file") as caught:
        fill(method(), data, directory=str(tmp_path / "file"))
    assert "\n" not in str(caught.value)


def test_values_that_overflow_half_precision_are_refused(method):
    model = method()
    with torch.no_grad():
        model.backbone.model.norm.weight.fill_(1e6)
    with pytest.raises(ValueError, match=r"feature of test_vit overflow half precision.*cache.enabled=false"):
        fill(model, data_module())


def test_ranks_share_the_rows_and_miss_none(method, monkeypatch, computed):
    """Rank 1 follows the plan of rank 0, though this has written rows by then: together they fill every row."""
    model, told = method(), []
    with monkeypatch.context() as patch:
        patch.setattr(Strategy, "broadcast", lambda _, value: told.append(value) or told[0])
        for rank in (0, 1):
            patch.setattr(filling, "world", lambda rank=rank: (rank, 2))
            data = data_module()
            ranked = trainer(data)
            ranked.is_global_zero = rank == 0
            FeatureCache().setup(ranked, model, "fit")
    assert sum(computed) == needed_rows(data_module())
    assert "patches" in next(iter(data.train_dataloader()))
    computed.clear()
    fill(model, data_module())
    assert computed == []


@pytest.mark.parametrize(("scale", "size"), [(1.0, 32), (2.0, 64)])
def test_descriptors_of_all_views_have_a_folder_of_their_own(method, tmp_path, scale, size):
    data, model = data_module(), method("test_efficientnet", 3, kind=razh_views, view_scale=scale)
    fill(model, data)
    (folder,) = folders(tmp_path)  # no patches are asked for
    assert folder.endswith(f"-descriptors-{size}-{views_key(SIZES)}")
    model.eval()
    for batch in data.test_dataloader():
        assert batch.keys() == {"label", "index", "descriptors"}
        images = torch.stack([data.evaluation_image(int(index)) for index in batch["index"]])
        with torch.no_grad():
            live = model.backbone.describe(images, SIZES, size)
        torch.testing.assert_close(batch["descriptors"].float(), live, rtol=1e-2, atol=1e-2)


def test_last_stages_train_on_cached_patches_of_all_views(method, tmp_path):
    data, model = data_module(), method("test_efficientnet", 3, "trunk", kind=razh_views, view_scale=2.0)
    fill(model, data)
    (folder,) = folders(tmp_path)
    assert folder.endswith(f"-view_patches-64-{views_key(MIRRORED)}")
    batch = next(iter(data.train_dataloader()))
    assert batch.keys() == {
        "label",
        "index",
        "view_patches",
    }  # an untrained network knows nothing that is worth keeping
    images = torch.stack([data.evaluation_image(int(index)) for index in batch["index"]])
    model.eval()
    with torch.no_grad():
        live = model.backbone.embed_views(images, MIRRORED, 64)
        torch.testing.assert_close(batch["view_patches"].float(), live, rtol=1e-2, atol=1e-2)
        codes = model.hash_logits(batch), model.hash_logits({"image": images})
    torch.testing.assert_close(*codes, rtol=5e-2, atol=5e-2)
    model.train()
    batch["label"] = model.train_classes[torch.arange(len(images)) % len(model.train_classes)]
    torch.stack(list(model.losses(batch).values())).sum().backward()
    trained = [p for p in model.backbone.parameters() if p.requires_grad]
    assert trained
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trained)


@pytest.mark.parametrize(
    ("kind", "arguments", "kinds"),
    [
        (
            razh_views,
            {"view_scale": 1.0},
            {f"descriptors-32-{views_key(MIRRORED)}", f"view_patches-32-{views_key(MIRRORED)}"},
        ),
        (RAZH, {}, {"feature", ""}),  # the folder of patches has no kind in its name
    ],
)
def test_trained_last_stages_keep_the_similarity_that_the_network_began_with(method, tmp_path, kind, arguments, kinds):
    data, model = data_module(), method("test_efficientnet", 3, "trunk", kind=kind, knows=True, **arguments)
    fill(model, data)
    assert {"-".join(name.split("-")[2:]) for name in folders(tmp_path)} == kinds
    batch = next(iter(data.initialisation_dataloader()))
    model.eval()
    with torch.no_grad():
        began = model.hash_input(batch)
        torch.testing.assert_close(model.encoder.referred(Step(model, batch)), began, rtol=2e-2, atol=2e-2)
        for parameter in model.backbone.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
        now = model.hash_input(batch)
        assert not torch.allclose(now, began, rtol=0.1, atol=0.1)
        torch.testing.assert_close(model.encoder.referred(Step(model, batch)), began, rtol=2e-2, atol=2e-2)
    names = folders(tmp_path)
    fill(model, data_module())  # other weights have other descriptors, and the same patches
    assert len(folders(tmp_path)) == len(names) + 1


def test_descriptors_stand_beside_patches_and_are_computed_once(method, computed, described):
    fill(method(kind=razh_views, weights={"alignment": 0.1}), data_module())
    assert sum(described) == needed_rows(data_module(), flips=False)
    assert sum(computed) == needed_rows(data_module())
    described.clear()
    computed.clear()
    data = data_module()
    fill(method(kind=razh_views, weights={"alignment": 0.1}), data)
    assert described == computed == []
    batch = next(iter(data.train_dataloader()))
    assert {"descriptors", "patches"} <= batch.keys()


def test_cpu_computes_few_images_at_a_time_and_gives_the_same_rows(method):
    model = method()
    images = torch.randint(0, 256, (10, 3, SIZE, SIZE), dtype=torch.uint8)
    with torch.no_grad():
        whole = model.backbone.eval().embed(images)
    together = [arrays.ARRAYS[name] for name in ("patches", "thumbnail")]
    rows = arrays.compute(together, source_of(model), images, torch.device("cpu"))
    np.testing.assert_allclose(rows["patches"].astype(np.float32), whole.numpy(), rtol=1e-2, atol=1e-2)
    assert len(rows["thumbnail"]) == 10


@pytest.mark.parametrize("kind", [RAZH, razh_views])
def test_a_network_that_trains_whole_keeps_the_similarity_that_it_began_with(method, tmp_path, kind):
    quiet = {"code": {"responses": "none"}}
    data, model = data_module(), method("test_efficientnet", 3, "none", kind=kind, **quiet)
    fill(model, data)
    assert not data.attached  # an untrained network knew nothing
    model = method("test_efficientnet", 3, "none", kind=kind, knows=True, **quiet)
    fill(model, data, stage="test")
    assert not data.attached
    fill(model, data)
    assert data.attached == (model.encoder.reference,)
    batch = next(iter(data.initialisation_dataloader()))
    assert "image" in batch
    model.eval()
    with torch.no_grad():
        began = model.hash_input(batch)
        torch.testing.assert_close(model.encoder.referred(Step(model, batch)), began, rtol=2e-2, atol=2e-2)
        for parameter in model.backbone.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        now = model.hash_input(batch)
        assert not torch.allclose(now, began, rtol=0.1, atol=0.1)
        torch.testing.assert_close(model.encoder.referred(Step(model, batch)), began, rtol=2e-2, atol=2e-2)


def test_a_node_that_does_not_see_the_cache_ends_the_run_on_all(method, monkeypatch):
    monkeypatch.setattr(Strategy, "reduce_boolean_decision", lambda *_, **__: False)  # another node's word
    with pytest.raises(OSError, match=r"not every node sees the feature cache .*--cache\.directory.*all nodes share"):
        fill(method(), data_module())


def test_a_folder_that_is_nowhere_is_not_waited_for_for_ever(tmp_path):
    store = CacheFolder(tmp_path / "nowhere", {})
    store.segments = ["0"]
    assert not store.appears(seconds=0.0)
