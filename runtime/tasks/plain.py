"""A text or a file by itself as a record: what ``predict`` is given on the command line."""

from __future__ import annotations

from pathlib import Path

from zoedge.errors import InputError
from zoedge.manifest import Manifest

from ..data.image_file import read_image
from ..data.read import READERS
from ..data.record import Record, record_of
from . import prompts
from .fields import is_pair
from .template import Template


def asked_shape(record: Record, manifest: Manifest) -> str:
    """Return the shape of a training row, by which a text by itself is asked: ``prompts.prompt_shape`` or "pair"."""
    if manifest.task == "text-generation":
        return prompts.prompt_shape(record)
    template = manifest.text is not None and manifest.text.template is not None
    return "pair" if manifest.text is not None and not template and is_pair(record) else ""


def plain_record(text: str | Path, where: str, manifest: Manifest, shape: str = "") -> Record:
    """Return the record that a text, or the path of an image, stands for.

    Args:
        text: it.
        where: names it in errors.
        manifest: of the bundle.
        shape: which fields the run's training rows had (``asked_shape``): a text is asked as they were.

    Raises:
        InputError: the bundle takes something else.
    """
    if not isinstance(text, str | Path):
        raise InputError(f"{where} is {text!r:.60} and no text: give text, or rows with data=")
    if manifest.image is not None:
        return Record({"image": read_image(Path(text), grey=manifest.image.channels == 1)}, str(text))
    if manifest.text is None:
        raise InputError(
            f"{where} is a text, and this bundle takes arrays ({', '.join(p.name for p in manifest.inputs)}): give "
            "them with --data, as .npz or .csv"
        )
    if isinstance(text, Path) or (Path(text).suffix.lower() in READERS and Path(text).is_file()):
        raise InputError(f"{text} is a file, and a text was expected: give files of rows with --data")
    return record_of(_fields(text, where, manifest, shape), where)


def _fields(text: str, where: str, manifest: Manifest, shape: str) -> dict[str, object]:
    if shape == "messages":
        return {"messages": [{"role": "user", "content": text}]}
    if shape == "instruction":
        return {"instruction": text}
    if shape == "pair":
        raise InputError(f"{where} is one text, and the run was tuned on pairs: give rows with --data")
    template = manifest.text.template if manifest.text is not None else None
    if template is None:
        return {"text": text}
    names = tuple(dict.fromkeys(Template(template).names))
    if len(names) != 1:
        raise InputError(
            f"{where} is one text, and the template shows {' and '.join(names) or 'none'}: give rows with --data"
        )
    return {names[0]: text}
