"""The tokenizer beside an ``.onnx`` file, read with the package tokenizers alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tokenizers

from zoedge.errors import InputError

from .hf_origin import Origin
from .text_files import TOKENIZER_FILE

_UNLIMITED = 10**9  # transformers writes a huge number for "no limit"


@dataclass(frozen=True)
class OnnxTokenizer:
    """``tokenizer.json`` and what the files beside it say.

    Attributes:
        backend_tokenizer: the tokenizer, without padding and truncation.
        settings: ``tokenizer_config.json``, with ``special_tokens_map.json`` below it; {} without them.
        config: ``config.json``; {} without one.
        padding: the id that ``tokenizer.json`` pads with; None where it doesn't.
    """

    backend_tokenizer: tokenizers.Tokenizer
    settings: dict[str, Any]
    config: dict[str, Any]
    padding: int | None

    @property
    def mask_token(self) -> str | None:
        """How the mask token is written."""
        return self._token("mask_token")

    @property
    def mask_token_id(self) -> int | None:
        """The id of the mask token."""
        return self._id("mask")

    @property
    def pad_id(self) -> int:
        """The id for padding: the model's, the tokenizer's, or one that the mask hides (its end token)."""
        found = (_whole(self.config.get("pad_token_id")), self._id("pad"), self.padding, self.eos_id, 0)
        return next(value for value in found if value is not None)

    @property
    def eos_id(self) -> int | None:
        """The token that ends a text."""
        own = self._id("eos")
        return own if own is not None else _whole(self.config.get("eos_token_id"))

    @property
    def missing_bos(self) -> int | None:
        """The first token of a text where the tokenizer should add it and its file doesn't."""
        bos = self._id("bos")
        wanted = self.settings.get("add_bos_token") is True and bos is not None
        return bos if wanted and self.backend_tokenizer.encode("a").ids[:1] != [bos] else None

    @property
    def longest(self) -> int | None:
        """Most tokens that the tokenizer's settings allow; None without a limit."""
        value = _whole(self.settings.get("model_max_length"))
        return value if value is not None and 0 < value < _UNLIMITED else None

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str]:
        """Return how tokens are written."""
        return [str(self.backend_tokenizer.id_to_token(i)) for i in ids]

    def plain_ids(self) -> tuple[int, ...]:
        """Return the ids of ordinary text."""
        added = self.backend_tokenizer.get_added_tokens_decoder()
        special = {i for i, token in added.items() if token.special} | {self.pad_id}
        size = self.backend_tokenizer.get_vocab_size(with_added_tokens=True)
        size = min(size, _whole(self.config.get("vocab_size")) or size)
        return tuple(i for i in range(size) if i not in special)

    def _id(self, kind: str) -> int | None:
        token = self._token(f"{kind}_token")
        return None if token is None else self.backend_tokenizer.token_to_id(token)

    def _token(self, name: str) -> str | None:
        value = self.settings.get(name)
        value = value.get("content") if isinstance(value, dict) else value
        if value is None and name == "mask_token":
            known = ("[MASK]", "<mask>")
            value = next((t for t in known if self.backend_tokenizer.token_to_id(t) is not None), None)
        return value if isinstance(value, str) else None


def read_tokenizer(origin: Origin) -> OnnxTokenizer:
    """Read the tokenizer of a folder.

    Raises:
        InputError: a file is damaged.
    """
    raw = origin.file(TOKENIZER_FILE) or b""
    try:
        inner = tokenizers.Tokenizer.from_str(raw.decode())
    except Exception as error:  # tokenizers raises bare Exception
        raise InputError(
            f"{TOKENIZER_FILE} of {origin.address} can't be read ({error}): save it again"
        ) from error
    padding = None if inner.padding is None else int(inner.padding["pad_id"])
    inner.no_padding()
    inner.no_truncation()
    names = ("special_tokens_map.json", "tokenizer_config.json")
    settings = {k: v for name in names for k, v in (origin.json(name) or {}).items() if v is not None}
    return OnnxTokenizer(inner, settings, origin.json("config.json") or {}, padding)


def _whole(value: object) -> int | None:
    if isinstance(value, list):
        value = value[0] if value else None
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < 2**62:
        return None
    return int(value)
