from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoedge.runtime.data.unicode import clean


@given(st.text(st.sampled_from("aé🎬\ufffd\ud83d\udfac\udcff"), max_size=8))
def test_texts_become_valid_and_lose_nothing_else(text):
    paired = re.sub(r"\ud83d\udfac", "\U0001f7ac", text)  # two halves beside each other are their character
    halves = re.findall(r"[\ud800-\udfff]", paired)
    assert clean(text) == (re.sub(r"[\ud800-\udfff]", "\ufffd", paired), len(halves))
    clean(text).value.encode("utf-8")


@pytest.mark.parametrize("value", [3, None, [1, 2], {"a": [0.5]}, ["x", None], True])
def test_what_holds_no_broken_text_stays(value):
    assert clean(value) == (value, 0)


def test_names_and_nested_texts_are_cleaned():
    assert clean({"\ud83d": [{"b": "\ud83d"}]}) == ({"\ufffd": [{"b": "\ufffd"}]}, 1)
