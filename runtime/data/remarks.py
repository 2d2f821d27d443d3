"""What became of rows that couldn't be taken as they are, in sentences that the user should read."""

from __future__ import annotations

from zoedge.manifest import Manifest

from .dataset import Dataset


def remarks(
    rows: Dataset, manifest: Manifest, side: str | None = None, what: str = "rows"
) -> tuple[str, ...]:
    """Return a sentence about rows that were cut, and one about characters that were replaced.

    Args:
        rows: encoded ones.
        manifest: the bundle's.
        side: the ``truncation_side`` that was asked for.
        what: what the rows are.
    """
    said = []
    if rows.cut and manifest.text is not None:
        said.append(
            f"{rows.cut} of {len(rows)} {what} are longer than {manifest.text.max_length} tokens: "
            f"{_lost(manifest.task, side)} is cut (--truncation-side, or a larger --max-seq-length at export)"
        )
    if rows.replaced:
        said.append(
            f"{rows.replaced} characters of the {what} are no valid Unicode (lone surrogates) and are read as U+FFFD"
        )
    return tuple(said)


def _lost(task: str, side: str | None) -> str:
    ends = {"left": "start", "right": "end"}
    if task == "text-generation":
        asked = ends[side] if side else "start"
        alone = f", of a text without a prompt its {ends[side]}" if side == "left" else ""
        return f"the {asked} of the prompt, then the end of the completion{alone},"
    return f"the {ends[side or 'right']} of the text"
