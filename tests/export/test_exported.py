"""An ONNX file encodes, indexes, searches and serves where torch cannot be imported, and says what it cannot do."""

import shutil

import numpy as np
import pytest

import razh
from razh.cli.main import main
from razh.datamodules.pictures import picture_view, read_picture
from razh.index.exported import ExportedNetwork
from razh.index.options import Encoding
from razh.retrieval.packing import pack
from tests import fake
from tests.commands.conftest import BITS, SIZE

RUN = "from razh.cli.main import main\nraise SystemExit(main({}))"


@pytest.fixture
def network(onnx_folder):
    return ExportedNetwork(onnx_folder / "model.onnx", "cpu")


def encode(folder, checkpoint, out, *more):
    return main(["encode", str(folder), "--checkpoint", str(checkpoint), "--out", str(out), "--workers", "0", *more])


def same(one, two):
    with np.load(one) as first, np.load(two) as second:
        names = [name for name in first.files if name != "checkpoint"]
        return first.files == second.files and all(np.array_equal(first[name], second[name]) for name in names)


def test_the_codes_are_those_of_the_checkpoint_for_any_number_of_images(onnx_folder, reading, network):
    method = razh.load(reading, device="cpu").method
    random = np.random.default_rng(0)
    import torch

    for count in (1, 2, 17):
        views = random.integers(0, 256, (count, 3, SIZE, SIZE), dtype=np.uint8)
        with torch.no_grad():
            wanted = method(torch.from_numpy(views)).numpy()
        found = network.look(views)
        np.testing.assert_allclose(found.logits, wanted, atol=1e-4 * np.abs(wanted).max())
        np.testing.assert_array_equal(found.codes, pack(found.logits >= 0))


@pytest.mark.parametrize("which", ["folder", "file", "file alone"])
def test_encoding_needs_no_torch(which, onnx_folder, reading, photos, tmp_path, without_torch):
    (photos / "cats" / "cut.jpg").write_bytes(b"\xff\xd8\xff\xe0 not much of an image")
    assert encode(photos, reading, tmp_path / "torch.npz") == 3
    given = onnx_folder if which == "folder" else onnx_folder / "model.onnx"
    if which == "file alone":
        given = shutil.copy(given, tmp_path / "other.onnx")
    words = ["encode", str(photos), f"--checkpoint={given}", f"--out={tmp_path / 'onnx.npz'}"]
    done = without_torch(RUN.format(words))
    assert done.returncode == 3, done.stderr
    assert "cut.jpg" in done.stderr
    assert "left out, each by its name above: 1 image" in done.stdout
    assert same(tmp_path / "torch.npz", tmp_path / "onnx.npz")


def test_an_archive_is_made_and_searched_without_torch(onnx_folder, photos, tmp_path, without_torch):
    fake.write_image(tmp_path / "new.png", seed=3)
    archive, out = tmp_path / "archive", tmp_path / "hits.csv"
    code = f"""
from razh.cli.main import main
assert main({["index", str(photos), f"--checkpoint={onnx_folder}", f"--out={archive}"]}) == 0
assert main({["search", str(archive), str(tmp_path / "new.png"), "--top=3", f"--out={out}"]}) == 0
import razh
assert len(razh.Archive.open({str(archive)!r}).search({str(tmp_path / "new.png")!r}, k=2)) == 2
"""
    done = without_torch(code)
    assert done.returncode == 0, done.stderr
    lines = out.read_text().splitlines()
    assert len(lines) == 4
    assert "photos/cats/3.png" in lines[1]  # the same picture


def test_a_description_needs_no_torch(onnx_folder, tmp_path, without_torch):
    for number, name in enumerate("abc"):
        fake.write_image(tmp_path / "photos" / name / "1.png", seed=number)
    code = f"""
from razh.cli.main import main
assert main({["index", str(tmp_path / "photos"), f"--checkpoint={onnx_folder}", f"--out={tmp_path / 'archive'}"]}) == 0
raise SystemExit(main({["search", str(tmp_path / "archive"), "--describe", "head colour: red"]}))
"""
    done = without_torch(code)
    assert done.returncode == 0, done.stderr
    assert "described: head colour: red:1" in done.stdout


def test_a_served_archive_needs_no_torch(onnx_folder, photos, tmp_path, without_torch):
    pytest.importorskip("fastapi", reason='needs pip install ".[serve]"')
    main(["index", str(photos), "--checkpoint", str(onnx_folder), "--out", str(tmp_path / "archive"), "--workers=0"])
    image = next(photos.rglob("*.png"))
    code = f"""
from pathlib import Path
import razh
from razh.serve.app import make_app
from razh.serve.decoding import _decoded_by_pillow
from razh.serve.searching import Searcher
model = razh.load({str(onnx_folder)!r})
searcher = Searcher(Path({str(tmp_path / "archive")!r}), model)
make_app(searcher, None)
facts = searcher.facts()
assert facts["uploads"] and not facts["why"]
key = searcher.upload(_decoded_by_pillow(Path({str(image)!r}), model.network.image_size, 1.0))
hit = searcher.search(searcher.of_upload(key), {{}}, 0, 1).hits[0]
assert hit.distance == 0
try:
    searcher.why_upload(key)
except ValueError as error:
    print(error)
"""
    done = without_torch(code)
    assert done.returncode == 0, done.stderr
    assert "gives codes alone and cannot tell why; name the checkpoint" in done.stdout


