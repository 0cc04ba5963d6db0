"""The command line from end to end, on tiny data: what a user types, what appears, what is refused."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from razh.cli.main import main
from razh.retrieval.codes import Codes
from razh.retrieval.evaluation import evaluate
from razh.run.recipe import experiments_folder
from tests import fake
from tests.processes import forked, razh, said

ROOT = Path(__file__).resolve().parents[2]
WORLD = ["--data.seen_classes=10", "--data.unseen_classes=4", "--data.images_per_class=8"]
SMALL = [*WORLD, "--data.image_size=32", "--data.batch_size=16", "--trainer.max_epochs=2", "--trainer.accelerator=cpu"]
QUICK = ["--figures.enabled=false", "--measures.enabled=false", "--trainer.enable_progress_bar=false"]


def train(folder, *more):
    return main(["train", *SMALL, *QUICK, f"--run_dir={folder}", *more])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A complete run of RAZH with 12 bits (not a multiple of 8) and its figures, of few images."""
    folder = tmp_path_factory.mktemp("cli") / "run"
    figures = ["--figures.queries=2", "--figures.neighbours=3", "--figures.part_images=2"]
    quiet = ["--measures.enabled=false", "--trainer.enable_progress_bar=false"]
    assert main(["train", *SMALL, *quiet, *figures, "--bits=12", f"--run_dir={folder}"]) == 0
    return folder


def test_run_folder_holds_what_the_readme_promises(run):
    files = {p.relative_to(run).as_posix() for p in run.rglob("*") if p.is_file()}
    wanted = {"config.yaml", "split.json", "metrics.json", "metrics.csv", "codes.npz"}
    assert wanted | {"checkpoints/best.ckpt", "checkpoints/last.ckpt"} <= files
    assert {
        "figures/retrieval.png",
        "figures/parts.png",
        "figures/precision_recall.png",
        "figures/training.png",
    } <= files
    assert not [name for name in files if name.endswith(".part")]


def test_a_frozen_network_trains_without_a_word_of_libraries(tmp_path, recwarn):
    frozen = ["--model.backbone.freeze=all", "--model.backbone.pretrained=false", "--method=ce"]
    assert train(tmp_path / "run", "--bits=8", *frozen, "--trainer.max_epochs=1") == 0
    assert not [str(one.message) for one in recwarn if not issubclass(one.category, DeprecationWarning)]


def test_metrics_are_those_of_the_codes(run):
    metrics = json.loads((run / "metrics.json").read_text())
    again = evaluate(Codes.load(run / "codes.npz"))
    for name in ("unseen/map", "unseen/map_worst", "unseen/map_best", "seen/map", "harmonic/map", "zsl/map"):
        assert metrics[f"test/{name}"] == again.metrics[f"test/{name}"]
    for name in ("unseen/precision@1", "unseen/precision@100_ceiling", "unseen/precision@radius2", "unseen/chance"):
        assert metrics[f"test/{name}"] == again.metrics[f"test/{name}"]
    assert metrics["test/unseen/map_worst"] <= metrics["test/unseen/map"] <= metrics["test/unseen/map_best"]
    groups = [metrics[f"test/{group}/queries"] for group in ("trained", "validation", "seen")]
    assert groups[0] + groups[1] == groups[2]
    assert {"start/unseen/map", "start/trained/map", "start/harmonic/map"} <= set(metrics)
    assert metrics["start/unseen/map"] != metrics["test/unseen/map"]
    assert metrics["start/unseen/chance"] == metrics["test/unseen/chance"]
    assert 0 < metrics["codes/unique_fraction"] <= 1
    assert metrics["time/cache_seconds"] >= 0
    assert metrics["time/fit_seconds"] > 0
    assert metrics["time/test_seconds"] > 0
    assert metrics["time/total_seconds"] >= metrics["time/fit_seconds"] + metrics["time/test_seconds"]


