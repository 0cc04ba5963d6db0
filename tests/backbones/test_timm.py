from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from razh.backbones.timm import TimmBackbone, load_weights, pool_grid
from razh.backbones.views import MIRRORED
from razh.run.devices import trains_batch_norm

SIZE = 64
STAGES = {"test_vit": 6, "test_efficientnet": 7, "test_resnet": 5, "test_convnext": 6}
CUTS = [("test_vit", 0), *((name, split) for name, count in STAGES.items() for split in (1, count))]
BATCH_NORM = [("test_efficientnet", 3), ("test_resnet", 2)]


def images(count=2, size=SIZE):
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8)


def settle(backbone):
    """Give batch norm statistics and biases values that are not those of a fresh network."""
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.bias, std=0.1)
    return backbone


@pytest.mark.parametrize(("name", "split"), CUTS)
def test_cut_network_equals_the_whole(name, split):
    backbone = settle(TimmBackbone(name, split=split, image_size=SIZE)).eval()
    batch = images()
    mean, std = (torch.tensor(backbone.model.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        normalised = (batch.float() / 255 - mean) / std
        whole = backbone.model.forward_head(backbone.model.forward_features(normalised), pre_logits=True)
        patches = backbone.embed(batch)
        tokens = backbone.contextualise(patches)
        torch.testing.assert_close(backbone.encode(patches), whole, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(backbone.pool(tokens), whole, rtol=1e-4, atol=1e-5)
    assert patches.shape == (2, backbone.prefix + backbone.num_patches, backbone.dim)
    assert backbone.spatial(tokens).shape == (2, backbone.token_grid[0] * backbone.token_grid[1], backbone.token_dim)
    assert whole.shape == (2, backbone.feature_dim)


@pytest.mark.parametrize(
    ("name", "split", "grid", "dim", "prefix"),
    [
        ("test_vit", 0, (4, 4), 64, 0),
        ("test_vit", 2, (4, 4), 64, 1),
        ("test_efficientnet", 1, (32, 32), 24, 0),
        ("test_resnet", 1, (16, 16), 32, 0),
        ("test_convnext", 1, (16, 16), 24, 0),
    ],
)
def test_sizes(name, split, grid, dim, prefix):
    backbone = TimmBackbone(name, split=split, image_size=SIZE)
    assert (backbone.grid, backbone.dim, backbone.prefix) == (grid, dim, prefix)
    assert backbone.num_patches == grid[0] * grid[1]


def test_patches_of_a_cnn_lie_row_by_row():
    backbone = TimmBackbone("test_resnet", split=1, image_size=SIZE).eval()
    batch = images(1)
    changed = batch.clone()
    changed[:, :, :8, -8:] = 255 - changed[:, :, :8, -8:]  # top right corner
    with torch.no_grad():
        moved = (backbone.embed(changed) - backbone.embed(batch)).abs().sum(dim=-1)[0].view(backbone.grid) > 1e-6
    assert moved[:2, -2:].all()
    assert not moved[8:].any()
    assert not moved[:, :8].any()


def test_position_is_added_behind_the_cut_at_split_zero():
    """The same patches in another order give another feature: a replaced patch keeps its place."""
    backbone = TimmBackbone("test_vit", split=0, image_size=SIZE).eval()
    nn.init.normal_(backbone.model.pos_embed)
    with torch.no_grad():
        patches = backbone.embed(images(1))
        assert (backbone.encode(patches) - backbone.encode(patches.flip(1))).abs().max() > 1e-4
        grey = backbone.embed(torch.full((1, 3, SIZE, SIZE), 90, dtype=torch.uint8))
    torch.testing.assert_close(grey, grey[:, :1].expand_as(grey), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "deit_tiny_patch16_224"])
def test_kin_of_the_families_are_cut_too(name):
    backbone = TimmBackbone(name, split=1, image_size=SIZE).eval()
    assert backbone.encode(backbone.embed(images())).shape == (2, backbone.feature_dim)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tset_vit", "did you mean .*test_vit"),
        ("no.such", "'no.such' is not a timm model"),
        ("test_vit.nope", "test_vit has no weights 'nope'; take r160_in1k"),
        ("regnetx_002", "no family that razh can split"),
        ("test_nfnet", "another feature than whole"),
    ],
)
def test_networks_that_cannot_be_taken_are_named(name, message):
    with pytest.raises(ValueError, match=message):
        TimmBackbone(name, split=1, image_size=SIZE)


