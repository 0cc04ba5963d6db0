"""Uploads are decoded in a process of their own: one that takes too long, or crashes, takes down nothing else."""

from __future__ import annotations

import io
import multiprocessing
import signal
import sys
import tempfile
import threading
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Decoder", "Picture"]

PREVIEW = 768  # pixels of the longer side


class Picture(NamedTuple):
    """An upload, decoded.

    Attributes:
        view: what the network sees of it, uint8 (3, S, S).
        size: width and height in pixels, as viewers show it.
        preview: a smaller copy, JPEG, without what cameras write beside the pixels.
    """

    view: NDArray[np.uint8]
    size: tuple[int, int]
    preview: bytes


class Decoder:
    """Decodes one image at a time, with the decoder that all of the project uses; others wait. A context.

    Args:
        side: S of a view.
        max_megapixels: larger images are refused.
        seconds: that one may take.
        by_torch: decode as networks in torch see images; else without torch.
    """

    def __init__(self, side: int, max_megapixels: float, seconds: float, by_torch: bool = True) -> None:
        self.side, self.max_megapixels, self.seconds = side, max_megapixels, seconds
        self.by_torch = by_torch
        self._lock = threading.Lock()
        self._process, self._line = self._start()

    def __enter__(self) -> Decoder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self) -> tuple[multiprocessing.process.BaseProcess, Connection]:
        # A fork of a process with threads may hang; the fork server has none, and has imported what decodes.
        context: Any = multiprocessing.get_context("forkserver" if sys.platform != "win32" else "spawn")
        context.set_forkserver_preload([f"razh.datamodules.{'images' if self.by_torch else 'pictures'}"])
        here, there = context.Pipe()
        process = context.Process(
            target=_serve, args=(there, self.side, self.max_megapixels, self.by_torch), daemon=True
        )
        process.start()
        there.close()
        return process, here

    def decode(self, content: bytes) -> Picture:
        """Return the picture in a file's bytes.

        Raises:
            ValueError: it is no image, too large, or takes too long; one line says which.
        """
        with self._lock:
            try:
                if not self._process.is_alive():
                    self._restart()
                self._line.send(content)
                # The first one waits for what the process has to import.
                answer = self._line.recv() if self._line.poll(self.seconds) else None
            except (EOFError, OSError):
                self._restart()
                raise ValueError("the image cannot be decoded; save it as JPEG or PNG") from None
            if answer is None:
                self._restart()
                raise ValueError(f"decoding the image takes more than {self.seconds:g} seconds; make it smaller")
        if isinstance(answer, str):
            raise ValueError(answer)
        picture: Picture = answer
        return picture

    def wait(self) -> None:
        """Wait until the process has imported what it needs."""
        with self._lock:
            self._line.send(b"")
            self._line.recv()

    def _restart(self) -> None:
        self.close()
        self._process, self._line = self._start()

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()
        self._line.close()


def _serve(line: Connection, side: int, max_megapixels: float, by_torch: bool) -> None:
    """Answer bytes with a picture, or with the reason why there is none, until nobody asks any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the first one ends this one
    if by_torch:
        import torch

        torch.set_num_threads(1)
    decoded = _decoded if by_torch else _decoded_by_pillow
    with tempfile.TemporaryDirectory(prefix="razh-") as folder:
        file = Path(folder) / "upload"
        while True:
            try:
                content = line.recv()
            except EOFError:
                return
            try:
                file.write_bytes(content)
                answer: Picture | str = decoded(file, side, max_megapixels) if content else ""
            except OSError as error:
                answer = str(error).replace(f"image file {file}", "the image")
                answer = answer.replace("fetch it again or delete it", "send another")
            except MemoryError:
                answer = "the image does not fit into memory; make it smaller"
            file.unlink(missing_ok=True)
            line.send(answer)


def _decoded(file: Path, side: int, max_megapixels: float) -> Picture:
    from razh.datamodules.images import evaluation_view, read_image

    pixels = read_image(file, max_megapixels=max_megapixels)
    return _picture(pixels.permute(1, 2, 0).numpy(), evaluation_view(pixels, side).numpy())


def _decoded_by_pillow(file: Path, side: int, max_megapixels: float) -> Picture:
    from razh.datamodules.pictures import picture_view, read_picture

    pixels = read_picture(file, max_megapixels)
    return _picture(pixels, picture_view(pixels, side))


def _picture(pixels: NDArray[np.uint8], view: NDArray[np.uint8]) -> Picture:
    from PIL import Image

    small = Image.fromarray(pixels)
    small.thumbnail((PREVIEW, PREVIEW))
    preview = io.BytesIO()
    small.save(preview, "JPEG", quality=85)
    return Picture(view, (pixels.shape[1], pixels.shape[0]), preview.getvalue())