def test_codes_file_has_the_documented_arrays(run):
    with np.load(run / "codes.npz", allow_pickle=False) as file:
        codes = {name: file[name] for name in file.files}
    assert codes["query_codes"].shape[1] == codes["database_codes"].shape[1] == 2
    assert codes["query_codes"].dtype == np.uint8
    assert int(codes["bits"]) == 12
    assert (codes["query_codes"][:, 1] & 0b1111 == 0).all()  # padding of np.packbits
    assert set(codes["query_labels"]) == set(codes["unseen_classes"])
    assert not set(codes["query_index"]) & set(codes["database_index"])
    split = json.loads((run / "split.json").read_text())
    assert (
        split["fingerprint"]
        == str(codes["fingerprint"])
        == json.loads((run / "metrics.json").read_text())["split/fingerprint"]
    )


def test_metrics_csv_has_a_row_an_epoch_with_every_term(run):
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["0", "1"]
    assert {"train/loss", "train/hash", "train/attributes", "train/presence", "val/map"} <= rows[0].keys()
    assert all(np.isfinite(float(value)) for row in rows for value in row.values())


def test_saved_config_repeats_the_run(run, tmp_path):
    assert main(["train", f"--config={run / 'config.yaml'}", *QUICK, f"--run_dir={tmp_path / 'again'}"]) == 0
    first, second = (np.load(folder / "codes.npz") for folder in (run, tmp_path / "again"))
    assert all(np.array_equal(first[name], second[name]) for name in first.files)


def test_test_command_gives_the_same_figures_from_the_checkpoint(run, tmp_path):
    arguments = [f"--config={run / 'config.yaml'}", f"--ckpt_path={run / 'checkpoints/best.ckpt'}", *QUICK]
    assert main(["test", *arguments, f"--run_dir={tmp_path / 'test'}"]) == 0
    first, second = (json.loads((f / "metrics.json").read_text()) for f in (run, tmp_path / "test"))
    same = [name for name in first if name.startswith(("test/", "codes/"))]
    assert len(same) > 20
    assert all(first[name] == second[name] for name in same)
    assert not [name for name in second if name.startswith("start/")]  # a checkpoint alone does not know its start


def test_second_run_never_overwrites_the_first(run, tmp_path, capsys, monkeypatch):
    before = (run / "metrics.json").read_bytes()
    assert train(run) == 1
    assert "holds a run already" in capsys.readouterr().err
    assert (run / "metrics.json").read_bytes() == before
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert main(["train", *SMALL, *QUICK, "--method=itq", "--bits=8"]) == 0
    folders = sorted(p.name for p in (tmp_path / "runs/synthetic/itq/8").iterdir())
    assert folders == ["seed0", "seed0-2"]


def test_training_goes_on_from_last_and_ends_with_the_same_weights(tmp_path, monkeypatch):
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    three = ["--method=ce", "--trainer.max_epochs=3"]
    assert train(whole, *three) == 0

    def stop(self):
        if self.current_epoch == 2:
            raise KeyboardInterrupt

    handler = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        patch.setattr("razh.methods.ce.CE.on_train_epoch_start", stop)
        assert train(parted, *three) == 130
    signal.signal(signal.SIGINT, handler)  # Lightning ignores the signal once it has seen it
    assert train(parted, *three, "--ckpt_path=last") == 0
    with (parted / "metrics.csv").open() as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["0", "1", "2"]
    one, two = (torch.load(f / "checkpoints/last.ckpt", weights_only=True)["state_dict"] for f in (whole, parted))
    assert all(torch.equal(one[name], two[name]) for name in one)
    one, two = (json.loads((f / "metrics.json").read_text()) for f in (whole, parted))
    start = {name: value for name, value in one.items() if name.startswith("start/")}
    assert start
    assert start == {name: value for name, value in two.items() if name.startswith("start/")}


