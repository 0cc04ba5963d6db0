"""`razh export`: a checkpoint as a folder that others can load: ONNX for machines without torch, or safetensors."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from razh.support.bounds import PositiveShare, Workers, within
from razh.support.files import digest_of, given_path, write_json, write_text
from razh.support.terminal import Parser, Status, console, suggest

if TYPE_CHECKING:
    from razh.index.network import Network
    from razh.index.sources import Source
    from razh.retrieval.agreement import Check
    from razh.run.checkpoint import Loaded

__all__ = ["main"]

DRAWN, MOST = 64, 2_000  # images of a check: drawn, and of a folder

_EPILOG = """\
The folder has
  model.onnx, or model.safetensors
  razh.json    what it is, and the SHA-256 of the weights
  README.md    a model card: data, split, setting, figures of the run, licence notes
`razh encode`, `index`, `search`, `serve` and `razh.load` take it, or model.onnx alone, as their checkpoint; ONNX needs
no torch there, and gives codes alone: no features, no --why, no --precision. A machine that only encodes needs, in a
checkout,
  pip install --no-deps . && pip install onnxruntime numpy pillow rich filelock pyyaml
On the Hugging Face hub the folder is hf://OWNER/NAME.

ONNX is checked on codes: those of --check photos (up to 2,000, spread evenly), or of 64 drawn images, by the
checkpoint and by the file, each with its own decoding. Where photos lie in sub-folders, these are classes, and mAP of
each photo against all others is told, too. With more differing bits than --max-differing nothing is written.
safetensors must be equal bit for bit.

exit status: 0 done, 1 refused: too many bits differ, or the method has no such graph.

examples:
  razh export runs/cub/razh/64/seed0/checkpoints/best.ckpt --check photos/
  razh export best.ckpt --format=safetensors --out shared/
  razh encode photos/ --checkpoint best-onnx/model.onnx
