"""`razh serve`: a page and a JSON API that search an archive."""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from razh.index.archive import Snapshot
from razh.support.bounds import Port, within
from razh.support.files import given_path, given_text
from razh.support.terminal import Parser, Status, console, counted

if TYPE_CHECKING:
    from razh.index.api import Model

__all__ = ["main"]

log = logging.getLogger(__name__)
_EPILOG = """\
The page takes a photo (dropped, chosen or pasted), an image of the archive, or attributes, and shows what is nearest.
It shows what is added to the archive while it runs. Photos that are sent stay in memory, and not for long.

It listens on 127.0.0.1, which no other machine reaches. With another --host everybody who knows the token can search
and see small copies of the images; the token is part of the address that is printed. There is no encryption: put a
reverse proxy in front where the network is not yours.

/api/openapi.json describes the JSON API. Ctrl-C ends it (status 0).

examples:
  razh serve archive/
  razh serve archive/ --host=0.0.0.0 --port=8080
"""


def main(argv: list[str]) -> int:
    """Run `razh serve`.

    Raises:
        FileNotFoundError: there is no archive.
        ValueError: it is damaged, the checkpoint is another one, the port is taken, or an option is out of range.
        ImportError: packages are missing.
    """
    options = _parser().parse_args(argv)
    archive = Snapshot(options.archive)
    if missing := [name for name in ("fastapi", "uvicorn") if importlib.util.find_spec(name) is None]:
        raise ImportError(f'razh serve needs {" and ".join(missing)}; pip install "fastapi>=0.115" "uvicorn>=0.30"')
    if options.token is not None and len(options.token) < 8:
        raise ValueError("--token has fewer than 8 characters; leave it out, and one is made")
    model = _model(archive, options.checkpoint, options.device)
    from razh.serve.running import serve
    from razh.serve.searching import Searcher

    out = console()

    def ready(address: str) -> None:
        out.print(f"{options.archive}: {counted(len(archive), 'image')} of {archive.bits} bits, at {address}")
        out.print("Ctrl-C ends it")

    serve(Searcher(options.archive, model), options.host, options.port, options.token, ready)
    out.print("stopped")
    return Status.DONE


def _model(archive: Snapshot, checkpoint: Path | None, device: str | None) -> Model | None:
    """Load the model that made an archive; None, with a warning, where it is gone and not named."""
    if checkpoint is None and not Path(archive.checkpoint_path).is_file():
        log.warning("%s is not there: only images of the archive can be asked for (or name the --checkpoint)",
                    archive.checkpoint_path)  # fmt: skip
        return None
    from razh.index.api import Model
    from razh.index.queries import load_for

    network = load_for(archive.gallery(), checkpoint, device, "photos are encoded")
    return Model(network, checkpoint or Path(archive.checkpoint_path))


def _parser() -> Parser:
    parser = Parser("serve", "Search an archive in a browser, or by a JSON API.", _EPILOG)
    parser.add_argument("archive", type=given_path, metavar="ARCHIVE", help="that `razh index` made")
    parser.add_argument("--host", type=given_text, default="127.0.0.1", help="to listen on (default: %(default)s)")
    parser.add_argument(
        "--port", type=int, action=within(Port), default=8000, help="0 takes a free one (default: %(default)s)"
    )
    parser.add_argument(
        "--token", type=given_text, help="that has to be given (default: one is made if --host is not this machine)"
    )
    parser.add_argument("--checkpoint", type=given_path, help="that made the codes (default: where it was)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, … (default: a GPU if there is one)")
    return parser
