"""`razh serve` from the terminal: the address that is printed, ports that are taken, Ctrl-C."""

import json
import os
import re
import signal
import socket
import time
import urllib.error
import urllib.request

import pytest

pytest.importorskip("fastapi", reason='needs pip install "razh[serve]"')

from razh.cli.main import main
from tests.commands.conftest import photos, reading
from tests.processes import forked, razh

__all__ = ["photos", "reading"]


@pytest.fixture
def archive(reading, photos, tmp_path):
    assert main(["index", str(photos), "--checkpoint", str(reading), "--out", str(tmp_path / "archive")]) == 0
    return tmp_path / "archive"


@pytest.fixture
def start(archive, tmp_path):
    """Return a function that starts a server and returns it with the address that it prints."""
    started = []

    def run(*options):
        server = forked(razh, "serve", str(archive), "--port=0", *options, log=tmp_path / "log")
        server.start()
        started.append(server)
        until = time.monotonic() + 60
        while not (address := re.search(r"http://\S+(?=\s)", said())):
            assert server.is_alive(), said()
            assert time.monotonic() < until, said()
            time.sleep(0.05)
        return server, address[0]

    def said():
        return (tmp_path / "log").read_text() if (tmp_path / "log").exists() else ""

    yield run
    for server in started:
        server.kill()
        server.join()


def test_it_serves_until_ctrl_c(start, tmp_path):
    server, address = start()
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", address)
    with urllib.request.urlopen(f"{address}api/archive", timeout=30) as answer:
        assert json.load(answer)["images"] == 7
    os.kill(server.pid, signal.SIGINT)
    server.join(30)
    assert (server.exitcode, "Traceback" in (tmp_path / "log").read_text()) == (0, False)


def test_other_hosts_need_the_token_that_is_printed(start):
    _, address = start("--host=0.0.0.0")
    port, token = re.fullmatch(r"http://\S+:(\d+)/\?token=(\S+)", address).groups()
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/api/archive", timeout=30)
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/api/archive", headers={"Authorization": f"Bearer {token}"}
    )
    assert urllib.request.urlopen(request, timeout=30).status == 200


def test_a_port_that_is_taken_is_one_line(archive, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["serve", str(archive), f"--port={port}"]) == 1
    assert f"--port={port} is taken; stop what listens there, or take another (0: any)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--host=nowhere.invalid"], "--host=nowhere.invalid is no address of this machine"),
        (["--port=70000"], "must be a whole number from 0 to 65,535"),
        (["--token=short"], "--token has fewer than 8 characters"),
    ],
)
def test_what_cannot_be_served_is_one_line(options, told, archive, capsys):
    assert main(["serve", str(archive), *options]) in (1, 2)
    assert told in capsys.readouterr().err


def test_there_must_be_an_archive(tmp_path, capsys):
    assert main(["serve", str(tmp_path)]) == 1
    assert "no archive at" in capsys.readouterr().err
