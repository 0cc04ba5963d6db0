"""A server until it is told to stop: the port, the address that is printed, the end."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable

import uvicorn
from fastapi import FastAPI

from razh.serve.app import MAX_MEGAPIXELS, SECONDS, make_app
from razh.serve.decoding import Decoder
from razh.serve.guard import is_loopback, new_token
from razh.serve.searching import Searcher

__all__ = ["bound", "serve"]


def serve(searcher: Searcher, host: str, port: int, token: str | None, ready: Callable[[str], None]) -> None:
    """Serve an archive until SIGINT or SIGTERM.

    Args:
        searcher: the archive.
        host: address or name to listen on.
        port: 0 takes a free one.
        token: that has to be given; None makes one where others than this machine reach the host.
        ready: is called with the address of the page, when it can be opened.

    Raises:
        ValueError: the port is taken, or there is no such host.
    """
    if token is None:
        token = "" if is_loopback(host) else new_token()
    listening = bound(host, port)
    shown = f"[{host}]" if ":" in host else socket.gethostname() if host in ("0.0.0.0", "::") else host
    address = f"http://{shown}:{listening.getsockname()[1]}/" + (f"?token={token}" if token else "")
    if searcher.model is None:
        _run(make_app(searcher, None, token), listening, lambda: ready(address))
        return
    network = searcher.model.network
    with Decoder(network.image_size, MAX_MEGAPIXELS, SECONDS, network.by_torch) as decoder:
        decoder.wait()
        _run(make_app(searcher, decoder, token), listening, lambda: ready(address))


def bound(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Raises:
        ValueError: the port is taken, or there is no such host; one line says what to do.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind(address)
            listening.listen(1024)
        except OSError:
            listening.close()
            raise
    except socket.gaierror:
        raise ValueError(f"--host={host} is no address of this machine; leave it out for 127.0.0.1") from None
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ValueError(f"--port={port} is taken; stop what listens there, or take another (0: any)") from None
        if error.errno == errno.EACCES:
            raise ValueError(f"--port={port} is for the system alone; take one from 1024 on") from None
        raise ValueError(f"--host={host} --port={port} cannot be listened on ({error.strerror})") from None
    return listening


def _run(app: FastAPI, listening: socket.socket, started: Callable[[], None]) -> None:
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, lifespan="off", timeout_graceful_shutdown=3, server_header=False
    )
    server = _Server(config, started)
    try:
        server.run(sockets=[listening])
    except KeyboardInterrupt:  # uvicorn has stopped, and raises the signal again
        pass
    finally:
        listening.close()


class _Server(uvicorn.Server):
    """A server that says when it can be asked."""

    def __init__(self, config: uvicorn.Config, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._say = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to listen."""
        await super().startup(sockets)
        self._say()