@pytest.mark.slow
def test_interrupt_leaves_a_checkpoint_to_go_on_from(tmp_path):
    folder = tmp_path / "stopped"
    command = ["train", *SMALL, *QUICK, "--method=ce", "--trainer.max_epochs=1000", f"--run_dir={folder}"]
    child = forked(razh, *command, log=tmp_path / "log")
    child.start()
    try:
        waited = time.monotonic() + 90
        while not (folder / "metrics.csv").is_file() or len((folder / "metrics.csv").read_text().splitlines()) < 3:
            assert time.monotonic() < waited
            assert child.is_alive()
            time.sleep(0.1)
        os.kill(child.pid, signal.SIGINT)
        child.join(60)
    finally:
        child.kill()
    assert child.exitcode == 130
    message = (tmp_path / "log").read_text()
    assert "--ckpt_path=last" in message
    assert "Traceback" not in message
    epochs = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["epoch"]
    assert train(folder, "--method=ce", f"--trainer.max_epochs={epochs + 2}", "--ckpt_path=last") == 0


REFUSED = {
    "mistyped option": (["--model.bitz=3"], "did you mean model.bits?"),
    "option of a group": (["--model.mix_weight=1"], "it is model.weights.mix now"),
    "mistyped option of a group": (["--model.weights.mixx=1"], "did you mean model.weights.mix?"),
    "group without an option": (["--model.parts=5"], "it is a group: give model.parts.order, "),
    "mistyped trainer option": (["--trainer.max_epoch=3"], "did you mean trainer.max_epochs?"),
    "mistyped group": (["--trainr.max_epochs=3"], "did you mean trainer.max_epochs?"),
    "wrong type": (["--model.bits=abc"], "model.bits=abc is refused; give int"),
    "wrong choice": (["--model.parts.centres=foo"], "'shared', 'image'"),
    "no bits": (["--bits=0"], "--bits=0 must be a whole number from 1 to 1,024"),
    "unknown method": (["--method=rahz"], "did you mean 'razh'?"),
    "unknown data set": (["--dataset=cubb"], "did you mean 'cub'?"),
    "unknown backbone file": (["--backbone=tinny"], "did you mean 'tiny'?"),
    "unknown network": (["--model.backbone.name=test_vitt"], "did you mean"),
    "no data": (["--dataset=cub", "--data_root=nowhere"], "run `razh data cub`"),
    "no weights": (["--weights=nowhere.safetensors"], "nowhere.safetensors"),
    "no checkpoint": (["--ckpt_path=nowhere.ckpt"], "no checkpoint at ckpt_path=nowhere.ckpt"),
    "unknown protocol": (["--data.protocol=nope"], "'nope'"),
    "share out of range": (["--model.mixing.replaced_share=2"], "--model.mixing.replaced_share=2 must be from 0 to 1"),
    "nothing to go on with": (["--ckpt_path=last"], "leave out --ckpt_path=last"),
    "batches of the validation": (["--trainer.overfit_batches=1"], "pass --trainer.limit_train_batches"),
    "path for a name": (["--method=../method/ce"], "method='../method/ce' is unknown"),
    "no run folder": (["--run_dir="], "run_dir is empty; is a variable not set?"),
    "no data folder": (["--dataset=cub", "--data_root="], "root is empty; is a variable not set?"),
    "no cache folder": (["--cache.directory="], "cache.directory is empty; is a variable not set?"),
    "empty checkpoint": (["--ckpt_path="], "ckpt_path is empty; is a variable not set?"),
    "network of a hub": (["--model.backbone.name=hf-hub:timm/test_vit"], "is not a timm model"),
    "no end": (["--trainer.max_epochs=-1"], "pass --trainer.max_epochs or --trainer.max_steps"),
}


UNREADABLE = {case for case in REFUSED if case.startswith(("mistyped", "wrong", "option of", "group without"))}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_gets_one_line_and_leaves_nothing(case, tmp_path, capsys, monkeypatch):
    arguments, told = REFUSED[case]
    monkeypatch.chdir(tmp_path)
    world = [] if "--dataset=" in arguments[0] else WORLD
    assert main(["train", *QUICK, *world, *arguments]) == (2 if case in UNREADABLE else 1)
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert told in errors[0]
    assert len(errors[0]) < 400
    assert not list(tmp_path.rglob("config.yaml"))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--bits=16"], "codes of 12 bits, model.bits is 16; pass --bits=12"),
        (["--method=ce"], "the checkpoint is one of RAZH, this run's method is CE; pass the --method"),
        (["--model.parts.width=5"], "the checkpoint does not fit this run: tools.clustering.context.weight is"),
        (["--data.unseen_classes=3"], "the checkpoint knows 14 classes ("),
        (["--data.protocol=unseen-30%"], "of the unseen classes here were trained on"),
        (["--data.split_seed=3"], "the checkpoint was trained on 8 other classes, protocol 'ps'"),
    ],
)
def test_checkpoint_of_something_else_is_refused(run, tmp_path, capsys, options, told):
    checkpoint = run / "checkpoints/best.ckpt"
    arguments = [*SMALL, *QUICK, "--bits=12", *options, f"--ckpt_path={checkpoint}", f"--run_dir={tmp_path / 'x'}"]
    assert main(["test", *arguments]) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert told in errors[0]


