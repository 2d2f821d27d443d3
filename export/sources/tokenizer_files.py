"""The tokenizer of a Hugging Face model as ``tokenizer.json``, and the files that go with it."""

from __future__ import annotations

import json

import tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from zoedge.errors import InputError

from .hf_origin import Origin
from .quiet import quiet
from .text_files import COMPANIONS, TOKENIZER_FILE

_PROBES = ("Hello world", " a", "It was great!\nReally: 12 naïve cafés.")


def load_tokenizer(origin: Origin) -> PreTrainedTokenizerFast:
    """Return the model's fast tokenizer, converted from the slow files where it has only those.

    Raises:
        InputError: the model has no tokenizer, or one that has no fast form.
    """
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(
                origin.address, revision=origin.revision, use_fast=True, trust_remote_code=False
            )
    except Exception as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"{origin.address} has no tokenizer that can be used: save one beside the model as "
            f"tokenizer.json ({first})"
        ) from error
    if not tokenizer.is_fast:
        raise InputError(
            f"{origin.address} has only a slow tokenizer ({type(tokenizer).__name__}): convert it to "
            "tokenizer.json"
        )
    return tokenizer


def tokenizer_files(origin: Origin, tokenizer: PreTrainedTokenizerFast) -> dict[str, bytes]:
    """Return the tokenizer's files by name; those of the source as they are, except what it lacks.

    ``tokenizer.json`` is the source's, unless it is absent or transformers encodes otherwise than it says
    (some classes add tokens when they are loaded): then it is what transformers uses.
    """
    files = {name: raw for name in COMPANIONS if (raw := origin.file(name)) is not None}
    raw = origin.file(TOKENIZER_FILE)
    files[TOKENIZER_FILE] = raw if raw is not None and _agrees(raw, tokenizer) else _as_used(tokenizer)
    return files


def _agrees(raw: bytes, tokenizer: PreTrainedTokenizerFast) -> bool:
    plain = tokenizers.Tokenizer.from_str(raw.decode())
    plain.no_padding()
    plain.no_truncation()
    return all(plain.encode(text).ids == tokenizer(text).input_ids for text in _PROBES)


def _as_used(tokenizer: PreTrainedTokenizerFast) -> bytes:
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    return json.dumps(content | {"truncation": None, "padding": None}, ensure_ascii=False).encode()
