"""Text that is valid Unicode: lone surrogates, halves of a character, become U+FFFD."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

REPLACEMENT = "\ufffd"


class Cleaned(NamedTuple):
    """A value whose texts are valid, and how many characters of it had to be replaced."""

    value: Any
    replaced: int


def clean_text(value: Any) -> Cleaned:
    """Return a value of JSON's kinds with valid texts; two halves beside each other become their character."""
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, Mapping):
        parts = {key: clean_text(part) for key, part in value.items()}
        return Cleaned({clean_text(k).value: p.value for k, p in parts.items()}, _total(list(parts.values())))
    if isinstance(value, list) and value and not isinstance(value[0], int | float):  # long rows of numbers
        items = [clean_text(item) for item in value]
        return Cleaned([item.value for item in items], _total(items))
    return Cleaned(value, 0)


def _total(parts: list[Cleaned]) -> int:
    return sum(part.replaced for part in parts)


def _text(text: str) -> Cleaned:
    if text.isascii():
        return Cleaned(text, 0)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        valid = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        return Cleaned(valid, valid.count(REPLACEMENT) - text.count(REPLACEMENT))
    return Cleaned(text, 0)