@pytest.mark.parametrize(
    ("name", "split", "told"),
    [
        ("test_vit", 7, "backbone.split=7 is out of range for test_vit: take 0 to 6"),
        ("test_resnet", 0, "backbone.split=0 is out of range for test_resnet: take 1 to 5"),
        ("test_vit", -1, "split=-1 must be a whole number from 0"),
    ],
)
def test_split_out_of_range(name, split, told):
    with pytest.raises(ValueError, match=told):
        TimmBackbone(name, split=split, image_size=SIZE)


@pytest.mark.parametrize("name", ["test_vit", "test_resnet"])
def test_images_of_another_size_are_refused(name):
    with pytest.raises(ValueError, match=r"images are \(32, 32\).*image_size=64"):
        TimmBackbone(name, split=1, image_size=SIZE).embed(images(size=32))


# ---------------------------------------------------------------- freezing


def train_a_little(backbone, steps=2):
    trained = [p for p in backbone.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.1)
    backbone.train()
    for _ in range(steps):
        optimizer.zero_grad()
        (backbone.encode(backbone.embed(images())) * torch.randn(backbone.feature_dim)).sum().backward()
        optimizer.step()


@pytest.mark.parametrize(("name", "split"), [("test_vit", 0), ("test_vit", 2), *BATCH_NORM, ("test_convnext", 2)])
def test_frozen_trunk_stays_as_it_was(name, split):
    backbone = TimmBackbone(name, split=split, image_size=SIZE, freeze="trunk")
    assert backbone.caches == ("patches",)
    before = {key: value.clone() for key, value in backbone.model.state_dict().items()}
    batch = images()
    with torch.no_grad():
        patches = backbone.embed(batch)
    train_a_little(backbone)
    frozen = backbone.frozen_state()
    assert frozen
    for key, value in frozen.items():
        assert torch.equal(value, before[key]), key
        assert value.grad is None, key
    with torch.no_grad():
        torch.testing.assert_close(backbone.embed(batch), patches)
    moved = [key for key, value in backbone.model.state_dict().items() if not torch.equal(value, before[key])]
    assert moved
    assert not set(moved) & set(frozen)


@pytest.mark.parametrize(("name", "split"), BATCH_NORM)
def test_batch_norm_behind_the_trunk_trains(name, split):
    backbone = TimmBackbone(name, split=split, image_size=SIZE, freeze="trunk").train()
    counts = {k: int(v) for k, v in backbone.model.state_dict().items() if k.endswith("num_batches_tracked")}
    backbone.encode(backbone.embed(images()))
    after = {k: int(v) for k, v in backbone.model.state_dict().items() if k in counts}
    frozen = backbone.frozen_state()
    assert all(after[k] - counts[k] == (0 if k in frozen else 1) for k in counts)
    assert {k in frozen for k in counts} == {True, False}


@pytest.mark.parametrize("name", [name for name, _ in BATCH_NORM])
def test_trained_weights_keep_their_batch_statistics(tmp_path, name):
    saved(tmp_path / "w.pth", name)
    own = {"name": name, "split": 2, "image_size": SIZE, "checkpoint": str(tmp_path / "w.pth")}
    for backbone, moves in ((TimmBackbone(**own), False), (TimmBackbone(**own, batch_statistics=True), True)):
        before = {key: value.clone() for key, value in backbone.model.state_dict().items()}
        backbone.eval()
        backbone.train()
        train_a_little(backbone)
        moved = {key for key, value in backbone.model.state_dict().items() if not torch.equal(value, before[key])}
        assert any(key.endswith("running_mean") for key in moved) == moves
        norms = {f"{n}.weight" for n, m in backbone.model.named_modules() if isinstance(m, nn.BatchNorm2d)}
        assert moved & norms  # scale and shift train either way
        assert trains_batch_norm(backbone) == moves


@pytest.mark.parametrize("name", ["test_vit", "test_efficientnet"])
def test_frozen_network_trains_nothing_but_passes_gradients_to_its_patches(name):
    backbone = TimmBackbone(name, split=1, image_size=SIZE, freeze="all")
    assert backbone.caches == ("patches", "feature")
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    backbone.train()
    assert not any(module.training for module in backbone.model.modules())
    patches = backbone.embed(images()).requires_grad_()
    (backbone.encode(patches) * torch.randn(backbone.feature_dim)).sum().backward()
    assert patches.grad.abs().sum() > 0


