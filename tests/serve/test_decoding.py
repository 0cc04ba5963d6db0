"""Uploads are decoded elsewhere: what hangs or crashes there is refused, and the next one is decoded."""

import io
import os
import signal
import threading
import time

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi", reason='needs pip install "razh[serve]"')

from razh.datamodules.images import evaluation_view, picture_pixels
from razh.serve.decoding import PREVIEW, Decoder


def content_of(picture, kind="PNG"):
    content = io.BytesIO()
    picture.save(content, kind)
    return content.getvalue()


def test_a_view_is_that_of_the_archive():
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (600, 900, 3), dtype=np.uint8))
    with Decoder(32, max_megapixels=1, seconds=60) as decoder:
        found = decoder.decode(content_of(picture))
        np.testing.assert_array_equal(found.view, evaluation_view(picture_pixels(picture), 32).numpy())
        assert found.size == (900, 600)
        assert Image.open(io.BytesIO(found.preview)).size == (PREVIEW, 512)
        decoder._process.kill()  # while nothing is decoded
        decoder._process.join()
        assert decoder.decode(content_of(picture)).size == (900, 600)
        os.kill(decoder._process.pid, signal.SIGSTOP)
        threading.Timer(0.5, decoder._process.kill).start()  # as a decoder that crashes would
        with pytest.raises(ValueError, match="the image cannot be decoded"):
            decoder.decode(content_of(picture))
        assert decoder.decode(content_of(picture)).size == (900, 600)


def test_what_takes_too_long_is_given_up():
    with Decoder(32, max_megapixels=1, seconds=60) as decoder:
        decoder.wait()
        decoder.seconds = 0.2
        os.kill(decoder._process.pid, signal.SIGSTOP)
        start = time.monotonic()
        with pytest.raises(ValueError, match=r"takes more than 0\.2 seconds; make it smaller"):
            decoder.decode(content_of(Image.new("RGB", (9, 9))))
        assert time.monotonic() - start < 5
        decoder.seconds = 60
        assert decoder.decode(content_of(Image.new("RGB", (9, 9)))).size == (9, 9)
