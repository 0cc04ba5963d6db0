"""`razh encode`: a folder of anything, and a file of codes that `razh evaluate` reads."""

import hashlib
import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock

from razh.cli.main import main
from razh.datamodules.images import evaluation_view, read_image
from razh.index import encoding, sources, work
from razh.index.options import Encoding
from razh.retrieval.packing import unpack
from razh.run import checkpoint
from razh.support.files import digest_of
from tests import fake
from tests.commands.conftest import BITS, SIZE
from tests.processes import count_slowly, forked, razh


def encode(folder, checkpoint, out, *more):
    return main(["encode", str(folder), "--checkpoint", str(checkpoint), "--out", str(out), "--workers", "0", *more])


def test_codes_are_those_of_the_method_image_by_image(trained, photos, tmp_path):
    path, method = trained
    assert encode(photos, path, tmp_path / "c.npz", "--batch-size", "3") == 0
    with np.load(tmp_path / "c.npz", allow_pickle=False) as file:
        codes = {name: file[name] for name in file.files}
    assert int(codes["bits"]) == BITS
    assert str(codes["checkpoint"]) == hashlib.sha256(path.read_bytes()).hexdigest()
    assert codes["codes"].shape == (7, 2)
    paths = codes["paths"].tolist()
    assert sorted(paths) == paths
    for name, code in zip(paths, unpack(codes["codes"], BITS), strict=True):
        image = evaluation_view(read_image(photos / name), SIZE)
        with torch.no_grad():
            assert np.array_equal(method(image[None])[0].numpy() >= 0, code)
    assert [str(codes["class_names"][label]) for label in codes["labels"]] == [p.split("/")[0] for p in paths]


def test_broken_images_are_left_out_and_the_status_says_so(trained, photos, tmp_path, capsys):
    (photos / "cats" / "cut.jpg").write_bytes(b"\xff\xd8\xff\xe0 not much of an image")
    (photos / "cats" / "words.png").write_text("no image at all")
    (photos / "cats" / "notes.txt").write_text("not looked at")
    assert encode(photos, trained[0], tmp_path / "c.npz") == 3
    told = capsys.readouterr()
    assert "cut.jpg" in told.err
    assert "words.png" in told.err
    assert "left out, each by its name above: 2 images" in told.out
    assert "1 file of other kinds passed over: .txt 1" in told.err
    with np.load(tmp_path / "c.npz") as file:
        assert len(file["codes"]) == len(file["paths"]) == 7


def test_what_cannot_be_an_image_is_left_out_by_name(trained, photos, tmp_path, capsys):
    (photos / "cats" / "gone.jpg").symlink_to("nowhere")
    os.mkfifo(photos / "cats" / "pipe.jpg")
    (photos / "cats" / os.fsdecode(b"caf\xe9.png")).touch()
    (photos / "cats" / "line\nbreak.png").touch()
    fake.write_image(photos / "cats" / "large.png", seed=0, width=300, height=100)
    assert encode(photos, trained[0], tmp_path / "c.npz", "--max-megapixels", "0.02") == 3
    told = capsys.readouterr()
    assert "left out, each by its name above: 5 images" in told.out
    lines = [line for line in told.err.splitlines() if "left out: " in line]
    for name, line in zip([r"caf\udce9", "gone", "large", r"line\nbreak", "pipe"], lines, strict=True):
        assert name in line
    with np.load(tmp_path / "c.npz") as file:
        assert len(file["paths"]) == 7


def test_one_broken_image_is_counted_in_the_singular(trained, photos, tmp_path, capsys):
    (photos / "cats" / "cut.png").write_bytes(b"\x89PNG")
    assert encode(photos, trained[0], tmp_path / "c.npz") == 3
    assert "left out, each by its name above: 1 image" in capsys.readouterr().out


def test_single_files_have_no_labels_and_evaluate_says_what_to_do(trained, photos, tmp_path, capsys):
    files = [str(p) for p in sorted(photos.rglob("*.png"))[:2]]
    out = tmp_path / "two.npz"
    assert main(["encode", *files, "--checkpoint", str(trained[0]), "--out", str(out), "--workers", "0"]) == 0
    with np.load(out) as file:
        assert "labels" not in file.files
    assert main(["evaluate", str(out)]) == 1
    assert "no labels" in capsys.readouterr().err


def test_paths_of_several_folders_and_files_tell_images_apart(photos, monkeypatch):
    whole = sources.find_images([photos])
    expected = dict(zip(whole.names, whole.files, strict=True))
    cats, dogs = photos / "cats", photos / "dogs"
    for given in ([cats, dogs], whole.files, [cats, *whole.files, dogs]):
        found = sources.find_images(given)
        assert dict(zip(found.names, found.files, strict=True)) == expected
        assert len(found.names) == len(expected)
    monkeypatch.chdir(cats)
    near = sources.find_images([Path("../dogs"), Path()])
    assert sorted(near.names) == sorted(expected)
    assert all(file.is_file() for file in near.files)
    assert sources.find_images([whole.files[-1]]).names == [whole.files[-1].name]


