"""A served archive of a few photos of training classes, whose checkpoint reads attributes part by part."""

import pytest

pytest.importorskip("fastapi", reason='needs pip install "razh[serve]"')

from razh.index.api import Archive, load
from razh.serve.decoding import Decoder
from razh.serve.searching import Searcher
from tests import fake
from tests.commands.conftest import SIZE, reading

__all__ = ["reading"]

CLASSES = ("a", "b", "c")
EACH = 10


@pytest.fixture(scope="session")
def folder(model, tmp_path_factory):
    """An archive of 31 photos: ten of each training class, and one outside of all folders of classes."""
    where = tmp_path_factory.mktemp("served")
    for number, name in enumerate(CLASSES):
        for at in range(EACH):
            fake.write_image(where / "photos" / name / f"{at}.png", seed=10 * number + at, width=60, height=40)
    fake.write_image(where / "photos" / "lone.png", seed=99)
    Archive.create(where / "archive", where / "photos", model)
    return where / "archive"


@pytest.fixture(scope="session")
def decoder():
    with Decoder(SIZE, max_megapixels=1.0, seconds=60) as process:
        process.wait()
        yield process


@pytest.fixture(scope="session")
def model(reading):
    return load(reading, device="cpu")


@pytest.fixture
def searcher(folder, model):
    return Searcher(folder, model)
