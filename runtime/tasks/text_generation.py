"""Text generation: a causal model learns to write a completion after a prompt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from zoedge.bundle import Bundle
from zoedge.errors import DataError

from ..data.example import Array, Example
from ..data.record import Record
from .chat import ChatTemplate
from .prompts import Prompt, prompt_of
from .tokenizer import Side, TextTokenizer


class TextGeneration:
    """Records with a prompt and a completion, in one of the shapes that ``prompts.prompt_of`` lists.

    The loss is that of the completion's tokens and of the end token after them, never of the prompt's. The
    completion is what tokenizing both together gives after the tokens of the prompt alone, so a token that
    spans the boundary counts as completion. The last token is only ever a label, so it isn't an input.

    Args:
        bundle: the bundle.
        side: the end that prompts lose which are too long: left by default, as what is asked stands at the end. A
            completion loses its end, and a text without a prompt its end unless ``side`` is given.
    """

    def __init__(self, bundle: Bundle, side: Side | None = None) -> None:
        self._side = side
        self._tokenizer = TextTokenizer(bundle)
        self._chat = ChatTemplate(bundle)

    def encode(self, record: Record, *, labelled: bool = True) -> Example:
        """Return input_ids and attention_mask int64 [tokens], label_positions and labels int64 [completion].

        ``label_positions[t]`` is the index whose logits predict ``labels[t]``. A row that is too long loses tokens
        of its prompt, but for the one that begins every text, then of its completion, of which some always stays.
        Without labels, the one position is the prompt's last: its prediction is what follows.
        """
        prompt = prompt_of(record, self._chat, labelled=labelled)
        before, after = self._tokens(prompt, labelled=labelled)
        if labelled and not after:
            raise DataError(
                f"{record.where} has no completion to learn: give a text that isn't empty or remove the row"
            )
        if not before and not labelled:
            raise DataError(f"{record.where} has an empty prompt: give at least a word")
        return self._example(before, after, record.where)

    def prediction(self, example: Example, outputs: Mapping[str, Array]) -> dict[str, Any]:
        """Return ``text``: the most probable token at each label position."""
        return {"text": self.decode(outputs["predictions"][: len(example.inputs["label_positions"])])}

    def decode(self, ids: Array) -> str:
        """Return the text of token ids, special tokens left out."""
        return self._tokenizer.decode(ids.tolist())

    def _tokens(self, prompt: Prompt, *, labelled: bool) -> tuple[list[int], list[int]]:
        """Return the tokens of the prompt, and those of the completion with its end."""
        front = [] if prompt.complete else list(self._tokenizer.prefix)
        alone = self._tokenizer.ids(prompt.text) if prompt.text else []
        whole = self._tokenizer.ids(prompt.text + prompt.completion)
        start = next((i for i, (a, b) in enumerate(zip(alone, whole, strict=False)) if a != b), len(alone))
        eos = self._tokenizer.text.eos_id
        end = [eos] if labelled and eos is not None and not prompt.complete and prompt.completion else []
        return front + whole[:start], whole[start:] + end

    def _example(self, before: list[int], after: list[int], where: str) -> Example:
        longest, prefix = self._tokenizer.text.max_length, self._tokenizer.prefix
        keep = len(prefix) if tuple(before[: len(prefix)]) == prefix else 0  # the first token is never cut
        surplus = max(0, len(before) + max(0, len(after) - 1) - longest)
        size = len(before) + len(after)
        before = before[:keep] + _shortened(before[keep:], surplus, self._side or "left")
        bare = len(before) == keep == size - len(after)  # there was no prompt: the text is cut as asked
        after = _shortened(
            after, len(before) + len(after) - 1 - longest, (self._side if bare else None) or "right"
        )
        cut = size - len(before) - len(after)
        if not before and len(after) < 2:
            raise DataError(
                f"{where} has one token and nothing before it to predict it from: give a longer text"
            )
        ids = np.array([*before, *after[:-1]], np.int64)
        # nothing predicts a first token that has none before it
        labels = np.array(after if before else after[1:], np.int64) if after else np.zeros(1, np.int64)
        positions = np.arange(len(ids) - len(labels), len(ids), dtype=np.int64)
        inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "label_positions": positions}
        return Example(inputs, {"labels": labels}, len(ids), cut)


def _shortened(tokens: list[int], surplus: int, side: Side) -> list[int]:
    """Return tokens without the first or the last ``surplus`` of them; a negative surplus is none."""
    kept = max(0, len(tokens) - max(0, surplus))
    return tokens[:kept] if side == "right" else tokens[len(tokens) - kept :]
