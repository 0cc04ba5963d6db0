import pytest

from razh.datamodules.files.text import cells, decode, lines, name_list, split_names

TEXT = "class;größe\nkäfer;1\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_every_unicode_text_is_read_with_and_without_its_mark(encoding):
    assert decode(TEXT.encode(encoding), "a.csv")[0] == TEXT


@pytest.mark.parametrize(
    ("page", "name"), [("cp1252", "käfer"), ("cp932", "縞馬"), ("cp1251", "зебра"), ("cp949", "얼룩말")]
)
def test_a_code_page_is_taken_where_expected_names_fit(page, name):
    content = f"class,a\n{name},1\n".encode(page)
    assert decode(content, "a.csv", [name, "lion"])[0].split("\n")[1] == f"{name},1"
    with pytest.raises(ValueError, match=r"a.csv is not UTF-8 \(byte 0x.. in line 2\); save it as UTF-8"):
        decode(content, "a.csv", ["lion"])


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends_marks_and_trailing_blanks(tmp_path, end):
    (tmp_path / "a.txt").write_bytes(("\ufeff1 a b.jpg \t" + end + end + "2 c" + end + "\x1a").encode())
    assert lines(tmp_path / "a.txt") == ["1 a b.jpg", "2 c"]


@pytest.mark.parametrize(
    ("content", "fault"),
    [(b"PK\x03\x04sheet", "is a workbook or an archive"), (b"a,b\n\0\0\0\1,2\n", "is no text .it holds zero bytes.")],
)
def test_what_is_no_text_is_named(content, fault):
    with pytest.raises(ValueError, match=f"a.csv {fault}"):
        decode(content, "a.csv")


@pytest.mark.parametrize(
    ("text", "separator"),
    [
        ("class;a;b\nx;0,5;1,5\n", ";"),
        ("x;0,5;0,25;1\ny;0,5;0,25;0\n", ";"),
        ("sep=|\nclass|a;b|c\nx|1|2\n", "|"),
        ("class\ta, b\nx\t0,5\n", "\t"),
        ('class,"a;b"\nx,1\n', ","),
        ("class,a,b\nx,1\ny,1,2\n", ","),
    ],
)
def test_the_separator_is_found(text, separator):
    rows, found = cells(text, "a.csv")
    assert (found, rows[0][0]) == (separator, text[0] if text[0] == "x" else "class")
    assert separator not in "".join(cell for row in rows for cell in row if cell != "a;b")


def test_quotes_blanks_and_rows_without_content():
    text = 'class,"a\nb"\n"big, bird" , 1\n,\n\n'
    assert cells(text, "a.csv")[0] == [["class", "a b"], ["big, bird", "1"]]
    assert cells("1 2\n\n3  4\n", "a.txt", blanks=True)[0] == [["1", "2"], ["3", "4"]]
    with pytest.raises(ValueError, match=r"a\.csv: a quote is not closed"):
        cells('class,a\n"x,1\ny,2\n', "a.csv")


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("1e3", ["1e3"]),
        ("[no, on]", ["no", "on"]),
        ("[010,002]", ["010", "002"]),
        ("null", ["null"]),
        ("a: b, #c", ["a: b", "#c"]),
        ("\"big, bird\", 'a, b', Steller's jay", ["big, bird", "a, b", "Steller's jay"]),
        ('["a, b", "c"]', ["a, b", "c"]),
        ("", []),
        ("[]", []),
    ],
)
def test_names_are_read_as_they_are_written(text, names):
    assert name_list(text) == names


def test_names_come_from_a_file_too(tmp_path):
    (tmp_path / "unseen.txt").write_bytes("no\r\n010\r\nbig, bird\r\n".encode("utf-16"))
    assert name_list(str(tmp_path / "unseen.txt")) == ["no", "010", "big, bird"]
    assert split_names("a,,b") == ["a", "", "b"]  # what is between two commas is not dropped in silence
