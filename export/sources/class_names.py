"""When a trained head serves the class names that are asked for: the one place for sources of every kind."""

from __future__ import annotations

import re

_GENERIC = re.compile(r"LABEL_\d+")


def serves(own: tuple[str, ...], labels: tuple[str, ...]) -> bool:
    """Return whether a head with the classes ``own`` serves ``labels``.

    It does where they are the same names, or names for classes that have none (LABEL_0). Other names or
    another count mean other classes.
    """
    if not labels:
        return True
    if len(own) != len(labels):
        return False
    return all(map(_GENERIC.fullmatch, own)) or by_folded_name(own) == by_folded_name(labels)


def in_order(own: tuple[str, ...], labels: tuple[str, ...]) -> tuple[str, ...]:
    """Return ``labels``, in the order of the logits if they are the head's own."""
    return own if not labels or by_folded_name(own) == by_folded_name(labels) else labels


def by_folded_name(names: tuple[str, ...]) -> list[str]:
    """Return names in an order of their own, whatever their case."""
    return sorted(name.casefold() for name in names)
