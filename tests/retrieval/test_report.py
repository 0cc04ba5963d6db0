import io

import pytest
from rich.console import Console

from razh.retrieval.evaluation import Evaluation
from razh.retrieval.report import comparison_table, table

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


def lines(shown):
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(shown)
    return console.export_text().splitlines()


def row(shown, name):
    found = [line for line in lines(shown) if f" {name} " in line]
    assert len(found) == 1, found
    return [cell.strip() for cell in found[0].replace("┃", "│").split("│")[1:-1]]


def test_value_chance_and_band_stand_in_one_row():
    shown = table(FIGURES, "title")
    assert row(shown, "test/unseen/map") == ["test/unseen/map", "0.2500", "0.0200", "0.2000 – 0.3000"]
    assert row(shown, "test/unseen/map@50") == ["test/unseen/map@50", "0.4000", "0.0300", "0.3500 – 0.4500"]
    assert row(shown, "test/unseen/map@50/all")[1:] == ["0.1000", "", ""]
    assert row(shown, "test/unseen/queries")[1] == "12"
    assert row(shown, "codes/effective_bits")[1] == "43.8000"
    assert shown.row_count == 5


def test_chance_of_figures_without_a_group():
    shown = table({"map": 0.25, "chance": 0.02, "map@50": 0.4, "chance@50": 0.03}, "title")
    assert [row(shown, name)[2] for name in ("map", "map@50")] == ["0.0200", "0.0300"]


def test_a_group_without_map_has_one_chance():
    shown = table({**FIGURES, "test/unseen/precision@50": 0.1, "a/zero_shot/hash": 0.4, "a/zero_shot/chance": 0.1}, "")
    assert row(shown, "a/zero_shot/hash")[1:3] == ["0.4000", "0.1000"]
    assert row(shown, "test/unseen/precision@50")[2] == ""  # chance of a group with map is that of map
    assert shown.row_count == 7


def test_results_of_one_split_share_a_table():
    results = {
        name: Evaluation({**FIGURES, "test/unseen/map": value}, {}, 64, "f") for name, value in (("a", 0.2), ("b", 0.3))
    }
    assert row(comparison_table(results, "t"), "test/unseen/map")[1:] == [
        "0.2000 (0.2000 – 0.3000)",
        "0.3000 (0.2000 – 0.3000)",
    ]


@pytest.mark.parametrize("prints", [("a", "b"), ("a", "")])
def test_results_of_different_splits_are_refused(prints):
    results = {f"m{i}": Evaluation(FIGURES, {}, 64, one) for i, one in enumerate(prints)}
    with pytest.raises(ValueError, match="different split fingerprints"):
        comparison_table(results, "t")
    with pytest.raises(ValueError, match="results is empty"):
        comparison_table({}, "t")
