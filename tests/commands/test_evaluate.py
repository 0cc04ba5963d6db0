import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.io import savemat

from razh.commands.evaluate import main
from razh.retrieval.codes import Codes
from razh.retrieval.evaluation import evaluate
from razh.retrieval.packing import pack


@pytest.fixture
def codes(tmp_path):
    rng = np.random.default_rng(0)
    prototypes = rng.random((4, 12)) < 0.5
    labels = rng.integers(2, 4, 20), rng.integers(0, 4, 50)
    query, database = (prototypes[one] ^ (rng.random((len(one), 12)) < 0.2) for one in labels)
    made = Codes(pack(query), pack(database), *labels, 12, unseen_classes=(2, 3))
    made.save(tmp_path / "codes.npz")
    np.save(tmp_path / "q.npy", query * 2 - 1)
    np.save(tmp_path / "d.npy", database * 2 - 1)
    np.savetxt(tmp_path / "ql.csv", labels[0], fmt="%d")
    np.savetxt(tmp_path / "dl.csv", labels[1], fmt="%d")
    savemat(tmp_path / "all.mat", {"B1": query, "B2": database, "L1": labels[0][None], "L2": labels[1][None]})
    return made


def test_a_codes_file_gives_table_json_and_figures(tmp_path, codes, capsys):
    out = tmp_path / "out"
    arguments = [
        "--json",
        f"{out}/f.json",
        "--per-query",
        "--figure",
        f"{out}/pr.png",
        "--distance-figure",
        f"{out}/d.svg",
    ]
    assert main([str(tmp_path / "codes.npz"), *arguments, "--row-order"]) == 0
    shown = capsys.readouterr().out
    assert "unseen/map" in shown
    assert "codes file" in shown
    content = json.loads((out / "f.json").read_text())
    expected = evaluate(codes, prefix="", row_order=True).metrics
    assert content["metrics"] == expected
    assert len(content["tasks"]["unseen"]["query_ap"]) == 20
    assert (out / "pr.png").read_bytes().startswith(b"\x89PNG")
    assert (out / "d.svg").stat().st_size > 1000


def test_foreign_arrays_give_the_same_figures(tmp_path, codes, capsys):
    names = ("query-codes", "database-codes", "query-labels", "database-labels")
    ways = [
        [f"--{name}={tmp_path}/{file}" for name, file in zip(names, files, strict=True)]
        for files in (("q.npy", "d.npy", "ql.csv", "dl.csv"), ("all.mat:B1", "all.mat:B2", "all.mat:L1", "all.mat:L2"))
    ]
    expected = evaluate(codes, prefix="", cutoffs=(10,)).metrics
    for number, way in enumerate(ways):
        target = tmp_path / f"{number}.json"
        assert main([*way, "--unseen-classes", "2-3", "--cutoff", "10", "--json", str(target)]) == 0
        assert json.loads(target.read_text())["metrics"] == expected
    shown = capsys.readouterr().out
    assert "signs −1/+1" in shown
    assert "bits 0/1" in shown


def test_a_codes_file_can_be_written(tmp_path, codes):
    way = [f"--query-codes={tmp_path}/q.npy", f"--database-codes={tmp_path}/d.npy"]
    way += [f"--query-labels={tmp_path}/ql.csv", f"--database-labels={tmp_path}/dl.csv"]
    assert main([*way, "--unseen-classes=2,3", "--save", str(tmp_path / "new.npz")]) == 0
    assert evaluate(Codes.load(tmp_path / "new.npz")).metrics == evaluate(codes).metrics


def test_class_names_of_labels_are_kept_and_name_the_unseen_ones(tmp_path, codes):
    for side in ("ql", "dl"):
        ids = np.loadtxt(tmp_path / f"{side}.csv", dtype=int)
        (tmp_path / f"{side}.txt").write_text("\n".join(np.array(["auk", "crow", "gull", "owl"])[ids]))
    way = [f"--query-codes={tmp_path}/q.npy", f"--database-codes={tmp_path}/d.npy"]
    way += [f"--query-labels={tmp_path}/ql.txt", f"--database-labels={tmp_path}/dl.txt"]
    out = [f"--json={tmp_path}/f.json", f"--save={tmp_path}/new.npz"]
    assert main([*way, "--unseen-classes=owl,gull", *out]) == 0
    assert evaluate(Codes.load(tmp_path / "new.npz")).metrics == evaluate(codes).metrics
    content = json.loads((tmp_path / "f.json").read_text())
    assert set(content["tasks"]["unseen"]["class_map"]) == {"gull", "owl"}


def test_unseen_classes_of_a_codes_file_can_be_named(tmp_path, codes):
    replace(codes, unseen_classes=None).save(tmp_path / "silent.npz")
    assert main([str(tmp_path / "silent.npz"), "--unseen-classes=2-3", f"--json={tmp_path}/f.json"]) == 0
    expected = evaluate(codes, prefix="").metrics
    assert json.loads((tmp_path / "f.json").read_text())["metrics"] == expected


def test_validation_classes_of_a_codes_file_have_figures_of_their_own(tmp_path, codes, capsys):
    replace(codes, validation_classes=(0,)).save(tmp_path / "groups.npz")
    assert main([str(tmp_path / "groups.npz")]) == 0
    shown = capsys.readouterr().out
    for words in ("validation/map", "trained/map", "seen/map", "ceiling", "map@R for R = 5,000 is map"):
        assert words in shown
    assert main([str(tmp_path / "groups.npz"), "--unseen-classes=0,2,3", f"--json={tmp_path}/f.json"]) == 0
    metrics = json.loads((tmp_path / "f.json").read_text())["metrics"]
    assert "trained/map" in metrics  # the class that was held out is unseen now
    assert "validation/map" not in metrics


def test_queries_in_the_database_are_said(tmp_path, codes, capsys):
    Codes(
        codes.query_codes,
        codes.database_codes,
        codes.query_labels,
        codes.database_labels,
        12,
        np.arange(20),
        np.arange(50) + 15,
    ).save(tmp_path / "leak.npz")
    assert main([str(tmp_path / "leak.npz")]) == 0
    shown = capsys.readouterr().out
    assert "5 of 20 queries are in the database" in shown
    assert "5 queries were left out of their own ranking" in shown


def test_bad_input_is_refused_in_one_line(tmp_path, codes):
    for arguments, message in (
        ([], "name one codes file, or all four arrays"),
        ([f"--query-codes={tmp_path}/q.npy"], "missing: --database-codes"),
        ([str(tmp_path / "codes.npz"), f"--query-codes={tmp_path}/q.npy"], "name one codes file"),
        ([str(tmp_path / "codes.npz"), "--cutoff", "0"], "--cutoff=0 must be a whole number from 1"),
        ([str(tmp_path / "codes.npz"), "--form", "packed"], "--form goes with --query-codes"),
        ([str(tmp_path / "codes.npz"), "--query-index", "i.npy"], "--query-index goes with --query-codes"),
        ([str(tmp_path / "codes.npz"), "--per-query"], "--per-query needs --json"),
        ([str(tmp_path / "codes.npz"), "--figure", str(tmp_path / "a.xyz")], "suffix must be one of"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            main(arguments)
        assert "\n" not in str(error.value)
    with pytest.raises(FileNotFoundError, match="no codes file"):
        main([str(tmp_path / "none.npz")])


def test_help_shows_examples(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert "examples:" in shown
    assert "razh evaluate codes.npz" in shown
