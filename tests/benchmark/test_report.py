import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from razh.benchmark.curves import curves_figure
from razh.benchmark.document import begin, contents, end, figure_in, folded, replace_block, sections_of
from razh.benchmark.report import headline, markdown_section
from razh.benchmark.summary import Summary
from razh.benchmark.tables import Column, Entry
from razh.cli import main
from razh.commands.benchmark import run
from razh.files import read_json
from tests.benchmark import fake

SMOKE, GONE = (("smoke", "synthetic", "tiny"), ("gone", "synthetic", "tiny"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory, results):
    """A benchmark of three methods, of which `razh` is the best and `random` the worst."""
    out = tmp_path_factory.mktemp("finished") / "out"
    arguments = ["smoke", "--methods=random,ce,razh", "--bits=16,32", "--jobs=2", f"--out={out}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(fake.ROOT)
        patch.setenv("FAKE_RESULTS", str(results))
        assert run(arguments, "benchmark", "smoke", program=fake.PROGRAM) == 0
    return out


@pytest.fixture
def out(finished, tmp_path):
    return Path(shutil.copytree(finished, tmp_path / "out"))


def test_tables_have_the_figures_of_the_cells(out):
    text = (out / "tables.md").read_text()
    summary = Summary.of(out)
    values = [r["test/unseen/map"] for r in summary.rows if (r["label"], r["bits"]) == ("random", 16)]
    mean, deviation = np.mean(values), np.std(values, ddof=1)
    assert f"| random | {mean:.3f} ± {deviation:.3f} |".replace("0.", ".") in text
    assert re.search(r"\| razh \| \*\*\S+ ± \S+\*\* \| \*\*\S+ ± \S+\*\*( †)? \| 1\.\d \|", text)
    assert "random ranking" in text
    assert "| method | cells | fit, s a cell |" in text
    assert summary.alike(("ps", 16)) == set() or "random" not in summary.alike(("ps", 16))
    assert "What is missing" not in text
    assert "](curves/smoke_synthetic_ps.png)" in text


def test_measures_of_parts_stand_in_the_tables_of_methods_that_have_them(out):
    text = (out / "tables.md").read_text()
    section = text.split("# Parts and attributes")[1].split("# Cost")[0]
    assert "| method | NMI | AUC of attributes: parts | different attributes |" in section
    values = [r["parts/nmi"] for r in Summary.of(out).rows if (r["label"], r["bits"]) == ("razh", 32)]
    assert len(values) > 1
    mean, deviation = np.mean(values), np.std(values, ddof=1)
    assert f"| razh | {mean:.3f} ± {deviation:.3f} | .600 ± .000 | 3.0 |".replace("0.", ".", 2) in section
    assert "| ce |" not in section
    assert "Parts and attributes" in (out / "tables.tex").read_text()


def test_seeds_are_said_for_each_code_length(out):
    plan = read_json(out / "plan.json")
    seeds = len({cell["seed"] for cell in plan["cells"]})
    assert f"{seeds} seeds, expected mAP" in headline(Summary.of(out), "docs")
    plan["cells"] = [cell for cell in plan["cells"] if cell["bits"] == 16 or cell["seed"] == 0]
    (out / "plan.json").write_text(json.dumps(plan))
    at = Summary.of(out).headline[1]
    few, many = "1 seed at 32 bits", f"{seeds} seeds at 16 bits"
    words = f"{few}, {many}" if at == 32 else f"{many}, {few}"
    assert words in headline(Summary.of(out), "docs")
    assert words in markdown_section(Summary.of(out), {})


def test_a_document_is_generated_with_notes_whose_figures_are_filled_in(out, tmp_path):
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "results.notes.md").write_text("## Learnt\n\nrazh has {{smoke|razh|ps|16|test/unseen/map}}, as hoped.\n")
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{begin}\nstale words\n{end}\nafter\n")
    assert main(["report", str(out), f"--write={docs / 'results.md'}", f"--readme={readme}"]) == 0
    text = (docs / "results.md").read_text()
    entry = Summary.of(out).columns["ps", 16].entries["razh"]
    assert re.search(rf"razh has {entry.mean:.3f} ± ".replace("0.", r"\."), text)
    assert "{{" not in text
    assert text.index("## Learnt") < text.index("## Smoke test: synthetic, tiny")
    picture = docs / "figures" / "smoke_synthetic_ps.png"
    assert "](figures/smoke_synthetic_ps.png)" in text
    with Image.open(picture) as image:
        assert min(image.size) > 300
    shown = readme.read_text()
    assert shown.startswith(f"before\n{begin}\n")
    assert shown.endswith(f"{end}\nafter\n")
    assert "stale words" not in shown
    assert "[docs/results.md](docs/results.md)" in shown
    rows = [line.split("|")[1].strip() for line in shown.splitlines() if line.startswith("| ")][2:]
    assert rows[-1] == "random"  # best first
    before = shown
    assert main(["report", str(out), f"--write={docs / 'results.md'}", f"--readme={readme}"]) == 0
    assert readme.read_text() == before


def test_one_benchmark_on_two_data_sets_has_two_sections_in_a_document(out, tmp_path, capsys):
    other, target, rows = tmp_path / "other", tmp_path / "results.md", tmp_path / "rows"
    shutil.copytree(out, other)
    plan = read_json(other / "plan.json")
    plan["settings"]["dataset"] = "cub"
    (other / "plan.json").write_text(json.dumps(plan))
    both = [SMOKE, ("smoke", "cub", "tiny")]
    figure = "{{smoke cub tiny|razh|ps|16|test/unseen/map}}"
    target.with_suffix(".notes.md").write_text(f"{figure} {figure.replace('cub', 'synthetic')}")
    assert main(["report", str(out), str(other), f"--write={target}", f"--rows={rows}"]) == 0
    assert list(sections_of(target.read_text())) == both
    assert {path.name for path in rows.iterdir()} == {"smoke_synthetic_tiny.csv", "smoke_cub_tiny.csv"}
    assert len(list((tmp_path / "figures").iterdir())) == 2
    assert main(["report", str(other), f"--write={target}", "--keep"]) == 0
    assert list(sections_of(target.read_text())) == both
    shutil.copytree(out, tmp_path / "again")
    assert main(["report", str(out), str(tmp_path / "again"), f"--write={target}"]) == 1
    assert "are both smoke synthetic tiny; name one of them" in capsys.readouterr().err
    target.with_suffix(".notes.md").write_text("{{smoke|razh|ps|16|test/unseen/map}}")  # which of the two?
    assert main(["report", str(out), str(other), f"--write={target}"]) == 1


def test_a_name_with_blanks_is_found_in_the_document(out, tmp_path):
    plan = read_json(out / "plan.json")
    (out / "plan.json").write_text(json.dumps({**plan, "name": "my bench"}))
    for _ in range(2):
        assert main(["report", str(out), f"--write={tmp_path / 'results.md'}", "--keep"]) == 0
        assert list(sections_of((tmp_path / "results.md").read_text())) == [("my bench", "synthetic", "tiny")]


def test_a_method_without_the_headline_length_stands_last(out, tmp_path, monkeypatch, results):
    monkeypatch.chdir(fake.ROOT)
    monkeypatch.setenv("FAKE_RESULTS", str(results))
    for grid in (["--methods=razh", "--bits=32"], ["--methods=ce", "--bits=16"]):
        cells = [*grid, "--seeds=0", "--protocols=ps,unseen-20%", f"--out={tmp_path / 'two'}"]
        assert run(["smoke", *cells], "benchmark", "smoke", program=fake.PROGRAM) == 0
    rows = [line for line in headline(Summary.of(tmp_path / "two"), "x.md").splitlines() if line.startswith("| ")]
    assert [row.split("|")[1].strip() for row in rows[2:]] == ["razh", "ce"]


def test_the_cells_behind_the_tables_can_be_kept(out, tmp_path):
    rows = tmp_path / "rows"
    assert main(["report", str(out), f"--write={tmp_path / 'results.md'}", f"--rows={rows}"]) == 0
    with (rows / "smoke.csv").open(newline="") as file:
        kept = list(csv.DictReader(file))
    summary = Summary.of(out)
    assert len(kept) == len(summary.rows)
    for found, row in zip(kept, summary.rows, strict=True):
        assert (found["label"], found["bits"], found["seed"]) == (row["label"], str(row["bits"]), str(row["seed"]))
        assert float(found["test/unseen/map"]) == pytest.approx(row["test/unseen/map"], abs=1e-6)
        assert found["config_hash"] == row["config_hash"]


def test_what_a_report_cannot_do_is_one_line(out, tmp_path, capsys):
    notes = tmp_path / "notes.md"
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "plan.json").write_text(json.dumps({**read_json(out / "plan.json"), "cells": []}))
    for words, arguments in (
        ("no plan.json in", [str(tmp_path / "none")]),
        ("empty has no cells; start its benchmark again", [str(tmp_path / "empty")]),
        ("lacks a place for the table", [str(out), f"--write={tmp_path / 'r.md'}", f"--readme={notes}"]),
        ("names nothing that was measured", [str(out), f"--write={tmp_path / 'r.md'}", f"--notes={notes}"]),
        ("rows=kept needs write", [str(out), "--rows=kept"]),
        ("no folder of a benchmark is named", []),
        ("no folder of a benchmark is named", ["--keep"]),
        ("no folder of a benchmark is named", ["--write=results.md"]),
        ("readme needs write", [str(out), f"--readme={notes}"]),
        ("nothing.md", [str(out), f"--write={tmp_path / 'r.md'}", "--notes=nothing.md"]),
    ):
        notes.write_text("{{smoke|razh|ps|99|test/unseen/map}}")
        assert main(["report", *arguments]) == 1
        error = capsys.readouterr().err.strip().splitlines()
        assert words in error[-1]
        assert error[-1].startswith("error: ")


