import numpy as np
import pytest
import torch

from razh.datamodules.cifar10 import ATTRIBUTES, CLASSES, CIFAR10DataModule
from tests.fake import CIFAR10_CLASSES, write_cifar10, write_cifar10_tree


def cifar10(root, **arguments):
    return CIFAR10DataModule(str(root), **{"image_size": 32, "num_workers": 0, "protocol": "unseen-20%", **arguments})


def test_binary_version(tmp_path):
    folder = write_cifar10(tmp_path)
    data = cifar10(tmp_path)
    assert data.class_names == CIFAR10_CLASSES
    assert len(data.labels) == 6 * 20
    for index in (0, 19, 20, 119):
        content = (
            folder / ([f"data_batch_{n}.bin" for n in range(1, 6)] + ["test_batch.bin"])[index // 20]
        ).read_bytes()
        record = np.frombuffer(content, dtype=np.uint8)[3073 * (index % 20) : 3073 * (index % 20 + 1)]
        assert data.labels[index] == record[0]
        assert data.load_image(index).flatten().tolist() == record[1:].tolist()
        assert torch.equal(data.evaluation_image(index), data.load_image(index))
    assert cifar10(folder).fingerprint == data.fingerprint
    batch = next(iter(data.train_dataloader()))
    assert batch["image"].shape[1:] == (3, 32, 32)


def test_tree(tmp_path):
    data = cifar10(write_cifar10_tree(tmp_path))
    assert data.class_names == CIFAR10_CLASSES
    assert data.labels.tolist() == np.tile(np.repeat(np.arange(10), 2), 2).tolist()  # train first
    assert data.load_image(3).shape == (3, 32, 32)
    assert len(data.fingerprint) == 64


def test_default_attributes_tell_the_classes_apart(tmp_path):
    data = cifar10(write_cifar10_tree(tmp_path))
    assert data.class_attributes.shape == (10, len(ATTRIBUTES))
    assert len(data.class_attributes.unique(dim=0)) == 10
    assert len(data.class_attributes.unique(dim=1).T) == len(ATTRIBUTES)
    assert {name for having in ATTRIBUTES.values() for name in having.split()} == set(CLASSES)


def test_attribute_files(tmp_path):
    root = write_cifar10_tree(tmp_path)
    (root / "a.csv").write_text("class,soft\n" + "\n".join(f"{name},{k / 10}" for k, name in enumerate(CLASSES[::-1])))
    assert cifar10(root, class_attributes_file=str(root / "a.csv")).class_attributes[0, 0] == pytest.approx(0.9)
    vectors = np.random.default_rng(0).normal(size=(10, 6)).astype(np.float32)
    np.savez(root / "w.npz", words=vectors, other=vectors[:3])
    data = cifar10(root, class_attributes_file=f"{root / 'w.npz'}:words")
    assert data.class_attributes.amin(0).tolist() == [0] * 6
    assert data.class_attributes.amax(0).tolist() == [1] * 6
    assert data.class_attributes.argmax(0).tolist() == vectors.argmax(0).tolist()
    with pytest.raises(ValueError, match=r"shape \(3, 6\), but must hold 10 rows"):
        _ = cifar10(root, class_attributes_file=f"{root / 'w.npz'}:other").annotations
    (root / "a.csv").write_text("class,soft\nbird,1\n")
    with pytest.raises(ValueError, match="no row for 'airplane'"):
        _ = cifar10(root, class_attributes_file=str(root / "a.csv")).annotations


def test_protocol(tmp_path):
    data = cifar10(write_cifar10(tmp_path, images=101), protocol="cifar-8-2")
    counts = data.split.counts()
    assert (counts["seen_classes"], counts["unseen_classes"], counts["query"]) == (8, 2, 200)
    assert counts["train"] + counts["validation_query"] + counts["validation_database"] == 4000
    assert counts["database"] == 6060 - 4200
    assert CIFAR10DataModule("x").protocol == "cifar-8-2"
    with pytest.raises(ValueError, match="has cifar-8-2, unseen-K%"):
        _ = cifar10(tmp_path, protocol="ps").split


def test_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no CIFAR-10 images at .*no pickles"):
        _ = cifar10(tmp_path).annotations
    folder = write_cifar10(tmp_path)
    file = folder / "data_batch_3.bin"
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(OSError, match=r"data_batch_3.bin has 61455 bytes.*cut short"):
        _ = cifar10(tmp_path).annotations
    file.unlink()
    with pytest.raises(FileNotFoundError, match=r"data_batch_3\.bin"):
        _ = cifar10(tmp_path).annotations
