"""Templates such as "{text} It was {label}": text around a record's fields."""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping, Sequence

from zoedge.errors import BundleError, DataError

from ..data.record import Record
from . import fields
from .tokenizer import Side

SLOT = "label"


class Template:
    """A template cut at its ``{label}``.

    Attributes:
        names: the fields it shows.

    Raises:
        BundleError: it has no ``{label}``, several, or isn't a template.
    """

    def __init__(self, template: str) -> None:
        try:
            parts = [(literal, name) for literal, name, _, _ in string.Formatter().parse(template)]
        except ValueError as error:
            raise BundleError(
                f"the template {template!r} is malformed ({error}): export the bundle again"
            ) from error
        slots = [i for i, (_, name) in enumerate(parts) if name == SLOT]
        if len(slots) != 1:
            raise BundleError(
                f"the template {template!r} needs {{label}} once and has it {len(slots)} times: "
                f"export with another --template"
            )
        cut = slots[0]
        self._before = [*parts[:cut], (parts[cut][0], None)]
        self._after = parts[cut + 1 :]
        self.names = tuple(name for _, name in (*self._before, *self._after) if name)
        self.ends_in_label = not any(name for _, name in self._after)

    def values(self, record: Record) -> dict[str, str]:
        """Return the record's text for each field of the template, without space around it.

        ``{text}`` is the record's text under any of its usual names; other names are looked up as they stand.

        Raises:
            DataError: a field is absent or isn't text.
        """
        return {name: _value(record, name).strip() for name in self.names}

    def render(self, values: Mapping[str, str]) -> tuple[str, str]:
        """Return the text before and after the label."""
        return _render(self._before, values), _render(self._after, values)


def fit_template(
    values: Mapping[str, str],
    spans: Callable[[str], Sequence[tuple[int, int]]],
    tokens: Callable[[Mapping[str, str]], int],
    longest: int,
    side: Side = "right",
) -> dict[str, str] | None:
    """Return the values, cut so that a rendering fits; None where the bare template doesn't.

    All values are cut to a common number of tokens, the greatest that fits: the longest lose first, and the
    template itself stays whole.

    Args:
        values: field -> text.
        spans: tells where each token of a text begins and ends, in characters.
        tokens: counts the tokens of a rendering.
        longest: most tokens.
        side: the end that values lose.
    """
    if tokens(values) <= longest:
        return dict(values)
    found = {name: spans(value) for name, value in values.items()}

    def cut(size: int) -> dict[str, str]:
        return {name: _kept(value, found[name], size, side) for name, value in values.items()}

    if tokens(cut(0)) > longest:
        return None
    low, high = 0, max(map(len, found.values())) + 1  # ``low`` fits, ``high`` doesn't
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if tokens(cut(middle)) <= longest else (low, middle)
    return cut(low)


def _kept(value: str, spans: Sequence[tuple[int, int]], size: int, side: Side) -> str:
    """Return the part of a text that its first or last ``size`` tokens cover."""
    if side == "right":
        return value[: spans[min(size, len(spans)) - 1][1]] if size and spans else ""
    return value[spans[max(0, len(spans) - size)][0] :] if size and spans else ""


def _render(parts: list[tuple[str, str | None]], values: Mapping[str, str]) -> str:
    return "".join(literal + (values[name] if name else "") for literal, name in parts)


def _value(record: Record, name: str) -> str:
    if name in record.fields or name not in fields.TEXT_KEYS:
        return fields.text(record, name)
    first, second = fields.texts(record)
    if second is not None:
        raise DataError(
            f"{record.where} is a pair of texts and the template shows one {{text}}: "
            f"export with a --template that names both fields"
        )
    return first