@pytest.mark.parametrize("options", [[], ["--ckpt_path=last"]])
@pytest.mark.parametrize("command", ["test", "validate", "predict"])
def test_what_needs_a_trained_network_asks_for_one(tmp_path, capsys, monkeypatch, command, options):
    monkeypatch.chdir(tmp_path)
    assert main([command, *SMALL, *QUICK, *options]) == 1
    assert f"{command} needs a trained network; pass --ckpt_path=RUN/checkpoints/best.ckpt" in capsys.readouterr().err


def test_a_short_option_does_not_lose_against_a_file_in_silence(run, tmp_path, capsys):
    config = run / "config.yaml"
    assert main(["train", f"--config={config}", "--method=itq", f"--run_dir={tmp_path / 'x'}"]) == 1
    assert f"--method=itq contradicts method: razh of {config}; leave one of them out" in capsys.readouterr().err


def test_truncated_checkpoint_is_refused(run, tmp_path, capsys):
    broken = tmp_path / "broken.ckpt"
    broken.write_bytes((run / "checkpoints/best.ckpt").read_bytes()[:5000])
    assert main(["encode", str(tmp_path), "--checkpoint", str(broken)]) == 1
    (tmp_path / "a.png").write_bytes(b"x")
    assert main(["encode", str(tmp_path), "--checkpoint", str(broken)]) == 1
    assert "may be cut short" in capsys.readouterr().err


def test_config_file_with_a_mistyped_key_is_refused(tmp_path, capsys):
    (tmp_path / "mine.yaml").write_text("trainer:\n  max_epoch: 3\n")
    assert main(["train", "--dataset=synthetic", f"--config={tmp_path / 'mine.yaml'}"]) == 2
    assert "did you mean trainer.max_epochs?" in capsys.readouterr().err
    (tmp_path / "mine.yaml").write_text("model:\n  init_args:\n    bitz: 3\n")
    assert main(["train", "--dataset=synthetic", f"--config={tmp_path / 'mine.yaml'}"]) == 2
    assert "did you mean model.bits?" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["${oc.env:SECRET}", "${oc.${search.kind}:SECRET}", "${oc.env:NONE,x}"])
def test_nothing_of_the_environment_comes_into_a_configuration(tmp_path, capsys, monkeypatch, value):
    monkeypatch.setenv("SECRET", "hunter2")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(f"search: {{kind: env}}\nlogger: {value}\n")
    assert main(["train", "--method=ce", f"--config={tmp_path / 'mine.yaml'}"]) == 1
    told = capsys.readouterr()
    assert "is not filled in, for a configuration is saved with the run" in told.err
    assert "hunter2" not in told.out + told.err


def test_values_of_the_configuration_itself_are_filled_in(tmp_path, capsys):
    (tmp_path / "mine.yaml").write_text("seed_everything: 3\ndata: {init_args: {split_seed: '${seed_everything}'}}\n")
    with pytest.raises(SystemExit):
        main(["train", "--dataset=synthetic", "--method=ce", f"--config={tmp_path / 'mine.yaml'}", "--print_config"])
    assert yaml.safe_load(capsys.readouterr().out)["data"]["init_args"]["split_seed"] == 3


