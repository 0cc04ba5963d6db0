"""`razh encode`: any images to a file of codes, with a trained checkpoint."""

import argparse
from pathlib import Path

from filelock import FileLock, Timeout
from rich.console import Console

from razh import checkpoint, preemption
from razh.encoding import Unfinished, device_named, digest_of, encode, find_images, save, work_key

__all__ = ["main"]

SKIPPED = 3  # exit status: the codes are written, but some images were left out

_EPILOG = """\
The file of codes is an .npz with
  codes   (n, ceil(bits / 8)) uint8, bits in np.packbits order
  paths   (n,) relative to the folder that was given; to the one that all have in common, if several were
  bits    code length
  checkpoint   SHA-256 of the checkpoint's file: codes of two checkpoints do not compare
and, where every image lies in a sub-folder, its name as a class: labels (n,) and class_names. Of several
folders without sub-folders, each is a class.
`razh search` looks images up in such a file, `razh evaluate` ranks it: every image against all others.

A command that was killed goes on where it was when it is started again: what is done lies beside the file, in
`.NAME.unfinished`, and counts as long as checkpoint and images are the same.

exit status: 0 all images, 3 some were broken and are left out, 1 an error.

example:
  razh encode photos/ --checkpoint runs/cub/razh/64/seed0/checkpoints/best.ckpt --out photos.npz
"""


def main(argv: list[str]) -> int:
    """Run `razh encode` and return its exit status.

    Raises:
        FileNotFoundError: no such image, folder or checkpoint, or a folder without images.
        ValueError: the checkpoint cannot be used, or no image could be read.
        OSError: the output cannot be written.
    """
    options = _parser().parse_args(argv)
    if options.batch_size is not None and options.batch_size < 1:
        raise ValueError(f"--batch-size={options.batch_size} must be at least 1")
    if options.workers is not None and options.workers < 0:
        raise ValueError(f"--workers={options.workers} must be at least 0; 0 decodes in the main process")
    if options.out.is_dir():
        raise ValueError(f"--out={options.out} is a folder; give a file, such as {options.out / 'codes.npz'}")
    source = find_images([Path(p) for p in options.images])
    loaded = checkpoint.load(options.checkpoint, device=device_named(options.device))
    digest = digest_of(options.checkpoint)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(options.out.with_name(f".{options.out.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(f"another process is writing {options.out}; wait for it, or choose another --out") from None
    try:
        unfinished = Unfinished(options.out, work_key(digest, source))
        with preemption.Listener():
            codes, broken = encode(loaded.method, source, options.batch_size, options.workers, unfinished)
        if len(broken) == len(source.files):
            unfinished.remove()
            raise ValueError(f"none of the {len(source.files)} files is a readable image; the first: {source.files[0]}")
        kept = [i for i in range(len(source.files)) if i not in broken]
        save(options.out, codes[kept], source, kept, loaded.method.bits, digest)
        unfinished.remove()
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()
    out = Console(soft_wrap=True, highlight=False)
    out.print(f"{len(kept):,} codes of {loaded.method.bits} bits are in {options.out}", markup=False)
    if broken:
        out.print(f"{len(broken)} broken images were left out (listed above)", markup=False)
        return SKIPPED
    return 0


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
    parser.add_argument("--batch-size", type=int, help="images at once (default: 64 on a GPU, else 16)")
    parser.add_argument("--workers", type=int, help="processes that decode images (default: one a core, up to 8)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, … (default: a GPU if there is one)")
    return parser