@pytest.mark.parametrize(("name", "split"), [("test_vit", 0), ("test_vit", 2), ("test_efficientnet", 3)])
def test_unfrozen_network_trains_everything(name, split):
    backbone = TimmBackbone(name, split=split, image_size=SIZE)
    assert backbone.caches == ()
    assert backbone.frozen_state() == {}
    (backbone.encode(backbone.embed(images())) * torch.randn(backbone.feature_dim)).sum().backward()
    for key, parameter in backbone.named_parameters():
        assert parameter.grad is not None, key


@pytest.mark.parametrize("name", ["test_vit", "test_efficientnet"])
def test_features_do_not_depend_on_how_many_are_computed_at_a_time(name):
    backbone = TimmBackbone(name, split=2, image_size=SIZE).eval()
    patches = backbone.embed(images(19)).detach()
    whole = backbone.encode(patches)  # with gradients: all at once
    with torch.no_grad():
        torch.testing.assert_close(backbone.encode(patches), whole, rtol=1e-4, atol=1e-4)
        views = torch.cat([patches, patches.flip(0)], dim=1)
        described = backbone.descriptors(views, MIRRORED[:2], SIZE)
    assert described.shape == (19, 2, backbone.descriptor_dim)
    torch.testing.assert_close(described[:, 0], backbone.descriptor(patches), rtol=1e-4, atol=1e-4)


def test_tells_whether_it_has_trained_weights(tmp_path):
    saved(tmp_path / "w.pth", "test_vit")
    assert not TimmBackbone("test_vit", image_size=SIZE).has_weights
    assert TimmBackbone("test_vit", image_size=SIZE, checkpoint=str(tmp_path / "w.pth")).has_weights


# ---------------------------------------------------------------- weights


def saved(path, name, size=SIZE, classes=10):
    """Write a whole network with its classifier, as timm saves it."""
    size = {"img_size": size} if name == "test_vit" else {}
    model = settle(timm.create_model(name, num_classes=classes, **size))
    write(path, model.state_dict())
    return model.state_dict()


def write(path, state):
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)


@pytest.mark.parametrize("name", list(STAGES))
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_make_the_round_trip(tmp_path, name, suffix):
    path = tmp_path / f"weights{suffix}"
    state = saved(path, name)
    model = TimmBackbone(name, split=1, image_size=SIZE, checkpoint=str(path), freeze="all").model
    loaded = model.state_dict()
    assert loaded
    for key, value in loaded.items():
        assert torch.equal(value, state[key]), key


@pytest.mark.parametrize("wrapper", ["state_dict", "model"])
def test_wrapped_state_dicts_are_unwrapped(tmp_path, wrapper):
    state = saved(tmp_path / "plain.pth", "test_vit")
    torch.save({wrapper: state, "epoch": 3}, tmp_path / "wrapped.pth")
    model = TimmBackbone("test_vit", image_size=SIZE, checkpoint=str(tmp_path / "wrapped.pth")).model
    assert torch.equal(model.state_dict()["cls_token"], state["cls_token"])


def test_half_precision_weights_become_float(tmp_path):
    state = {k: v.half() if v.is_floating_point() else v for k, v in saved(tmp_path / "w.pth", "test_vit").items()}
    torch.save(state, tmp_path / "half.pth")
    backbone = TimmBackbone("test_vit", image_size=SIZE, checkpoint=str(tmp_path / "half.pth"))
    assert {p.dtype for p in backbone.parameters()} == {torch.float32}


def test_position_embeddings_are_resized(tmp_path):
    path = tmp_path / "large.safetensors"
    state = saved(path, "test_vit", size=160)
    backbone = TimmBackbone("test_vit", image_size=SIZE, checkpoint=str(path)).eval()
    assert backbone.model.pos_embed.shape == (1, 17, 64)
    small, large = backbone.model.pos_embed.detach(), state["pos_embed"]
    torch.testing.assert_close(small[:, :1], large[:, :1])  # the class token's stays
    torch.testing.assert_close(small[:, 1:].mean(dim=1), large[:, 1:].mean(dim=1), rtol=0, atol=0.02)
    assert backbone.encode(backbone.embed(images())).isfinite().all()


