"""Hand-made cells against tables that were written by hand."""

import pandas as pd
import pytest

from razh.benchmark.report import _cells, _table, headline, latex, markdown, mean_table, number, spread
from razh.benchmark.results import MEAN, Results, keep_table, over_protocols, read_tables, summarise, write_table

METRIC = "test/unseen/map"


def row(label, bits, seed, value, protocol="ps", fingerprint="a", status="done"):
    found = {"label": label, "protocol": protocol, "bits": bits, "seed": seed, "status": status, "folder": label}
    return found | ({METRIC: value, "split/fingerprint": fingerprint} if status == "done" else {})


ROWS = [
    *(row("a", 16, seed, value) for seed, value in enumerate([0.30, 0.34])),
    *(row("b", 16, seed, value) for seed, value in enumerate([0.40, 0.42])),
    *(row("c_d", 16, seed, value) for seed, value in enumerate([0.10, 0.10])),
    *(row("a", 64, seed, value) for seed, value in enumerate([0.50, 0.50])),
    *(row("b", 64, seed, value) for seed, value in enumerate([0.50, 0.50])),
    row("c_d", 64, 0, 0.9),
    row("c_d", 64, 1, None, status="failed"),
]


def table(*more):
    return summarise(pd.DataFrame([*ROWS, *more]), METRIC)


def test_mean_and_sample_deviation_over_seeds():
    entry = table().loc["ps", 16, "a"]
    assert entry["mean"] == pytest.approx(0.32)
    assert entry["std"] == pytest.approx(0.02 * 2**0.5)  # (0.02² + 0.02²) / (2 − 1)
    assert spread(entry) == ".320 ± .028"


def results(*more):
    cells = pd.DataFrame([*ROWS, *more])
    return Results("name", "Title", "cub", "tiny", METRIC, "", 0, cells)


def test_places_and_ties_and_who_competes():
    found = table()
    assert found.loc["ps", 16]["place"].to_dict() == {"a": 2, "b": 1, "c_d": 3}
    assert found.loc["ps", 64]["place"].dropna().to_dict() == {"a": 1, "b": 1}
    assert not found.loc["ps", 64, "c_d"]["ranked"]  # a seed is missing: .9 of one seed wins nothing
    assert results().best(("ps", 64)) == "a"
    assert spread(found.loc["ps", 64, "c_d"]) == ".900 (1/2)"


def test_mean_over_protocols_weighs_protocols_alike_and_asks_for_all_of_them():
    second = [
        row("a", 16, 0, 0.60, "other"),
        row("b", 16, 0, 0.20, "other"),
        row("c_d", 16, 0, None, "other", status="failed"),
    ]
    whole = over_protocols(table(*second), {"ps": MEAN, "other": MEAN})
    assert list(whole.index.unique("bits")) == [16, 64]
    entry = whole.loc[MEAN, 16, "a"]
    assert entry["mean"] == pytest.approx((0.32 + 0.60) / 2)  # two seeds here, one there
    assert entry["std"] == pytest.approx(0.14 * 2**0.5)
    assert entry["place"] == 1
    assert not whole.loc[MEAN, 16, "c_d"]["ranked"]
    assert spread(whole.loc[MEAN, 16, "c_d"]) == ".100 (1/2)"
    assert whole.loc[MEAN, 64, "b"]["planned"] == 1  # the other protocol has nothing at 64 bits


def test_no_mean_is_over_two_settings():
    more = [
        row("a", 16, 0, 0.70, "fitted", "b") | {"split/setting": "collection"},
        row("b", 16, 0, 0.60, "fitted", "b") | {"split/setting": "collection"},
        row("a", 16, 0, 0.80, "again", "c") | {"split/setting": "inductive", "split/refit": True},
        row("a", 16, 0, 0.52, "other", "d") | {"split/setting": "inductive"},
        row("b", 16, 0, 0.21, "other", "d") | {"split/setting": "inductive"},
    ]
    found = results(*more)
    names = {"ps": "inductive", "fitted": "collection", "again": "inductive, refit", "other": "inductive"}
    assert found.means == names
    shown = mean_table(found)
    assert list(shown.columns) == [
        "16 bits, inductive", "64 bits, inductive", "16 bits, collection", "16 bits, inductive, refit"
    ]  # fmt: skip
    assert shown.loc["a", "16 bits, inductive"] == "**.420 ± .141**"  # of .32 and .52
    assert shown.loc["b", "16 bits, collection"] == "<u>.600</u>"  # second among two, where inductive .41 has no say
    text = headline(found)
    assert "At 16 bits, collection, `a` is +16.7% from `b`." in text
    assert "splits; mean" not in text


