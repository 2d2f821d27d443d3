"""Fill-mask: a masked model learns the words behind its mask tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from zoedge.bundle import Bundle
from zoedge.errors import BundleError, DataError

from ..data.example import Array, Example
from ..data.record import Record
from ..noise.permutation import permutation
from . import fields
from .text_classification import token_inputs
from .tokenizer import Encoded, Side, TextTokenizer

SPELLINGS = ("[MASK]", "<mask>")  # understood besides the model's own mask token
SHARE = 0.15  # of the tokens of a plain text that are masked (Devlin et al., 2019)


class FillMask:
    """Records with ``text`` that holds mask tokens and ``label``: the masked word, or a list of them.

    A plain ``text`` gets 15 % of its tokens masked, at least one: always by the mask token, and as a pure
    function of the seed and the text.

    Args:
        bundle: the bundle.
        seed: run seed.
        side: the end that texts lose which are too long.

    Raises:
        BundleError: the bundle names no mask token.
    """

    def __init__(self, bundle: Bundle, seed: int = 0, side: Side | None = None) -> None:
        self._tokenizer = TextTokenizer(bundle, side or "right")
        self._ports = frozenset(port.name for port in bundle.manifest.inputs)
        self._seed = seed
        if self._tokenizer.text.mask_id is None:
            raise BundleError(f"{bundle.folder} names no mask token: export it again from a masked model")
        self._mask_id = self._tokenizer.text.mask_id
        self._mask = self._tokenizer.token(self._mask_id)

    def encode(self, record: Record, *, labelled: bool = True) -> Example:
        """Return token inputs int64 [tokens], label_positions and labels int64 [masks]."""
        text = self._own_masks(fields.texts(record)[0])
        key = fields.find_field(record, fields.LABEL_KEYS)
        if self._mask in text:
            encoded, positions = self._masked(text, record)
            labels = self._words(text, record, encoded, positions) if labelled else np.zeros_like(positions)
        elif labelled and key is None:
            encoded, positions, labels = self._random(text, record)
        else:
            raise DataError(
                f"{record.where} has no mask in its text: write {self._mask} for each word to fill in"
            )
        inputs = token_inputs(encoded, record.where, self._tokenizer.text.token_types)
        inputs["label_positions"] = positions
        wanted = {name: array for name, array in inputs.items() if name in self._ports}
        return Example(wanted, {"labels": labels}, len(encoded.ids), encoded.cut)

    def prediction(self, example: Example, outputs: Mapping[str, Array]) -> dict[str, Any]:
        """Return ``words``: the most probable token for each mask."""
        ids = outputs["predictions"][: len(example.inputs["label_positions"])]
        return {"words": [self._tokenizer.decode([token]).strip() for token in ids]}

    def _own_masks(self, text: str) -> str:
        for spelling in SPELLINGS:
            text = text.replace(spelling, self._mask)
        return text

    def _masked(self, text: str, record: Record) -> tuple[Encoded, Array]:
        longest = self._tokenizer.text.max_length
        encoded = self._tokenizer.encode(text, max_length=longest)
        positions = np.flatnonzero(np.array(encoded.ids) == self._mask_id)
        if len(positions) != text.count(self._mask):
            raise DataError(
                f"{record.where} has a mask beyond the model's {longest} tokens: "
                f"shorten the text or export with a larger --max-seq-length"
            )
        return encoded, positions.astype(np.int64)

    def _words(self, text: str, record: Record, encoded: Encoded, positions: Array) -> Array:
        """Return the ids of the masked words: what the text with the words has in the masks' places."""
        label = fields.label(record)
        words = [str(word).strip() for word in (label if isinstance(label, list) else [label])]
        if len(words) != len(positions):
            raise DataError(
                f"{record.where} has {len(positions)} masks and {len(words)} words: give one for each mask"
            )
        filled = text
        for word in words:
            filled = filled.replace(self._mask, word, 1)
        ids = np.array(self._tokenizer.encode(filled, max_length=self._tokenizer.text.max_length).ids)
        others = np.array(encoded.ids) != self._mask_id
        if len(ids) != len(others) or not np.array_equal(ids[others], np.array(encoded.ids)[others]):
            raise DataError(
                f"{record.where} has {', '.join(map(repr, words))} to fill in, and the tokenizer splits "
                f"that: give words that are one token each"
            )
        return ids[positions].astype(np.int64)

    def _random(self, text: str, record: Record) -> tuple[Encoded, Array, Array]:
        encoded = self._tokenizer.encode(text, max_length=self._tokenizer.text.max_length)
        candidates = np.flatnonzero(np.array(encoded.special) == 0)
        if not len(candidates):
            raise DataError(f"{record.where} has an empty text: remove the row")
        count = max(1, round(SHARE * len(candidates)))
        order = permutation(self._seed, b"zoedge.fill_mask\0" + text.encode(), 0, len(candidates))
        positions = np.sort(candidates[order[:count]]).astype(np.int64)
        ids = np.array(encoded.ids, np.int64)
        labels = ids[positions]
        ids[positions] = self._mask_id
        return encoded._replace(ids=ids.tolist()), positions, labels
