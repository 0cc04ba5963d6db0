import json
import logging

import numpy as np
import pytest

from razh.commands.benchmark import run
from razh.retrieval.codes import Codes
from razh.retrieval.evaluation import evaluate
from razh.retrieval.packing import pack
from tests.benchmark import fake

SKILL = {"random": 0.5, "itq": 0.3, "ce": 0.15, "razh": 0.1}  # share of bits that differ from the class's code


def leave(folder, method, bits, seed, fingerprint="f" * 64):
    """Write codes of 4 seen and 3 unseen classes, and their metrics; the queries are the same for all."""
    labels = np.repeat(np.arange(7), 12)
    prototypes = np.random.default_rng(bits).random((7, bits)) < 0.5
    noise = np.random.default_rng([seed, len(method)]).random((len(labels), bits)) < SKILL[method]
    found, index = pack(prototypes[labels] ^ noise), np.arange(len(labels))
    query = (labels >= 4) & (index % 2 == 1)
    sides = (found[query], found[~query], labels[query], labels[~query], bits, index[query], index[~query])
    codes = Codes(*sides, unseen_classes=(4, 5, 6), fingerprint=fingerprint, protocol="ps")
    folder.mkdir(parents=True)
    codes.save(folder / "codes.npz")
    metrics = evaluate(codes).metrics | {"time/fit_seconds": 1.5, "time/test_seconds": 0.5}
    if method == "razh":  # the one that has parts
        metrics |= {"parts/nmi": 0.1 * seed, "attributes/auc": 0.6, "attributes/distinct_nearest": 3.0}
    facts = {"split/fingerprint": fingerprint, "environment/razh": "0.1", "environment/torch": "2"}
    (folder / "metrics.json").write_text(json.dumps(metrics | facts))


@pytest.fixture
def leave_result():
    return leave


@pytest.fixture(scope="session")
def results(tmp_path_factory):
    """What the stand-in's cells leave behind, by method, bits and seed."""
    folder = tmp_path_factory.mktemp("results")
    for method in SKILL:
        for bits in (8, 16, 24, 32):
            for seed in (0, 1, 3):
                leave(folder / f"{method}-{bits}-{seed}", method, bits, seed)
    return folder


@pytest.fixture
def starts(tmp_path, monkeypatch):
    """Return a function that tells which jobs were started, in order, as `command folder`."""
    file = tmp_path / "starts.txt"
    monkeypatch.setenv("FAKE_STARTS", str(file))
    return lambda: file.read_text().splitlines() if file.exists() else []


@pytest.fixture
def benchmark(tmp_path, monkeypatch, caplog, results):
    """Return a function that runs the smoke benchmark with the stand-in for a training run, and draws nothing."""
    monkeypatch.setattr("razh.benchmark.report.draw", lambda *_: {})
    monkeypatch.chdir(fake.ROOT)
    monkeypatch.setenv("FAKE_RESULTS", str(results))
    logging.getLogger("razh").propagate = True  # the command line of another test may have switched it off
    caplog.set_level(logging.INFO, logger="razh")

    def start(*arguments, out=tmp_path / "out", command="benchmark", name="smoke"):
        return run([name, f"--out={out}", *arguments], command, name, program=fake.run)

    return start
