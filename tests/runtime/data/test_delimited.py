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
