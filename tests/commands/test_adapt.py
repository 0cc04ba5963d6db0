"""`razh adapt`: a checkpoint whose codes fit a folder of photos, or a word that says why there is none."""

import csv
import json

import numpy as np
import pytest
import torch
import yaml

import razh
from razh.cli.main import main
from razh.collection.clusters import fit_centres
from razh.collection.code import fit_collection
from razh.index import describing
from razh.index.adapting import in_units
from razh.index.describing import asked, known_classes
from razh.retrieval.packing import unpack
from razh.run import checkpoint
from razh.support.files import digest_of
from tests import fake
from tests.commands.conftest import BITS, SIZE

ATTRIBUTES = 3
IMAGES = 50


@pytest.fixture(scope="module")
def run(tmp_path_factory, trained):
    """A run's folder: configuration and checkpoint, which was trained on three of the four classes of a folder."""
    folder = tmp_path_factory.mktemp("run")
    data = folder / "data"
    for number in range(40):
        fake.write_image(data / "abcd"[number % 4] / f"{number}.png", seed=number % 4 * 1000 + number)
    table(data / "attributes.csv", dict(zip("abcd", np.eye(4, ATTRIBUTES).tolist(), strict=True)))
    options = {"root": str(data), "unseen_classes": ["d"], "image_size": SIZE, "validation_class_share": 0.0}
    saved = options | {"image_size": str(SIZE)}  # a file may hold a number as text, as the command line does
    config = {"data": {"class_path": "razh.datamodules.folder.FolderDataModule", "init_args": saved}}
    (folder / "run").mkdir()
    (folder / "run" / "config.yaml").write_text(yaml.safe_dump(config))
    content = checkpoint.read(trained[0])
    from razh.datamodules.folder import FolderDataModule

    content["razh"]["split_fingerprint"] = FolderDataModule(**options).split.fingerprint
    path = folder / "run" / "checkpoints" / "best.ckpt"
    path.parent.mkdir()
    torch.save(content, path)
    return path


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    folder = tmp_path_factory.mktemp("collection")
    for number in range(IMAGES):
        fake.write_image(folder / f"{number}.png", seed=number % 4 * 1000 + 500 + number)
    return folder


@pytest.fixture(autouse=True)
def _one_cache(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("RAZH_CACHE", str(tmp_path_factory.getbasetemp() / "adapt-cache"))


def table(path, rows, names="xyz"):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["class", *names], *([name, *values] for name, values in rows.items())])
    return path


def adapt(*arguments, out):
    return main(["adapt", *map(str, arguments), "--workers=0", f"--out={out}"])


@pytest.fixture
def sure(monkeypatch):
    """Let every trial succeed: an untrained network's descriptions tell little."""
    monkeypatch.setattr("razh.collection.judge.SURE", -1e9)


