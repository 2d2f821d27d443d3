"""Quotes in tab-separated files: written around fields, or by people."""

import csv

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoedge.runtime.data import read
from zoedge.runtime.data.quotes import quotes_fields

TEXT = st.text(
    st.characters(exclude_categories=("C", "Z")) | st.sampled_from(' "\t'), min_size=1, max_size=12
)


@given(
    st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=5),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
)
def test_what_a_program_wrote_is_read_as_it_was(tmp_path_factory, rows, quoting):
    path = tmp_path_factory.mktemp("quotes") / "rows.tsv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, csv.excel_tab, quoting=quoting).writerows([("text", "label"), *rows])
    assert [tuple(record.fields.values()) for record in read(path)] == rows


@pytest.mark.parametrize(
    "text", ['"Great movie"', 'He said "hi"', '"Well', 'so "" what', '"quoted" and not', '5" disk', "plain"]
)
def test_what_people_wrote_stays(tmp_path, text):
    path = tmp_path / "rows.tsv"
    path.write_text(f"text\tlabel\n{text}\ta\nother\tb\n")
    assert [record.fields["text"] for record in read(path)] == [text, "other"]


def test_texts_in_quotes_beside_bare_numbers_are_a_programs():
    assert quotes_fields(['"text"\t"n"\n', '"a"\t1\n', '"b c"\t2.5\n'], csv.excel_tab)
    assert not quotes_fields(["a\tb\n", "c\td\n"], csv.excel_tab)
