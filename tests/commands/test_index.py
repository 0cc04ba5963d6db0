"""`razh index`: an archive that is made, brought up to date, searched meanwhile, killed and gone on with."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from razh.cli.main import main
from razh.datamodules.images import evaluation_view, read_image
from razh.index import updating
from razh.index.archive import ArchiveWriter, Snapshot
from razh.method import HashingMethod
from razh.retrieval.packing import unpack
from tests import fake
from tests.commands.conftest import BITS, SIZE
from tests.processes import count_slowly, forked, razh


def index(*arguments):
    return main(["index", *map(str, arguments)])


@pytest.fixture
def made(trained, photos, tmp_path):
    folder = tmp_path / "archive"
    assert index(photos, "--checkpoint", trained[0], "--out", folder, "--workers=0") == 0
    return folder


def names(folder):
    return [name for _, name in Snapshot(folder).names()]


def test_an_archive_has_the_codes_of_the_method(made, trained, photos, capsys):
    now = Snapshot(made)
    assert sorted(names(made)) == names(made)
    assert len(now) == 7
    for row, name in now.names():
        image = evaluation_view(read_image(photos.parent / name), SIZE)
        with torch.no_grad():
            assert np.array_equal(trained[1](image[None])[0].numpy() >= 0, unpack(now.codes[row : row + 1], BITS)[0])
        assert now.columns["class"][row] == name.split("/")[1]
    capsys.readouterr()
    assert index("verify", made) == 0
    assert "7 images, every byte as it was written" in capsys.readouterr().out
    assert index("stats", made) == 0
    told = capsys.readouterr().out
    assert "class: dogs 4, cats 3" in told
    assert index("stats", made, "--json") == 0
    assert json.loads(capsys.readouterr().out)["images"] == 7


def test_an_update_encodes_what_is_new_or_changed_and_nothing_else(made, photos, monkeypatch, capsys):
    fake.write_image(photos / "cats" / "3.png", seed=99, width=50)
    fake.write_image(photos / "birds" / "8.png", seed=8)
    (photos / "dogs" / "big" / "0.png").unlink()
    encoded, logits = [], HashingMethod.finite_logits

    def counted(self, batch):
        encoded.append(len(batch["image"]))
        return logits(self, batch)

    monkeypatch.setattr(HashingMethod, "finite_logits", counted)
    capsys.readouterr()
    assert index("update", made, "--workers=0") == 0
    told = capsys.readouterr().out
    assert "8 images of 12 bits (1 added, 1 changed, 5 unchanged)" in told
    assert "without a file now: 1 image; --prune removes them" in told
    assert sum(encoded) == 2
    assert index("update", made, "--prune", "--workers=0") == 0
    assert "7 images of 12 bits (0 added, 7 unchanged, 1 removed)" in capsys.readouterr().out
    assert sum(encoded) == 2
    assert "photos/dogs/big/0.png" not in names(made)
    assert index("verify", made) == 0


def test_a_second_folder_is_added_and_images_are_removed(made, photos, tmp_path, capsys):
    other = tmp_path / "other" / "photos"
    shutil.copytree(photos / "cats", other)
    assert index("add", made, other, "--workers=0") == 0
    assert len(names(made)) == 10
    assert "photos-2/1.png" in names(made)
    (tmp_path / "list.txt").write_text("photos/cats/1.png\n\nphotos/cats/3.png\n")
    assert index("remove", made, "photos-2", "*/big/[02].png", f"@{tmp_path / 'list.txt'}") == 0
    assert "7 images removed, 3 left" in capsys.readouterr().out
    assert names(made) == ["photos/cats/5.png", "photos/dogs/big/4.png", "photos/dogs/big/6.png"]
    assert index("remove", made, "photos/cats/5.png", "nowhere*") == 1
    assert "nowhere* matches no image of" in capsys.readouterr().err
    assert len(names(made)) == 3


def test_an_archive_is_searched_by_name_by_file_and_by_image(made, photos, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    for query in ("photos/cats/3.png", photos / "cats" / "3.png", "./photos/dogs/../cats/3.png"):
        assert main(["search", str(made), str(query), "--top=9", "--out=hits.csv"]) == 0
        lines = (tmp_path / "hits.csv").read_text().splitlines()
        assert len(lines) == 7
        assert {line.split(",")[0] for line in lines[1:]} == {"photos/cats/3.png"}
    assert main(["search", "photos/cats/3.png", str(made), "--where=class=dogs", "--out=hits.csv", "--top=9"]) == 0
    assert {line.split(",")[3] for line in (tmp_path / "hits.csv").read_text().splitlines()[1:]} == {
        f"photos/dogs/big/{number}.png" for number in (0, 2, 4, 6)
    }
    new = tmp_path / "new.png"
    shutil.copy(photos / "cats" / "3.png", new)
    figure = ["--figure", str(tmp_path / "hits.png"), "--workers=0"]
    assert main(["search", str(made), "new.png", "--top=1", "--out=hits.csv", *figure]) == 0
    assert (tmp_path / "hits.csv").read_text().splitlines()[1] == "new.png,1,0,photos/cats/3.png"
    assert (tmp_path / "hits.png").is_file()


def test_questions_of_several_images_pages_and_duplicates(made, photos, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(photos / "cats" / "3.png", photos / "dogs" / "same.png")
    assert index("update", made, "--workers=0") == 0
    two = ["photos/cats/1.png", "photos/cats/3.png"]
    assert main(["search", str(made), *two, "--together", "--not=photos/dogs/big/0.png", "--out=hits.json"]) == 0
    (one,) = json.loads((tmp_path / "hits.json").read_text())
    assert one["query"] == "photos/cats/1.png + photos/cats/3.png − photos/dogs/big/0.png"
    assert len(one["hits"]) == 5
    assert main(["search", str(made), two[0], "--out=hits.html", "--top=3"]) == 0
    assert (tmp_path / "hits.html").read_text().count("data:image/jpeg") == 4  # the query, and three hits
    capsys.readouterr()
    assert main(["search", str(made), "--duplicates"]) == 0
    told = capsys.readouterr().out
    group = told[told.index("\nphotos/cats/3.png\n") :]
    assert "    0 photos/dogs/same.png\n" in group
    for engine in ("flat", "ivf"):
        assert main(["search", str(made), two[0], f"--engine={engine}", "--out=hits.csv"]) == 0
        hits = (tmp_path / "hits.csv").read_text()
        assert main(["search", str(made), two[0], "--out=hits.csv"]) == 0
        assert (tmp_path / "hits.csv").read_text() == hits


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--describe=x"], "a description needs 3 classes"),
        (["--describe=x", "--figure=f.png"], "--describe needs an archive"),
        (["a.png", "--duplicates"], "--duplicates compares all images"),
        (["photos/cats/1.png", "--together", "--engine=flat"], "--together and --not look at every code"),
        (["photos/cats/1.png", "--where=cats"], "--where=cats is no condition"),
        (["photos/cats/1.png", "--where=class=cat"], "did you mean cats?"),
        (["photos/cats/1.png", "--engine=milvus"], "--engine=milvus needs --uri"),
    ],
)
def test_questions_that_cannot_be_meant_are_one_line(arguments, told, made, capsys):
    assert main(["search", str(made), *arguments]) == 1
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert told in error


def test_own_columns_come_with_an_update(made, tmp_path, capsys):
    table = tmp_path / "facts.csv"
    table.write_text("path,camera\ncats/1.png,hall\ndogs/big/2.png,yard\n")
    assert index("update", made, "--columns", table) == 0
    assert "columns of 2 images" in capsys.readouterr().out
    assert main(["search", str(made), "photos/cats/3.png", "--where", "camera=hall,camera=yard"]) == 0
    told = capsys.readouterr().out
    assert "photos/cats/1.png" in told
    assert "photos/cats/5.png" not in told


def test_broken_images_are_left_out_and_tried_again(made, photos, capsys):
    (photos / "cats" / "cut.png").write_bytes(b"\x89PNG")
    assert index("update", made, "--workers=0") == 3
    assert "left out, each by its name above: 1 image" in capsys.readouterr().out
    fake.write_image(photos / "cats" / "cut.png", seed=1)
    assert index("update", made, "--workers=0") == 0
    assert "photos/cats/cut.png" in names(made)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["{photos}", "--out={archive}", "--checkpoint={other}"], "was made with another checkpoint than"),
        (["{photos}", "--out={new}"], "--checkpoint is missing: "),
        (["{photos}", "--out={new}", "--checkpoint=nowhere.ckpt"], "no checkpoint at nowhere.ckpt"),
        (["nowhere", "--out={new}", "--checkpoint={ckpt}"], "no folder at nowhere"),
        (["{bad}", "--out={new}", "--checkpoint={ckpt}", "--workers=0"], "no file is a readable image; the first: "),
        (["{photos}", "--out={photos}", "--checkpoint={ckpt}"], "is there and no archive; give the name of a new"),
        (["add", "{archive}", "{photos}/cats"], "overlaps with"),
        (["update", "nowhere"], "no archive at nowhere; make one with `razh index"),
        (["remove", "{archive}", "@nowhere.txt"], "no list at nowhere.txt"),
        (["stats", "{photos}"], "no archive at"),
    ],
)
def test_bad_input_is_one_line(arguments, told, made, trained, photos, tmp_path, capsys):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.jpg").write_bytes(b"x")
    content = torch.load(trained[0], weights_only=True)
    content["razh"]["dataset"] = "another"
    torch.save(content, tmp_path / "other.ckpt")
    places = {"photos": photos, "archive": made, "ckpt": trained[0], "new": tmp_path / "new", "bad": tmp_path / "bad"}
    capsys.readouterr()
    assert index(*(a.format(**places, other=tmp_path / "other.ckpt") for a in arguments)) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert told in errors[0]
    assert index("verify", made) == 0


def test_a_second_writer_is_refused(made, photos, capsys):
    with ArchiveWriter(made):
        assert index("update", made) == 1
        assert f"is being written by process {os.getpid()}; wait" in capsys.readouterr().err
        assert main(["search", str(made), "photos/cats/1.png"]) == 0


def _slow(batches, arguments):
    """Be a command that is slow, commits after every batch, and counts its batches."""
    updating.COMMIT_SECONDS = 0
    count_slowly(batches, 0.1)
    razh(*arguments)


@pytest.mark.parametrize(
    ("stop", "status"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 128 + signal.SIGTERM)]
)
def test_a_process_that_is_ended_goes_on_where_it_was(stop, status, trained, photos, tmp_path):
    for number in range(7, 30):
        fake.write_image(photos / "cats" / f"{number}.png", seed=number)
    out, batches = tmp_path / "archive", tmp_path / "batches"
    arguments = ["index", str(photos), "--checkpoint", str(trained[0]), "--out", str(out), "--workers=0"]
    process = forked(_slow, batches, [*arguments, "--batch-size=2"])
    process.start()
    until = time.monotonic() + 120
    while not (batches.exists() and int(batches.read_text() or 0) > 3) and process.is_alive():
        assert time.monotonic() < until
        time.sleep(0.02)
    os.kill(process.pid, stop)
    process.join(60)
    assert process.exitcode == status
    done = names(out)
    assert 6 <= len(done) < 30
    assert Snapshot(out).problems() == []
    assert main(arguments) == 0
    assert names(out)[: len(done)] == done
    assert len(set(names(out))) == 30


def test_what_needs_no_network_needs_no_torch(made):
    code = """
import sys
from razh.cli.main import main
assert main(sys.argv[1:]) == 0
assert not {"torch", "matplotlib", "scipy", "lightning", "faiss"} & set(sys.modules)
"""
    for command in (["search", made, "photos/cats/3.png"], ["index", "update", made], ["index", "stats", made]):
        call = [sys.executable, "-c", code, *map(str, command)]
        done = subprocess.run(call, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr
