"""Hand-made rows against tables that were written by hand."""

import pytest

from razh.benchmark.rows import write_csv
from razh.benchmark.tables import columns, latex, markdown, mean_ranks, number, over_protocols, spread, value_cell

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


def test_mean_and_sample_deviation_over_seeds():
    entry = columns(ROWS, METRIC)["ps", 16].entries["a"]
    assert entry.mean == pytest.approx(0.32)
    assert entry.deviation == pytest.approx(0.02 * 2**0.5)  # (0.02² + 0.02²) / (2 − 1)
    assert spread(entry) == ".320 ± .028"


def test_places_and_ties_and_who_competes():
    found = columns(ROWS, METRIC)
    assert [found["ps", 16].place(label) for label in ("a", "b", "c_d")] == [2, 1, 3]
    assert [found["ps", 64].place(label) for label in ("a", "b")] == [1, 1]
    assert found["ps", 64].place("c_d") is None  # a seed is missing: .9 of one seed wins nothing
    assert found["ps", 64].best == "a"
    assert spread(found["ps", 64].entries["c_d"]) == ".900 (1/2)"


def test_mean_over_protocols_weighs_protocols_alike_and_asks_for_all_of_them():
    second = [
        row("a", 16, 0, 0.60, "other"),
        row("b", 16, 0, 0.20, "other"),
        row("c_d", 16, 0, None, "other", status="failed"),
    ]
    whole = over_protocols(columns([*ROWS, *second], METRIC))
    assert list(whole) == [16, 64]
    assert whole[16].entries["a"].mean == pytest.approx((0.32 + 0.60) / 2)  # two seeds here, one there
    assert whole[16].entries["a"].deviation == pytest.approx(0.14 * 2**0.5)
    assert whole[16].best == "a"
    assert "c_d" not in whole[16].ranked
    assert spread(whole[16].entries["c_d"]) == ".100 (1/2)"
    assert whole[64].entries["b"].planned == 1  # the other protocol has nothing at 64 bits


def test_mean_ranks_are_of_methods_that_stand_in_every_column():
    assert mean_ranks(columns(ROWS, METRIC)) == {"a": (2 + 1.5) / 2, "b": (1 + 1.5) / 2}


def test_different_splits_are_refused_in_one_protocol_and_fine_in_two():
    mixed = [row("a", 16, 0, 0.3), row("b", 64, 0, 0.3, fingerprint="b")]
    with pytest.raises(ValueError, match=r"different split fingerprints.*ps in a: a.*ps in b: b"):
        columns(mixed, METRIC)
    assert len(columns([mixed[0], row("b", 64, 0, 0.3, "other", "b")], METRIC)) == 2


def test_markdown_has_bold_underline_and_dagger():
    found = columns(ROWS, METRIC)
    shown = [[label, value_cell(found["ps", 16], label, {"a"})] for label in ("a", "b", "c_d")]
    assert markdown(["method", "16 bits"], shown).splitlines() == [
        "| method | 16 bits |",
        "| --- | ---: |",
        "| a | <u>.320 ± .028</u> † |",
        "| b | **.410 ± .014** |",
        "| c_d | .100 ± .000 |",
    ]


def test_latex_has_bold_underline_and_dagger_and_escapes_names():
    found = columns(ROWS, METRIC)
    shown = [[label, value_cell(found["ps", 16], label, {"a"})] for label in ("a", "b", "c_d")]
    text = latex(["method", "16 bits"], shown, "50 % of A_B & C")
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
    write_csv([{"label": "a", "options": {"x": [1]}, "z": 1}, {"label": "b", "y": None}], tmp_path / "t.csv")
    lines = (tmp_path / "t.csv").read_text().splitlines()
    assert lines[0].startswith("method,label,dataset,protocol,backbone,bits,seed,status")
    assert lines[0].endswith(",z,y")
    assert '"{""x"": [1]}"' in lines[1]
