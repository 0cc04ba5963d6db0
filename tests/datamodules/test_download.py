import hashlib
import io
import json
import logging
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from razh.cli.main import main
from razh.commands import data as data_command
from razh.datamodules.download import extraction, transfer
from razh.datamodules.download import fetch as download
from razh.datamodules.download.fetch import DATASETS, Archive, fetch


class Source(ThreadingHTTPServer):
    """A server of one file that misbehaves on demand, and remembers what it was asked for."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.content, self.etag = b"", '"1"'
        self.ranges, self.announces_length = True, True
        self.break_after = []  # bytes after which the next connections end
        self.states = []  # HTTP states to answer the next connections with
        self.pause = 0.0  # seconds between pieces of 1,000 bytes
        self.asked = []  # (Range, If-Range) of every connection
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def handle_error(self, request, address):
        pass  # clients that were stopped

    def url(self, name):
        return f"http://127.0.0.1:{self.server_port}/some/{name}"


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        source = self.server
        wanted, condition = self.headers["Range"], self.headers["If-Range"]
        source.asked.append((wanted, condition))
        if source.states:
            self.send_error(source.states.pop(0))
            return
        content, start = source.content, 0
        if wanted and source.ranges and condition in (None, source.etag):
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        if source.announces_length:
            self.send_header("Content-Length", str(len(content) - start))
        if source.etag:
            self.send_header("ETag", source.etag)
        self.end_headers()
        end = start + source.break_after.pop(0) if source.break_after else len(content)
        for piece in range(start, min(end, len(content)), 1000):
            self.wfile.write(content[piece : min(piece + 1000, end)])
            time.sleep(source.pause)

    def log_message(self, *args):
        pass


@pytest.fixture
def source():
    server = Source()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(transfer, "BACK_OFF", (0.0, 0.0))


def tar_of(files, links=(), kind="w:gz"):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=kind) as tape:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tape.addfile(info, io.BytesIO(content))
        for name, target, what in links:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = what, target
            tape.addfile(info)
    return buffer.getvalue()


def zip_of(files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as compressed:
        for name, content in files.items():
            compressed.writestr(name, content)
    return buffer.getvalue()


FILES = {"birds/list.txt": b"one two\n", "birds/images/a.bin": os.urandom(30_000), "attributes.txt": b"red\n"}


def one(source, content, name="birds.tgz", **facts):
    """Serve `content` and return a table of one data set of one archive."""
    source.content = content
    facts = {"size": len(content), "unpacked": 10**6, "provides": ("birds/list.txt",), **facts}
    return {"birds": (Archive(url=source.url(name), **facts),)}


def md5(content):
    return "md5:" + hashlib.md5(content).hexdigest()


def assert_unpacked(root):
    assert {name: (root / name).read_bytes() for name in FILES} == FILES
    assert not list(root.glob("*part*"))
    assert not list(root.glob(".razh-unpack-*"))


# ------------------------------------------------------------------------------------------------------------ the table


def test_the_table_is_consistent():
    assert sorted(DATASETS) == ["awa2", "cifar10", "cub", "sun"]
    for archives in DATASETS.values():
        assert len({archive.name for archive in archives}) == len(archives)
        for archive in archives:
            assert archive.url.startswith("https://")
            assert archive.provides
            assert archive.unpacked > archive.size / 2
            kind, _, digits = archive.checksum.partition(":")
            assert (kind, len(digits)) in (("", 0), ("md5", 32), ("sha256", 64))
    assert DATASETS["cub"][0].name == "CUB_200_2011.tgz"
    assert DATASETS["cub"][1].members == ("xlsa17/data/CUB/*",)


# ---------------------------------------------------------------------------------------------------------- downloading


@pytest.mark.parametrize("make", [tar_of, zip_of])
def test_fetch_unpacks_and_a_second_call_does_nothing(source, tmp_path, caplog, make):
    content = make(FILES)
    table = one(source, content, "birds.zip" if make is zip_of else "birds.tgz", checksum=md5(content), exact=True)
    assert fetch("birds", tmp_path, datasets=table)
    assert_unpacked(tmp_path)
    assert not (tmp_path / table["birds"][0].name).exists()
    requests = len(source.asked)
    with caplog.at_level(logging.INFO):
        assert not fetch("birds", tmp_path, datasets=table)
    assert len(source.asked) == requests == 1
    assert "already unpacked" in caplog.text


def test_an_archive_is_kept_on_request_and_used_again_instead_of_the_network(source, tmp_path):
    table = one(source, tar_of(FILES))
    fetch("birds", tmp_path, keep_archive=True, datasets=table)
    (tmp_path / "birds" / "list.txt").unlink()
    assert fetch("birds", tmp_path, datasets=table)
    assert_unpacked(tmp_path)
    assert len(source.asked) == 1


def test_a_broken_download_goes_on_where_it_stopped(source, tmp_path):
    table = one(source, tar_of(FILES))
    source.break_after = [7_000, 5_000]
    fetch("birds", tmp_path, datasets=table)
    assert_unpacked(tmp_path)
    assert source.asked == [(None, None), ("bytes=7000-", '"1"'), ("bytes=12000-", '"1"')]


def test_a_download_goes_on_in_a_second_call(source, tmp_path):
    table = one(source, tar_of(FILES))
    source.break_after = [9_000, 0, 0, 0]
    with pytest.raises(OSError, match=r"cannot be fetched .* go on from byte 9000"):
        fetch("birds", tmp_path, datasets=table)
    assert (tmp_path / "birds.tgz.razh-part").read_bytes() == source.content[:9_000]
    assert not (tmp_path / "birds").exists()
    fetch("birds", tmp_path, datasets=table)
    assert_unpacked(tmp_path)
    assert source.asked[-1] == ("bytes=9000-", '"1"')


def test_a_complete_part_file_needs_no_network(source, tmp_path):
    table = one(source, tar_of(FILES))
    source.break_after = [9_000, 0, 0, 0]
    with pytest.raises(OSError, match="cannot be fetched"):
        fetch("birds", tmp_path, datasets=table)
    (tmp_path / "birds.tgz.razh-part").write_bytes(source.content)
    requests = len(source.asked)
    fetch("birds", tmp_path, datasets=table)
    assert_unpacked(tmp_path)
    assert len(source.asked) == requests


def test_a_server_without_ranges_is_read_from_the_start(source, tmp_path):
    table = one(source, tar_of(FILES))
    source.ranges, source.break_after = False, [7_000]
    fetch("birds", tmp_path, datasets=table)
    assert_unpacked(tmp_path)


def test_a_server_without_lengths_and_versions_is_read_too(source, tmp_path):
    table = one(source, tar_of(FILES))
    source.announces_length, source.etag = False, None
    fetch("birds", tmp_path, datasets=table)
    assert_unpacked(tmp_path)


@pytest.mark.parametrize("honours_if_range", [True, False])
def test_two_versions_of_a_file_are_never_mixed(source, tmp_path, monkeypatch, honours_if_range):
    table = one(source, tar_of({**FILES, "birds/list.txt": b"old\n", "birds/more.bin": os.urandom(5_000)}))
    source.break_after = [9_000, 0, 0, 0]
    with pytest.raises(OSError, match="cannot be fetched"):
        fetch("birds", tmp_path, datasets=table)
    source.content, source.etag = tar_of(FILES), '"2"'
    if not honours_if_range:  # answers 206 of the new file
        monkeypatch.setattr(transfer, "_request", lambda url, offset, known: _plain_range(url, offset))
    fetch("birds", tmp_path, datasets=table)
    assert_unpacked(tmp_path)


def _plain_range(url, offset):
    headers = {"Range": f"bytes={offset}-"} if offset else {}
    return transfer.urllib.request.Request(url, headers=headers)


def test_a_part_longer_than_the_file_is_thrown_away(source, tmp_path):
    table = one(source, tar_of(FILES))
    source.break_after = [9_000, 0, 0, 0]
    with pytest.raises(OSError, match="cannot be fetched"):
        fetch("birds", tmp_path, datasets=table)
    with (tmp_path / "birds.tgz.razh-part").open("ab") as part:
        part.write(bytes(len(source.content)))
    fetch("birds", tmp_path, datasets=table)
    assert_unpacked(tmp_path)


def test_a_part_of_unknown_version_is_not_trusted(source, tmp_path):
    table = one(source, tar_of(FILES))
    (tmp_path / "birds.tgz.razh-part").write_bytes(b"something else")
    fetch("birds", tmp_path, datasets=table)
    assert_unpacked(tmp_path)
    assert source.asked == [(None, None)]


def test_passing_server_errors_are_tried_again_and_refusals_are_not(source, tmp_path):
    table = one(source, tar_of(FILES))
    source.states = [503, 429]
    fetch("birds", tmp_path / "a", datasets=table)
    assert_unpacked(tmp_path / "a")
    source.states, source.asked = [404], []
    with pytest.raises(OSError, match=r"answers 404 .* put the file at"):
        fetch("birds", tmp_path / "b", datasets=table)
    assert len(source.asked) == 1


def test_no_server_at_all(source, tmp_path):
    table = one(source, tar_of(FILES))
    source.shutdown()
    source.server_close()
    with pytest.raises(OSError, match="no connection"):
        fetch("birds", tmp_path, datasets=table)


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_process_leaves_a_part_to_go_on_from(source, tmp_path, stop):
    table = one(source, tar_of(FILES))
    source.pause = 0.05
    script = (
        "from razh.datamodules.download.fetch import Archive, fetch\n"
        f"archive = Archive(url={table['birds'][0].url!r}, size={len(source.content)}, unpacked=10**6, provides=())\n"
        f"fetch('birds', {str(tmp_path)!r}, datasets={{'birds': (archive,)}})\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL, cwd=Path(__file__).parents[2])
    part = tmp_path / "birds.tgz.razh-part"
    deadline = time.monotonic() + 30
    while not (part.exists() and part.stat().st_size >= 5_000):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(stop)
    assert process.wait(10) != 0
    kept = part.read_bytes()
    assert 5_000 <= len(kept) < len(source.content)
    assert source.content.startswith(kept)
    source.pause = 0.0
    fetch("birds", tmp_path, datasets=table)
    assert_unpacked(tmp_path)
    assert source.asked[-1][0] == f"bytes={len(kept)}-"


@pytest.mark.parametrize("page", [b"\n <!DOCTYPE html><title>Sign in</title>", b"<html>please log in</html>"])
def test_a_web_page_is_not_taken_for_the_file_nor_held_against_it(source, tmp_path, page):
    table = one(source, tar_of(FILES))
    right, source.content = source.content, page
    with pytest.raises(OSError, match="sends a web page, not the file"):
        fetch("birds", tmp_path, datasets=table)
    source.content = right
    fetch("birds", tmp_path, datasets=table)
    assert_unpacked(tmp_path)


def test_what_was_no_archive_is_not_held_against_the_right_one(source, tmp_path):
    table = one(source, tar_of(FILES))
    right, source.content = source.content, b"maintenance"
    with pytest.raises(ValueError, match="cut short or damaged"):
        fetch("birds", tmp_path, datasets=table)
    assert not (tmp_path / "checksums.json").exists()
    (tmp_path / "birds.tgz.razh-part").unlink()  # as the message says
    source.content = right
    fetch("birds", tmp_path, datasets=table)
    assert_unpacked(tmp_path)


def test_a_server_that_begins_elsewhere_again_and_again_is_given_up(source, tmp_path, monkeypatch):
    table = one(source, tar_of(FILES))
    source.break_after = [9_000] * 100
    monkeypatch.setattr(transfer, "_start_of", lambda reply: 1)
    with pytest.raises(OSError, match="cannot be fetched"):
        fetch("birds", tmp_path, datasets=table)
    assert len(source.asked) < 10


def test_a_server_that_brings_a_little_each_time_is_given_up(source, tmp_path, monkeypatch):
    table = one(source, tar_of(FILES))
    source.break_after = [10] * 100
    monkeypatch.setattr(transfer, "MOST_ATTEMPTS", 5)
    with pytest.raises(OSError, match="cannot be fetched"):
        fetch("birds", tmp_path, datasets=table)
    assert len(source.asked) == 5


def test_a_source_without_end_is_refused(source, tmp_path, monkeypatch):
    table = one(source, tar_of(FILES), size=100)
    source.announces_length = False
    monkeypatch.setattr(transfer, "_SLACK", 1000)
    with pytest.raises(ValueError, match="sends more than 1200 bytes"):
        fetch("birds", tmp_path, datasets=table)


# ------------------------------------------------------------------------------------------------------------- checking


def test_a_wrong_published_checksum_is_refused_and_the_download_deleted(source, tmp_path):
    content = tar_of(FILES)
    with pytest.raises(ValueError, match=r"has MD5 [0-9a-f]{32}, but [0-9a-f]{32} is published.* it was deleted"):
        fetch("birds", tmp_path, datasets=one(source, content, checksum=md5(b"another")))
    assert not (tmp_path / "birds").exists()
    assert not list(tmp_path.glob("birds.tgz*"))


def test_a_wrong_archive_of_the_user_is_refused_and_kept(source, tmp_path):
    table = one(source, tar_of(FILES), checksum=md5(b"another"))
    (tmp_path / "birds.tgz").write_bytes(source.content)
    with pytest.raises(ValueError, match="delete it and run again"):
        fetch("birds", tmp_path, datasets=table)
    assert (tmp_path / "birds.tgz").exists()
    assert source.asked == []


def test_a_source_of_another_size_is_refused_before_it_is_read(source, tmp_path):
    table = one(source, tar_of(FILES), exact=True)
    source.content += b"more"
    with pytest.raises(ValueError, match=r"bytes, but \d+ were expected"):
        fetch("birds", tmp_path, datasets=table)


def test_the_first_download_is_recorded_and_a_later_one_held_to_it(source, tmp_path):
    table = one(source, tar_of(FILES))
    fetch("birds", tmp_path, datasets=table)
    record = json.loads((tmp_path / "checksums.json").read_text())["birds.tgz"]
    assert record["sha256"] == hashlib.sha256(source.content).hexdigest()
    assert (record["bytes"], record["unpacked"]) == (len(source.content), True)
    (tmp_path / "birds" / "list.txt").unlink()
    table = one(source, tar_of({**FILES, "birds/list.txt": b"changed\n"}))
    with pytest.raises(ValueError, match=r"the first download had .*checksums.json"):
        fetch("birds", tmp_path, datasets=table)
    assert not (tmp_path / "birds" / "list.txt").exists()
    (tmp_path / "checksums.json").unlink()
    fetch("birds", tmp_path, datasets=table)
    assert (tmp_path / "birds" / "list.txt").read_bytes() == b"changed\n"


def test_a_damaged_record_is_named(tmp_path, source):
    (tmp_path / "checksums.json").write_text("{")
    with pytest.raises(ValueError, match=r"checksums.json is damaged .* delete it"):
        fetch("birds", tmp_path, datasets=one(source, tar_of(FILES)))


def test_a_small_disk_is_noticed_first(source, tmp_path):
    table = one(source, tar_of(FILES), unpacked=10**18)
    with pytest.raises(OSError, match=r"GB free, but .* may take"):
        fetch("birds", tmp_path, datasets=table)
    assert source.asked == []


def test_two_processes_do_not_fetch_into_one_folder(source, tmp_path):
    table = one(source, tar_of(FILES))
    with download.FileLock(tmp_path / ".fetch.lock"), pytest.raises(OSError, match="another process is fetching"):
        fetch("birds", tmp_path, datasets=table)


# ------------------------------------------------------------------------------------------------------------ unpacking

UNSAFE = {
    "parent": (tar_of({"birds/../../evil": b"x"}), "leads out"),
    "absolute": (tar_of({"/evil": b"x"}), "leads out"),
    "windows": (zip_of({"C:\\evil": b"x"}), "leads out"),
    "backslash": (zip_of({"..\\evil": b"x"}), "leads out"),
    "zip parent": (zip_of({"../evil": b"x"}), "leads out"),
    "symlink": (tar_of({}, [("birds/out", "../../evil", tarfile.SYMTYPE)]), "link"),
    "absolute link": (tar_of({}, [("birds/out", "/evil", tarfile.SYMTYPE)]), "link"),
    "hard link": (tar_of({}, [("birds/out", "../evil", tarfile.LNKTYPE)]), "link"),
    "device": (tar_of({}, [("birds/out", "", tarfile.CHRTYPE)]), "no file, folder or link"),
    "pipe": (tar_of({}, [("birds/out", "", tarfile.FIFOTYPE)]), "no file, folder or link"),
    "bomb": (tar_of({"birds/list.txt": bytes(2_000_000)}), "more than 1000000 bytes"),
    "zip bomb": (zip_of({"birds/list.txt": bytes(2_000_000)}), "more than 1000000 bytes"),
    "cut zip": (zip_of(FILES)[:-200], "cut short or damaged"),
    "cut tar": (tar_of(FILES)[:20_000], "cut short or damaged"),
    "no archive": (b"sorry", "cut short or damaged"),
    "another archive": (tar_of({"cats/list.txt": b"x"}), "is not in it"),
}


@pytest.mark.parametrize("case", UNSAFE)
def test_unsafe_and_damaged_archives_leave_nothing(source, tmp_path, case):
    content, message = UNSAFE[case]
    root = tmp_path / "data" / "birds"
    table = one(source, content, "birds.zip" if "zip" in case or content[:2] == b"PK" else "birds.tgz")
    with pytest.raises(ValueError, match=message):
        fetch("birds", root, datasets=table)
    assert not (root / "birds").exists()
    assert not list(root.glob(".razh-unpack-*"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]
    assert sorted(path.name for path in root.parent.iterdir()) == ["birds"]
    assert not any(path.name == "evil" for path in tmp_path.rglob("*"))


def test_a_symlink_in_a_zip_is_refused(tmp_path):
    link = zipfile.ZipInfo("birds/out")
    link.external_attr = 0o120777 << 16
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as compressed:
        compressed.writestr(link, "../../evil")
    (tmp_path / "a.zip").write_bytes(buffer.getvalue())
    with pytest.raises(ValueError, match="link"):
        extraction.unpack(tmp_path / "a.zip", tmp_path / "out", 10**6)


def test_links_that_stay_inside_are_left_out(tmp_path, caplog):
    links = [("birds/again", "list.txt", tarfile.SYMTYPE), ("birds/images/up", "../list.txt", tarfile.SYMTYPE)]
    (tmp_path / "a.tar").write_bytes(tar_of(FILES, links, kind="w"))
    assert extraction.unpack(tmp_path / "a.tar", tmp_path / "out", 10**6) == len(FILES)
    assert not (tmp_path / "out" / "birds" / "again").exists()
    assert caplog.text.count("left out the link") == 2


def test_only_wanted_members_are_unpacked_and_folders_are_filled_up(tmp_path):
    files = {"x/data/CUB/a.mat": b"1", "x/data/CUB/deep/b.mat": b"2", "x/data/SUN/a.mat": b"3", "__MACOSX/x/._a": b"4"}
    (tmp_path / "a.zip").write_bytes(zip_of(files))
    out = tmp_path / "out"
    (out / "x" / "data" / "CUB").mkdir(parents=True)
    (out / "x" / "data" / "CUB" / "mine.txt").write_text("kept")
    (out / "x" / "data" / "CUB" / "a.mat").write_text("old")
    assert extraction.unpack(tmp_path / "a.zip", out, 10**6, ("x/data/CUB/*",)) == 2
    found = {str(path.relative_to(out)): path.read_text() for path in out.rglob("*") if path.is_file()}
    assert found == {"x/data/CUB/a.mat": "old", "x/data/CUB/deep/b.mat": "2", "x/data/CUB/mine.txt": "kept"}
    with pytest.raises(ValueError, match="holds no file like"):
        extraction.unpack(tmp_path / "a.zip", out, 10**6, ("x/data/AWA2/*",))


def test_large_members_are_refused_by_their_headers(tmp_path, monkeypatch):
    (tmp_path / "a.zip").write_bytes(zip_of({"a": b"1", "zeros": bytes(10**6)}))
    monkeypatch.setattr(extraction, "_copy", lambda source, sink, left, *_: left)
    with pytest.raises(ValueError, match="more than 1000 bytes"):
        extraction.unpack(tmp_path / "a.zip", tmp_path / "out", 1000)


def test_an_archive_that_the_user_has_put_there_stays(source, tmp_path):
    table = one(source, tar_of(FILES))
    (tmp_path / "birds.tgz").write_bytes(source.content)
    fetch("birds", tmp_path, datasets=table)
    assert (tmp_path / "birds.tgz").read_bytes() == source.content
    assert source.asked == []


def test_what_a_killed_process_left_is_removed(source, tmp_path):
    (tmp_path / ".razh-unpack-dead" / "birds").mkdir(parents=True)
    fetch("birds", tmp_path, datasets=one(source, tar_of(FILES)))
    assert_unpacked(tmp_path)


# ---------------------------------------------------------------------------------------------------------- the command


def test_the_command_fetches_and_says_what_comes_next(source, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(data_command, "fetch", lambda *args, **more: fetch(*args, **more, datasets=table))
    monkeypatch.chdir(tmp_path)
    table = one(source, tar_of(FILES))
    assert main(["data", "birds"]) == 0
    told = capsys.readouterr()
    assert told.out == "birds is in data/birds\n"
    assert told.err.endswith("razh train --dataset=birds\n")
    assert_unpacked(tmp_path / "data" / "birds")
    assert data_command.main(["birds", "--root", "data/birds"]) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert main(["data", "birds", "--root", "else", "--keep-archive"]) == 0
    assert capsys.readouterr().err.endswith("razh train --dataset=birds --data_root=else\n")
    assert (tmp_path / "else" / "birds.tgz").exists()


def test_the_command_lists_data_sets_and_has_an_example(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="data set is 'cup', but can be cub, awa2, sun, cifar10"):
        data_command.main(["cup"])
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(SystemExit) as stop:
        data_command.main(["--help"])
    assert stop.value.code == 0
    assert "razh data cub" in capsys.readouterr().out
