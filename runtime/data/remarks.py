"""What became of rows that couldn't be taken as they are, in sentences that the user should read."""

from __future__ import annotations

from typing import NamedTuple

from zoedge.manifest import Manifest

from .dataset import Dataset


class Altered(NamedTuple):
    """How many rows there are, how many of them lost tokens, and how many characters were replaced."""

    rows: int = 0
    cut: int = 0
    replaced: int = 0

    def __add__(self, other: Altered) -> Altered:  # type: ignore[override]
        """Return the counts of both, not the fields of one behind the other's."""
        return Altered(*(a + b for a, b in zip(self, other, strict=True)))

    @classmethod
    def of(cls, *sets: Dataset | None) -> Altered:
        """Return the counts over some data sets."""
        there = [rows for rows in sets if rows is not None]
        return cls(
            sum(map(len, there)),
            sum(int((rows.cut > 0).sum()) for rows in there),
            sum(int(rows.replaced.sum()) for rows in there),
        )


def remarks(found: Altered, manifest: Manifest, side: str | None) -> tuple[str, ...]:
    """Return a sentence about rows that were cut, and one about characters that were replaced.

    Args:
        found: the counts.
        manifest: the bundle's.
        side: the ``truncation_side`` that was asked for.
    """
    said = []
    if found.cut and manifest.text is not None:
        said.append(
            f"{found.cut} of {found.rows} rows are longer than {manifest.text.max_length} tokens and lose "
            f"{_lost(manifest.task, side)} (--truncation-side, or a larger --max-seq-length at export)"
        )
    if found.replaced:
        said.append(
            f"{found.replaced} characters of the rows are no valid Unicode (lone surrogates): read as U+FFFD"
        )
    return tuple(said)


def _lost(task: str, side: str | None) -> str:
    ends = {"left": "start", "right": "end"}
    if task != "text-generation":
        return f"the {ends[side or 'right']} of their text"
    alone = "; a text without a prompt loses its start" if side == "left" else ""
    return f"the {ends[side or 'left']} of their prompt, then the end of their completion{alone}"
