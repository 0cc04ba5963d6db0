"""Any timm network, cut at one point into `embed` (image -> patches) and `encode` (patches -> feature)."""

import difflib
import math
import os
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, cast

import timm
import torch
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer
from timm.models.vision_transformer import checkpoint_filter_fn as vit_checkpoint_filter
from torch import Tensor, nn
from torch.nn import functional as F

from razh.backbones.views import Views, show, view_side
from razh.support.bounds import Bounded, CountOrZero, Side
from razh.support.files import check_sums
from razh.support.finite import strange_entry


class TimmBackbone(Bounded, nn.Module):
    """A timm network with one split point.

    `embed` is the stem and the first `split` blocks (ViT) or stages (CNN); `encode` is the rest and the pooling. With
    `split=0` on a ViT the patches are the raw patch embeddings and position is added by `encode`, so that replaced
    patches keep their place (the setting of the RAZH paper, arXiv 2503.07037). With `split > 0` and a frozen trunk,
    `embed` is a pure function of the image, and its output can be computed once and cached.

    Images come as uint8 (B, 3, H, W) and are normalised here, since mean and standard deviation belong to the weights.

    Attributes:
        dim: width D of the patches.
        grid: rows and columns of the patches, N = rows × columns.
        prefix: number of tokens in front of the patches in the output of `embed` (class and register tokens of a ViT
            that was cut behind its position embedding, else 0).
        token_dim, token_grid: the same two for the tokens that `contextualise` returns.
        feature_dim: width of the pooled feature.
        descriptor_dim: width of a view's descriptor.
        has_weights: whether it started from trained weights.
    """

    def __init__(
        self,
        name: str = "test_vit",
        split: CountOrZero = 0,
        image_size: Side = 224,
        pretrained: bool = False,
        checkpoint: str | None = None,
        freeze: Literal["none", "trunk", "all"] = "none",
        batch_statistics: bool | None = None,
    ) -> None:
        """Build the network.

        Args:
            name: a timm model name: Vision Transformers, EfficientNets, ResNets and ConvNeXts are understood.
            split: number of blocks or stages that belong to `embed`.
            image_size: side of the square input in pixels.
            pretrained: fetch timm's weights from its hub (needs a network).
            checkpoint: a local file of weights instead, `.safetensors` or a plain torch state dict.
            freeze: `trunk` freezes `embed`, `all` freezes everything.
            batch_statistics: batch normalisation trains on the batch's mean and variance, and follows them; None: only
                if there are no trained weights, whose statistics a few hundred steps would replace by worse ones.

        Raises:
            ValueError: unknown network or family, a split out of range, or weights that do not fit.
            FileNotFoundError: no file at `checkpoint`.
            OSError: weights cannot be fetched.
        """
        super().__init__()
        _check_name(name)
        self.name, self.split, self.image_size, self.freeze = name, split, image_size, freeze
        self.has_weights = pretrained or checkpoint is not None
        self.batch_statistics = not self.has_weights if batch_statistics is None else batch_statistics
        size = {"img_size": image_size} if _takes_image_size(name) else {}
        # A local checkpoint wins over the hub: it was named on purpose.
        from_hub = pretrained and checkpoint is None
        try:
            self.model = timm.create_model(name, pretrained=from_hub, num_classes=0, **size)
        except Exception as error:  # hub and network have a dozen types
            if not from_hub:
                raise
            reason = " ".join(str(error).split())[:200]
            raise OSError(
                f"backbone.pretrained=true: the weights of {name} cannot be fetched from timm's hub ({reason}); pass "
                "WEIGHTS=file (--model.backbone.checkpoint) for weights that are here"
            ) from error
        if checkpoint is not None:
            load_weights(self.model, Path(os.path.expanduser(checkpoint)))
        self.is_vit = isinstance(self.model, VisionTransformer)
        self.stages = _stages(self.model)
        if not 0 <= split <= len(self.stages) or (split == 0 and not self.is_vit):
            lowest = 0 if self.is_vit else 1
            raise ValueError(f"backbone.split={split} is out of range for {name}: take {lowest} to {len(self.stages)}")
        self.prefix = self.model.num_prefix_tokens if self.is_vit and split > 0 else 0
        config = self.model.pretrained_cfg
        self.register_buffer("mean", torch.tensor(config["mean"]).view(1, 3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(config["std"]).view(1, 3, 1, 1) * 255, persistent=False)
        for parameter in self.frozen_parameters():
            parameter.requires_grad_(False)
        self._patch_counts: dict[int, int] = {}  # by the side of an image
        self._measure()

    mean: Tensor
    std: Tensor

    @property
    def frozen_with_weights(self) -> bool:
        """Whether all of it stays as trained weights have made it: its features are worth starting from."""
        return self.freeze == "all" and self.has_weights

    def _measure(self) -> None:
        """Read the sizes off one made-up image instead of keeping a table of networks; check the cut with it."""
        was_training = self.training
        self.eval()
        with torch.no_grad():
            image = torch.linspace(-2, 2, 3 * self.image_size**2).view(1, 3, self.image_size, self.image_size)
            patches, self.grid = self._embed(image)
            tokens = self.contextualise(patches)
            self.dim = patches.shape[-1]
            self.token_dim = tokens.shape[-1]
            self.token_grid = self.grid if self.is_vit else self._token_grid
            feature = self.pool(tokens)
            self.feature_dim = feature.shape[-1]
            self.descriptor_dim = self._descriptor(tokens).shape[-1]
            whole = self.model.forward_head(self.model.forward_features(image), pre_logits=True)
        self.train(was_training)
        if feature.shape != whole.shape or not torch.allclose(feature, whole, rtol=1e-3, atol=1e-3, equal_nan=True):
            raise ValueError(
                f"backbone.name={self.name!r}: cut into stages, {type(self.model).__name__} gives another feature than "
                "whole; take a ViT, EfficientNet, ResNet or ConvNeXt"
            )

    @property
    def num_patches(self) -> int:
        """Number N of patches."""
        return self.grid[0] * self.grid[1]

    @property
    def caches(self) -> tuple[str, ...]:
        """Which outputs are pure functions of the image and may be cached: `patches`, `feature`."""
        return {"none": (), "trunk": ("patches",), "all": ("patches", "feature")}[self.freeze]

    @property
    def view_caches(self) -> tuple[str, ...]:
        """The same of several views: `view_patches`, `descriptors`."""
        return {"none": (), "trunk": ("view_patches",), "all": ("descriptors",)}[self.freeze]

    def frozen_parameters(self) -> Sequence[nn.Parameter]:
        """Return the parameters that `freeze` keeps from training."""
        return [value for value in self.frozen_state().values() if isinstance(value, nn.Parameter)]

    def frozen_state(self) -> dict[str, Tensor]:
        """Return parameters and buffers, by name, of what `freeze` keeps from changing."""
        if self.freeze == "none":
            return {}
        state = self.model.state_dict(keep_vars=True)
        if self.freeze == "all":
            return dict(state)
        trunk = {id(t) for module in self._trunk() for t in module.state_dict(keep_vars=True).values()}
        if self.is_vit and self.split > 0:
            trunk |= {id(state[n]) for n in ("cls_token", "reg_token", "pos_embed") if n in state}
        return {name: tensor for name, tensor in state.items() if id(tensor) in trunk}

    def _trunk(self) -> list[nn.Module]:
        first = [self.model.patch_embed] if self.is_vit else []
        if self.is_vit and self.split > 0:
            first.append(self.model.norm_pre)
        return [*first, *self.stages[: self.split]]

    def train(self, mode: bool = True) -> "TimmBackbone":
        """Set training mode; frozen parts and kept statistics stay in evaluation mode, or they would drift."""
        super().train(mode)
        if not self.batch_statistics:
            for module in self.model.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        if self.freeze == "all":
            self.model.eval()
        elif self.freeze == "trunk":
            for module in self._trunk():
                module.eval()
        return self

    def normalise(self, images: Tensor) -> Tensor:
        """Return images (B, 3, H, W), uint8 or float in [0, 255], as the network wants them."""
        return (images.to(self.mean.dtype) - self.mean) / self.std

    def embed(self, images: Tensor, size: int | None = None) -> Tensor:
        """Return patches (B, prefix + N, D) of uint8 images (B, 3, H, W) of `size` pixels; None: of `image_size`."""
        size = size or self.image_size
        if images.shape[-2:] != (size, size):
            raise ValueError(
                f"images are {tuple(images.shape[-2:])}, the backbone was built for image_size={size}; "
                f"set data.image_size={size}"
            )
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.freeze == "none"):
            return self._embed(self.normalise(images))[0]

    def _embed(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        if self.is_vit:
            rows, columns = cast("tuple[int, int]", self.model.patch_embed.grid_size)
            x = self.model.patch_embed(x)
            if self.split > 0:
                x = self._position(x)
                for block in self.stages[: self.split]:
                    x = block(x)
            elif x.ndim == 4:  # networks that take any image size keep rows and columns apart until now
                x = x.flatten(1, 2)
            return x, (rows, columns)
        for stage in self.stages[: self.split]:
            x = stage(x)
        return x.flatten(2).transpose(1, 2), (x.shape[2], x.shape[3])

    def _position(self, x: Tensor) -> Tensor:
        if x.ndim == 3 and self.model.dynamic_img_size:
            x = x.unflatten(1, self.model.patch_embed.grid_size)  # type: ignore[no-untyped-call]
        return cast("Tensor", self.model.norm_pre(self.model.patch_drop(self.model._pos_embed(x))))

    def contextualise(self, patches: Tensor) -> Tensor:
        """Return tokens (B, prefix' + N', D') of patches (B, prefix + N, D): `encode` without the pooling."""
        if self.is_vit:
            x = self._position(patches) if self.split == 0 else patches
            for block in self.stages[self.split :]:
                x = block(x)
            return cast("Tensor", self.model.norm(x))
        side = math.isqrt(patches.shape[1])  # images are square, and views of them may be larger
        x = patches.transpose(1, 2).unflatten(2, (side, side))  # type: ignore[no-untyped-call]
        for stage in self.stages[self.split :]:
            x = stage(x)
        self._token_grid = (x.shape[2], x.shape[3])
        return cast("Tensor", x.flatten(2).transpose(1, 2))

    def spatial(self, tokens: Tensor) -> Tensor:
        """Return only the N' tokens that have a place in the image, (B, N', D')."""
        return tokens[:, self.model.num_prefix_tokens :] if self.is_vit else tokens

    def pool(self, tokens: Tensor) -> Tensor:
        """Return the feature (B, feature_dim) of tokens as `contextualise` gives them."""
        if not self.is_vit:
            tokens = tokens.transpose(1, 2).unflatten(2, self._token_grid)  # type: ignore[no-untyped-call]
        return cast("Tensor", self.model.forward_head(tokens, pre_logits=True))

    def encode(self, patches: Tensor) -> Tensor:
        """Return the feature (B, feature_dim) of patches (B, prefix + N, D)."""
        return few_at_a_time(lambda chunk: self.pool(self.contextualise(chunk)), patches)

    def view_size(self, scale: float) -> int:
        """Return the side in pixels of a view that is `scale` times an image; a ViT takes images of its own size only.

        Convolutional networks know objects larger than a test image shows them (Touvron et al., NeurIPS 2019).
        """
        if self.is_vit or scale == 1:
            return self.image_size
        return max(round(scale * self.image_size / 32), 1) * 32

    def embed_views(self, images: Tensor, views: Views, size: int) -> Tensor:
        """Return patches (B, Σ (prefix + N_v), D) of some views, one after the other, of uint8 images (B, 3, H, W).

        Enlarged views are `size` pixels wide; views of several sizes have different numbers N_v of patches.
        """
        shown = ((show(images, view, size), view_side(view, self.image_size, size)) for view in views)
        return torch.cat([self.embed(each, side) for each, side in shown], dim=1)

    def split_views(self, patches: Tensor, views: Views, size: int) -> list[Tensor]:
        """Return the patches (B, prefix + N_v, D) of each view, as `embed_views` made them of all views or of one."""
        counts = self.count_patches(views, size)
        return [patches] if patches.shape[1] in counts else list(torch.split(patches, counts, dim=1))

    def count_patches(self, views: Views, size: int) -> list[int]:
        """Return the number prefix + N_v of patches of each view."""
        return [self._patches_of(view_side(view, self.image_size, size)) for view in views]

    def _patches_of(self, size: int) -> int:
        """Return the number prefix + N of patches of an image `size` pixels wide."""
        if size not in self._patch_counts:
            image, was_training = torch.zeros(1, 3, size, size, device=self.mean.device), self.training
            self.eval()  # batch normalisation should not learn from it
            with torch.no_grad():
                self._patch_counts[size] = self.embed(image, size).shape[1]
            self.train(was_training)
        return self._patch_counts[size]

    def describe(self, images: Tensor, views: Views, size: int) -> Tensor:
        """Return descriptors (B, V, descriptor_dim) of some views of uint8 images (B, 3, H, W), of length √D each.

        See `descriptor` for what a descriptor is, `razh.backbones.views` for the views, and `view_size` for their size.
        """
        each = (self.embed_views(images, (view,), size) for view in views)
        return torch.stack([few_at_a_time(self.descriptor, patches) for patches in each], dim=1)

    def descriptors(self, patches: Tensor, views: Views, size: int) -> Tensor:
        """Return descriptors (B, V, descriptor_dim) of the patches that `embed_views` made of all views, or of one."""
        each = self.split_views(patches, views, size)
        return torch.stack([few_at_a_time(self.descriptor, view) for view in each], dim=1)

    def descriptor(self, patches: Tensor) -> Tensor:
        """Return the descriptor (B, descriptor_dim) of patches (B, prefix + N, D), of length √D.

        Where the last map is an activation (EfficientNets, ResNets) it is pooled by the generalised mean with p = 3
        (Radenović et al., TPAMI 2019), which asks for what is somewhere rather than everywhere; else it is the feature.
        """
        pooled = self._descriptor(self.contextualise(patches))
        described: Tensor = F.normalize(pooled, dim=-1) * pooled.shape[-1] ** 0.5
        return described

    def _descriptor(self, tokens: Tensor) -> Tensor:
        if not (hasattr(self.model, "conv_stem") or hasattr(self.model, "layer4")):
            return self.pool(tokens)
        return tokens.clamp(min=1e-6).pow(3).mean(dim=1).pow(1 / 3)


def few_at_a_time(function: Callable[[Tensor], Tensor], rows: Tensor, count: int = 16) -> Tensor:
    """Return function(rows); without gradients on a CPU some at a time: its caches hold the maps of few images."""
    if rows.device.type != "cpu" or torch.is_grad_enabled() or len(rows) <= count:
        return function(rows)
    return torch.cat([function(chunk) for chunk in torch.split(rows, count)])


def _check_name(name: str) -> None:
    """Raise ValueError, with suggestions, unless timm has a network of this name and, after a dot, such weights."""
    base, _, tag = name.partition(".")
    known = timm.list_models()
    if base not in known:
        close = ", ".join(difflib.get_close_matches(base, known, n=3)) or "one of timm.list_models()"
        # A name such as hf-hub:… would be asked for at a hub, also when a checkpoint is loaded that was made elsewhere.
        raise ValueError(f"backbone.name={name!r} is not a timm model; did you mean {close}?")
    tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{base}.*")]
    if tag and tag not in tags:
        raise ValueError(f"backbone.name={name!r}: {base} has no weights {tag!r}; take {', '.join(tags) or 'no tag'}")


def _takes_image_size(name: str) -> bool:
    """Tell whether the network has position embeddings whose number depends on the image size."""
    entry = timm.model_entrypoint(name.split(".")[0])
    return bool(entry.__module__.split(".")[-1].startswith(("vision_transformer", "deit")))


def _stages(model: nn.Module) -> list[nn.Module]:
    """Return a network's feature extractor as a list of stages that are applied one after the other."""
    part = dict(model.named_children())
    if isinstance(model, VisionTransformer):
        return list(cast("nn.Sequential", part["blocks"]))
    if {"conv_stem", "bn1", "blocks"} <= part.keys():  # EfficientNet and its kin
        ends: list[nn.Module] = (
            [nn.Sequential(part["conv_head"], part["bn2"])] if "bn2" in part else []
        )  # MobileNetV3: in its head
        stem = nn.Sequential(part["conv_stem"], part["bn1"])
        return [stem, *cast("nn.Sequential", part["blocks"]), *ends]
    if {"conv1", "layer1", "layer4"} <= part.keys():  # ResNet and its kin
        stem = nn.Sequential(*(part[n] for n in ("conv1", "bn1", "act1", "maxpool") if n in part))
        return [stem, *(part[f"layer{i}"] for i in (1, 2, 3, 4))]
    if {"stem", "stages"} <= part.keys():  # ConvNeXt and its kin
        ends = [part["norm_pre"]] if "norm_pre" in part else []
        return [part["stem"], *cast("nn.Sequential", part["stages"]), *ends]
    raise ValueError(
        f"backbone.name: {type(model).__name__} is of no family that razh can split; "
        "take a ViT, EfficientNet, ResNet or ConvNeXt"
    )


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a file of weights into a timm network; its classifier is left out, position embeddings are resized.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file cannot be read, its weights are not finite, or keys or shapes do not fit (they are listed).
    """
    if not path.is_file():
        raise FileNotFoundError(f"no weights at backbone.checkpoint={path}; check WEIGHTS=…, or use pretrained=true")
    try:
        if zipfile.is_zipfile(path):
            check_sums(path)
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except Exception as error:  # safetensors and pickle raise types of their own
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise ValueError(f"cannot read backbone.checkpoint={path}: {reason}; it may be truncated or damaged") from None
    if isinstance(state, dict):
        state = next((state[key] for key in ("state_dict", "model") if isinstance(state.get(key), dict)), state)
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"backbone.checkpoint={path} is not a dict of tensors; give a state dict of backbone.name")
    state = {key: value.float() if value.is_floating_point() else value for key, value in state.items()}
    if (strange := strange_entry(state)) is not None:
        raise ValueError(f"weights {strange} of backbone.checkpoint={path} are not finite; give another file")
    if isinstance(model, VisionTransformer):
        state = vit_checkpoint_filter(state, model)
    classifier = model.pretrained_cfg.get("classifier") or ()  # type: ignore[union-attr, operator]
    heads = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    own = model.state_dict()
    counters = {key for key in own if key.endswith("num_batches_tracked")}  # older files lack them; nothing reads them
    missing = sorted(own.keys() - state.keys() - counters)
    unexpected = sorted(k for k in state.keys() - own.keys() if not k.startswith(tuple(f"{h}." for h in heads)))
    shapes = sorted(k for k in own.keys() & state.keys() if own[k].shape != state[k].shape)
    if missing or unexpected or shapes:
        raise ValueError(
            f"backbone.checkpoint={path} does not fit: missing {_some(missing)}, unexpected {_some(unexpected)}, "
            f"wrong shape {_some(shapes)}; check that it belongs to backbone.name"
        )
    model.load_state_dict({key: state[key] for key in own if key in state}, strict=False)


def _some(keys: list[str]) -> str:
    shown = ", ".join(keys[:4]) or "none"
    return f"{shown} and {len(keys) - 4} more" if len(keys) > 4 else shown


def pool_grid(values: Tensor, grid: tuple[int, int], target: tuple[int, int]) -> Tensor:
    """Average values (B, N, ...) from a grid of patches onto a coarser grid of tokens, (B, N', ...)."""
    if grid == target:
        return values
    maps = values.flatten(2).transpose(1, 2).unflatten(2, grid)  # type: ignore[no-untyped-call]
    pooled = F.adaptive_avg_pool2d(maps, target).flatten(2).transpose(1, 2)
    return pooled.reshape(values.shape[0], target[0] * target[1], *values.shape[2:])