def test_a_checkpoint_without_torch_is_one_line(reading, photos, without_torch):
    done = without_torch(RUN.format(["encode", str(photos), f"--checkpoint={reading}"]))
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {reading} needs torch; install it, or name the ONNX file")


def test_threads_and_batches_change_no_code(network, photos):
    (photos / "cats" / "0.jpg").write_text("no image at all")
    files = sorted(path for path in photos.rglob("*") if path.is_file())
    every = list(network.batches(files, Encoding(batch_size=3, workers=2)))
    assert [batch.positions.tolist() for batch in every] == [[0, 1, 2], [3, 4, 5], [6, 7]]
    (broken,) = [at for batch in every for at in batch.broken]
    assert files[broken].name == "0.jpg"
    rest = list(network.batches(files, Encoding(batch_size=3, workers=0), first=5))
    assert rest[0].positions.tolist() == [5, 6, 7]
    np.testing.assert_array_equal(rest[0].codes, np.concatenate([batch.codes for batch in every])[5:])
    image = files[1]
    np.testing.assert_array_equal(
        every[0].codes[1:2], network.look(picture_view(read_picture(image), SIZE)[None]).codes
    )


def test_an_interrupted_encoding_goes_on(onnx_folder, photos, tmp_path, monkeypatch, capsys):
    look, calls = ExportedNetwork.look, []

    def stops(self, *given):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return look(self, *given)

    assert encode(photos, onnx_folder, tmp_path / "whole.npz") == 0
    with monkeypatch.context() as patch:
        patch.setattr(ExportedNetwork, "look", stops)
        assert encode(photos, onnx_folder, tmp_path / "c.npz", "--batch-size=2") == 130
    assert encode(photos, onnx_folder, tmp_path / "c.npz", "--batch-size=2") == 0
    assert "going on behind the first 4 of 7 images" in capsys.readouterr().err
    assert same(tmp_path / "whole.npz", tmp_path / "c.npz")


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--precision=bf16"], "--precision=bf16 is for checkpoints; leave it out"),
        (["--device=tpu"], "--device=tpu cannot be used by this onnxruntime; pass cpu"),
    ],
)
def test_what_an_exported_network_cannot_do_is_one_line(more, told, onnx_folder, photos, tmp_path, capsys):
    assert encode(photos, onnx_folder, tmp_path / "c.npz", *more) == 1
    assert told in capsys.readouterr().err
    assert not (tmp_path / "c.npz").exists()


def test_features_and_modules_are_those_of_checkpoints(onnx_folder, photos, tmp_path, capsys):
    words = ["index", str(photos), "--checkpoint", str(onnx_folder), "--out", str(tmp_path / "a"), "--features"]
    assert main(words) == 1
    assert "gives codes alone; leave features out, or name the checkpoint" in capsys.readouterr().err
    model = razh.load(onnx_folder)
    assert (model.bits, repr(model).endswith(f"RAZH, {BITS} bits)")) == (BITS, True)
    with pytest.raises(ValueError, match="cannot tell why"):
        model.why(next(photos.rglob("*.png")))
    with pytest.raises(ValueError, match="gives codes alone"):
        _ = model.method


def test_damage_is_one_line(onnx_folder, tmp_path):
    folder = shutil.copytree(onnx_folder, tmp_path / "copy")
    (folder / "model.onnx").write_bytes((folder / "model.onnx").read_bytes()[:-100])
    with pytest.raises(ValueError, match="is damaged: its SHA-256"):
        razh.load(folder)
    with pytest.raises(ValueError, match=r"alone\.onnx cannot be read as ONNX"):
        razh.load(shutil.copy(folder / "model.onnx", tmp_path / "alone.onnx"))


def test_another_network_is_refused(tmp_path):
    onnx = pytest.importorskip("onnx", reason='needs pip install ".[export]"')
    pytest.importorskip("onnxruntime", reason='needs pip install ".[export]"')
    value = [onnx.helper.make_tensor_value_info(name, 1, ["n", 3]) for name in ("x", "y")]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Neg", ["x"], ["y"])], "g", value[:1], value[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(ValueError, match=r"other\.onnx is no network that `razh export` wrote"):
        razh.load(tmp_path / "other.onnx")