def test_keys_and_shapes_that_do_not_fit_are_listed(tmp_path):
    state = saved(tmp_path / "w.pth", "test_resnet")
    del state["bn1.bias"]
    state["layer9.odd"] = torch.zeros(1)
    state["conv1.0.weight"] = torch.zeros(2, 3, 3, 3)
    torch.save(state, tmp_path / "bad.pth")
    with pytest.raises(ValueError, match="does not fit") as caught:
        TimmBackbone("test_resnet", split=1, image_size=SIZE, checkpoint=str(tmp_path / "bad.pth"))
    message = str(caught.value)
    assert "missing bn1.bias, unexpected layer9.odd, wrong shape conv1.0.weight" in message
    assert str(tmp_path / "bad.pth") in message
    assert "\n" not in message


def test_weights_of_another_network_are_listed_in_one_line(tmp_path):
    saved(tmp_path / "w.safetensors", "test_efficientnet")
    with pytest.raises(ValueError, match=r"does not fit: missing .* and \d+ more") as caught:
        TimmBackbone("test_resnet", split=1, image_size=SIZE, checkpoint=str(tmp_path / "w.safetensors"))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("kept", [0, 3, 5000])
def test_truncated_files_are_one_line(tmp_path, suffix, kept):
    path = tmp_path / f"weights{suffix}"
    saved(path, "test_vit")
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match="cannot read") as caught:
        TimmBackbone("test_vit", image_size=SIZE, checkpoint=str(path))
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", [torch.zeros(3), [1, 2], {"a": 1}, {"state_dict": {"x": "y"}}])
def test_files_without_a_state_dict_are_refused(tmp_path, content):
    torch.save(content, tmp_path / "odd.pth")
    with pytest.raises(ValueError, match="not a dict of tensors"):
        load_weights(timm.create_model("test_resnet", num_classes=0), tmp_path / "odd.pth")


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_code_in_weights_is_not_run(tmp_path):
    torch.save({"w": Bomb(tmp_path / "bomb")}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="cannot read"):
        load_weights(timm.create_model("test_resnet", num_classes=0), tmp_path / "w.pth")
    assert not (tmp_path / "bomb").exists()


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no weights at backbone.checkpoint=.*absent\.pth"):
        TimmBackbone("test_vit", image_size=SIZE, checkpoint=str(tmp_path / "absent.pth"))


# ---------------------------------------------------------------- pooling onto a coarser grid


def test_pool_grid_averages_blocks():
    values = torch.randn(2, 4 * 6, 3)
    pooled = pool_grid(values, (4, 6), (2, 3))
    for row in range(2):
        for column in range(3):
            block = [(2 * row + i) * 6 + 2 * column + j for i in range(2) for j in range(2)]
            torch.testing.assert_close(pooled[:, 3 * row + column], values[:, block].mean(dim=1))
    assert pool_grid(values, (4, 6), (4, 6)) is values


def test_pool_grid_keeps_rows_that_sum_to_one():
    assignment = torch.randn(2, 25, 4).softmax(dim=-1)
    torch.testing.assert_close(pool_grid(assignment, (5, 5), (2, 2)).sum(dim=-1), torch.ones(2, 4))


def test_weights_that_cannot_be_fetched_are_named_with_the_way_out(monkeypatch):
    def fails(name, pretrained, **_):
        assert pretrained
        raise ConnectionError("no route to the hub")

    monkeypatch.setattr(timm, "create_model", fails)
    with pytest.raises(OSError, match=r"weights of test_vit cannot be fetched .*no route to the hub.*WEIGHTS=file"):
        TimmBackbone("test_vit", pretrained=True)


def test_weights_that_have_changed_or_are_not_finite_are_refused(tmp_path):
    model, path = timm.create_model("test_resnet", num_classes=0), tmp_path / "w.pth"
    torch.save(model.state_dict(), path)
    whole = path.read_bytes()
    place = whole.find(model.conv1[0].weight.detach().numpy().tobytes())
    assert place > 0
    path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    with pytest.raises(ValueError, match="does not match its checksum"):
        load_weights(model, path)
    state = model.state_dict() | {"conv1.0.weight": torch.full_like(model.conv1[0].weight, torch.nan)}
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=r"weights conv1\.0\.weight of backbone\.checkpoint=.* are not finite"):
        load_weights(model, tmp_path / "w.safetensors")
