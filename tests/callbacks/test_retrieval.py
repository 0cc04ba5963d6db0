"""The evaluation callback: any number of devices, one result; lost rows are noticed."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import distributed as dist

from razh.callbacks.retrieval import RetrievalEvaluation
from razh.retrieval.packing import unpack
from razh.support.distributed import settle
from tests.processes import FORKS

CLASSES, IMAGES, BITS = 5, 12, 10


class Split(SimpleNamespace):
    """Classes 3 and 4 are unseen: half of their images ask, everything else is searched; 2 is held out of training."""


def problem(queries=None):
    labels = np.repeat(np.arange(CLASSES), IMAGES)
    rng = np.random.default_rng(0)
    codes = rng.random((CLASSES, BITS))[labels] + 0.6 * rng.random((len(labels), BITS)) > 0.8
    unseen = np.flatnonzero(labels >= 3)
    query = unseen[::2] if queries is None else unseen[::2][:queries]
    database = np.setdiff1d(np.arange(len(labels)), unseen[::2])
    split = Split(
        query=query,
        database=database,
        validation_query=query.copy(),
        validation_database=database,
        seen_classes=(0, 1, 2),
        unseen_classes=(3, 4),
        fingerprint="f" * 64,
        protocol="ps",
    )
    return labels, codes, split


def data_of(split):
    return SimpleNamespace(split=split, class_names=tuple("abcde"), train_classes=torch.tensor([0, 1]))


def run(rows, queries=None, limit=1.0, **options):
    """Evaluate the given rows (this rank's batches) and return the callback."""
    labels, codes, split = problem(queries)
    logged = {}
    module = SimpleNamespace(bits=BITS, log=lambda name, value, **_: logged.__setitem__(name, value))
    trainer = SimpleNamespace(
        state=SimpleNamespace(fn=TrainerFn.TESTING),
        datamodule=data_of(split),
        limit_test_batches=limit,
        limit_val_batches=limit,
        fast_dev_run=0,
        sanity_checking=False,
        loggers=[],
        global_step=1,
    )
    callback = RetrievalEvaluation(cutoffs=[7], precision_ks=[3], **options)
    callback.on_test_epoch_start(trainer, module)
    for batch in np.array_split(np.asarray(rows, dtype=np.int64), 3):
        index = torch.from_numpy(batch)
        outputs = {"index": index, "label": torch.from_numpy(labels[batch]), "code": torch.from_numpy(codes[batch])}
        outputs["logits"] = outputs["code"] * 2.0 - 1
        callback.on_test_batch_end(trainer, module, outputs, None, 0)
    callback.on_test_epoch_end(trainer, module)
    callback.logged = logged
    return callback


def everything():
    _, _, split = problem()
    return np.union1d(split.query, split.database)


def shares(world):
    """Ragged shares with the padding of a sampler, and the last rank has nothing."""
    rows = everything()
    if world == 1:
        return [rows]
    parts = np.array_split(rows, world - 1 if world > 2 else 2)
    parts[0] = np.concatenate([parts[0], parts[-1][:3]])  # padded with rows that another rank has
    return [*parts, np.zeros(0, dtype=np.int64)][:world]


def work(rank, world, store, queries, results):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    done = run(shares(world)[rank], queries)
    results.put((rank, done.result.metrics, done.codes.query_codes.tobytes(), done.codes.database_index.tolist()))
    dist.barrier()
    settle()
    dist.destroy_process_group()


@pytest.mark.ddp
@pytest.mark.slow
@pytest.mark.parametrize(("world", "queries"), [(2, None), (3, None), (3, 2)])
def test_any_number_of_processes_gives_the_same_figures_bit_for_bit(world, queries, tmp_path):
    alone = run(everything(), queries)
    results = FORKS.Queue()
    workers = [
        FORKS.Process(target=work, args=(rank, world, tmp_path / "store", queries, results)) for rank in range(world)
    ]
    for worker in workers:
        worker.start()
    gathered = [results.get(timeout=120) for _ in workers]
    for worker in workers:
        worker.join(timeout=60)
        assert worker.exitcode == 0
    for _, metrics, query_codes, database_index in gathered:
        assert metrics == alone.result.metrics
        assert query_codes == alone.codes.query_codes.tobytes()
        assert database_index == alone.codes.database_index.tolist()


def test_repeated_rows_fall_out():
    rows = everything()
    once, twice = run(rows), run(np.concatenate([rows[:10], rows, rows[-5:]]))
    assert once.result.metrics == twice.result.metrics


def test_logits_are_kept_and_ranked_by_where_that_is_asked_for():
    rows = everything()
    plain, asked = run(rows), run(np.concatenate([rows[:3], rows]), ranking="asymmetric")
    assert plain.codes.query_logits is None
    assert ((asked.codes.query_logits >= 0) == unpack(asked.codes.query_codes, BITS)).all()
    same = asked.result.metrics.pop("test/unseen/asymmetric/map"), asked.result.metrics.pop("test/zsl/asymmetric/map")
    assert same == (plain.result.metrics["test/unseen/map"], plain.result.metrics["test/zsl/map"])  # logits of one size
    assert asked.result.metrics == plain.result.metrics


def test_lost_row_is_an_error():
    with pytest.raises(RuntimeError, match="1 of 60 rows have no code"):
        run(everything()[1:])


def test_limited_batches_are_partial_and_say_so(caplog):
    _, _, split = problem()
    partial = run(np.concatenate([split.query[:4], split.database[:20]]), limit=2)
    assert "the result is partial" in caplog.text
    assert len(partial.codes.query_codes) == 4
    assert run(split.query, limit=1).result is None  # no database at all


def test_codes_carry_the_split():
    done = run(everything())
    assert done.codes.fingerprint == "f" * 64
    assert done.codes.protocol == "ps"
    assert done.codes.unseen_classes == (3, 4)
    assert done.codes.validation_classes == (2,)
    assert {"test/trained/map", "test/validation/map", "test/seen/map"} <= set(done.result.metrics)
    assert done.before is None
    assert done.codes.bits == BITS


def test_validation_logs_the_expected_map_of_the_held_out_classes():
    labels, codes, split = problem()
    split.seen_classes, split.unseen_classes = (0, 1, 3, 4), (2,)  # of 3 and 4, none is trained on
    logged = {}
    module = SimpleNamespace(bits=BITS, log=lambda name, value, **_: logged.__setitem__(name, value))
    trainer = SimpleNamespace(
        state=SimpleNamespace(fn=TrainerFn.TESTING),
        datamodule=data_of(split),
        limit_val_batches=1.0,
        fast_dev_run=0,
        sanity_checking=False,
    )
    callback = RetrievalEvaluation()
    callback.on_validation_epoch_start(trainer, module)
    rows = torch.from_numpy(everything())
    outputs = {"index": rows, "label": torch.from_numpy(labels)[rows], "code": torch.from_numpy(codes)[rows]}
    callback.on_validation_batch_end(trainer, module, outputs, None, 0)
    callback.on_validation_epoch_end(trainer, module)
    tested = run(everything()).result.metrics
    assert logged["val/map"] == tested["test/unseen/map"]
    assert logged["val/map_worst"] <= logged["val/map"] <= logged["val/map_best"]
    assert logged["val/trained/map"] == tested["test/seen/map"]  # whoever is not asked for
    found = callback.validation.metrics
    assert found["val/validation/map"] == logged["val/map"]
    assert not [name for name in found if name.startswith(("val/unseen", "val/seen"))]


def test_sanity_check_is_not_evaluated():
    callback = RetrievalEvaluation()
    callback.on_validation_epoch_end(SimpleNamespace(sanity_checking=True), SimpleNamespace())
    assert callback.result is None


def test_settings_are_checked():
    with pytest.raises(ValueError, match="cutoffs"):
        RetrievalEvaluation(cutoffs=[0])


def test_prediction_gathers_codes_and_ranks_nothing():
    labels, codes, split = problem()
    module = SimpleNamespace(bits=BITS)
    state = SimpleNamespace(fn=TrainerFn.PREDICTING)
    trainer = SimpleNamespace(state=state, datamodule=data_of(split), limit_predict_batches=1.0, fast_dev_run=0)
    callback = RetrievalEvaluation()
    callback.on_predict_epoch_start(trainer, module)
    rows = everything()
    for batch in np.array_split(np.concatenate([rows[::-1], rows[:5]]), 4):  # another order, and a sampler's padding
        index = torch.from_numpy(batch)
        outputs = {"index": index, "label": torch.from_numpy(labels[batch]), "code": torch.from_numpy(codes[batch])}
        callback.on_predict_batch_end(trainer, module, outputs, None, 0)
    callback.on_predict_epoch_end(trainer, module)
    tested = run(rows).codes
    assert callback.result is None
    for name in ("query_codes", "database_codes", "query_labels", "database_labels", "query_index", "database_index"):
        np.testing.assert_array_equal(getattr(callback.codes, name), getattr(tested, name))
    callback.on_predict_epoch_start(trainer, module)
    with pytest.raises(RuntimeError, match="60 of 60 rows have no code"):
        callback.on_predict_epoch_end(trainer, module)


@pytest.mark.parametrize(("stage", "lines"), [("test", 1), ("validate", 1), ("fit", 0)])
def test_useless_bits_are_told_after_a_command_and_not_after_each_epoch(caplog, stage, lines):
    labels, _, split = problem()
    trainer = SimpleNamespace(state=SimpleNamespace(fn=TrainerFn(stage)), datamodule=data_of(split))
    callback, rows = RetrievalEvaluation(), torch.from_numpy(everything())
    outputs = {"index": rows, "label": torch.from_numpy(labels)[rows], "code": torch.ones(len(rows), BITS) > 0}
    callback.on_predict_batch_end(trainer, SimpleNamespace(bits=BITS), outputs, None, 0)
    callback._gather(trainer, SimpleNamespace(bits=BITS), split.query, split.database, limited=False)
    assert caplog.text.count(f"codes: {BITS} of {BITS} bits are the same in all") == lines
