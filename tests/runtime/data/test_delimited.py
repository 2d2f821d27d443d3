from __future__ import annotations

import csv

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoedge.errors import DataError
from zoedge.runtime.data.delimited import read_csv, read_tsv

CELLS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00\r"), max_size=8)


def write(tmp_path, raw: str | bytes, name: str = "data.csv"):
    path = tmp_path / name
    path.write_bytes(raw if isinstance(raw, bytes) else raw.encode())
    return path


def test_quotes_commas_and_line_breaks_with_line_numbers(tmp_path):
    path = write(tmp_path, 'text,label\n"a, ""b""\nc",x\n\nplain,y\n"1\n2\n3",z\nlast,w\n')
    records = read_csv(path)
    assert [r.fields["text"] for r in records] == ['a, "b"\nc', "plain", "1\n2\n3", "last"]
    assert [r.where for r in records] == [f"{path}:{n}" for n in (2, 5, 6, 9)]


@given(st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=6))
def test_reads_what_the_csv_module_writes(tmp_path_factory, table):
    path = tmp_path_factory.mktemp("csv") / "data.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_ALL)
        writer.writerow(["a", "b"])
        writer.writerows(table)
    assert [(r.fields["a"], r.fields["b"]) for r in read_csv(path)] == table


NAMES = st.text(st.sampled_from('abc;,|\t"x '), min_size=1, max_size=5).map(str.strip).filter(len)


@given(
    st.sampled_from(",;\t|"),
    st.lists(NAMES, min_size=2, max_size=4, unique=True),
    st.lists(
        st.lists(st.text(st.sampled_from('ab;,|\t"\n\r'), max_size=5), min_size=4, max_size=4), min_size=1
    ),
)
def test_no_separator_is_ever_mistaken(tmp_path_factory, separator, names, rows):
    path = tmp_path_factory.mktemp("csv") / "data.csv"
    rows = [row[: len(names)] for row in rows]
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=separator).writerows([names, *rows])
    try:
        read = [record.fields for record in read_csv(path)]
    except DataError as error:
        read = str(error)
    said = isinstance(read, str) and "could be separated by" in read
    assert said or read == [dict(zip(names, row, strict=True)) for row in rows]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_separators_of_other_tools(tmp_path, separator):
    path = write(
        tmp_path,
        'text,label\n"a fine, short; film|x\t",good\n'.replace(",l", f"{separator}l").replace(
            ",g", f"{separator}g"
        ),
    )
    assert [r.fields for r in read_csv(path)] == [{"text": "a fine, short; film|x\t", "label": "good"}]


def test_a_header_with_two_separators_is_settled_by_the_rows(tmp_path):
    by_semicolon = write(tmp_path, "size, cm;label\n1;a\n2,5;b\n")
    assert [r.fields for r in read_csv(by_semicolon)] == [
        {"size, cm": "1", "label": "a"},
        {"size, cm": "2.5", "label": "b"},
    ]
    by_comma = write(tmp_path, "size; cm,label\n1,a\n")
    assert [r.fields for r in read_csv(by_comma)] == [{"size; cm": "1", "label": "a"}]
    both = write(tmp_path, "size, cm;label\n1,5;a\n")
    with pytest.raises(
        DataError, match=r"data\.csv:1 could be separated by commas or semicolons.*put quotes"
    ):
        read_csv(both)
    quoted = write(tmp_path, '"size, cm";label\n1,5;a\n')
    assert [r.fields for r in read_csv(quoted)] == [{"size, cm": "1.5", "label": "a"}]


def test_a_broken_row_is_said_by_the_separator_of_the_header(tmp_path):
    with pytest.raises(DataError, match=r"data\.csv:2 has 3 fields and the header names 2 \(text, label\)"):
        read_csv(write(tmp_path, "text;label\na; b;good\n"))


def test_first_line_that_names_the_separator(tmp_path):
    path = write(tmp_path, "sep=;\r\na,b;c\r\n1,5;2,5\r\n")
    (record,) = read_csv(path)
    assert record.fields == {"a,b": "1.5", "c": "2.5"}
    assert record.where == f"{path}:3"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-8-sig", "utf-8"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_encodings_and_line_ends(tmp_path, encoding, end):
    text = end.join(["text,label", "a café 🎬,good", "", "dull,bad", ""])
    path = write(tmp_path, text.encode(encoding))
    records = read_csv(path)
    assert [r.fields for r in records] == [
        {"text": "a café 🎬", "label": "good"},
        {"text": "dull", "label": "bad"},
    ]
    assert [r.where for r in records] == [f"{path}:2", f"{path}:4"]


def test_utf_16_that_is_cut(tmp_path):
    with pytest.raises(DataError, match=r"data\.csv:2 is not UTF-16, though the file begins like it"):
        read_csv(write(tmp_path, "a,b\n1,2".encode("utf-16") + b"x"))


@pytest.mark.parametrize("name", ["", "Unnamed: 0"])
def test_the_index_of_a_data_frame_is_left_out(tmp_path, name):
    path = write(tmp_path, f"{name},x,label\n0,1.5,a\n7,2.5,b\n3,3.5,a\n")
    assert [r.fields for r in read_csv(path)] == [
        {"x": x, "label": y} for x, y in (("1.5", "a"), ("2.5", "b"), ("3.5", "a"))
    ]


