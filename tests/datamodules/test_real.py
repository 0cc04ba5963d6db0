"""The data modules on the published annotation files; only CUB's classes 1 to 40 come with their images."""

import gzip
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import savemat

from razh.datamodules import awa2 as awa2_module
from razh.datamodules import base
from razh.datamodules.awa2 import AwA2DataModule
from razh.datamodules.cub import CUBDataModule
from razh.datamodules.files.integrity import Checked
from razh.datamodules.sun import SUNDataModule
from tests.fake import cells

SHARED = Path(__file__).parents[2].parent / "shared" / "data"

pytestmark = [
    pytest.mark.shared,
    pytest.mark.skipif(not SHARED.is_dir(), reason="../shared, with the published annotation files, is absent"),
]

PUBLISHED = {"CUB": (7057, 1764, 2967), "AWA2": (23527, 5882, 7913), "SUN": (10320, 2580, 1440)}


@pytest.fixture(autouse=True)
def _made_up_images_pass(request, monkeypatch):
    """Let made-up trees pass, which have few files, and nothing in them."""
    if "cub40_end_to_end" not in request.node.name:
        monkeypatch.setattr(base, "check_images", lambda folder, paths, _: [Checked(True, path) for path in paths])


def lines(path):
    return (SHARED / path).read_text().split("\n")[:-1]


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def check(data, name, seen, unseen):
    """Class lists and sizes are the published ones; every other list follows from them."""
    names = np.array(data.class_names)
    split = data.split
    assert set(names[list(split.seen_classes)]) == set(lines(f"splits/{name}/trainvalclasses.txt"))
    assert set(names[list(split.unseen_classes)]) == set(lines(f"splits/{name}/testclasses.txt"))
    assert (len(split.seen_classes), len(split.unseen_classes)) == (seen, unseen)
    assert tuple(len(data.annotations.official[k]) for k in ("trainval", "test_seen", "test_unseen")) == PUBLISHED[name]
    assert split.notes == ""
    counts = split.counts()
    assert counts["train"] + counts["validation_query"] + counts["validation_database"] == PUBLISHED[name][0]
    assert counts["query"] + counts["database"] == PUBLISHED[name][1] + PUBLISHED[name][2]
    halves = [
        np.bincount(data.labels[rows], minlength=len(names))
        for rows in (split.query, data.annotations.official["test_unseen"])
    ]
    assert (halves[0] == halves[1] // 2).all()


@pytest.fixture(scope="module")
def cub_root(tmp_path_factory):
    """All 200 classes of CUB: its real labels, parts and attributes, file names made up beyond class 40."""
    folder = tmp_path_factory.mktemp("cub") / "CUB_200_2011"
    folder.mkdir()
    real = SHARED / "cub40" / "CUB_200_2011"
    shutil.copy(real / "classes.txt", folder)
    shutil.copytree(real / "attributes", folder / "attributes", copy_function=shutil.copyfile)
    (folder / "parts").mkdir()
    shutil.copy(real / "parts" / "parts.txt", folder / "parts")
    with gzip.open(SHARED / "cub_full_annotations" / "part_locs.txt.gz") as packed:
        (folder / "parts" / "part_locs.txt").write_bytes(packed.read())
    for name in ("image_class_labels.txt", "bounding_boxes.txt"):
        shutil.copy(SHARED / "cub_full_annotations" / name, folder)
    classes = dict(line.split() for line in lines("cub40/CUB_200_2011/classes.txt"))
    known = dict(line.split() for line in lines("cub40/CUB_200_2011/images.txt"))
    images, first = [], {}
    for line in lines("cub_full_annotations/image_class_labels.txt"):
        number, label = line.split()
        file = known.get(number, f"{classes[label]}/image_{number}.jpg")
        images.append(f"{number} {file}")
        first.setdefault(label, file)
    (folder / "images.txt").write_text("\n".join(images))
    for file in first.values():
        touch(folder / "images" / file)
    return folder


def test_cub(cub_root):
    start = time.perf_counter()
    data = CUBDataModule(str(cub_root), split_file=str(SHARED / "xlsa17_mat" / "CUB_sent_splits.mat"))
    assert data.class_attributes.shape == (200, 312)
    assert data.labels.shape == (11788,)
    assert len(data.split.train) > 0
    assert time.perf_counter() - start < 5  # measured: 0.2 s
    check(data, "CUB", 150, 50)
    assert data.class_names == tuple(lines("splits/CUB/allclasses.txt"))
    assert data.attribute_names[:2] == ("has_bill_shape::curved_(up_or_down)", "has_bill_shape::dagger")
    assert data.class_attributes[0, 1] == pytest.approx(0.029197, abs=1e-5)
    assert data.part_locations().shape == (11788, 15, 3)
    assert data.bounding_boxes()[1].tolist() == [139, 30, 153, 264]
    assert data.attribute_vectors.shape == (312, 64)


@pytest.mark.parametrize("name", ["comae", "last10"])
def test_cub_drawn_protocols(cub_root, name):
    split = CUBDataModule(str(cub_root), protocol=name, validation_class_share=0).split
    assert (len(split.train), len(split.query), len(split.database)) == (4500, 1500, 5788)
    assert split.unseen_classes == tuple(range(150, 200))


def released(paper, name):
    with gzip.open(SHARED / "protocol_lists" / f"{paper}_cub_{name}.txt.gz", "rt") as file:
        return [line.strip() for line in file]


@pytest.mark.parametrize("paper", ["COMAE", "PIXEL"])
def test_legacy_protocol_is_like_the_released_lists(cub_root, paper, caplog):
    data = CUBDataModule(str(cub_root), protocol="comae-legacy", validation_class_share=0)
    split = data.split
    for name, of_paper in (("train", "train"), ("query", "test"), ("database", "database")):
        theirs = np.bincount([int(file[:3]) - 1 for file in released(paper, of_paper)], minlength=200)
        assert np.array_equal(np.bincount(data.labels[getattr(split, name)], minlength=200), theirs)
    theirs = len(set(released(paper, "test")) & set(released(paper, "database")))
    assert theirs in (735, 736)
    assert abs(split.overlap("query", "database") - theirs) < 60
    assert f"{split.overlap('query', 'database')} of 1500 queries are also in the database" in caplog.text


@pytest.fixture
def awa2_root(tmp_path, monkeypatch):
    """AwA2's annotation files, and as many file names in each class as it has; one file of each is there."""
    for file in (SHARED / "awa2").glob("*.txt"):
        shutil.copy(file, tmp_path)
    counts = dict(line.split("\t") for line in lines("awa2/class_image_counts.tsv"))
    files = {name: [f"{name}_{10001 + i}.jpg" for i in range(int(count))] for name, count in counts.items()}
    for name, of_class in files.items():
        touch(tmp_path / "JPEGImages" / name / of_class[0])
    monkeypatch.setattr(awa2_module.Walk, "images", lambda self, folder, below: files[folder.name])
    return tmp_path


def test_awa2(awa2_root):
    shutil.copy(SHARED / "xlsa17_mat" / "AWA2_att_splits.mat", awa2_root / "att_splits.mat")
    data = AwA2DataModule(str(awa2_root))
    assert data.class_attributes.shape == (50, 85)
    assert data.labels.shape == (37322,)
    check(data, "AWA2", 40, 10)
    assert data.class_names == tuple(lines("splits/AWA2/allclasses.txt"))
    assert data.class_attributes[0, 4] == pytest.approx(0.1234)
    assert data.attribute_vectors.shape == (85, 31)
    binary = AwA2DataModule(str(awa2_root), binary_attributes=True)
    assert binary.class_attributes.mean() == pytest.approx(
        np.loadtxt(SHARED / "awa2" / "predicate-matrix-binary.txt").mean()
    )


def test_awa2_drawn_protocols(awa2_root):
    for name in ("comae", "last10"):
        data = AwA2DataModule(str(awa2_root), protocol=name, validation_class_share=0)
        assert (len(data.split.train), len(data.split.query), len(data.split.database)) == (4000, 1000, 32322)
        unseen = {data.class_names[c] for c in data.split.unseen_classes}
        assert unseen == (set(lines("awa2/testclasses.txt")) if name == "comae" else set(data.class_names[-10:]))


@pytest.mark.parametrize("listed", [True, False])
def test_sun(tmp_path, listed):
    for file in (SHARED / "sun").glob("*.txt"):
        shutil.copy(file, tmp_path)
    shutil.copy(SHARED / "xlsa17_mat" / "SUN_att_splits.mat", tmp_path / "att_splits.mat")
    classes = [line.split(" ")[1] for line in lines("sun/classes.txt")]
    files = [f"{name[0]}/{name}/sun_{number:02d}.jpg" for name in classes for number in range(20)]
    for file in files[::20] if listed else files:
        touch(tmp_path / "images" / file)
    if listed:
        savemat(tmp_path / "images.mat", {"images": cells(files)})
    data = SUNDataModule(str(tmp_path))
    assert data.class_attributes.shape == (717, 102)
    assert data.labels.shape == (14340,)
    check(data, "SUN", 645, 72)
    assert data.class_names == tuple(lines("splits/SUN/allclasses.txt"))
    split = SUNDataModule(str(tmp_path), protocol="comae", validation_class_share=0).split
    assert (len(split.seen_classes), len(split.train), len(split.query)) == (574, 5740, 1430)
    words = SUNDataModule(str(tmp_path), attribute_vectors_file=str(SHARED / "text" / "word2vec300_sun_attributes.npy"))
    assert words.attribute_vectors.shape == (102, 300)
    assert (words.attribute_vectors.norm(dim=1) > 0).all()  # row 88 of the file is all zero


def test_cub40_end_to_end(caplog):
    with pytest.raises(ValueError, match="160 of 200 classes have no images"):
        _ = CUBDataModule(str(SHARED / "cub40")).split
    data = CUBDataModule(
        str(SHARED / "cub40"),
        allow_partial=True,
        split_file=str(SHARED / "splits" / "CUB40"),
        attribute_vectors_file=f"{SHARED / 'text' / 'minilm_l6_v2_384d.npz'}:cub_attributes",
        image_size=64,
        batch_size=4,
        num_workers=0,
    )
    official = data.annotations.official
    assert tuple(len(official[k]) for k in ("trainval", "test_seen", "test_unseen")) == (1497, 380, 413)
    assert (len(data.split.seen_classes), len(data.split.unseen_classes)) == (33, 7)
    names = {data.class_names[c] for c in data.split.unseen_classes}
    assert names == set(lines("splits/CUB40/testclasses.txt"))
    assert "160 of 200 classes have no images" in caplog.text
    assert data.attribute_vectors.shape == (312, 384)
    for loader, count in ((data.train_dataloader(), 4), (data.val_dataloader(), 8), (data.test_dataloader(), 8)):
        batch = next(iter(loader))
        assert batch["image"].shape == (count, 3, 64, 64)
        assert batch["image"].float().std() > 10
        assert torch.equal(batch["label"], torch.from_numpy(data.labels)[batch["index"]])


def test_cub40_lists_are_the_cut_of_the_full_ones(cub_root):
    full = CUBDataModule(str(cub_root), split_file=str(SHARED / "xlsa17_mat" / "CUB_sent_splits.mat")).annotations
    cut = CUBDataModule(
        str(SHARED / "cub40"), allow_partial=True, split_file=str(SHARED / "splits" / "CUB40")
    ).annotations
    for name, rows in cut.official.items():
        theirs = full.official[name]
        assert sorted(rows.tolist()) == sorted(theirs[theirs < 2290].tolist())
    assert cut.image_paths == full.image_paths[:2290]
