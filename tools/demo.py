"""A page to search with, in one command: `make demo` of synthetic creatures, `make demo DATA_ROOT=photos/` of yours.

Creatures: a RAZH is trained on them, pictures of seen and unseen classes are drawn, and codes are fitted to these and
to the attributes of the unseen classes. Photos: codes are fitted to them alone, without labels. Both are indexed and
served then. What is there already is used again.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from razh.datamodules.synthetic.data import SyntheticDataModule

HOME = Path("runs/demo")
SEEN, UNSEEN, EACH = 120, 20, 16  # classes and pictures that the network is trained with
SHOWN, PICTURES, SIDE, SEED = 60, 10, 256, 1  # seen classes in the archive; pictures of each class, of other poses
LEFT_OUT = 3  # status of a command that did its work, but for some images that cannot be read
STAYED = 5  # status of `razh adapt` where the trial brought nothing


def razh(*arguments: str | Path, allowed: Sequence[int] = (0,)) -> None:
    """Run a command; end with its status if it fails, since it has said why."""
    command = [sys.executable, "-m", "razh", *map(str, arguments)]
    status = subprocess.run(command, check=False).returncode
    if status not in allowed:
        raise SystemExit(status if status > 0 else 128 - status)


def say(text: str) -> None:
    """Write a line to the terminal."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def creatures(home: Path) -> tuple[Path, Path]:
    """Return a checkpoint that was trained on creatures and fitted to pictures of them, and the folder of these."""
    run, folder, checkpoint = home / "run", home / "creatures", home / "adapted.ckpt"
    if not (run / "metrics.json").is_file():
        say("training on synthetic creatures, once: two or three minutes on two cores")
        razh(
            *("train", "--dataset=synthetic", "--method=razh", f"--run_dir={run}", "--trainer.max_epochs=20"),
            *(f"--data.seen_classes={SEEN}", f"--data.unseen_classes={UNSEEN}", f"--data.images_per_class={EACH}"),
            *("--figures.enabled=false", "--measures.enabled=false"),
        )
    if not folder.is_dir():
        say(f"drawing pictures of {SHOWN + UNSEEN} classes")
        draw(folder)
    trained = run / "checkpoints/best.ckpt"
    if not checkpoint.is_file():
        say("fitting the codes to these pictures, of which no label is told, and to the unseen classes' attributes")
        table = describe(home / "unseen.csv")
        razh("adapt", trained, folder, f"--describe={table}", f"--out={checkpoint}", allowed=(0, STAYED))
    return checkpoint if checkpoint.is_file() else trained, folder


def world() -> SyntheticDataModule:
    """Return the creatures that the network is trained with, and those that it is not."""
    from razh.datamodules.synthetic.data import SyntheticDataModule

    return SyntheticDataModule(seen_classes=SEEN, unseen_classes=UNSEEN, images_per_class=EACH)


def describe(table: Path) -> Path:
    """Write the attributes of the unseen classes to a table, and return its path."""
    data = world()
    rows = ([data.class_names[label], *data.class_attributes[label].tolist()] for label in range(SEEN, SEEN + UNSEEN))
    with table.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["class", *data.attribute_names], *rows])
    return table


def draw(folder: Path) -> None:
    """Draw pictures FOLDER/CLASS/NUMBER.jpg, all of them or none."""
    import numpy as np
    from PIL import Image

    from razh.datamodules.synthetic.creatures import render

    data = world()
    part = folder.with_name(f"{folder.name}.part")
    for label in [*range(SHOWN), *range(SEEN, SEEN + UNSEEN)]:
        where = part / data.class_names[label]
        where.mkdir(parents=True, exist_ok=True)
        for number in range(PICTURES):
            rng = np.random.default_rng([SEED, label, number])
            pixels, _ = render(data.creatures[label], rng, SIDE)
            Image.fromarray(pixels.transpose(1, 2, 0)).save(where / f"{number:02d}.jpg", quality=88)
    part.rename(folder)


def photos(home: Path, folder: Path, options: argparse.Namespace) -> tuple[Path, Path]:
    """Return a checkpoint whose codes were fitted to a folder of photos, and that folder."""
    checkpoint = home / "adapted.ckpt"
    if not checkpoint.is_file():
        home.mkdir(parents=True, exist_ok=True)
        weights = [f"--weights={options.weights}"] if options.weights else []
        razh("adapt", f"--backbone={options.backbone}", *weights, folder, f"--out={checkpoint}", allowed=(0, LEFT_OUT))
    return checkpoint, folder


def main() -> None:
    """Make what is missing, and become the server."""
    parser = argparse.ArgumentParser(description="Serve a page to search with: synthetic creatures, or your photos.")
    parser.add_argument("--data_root", type=Path, help="folder of your own photos; no labels are needed")
    parser.add_argument("--backbone", default="lite0-frozen", help="for photos (default: %(default)s)")
    parser.add_argument("--weights", help="file of its weights (default: timm's hub)")
    parser.add_argument("--home", type=Path, default=HOME, help="where everything is kept (default: %(default)s)")
    options, serving = parser.parse_known_args()  # the rest is for `razh serve`
    if options.data_root is None:
        home = options.home
        checkpoint, folder = creatures(home)
    else:
        if not options.data_root.is_dir():
            raise SystemExit(f"error: DATA_ROOT={options.data_root} is no folder; name one with photos")
        whole = str(options.data_root.resolve())
        key = hashlib.sha256(f"{whole}\t{options.backbone}".encode()).hexdigest()[:8]
        home = options.home / f"{Path(whole).name}-{key}"
        checkpoint, folder = photos(home, options.data_root, options)
    archive = home / f"archive-{checkpoint.stem}"
    razh("index", folder, f"--checkpoint={checkpoint}", f"--out={archive}", "--prune", allowed=(0, LEFT_OUT))
    os.execv(sys.executable, [sys.executable, "-m", "razh", "serve", str(archive), *serving])


if __name__ == "__main__":
    main()