@pytest.mark.usefixtures("sure")
def test_an_adapted_checkpoint_is_one_that_encodes_and_says_what_it_fits(run, collection, tmp_path, capsys):
    described = table(tmp_path / "new.csv", {"e": [0, 1, 1], "d": [0.5, 0, 0], "a": [1, 0, 0]}, names="zyx")
    out = tmp_path / "adapted.ckpt"
    assert adapt(run, collection, f"--describe={described}", "--clusters=3", out=out) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert f"{IMAGES} images, 3 seen classes" in told
    fitted = checkpoint.read(out)["razh"]["collection"]
    assert fitted["setting"] == "both"
    assert fitted["described"] == ["e", "d"]  # of `a` there are images
    assert (fitted["images"], fitted["seen"], fitted["origin"]) == (IMAGES, 3, digest_of(run))
    assert main(["encode", str(collection), f"--checkpoint={out}", f"--out={tmp_path / 'c.npz'}", "--workers=0"]) == 0
    method = checkpoint.load(out).method
    with np.load(tmp_path / "c.npz") as file:
        codes, paths = unpack(file["codes"], BITS), file["paths"].tolist()
    from razh.datamodules.images import evaluation_view, read_image

    images = torch.stack([evaluation_view(read_image(collection / name), SIZE) for name in paths[:5]])
    with torch.inference_mode():
        logits = method.collection(method.description({"image": images}))
    assert np.array_equal(logits.numpy() >= 0, codes[:5])
    capsys.readouterr()
    assert main(["inspect", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["collection"]["described"] == ["e", "d"]
    assert main(["search", str(tmp_path / "c.npz"), str(collection / "3.png"), f"--checkpoint={out}"]) == 0


@pytest.mark.usefixtures("sure")
@pytest.mark.parametrize("exported", [False, True])
def test_described_classes_that_were_found_are_known_to_searches(exported, run, collection, tmp_path, monkeypatch):
    monkeypatch.setattr("razh.collection.code.fit_centres", all_stay)
    described = table(tmp_path / "new.csv", {"e": [0, 1, 1], "d": [0.5, 0, 0]}, names="zyx")
    out = tmp_path / "adapted.ckpt"
    assert adapt(run, collection, f"--describe={described}", out=out) == 0
    code = checkpoint.load(out).method.collection
    if exported:
        assert main(["export", str(out), "--format=safetensors", f"--out={tmp_path / 'export'}"]) == 0
    model = razh.load(tmp_path / "export" if exported else out, device="cpu")
    facts, known = model.network.classes(), known_classes(model.network)
    assert (facts.names, facts.looked_at) == (["a", "b", "c", "d", "e"], [0, 1, 2, 4, 3])
    assert facts.attributes[[3, 4]].tolist() == [[0, 0, 0.5], [1, 1, 0]]  # by the table, in the checkpoint's order
    np.testing.assert_allclose(known.logits, code.of_directions(code.centres[:5]), atol=1e-5)
    assert known.class_names == facts.names
    alone = known._replace(attributes=known.attributes[:3], logits=known.logits[:3])
    wanted = asked({"x": 1, "y": 1}, known.names)
    found, without = (describing.described(wanted, one).logits[0] for one in (known, alone))
    nearness = [np.corrcoef(logits, known.logits[3])[0, 1] for logits in (found, without)]
    assert nearness[0] > max(nearness[1], 0.5)


@pytest.mark.usefixtures("sure")
def test_described_classes_that_were_not_found_are_not_known(run, collection, tmp_path, monkeypatch):
    def first_lapses(anchors, *arguments):
        centres, stays = all_stay(anchors, *arguments)
        stays[anchors.seen] = False
        return centres, stays

    monkeypatch.setattr("razh.collection.code.fit_centres", first_lapses)
    described = table(tmp_path / "new.csv", {"e": [0, 1, 1], "f": [0.5, 0, 0]})
    assert adapt(run, collection, f"--describe={described}", out=tmp_path / "adapted.ckpt") == 0
    facts = razh.load(tmp_path / "adapted.ckpt", device="cpu").network.classes()
    assert (facts.names, facts.looked_at) == (["a", "b", "c", "d", "f"], [0, 1, 2, 4])
    assert facts.attributes[4].tolist() == [0.5, 0, 0]


def all_stay(*arguments):
    centres, stays = fit_centres(*arguments)
    return centres, torch.ones_like(stays)


@pytest.mark.usefixtures("sure")
def test_the_same_command_makes_the_same_codes_and_computes_no_image_again(run, collection, tmp_path, monkeypatch):
    assert adapt(run, collection, out=tmp_path / "one.ckpt") == 0
    monkeypatch.setattr("razh.index.descriptions.compute", None)
    assert adapt(run, collection, out=tmp_path / "two.ckpt") == 0
    one, two = (checkpoint.load(tmp_path / f"{name}.ckpt").method.collection for name in ("one", "two"))
    assert torch.equal(one.weight, two.weight)
    assert checkpoint.read(tmp_path / "one.ckpt")["razh"]["collection"]["setting"] == "collection"


@pytest.mark.usefixtures("sure")
def test_a_checkpoint_that_does_not_say_how_sharp_it_is_keeps_its_codes(run, collection, tmp_path):
    assert adapt(run, collection, out=tmp_path / "new.ckpt") == 0
    content = checkpoint.read(tmp_path / "new.ckpt")
    assert content["state_dict"].pop("collection.sharpness") == 20
    assert torch.equal(
        content["state_dict"].pop("collection.attributes"), content["state_dict"]["class_attributes"][:3]
    )
    torch.save(content, tmp_path / "old.ckpt")
    facts = razh.load(tmp_path / "old.ckpt", device="cpu").network.classes()
    assert (facts.looked_at, facts.logits.shape, len(facts.attributes)) == ([0, 1, 2], (3, BITS), 4)
    new, old = (checkpoint.load(tmp_path / f"{name}.ckpt").method.collection for name in ("new", "old"))
    z = torch.nn.functional.normalize(torch.randn(4, new.centres.shape[1]), dim=1)
    assert torch.allclose(old.with_resemblance(z)[:, z.shape[1] :], (15 * z @ old.centres.T).softmax(dim=1).sqrt())
    assert not torch.allclose(old.of_directions(z), new.of_directions(z))


@pytest.mark.usefixtures("sure")
def test_training_images_in_the_collection_are_said_and_keep_their_class(
    run, collection, tmp_path, capsys, monkeypatch
):
    given = []

    def fit(rows, *options, labelled, **others):
        given.extend(rows[labelled].tolist())
        return fit_collection(rows, *options, labelled=labelled, **others)

    monkeypatch.setattr("razh.index.adapting.fit_collection", fit)
    assert adapt(run, run.parents[2] / "data", collection, out=tmp_path / "a.ckpt") == 0
    assert "24 images of the collection are training images" in capsys.readouterr().out
    assert len(given) == 24


def test_where_the_trial_brings_nothing_the_codes_stay_and_nothing_is_written(
    run, collection, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("razh.collection.judge.SURE", 1e9)
    assert adapt(run, collection, out=tmp_path / "a.ckpt") == 5
    assert "the codes stay as they are" in capsys.readouterr().out
    assert not (tmp_path / "a.ckpt").exists()


def test_a_network_alone_has_codes_of_the_collection(collection, tmp_path, monkeypatch):
    weights = tmp_path / "weights.pt"
    import timm

    torch.save(timm.create_model("test_efficientnet", num_classes=0).state_dict(), weights)
    recipe = {"model": {"init_args": {"backbone": {"init_args": {"name": "test_efficientnet", "split": 2}}}}}
    recipe["model"]["init_args"]["backbone"]["init_args"]["image_size"] = SIZE
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(recipe))
    monkeypatch.setattr("razh.run.adapted.config_file", lambda kind, name: tmp_path / f"{name}.yaml")
    out = tmp_path / "a.ckpt"
    assert adapt("--backbone=tiny", f"--weights={weights}", collection, "--bits=8", out=out) == 0
    assert checkpoint.read(out)["razh"]["collection"]["setting"] == "unlabelled"
    assert main(["encode", str(collection), f"--checkpoint={out}", f"--out={tmp_path / 'c.npz'}", "--workers=0"]) == 0
    with np.load(tmp_path / "c.npz") as file:
        assert file["codes"].shape == (IMAGES, 1)
    asked = [
        "--dataset=synthetic",
        "--method=itq",
        "--bits=8",
        "--data.images_per_class=8",
        f"--data.image_size={SIZE}",
    ]
    asked += [
        f"--data.image_size={SIZE}",
        "--model.backbone.name=test_efficientnet",
        "--model.backbone.split=2",
        "--model.backbone.freeze=all",
        "--figures.enabled=false",
    ]
    assert main(["test", *asked, f"--ckpt_path={out}", f"--run_dir={tmp_path / 'test'}"]) == 0
    assert json.loads((tmp_path / "test" / "metrics.json").read_text())["collection/adapted"]


@pytest.mark.parametrize(
    ("rows", "names", "said"),
    [
        ({"e": [0, 1, 1]}, "xyw", "'w'; it has 3"),
        ({"e": [0, 1, 1, 1]}, "xyzw", "1 attribute that the checkpoint was not trained with, 'w'"),
        ({"e": [0, 1]}, "xy", "lacks 1 attribute of the checkpoint's 3, 'z'"),
        ({"e": [0, 1, 7]}, "xyz", "values from 0 to 7"),
        ({"a": [0, 1, 1]}, "xyz", "training classes alone"),
    ],
)
def test_descriptions_that_do_not_fit_are_refused_before_anything_is_computed(
    rows, names, said, run, collection, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("razh.index.descriptions.describe", None)
    described = table(tmp_path / "new.csv", rows, names)
    assert adapt(run, collection, f"--describe={described}", out=tmp_path / "a.ckpt") == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert said in error
    assert "--describe" in error


def test_descriptions_are_in_the_units_of_the_table_that_was_trained_with():
    limits = np.array([[0, -10, 0], [80, 10, 1]], np.float32)
    values = np.array([[40, 0, 1], [95, -20, 0.5]], np.float32)
    assert in_units("t", values, limits).tolist() == [[0.5, 0.5, 1], [1, 0, 0.5]]  # what is beyond counts as the limit
    shares = np.array([[0.4, 0, 1]], np.float32)
    with pytest.raises(
        ValueError, match="t has values from 0 to 1, the table that was trained with has -10 to 80; wri"
    ):
        in_units("t", shares, limits)
    with pytest.raises(
        ValueError, match="has values from -20 to 95, the table that was trained with has 0 to 1; write"
    ):
        in_units("t", values, None)
    counts = np.array([[0, 0, 0], [4, 1, 1]], np.float32)  # a fish among dogs
    assert in_units("t", shares, counts).tolist() == [[pytest.approx(0.1), 0, 1]]


def test_a_class_that_is_named_twice_is_refused(run, collection, tmp_path, capsys):
    path = tmp_path / "new.csv"
    path.write_text("class,x,y,z\ne,0,1,1\ne,1,1,1\n")
    assert adapt(run, collection, f"--describe={path}", out=tmp_path / "a.ckpt") == 1
    assert "class 'e' comes twice" in capsys.readouterr().err


@pytest.mark.usefixtures("sure")
def test_a_checkpoint_is_adapted_once(run, collection, tmp_path, capsys):
    out = tmp_path / "a.ckpt"
    assert adapt(run, collection, out=out) == 0
    capsys.readouterr()
    assert adapt(out, collection, out=tmp_path / "b.ckpt") == 1
    assert f"was adapted already, to {IMAGES} images; adapt the checkpoint it was made from" in capsys.readouterr().err


def test_too_few_images_are_refused(run, photos, tmp_path, capsys):
    assert adapt(run, photos, out=tmp_path / "a.ckpt") == 1
    assert "7 different images" in capsys.readouterr().err


def test_descriptions_need_the_training_images(trained, collection, tmp_path, capsys):
    described = table(tmp_path / "new.csv", {"e": [0, 1, 1]})
    assert adapt(trained[0], collection, f"--describe={described}", out=tmp_path / "a.ckpt") == 1
    assert "needs the training images" in capsys.readouterr().err


def test_other_training_images_than_those_of_the_checkpoint_are_refused(run, collection, tmp_path, capsys):
    content = checkpoint.read(run)
    content["razh"]["split_fingerprint"] = "f" * 64
    other = tmp_path / "checkpoints" / "best.ckpt"
    other.parent.mkdir()
    torch.save(content, other)
    (tmp_path / "config.yaml").write_bytes((run.parents[1] / "config.yaml").read_bytes())
    assert adapt(other, collection, out=tmp_path / "a.ckpt") == 1
    assert "are not those that" in capsys.readouterr().err


def test_the_checkpoint_itself_is_not_written_over(run, collection, capsys):
    before = run.read_bytes()
    assert adapt(run, collection, out=run) == 1
    assert "is the checkpoint itself" in capsys.readouterr().err
    assert run.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["CK"], 2, "give a checkpoint and then images, or --backbone=NAME"),
        (["CK", "PHOTOS", "--bits=8"], 2, "--bits goes with --backbone"),
        (["--backbone=lite0-frozen", "CK", "PHOTOS"], 2, "has a network of its own"),
        (["--backbone=lite0-frozen", "PHOTOS", "--describe=new.csv"], 2, "knows no attributes"),
        (["--backbone=lite", "PHOTOS"], 1, "did you mean 'lite0'"),
        (["CK", "nowhere"], 1, "no image or folder at nowhere"),
        (["PHOTOS", "PHOTOS"], 1, "no checkpoint at"),
    ],
)
def test_what_does_not_go_together_is_one_line(arguments, status, said, run, collection, tmp_path, capsys):
    given = [{"CK": run, "PHOTOS": collection}.get(argument, argument) for argument in arguments]
    assert adapt(*given, out=tmp_path / "a.ckpt") == status
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert said in error
