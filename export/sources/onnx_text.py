"""Source 3 for text: an ``.onnx`` file beside its tokenizer, whose rows are texts as for a Hugging Face model."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zoedge.errors import InputError
from zoedge.manifest import Text

from ..ports import find_value, port_of
from .class_names import in_order, serves
from .hf_origin import Origin
from .label_words import check_template, label_word_ids
from .onnx_file import from_onnx
from .onnx_text_inputs import IDS, MASK, TYPES, text_inputs
from .onnx_text_task import (
    ARRAYS,
    CLASSIFICATION,
    FILL_MASK,
    GENERATION,
    REGRESSION,
    choose_text_task,
    is_causal_text,
    is_regression,
)
from .onnx_tokenizer import OnnxTokenizer, read_tokenizer
from .onnx_wire import read_skeleton
from .text_files import COMPANIONS, TOKENIZER_FILE

if TYPE_CHECKING:
    from zoedge.export.exported import Exported

_DEFAULT_LENGTH = 512
_LOGITS = "logits"


def text_folder(path: Path) -> Path | None:
    """Return the folder with the tokenizer of an ``.onnx`` file that reads tokens, or None.

    The hub keeps ONNX files in a folder ``onnx`` below the tokenizer.
    """
    folders = (path.parent, path.parent.parent) if path.parent.name == "onnx" else (path.parent,)
    folder = next((folder for folder in folders if (folder / TOKENIZER_FILE).is_file()), None)
    if folder is None or not path.is_file():
        return None
    return folder if any(value.name == IDS for value in read_skeleton(path).model.graph.input) else None


def from_onnx_text(
    path: Path,
    folder: Path,
    *,
    task: str | None = None,
    loss: str | None = None,
    output_name: str | None = None,
    labels: tuple[str, ...] = (),
    template: str | None = None,
    max_seq_length: int | None = None,
    named: Collection[str] = (),
    say: Callable[[str], None] = lambda text: None,
) -> Exported:
    """Read a text model's ONNX file; its outputs say what it can be tuned for.

    Args:
        path: the file.
        folder: holds ``tokenizer.json`` and perhaps ``tokenizer_config.json`` and ``config.json``.
        task: text-classification, regression, text-generation or fill-mask; None reads it from the outputs.
        loss: None, or what goes with the task: cross-entropy or mse.
        output_name: as for ``from_onnx``; None takes "logits" or the only output.
        labels: names of the head's classes where config.json has none, or with a template the label words.
        template: "{text} It was {label}": classification by label words.
        max_seq_length: longest text in tokens; None: 512 or what the files allow.
        named: as for ``from_onnx``.
        say: is told what the user should know.

    Raises:
        InputError: the file can't be read or run, or the options don't fit it.
    """
    if max_seq_length is not None and max_seq_length < 1:
        raise InputError(f"--max-seq-length {max_seq_length} should be 1 or more tokens")
    origin = Origin(str(folder), None, local=True)
    tokenizer = read_tokenizer(origin)
    skeleton = read_skeleton(path).model
    limit = _whole_limit(tokenizer.config)
    safe = None if limit is None else max(1, limit - tokenizer.pad_id - 1)  # as RoBERTa counts positions
    inputs = text_inputs(skeleton, tokenizer.plain_ids(), tokenizer.pad_id, safe, path.name)
    outputs = [value.name for value in skeleton.graph.output]
    regression = task == REGRESSION or (task is None and is_regression(tokenizer.config, loss))
    exported = from_onnx(
        path,
        task=REGRESSION if regression else ARRAYS,
        loss=loss,
        output_name=output_name or (_LOGITS if _LOGITS in outputs else None),
        named=named,
        text=inputs,
        say=say,
    )
    exported.task = choose_text_task(exported, tokenizer, task, template, path.name)
    causal = exported.task == GENERATION or (template is not None and is_causal_text(exported))
    if MASK not in inputs.names and not causal:
        raise InputError(
            f"{path.name} has no input {MASK}, so padding would change its answers: export it with one"
        )
    if exported.task in (GENERATION, FILL_MASK):
        exported.loss = "token-cross-entropy"
    if exported.task == FILL_MASK and tokenizer.mask_token_id is None:
        raise InputError(f"the tokenizer of {path.name} has no mask token, which {FILL_MASK} needs")
    exported.labels = _labels(exported, tokenizer, labels, template, path.name)
    length = _length(exported, tokenizer, max_seq_length, limit, path.name)
    exported.text = Text(
        max_length=length,
        pad_id=tokenizer.pad_id,
        template=template,
        label_word_ids=_words(tokenizer, template, labels, causal=causal),
        mask_id=None if causal else tokenizer.mask_token_id,
        bos_id=tokenizer.missing_bos if causal else None,
        eos_id=tokenizer.eos_id if causal else None,
        token_types=TYPES in inputs.names,
    )
    exported.files = _files(origin, exported.labels if template is None else ())
    return exported


def _labels(
    exported: Exported, tokenizer: OnnxTokenizer, labels: tuple[str, ...], template: str | None, file: str
) -> tuple[str, ...]:
    """Return the class names in the order of the logits.

    Raises:
        InputError: the head has other classes.
    """
    if len(set(labels)) != len(labels):
        raise InputError(f"--labels {','.join(labels)} names a class twice: give each class its own name")
    if exported.task != CLASSIFICATION and labels:
        raise InputError(f"the task {exported.task} has no classes, and labels are given: leave --labels out")
    if exported.task != CLASSIFICATION or template is not None:
        return labels
    classes = port_of(find_value(exported.model, exported.logits)).shape[-1]
    held = tokenizer.config.get("id2label")
    names = held if isinstance(held, dict) else {}
    own = tuple(str(names[key]) for key in sorted(names, key=int))
    if len(own) != classes:
        own = tuple(f"LABEL_{i}" for i in range(classes)) if labels and isinstance(classes, int) else ()
    if not serves(own, labels):
        raise InputError(
            f"{file} has {classes} classes ({', '.join(own)}), and --labels {','.join(labels)} names others: leave "
            "--labels out, or export the model it was made from (its folder or hub id) for a new head"
        )
    return in_order(own, labels)


def _whole_limit(config: dict[str, Any]) -> int | None:
    found = (config.get(name) for name in ("max_position_embeddings", "n_positions", "max_seq_len"))
    return next((value for value in found if isinstance(value, int) and value > 0), None)


def _length(
    exported: Exported, tokenizer: OnnxTokenizer, asked: int | None, limit: int | None, file: str
) -> int:
    """Return the most tokens of a text, which the file was seen to take.

    Raises:
        InputError: it takes fewer, and nothing says how many.
    """
    width = port_of(next(v for v in exported.model.graph.input if v.name == IDS)).shape[1]
    limits = [asked or min(_DEFAULT_LENGTH, tokenizer.longest or _DEFAULT_LENGTH)]
    limits += [size for size in (limit, width) if isinstance(size, int)]
    shorter = [] if limit is None else [min(limits[0], limit - tokenizer.pad_id - 1)]
    for length in (min(limits), *shorter):
        if length >= 1 and _takes(exported, length):
            return length
    raise InputError(
        f"{file} can't read a text of {min(limits)} tokens: give a smaller --max-seq-length, the "
        "longest that it was made for"
    )


def _takes(exported: Exported, length: int) -> bool:
    inputs = exported.sample_inputs(np.random.default_rng(4), 1, 1)
    width = inputs[IDS].shape[1]  # 1, or what the file fixes
    try:
        exported.reference(
            {n: np.repeat(array, max(1, length // width), axis=1) for n, array in inputs.items()}
        )
    except InputError:
        return False
    return True


def _words(
    tokenizer: OnnxTokenizer, template: str | None, labels: tuple[str, ...], *, causal: bool
) -> tuple[int, ...]:
    if template is None:
        return ()
    check_template(template, causal=causal)
    return label_word_ids(tokenizer, template, labels, causal=causal)


def _files(origin: Origin, labels: tuple[str, ...]) -> dict[str, bytes]:
    """Return the tokenizer's files and the configuration; the latter with the classes' names."""
    names = (TOKENIZER_FILE, *COMPANIONS, "config.json", "generation_config.json")
    files = {name: raw for name in names if (raw := origin.file(name)) is not None}
    config = origin.json("config.json")
    if config is not None and labels:
        named = {
            "id2label": {str(i): name for i, name in enumerate(labels)},
            "label2id": {n: i for i, n in enumerate(labels)},
        }
        if any(config.get(key) != value for key, value in named.items()):
            files["config.json"] = (json.dumps(config | named, indent=2, ensure_ascii=False) + "\n").encode()
    return files
