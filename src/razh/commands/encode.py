"""`razh encode`: any images to a file of codes, with a trained checkpoint."""

from pathlib import Path

from razh.index.options import Encoding, add_encoding_options
from razh.support.bounds import Count, within
from razh.support.files import given_path
from razh.support.terminal import Parser, Status, console, counted, suggest

__all__ = ["main"]

_EPILOG = """\
The file of codes is an .npz with
  codes   (n, ceil(bits / 8)) uint8, bits in np.packbits order
  paths   relative to the folder that was given; to the one that all have in common, if several were
  bits    code length
  checkpoint   SHA-256 of the checkpoint's file: codes of two checkpoints do not compare
and, where every image lies in a sub-folder, its name as a class: labels (n,) and class_names. Of several
folders without sub-folders, each is a class.
`razh search` looks images up in such a file, `razh evaluate` ranks it: every image against all others.

A command that was killed goes on where it was when it is started again: what is done lies beside the file, in
`.NAME.unfinished`, and counts as long as checkpoint and images are the same.

Hidden and system folders are passed over, linked ones are followed once. Files of other kinds are counted; images that
are broken, or larger than --max-megapixels, are left out by name. A file that is named is tried whatever its suffix.

exit status: 0 all images, 3 some were left out, 1 an error.

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
    if options.out.is_dir():
        raise ValueError(f"--out={options.out} is a folder; give a file, such as {options.out / 'codes.npz'}")
    # torch takes seconds to import: options are read and refused without.
    from filelock import FileLock, Timeout

    from razh.export.facts import weights_of
    from razh.index.loading import open_network
    from razh.index.sources import find_images
    from razh.index.work import Unfinished, encode, save, work_key
    from razh.retrieval.health import health_warnings
    from razh.run import preemption
    from razh.support.files import digest_of

    source = find_images(options.images)
    file = weights_of(options.checkpoint)
    network, digest = open_network(file, options.device), digest_of(file)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(options.out.with_name(f".{options.out.name}.razh-lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(f"another process is writing {options.out}; wait for it, or choose another --out") from None
    try:
        how = Encoding(options.batch_size, options.workers, options.max_megapixels, options.precision)
        unfinished = Unfinished(options.out, work_key(digest, source, how))
        with preemption.Listener():
            codes, broken = encode(network, source, how, unfinished)
        if len(broken) == len(source.files):
            unfinished.remove()
            raise ValueError(f"no file is a readable image; the first: {broken[0]}")
        kept = [i for i in range(len(source.files)) if i not in broken]
        save(options.out, codes[kept], source, kept, network.bits, digest)
        unfinished.remove()
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()
    out = console()
    out.print(f"{counted(len(kept), 'code')} of {network.bits} bits: {options.out}")
    for line in health_warnings(codes[kept], network.bits):
        out.print(f"warning: {line}", style="yellow")
    left_out = len(broken) + source.left_out
    if left_out:
        out.print(f"left out, each by its name above: {counted(left_out, 'image')}")
    suggest("search", options.out, source.names[kept[0]])
    return Status.LEFT_OUT if left_out else Status.DONE


def _parser() -> Parser:
    parser = Parser("encode", "Encode images with a trained checkpoint.", _EPILOG)
    parser.add_argument(
        "images", type=given_path, nargs="+", help="a folder (searched with its sub-folders), or image files"
    )
    parser.add_argument(
        "--checkpoint",
        type=given_path,
        required=True,
        help="that `razh train` wrote, or what `razh export` made of it",
    )
    parser.add_argument(
        "--out", type=given_path, default=Path("codes.npz"), help="file to write (default: %(default)s)"
    )
    parser.add_argument(
        "--batch-size", type=int, action=within(Count), help="images at once (default: 64 on a GPU, else 16)"
    )
    add_encoding_options(parser)
    return parser
