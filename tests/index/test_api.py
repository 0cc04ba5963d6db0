"""`razh.load` and `razh.Archive`: what Python programs use."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import razh
from razh.collection.judge import Verdict
from razh.datamodules.images import read_image
from razh.index.archive import ArchiveWriter, Snapshot
from razh.index.gallery import find
from razh.retrieval import asymmetric
from razh.run import checkpoint
from tests import fake
from tests.commands.conftest import photos, trained
from tests.index.test_archive import entries

__all__ = ["photos", "trained"]


@pytest.fixture(scope="module")
def model(trained):
    return razh.load(trained[0], device="cpu")


@pytest.fixture
def archive(model, photos, tmp_path):
    return razh.Archive.create(tmp_path / "archive", photos, model)


def test_every_kind_of_image_has_the_same_code(model, photos):
    paths = sorted(photos.rglob("*.png"))
    wanted = model.encode(paths)
    assert wanted.shape == (7, 2)
    assert wanted.dtype == np.uint8
    pictures = [Image.open(path) for path in paths]
    tensors = [read_image(path) for path in paths]
    arrays = [np.array(picture) for picture in pictures]
    mixed = [str(paths[0]), pictures[1], arrays[2], *tensors[3:]]
    for images in (photos, pictures, arrays, tensors, mixed):
        np.testing.assert_array_equal(np.sort(model.encode(images), axis=0), np.sort(wanted, axis=0))
    np.testing.assert_array_equal(model.encode(mixed), wanted)
    np.testing.assert_array_equal(model.encode(paths[3], batch_size=1), wanted[3:4])
    for several in (np.stack(arrays[:2]), torch.stack(tensors[:2])):
        np.testing.assert_array_equal(model.encode(several), wanted[:2])
    assert model.encode([]).shape == (0, 2)


def test_pictures_come_as_viewers_show_them(model):
    clear = Image.new("RGBA", (40, 40), (255, 0, 0, 0))
    grey = np.full((40, 40), 255, np.uint8)
    np.testing.assert_array_equal(model.encode(clear), model.encode(grey))


@pytest.mark.parametrize(
    ("image", "told"),
    [
        (np.zeros((4, 4, 3)), "dtype float64; pass uint8"),
        (np.zeros((3, 4, 4), np.uint8), "shape"),
        (torch.zeros(4, 4, 3, dtype=torch.uint8), "tensor has shape"),
        (Image.new("I;16", (4, 4)), "mode I;16; convert it to RGB"),
        (7, "int is no image"),
    ],
)
def test_what_is_no_image_is_one_line(image, told, model):
    with pytest.raises(ValueError, match=told):
        model.encode([image])
    with pytest.raises(FileNotFoundError, match="no image file nowhere"):
        model.encode("nowhere.png")


def test_an_archive_is_searched_and_changed(archive, photos):
    assert (len(archive), archive.bits) == (7, 12)
    name = "photos/cats/3.png"
    hits = archive.search(name, k=3)
    assert len(hits) == 3
    assert name not in [hit.path for hit in hits]
    assert Path(hits[0].file).is_file()
    assert archive.search(photos / "cats" / "3.png", k=3) == hits
    with Image.open(photos / "cats" / "3.png") as picture:
        first = archive.search(picture, k=7)
        assert archive.search([picture, name], k=7)[0] == first
    assert first[0].distance == 0
    assert {hit.path.split("/")[1] for hit in archive.search(name, where={"class": "dogs"})} == {"dogs"}
    assert archive.search(codes=archive.model.encode(photos / "cats" / "3.png"), k=7) == [first]
    assert archive.search(codes=archive.model.encode(photos), within=0, k=1)[0][0].distance == 0
    fake.write_image(photos / "birds" / "8.png", seed=8)
    report = archive.add(photos)
    assert (report.added, report.unchanged, len(archive)) == (1, 7, 8)
    assert "photos/birds/8.png" in [hit.path for hit in archive.search(name, k=9)]
    assert archive.remove(["photos/birds/8.png", "nowhere"]) == 1
    assert len(archive.search(name, k=9)) == 6
    with pytest.raises(ValueError, match="give either query, codes, attributes or text"):
        archive.search()


@pytest.fixture
def kept(trained, tmp_path):
    """A copy of a checkpoint with what its run kept of the training classes beside it, and these logits."""
    path = Path(shutil.copy(trained[0], tmp_path / "best.ckpt"))
    logits = torch.randn(3, 12, generator=torch.Generator().manual_seed(0))
    checkpoint.keep_class_logits(path, checkpoint.load(path).method.train_classes, logits)
    return path, logits.numpy()


def test_what_is_described_has_a_code_by_what_the_run_kept_where_no_image_of_a_class_is(kept, photos, tmp_path):
    path, logits = kept
    model = razh.load(path, device="cpu")
    np.testing.assert_array_equal(model.network.classes().logits, logits)
    code = model.describe({"y": 1, "z": 0.2})
    assert code.shape == (1, 2)
    assert len({model.describe({name: 1}).tobytes() for name in "xyz"}) > 1
    archive = razh.Archive.create(tmp_path / "archive", photos, model)
    np.testing.assert_array_equal(archive.describe({"y": 1, "z": 0.2}), code)
    assert len(archive.search(attributes={"y": 1}, k=3)) == 3
    for number, name in enumerate("abc"):  # images that are there say more of an archive
        fake.write_image(photos / name / "1.png", seed=number)
    archive.add(photos)
    assert not np.array_equal(archive._known().logits, logits)


def test_what_was_kept_of_another_checkpoint_or_is_damaged_is_not_used(kept, caplog):
    path, _ = kept
    kept_file, other = path.with_name(checkpoint.CLASSES), path.with_name("last.ckpt")
    content = torch.load(path, weights_only=True)
    torch.save(content | {"epoch": 99}, other)
    assert checkpoint.load(other).class_logits is None
    kept_file.write_bytes(kept_file.read_bytes()[:-30])
    assert checkpoint.load(path).class_logits is None
    assert "classes.npz is damaged and is not used" in caplog.text
    with pytest.raises(ValueError, match="a description needs 3 classes"):
        razh.load(path, device="cpu").describe({"y": 1})


def test_a_model_is_adapted_to_a_folder(trained, tmp_path, monkeypatch):
    monkeypatch.setenv("RAZH_CACHE", str(tmp_path / "cache"))
    for number in range(50):
        fake.write_image(tmp_path / "collection" / f"{number}.png", seed=number % 4 * 1000 + number)
    path = tmp_path / "apart" / "best.ckpt"  # no run, and so no training images, around it
    path.parent.mkdir()
    shutil.copy(trained[0], path)
    model = razh.load(path, device="cpu")
    for better in (True, False):
        monkeypatch.setattr("razh.index.adapting.trial", lambda *_, better=better, **__: Verdict(0.5, 0.6, better))
        found = model.adapt(tmp_path / "collection", tmp_path / f"{better}.ckpt")
        assert (found is model) == (not better)
        assert (tmp_path / f"{better}.ckpt").exists() == better
        if better:
            assert found.network.info["collection"]["images"] == 50
            with pytest.raises(ValueError, match="was adapted already, to 50 images"):
                found.adapt(tmp_path / "collection", tmp_path / "again.ckpt")


def test_what_is_described_has_a_code_by_the_classes_of_the_archive(model, photos, tmp_path):
    with pytest.raises(
        ValueError, match=r"a description needs 3 classes .* there are 0; name the checkpoint where its run lies"
    ):
        razh.Archive.create(tmp_path / "archive", photos, model).describe({"x": 1})
    for number, name in enumerate("abc"):  # its training classes
        fake.write_image(tmp_path / "classes" / name / "1.png", seed=number)
    archive = razh.Archive.create(tmp_path / "classes-archive", tmp_path / "classes", model)
    code = archive.describe({"y": 1, "z": 0.2})
    assert code.shape == (1, 2)
    assert len(archive.search(codes=code)[0]) == 3


@pytest.fixture(scope="module")
def classes(model, tmp_path_factory):
    """An archive of the training classes of the checkpoint, which keeps features."""
    folder = tmp_path_factory.mktemp("classes")
    for number in range(9):
        fake.write_image(folder / "photos" / "abc"[number % 3] / f"{number}.png", seed=number)
    return razh.Archive.create(folder / "archive", folder / "photos", model, features=True)


def test_queries_are_ranked_by_their_logits(classes, model):
    name = "photos/a/3.png"
    seen = model.look(classes._now.file_of(name), features=True)
    rows = classes._now.rows_of([name])[name]
    np.testing.assert_array_equal(seen.codes[0], classes._now.codes[rows])
    np.testing.assert_allclose(
        seen.features[0], classes._now.features[rows], atol=1e-3
    )  # batches differ in last digits
    hits = classes.search(name, k=9, ranking="asymmetric")
    wanted = asymmetric.distances(seen.logits, classes._now.codes, model.bits)[0] / asymmetric.ONE
    assert [hit.distance for hit in hits] == [round(wanted[hit.row], 2) for hit in hits]
    assert [hit.distance for hit in hits] == sorted(hit.distance for hit in hits)
    assert name not in [hit.path for hit in hits]
    with Image.open(classes._now.file_of(name)) as picture:
        assert [hit for hit in classes.search(picture, k=9, ranking="asymmetric") if hit.path != name] == hits


def test_hits_are_put_in_the_order_of_their_features(classes, model, archive):
    kept = classes._now.features
    for query in ("photos/b/4.png", Path(classes._now.file_of("photos/b/4.png"))):
        hits = classes.search(query, k=5, rerank=True)
        own = kept[classes._now.rows_of(["photos/b/4.png"])["photos/b/4.png"]].astype(np.float32)
        likeness = kept[[hit.row for hit in hits]].astype(np.float32) @ own
        assert (np.diff(likeness) <= 0).all()
        assert len(hits) == 5
    assert len(classes.search(attributes={"y": 1}, k=4, rerank=True, ranking="asymmetric")) == 4
    with pytest.raises(ValueError, match="keeps no features; make an archive with `razh index --features`"):
        archive.search("photos/cats/3.png", rerank=True)
    with pytest.raises(ValueError, match="codes have neither logits nor features"):
        classes.search(codes=seen_codes(classes), rerank=True)


def seen_codes(archive):
    return np.array(archive._now.codes[:1])


def test_words_are_asked_for(classes):
    text, unknown = classes.understand("y, no z, and nonsense")
    assert (text, unknown) == ("y, no z", ["nonsense"])
    assert classes.search(text="y", k=3) == classes.search(attributes={"y": 1}, k=3)
    assert len(classes.search(text="a y", where={"class": "b"})) == 3


def test_it_shows_what_others_add_when_it_is_refreshed(archive):
    assert not archive.refresh()
    with ArchiveWriter(archive._now.folder) as writer:
        writer.append(np.zeros((3, 2), np.uint8), entries([f"photos/x/{n}" for n in range(3)]))
        writer.commit()
        assert len(archive.search("photos/cats/3.png", k=99)) == 6
        assert archive.refresh()
        assert len(archive.search("photos/cats/3.png", k=99)) == 9
        writer.remove(range(5))
        writer.commit()
        writer.pack()
    assert archive.refresh()
    now = Snapshot(archive._now.folder)
    (plain,) = find(now.gallery(), [""], now.codes[:1], [-1], 99, None)
    (found,) = archive.search(codes=np.array(now.codes[:1]), k=99)
    assert [(hit.distance, hit.path) for hit in found] == plain.found


def test_a_model_of_another_checkpoint_is_refused(archive, trained, tmp_path):
    content = torch.load(trained[0], weights_only=True)
    content["razh"]["dataset"] = "another"
    torch.save(content, tmp_path / "other.ckpt")
    other = razh.load(tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match="made with another checkpoint"):
        razh.Archive.open(archive._now.folder, model=other)


def test_the_import_is_light_and_names_what_it_has():
    code = """
import sys, razh
razh.__version__
assert not {'torch', 'numpy'} & set(sys.modules)
razh.Archive
assert 'torch' not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = razh.nothing
