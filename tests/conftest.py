"""Tiny networks, facts and batches that many tests share."""

import atexit
import gc
import logging
import signal

import pytest

# torch and what needs it are imported where they are used: the process that hands tests to others runs none itself.

CLASSES, ATTRIBUTES, VECTOR, SIZE = 6, 8, 5, 32

# A suite that is started in the background ignores Ctrl-C, and so would the programs that its tests stop by it.
signal.signal(signal.SIGINT, signal.default_int_handler)

atexit.register(gc.freeze)  # see `razh.__main__`


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Import what the tests need without looking for garbage, as `razh.support.processes.importing` does."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(optionalhook=True)  # without pytest-xdist there is no such hook
def pytest_xdist_make_scheduler(config, log):
    """Keep neighbours on one worker, so that what a module shares is made once."""
    if config.getvalue("dist") == "load":  # the default
        from xdist.scheduler import WorkStealingScheduling

        return WorkStealingScheduling(config, log)
    return None


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """Also for fixtures of a whole module: sums of two threads differ in the last digit."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _isolated(tmp_path, monkeypatch):
    """One thread, the same random numbers, caches in a folder of the test, no run folder from outside."""
    import torch

    torch.set_num_threads(1)  # a test may have changed it
    torch.manual_seed(0)
    monkeypatch.setenv("RAZH_CACHE", str(tmp_path / "cache"))
    for name in ("RAZH_RUN_DIR", "RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    for name in ("razh",):  # a command line that ran before keeps their messages to itself
        monkeypatch.setattr(logging.getLogger(name), "propagate", True)


@pytest.fixture
def job(tmp_path):
    """Return a function that runs a command on some ranks and returns their exit statuses."""

    def run(size, *arguments, signals=None, fails=""):
        from tests.processes import ranks

        return ranks(size, arguments, tmp_path, signals, fails)

    return run


@pytest.fixture
def facts():
    """Return what the data tells a method: six classes of eight attributes, the last two are unseen."""
    import torch

    generator = torch.Generator().manual_seed(7)
    return {
        "class_attributes": torch.rand(CLASSES, ATTRIBUTES, generator=generator),
        "attribute_vectors": torch.randn(ATTRIBUTES, VECTOR, generator=generator),
        "train_classes": torch.tensor([0, 1, 3, 4]),
    }


@pytest.fixture
def make_backbone():
    """Return a factory of tiny networks for images of 32 pixels."""
    from razh.backbones.timm import TimmBackbone

    def make(name="test_vit", split=0, image_size=SIZE, **arguments):
        return TimmBackbone(name, split=split, image_size=image_size, **arguments)

    return make


@pytest.fixture
def make_method(facts, make_backbone):
    """Return a factory of methods on a tiny network."""

    def make(method, backbone=None, **arguments):
        backbone = make_backbone() if backbone is None else backbone
        return method(backbone=backbone, **{**facts, "bits": 12, **arguments})

    return make


@pytest.fixture
def make_batch():
    """Return a factory of batches of training classes; each class has a colour of its own."""
    import torch

    def make(count=8, size=SIZE, seed=0):
        generator = torch.Generator().manual_seed(seed)
        label = torch.tensor([0, 1, 3, 4])[torch.arange(count) % 4]
        tint = torch.randint(0, 200, (CLASSES, 3, 1, 1), generator=torch.Generator().manual_seed(3))
        noise = torch.randint(0, 56, (count, 3, size, size), generator=generator)
        return {"image": (tint[label] + noise).to(torch.uint8), "label": label, "index": torch.arange(count)}

    return make
