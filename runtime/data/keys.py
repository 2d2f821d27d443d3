"""The names that a user's file gives to the fields that tasks look for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import NamedTuple, TypedDict, cast

from zoedge.errors import DataError, near
from zoedge.options import TuneOptions

from .header import headed, header_hint
from .record import LazyRecords, Record


@dataclass(frozen=True)
class KeyNames:
    """What the file calls a field, where that isn't one of the names a task finds by itself.

    ``label`` may name several columns, "height,weight": the label is then the list of their values.
    """

    text: str | None = None
    label: str | None = None
    prompt: str | None = None
    completion: str | None = None
    chat: str | None = None

    @classmethod
    def of(cls, options: TuneOptions) -> KeyNames:
        """Return the names that the options of a run give."""
        return cls(**{field.name: getattr(options, f"{field.name}_key") for field in fields(cls)})

    def overridden(self, given: KeyOptions) -> KeyNames:
        """Return these names, replaced where others are given."""
        named = cast("Mapping[str, str | None]", given)
        own = {f.name: name for f in fields(self) if (name := named.get(f"{f.name}_key")) is not None}
        return replace(self, **own)


class KeyOptions(TypedDict, total=False):
    """The same names as keyword arguments, called as the flags are."""

    text_key: str | None
    label_key: str | None
    prompt_key: str | None
    completion_key: str | None
    chat_key: str | None


_CANONICAL = {"chat": "messages"}  # the others are called as the attribute


def rename(
    records: Sequence[Record], keys: KeyNames, *, labelled: bool = True, header: Sequence[str] = ()
) -> Sequence[Record]:
    """Return the records with the user's names replaced by the tasks' own.

    Args:
        records: as read.
        keys: the user's names.
        labelled: False where labels aren't needed; a missing label or completion is then no error.
        header: the columns that the file should have, for errors; () where that isn't known.

    Raises:
        DataError: on access, for a record without a field that ``keys`` names.
    """
    given = {f.name: name for f in fields(keys) if (name := getattr(keys, f.name)) is not None}
    return _Renamed(records, given, labelled, header) if given else records


class Named(NamedTuple):
    """Records under the names that tasks look for; ``headed`` tells whether their file names no columns itself."""

    records: Sequence[Record]
    headed: bool


def named(
    records: Sequence[Record],
    keys: KeyNames,
    header: Sequence[str],
    features: Sequence[str],
    *,
    labelled: bool = True,
) -> Named:
    """Return records as ``rename`` does; those of a file without a header line are called as another file's are.

    Args:
        records: as read.
        keys: the user's names; where they are positions of this file, no other file's names are needed.
        header, features: of the other file, see ``header.headed``.
        labelled: False where labels aren't needed.

    Raises:
        DataError: on access, for a record without a field that ``keys`` names.
    """
    given = [part for f in fields(keys) for part in (getattr(keys, f.name) or "").split(",")]
    own = any(part.strip() in records[0].fields for part in given)
    found = None if own else headed(records, header, features)
    return Named(rename(found or records, keys, labelled=labelled, header=header), found is not None)


class _Renamed(LazyRecords):
    def __init__(
        self, records: Sequence[Record], given: dict[str, str], labelled: bool, header: Sequence[str]
    ) -> None:
        self._records, self._given, self._labelled, self._header = records, given, labelled, header

    def __len__(self) -> int:
        return len(self._records)

    def _at(self, row: int) -> Record:
        record = self._records[row]
        left = dict(record.fields)
        named = {}
        for key, name in self._given.items():
            columns = [name] if name in left else [part.strip() for part in name.split(",")]
            missing = [column for column in columns if column not in record.fields]
            if missing and not self._labelled and key in ("label", "completion"):
                continue
            if missing:
                hint = near(missing[0], record.fields) or f"; its fields are {', '.join(record.fields)}"
                raise DataError(
                    f"{record.where} has no field {missing[0]!r}, which --{key}-key names{hint}"
                    f"{header_hint(record.names, self._header)}"
                )
            values = [record.fields[column] for column in columns]
            for column in columns:
                left.pop(column, None)
            named[_CANONICAL.get(key, key)] = values[0] if len(values) == 1 else values
        return replace(record, fields={**left, **named}, columns=record.names)
