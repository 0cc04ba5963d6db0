"""What every hashing method shares: the step, the logging, the optimiser, the codes."""

import logging
import math
import unicodedata
from abc import ABC, abstractmethod
from typing import Any, Literal

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from razh.backbones.timm import TimmBackbone
from razh.layers.hash import HashHead, binarize, within_class_whitening

log = logging.getLogger(__name__)
Batch = dict[str, Tensor]


class HashingMethod(L.LightningModule, ABC):
    """A backbone, a hash head, and loss terms that a subclass chooses.

    A method is one file with a subclass that has two methods: `hash_logits` says how a batch becomes hash logits,
    `losses` which terms are minimised. The batch has `label` (B,), `index` (B,), and `image` uint8 (B, 3, H, W) or,
    where the backbone is frozen and cached, `patches` (B, N, D) and perhaps `feature` (B, D): ask `self.patches(batch)`
    and `self.feature(batch)`, which take what is there and compute the rest.
    """

    def __init__(
        self,
        backbone: TimmBackbone,
        class_attributes: Tensor,
        attribute_vectors: Tensor,
        train_classes: Tensor,
        bits: int = 64,
        hash_init: Literal["itq", "pca", "whitened", "random"] = "itq",
        lr: float = 1e-3,
        backbone_lr: float = 1e-4,
        weight_decay: float = 1e-4,
        warmup: float = 0.1,
        shuffled_attributes: bool = False,
    ) -> None:
        """Build the parts that all methods have.

        Args:
            backbone: images to patches to feature.
            class_attributes: (C, M) strengths in [0, 1]; given by the data.
            attribute_vectors: (M, V); given by the data.
            train_classes: ids of the classes that are trained on, sorted; given by the data.
            bits: code length L.
            hash_init: start the hash head from PCA + ITQ of the training features, from PCA alone, from PCA + ITQ of
                the features `whitened` by what differs within a class, or at random.
            lr: learning rate of everything but the backbone.
            backbone_lr: learning rate of the backbone's trainable part.
            weight_decay: of AdamW.
            warmup: share of the steps in which the learning rate rises; then it falls as a cosine.
            shuffled_attributes: a control: training classes have each other's attributes, none its own. A method that
                is as good so does not live on what attributes say.

        Raises:
            ValueError: bits below 1.
        """
        super().__init__()
        self.backbone = backbone
        self.bits, self.hash_init = bits, hash_init
        self.lr, self.backbone_lr, self.weight_decay, self.warmup = lr, backbone_lr, weight_decay, warmup
        self.head = HashHead(self.input_dim(backbone), bits)
        if shuffled_attributes:
            class_attributes = dealt_out(class_attributes, train_classes)
        self.register_buffer("class_attributes", class_attributes)
        self.register_buffer("attribute_vectors", attribute_vectors)
        self.register_buffer("train_classes", train_classes)
        position = torch.full((len(class_attributes),), -1)
        position[train_classes] = torch.arange(len(train_classes))
        self.register_buffer("class_position", position)

    class_attributes: Tensor
    attribute_vectors: Tensor
    train_classes: Tensor
    class_position: Tensor

    def input_dim(self, backbone: TimmBackbone) -> int:
        """Return the width of what the hash head sees."""
        return backbone.feature_dim

    @abstractmethod
    def hash_logits(self, batch: Batch) -> Tensor:
        """Return hash logits (B, L) of a batch without looking at its labels; their signs are the codes."""

    @abstractmethod
    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return the weighted loss terms; their sum is minimised, each is logged. None at all: nothing to train."""

    def forward(self, images: Tensor) -> Tensor:
        """Return hash logits (B, L) of uint8 images (B, 3, H, W)."""
        return self.hash_logits({"image": images})

    def codes(self, images: Tensor) -> Tensor:
        """Return the codes (B, L), bool, of uint8 images (B, 3, H, W)."""
        return binarize(self(images))

    def patches(self, batch: Batch) -> Tensor:
        """Return patches (B, prefix + N, D), from the cache where the batch has them."""
        cached = batch.get("patches")
        return self.backbone.embed(batch["image"]) if cached is None else cached.to(self.dtype)

    def feature(self, batch: Batch) -> Tensor:
        """Return the feature (B, D), from the cache where the batch has it."""
        cached = batch.get("feature")
        return self.backbone.encode(self.patches(batch)) if cached is None else cached.to(self.dtype)

    def targets(self, batch: Batch) -> Tensor:
        """Return labels (B,) counted among the training classes."""
        return self.class_position[batch["label"]]

    @property
    def cached_inputs(self) -> tuple[str, ...]:
        """Return which arrays of a feature cache a batch should have; the last output that is cached, if not said."""
        return self.backbone.caches[-1:]

    # Lightning's hooks from here on.

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        """Return the sum of the loss terms, and log each."""
        terms = self.losses(batch)
        if not terms:
            return None
        loss = torch.stack(list(terms.values())).sum()
        size = len(batch["label"])
        logged = {f"train/{name}": value.detach() for name, value in terms.items()}
        self.log_dict(logged, on_step=False, on_epoch=True, sync_dist=True, batch_size=size)
        self.log(
            "train/loss", loss.detach(), on_step=False, on_epoch=True, prog_bar=True, sync_dist=True, batch_size=size
        )
        return loss

    def encode_step(self, batch: Batch, batch_idx: int) -> Batch:
        """Return index, label and code of a batch; callbacks collect them."""
        codes = binarize(self.hash_logits(batch))
        return {"index": batch["index"], "label": batch["label"], "code": codes}

    validation_step = test_step = predict_step = encode_step

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of something else by name: of another method, code length, network, or other classes.

        One that was trained on other classes would be tested on classes that it has seen.
        """
        state, info = checkpoint["state_dict"], checkpoint.get("razh", {})
        trained_as = str((info.get("model") or {}).get("class_path", "")).rpartition(".")[2]
        if trained_as and trained_as != type(self).__name__:
            raise ValueError(
                f"the checkpoint is one of {trained_as}, this run's method is {type(self).__name__}; pass the METHOD "
                "that it was trained with, or another --ckpt_path"
            )
        found = state.get("head.bias")
        if found is not None and len(found) != self.bits:
            raise ValueError(
                f"the checkpoint has codes of {len(found)} bits, model.bits is {self.bits}; pass BITS={len(found)}, "
                "or another --ckpt_path"
            )
        self._check_classes(state, info)
        own = self.state_dict()
        strange = [name for name in dict.fromkeys([*own, *state]) if _shape(own, name) != _shape(state, name)]
        if strange:
            raise ValueError(
                f"the checkpoint does not fit this run: {strange[0]} is {_shape(state, strange[0])} there and "
                f"{_shape(own, strange[0])} here ({len(strange)} such); pass the options that it was trained with, "
                "--config=RUN/config.yaml"
            )

    def _check_classes(self, state: dict[str, Any], info: dict[str, Any]) -> None:
        data = getattr(self._trainer, "datamodule", None)
        trained = state.get("train_classes")
        if data is None or trained is None:
            return
        way_out = "pass the --data options that it was trained with, --config=RUN/config.yaml, or another --ckpt_path"
        names, here = info.get("class_names"), [str(name) for name in data.class_names]
        if names is not None and [unicodedata.normalize("NFC", name) for name in names] != [
            unicodedata.normalize("NFC", name) for name in here
        ]:
            raise ValueError(
                f"the checkpoint knows {len(names)} classes ({', '.join(names[:3])}, …), the data set here has "
                f"{len(here)} ({', '.join(here[:3])}, …); {way_out}"
            )
        split = str(info.get("split_fingerprint") or "")
        if not torch.equal(trained.cpu(), self.train_classes.cpu()):
            seen = set(trained.tolist()) & set(data.split.unseen_classes)
            shown = f"; {len(seen)} of the unseen classes here were trained on ({here[min(seen)]})" if seen else ""
            raise ValueError(
                f"the checkpoint was trained on {len(trained)} other classes, protocol {info.get('split_protocol')!r}, "
                f"split {split[:12]}; here are {len(self.train_classes)}, protocol {data.split.protocol!r}, split "
                f"{data.split.fingerprint[:12]}{shown}; {way_out}"
            )
        if split not in ("", data.split.fingerprint):
            log.warning(
                "the checkpoint was trained on the same classes with other lists of images (split %s, here %s): images "
                "were added or taken away since, or another protocol draws them",
                split[:12],
                data.split.fingerprint[:12],
            )

    def on_fit_start(self) -> None:
        """Start the hash head from the training features, unless a checkpoint has been restored."""
        if self.backbone.freeze != "none" and not self.backbone.has_weights:
            name = self.backbone.name
            log.warning("backbone %s is frozen at random weights: pass WEIGHTS=file, or pretrained=true", name)
        if self.trainer.ckpt_path is None:
            self.start_from_features()

    def start_from_features(self) -> None:
        """Initialise what depends on the training features: the hash head, unless it starts at random."""
        if self.hash_init != "random":
            self.start_head(self.training_features())

    def start_head(self, features: Tensor, whitening: Tensor | None = None) -> None:
        """Initialise the hash head from training features (n, D), the same on every device.

        Their whitening (D, D) is solved for if the start asks for it and it is not given.
        """
        if self.hash_init != "whitened":
            whitening = None
        elif whitening is None:
            whitening = within_class_whitening(features, self.training_labels())
        self.head.initialise(features, whitening, rotate=self.hash_init != "pca", beside=self.beside(features))
        self.synchronise(self.head)

    def synchronise(self, module: nn.Module) -> None:
        """Give every device the first one's state: all computed it, but last digits differ and must not live on."""
        module.load_state_dict(self.trainer.strategy.broadcast({k: v.cpu() for k, v in module.state_dict().items()}))

    def beside(self, features: Tensor) -> Tensor | None:
        """Return what the hash head sees beside the features (n, D) and starts from, too: (n, E), or nothing."""
        return None

    @torch.no_grad()
    def training_features(self) -> Tensor:
        """Return what the hash head sees of all training images (n, D), in dataset order, the same on every device."""
        was_training = self.training
        self.eval()
        rows = []
        for batch in self.trainer.datamodule.initialisation_dataloader():  # type: ignore[attr-defined]
            moved = {name: value.to(self.device) for name, value in batch.items()}
            rows.append(self.hash_input(moved).float().cpu())
        self.train(was_training)
        return torch.cat(rows)

    def training_labels(self) -> Tensor:
        """Return the labels (n,) of the rows of `training_features`."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        return torch.as_tensor(data.labels[data.split.train])

    def hash_input(self, batch: Batch) -> Tensor:
        """Return what the hash head sees (B, D); the head is initialised from it."""
        return self.feature(batch)

    def configure_optimizers(self) -> Any:
        """Return AdamW with a warm-up and a cosine over the whole run."""
        backbone = [p for p in self.backbone.parameters() if p.requires_grad]
        known = {id(p) for p in self.backbone.parameters()}
        rest = [p for p in self.parameters() if p.requires_grad and id(p) not in known]
        groups = [{"params": rest, "lr": self.lr}, {"params": backbone, "lr": self.backbone_lr}]
        optimizer = torch.optim.AdamW([g for g in groups if g["params"]], weight_decay=self.weight_decay)
        steps = max(int(self.trainer.estimated_stepping_batches), 1)
        rising = max(round(self.warmup * steps), 1)

        def factor(step: int) -> float:
            if step < rising:
                return (step + 1) / rising
            done = (step - rising) / max(steps - rising, 1)
            return 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))

        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}}


def _shape(state: dict[str, Any], name: str) -> str:
    """Return the shape of an entry of a state, in words."""
    value = state.get(name)
    return "missing" if value is None else str(tuple(value.shape)) if isinstance(value, Tensor) else "there"


def dealt_out(class_attributes: Tensor, train_classes: Tensor) -> Tensor:
    """Return class attributes (C, M) in which every training class has those of another one, the same at each call."""
    order = torch.randperm(len(train_classes), generator=torch.Generator().manual_seed(0))
    dealt = class_attributes.clone()
    dealt[train_classes[order]] = class_attributes[train_classes[order.roll(1)]]  # a cycle: none keeps its own
    return dealt
