from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoedge.runtime.data.unicode import clean_text


def _character(halves):
    """Return the character of two halves beside each other (Unicode, section 3.8)."""
    high, low = (ord(half) for half in halves[0])
    return chr(0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00))


@given(st.text(st.sampled_from("aé🎬\ufffd\ud83d\udfac\udcff"), max_size=8))
def test_texts_become_valid_and_lose_nothing_else(text):
    paired = re.sub(r"[\ud800-\udbff][\udc00-\udfff]", _character, text)
    halves = re.findall(r"[\ud800-\udfff]", paired)
    assert clean_text(text) == (re.sub(r"[\ud800-\udfff]", "\ufffd", paired), len(halves))
    clean_text(text).value.encode("utf-8")


@pytest.mark.parametrize("value", [3, None, [1, 2], {"a": [0.5]}, ["x", None], True])
def test_what_holds_no_broken_text_stays(value):
    assert clean_text(value) == (value, 0)


def test_names_and_nested_texts_are_cleaned():
    assert clean_text({"\ud83d": [{"b": "\ud83d"}]}) == ({"\ufffd": [{"b": "\ufffd"}]}, 1)
