import io

import pytest
from rich.console import Console

from razh.retrieval.evaluation import Evaluation
from razh.retrieval.report import comparison_table, left_out, notes, table

FIGURES = {
    "test/unseen/map": 0.25,
    "test/unseen/map_worst": 0.2,
    "test/unseen/map_best": 0.3,
    "test/unseen/chance": 0.02,
    "test/unseen/map@50": 0.4,
    "test/unseen/map_worst@50": 0.35,
    "test/unseen/map_best@50": 0.45,
    "test/unseen/chance@50": 0.03,
    "test/unseen/map@50/all": 0.1,
    "test/unseen/queries": 12.0,
    "codes/effective_bits": 43.8,
}
STARTED = FIGURES | {
    "test/unseen/precision@50": 0.25,
    "test/unseen/precision@50_ceiling": 0.6,
    "test/unseen/precision@50_chance": 0.04,
    "start/unseen/map": 0.125,
    "start/unseen/precision@50": 0.0625,
    "test/trained/map": 0.9,
    "test/seen/map": 0.9,
}
COLUMNS = ("value", "start", "chance", "ceiling", "worst–best")


def names(shown):
    return [str(cell) for cell in shown.columns[0].cells]


def lines(shown, width=120):
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(shown)
    return console.export_text().splitlines()


def row(shown, name):
    """Return the cells of a row, by column."""
    columns = {column.header: [str(cell) for cell in column.cells] for column in shown.columns}
    at = columns["metric"].index(name)
    return {header: cells[at] for header, cells in columns.items() if header != "metric"}


def test_value_chance_and_band_stand_in_one_row():
    shown = table(FIGURES, "title")
    names = ("value", "chance", "worst–best")
    assert row(shown, "test/unseen/map") == dict(zip(names, ("0.2500", "0.0200", "0.200–0.300"), strict=True))
    assert row(shown, "test/unseen/map@50") == dict(zip(names, ("0.4000", "0.0300", "0.350–0.450"), strict=True))
    assert row(shown, "test/unseen/map@50/all") == dict(zip(names, ("0.1000", "", ""), strict=True))
    assert row(shown, "test/unseen/queries")["value"] == "12"
    assert row(shown, "codes/effective_bits")["value"] == "43.8000"
    assert shown.row_count == 5


def test_start_and_ceiling_stand_beside_the_value():
    shown = table(STARTED, "title")
    assert [column.header for column in shown.columns] == ["metric", *COLUMNS]
    assert row(shown, "test/unseen/map")["start"] == "0.1250"
    cells = ("0.2500", "0.0625", "0.0400", "0.6000", "")
    assert row(shown, "test/unseen/precision@50") == dict(zip(COLUMNS, cells, strict=True))
    assert not [name for name in names(shown) if name.startswith("start/")]


def test_seen_classes_have_rows_only_where_they_are_not_the_trained_ones():
    assert "test/seen/map" not in names(table(STARTED, ""))
    assert "test/seen/map" in names(table(STARTED | {"test/validation/map": 0.4}, ""))
    plain = {"seen/map": 0.9, "trained/map": 0.9, "unseen/map": 0.2}
    assert names(table(plain, "")) == ["trained/map", "unseen/map"]


def test_a_table_of_a_run_fits_into_eighty_columns():
    longest = {f"test/unseen/precision@radius2{part}": 0.5 for part in ("", "_ceiling", "_chance")}
    shown = lines(table(STARTED | longest, "title"), 80)
    assert max(map(len, shown)) <= 80
    assert any(line.startswith("test/unseen/precision@radius2 ") for line in shown)  # in one line, not folded


def test_words_are_explained_where_they_occur():
    groups, columns = notes(STARTED)
    assert groups.startswith("unseen: classes without training images; trained: ")
    assert "validation" not in groups
    assert columns.endswith("start: before training")
    assert "start" not in notes(FIGURES)[-1]
    assert notes({"map": 0.5})[0].startswith("value: ")


def test_the_reason_for_a_missing_map_is_said():
    assert left_out([10, 5000], 60) == ["map@R for R = 5,000 is map: the database has 60 items"]
    assert left_out([10], 60) == []


def test_chance_of_figures_without_a_group():
    shown = table({"map": 0.25, "chance": 0.02, "map@50": 0.4, "chance@50": 0.03}, "title")
    assert [row(shown, name)["chance"] for name in ("map", "map@50")] == ["0.0200", "0.0300"]


def test_a_group_without_map_has_one_chance():
    shown = table({**FIGURES, "test/unseen/precision@50": 0.1, "a/zero_shot/hash": 0.4, "a/zero_shot/chance": 0.1}, "")
    assert [row(shown, "a/zero_shot/hash")[name] for name in ("value", "chance")] == ["0.4000", "0.1000"]
    assert row(shown, "test/unseen/precision@50")["chance"] == ""  # chance of a group with map is that of map
    assert shown.row_count == 7


def test_results_of_one_split_share_a_table():
    results = {
        name: Evaluation({**FIGURES, "test/unseen/map": value}, {}, 64, "f") for name, value in (("a", 0.2), ("b", 0.3))
    }
    shown = comparison_table(results, "t")
    expected = {"a": "0.2000 (0.2000 – 0.3000)", "b": "0.3000 (0.2000 – 0.3000)"}
    assert row(shown, "test/unseen/map") == expected


@pytest.mark.parametrize("prints", [("a", "b"), ("a", "")])
def test_results_of_different_splits_are_refused(prints):
    results = {f"m{i}": Evaluation(FIGURES, {}, 64, one) for i, one in enumerate(prints)}
    with pytest.raises(ValueError, match="different split fingerprints"):
        comparison_table(results, "t")
    with pytest.raises(ValueError, match="results is empty"):
        comparison_table({}, "t")
