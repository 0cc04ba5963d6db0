"""What training costs: Lightning beside a plain loop, loaders beside PIL, cached beside live features, and a step.

One thread, interleaved rounds, medians, processor time (so that whoever shares the machine does not count). Ratios from
one run are the message; seconds belong to one machine.

    python benchmarks/training.py --quick
    python benchmarks/training.py --profile
    python benchmarks/training.py --write docs/how-to/training.md
"""

from __future__ import annotations

import argparse
import logging
import os
import platform
import statistics
import sys
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from PIL import Image
from torchvision import transforms

from razh.backbones.timm import TimmBackbone
from razh.callbacks.cache import FeatureCache
from razh.datamodules.images import read_image, training_view
from razh.datamodules.synthetic.data import SyntheticDataModule
from razh.features.arrays import ARRAYS, Source, compute
from razh.methods.razh import RAZH
from razh.support.environment import cpu_name

START, END = "<!-- benchmark: begin -->", "<!-- benchmark: end -->"
WANTED = {"Lightning": 1.05, "loader": 1.9, "cache": 100.0}


def main() -> int:
    """Measure, print a table, and write it into a file on demand."""
    options = _parser().parse_args()
    torch.set_num_threads(1)
    for name in ("lightning.pytorch", "lightning.fabric", "razh", "datamodules"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    with tempfile.TemporaryDirectory() as folder:
        lines = report(Path(folder), options)
    command = f"`python benchmarks/training.py {' '.join(sys.argv[1:])}`"
    text = "\n".join([command, "", *lines])
    sys.stdout.write(text + "\n")
    if options.write is not None:
        put_between_marks(options.write, text)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer images and rounds")
    parser.add_argument("--profile", action="store_true", help="also show where a step's time goes")
    parser.add_argument("--write", type=Path, default=None, help="put the table into this file, between its marks")
    return parser


def report(folder: Path, options: argparse.Namespace) -> list[str]:
    """Return the lines of the table."""
    images, rounds = (24, 5) if options.quick else (40, 7)
    data, method, clock = trained(folder, images, rounds)
    plain, lightning = (statistics.median(times) for times in (clock.plain, clock.lightning))
    steps = clock.steps
    pil, ours = loaders(folder, 40 if options.quick else 200, rounds)
    live = live_features(data, method, 16 if options.quick else 64)
    cached = cached_features(data, rounds)
    rows = [
        (
            "an epoch of RAZH, lite0-frozen: Lightning ÷ plain loop",
            f"{lightning / steps * 1e3:.1f} ms a step",
            f"{plain / steps * 1e3:.1f} ms a step",
            f"{lightning / plain:.3f}",
            f"≤ {WANTED['Lightning']}",
        ),
        (
            "500 × 375 JPEG to a 224-pixel crop: ours ÷ PIL + torchvision v1",
            f"{ours:.0f} images/s",
            f"{pil:.0f} images/s",
            f"{ours / pil:.2f}",
            f"≥ {WANTED['loader']}",
        ),
        (
            "features of lite0-frozen: from the cache ÷ computed live",
            f"{cached:.0f} images/s",
            f"{live:.1f} images/s",
            f"{cached / live:.0f}",
            f"≥ {WANTED['cache']:.0f}",
        ),
    ]
    lines = ["| | ours | beside it | ratio | aim |", "| --- | --- | --- | --- | --- |"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    machine = f"{cpu_name()}, one thread, processor time, torch {torch.__version__}, Python {platform.python_version()}"
    lines += ["", f"{machine}; medians of {rounds} interleaved rounds, {steps} steps of {data.batch_size} images each."]
    if options.profile:
        lines += ["", "| where a step's time goes | ms | share |", "| --- | --- | --- |", *profile(data, method)]
    return lines


def trained(folder: Path, images: int, rounds: int) -> tuple[SyntheticDataModule, RAZH, Clock]:
    """Train RAZH on cached features for some epochs, each followed by one of a plain loop."""
    seed_everything(0)
    data = SyntheticDataModule(root="", images_per_class=images, image_size=224, batch_size=64)
    backbone = TimmBackbone("tf_efficientnet_lite0", split=6, freeze="all", pretrained=False, image_size=224)
    facts = {name: getattr(data, name) for name in ("class_attributes", "attribute_vectors", "train_classes")}
    method = RAZH(backbone=backbone, hash_init="random", **facts)
    clock = Clock()
    trainer = Trainer(
        max_epochs=rounds + 1,  # the first one warms up
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        use_distributed_sampler=False,
        callbacks=[FeatureCache(directory=str(folder / "cache"), flips=False), clock],
        default_root_dir=str(folder),
    )
    trainer.fit(method, datamodule=data)
    return data, method, clock


class Clock(Callback):
    """Times epochs of Lightning, from the first batch asked for to the last step done, and a plain loop after each."""

    def __init__(self) -> None:
        self.lightning: list[float] = []
        self.plain: list[float] = []
        self.steps = 0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._begun = time.process_time()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Stop the clock at the last batch."""
        self._ended = time.process_time()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the time, then do the same work without Lightning."""
        taken = self._ended - self._begun
        loader = trainer.train_dataloader
        optimizer, schedule = trainer.optimizers[0], trainer.lr_scheduler_configs[0].scheduler
        begun, steps = time.process_time(), 0
        for batch in loader:
            optimizer.zero_grad()
            torch.stack(list(pl_module.losses(batch).values())).sum().backward()  # type: ignore[operator]
            optimizer.step()
            schedule.step()
            steps += 1
        plain = time.process_time() - begun
        if trainer.current_epoch > 0:
            self.lightning.append(taken)
            self.plain.append(plain)
            self.steps = steps


def loaders(folder: Path, count: int, rounds: int) -> tuple[float, float]:
    """Return images a second of PIL + torchvision v1, and of ours, for a random crop and flip of JPEG files."""
    draw = np.random.default_rng(0)
    files = []
    for number in range(count):
        small = Image.fromarray(draw.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        file = folder / f"{number}.jpg"
        small.resize((500, 375), Image.Resampling.BICUBIC).save(file, quality=90)
        files.append(file)
    customary = transforms.Compose(
        [
            transforms.RandomResizedCrop(224),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    mean = torch.tensor((0.485, 0.456, 0.406)).view(1, 3, 1, 1) * 255
    spread = torch.tensor((0.229, 0.224, 0.225)).view(1, 3, 1, 1) * 255

    def with_pil() -> None:
        for file in files:
            customary(Image.open(file).convert("RGB"))

    def with_ours() -> None:
        views = [training_view(read_image(file), 224, draw) for draw, file in enumerate(files)]
        for start in range(0, len(views), 64):  # normalised by batch, as the backbone does
            (torch.stack(views[start : start + 64]).float() - mean) / spread

    pil, ours = alternately([with_pil, with_ours], rounds)
    return count / pil, count / ours


def alternately(works: list[Callable[[], None]], rounds: int) -> list[float]:
    """Return the median seconds of each work, done in turns after one round to warm up."""
    times: dict[int, list[float]] = defaultdict(list)
    for number in range(rounds + 1):
        for which, work in enumerate(works):
            begun = time.process_time()
            work()
            if number:
                times[which].append(time.process_time() - begun)
    return [statistics.median(times[which]) for which in range(len(works))]


def live_features(data: SyntheticDataModule, method: RAZH, count: int) -> float:
    """Return images a second that the frozen trunk computes, images at hand."""
    images = torch.stack([data.evaluation_image(int(i)) for i in data.split.train[:16]])
    source = Source(method.backbone, data.transform, data.image_size, method.views, method.view_size)
    arrays = [ARRAYS[name] for name in ("patches", "feature", "thumbnail") if ARRAYS[name].offered(method.backbone)]
    begun = time.process_time()
    for _ in range(count // 16):
        compute(arrays, source, images, torch.device("cpu"))
    return count / (time.process_time() - begun)


def cached_features(data: SyntheticDataModule, rounds: int) -> float:
    """Return images a second that the training loader reads from the cache."""
    speeds = []
    for _ in range(rounds):
        begun, seen = time.process_time(), 0
        for batch in data.train_dataloader():
            seen += len(batch["index"])
        speeds.append(seen / (time.process_time() - begun))
    return statistics.median(speeds)


def profile(data: SyntheticDataModule, method: RAZH) -> Iterator[str]:
    """Yield a row for each part of a step, in a plain loop over three epochs."""
    optimizer = torch.optim.AdamW(p for p in method.parameters() if p.requires_grad)
    spent: dict[str, float] = defaultdict(float)
    steps = 0
    for _ in range(3):
        last = time.process_time()

        def note(name: str) -> None:
            nonlocal last
            now = time.process_time()
            spent[name] += now - last
            last = now

        for batch in data.train_dataloader():
            note("loading from the cache")
            loss = torch.stack(list(method.losses(batch).values())).sum()
            note("loss terms")
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            note("backward")
            optimizer.step()
            note("optimiser")
            steps += 1
    whole = sum(spent.values())
    for name, seconds in spent.items():
        yield f"| {name} | {seconds / steps * 1e3:.1f} | {seconds / whole:.0%} |"


def put_between_marks(path: Path, text: str) -> None:
    """Replace what stands between the marks of a file.

    Raises:
        ValueError: the marks are not there.
    """
    whole = path.read_text(encoding="utf-8")
    if START not in whole or END not in whole:
        raise ValueError(f"{path} lacks the marks {START} and {END}")
    head, _, rest = whole.partition(START)
    _, _, tail = rest.partition(END)
    path.write_text(f"{head}{START}\n{text}\n{END}{tail}", encoding="utf-8")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
