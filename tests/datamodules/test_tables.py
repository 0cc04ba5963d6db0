import numpy as np
import pytest

from razh.datamodules.files.tables import inspect_class_table, parse_numbers, read_numbered

NAN = float("nan")


@pytest.mark.parametrize(
    ("cells", "values"),
    [
        (["0,5", "1,234"], [0.5, 1.234]),
        (["0.5", "1,234"], [0.5, 1234]),
        (["1.234,5", "1.234"], [1234.5, 1234]),
        (["1,234,567.5"], [1234567.5]),
        (["1,234"], [NAN]),
        (["1.234"], [1.234]),
        (["0,5", "1.5", "1.234"], [0.5, 1.5, NAN]),
        (["50%", "12,5 %", "−3", ".5", "1e-3"], [0.5, 0.125, -3, 0.5, 0.001]),
        (["1_000", "nan", "-inf", "1e999", "", "x", "1 2", "0x10"], [NAN] * 8),
    ],
)
def test_numbers_are_read_where_they_can_mean_one_thing(cells, values):
    np.testing.assert_array_equal(parse_numbers([cells])[0], values)


def inspect(tmp_path, text):
    (tmp_path / "a.csv").write_text(text, encoding="utf-8")
    return inspect_class_table(tmp_path / "a.csv")


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("class;a;b\ncat;0,5;1\ndog;0,25;0\n", [[0.5, 1], [0.25, 0]]),
        ("sep=;\nclass;a;b;\ncat;50 %;yes;\ndog;7%;No;\n;;;\n", [[0.5, 1], [0.07, 0]]),
        ("class\ta\tb\ncat\tx\ttrue\ndog\t\tFALSE\n", [[1, 1], [0, 0]]),
        ("class,1,2\ncat,1,2\ndog,3,4\n", [[1, 2], [3, 4]]),
    ],
)
def test_what_is_unambiguous_is_read(tmp_path, text, values):
    table = inspect(tmp_path, text)
    assert table.problems == ()
    assert table.classes == ("cat", "dog")
    np.testing.assert_allclose(table.values, values)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("cat,0.1,0.2\ndog,0.3,0.4\n", "its first row holds numbers where the attributes' names belong"),
        ("class,a,b\ncat,0,5,0,5\ndog,1,0,0,5\n", "2 rows have two values for each attribute: decimal commas"),
        ("class,a\ncat,forest\ndog,lake\n", "column 'a' holds words ('forest', …), no numbers"),
        ("class,a\ncat,50%\ndog,3\n", "column 'a' mixes per cent and plain numbers"),
        ("class;a\ncat;1,234\n", "'1,234' in row 'cat', column 'a' may be 1.234 or 1234"),
        ("class,,b\ncat,1,2\n", "column 2 has values but no name"),
        ("class,a\ncat,1\n,2\n", "row 3 has values but no name"),
        ("class,a,b\ncat,,\ndog,1,2\n", "class 'cat' has no value for 'a', 'b'"),
    ],
)
def test_the_cause_of_what_cannot_be_read_is_named(tmp_path, text, problem):
    problems = inspect(tmp_path, text).problems
    assert [found for found in problems if found.startswith(problem)], problems
    assert len(problems) == 1


def test_all_problems_are_found_at_once(tmp_path):
    problems = inspect(tmp_path, "class,a,a\ncat,1,\ncat,often,inf\ndog,1,2,3\n").problems
    assert [problem.split(";")[0] for problem in problems] == [
        "attribute 'a' comes twice",
        "class 'cat' comes twice",
        "class 'dog' has 3 values, but the header names 2",
        "class 'cat' has no value for 'a'",
        "'often' in row 'cat', column 'a' is not a number",
        "'inf' in row 'cat', column 'a' is not a number",
    ]


def test_the_index_of_pandas_is_left_out(tmp_path):
    (tmp_path / "a.csv").write_text(",class,a\n0,cat,1\n1,dog,2\n")
    table = inspect_class_table(tmp_path / "a.csv", ["cat", "dog"])
    assert (table.classes, table.values.tolist(), table.problems) == (("cat", "dog"), [[1], [2]], ())
    assert table.notes == ("its first column counts the rows, and is left out",)
    with pytest.raises(ValueError, match="is a folder, no table"):
        inspect_class_table(tmp_path)


def test_numbered_lines(tmp_path):
    (tmp_path / "a.txt").write_bytes("\ufeff1 a b.jpg \r\n 2\tc\r\n".encode())
    assert read_numbered(tmp_path / "a.txt") == {1: "a b.jpg", 2: "c"}
    (tmp_path / "a.txt").write_text("1 a\n1 b\n")
    with pytest.raises(ValueError, match="2 lines, but 1 different numbers"):
        read_numbered(tmp_path / "a.txt")
