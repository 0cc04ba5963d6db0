"""A Milvus server for the tests, until it is told to stop: `python tools/milvus_server.py FOLDER`.

FOLDER gets the server's data, and the file `uri` once it answers. The package has requirements that go with nothing
newer, so it needs an environment of its own: REQUIREMENTS, which `--requirements` prints.
"""

import signal
import socket
import sys
import time
from pathlib import Path

REQUIREMENTS = ("milvus==2.3.5", "pymilvus<2.5", "setuptools<81", "numpy<2", "marshmallow<4")


def free_port() -> int:
    """Return a port that nobody listens at."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def main(folder: Path) -> None:
    """Start the server, say where it is, and stop it with this process."""
    from milvus import default_server  # of its own environment

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    default_server.set_base_dir(str(folder / "data"))
    default_server.listen_port = free_port()
    try:
        default_server.start()
        (folder / "uri").write_text(f"http://127.0.0.1:{default_server.listen_port}")
        while True:
            time.sleep(1)
    finally:
        default_server.stop()


if __name__ == "__main__":
    if sys.argv[1:] == ["--requirements"]:
        sys.stdout.write("\n".join(REQUIREMENTS) + "\n")
    else:
        main(Path(sys.argv[1]))
