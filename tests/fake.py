"""Tiny trees in the real formats of CUB, AwA2, SUN, CIFAR-10 and a class/image folder; images are noise on a tint."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def write_image(path: Path, seed: int, width: int = 40, height: int = 32) -> None:
    """Write one image; different seeds give different tints."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 200, 3) + rng.integers(0, 56, (height, width, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def write_lines(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def numbered(names: list[str]) -> list[str]:
    return [f"{number} {name}" for number, name in enumerate(names, start=1)]


def table(rows: int, columns: int, top: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, top, (rows, columns)).round(4)


def write_cub(root: Path, classes: int = 12, images: int = 4, attributes: int = 5) -> Path:
    """Write CUB_200_2011 below `root` with all its text files; with 12 classes, ids 3 and 11 are unseen in `ps`."""
    folder = root / "CUB_200_2011"
    names = [f"{c:03d}.Bird_{c}" for c in range(1, classes + 1)]
    files = [f"{name}/Bird_{number:04d}_{c}.jpg" for c, name in enumerate(names) for number in range(images)]
    for seed, file in enumerate(files):
        write_image(folder / "images" / file, seed)
    ids = range(1, len(files) + 1)
    write_lines(folder / "images.txt", numbered(files))
    write_lines(folder / "classes.txt", numbered(names))
    write_lines(folder / "image_class_labels.txt", [f"{i} {(i - 1) // images + 1}" for i in ids])
    write_lines(folder / "train_test_split.txt", [f"{i} {i % 2}" for i in ids])
    write_lines(folder / "bounding_boxes.txt", [f"{i} {i}.0 2.0 20.0 10.0" for i in ids])
    write_lines(folder / "parts" / "parts.txt", numbered(["back", "left eye"]))
    write_lines(
        folder / "parts" / "part_locs.txt",
        [line for i in ids for line in (f"{i} 1 {i}.5 4.0 1", f"{i} 2 0.0 0.0 0")],
    )
    percent = table(classes, attributes, 100)
    write_lines(
        folder / "attributes" / "class_attribute_labels_continuous.txt",
        [" ".join(str(value) for value in row) for row in percent],
    )
    write_lines(root / "attributes.txt", numbered([f"has_shape::kind_{m}" for m in range(attributes)]))
    return folder


def write_awa2(root: Path, classes: int = 10, images: int = 5, attributes: int = 6) -> Path:
    """Write Animals_with_Attributes2 below `root`; classes.txt is not in alphabetical order, as in the original."""
    folder = root / "Animals_with_Attributes2"
    names = [f"animal+{chr(ord('a') + (7 * c) % classes)}" for c in range(classes)]
    for c, name in enumerate(names):
        for number in range(images):
            write_image(folder / "JPEGImages" / name / f"{name}_{10001 + number}.jpg", 100 * c + number)
    write_lines(folder / "classes.txt", [f"{number:6d}\t{name}" for number, name in enumerate(names, start=1)])
    write_lines(folder / "predicates.txt", [f"{m + 1:6d}\ttrait{m}" for m in range(attributes)])
    percent = table(classes, attributes, 100)
    percent[0, 0] = -1
    write_lines(
        folder / "predicate-matrix-continuous.txt", [" ".join(f"{value:7.2f}" for value in row) for row in percent]
    )
    write_lines(
        folder / "predicate-matrix-binary.txt", [" ".join(str(int(value > 50)) for value in row) for row in percent]
    )
    return folder


def cells(strings: list[str]) -> np.ndarray:
    """Return a MATLAB cell array (n, 1) of strings."""
    column = np.empty((len(strings), 1), dtype=object)
    column[:, 0] = strings
    return column


def write_sun(root: Path, classes: int = 12, images: int = 3, attributes: int = 4, text: bool = False) -> Path:
    """Write images/ and the released .mat files, or the text files, to `root`; every other class is nested."""
    folders = [f"s/scene{c:02d}" + ("/indoor" if c % 2 else "") for c in range(classes)]
    files = [f"{folder}/sun_{c:02d}{number}.jpg" for c, folder in enumerate(folders) for number in range(images)]
    for seed, file in enumerate(files):
        write_image(root / "images" / file, seed)
    votes = (table(len(files), attributes, 3).round() / 3).astype(np.float64)
    if text:
        names = [folder[2:].replace("/", "_") for folder in folders]
        means = votes.reshape(classes, images, attributes).mean(axis=1)
        write_lines(root / "classes.txt", numbered(names))
        write_lines(root / "attributes.txt", numbered([f"trait {m}/ more" for m in range(attributes)]))
        write_lines(
            root / "class_attributes_continuous.txt", [" ".join(f"{value:.6g}" for value in row) for row in means]
        )
        return root
    released = root / "SUNAttributeDB"
    released.mkdir(parents=True)
    savemat(released / "images.mat", {"images": cells(files)})
    savemat(released / "attributes.mat", {"attributes": cells([f"trait {m}/ more" for m in range(attributes)])})
    savemat(released / "attributeLabels_continuous.mat", {"labels_cv": votes})
    return root


def write_att_splits(path: Path, trainval: list[int], test_seen: list[int], test_unseen: list[int]) -> None:
    """Write att_splits.mat with these rows, counted from 1."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lists = {"trainval_loc": trainval, "test_seen_loc": test_seen, "test_unseen_loc": test_unseen}
    savemat(path, {name: np.array(rows, dtype=np.uint16)[:, None] for name, rows in lists.items()})


def write_cifar10(root: Path, images: int = 2) -> Path:
    """Write the binary version below `root`: six files, `images` of each class in each."""
    folder = root / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    write_lines(folder / "batches.meta.txt", [*CIFAR10_CLASSES, ""])
    for number, name in enumerate([*(f"data_batch_{n}.bin" for n in range(1, 6)), "test_batch.bin"]):
        records = np.random.default_rng(number).integers(0, 256, (10 * images, 3073), dtype=np.uint8)
        records[:, 0] = np.tile(np.arange(10), images)
        (folder / name).write_bytes(records.tobytes())
    return folder


def write_cifar10_tree(root: Path, images: int = 2) -> Path:
    """Write {train,test}/CLASS/*.jpg to `root`."""
    for part in ("train", "test"):
        for label, name in enumerate(CIFAR10_CLASSES):
            for number in range(images):
                write_image(root / part / name / f"{number:04d}.jpg", 10 * number + label, 32, 32)
    return root


def write_folder(root: Path, classes: int = 5, images: int = 4, attributes: int = 3) -> Path:
    """Write CLASS/*.png and attributes.csv to `root`."""
    names = [f"kind {c}" for c in range(classes)]
    for c, name in enumerate(names):
        for number in range(images):
            write_image(root / name / f"{number}.png", 10 * c + number)
    with (root / "attributes.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["class", *(f"trait {m}" for m in range(attributes))])
        writer.writerows([name, *row] for name, row in zip(names, table(classes, attributes, 1), strict=True))
    return root