"""


def main(argv: list[str]) -> int:
    """Run `razh export` and return its exit status.

    Raises:
        FileNotFoundError: no such checkpoint, or no photos to check with.
        ValueError: the checkpoint cannot be used or exported, its codes change, or `--out` is something else.
        ImportError: packages are missing.
        OSError: the folder cannot be written.
    """
    options = _parser().parse_args(argv)
    if not options.checkpoint.is_file() or options.checkpoint.suffix in (".onnx", ".safetensors"):
        raise FileNotFoundError(f"no checkpoint at {options.checkpoint}; give a file that `razh train` wrote")
    out_folder = options.out or options.checkpoint.with_name(f"{options.checkpoint.stem}-{options.format}")
    from razh.export.folder import replacing_folder
    from razh.index.sources import find_images

    photos = find_images([options.check]) if options.check else None
    with replacing_folder(out_folder) as folder:
        check = _write(folder, options, photos)
    out = console()
    for name, value in check.rows():
        out.print(f"{name:<22} {value}")
    file = next(path for path in sorted(out_folder.iterdir()) if path.name.startswith("model."))
    out.print(f"{file.stat().st_size / 1e6:.1f} MB: {file}")
    suggest("encode", options.check or "photos/", f"--checkpoint={out_folder}")
    return Status.DONE


def _write(folder: Path, options: argparse.Namespace, photos: Source | None) -> Check:
    """Write all files of the folder, and return what the check measured."""
    from razh.export.card import model_card
    from razh.export.facts import CARD, FACTS, WEIGHTS, to_text
    from razh.export.folder import encoding_facts, run_of
    from razh.index.encoding import TorchNetwork
    from razh.run import checkpoint

    loaded = checkpoint.load(options.checkpoint)  # read to its last byte, against its checksums
    facts = encoding_facts(loaded, digest_of(options.checkpoint))
    file = folder / WEIGHTS[options.format]
    if options.format == "onnx":
        from razh.export.graph import write_onnx

        write_onnx(file, loaded, to_text(facts))
    else:
        from razh.export.weights import save

        save(file, loaded.method.state_dict())
    run = run_of(options.checkpoint, loaded.info)
    facts |= {"weights": file.name, "sha256": digest_of(file)}
    write_json(folder / FACTS, facts)  # what loads the file compares it with this
    check = _checked(TorchNetwork(loaded), file, options, photos)
    facts |= {"run": run.split, "metrics": run.metrics, "check": check.as_json()}
    write_json(folder / FACTS, facts)
    write_text(folder / CARD, model_card(facts | {"check": check.rows()}, options.format))
    return check


def _checked(before: Any, file: Path, options: argparse.Namespace, photos: Source | None) -> Check:
    """Return how the codes of a file compare with those of its checkpoint.

    Raises:
        ValueError: more bits differ than may.
    """
    from razh.export.drawn import drawn_images
    from razh.index.loading import open_network
    from razh.retrieval.agreement import compared

    after, classes = open_network(file, "cpu"), list[str]()
    if photos is None:
        source = "drawn"
        images = drawn_images(DRAWN, before.image_size)
        codes = [network.look(np.stack([network.view(image) for image in images])).codes for network in (before, after)]
    else:
        source = f"{options.check.resolve().name}/"
        codes, classes = _codes_of(before, after, photos, options.workers)
    check = compared(codes[0], codes[1], before.bits, source, classes)
    most = options.max_differing if options.format == "onnx" else 0.0
    if options.format == "safetensors":
        _check_equal(before.loaded, after)
    if check.bits_differ > most:
        raise ValueError(
            f"{check.bits_differ:.3%} of the bits of {check.images} images ({source}) differ, {most:.3%} may; nothing "
            "is written: pass --format=safetensors" + (", or a larger --max-differing" if most else "")
        )
    return check


def _codes_of(before: Network, after: Network, photos: Source, workers: int | None) -> tuple[list[Any], list[str]]:
    """Return the codes of photos that both can read, by the one and by the other, and the photos' classes."""
    from razh.index.options import Encoding

    chosen = np.unique(np.linspace(0, len(photos.files) - 1, min(MOST, len(photos.files))).round().astype(int)).tolist()
    files, how = [photos.files[at] for at in chosen], Encoding(workers=workers)
    made = [list(network.batches(files, how)) for network in (before, after)]
    broken = {at for batches in made for batch in batches for at in batch.broken}
    whole = [at for at in range(len(files)) if at not in broken]
    if not whole:
        raise ValueError(f"no file is a readable image; the first: {made[0][0].broken[0]}")
    codes = [np.concatenate([batch.codes for batch in batches])[whole] for batches in made]
    return codes, [photos.classes[chosen[at]] for at in whole]


def _check_equal(loaded: Loaded, after: Any) -> None:
    """Refuse weights that are not those of the checkpoint bit for bit."""
    import torch

    state, found = loaded.method.state_dict(), after.method.state_dict()
    if state.keys() != found.keys() or not all(torch.equal(value, found[name]) for name, value in state.items()):
        raise ValueError("the weights that were written are not those of the checkpoint; nothing is written")


def _parser() -> Parser:
    parser = Parser("export", "Write a checkpoint as a folder that others can load.", _EPILOG)
    parser.add_argument("checkpoint", type=given_path, metavar="CHECKPOINT", help="that `razh train` wrote")
    parser.add_argument(
        "--format", choices=("onnx", "safetensors"), default="onnx",
        help="onnx encodes without torch, safetensors with it, bit for bit (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=given_path, metavar="FOLDER", help="to write (default: CHECKPOINT-FORMAT, beside the checkpoint)"
    )
    parser.add_argument("--check", type=given_path, metavar="PHOTOS", help="a folder of photos to compare codes on")
    parser.add_argument(
        "--max-differing", type=float, action=within(PositiveShare), default=0.01, metavar="SHARE",
        help="of bits, from which on nothing is written (default: %(default)g)",
    )  # fmt: skip
    parser.add_argument(
        "--workers", type=int, action=within(Workers),
        help="processes that decode photos (default: one a core, up to 8)",
    )  # fmt: skip
    return parser
