"""`razh encode`: any images to a file of codes, with a trained checkpoint."""

import argparse
import logging
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datamodules.images import evaluation_view, list_images_below, read_image
from razh import checkpoint
from razh.layers.hash import binarize
from razh.method import HashingMethod
from razh.retrieval.packing import pack

__all__ = ["main"]

log = logging.getLogger(__name__)
SKIPPED = 3  # exit status: the codes are written, but some images were left out

_EPILOG = """\
The file of codes is an .npz with
  codes   (n, ceil(bits / 8)) uint8, bits in np.packbits order
  paths   (n,) relative to the folder that was given
  bits    code length
and, where every image lies in a sub-folder, its name as a class: labels (n,) and class_names.
`razh evaluate` ranks such a file: every image against all others.

exit status: 0 all images, 3 some were broken and are left out, 1 an error.

example:
  razh encode photos/ --checkpoint runs/cub/razh/64/seed0/checkpoints/best.ckpt --out photos.npz
"""


class Source(NamedTuple):
    """Images to encode: files, and the names under which they are kept."""

    files: list[Path]
    names: list[str]


def main(argv: list[str]) -> int:
    """Run `razh encode` and return its exit status.

    Raises:
        FileNotFoundError: no such image, folder or checkpoint, or a folder without images.
        ValueError: the checkpoint cannot be used, or no image could be read.
        OSError: the output cannot be written.
    """
    options = _parser().parse_args(argv)
    if options.batch_size < 1:
        raise ValueError(f"--batch-size={options.batch_size} must be at least 1")
    source = find_images([Path(p) for p in options.images])
    loaded = checkpoint.load(options.checkpoint, device=options.device or _device())
    codes, broken = encode(loaded.method, source, options.batch_size, options.workers)
    if len(broken) == len(source.files):
        raise ValueError(f"none of the {len(source.files)} files is a readable image; the first: {source.files[0]}")
    kept = [i for i in range(len(source.files)) if i not in broken]
    names = [source.names[i] for i in kept]
    save(options.out, codes[kept], names, loaded.method.bits)
    out = Console(soft_wrap=True, highlight=False)
    out.print(f"{len(kept):,} codes of {loaded.method.bits} bits are in {options.out}", markup=False)
    if broken:
        out.print(f"{len(broken)} broken images were left out (listed above)", markup=False)
        return SKIPPED
    return 0


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="razh encode",
        description="Encode images with a trained checkpoint.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("images", nargs="+", help="a folder (searched with its sub-folders), or image files")
    parser.add_argument("--checkpoint", type=Path, required=True, help="a checkpoint that `razh train` wrote")
    parser.add_argument("--out", type=Path, default=Path("codes.npz"), help="file to write (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=64, help="images at once (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="processes that decode images (default: %(default)s)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, … (default: a GPU if there is one)")
    return parser


def find_images(given: list[Path]) -> Source:
    """Return the images of folders (with sub-folders) and files; paths are kept relative to their folder.

    Raises:
        FileNotFoundError: a path does not exist, or no image is found at all.
    """
    files: list[Path] = []
    names: list[str] = []
    for path in given:
        if path.is_dir():
            below = list_images_below(path)
            files += [path / name for name in below]
            names += below
        elif path.is_file():
            files.append(path)
            names.append(path.name)
        else:
            raise FileNotFoundError(f"no image or folder at {path}")
    if not files:
        raise FileNotFoundError(f"no images in {', '.join(map(str, given))}; .jpg, .png, .webp and the like are read")
    return Source(files, names)


class _Files(Dataset[tuple[int, Tensor, str]]):
    """Images by position; a broken one comes as a black image with the reason."""

    def __init__(self, files: list[Path], size: int) -> None:
        self.files, self.size = files, size

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, position: int) -> tuple[int, Tensor, str]:
        try:
            return position, evaluation_view(read_image(self.files[position]), self.size), ""
        except (OSError, ValueError, RuntimeError) as error:
            return position, torch.zeros(3, self.size, self.size, dtype=torch.uint8), str(error) or type(error).__name__


def encode(method: HashingMethod, source: Source, batch_size: int, workers: int) -> tuple[np.ndarray, dict[int, str]]:
    """Return packed codes (n, ⌈L/8⌉) of all files, and why some could not be read, by position."""
    files = _Files(source.files, method.backbone.image_size)
    loader = DataLoader(files, batch_size=batch_size, num_workers=min(workers, len(files)))
    codes = np.zeros((len(files), -(-method.bits // 8)), dtype=np.uint8)
    broken: dict[int, str] = {}
    with torch.inference_mode():
        for position, images, reasons in track(loader, description="encoding", total=len(loader)):
            codes[position.numpy()] = pack(binarize(method(images.to(method.device))).cpu().numpy())
            for at, reason in zip(position.tolist(), reasons, strict=True):
                if reason:
                    broken[at] = reason
                    log.warning("left out: %s", reason)
    return codes, broken


def save(path: Path, codes: np.ndarray, names: list[str], bits: int) -> None:
    """Write the file of codes; an interrupted write leaves nothing behind."""
    arrays = {"codes": codes, "paths": np.array(names), "bits": np.array(bits)}
    folders = [Path(name).parts[0] if len(Path(name).parts) > 1 else "" for name in names]
    if all(folders):
        class_names, labels = np.unique(folders, return_inverse=True)
        arrays |= {"labels": labels.astype(np.int64), "class_names": class_names}
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
