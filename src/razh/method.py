"""What every hashing method shares: the step, the logging, the optimiser, the codes."""

import logging
import math
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar, Literal

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from razh.backbones.timm import TimmBackbone
from razh.backbones.views import chosen_views
from razh.collection.code import CollectionCode
from razh.layers.hash import HashHead, binarize, within_class_whitening
from razh.layers.posteriors import ClassPosteriors
from razh.support.bounds import Bits, Bounded, NonNegative, Positive, Share
from razh.support.distributed import first_of_all, world
from razh.support.finite import EVERY, LossWatch, Step, strange_entry

log = logging.getLogger(__name__)
Batch = dict[str, Tensor]
CLASS_FACTS = ("class_attributes", "attribute_vectors", "train_classes", "attribute_groups")


class HashingMethod(Bounded, L.LightningModule, ABC):
    """A backbone, a hash head, and loss terms that a subclass chooses.

    A method is one file with a subclass that has two methods: `hash_logits` says how a batch becomes hash logits,
    `losses` which terms are minimised. The batch has `label` (B,), `index` (B,), and `image` uint8 (B, 3, H, W) or,
    where the backbone is frozen and cached, `patches` (B, N, D) and perhaps `feature` (B, D): ask `self.patches(batch)`
    and `self.feature(batch)`, which take what is there and compute the rest.
    """

    of_collection = False
    """Whether the method itself looks at the unlabelled collection, so that nobody else fits its codes to it."""

    trains: ClassVar[bool] = True
    """Whether there are steps of training, and an epoch to choose; else all is fitted before the first."""

    def __init__(
        self,
        backbone: TimmBackbone,
        class_attributes: Tensor,
        attribute_vectors: Tensor,
        train_classes: Tensor,
        bits: Bits = 64,
        hash_init: Literal["itq", "pca", "whitened", "random"] = "itq",
        views: Literal["none", "auto", "sizes", "mirrored"] = "none",
        view_scale: Positive = 9 / 7,
        lr: Positive = 1e-3,
        backbone_lr: NonNegative = 1e-4,
        weight_decay: NonNegative = 1e-4,
        warmup: Share = 0.1,
        permuted_attributes: bool = False,
        attribute_groups: Tensor | None = None,
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
            views: which views of an image it is described by, each of which is a pass of the network; none: by its
                feature. auto: `sizes` of frozen networks, else `mirrored`; see `razh.backbones.views`.
            view_scale: how much larger than an image its views are shown to a convolutional network.
            lr: learning rate of everything but the backbone.
            backbone_lr: learning rate of the backbone's trainable part.
            weight_decay: of AdamW.
            warmup: share of the steps in which the learning rate rises; then it falls as a cosine.
            permuted_attributes: a control: training classes have each other's attributes, none its own. A method that
                is as good so does not live on what attributes say.
            attribute_groups: (M,) the part that each attribute belongs to, where names say so; given by the data.

        Raises:
            ValueError: a number out of its bounds; views of no such name.
        """
        super().__init__()
        self.backbone = backbone
        self.views, self.view_scale = chosen_views(views, backbone.freeze), view_scale
        self.bits, self.hash_init = bits, hash_init
        self.lr, self.backbone_lr, self.weight_decay, self.warmup = lr, backbone_lr, weight_decay, warmup
        self._watch = LossWatch()
        if permuted_attributes:
            class_attributes = permuted(class_attributes, train_classes)
        self.register_buffer("class_attributes", class_attributes)
        self.register_buffer("attribute_vectors", attribute_vectors)
        self.register_buffer("train_classes", train_classes)
        self.register_buffer("attribute_groups", attribute_groups)
        position = torch.full((len(class_attributes),), -1)
        position[train_classes] = torch.arange(len(train_classes))
        self.register_buffer("class_position", position)
        self.head = HashHead(self.input_width(), bits)
        self.collection: CollectionCode | None = None

    class_attributes: Tensor
    attribute_vectors: Tensor
    train_classes: Tensor
    attribute_groups: Tensor | None
    class_position: Tensor

    def input_width(self) -> int:
        """Build the layers in front of the hash head, if there are any, and return the width of what it sees."""
        return self.feature_width

    @abstractmethod
    def hash_logits(self, batch: Batch) -> Tensor:
        """Return hash logits (B, L) of a batch without looking at its labels; their signs are the codes."""

    @abstractmethod
    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return the weighted loss terms; their sum is minimised, each is logged. None at all: nothing to train."""

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (B, L) of the codes of uint8 images (B, 3, H, W)."""
        return self.code_logits({"image": images})

    def code_logits(self, batch: Batch) -> Tensor:
        """Return logits (B, L) whose signs are the codes: by what was fitted to a collection, if anything was."""
        return self.hash_logits(batch) if self.collection is None else self.collection(self.collection_input(batch))

    def description(self, batch: Batch) -> Tensor:
        """Return what an image is described by (B, D), without a look at labels."""
        return self.feature(batch)

    def collection_input(self, batch: Batch) -> Tensor:
        """Return what codes of a collection are fitted to (B, E): the description, and what the method adds to it."""
        return self.description(batch)

    @property
    def collection_array(self) -> str | None:
        """Name of the array of `razh.features.arrays` that `collection_input` is made from.

        It is None where layers that were trained make a part of it.
        """
        return "descriptors" if self.views else "kept"

    def codes(self, images: Tensor) -> Tensor:
        """Return the codes (B, L), bool, of uint8 images (B, 3, H, W).

        Raises:
            ValueError: hash logits that are not finite, whose signs would be no code.
        """
        return self.encode({"image": images})

    def encode(self, batch: Batch) -> Tensor:
        """Return the codes (B, L), bool, of a batch; raises as `codes` does."""
        return binarize(self.finite_logits(batch))

    def finite_logits(self, batch: Batch) -> Tensor:
        """Return `code_logits` (B, L) of a batch; raises as `codes` does."""
        logits = self.code_logits(batch)
        if not logits.isfinite().all():
            strange = int((~logits.isfinite()).any(dim=1).sum())
            raise ValueError(
                f"the hash logits of {strange} of {len(logits)} images are not finite: the weights of the checkpoint "
                "or of its backbone are damaged or too large; take others, or --trainer.precision=32-true"
            )
        return logits

    def patches(self, batch: Batch) -> Tensor:
        """Return patches (B, prefix + N, D), from the cache where the batch has them."""
        cached = batch.get("patches")
        return self.backbone.embed(batch["image"]) if cached is None else cached.to(self.dtype)

    def feature(self, batch: Batch) -> Tensor:
        """Return the feature (B, D), or the mean descriptor of the views; from the cache where the batch has it."""
        if self.views:
            return self.descriptors(batch).mean(dim=1)
        cached = batch.get("feature")
        return self.backbone.encode(self.patches(batch)) if cached is None else cached.to(self.dtype)

    def targets(self, batch: Batch) -> Tensor:
        """Return labels (B,) counted among the training classes."""
        return self.class_position[batch["label"]]

    def descriptors(self, batch: Batch) -> Tensor:
        """Return descriptors (B, V, D) of the views, from the cache where the batch has them or their patches."""
        cached, patches = batch.get("descriptors"), batch.get("view_patches")
        if cached is not None and self.backbone.freeze == "all":
            return cached.to(self.dtype)
        if patches is not None:
            return self.backbone.descriptors(patches.to(self.dtype), self.views, self.view_size)
        return self.backbone.describe(batch["image"], self.views, self.view_size)

    @property
    def feature_width(self) -> int:
        """Width D of `feature`."""
        return self.backbone.descriptor_dim if self.views else self.backbone.feature_dim

    @property
    def view_size(self) -> int:
        """Side in pixels of an enlarged view."""
        return self.backbone.view_size(self.view_scale) if self.views else self.backbone.image_size

    @property
    def cached_inputs(self) -> tuple[str, ...]:
        """Return which arrays of `razh.features.arrays` a batch should have; by default the last cached output."""
        return (self.backbone.view_caches if self.views else self.backbone.caches)[-1:]

    # Lightning's hooks from here on.

    def setup(self, stage: str) -> None:
        """Refuse what looks at more than the data's setting allows; let the collection take part in training.

        Raises:
            ValueError: attributes of the classes to be searched are looked at, and the setting does not give them.
        """
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        looks = any(isinstance(layer, ClassPosteriors) and layer.described for layer in self.modules())
        if looks and not data.split.describes_unseen:
            raise ValueError(
                "model.code.posteriors=described looks at attributes of the classes to be searched, which "
                f"data.setting={data.split.setting} does not give; pass --data.setting=described or both, and compare "
                "with methods of that setting alone"
            )
        if stage == "fit" and self.of_collection and len(data.split.unlabelled):
            self.take_collection(data)

    def take_collection(self, data: Any) -> None:
        """Do what a method `of_collection` does with `data.split.unlabelled` before it trains; by default nothing."""

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        """Return the sum of the loss terms, and log each; one that is not finite ends the run, if not at once."""
        terms = self.losses(batch)
        if not terms:
            return None
        values = torch.stack(list(terms.values()))
        loss = values.sum()
        self._watch_loss(tuple(terms), values.detach(), loss.detach())
        size = len(batch["label"])
        logged = {f"train/{name}": value.detach() for name, value in terms.items()}
        self.log_dict(logged, on_step=False, on_epoch=True, sync_dist=True, batch_size=size)
        self.log(
            "train/loss", loss.detach(), on_step=False, on_epoch=True, prog_bar=True, sync_dist=True, batch_size=size
        )
        return loss

    def encode_step(self, batch: Batch, batch_idx: int) -> Batch:
        """Return index, label, logits and code of a batch; callbacks collect them."""
        logits = self.finite_logits(batch)
        return {"index": batch["index"], "label": batch["label"], "logits": logits, "code": binarize(logits)}

    validation_step = test_step = predict_step = encode_step

    def _watch_loss(self, names: tuple[str, ...], terms: Tensor, loss: Tensor) -> None:
        """Look at the losses at once where that costs nothing, else every so many steps."""
        optimizers = getattr(self._trainer, "optimizers", [])
        rate = optimizers[0].param_groups[0]["lr"] if optimizers else self.lr
        self._watch.add(Step(self.current_epoch, self.global_step, rate, names, terms, loss))
        if len(self._watch) >= EVERY or (terms.device.type == "cpu" and world()[1] == 1):
            self._stop_on(self._loss_problem())

    def check_finite(self) -> None:
        """Refuse losses and weights that are not finite; all ranks call it, and all of them end.

        It stands before everything that keeps or judges weights: checkpoints, validation, test and prediction.

        Raises:
            ValueError: the first such number, when it came, and what to change.
        """
        problem = self._loss_problem()
        if problem is None and (name := strange_entry(self.state_dict())) is not None:
            when = f"in epoch {self.current_epoch}, step {self.global_step:,}"
            problem = f"weights {name} are not finite {when}: {self._way_out()}"
        self._stop_on(problem)

    # Not at an epoch's end: there the first rank may be asking all others for the means of what was logged.
    on_train_epoch_start = on_train_end = check_finite
    on_validation_epoch_start = on_test_epoch_start = on_predict_epoch_start = check_finite

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave the last good checkpoint where it is: no weights that are not finite are written."""
        self.check_finite()

    def _loss_problem(self) -> str | None:
        step = self._watch.first_problem()
        return f"{step.problem()}: {self._way_out(step.step)}" if step is not None else None

    def _way_out(self, step: int | None = None) -> str:
        """Return what to change, and what is left of the run."""
        if self.trainer.state.fn != TrainerFn.FITTING:
            return "take another checkpoint"
        change = f"lower --model.lr (now {self.lr:g})"
        if step == 0:  # nothing was learnt yet
            change = "look at the options of this term and at the weights of the backbone"
        elif "16" in str(self.trainer.precision):
            change += ", or pass --trainer.precision=32-true"
        kept = self.trainer.checkpoint_callback
        last = getattr(kept, "last_model_path", "") or getattr(kept, "best_model_path", "") or self.trainer.ckpt_path
        if not last:
            return f"{change}; there is no checkpoint yet"
        return f"{change}; the last good checkpoint is {last}, from which the same options would lead here again"

    @staticmethod
    def _stop_on(problem: str | None) -> None:
        problem = first_of_all(problem)
        if problem is not None:
            raise ValueError(problem)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of something else by name: of another method, code length, network, or other classes.

        One that was trained on other classes would be tested on classes that it has seen.
        """
        state, info = checkpoint["state_dict"], checkpoint.get("razh", {})
        trained_as = str((info.get("model") or {}).get("class_path", "")).rpartition(".")[2]
        if trained_as and trained_as != type(self).__name__:
            raise ValueError(
                f"the checkpoint is one of {trained_as}, this run's method is {type(self).__name__}; pass the --method "
                "that it was trained with, or another --ckpt_path"
            )
        found = state.get("head.bias")
        if found is not None and len(found) != self.bits:
            raise ValueError(
                f"the checkpoint has codes of {len(found)} bits, model.bits is {self.bits}; pass --bits={len(found)}, "
                "or another --ckpt_path"
            )
        if info.get("class_names") == []:  # of a bare network, which knows no classes: those of the data are no leak
            own = self.state_dict()
            state |= {name: own[name] for name in (*CLASS_FACTS, "class_position") if name in own}
        else:
            self._check_classes(state, info)
        if "collection" in info:
            if self.trainer.state.fn == TrainerFn.FITTING:
                raise ValueError(
                    "the checkpoint was adapted to a collection, which ends its training; train on from the checkpoint "
                    "that it was adapted from"
                )
            self.adopt_collection(state)
        own = self.state_dict()
        strange = [name for name in dict.fromkeys([*own, *state]) if _shape(own, name) != _shape(state, name)]
        if strange:
            raise ValueError(
                f"the checkpoint does not fit this run: {strange[0]} is {_shape(state, strange[0])} there and "
                f"{_shape(own, strange[0])} here ({len(strange)} such); pass the options that it was trained with, "
                "--config=RUN/config.yaml"
            )

    def adopt_collection(self, state: dict[str, Any]) -> None:
        """Make room for the code of a collection that a state has beside the method's own."""
        prefix = "collection."
        state.setdefault(f"{prefix}sharpness", torch.tensor(15.0))  # that of all, until checkpoints said it
        state.setdefault(f"{prefix}attributes", torch.zeros(0, 0))  # those of the method, until checkpoints had more
        fitted = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        self.collection = CollectionCode.of_shapes(fitted).to(self.device)

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
            try:
                self.start_from_features()
            except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
                reason = str(error).strip().splitlines()[0]
                raise ValueError(
                    f"the features of the training images allow no start ({reason}); take another backbone, or pass "
                    "--model.hash_init=random"
                ) from error
        self.check_finite()

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
        self.head.initialise(
            features, whitening, rotate=self.hash_init != "pca", auxiliary=self.auxiliary_input(features)
        )
        self.synchronise(self.head)

    def synchronise(self, module: nn.Module) -> None:
        """Give every device the first one's state: all computed it, but last digits differ and must not live on."""
        module.load_state_dict(self.trainer.strategy.broadcast({k: v.cpu() for k, v in module.state_dict().items()}))

    def auxiliary_input(self, features: Tensor) -> Tensor | None:
        """Return what the hash head sees behind the features (n, D) and starts from, too: (n, E), or nothing."""
        return None

    @torch.no_grad()
    def training_features(self) -> Tensor:
        """Return what the hash head sees of all training images (n, D), in dataset order, the same on every device.

        Raises:
            ValueError: features that are not finite.
        """
        return self.features_of(self.trainer.datamodule.initialisation_dataloader())  # type: ignore[attr-defined]

    @torch.no_grad()
    def features_of(self, loader: Iterable[Batch]) -> Tensor:
        """Return what the hash head sees of the images of a loader (n, D), in its order; labels are not shown.

        Raises:
            ValueError: features that are not finite.
        """
        was_training = self.training
        self.eval()
        rows = []
        for batch in loader:
            moved = {name: value.to(self.device) for name, value in batch.items() if name != "label"}
            rows.append(self.hash_input(moved).float().cpu())
        self.train(was_training)
        features = torch.cat(rows)
        if strange := int((~features.isfinite()).any(dim=1).sum()):
            raise ValueError(
                f"the features of {strange} of {len(features)} images are not finite: check the weights of "
                f"backbone {self.backbone.name} (--weights)"
            )
        return features

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


def permuted(class_attributes: Tensor, train_classes: Tensor) -> Tensor:
    """Return class attributes (C, M) in which every training class has those of another one, the same at each call."""
    order = torch.randperm(len(train_classes), generator=torch.Generator().manual_seed(0))
    permuted_rows = class_attributes.clone()
    permuted_rows[train_classes[order]] = class_attributes[train_classes[order.roll(1)]]  # a cycle: none keeps its own
    return permuted_rows