def test_markers_must_be_there_once(tmp_path):
    for text in (f"{begin}", f"{end}\n{begin}", f"{begin}{begin}{end}"):
        (tmp_path / "a.md").write_text(text)
        with pytest.raises(ValueError, match="lacks a place"):
            replace_block(tmp_path / "a.md", "x")
        assert (tmp_path / "a.md").read_text() == text


def test_an_ablation_shows_differences_to_the_reference(benchmark, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(
        "reference: razh\nmethods: [razh, ce, {name: 'worse | kind', method: random, options: {model.lr: 1}}]\n"
        "bits: [24]\nseeds: [0, 1]\n"
    )
    assert benchmark("--jobs=2", command="ablate", name=str(file)) == 0
    summary = Summary.of(tmp_path / "out")
    text = (tmp_path / "out" / "tables.md").read_text()
    one = summary.differences["ps", 24]["worse | kind"]
    means = {label: entry.mean for label, entry in summary.columns["ps", 24].entries.items()}
    assert one.difference == pytest.approx(means["worse | kind"] - means["razh"])
    assert one.p_value < 0.05
    line = next(line for line in text.splitlines() if line.startswith(r"| worse \| kind"))
    assert f"**−{abs(one.difference):.3f}**".replace("0.", ".") in line
    assert "razh ablate mine" in text
    assert Summary.of(tmp_path / "out", "class").differences["ps", 24]["ce"].p_value >= 0.2  # three classes


def test_curves_of_many_methods_have_colours_for_the_best():
    many = {f"m{i:02}": Entry({0: 0.5 - i / 100, 1: 0.5 - i / 100}, 2) for i in range(14)}
    figure = curves_figure([Column("ps", 16, many), Column("ps", 32, many)], 0.1, "mAP", "title")
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert {"m00", "m09", "4 others"} <= set(texts)
    assert not {"m10", "m13"} & set(texts)


def test_sections_of_other_benchmarks_are_kept_and_their_figures_read(out, tmp_path):
    docs = tmp_path / "docs"
    docs.mkdir()
    notes, target = docs / "results.notes.md", docs / "results.md"
    assert main(["report", str(out), f"--write={target}"]) == 0
    section = sections_of(target.read_text())[SMOKE]
    other = section.replace("`razh benchmark smoke ", "`razh benchmark gone ")
    assert section.count("<details>") == section.count("</details>") == 1
    assert section.index("### Protocol `ps`") < section.index("<details>") < section.index("### Cost")
    assert "<summary>All tasks; Parts and attributes; Cost</summary>" in section
    assert folded(section) == section
    assert sections_of(f"# Results\n\n{begin}\n\n{other}\n\n{end}\n") == {GONE: other}
    target.write_text(f"# Results\n\n{begin}\n\n## Learnt\n\nold words\n\n{other}\n\n{section}\n\n{end}\n")
    names = ("razh|ps|16|test/unseen/map", "ce|ps|32|test/seen/map", "razh|ps|32|attributes/auc")
    notes.write_text("\n".join(f"{{{{gone|{name}}}}} = {{{{smoke|{name}}}}}" for name in names))
    assert main(["report", str(out), f"--write={target}", "--keep"]) == 0
    text = target.read_text()
    assert "old words" not in text
    assert list(sections_of(text)) == [GONE, SMOKE]
    assert sections_of(text) == {GONE: other, SMOKE: section}
    equal = re.findall(r"^(\S+ ± \S+) = (\S+ ± \S+)$", text, re.MULTILINE)
    assert len(equal) == 3
    assert all(left == right for left, right in equal)
    heading = section.partition("\n")[0].removeprefix("## ")
    assert text.count(f"- [{heading}](#") == 2
    notes.write_text("new words")
    assert main(["report", f"--write={target}", "--keep"]) == 0
    assert "new words" in target.read_text()
    assert sections_of(target.read_text()) == {GONE: other, SMOKE: section}
    notes.write_text("{{gone|razh|ps|16|test/unseen/map}}")
    assert main(["report", str(out), f"--write={target}"]) == 1  # not kept: the notes name nothing that is there


def test_measures_of_parts_have_a_mean_over_protocols(tmp_path, results, monkeypatch):
    out = tmp_path / "out"
    monkeypatch.chdir(fake.ROOT)
    monkeypatch.setenv("FAKE_RESULTS", str(results))
    grid = ["--methods=razh", "--bits=32", "--seeds=0", "--protocols=ps,unseen-20%", "--jobs=2"]
    assert run(["smoke", *grid, f"--out={out}"], "benchmark", "smoke", program=fake.PROGRAM) == 0
    summary = Summary.of(out)
    values = [row["parts/nmi"] for row in summary.rows]
    assert len(values) == 2
    section = markdown_section(summary, {})
    mean, deviation = np.mean(values), np.std(values, ddof=1)
    text = f"{mean:.3f} ± {deviation:.3f}".replace("0.", ".")
    assert figure_in(section, "razh", "mean", 32, {"parts/nmi": "NMI"}, "parts/nmi") == text
    assert figure_in(section, "razh", "ps", 32, {"parts/nmi": "NMI"}, "parts/nmi") == f"{values[0]:.3f}"[1:]


def test_contents_link_to_the_anchors_of_headings():
    linked = contents(["## RAZH, tuned: cub, lite0-frozen\n\nwords", "## Names of things_here (1)"])
    assert linked.splitlines() == [
        "- [RAZH, tuned: cub, lite0-frozen](#razh-tuned-cub-lite0-frozen)",
        "- [Names of things_here (1)](#names-of-things_here-1)",
    ]


def test_figures_of_several_protocols_are_read_from_kept_tables():
    section = """## Title: cub, lite0

2 of 2 cells, each a run of its own. `razh benchmark some --dataset=cub --backbone=lite0 --tune 8`; options of all: a=1.

### Mean over protocols: mAP, unseen queries

| method | 16 bits | 64 bits | seen, 64 bits |
| --- | ---: | ---: | ---: |
| some method | **.1 ± .01** | <u>.2 ± .02</u> † |  |

### Parts and attributes at 64 bits, `ps`

| method | NMI | … shuffled |
| --- | ---: | ---: |
| some method | .3 ± .0 | .4 |

### Parts and attributes at 64 bits, mean over protocols

| method | NMI | … shuffled |
| --- | ---: | ---: |
| some method | .5 ± .1 | .6 |
"""
    names = {"test/unseen/map": "unseen", "test/seen/map": "seen", "parts/nmi": "NMI", "x": "… shuffled"}

    def read(*key):
        return figure_in(section, "some method", *key)

    assert sections_of(section).keys() == {("some-tuned", "cub", "lite0")}
    assert read("mean", 64, names, "test/unseen/map") == ".2 ± .02"
    assert read("mean", 16, names, "test/unseen/map") == ".1 ± .01"
    assert read("ps", 64, names, "parts/nmi") == ".3 ± .0"
    assert read("ps", 64, names, "x") == ".4"
    assert read("mean", 64, names, "parts/nmi") == ".5 ± .1"
    assert read("mean", 64, names, "test/seen/map") is None  # an empty cell
    assert read("ps", 32, names, "parts/nmi") is None
    assert figure_in(section, "another", "mean", 64, names, "test/unseen/map") is None
