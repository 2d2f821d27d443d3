"""A text or a file by itself as a record: what ``predict`` is given on the command line."""

from __future__ import annotations

from pathlib import Path

from zoedge.errors import InputError
from zoedge.manifest import Manifest

from ..data.image_file import read_image
from ..data.record import Record, record_of
from .template import Template


def plain_record(text: str | Path, where: str, manifest: Manifest, shape: str = "") -> Record:
    """Return the record that a text, or the path of an image, stands for.

    Args:
        text: it.
        where: names it in errors.
        manifest: of the bundle.
        shape: which fields the run's training rows had (``prompts.shape_of``): a text is asked as they were.

    Raises:
        InputError: the bundle takes something else.
    """
    if manifest.image is not None:
        return Record({"image": read_image(Path(text), grey=manifest.image.channels == 1)}, str(text))
    if manifest.text is None:
        raise InputError(
            f"{where} is a text, and this bundle takes arrays ({', '.join(p.name for p in manifest.inputs)}): give "
            "them with --data, as .npz or .csv"
        )
    return record_of(_fields(str(text), where, manifest, shape), where)


def _fields(text: str, where: str, manifest: Manifest, shape: str) -> dict[str, object]:
    if shape == "messages":
        return {"messages": [{"role": "user", "content": text}]}
    if shape == "instruction":
        return {"instruction": text}
    template = manifest.text.template if manifest.text is not None else None
    if template is None:
        return {"text": text}
    names = tuple(dict.fromkeys(Template(template).names))
    if len(names) != 1:
        raise InputError(
            f"{where} is one text, and the template shows {' and '.join(names) or 'none'}: give rows with --data"
        )
    return {names[0]: text}