def test_a_configuration_cannot_name_a_run_folder_elsewhere(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(["train", *SMALL, "--method=ce", "--print_config"])
    (tmp_path / "mine.yaml").write_text(capsys.readouterr().out.replace("method: ce", "method: ../../../x"))
    assert main(["train", *QUICK, f"--config={tmp_path / 'mine.yaml'}"]) == 1
    assert "method='../../../x' cannot name the run's folder" in capsys.readouterr().err


def test_a_run_folder_among_the_images_is_refused(tmp_path, capsys):
    root = fake.write_folder(tmp_path / "mine", classes=8, images=6)
    arguments = ["--dataset=folder", f"--data_root={root}", "--backbone=tiny", "--data.image_size=32", "--bits=8"]
    assert main(["train", *QUICK, "--method=ce", *arguments, f"--run_dir={root / 'runs' / 'one'}"]) == 1
    assert "lies among the images of" in capsys.readouterr().err
    assert not (root / "runs").exists()


def test_a_tilde_is_the_home_folder_and_modules_are_imported_on_demand(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert main(["inspect", "~/none.ckpt"]) == 1
    assert f"no checkpoint at {tmp_path / 'none.ckpt'}" in capsys.readouterr().err
    (tmp_path / "of_my_own.py").write_text("raise ImportError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    assert main(["inspect", "none.ckpt", "--import=of_my_own"]) == 1
    assert "error: imported" in capsys.readouterr().err


def test_the_current_folder_is_not_imported_from(tmp_path):
    (tmp_path / "yaml.py").write_text("raise SystemExit('imported')")
    told = subprocess.run(
        [sys.executable, "-m", "razh", "--version"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (told.returncode, told.stderr) == (0, "")


def test_broken_image_in_training_is_named_in_one_line(tmp_path, capsys):
    root = fake.write_folder(tmp_path / "mine", classes=8, images=6)
    for path in root.rglob("*.png"):
        path.write_bytes(path.read_bytes()[:40])
    arguments = ["--dataset=folder", f"--data_root={root}", "--backbone=tiny", "--data.image_size=32", "--bits=8"]
    code = main(["train", *QUICK, "--method=ce", *arguments, f"--run_dir={tmp_path / 'run'}"])
    lines = capsys.readouterr().err.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert code == 1
    assert len(errors) == 1
    assert "8 of 8 classes have no readable images" in errors[0]
    assert any(".png" in line and "48 of 48 images" in line for line in lines if line.startswith("warning: "))


def test_debug_shows_where_an_error_was_raised():
    with pytest.raises(ValueError, match="unknown"):
        main(["train", "--method=nope", "--debug"])


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    """A run of fresh processes: the one that a user starts, and the other one, which Lightning starts."""
    folder, given = tmp_path_factory.mktemp("launched") / "ddp", tmp_path_factory.mktemp("given") / "mine.yaml"
    given.write_text("trainer: {limit_train_batches: 1}")
    command = [sys.executable, "-m", "razh", "train", "--dataset=synthetic", "--method=razh", f"--config={given}"]
    command += [*SMALL, *QUICK, "--bits=12"]
    command += ["--data.batch_size=4", "--trainer.limit_val_batches=0.5", "--trainer.max_epochs=1"]
    done = subprocess.run(
        [*command, "--trainer.devices=2", "--trainer.strategy=ddp", f"--run_dir={folder}"],
        cwd=ROOT,
        timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


@pytest.mark.slow
@pytest.mark.ddp
def test_one_batch_is_not_all_of_them(launched):
    """In a fresh process, where other packages' types are known before Lightning's: 1 must not become 1.0."""
    limits = yaml.safe_load((launched / "config.yaml").read_text())["trainer"]
    assert (limits["limit_train_batches"], limits["limit_val_batches"]) == (1, 0.5)
    assert isinstance(limits["limit_train_batches"], int)


def test_menu_version_and_unknown_command(capsys):
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    for word in ("train", "encode", "evaluate", "--bits", "razh, ", "synthetic", "lite0-frozen"):
        assert word.removesuffix(", ") in shown
    assert main(["--version"]) == 0
    assert main([]) == main(["trian"]) == 2
    assert "did you mean train? choose from train" in capsys.readouterr().err


def test_fast_dev_run_leaves_no_trusted_result(tmp_path):
    assert train(tmp_path / "dev", "--trainer.fast_dev_run=1") == 0
    assert not (tmp_path / "dev" / "config.yaml").exists()
    assert not (tmp_path / "dev" / "metrics.json").exists()


DATA = {
    "synthetic": None,
    "cub": fake.write_cub,
    "awa2": fake.write_awa2,
    "sun": fake.write_sun,
    "cifar10": fake.write_cifar10,
    "folder": fake.write_folder,
}


def experiment_files():
    folder = experiments_folder()
    return sorted(
        p.relative_to(folder).as_posix()
        for p in folder.rglob("*.yaml")
        if p.parent.name in ("data", "method", "backbone")
    )


@pytest.mark.slow
@pytest.mark.parametrize("file", experiment_files())
def test_every_experiment_file_runs(file, tmp_path, capsys):
    kind, name = Path(file).parent.name, Path(file).stem
    recipe = {"data": "synthetic", "method": "ce", "backbone": "tiny"} | {kind: name}
    arguments = [f"--dataset={recipe['data']}", f"--method={recipe['method']}", f"--backbone={recipe['backbone']}"]
    if kind == "data" and DATA[name] is not None:
        DATA[name](tmp_path / "data", **({"images": 6} if name == "folder" else {}))
        arguments.append(f"--data_root={tmp_path / 'data'}")
        if name == "cifar10":  # its own protocol counts thousands of images
            arguments.append("--data.protocol=unseen-20%")
    else:
        arguments += ["--data.seen_classes=6", "--data.unseen_classes=3", "--data.images_per_class=6"]
    size = 28 if "dinov2" in name else 32
    network = yaml.safe_load((experiments_folder() / "backbone" / f"{recipe['backbone']}.yaml").read_text())
    if network["model"]["init_args"]["backbone"]["init_args"].get("pretrained"):
        arguments.append("--model.backbone.pretrained=false")
    more = [
        f"--data.image_size={size}",
        "--bits=8",
        "--data.batch_size=8",
        "--data.num_workers=0",
        "--trainer.max_epochs=1",
    ]
    limits = ["--trainer.limit_train_batches=2", "--trainer.accelerator=cpu"]
    limits += ["--measures.enabled=true", "--measures.images=8", "--measures.flip_images=2"]
    assert main(["train", *QUICK, *arguments, *more, *limits, f"--run_dir={tmp_path / 'run'}"]) == 0, (
        capsys.readouterr().err
    )
    assert 0 <= json.loads((tmp_path / "run/metrics.json").read_text())["test/unseen/map"] <= 1


@pytest.mark.slow
@pytest.mark.ddp
def test_two_processes_give_the_same_figures_and_codes(run, job, tmp_path):
    command = ["test", f"--config={run / 'config.yaml'}", *QUICK, f"--ckpt_path={run / 'checkpoints/best.ckpt'}"]
    assert main([*command, f"--run_dir={tmp_path / '1'}"]) == 0
    assert job(2, *command, f"--run_dir={tmp_path / '2'}") == [0, 0], said(tmp_path)
    one, two = (json.loads((tmp_path / n / "metrics.json").read_text()) for n in "12")
    assert all(one[name] == two[name] for name in one if name.startswith(("test/", "codes/", "split/")))
    first, second = (np.load(tmp_path / n / "codes.npz") for n in "12")
    assert all(np.array_equal(first[name], second[name]) for name in first.files)


@pytest.mark.slow
@pytest.mark.ddp
def test_training_with_two_processes_ends_well(launched):
    metrics = json.loads((launched / "metrics.json").read_text())
    assert metrics["test/unseen/map"] > 0
    assert metrics["environment/devices"] == 2
    assert list(launched.parent.iterdir()) == [launched]


def test_second_job_in_a_busy_folder_is_refused(tmp_path, capsys):
    from filelock import FileLock

    (tmp_path / "busy").mkdir()
    with FileLock(tmp_path / "busy" / ".lock"):
        assert train(tmp_path / "busy") == 1
    assert "another run works in run_dir" in capsys.readouterr().err
