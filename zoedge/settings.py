"""The facts of a setting: its help, its range, its names and when it may change, all in its field's annotation.

A class of settings is a ``msgspec.Struct`` whose fields are ``Annotated[type, Setting(...)]``. Flags, checks, the
reading of YAML and what a resumed run may be given follow from these annotations.
"""

from __future__ import annotations

import functools
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_type_hints

import msgspec

from .errors import InputError


@dataclass(frozen=True)
class Setting:
    """What is known of a setting besides its type and its default.

    Attributes:
        help: the text of its flag.
        above, least: the open or the closed lower bound of a number.
        below, most: the open or the closed upper bound.
        free: whether a resumed run may be given another value.
        expert: whether it only overrides what is measured or chosen otherwise; the help lists it apart.
        aliases: what other trainers call its flag, which works here, too.
        also: other names, which errors translate.
        short: its flag of one letter.
    """

    help: str
    above: float | None = None
    least: float | None = None
    below: float | None = None
    most: float | None = None
    free: bool = False
    expert: bool = False
    aliases: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    short: str | None = None

    @property
    def wanted(self) -> str:
        """The range in words; "" where there is none."""
        bounds = (
            ("above", self.above),
            ("at least", self.least),
            ("below", self.below),
            ("at most", self.most),
        )
        return " and ".join(f"{word} {_number(bound)}" for word, bound in bounds if bound is not None)

    def allows(self, value: float) -> bool:
        """Return whether a number lies in the range."""
        return (
            math.isfinite(value)
            and (self.above is None or value > self.above)
            and (self.least is None or value >= self.least)
            and (self.below is None or value < self.below)
            and (self.most is None or value <= self.most)
        )


@functools.cache
def facts(settings: type[msgspec.Struct]) -> Mapping[str, Setting]:
    """Return name -> facts of the settings of a class, in order."""
    hints = get_type_hints(settings, include_extras=True)
    return {
        name: next(m for m in hints[name].__metadata__ if isinstance(m, Setting))
        for name in settings.__struct_fields__
        if typing.get_origin(hints[name]) is Annotated
    }


def flag(name: str) -> str:
    """Return the flag of a setting.

    >>> flag("batch_size")
    '--batch-size'
    """
    return f"--{name.replace('_', '-')}"


def kind(settings: type[msgspec.Struct], name: str) -> Any:
    """Return the type of a setting, without None."""
    hint = get_type_hints(settings)[name]
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return next(k for k in typing.get_args(hint) if k is not types.NoneType)
    return hint


def convert(values: Mapping[str, Any], settings: type[msgspec.Struct], where: str, suffix: str = "") -> Any:
    """Return validated settings.

    Args:
        values: name -> value.
        settings: their class.
        where: the place that errors name.
        suffix: ends the sentence about a value out of its range.

    Raises:
        InputError: a value of the wrong type or out of its range.
    """
    try:
        made = msgspec.convert(dict(values), settings)
    except msgspec.ValidationError as error:
        raise InputError(f"{where} can't be used: {error}") from error
    for name, setting in facts(settings).items():
        value = getattr(made, name)
        if isinstance(value, int | float) and not isinstance(value, bool) and not setting.allows(value):
            wanted = setting.wanted or "a finite number"
            raise InputError(f"{flag(name)} is {value} and must be {wanted}{suffix}")
    return made


def from_yaml(settings: type[msgspec.Struct], name: str, value: Any) -> Any:
    """Return a file's value as its setting means it: YAML 1.1 reads 1e-5 as text, no as false, 45 as a number."""
    wanted = kind(settings, name) if name in settings.__struct_fields__ else None
    if isinstance(value, str) and wanted is float:
        try:
            return float(value)
        except ValueError:
            return value
    text = wanted is str or (
        typing.get_origin(wanted) is Literal and all(isinstance(v, str) for v in typing.get_args(wanted))
    )
    if isinstance(value, bool) and text:
        return "yes" if value else "no"
    if isinstance(value, int | float) and not isinstance(value, bool) and text:
        return str(value)
    return value


def _number(value: float) -> str:
    power = math.log2(value) if value > 2**53 else 0.0
    return f"2^{power:g}" if power else f"{value:g}"