def test_a_setting_of_which_nothing_is_done_yet_is_in_no_mean():
    fitted = {"split/setting": "collection"}
    cells = [row("a", 16, 0, 0.7, "one", "a") | fitted, row("b", 16, 0, 0.6, "one", "a") | fitted]
    cells += [row("a", 16, 0, 0.8, "two", "b") | {"split/setting": "both"}]
    waiting = [row(label, 16, 0, None, "three", status="missing") for label in "ab"]
    found = Results("name", "Title", "cub", "tiny", METRIC, "", 0, pd.DataFrame([*cells, *waiting]))
    assert list(mean_table(found).columns) == ["16 bits, collection", "16 bits, both"]
    assert "a" in headline(found)
    alike = Results("name", "Title", "cub", "tiny", METRIC, "", 0, pd.DataFrame([*cells[:2], *waiting]))
    assert list(mean_table(alike).columns) == ["16 bits"]


def test_mean_ranks_are_of_methods_that_stand_in_every_column():
    assert results().ranks.to_dict() == {"a": (2 + 1.5) / 2, "b": (1 + 1.5) / 2}


def test_different_splits_are_refused_in_one_protocol_and_fine_in_two():
    mixed = [row("a", 16, 0, 0.3), row("b", 64, 0, 0.3, fingerprint="b")]
    with pytest.raises(ValueError, match=r"different split fingerprints.*ps in a: a.*ps in b: b"):
        summarise(pd.DataFrame(mixed), METRIC)
    fine = pd.DataFrame([mixed[0], row("b", 64, 0, 0.3, "other", "b")])
    assert len(summarise(fine, METRIC)) == 2


def shown():
    return _table({"16 bits": _cells(table(), ("ps", 16), {"a"})}, ["a", "b", "c_d"])


def test_markdown_has_bold_underline_and_dagger():
    assert [[cell.strip() for cell in line.split("|")[1:-1]] for line in markdown(shown()).splitlines()] == [
        ["method", "16 bits"],
        [":---------", "---------------------:"],
        ["a", "<u>.320 ± .028</u> †"],
        ["b", "**.410 ± .014**"],
        ["c_d", ".100 ± .000"],
    ]


def test_latex_has_bold_underline_and_dagger_and_escapes_names():
    text = latex(shown(), "50 % of A_B & C")
    assert r"a & \underline{.320 $\pm$ .028} $^\dagger$ \\" in text
    assert r"b & \textbf{.410 $\pm$ .014} \\" in text
    assert r"c\_d & .100 $\pm$ .000 \\" in text
    assert r"\caption{50 \% of A\_B \& C}" in text
    assert text.count(r"\begin{tabular}{lr}") == text.count(r"\toprule") == text.count(r"\end{tabular}") == 1


@pytest.mark.parametrize(
    ("value", "sign", "text"),
    [
        (0.4567, False, ".457"),
        (1.0, False, "1.000"),
        (-0.02, True, "−.020"),
        (0.02, True, "+.020"),
        (-1e-9, True, "+.000"),
    ],
)
def test_numbers(value, sign, text):
    assert number(value, sign) == text


def test_csv_holds_lists_and_mappings_as_json(tmp_path):
    cells = pd.DataFrame([{"label": "a", "options": {"x": [1]}, "z": 1}, {"label": "b", "options": {}, "z": 2}])
    write_table(cells, tmp_path / "t.csv")
    lines = (tmp_path / "t.csv").read_text().splitlines()
    assert lines[0] == "label,options,z"
    assert '"{""x"": [1]}"' in lines[1]


def test_a_kept_table_gives_the_same_figures_and_benchmarks_replace_themselves(tmp_path):
    file = tmp_path / "cells.csv.xz"
    first = results()
    keep_table(file, [first])
    other = Results("other", "Other", "cub", "tiny", METRIC, "a", 8, pd.DataFrame(ROWS))
    keep_table(file, [other])
    keep_table(file, [results(row("a", 16, 2, 0.32))])
    again, kept = read_tables(file)
    assert (again.identity, kept.identity) == (("name", "cub", "tiny"), ("other", "cub", "tiny"))
    assert (kept.reference, kept.trials, again.reference) == ("a", 8, "")
    assert again.table.loc["ps", 16, "a"]["count"] == 3
    columns = ["mean", "std", "count", "planned", "place"]
    pd.testing.assert_frame_equal(kept.table[columns], first.table[columns])
    file.write_text("no table")
    with pytest.raises(ValueError, match=r"cells\.csv\.xz is no table of cells"):
        read_tables(file)
    with pytest.raises(FileNotFoundError, match="no table of cells at"):
        read_tables(tmp_path / "none")
