"""Options of what encodes images; no torch here."""

import argparse
from dataclasses import dataclass
from typing import Literal, TypeAlias

from razh.datamodules.files.walk import MAX_MEGAPIXELS
from razh.support.bounds import Positive, Workers, within

__all__ = ["MOST_WORKERS", "Encoding", "Precision", "add_encoding_options"]

MOST_WORKERS = 8  # that decode images where nobody says


Precision: TypeAlias = Literal["32", "bf16"]


@dataclass(frozen=True)
class Encoding:
    """How images are encoded.

    Attributes:
        batch_size: images at once; None for the device's own.
        workers: processes that decode images; None for one a core, up to eight.
        max_megapixels: larger images are left out; see `read_image` for the memory that they take.
        precision: `32`, whose codes are those of training and test, or `bf16`, which is faster where processor or GPU
            have it and changes some bits, see benchmarks/encoding.py.
        features: also what describes an image beside its code, of length 1, for re-ranking; costs a second look where
            the network sees several views of an image.
    """

    batch_size: int | None = None
    workers: int | None = None
    max_megapixels: float = MAX_MEGAPIXELS
    precision: Precision = "32"
    features: bool = False


def add_encoding_options(parser: argparse.ArgumentParser) -> None:
    """Add `--workers`, `--max-megapixels`, `--device` and `--precision`."""
    parser.add_argument(
        "--workers", type=int, action=within(Workers),
        help="processes that decode images (default: one a core, up to 8)",
    )  # fmt: skip
    parser.add_argument(
        "--max-megapixels", type=float, action=within(Positive), default=MAX_MEGAPIXELS, metavar="N",
        help="larger images are left out (default: %(default)g)",
    )  # fmt: skip
    parser.add_argument("--device", help="cpu, cuda, cuda:1, … (default: a GPU if there is one)")
    parser.add_argument(
        "--precision", choices=("32", "bf16"), default="32",
        help="bf16 is faster where the processor has it, and changes some bits (default: %(default)s)",
    )  # fmt: skip
