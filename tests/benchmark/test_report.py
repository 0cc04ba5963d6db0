import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from razh.benchmark.report import draw, fill_blocks, headline, part_table, section
from razh.benchmark.results import MEAN, Results, read_tables
from razh.cli.main import main
from razh.commands.benchmark import run
from razh.figures.benchmark import curves_figure, dots_figure
from tests.benchmark import fake

BLOCK = "<!-- razh report: {} -->\nstale words\n<!-- razh report: end -->"


def lines_of(text):
    """Return the rows of Markdown tables, cells without the blanks that fill them up."""
    return [[cell.strip() for cell in line.split(" | ")] for line in text.splitlines() if line.startswith("|")]


def rows_of(text, first):
    return next(re.sub(r" +", " ", line) for line in text.splitlines() if line.startswith(f"| {first} "))


@pytest.fixture(scope="module")
def finished(tmp_path_factory, results):
    """A benchmark of three methods, of which `razh` is the best and `random` the worst."""
    out = tmp_path_factory.mktemp("finished") / "out"
    arguments = ["smoke", "--methods=random,ce,razh", "--bits=16,32", "--jobs=2", f"--out={out}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(fake.ROOT)
        patch.setenv("FAKE_RESULTS", str(results))
        assert run(arguments, "benchmark", "smoke", program=fake.run) == 0
    return out


@pytest.fixture
def out(finished, tmp_path):
    return Path(shutil.copytree(finished, tmp_path / "out"))


def test_tables_have_the_figures_of_the_cells(out):
    text = (out / "tables.md").read_text()
    results = Results.of(out)
    cells = results.cells
    values = cells.loc[(cells["label"] == "random") & (cells["bits"] == 16), "test/unseen/map"]
    assert f"| random | {values.mean():.3f} ± {values.std(ddof=1):.3f} |".replace("0.", ".") in rows_of(text, "random")
    assert re.search(r"\| razh \| \*\*\S+ ± \S+\*\* \| \*\*\S+ ± \S+\*\*( †)? \| 1\.\d \|", rows_of(text, "razh"))
    assert "random ranking" in text
    assert "fit, s a cell" in text
    assert "random" not in results.alike(("ps", 16))
    assert "What is missing" not in text
    assert "](curves/smoke_synthetic_tiny_ps.png)" in text
    assert (out / "curves" / "smoke_synthetic_tiny_ps.png").stat().st_size > 5000


def test_measures_of_parts_stand_in_the_tables_of_methods_that_have_them(out):
    text = (out / "tables.md").read_text().split("# Parts and attributes")[1].split("# Cost")[0]
    header, _, row = lines_of(text)
    assert header == ["| method", "NMI", "AUC of attributes: parts", "different attributes |"]
    cells = Results.of(out).cells
    values = cells.loc[(cells["label"] == "razh") & (cells["bits"] == 32), "parts/nmi"]
    assert len(values) > 1
    nmi = f"{values.mean():.3f} ± {values.std(ddof=1):.3f}".replace("0.", ".")
    assert row == ["| razh", nmi, ".600 ± .000", "3.000 ± .000 |"]
    assert "Parts and attributes" in (out / "tables.tex").read_text()


def test_seeds_are_said_for_each_code_length(out):
    plan = json.loads((out / "plan.json").read_text())
    seeds = len({cell["seed"] for cell in plan["cells"]})
    assert f"{seeds} seeds, expected mAP" in headline(Results.of(out))
    plan["cells"] = [cell for cell in plan["cells"] if cell["bits"] == 16 or cell["seed"] == 0]
    (out / "plan.json").write_text(json.dumps(plan))
    words = f"1 seed at 32 bits, {seeds} seeds at 16 bits"
    assert words in headline(Results.of(out))
    assert words in section(Results.of(out), {})


def test_blocks_of_documents_are_filled_best_method_first(out, tmp_path, capsys):
    readme, page = tmp_path / "README.md", tmp_path / "results.md"
    readme.write_text(f"before\n{BLOCK.format('smoke')}\nafter\n")
    page.write_text(f"{BLOCK.format('smoke')}\nwords\n{BLOCK.format('smoke synthetic tiny')}\n")
    assert main(["report", str(out), "--into", str(readme), str(page)]) == 0
    shown = readme.read_text()
    assert shown.startswith("before\n<!-- razh report: smoke -->\n")
    assert shown.endswith("<!-- razh report: end -->\nafter\n")
    assert "stale words" not in shown + page.read_text()
    assert page.read_text().count("| method ") == 2
    assert [line[0] for line in lines_of(shown)][2:][-1] == "| random"
    assert main(["report", str(out), "--into", str(readme)]) == 0
    assert readme.read_text() == shown
    readme.write_text(BLOCK.format("smoky"))
    assert main(["report", str(out), "--into", str(readme)]) == 1
    assert "block 'smoky' names nothing that was measured; there are smoke" in capsys.readouterr().err


def test_a_kept_table_draws_what_the_folder_drew(out, tmp_path):
    kept, pages = tmp_path / "cells.csv.xz", (tmp_path / "a", tmp_path / "b")
    assert main(["report", str(out), f"--keep={kept}", f"--write={pages[0]}"]) == 0
    assert main(["report", f"--cells={kept}", f"--write={pages[1]}"]) == 0
    [again] = read_tables(kept)
    pd.testing.assert_frame_equal(again.table.round(4), Results.of(out).table.round(4))
    texts = [(page / "report.md").read_text() for page in pages]
    assert "cannot be told from the best" in texts[0]
    assert "cannot be told from the best" not in texts[1]  # the test needs the runs' codes
    daggers = [re.sub(r"[ †-]", "", text.split("### Protocol")[1].split("Mean ±")[0]) for text in texts]
    assert daggers[0] == daggers[1]
    with Image.open(pages[1] / "figures" / "smoke_synthetic_tiny_ps.png") as image:
        assert min(image.size) > 300


def test_one_benchmark_on_two_data_sets_has_two_sections(out, tmp_path, capsys):
    other = tmp_path / "other"
    shutil.copytree(out, other)
    plan = json.loads((other / "plan.json").read_text())
    (other / "plan.json").write_text(json.dumps(plan | {"dataset": "cub"}))
    assert main(["report", str(out), str(other), f"--write={tmp_path / 'page'}"]) == 0
    text = (tmp_path / "page" / "report.md").read_text()
    assert [line for line in text.splitlines() if line.startswith("## ")] == [
        "## Smoke test: synthetic, tiny",
        "## Smoke test: cub, tiny",
    ]
    assert len(list((tmp_path / "page" / "figures").iterdir())) == 2
    shutil.copytree(out, tmp_path / "again")
    assert main(["report", str(out), str(tmp_path / "again")]) == 1
    assert "are both smoke synthetic tiny; name one of them" in capsys.readouterr().err


def test_a_method_without_the_headline_length_stands_last(benchmark, tmp_path):
    for grid in (["--methods=razh", "--bits=32"], ["--methods=ce", "--bits=16"]):
        assert benchmark(*grid, "--seeds=0", "--protocols=ps,unseen-20%", "--jobs=2") == 0
    assert [row[0] for row in lines_of(headline(Results.of(tmp_path / "out")))[2:]] == ["| razh", "| ce"]


def test_what_a_report_cannot_do_is_one_line(out, tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text("no place")
    plan = json.loads((out / "plan.json").read_text())
    for name, content in (("empty", plan | {"cells": []}), ("strange", plan | {"more": 1})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "plan.json").write_text(json.dumps(content))
    for words, arguments in (
        ("no plan.json in", [str(tmp_path / "none")]),
        ("empty has no cells; start its benchmark again", [str(tmp_path / "empty")]),
        ("is not as this version writes it", [str(tmp_path / "strange")]),
        ("has no place for a table", [str(out), f"--into={page}"]),
        ("no document", [str(out), f"--into={tmp_path / 'none.md'}"]),
        ("there is nothing to report on", []),
        ("there is nothing to report on", ["--write=x"]),
        ("--cells needs --write or --into", [f"--cells={page}"]),
        ("is no table of cells", [f"--cells={page}", "--write=x"]),
    ):
        assert main(["report", *arguments]) == 1
        error = capsys.readouterr().err.strip().splitlines()
        assert words in error[-1]
        assert error[-1].startswith("error: ")
    assert page.read_text() == "no place"


def test_an_ablation_shows_differences_to_the_reference(benchmark, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(
        "reference: razh\nmethods: [razh, ce, {name: 'worse | kind', method: random, options: {model.lr: 1}}]\n"
        "bits: [24]\nseeds: [0, 1]\n"
    )
    assert benchmark("--jobs=2", command="ablate", name=str(file)) == 0
    results = Results.of(tmp_path / "out")
    text = (tmp_path / "out" / "tables.md").read_text()
    one = results.differences["ps", 24]["worse | kind"]
    means = results.table.loc["ps", 24]["mean"]
    assert one.difference == pytest.approx(means["worse | kind"] - means["razh"])
    assert one.p_value < 0.05
    line = next(line for line in text.splitlines() if line.startswith(r"| worse \| kind"))
    assert f"**−{abs(one.difference):.3f}**".replace("0.", ".") in line
    assert "razh ablate mine" in text
    assert draw(results, tmp_path / "figures")["ps"].stat().st_size > 5000
    assert Results.of(tmp_path / "out", "class").differences["ps", 24]["ce"].p_value >= 0.2  # three classes


def test_curves_of_many_methods_have_colours_for_the_best():
    many = {(bits, f"m{i:02}"): {"mean": 0.5 - i / 100, "std": 0.0} for bits in (16, 32) for i in range(14)}
    table = pd.DataFrame.from_dict(many, orient="index").rename_axis(["bits", "label"])
    figure = curves_figure(table, 0.1, "mAP", "title")
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert {"m00", "m09", "4 others"} <= set(texts)
    assert not {"m10", "m13"} & set(texts)


def test_dots_have_their_words_beside_them_and_methods_without_a_value_are_left_out():
    column = pd.DataFrame({"mean": [0.5, 0.4, np.nan], "std": [0.1, np.nan, np.nan]}, index=["razh", "ce", "none"])
    words = {"razh": ".500", "ce": ".400 *", "none": ""}
    figure = dots_figure(column, {"razh": [0.4, 0.6], "ce": [0.4]}, None, "mAP", "title", "razh", words)
    assert [text.get_text() for text in figure.axes[0].texts] == [".500", ".400 *"]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["razh", "ce"]


def test_measures_of_parts_have_a_mean_over_protocols(benchmark, tmp_path):
    assert benchmark("--methods=razh", "--bits=32", "--seeds=0", "--protocols=ps,unseen-20%", "--jobs=2") == 0
    found = Results.of(tmp_path / "out")
    values = list(found.cells["parts/nmi"])
    assert len(values) == 2
    text = f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}".replace("0.", ".")
    assert part_table(found, MEAN).loc["razh", "NMI"] == text
    assert part_table(found, "ps").loc["razh", "NMI"] == f"{values[0]:.3f}"[1:]
    assert text in section(found, {})


def test_markers_that_do_not_match_are_no_place(tmp_path):
    for text in ("<!-- razh report: a -->", "<!-- razh report: end -->", "nothing"):
        (tmp_path / "a.md").write_text(text)
        with pytest.raises(ValueError, match="has no place"):
            fill_blocks(tmp_path / "a.md", [])
        assert (tmp_path / "a.md").read_text() == text