def test_classes_are_sub_folders_of_what_is_given_or_the_folders_themselves(photos, tmp_path):
    two = [tmp_path / "two" / part for part in ("train", "val")]
    for folder in two:
        shutil.copytree(photos, folder)
    found = sources.find_images(two)
    assert {name.split("/")[0] for name in found.names} == {"train", "val"}
    assert [name.split("/")[1] for name in found.names] == found.classes
    assert set(found.classes) == {"cats", "dogs"}
    assert set(sources.find_images([photos / "cats", photos / "dogs" / "big"]).classes) == {"cats", "big"}
    assert set(sources.find_images([photos / "cats"]).classes) == {""}


def test_encoded_classes_can_be_evaluated(trained, photos, tmp_path, capsys):
    out = tmp_path / "c.npz"
    assert encode(photos, trained[0], out) == 0
    capsys.readouterr()
    assert main(["evaluate", str(out)]) == 0
    assert "each is left out of its own" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nowhere", "--checkpoint", "{ckpt}"], "no image or folder at nowhere"),
        (["{empty}", "--checkpoint", "{ckpt}"], "no images in"),
        (["{photos}", "--checkpoint", "nowhere.ckpt"], "no checkpoint at nowhere.ckpt"),
        (["{photos}", "--checkpoint", "{ckpt}", "--device", "gpu"], "--device=gpu cannot be used"),
        (["{photos}", "--checkpoint", "{ckpt}", "--out", "{empty}"], "empty is a folder; give a file, such as"),
        (["{photos}", "--checkpoint", "{ckpt}", "--batch-size", "0"], "--batch-size=0 must be a whole number from 1"),
        (["{photos}", "--checkpoint", "{ckpt}", "--workers", "-1"], "--workers=-1 must be a whole number from 0"),
        (["{photos}", "--checkpoint", "{ckpt}", "--max-megapixels", "nan"], "--max-megapixels=nan must be above 0"),
        (["{photos}", "--checkpoint", "{ckpt}", "--max-megapixels", "0"], "--max-megapixels=0"),
    ],
)
def test_bad_input_is_one_line(arguments, told, trained, photos, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    names = {"ckpt": trained[0], "photos": photos, "empty": tmp_path / "empty"}
    out = tmp_path / "never.npz"
    assert main(["encode", "--out", str(out), "--workers", "0", *(a.format(**names) for a in arguments)]) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert told in errors[0]
    assert not out.exists()


def test_nothing_readable_writes_nothing(trained, tmp_path, capsys):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.jpg").write_bytes(b"x")
    assert encode(tmp_path / "bad", trained[0], tmp_path / "c.npz") == 1
    assert "no file is a readable image; the first: image file" in capsys.readouterr().err
    assert not (tmp_path / "c.npz").exists()


class _Stops:
    """A method that stops, as Ctrl-C does, at its third batch."""

    def __init__(self, method):
        self.method, self.batches = method, 0
        self.backbone, self.bits, self.device = method.backbone, method.bits, method.device

    def finite_logits(self, batch):
        self.batches += 1
        if self.batches == 3:
            raise KeyboardInterrupt
        return self.method.finite_logits(batch)


def _counted(monkeypatch, wrap):
    """Have `razh encode` use what `wrap` makes of the method; return the list of methods that it used."""
    used = []
    load = checkpoint.load

    def loaded(path, device="cpu"):
        found = load(path, device)
        used.append(wrap(found.method))
        return checkpoint.Loaded(used[-1], found.info)

    monkeypatch.setattr(checkpoint, "load", loaded)
    return used


class _Counts(_Stops):
    def finite_logits(self, batch):
        self.batches += len(batch["image"])
        return self.method.finite_logits(batch)


def test_an_interrupted_command_goes_on_and_makes_the_same_file(trained, photos, tmp_path, monkeypatch, capsys):
    (photos / "cats" / "0.jpg").write_text("no image at all")  # 8 files, the first one broken
    assert encode(photos, trained[0], tmp_path / "whole.npz", "--batch-size", "2") == 3
    with monkeypatch.context() as patch:
        _counted(patch, _Stops)
        assert encode(photos, trained[0], tmp_path / "c.npz", "--batch-size", "2") == 130
    assert sorted(path.name for path in tmp_path.glob("*c.npz*")) == [".c.npz.unfinished"]
    capsys.readouterr()
    used = _counted(monkeypatch, _Counts)
    assert encode(photos, trained[0], tmp_path / "c.npz", "--batch-size", "2") == 3
    told = capsys.readouterr().err
    assert "going on behind the first 4 of 8 images" in told
    assert told.count("0.jpg") == 1
    assert used[0].batches == 4
    assert sorted(path.name for path in tmp_path.glob("*c.npz*")) == ["c.npz"]
    with np.load(tmp_path / "whole.npz") as whole, np.load(tmp_path / "c.npz") as resumed:
        assert whole.files == resumed.files
        assert all(np.array_equal(whole[name], resumed[name]) for name in whole.files)


@pytest.mark.parametrize("change", ["an image", "a new image", "the rest is damaged"])
def test_what_is_done_counts_for_the_same_work_only(change, trained, photos, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        _counted(patch, _Stops)
        assert encode(photos, trained[0], tmp_path / "c.npz", "--batch-size", "2") == 130
    if change == "an image":
        fake.write_image(photos / "cats" / "1.png", seed=99, width=50)
    elif change == "a new image":
        fake.write_image(photos / "cats" / "8.png", seed=8)
    else:
        (tmp_path / ".c.npz.unfinished").write_bytes(b"PK\x03\x04 cut short")
    used = _counted(monkeypatch, _Counts)
    assert encode(photos, trained[0], tmp_path / "c.npz") == 0
    with np.load(tmp_path / "c.npz") as file:
        assert used[0].batches == len(file["codes"]) == (8 if change == "a new image" else 7)


def _slow(seconds, batches, arguments):
    """Be a command with workers that is slow, saves its work every so many seconds, and counts its batches."""
    os.setsid()
    work.SAVE_SECONDS = seconds
    count_slowly(batches, 0.2)
    razh(*arguments)


@pytest.mark.parametrize(
    ("seconds", "stop", "status"), [(0, signal.SIGKILL, -signal.SIGKILL), (1e9, signal.SIGTERM, 128 + signal.SIGTERM)]
)
def test_a_process_that_is_ended_loses_little(seconds, stop, status, trained, photos, tmp_path):
    for number in range(7, 60):
        fake.write_image(photos / "cats" / f"{number}.png", seed=number)
    out, batches = tmp_path / "c.npz", tmp_path / "batches"
    options = ["--checkpoint", str(trained[0]), "--out", str(out), "--workers=2", "--batch-size=2"]
    process = forked(_slow, seconds, batches, ["encode", str(photos), *options])
    process.start()
    until = time.monotonic() + 120
    while not (batches.exists() and int(batches.read_text() or 0) > 3) and process.is_alive():
        assert time.monotonic() < until
        time.sleep(0.05)
    os.killpg(process.pid, stop)  # the workers, too
    process.join(60)
    assert process.exitcode == status
    files = sources.find_images([photos])
    found = np.zeros((60, 2), dtype=np.uint8)
    key = work.work_key(digest_of(trained[0]), files, Encoding())
    done, broken = work.Unfinished(out, key).read(found)
    assert 4 <= done < 60
    assert not broken
    assert encode(photos, trained[0], out) == 0
    with np.load(out) as file:
        assert np.array_equal(file["codes"][:done], found[:done])
        assert len(file["codes"]) == 60


def test_two_processes_do_not_write_one_file(trained, photos, tmp_path, capsys):
    with FileLock(tmp_path / ".c.npz.razh-lock"):
        assert encode(photos, trained[0], tmp_path / "c.npz") == 1
    assert "another process is writing" in capsys.readouterr().err
    assert not Path(tmp_path / "c.npz").exists()


def test_what_a_killed_process_was_writing_is_cleared_away(trained, photos, tmp_path):
    dead = 1 << 23  # above the largest number of a process
    for left in (f".c.npz.{dead}.razh-part", f".c.npz.unfinished.{dead}.razh-part"):
        (tmp_path / left).write_bytes(b"PK")
    others = {f".other.npz.{dead}.razh-part", ".c.npz.7.part"}  # somebody else's
    for other in others:
        (tmp_path / other).write_bytes(b"PK")
    assert encode(photos, trained[0], tmp_path / "c.npz") == 0
    assert {path.name for path in tmp_path.glob(".*part")} == others


def test_precision_changes_few_bits_and_is_refused_where_the_processor_lacks_it(trained, photos, monkeypatch):
    method = checkpoint.load(trained[0]).method
    images = torch.stack([evaluation_view(read_image(path), SIZE) for path in sorted(photos.rglob("*.png"))])
    with torch.no_grad():
        plain = trained[1](images) >= 0
    np.testing.assert_array_equal(unpack(encoding.encoder(method)(images).codes, BITS), plain)
    monkeypatch.setattr(encoding, "_has_bf16", lambda kind: kind == "cpu")
    assert (unpack(encoding.encoder(method, "bf16")(images).codes, BITS) != plain.numpy()).mean() < 0.05
    monkeypatch.setattr(encoding, "_has_bf16", lambda kind: False)
    with pytest.raises(ValueError, match="--precision=bf16 is not what this processor has"):
        encoding.encoder(method, "bf16")
