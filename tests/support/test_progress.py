"""Long work tells a log how far it has come."""

import logging

from razh.support import progress


def test_a_log_gets_lines_and_every_step_is_yielded(monkeypatch, caplog):
    monkeypatch.setattr(progress, "SECONDS", 0.0)
    with caplog.at_level(logging.INFO):
        assert list(progress.track(iter("abcd"), "counting", 4, "letters")) == list("abcd")
    assert [message.partition(", about")[0] for message in caplog.messages] == [
        f"counting: {done} of 4 letters" for done in (1, 2, 3, 4)
    ]
    assert caplog.messages[-1].endswith("about 0 s left")


def test_short_work_says_nothing(caplog):
    with caplog.at_level(logging.INFO):
        assert list(progress.track(range(3), "counting", 3)) == [0, 1, 2]
    assert not caplog.messages


def test_a_terminal_gets_a_bar(monkeypatch, caplog):
    shown = []
    monkeypatch.setattr(progress.Console, "is_terminal", True)
    monkeypatch.setattr(progress, "bar", lambda steps, description, total: shown.append((description, total)) or steps)
    assert list(progress.track(range(3), "counting", 3)) == [0, 1, 2]
    assert shown == [("counting", 3)]