def test_a_first_column_that_is_no_index_stays(tmp_path):
    (first, _) = read_csv(write(tmp_path, "Unnamed: 0,x\n1,a\n1,b\n"))
    assert first.fields == {"Unnamed: 0": "1", "x": "a"}


def test_empty_columns_without_a_name_are_left_out(tmp_path):
    assert [r.fields for r in read_csv(write(tmp_path, "a;b;;\n1;2;;\n3;4; ;\n"))] == [
        {"a": "1", "b": "2"},
        {"a": "3", "b": "4"},
    ]


def test_a_field_of_any_length(tmp_path):
    (record,) = read_csv(write(tmp_path, f"text,label\n{'x' * 200_000},good\n"))
    assert len(record.fields["text"]) == 200_000


def test_byte_order_mark_and_windows_line_ends(tmp_path):
    (record,) = read_csv(write(tmp_path, b"\xef\xbb\xbftext,label\r\na,1\r\n"))
    assert record.fields == {"text": "a", "label": "1"}


def test_tsv_takes_quotes_as_they_are(tmp_path):
    (record,) = read_tsv(write(tmp_path, 'sentence\tlabel\n"quoted" and "open\t1\n', "data.tsv"))
    assert record.fields == {"sentence": '"quoted" and "open', "label": "1"}


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ("a,b\n1,2\n3\n", r"data\.csv:3 has 1 fields and the header names 2 \(a, b\): put quotes"),
        ("a,b\n1,2,3\n", r"data\.csv:2 has 3 fields"),
        ('a,b\n1,2\n"3,4\n5,6\n', r"data\.csv:3 is malformed \(unexpected end of data\): check the quotes"),
        ('a,b\n"1"x,2\n', r"data\.csv:2 is malformed"),
        ("a,a\n1,2\n", r"data\.csv:1 names the column 'a' twice"),
        ("a,\n1,2\n", r"data\.csv:1 has a column without a name"),
        (b"a,b\n1,2\ncaf\xe9,3\n", r"data\.csv:3 is not UTF-8 \(byte 0xe9 at position 4\).*iconv"),
    ],
)
def test_malformed(tmp_path, raw, message):
    with pytest.raises(DataError, match=message) as caught:
        read_csv(write(tmp_path, raw))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("raw", ["1,2.5\n3,4\n", "0.5,1\n3,4\n"])
def test_a_file_that_begins_with_numbers_has_its_columns_called_by_position(tmp_path, raw):
    (tmp_path / "data.csv").write_text(raw)
    first, second = read_csv(tmp_path / "data.csv")
    assert list(first.fields) == ["1", "2"]
    assert first.where.endswith("data.csv:1")
    assert second.fields == {"1": "3", "2": "4"}


@pytest.mark.parametrize("header", ["0,1,2", "1,2,3"])
def test_counted_columns_are_a_header(tmp_path, header):
    """As pandas writes a frame without names."""
    (tmp_path / "data.csv").write_text(f"{header}\n7,8,9\n")
    (only,) = read_csv(tmp_path / "data.csv")
    assert only.fields == dict(zip(header.split(","), "789", strict=True))


@pytest.mark.parametrize(
    ("raw", "first"),
    [
        ("a;b;text\n3,14;-,5;x, y\n2;;1,5\n", {"a": "3.14", "b": "-.5", "text": "x, y"}),
        ("a;b\n1,5E-3; 2,\n1,234;7\n", {"a": "1.5E-3", "b": " 2."}),
        ("0,125;1\n1,250;2\n", {"1": "0.125", "2": "1"}),
        ("1,5;2,25\n3,5;4,25\n", {"1": "1.5", "2": "2.25"}),
        ("a;b\n1,5;n/a\n2,5;3,5\n", {"a": "1.5", "b": "n/a"}),
    ],
)
def test_decimal_commas_between_semicolons_are_points(tmp_path, raw, first):
    assert read_csv(write(tmp_path, raw))[0].fields == first


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (
            "a;b\n3,14;1\n2.5;2\n",
            r"like '3,14' in the column 'a' and '2\.5' in the column 'a': write numbers with",
        ),
        ("a;b\n3,14;1.5\n2,5;2.5\n", r"like '3,14' in the column 'a' and '1\.5' in the column 'b'"),
        ("a\n3,14\n".replace("a", "a;b").replace("14", "14;1.234,5"), r"and '1\.234,5' in the column 'b'"),
        (
            "a;b\n1,234;1\n12,000;2\n",
            r"like '1,234' in the column 'a', that may be decimal commas or separate",
        ),
    ],
)
def test_commas_that_may_be_something_else_are_refused(tmp_path, raw, message):
    with pytest.raises(DataError, match=message):
        read_csv(write(tmp_path, raw))


def test_commas_in_numbers_stay_where_something_else_separates(tmp_path):
    assert read_csv(write(tmp_path, 'a,b\n"3,14",1\n'))[0].fields == {"a": "3,14", "b": "1"}
    assert read_csv(write(tmp_path, "a\tb\n3,14\t1\n"))[0].fields == {"a": "3,14", "b": "1"}
