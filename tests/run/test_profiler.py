import pytest

from razh.run.profiler import RunProfiler


def test_summary_shows_the_longest_actions_by_short_names():
    profiler = RunProfiler(rows=2)
    profiler.recorded_durations = {
        "run_training_epoch": [3.0, 5.0],
        "[Callback]BestCheckpoint{'monitor': 'val/map'}.on_train_end": [2.0],
        "[Strategy]SingleDeviceStrategy.backward": [0.5],
    }
    title, header, *rows = profiler.summary().splitlines()
    assert (title, header.split()[:3]) == ("where the time went:", ["action", "seconds", "share"])
    assert [row.split()[0] for row in rows] == ["run_training_epoch", "BestCheckpoint.on_train_end"]
    assert rows[0].split()[1:] == ["8.00", "100.0%", "2", "4000.00"]
    assert rows[1].split()[2] == "25.0%"


def test_nothing_recorded_is_no_error():
    assert len(RunProfiler().summary().splitlines()) == 2


@pytest.mark.parametrize("name", ["run_training_batch"])
def test_actions_are_recorded(name):
    profiler = RunProfiler()
    with profiler.profile(name):
        pass
    assert name in profiler.summary()
