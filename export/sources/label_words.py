"""Label words: the one token id that stands for each class in a template."""

from __future__ import annotations

from collections.abc import Sequence
from string import Formatter
from typing import Protocol

import tokenizers

from zoedge.errors import InputError

_SAMPLE = "a"  # stands for the record's text while the words are looked up
LABEL = "label"


class WordTokenizer(Protocol):
    """What label words need of a tokenizer; transformers' fast ones have it."""

    @property
    def backend_tokenizer(self) -> tokenizers.Tokenizer:
        """The tokenizer itself."""

    @property
    def mask_token(self) -> str | None:
        """How the mask token is written."""

    @property
    def mask_token_id(self) -> int | None:
        """The id of the mask token."""

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str]:
        """Return how tokens are written."""


def check_template(template: str, *, causal: bool) -> None:
    """Check that a template has a field for the text and once ``{label}``, at the end for causal models.

    Raises:
        InputError: it hasn't.
    """
    try:
        fields = [name for _, name, _, _ in Formatter().parse(template) if name is not None]
    except ValueError as error:
        raise InputError(
            f"the template {template!r} can't be read ({error}): write fields as {{text}}"
        ) from error
    if fields.count(LABEL) != 1 or len(fields) < 2 or not all(fields):
        raise InputError(
            f"the template {template!r} should name {{text}} and once {{label}}: '{{text}} It was {{label}}'"
        )
    if causal and fields[-1] != LABEL:
        raise InputError(
            f"the template {template!r} should have {{label}} after {{text}}, as a causal model reads from "
            "left to right"
        )


def label_word_ids(
    tokenizer: WordTokenizer, template: str, words: tuple[str, ...], *, causal: bool
) -> tuple[int, ...]:
    """Return the token id of each label word as it stands in the template.

    Args:
        tokenizer: the model's.
        template: checked by ``check_template``.
        words: one word per label.
        causal: the word follows the prompt, whose trailing spaces belong to the word; else it replaces the
            mask token.

    Raises:
        InputError: fewer than two words, a word of several tokens, or two words of the same token.
    """
    if len(words) < 2:
        raise InputError("--template needs the label words: give two or more as --labels terrible,great")
    ids: dict[int, str] = {}
    for word in words:
        pieces = _pieces(tokenizer, template, word, causal=causal)
        if len(pieces) != 1:
            shown = " ".join(tokenizer.convert_ids_to_tokens(pieces))
            raise InputError(
                f"the label word {word!r} is {len(pieces)} tokens in the template ({shown}): choose a "
                "word of one token"
            )
        if pieces[0] in ids:
            raise InputError(
                f"the label words {ids[pieces[0]]!r} and {word!r} are the same token: choose another"
            )
        ids[pieces[0]] = word
    return tuple(ids)


def _pieces(tokenizer: WordTokenizer, template: str, word: str, *, causal: bool) -> list[int]:
    """Return the ids that the word adds to the prompt, or that stand where the mask stood."""
    if causal:
        before, _, _ = template.partition("{" + LABEL + "}")
        prompt = _fill(before)
        return _between(_encode(tokenizer, prompt.rstrip(" ")), [], _encode(tokenizer, prompt + word))
    masked = _encode(tokenizer, _fill(template, tokenizer.mask_token or ""))
    at = masked.index(tokenizer.mask_token_id or 0)
    return _between(masked[:at], masked[at + 1 :], _encode(tokenizer, _fill(template, word)))


def _between(before: list[int], after: list[int], ids: list[int]) -> list[int]:
    """Return what stands between two contexts, or everything where the word changed the tokens around it."""
    end = len(ids) - len(after)
    same = ids[: len(before)] == before and ids[end:] == after and end >= len(before)
    return ids[len(before) : end] if same else ids


def _fill(template: str, label: str = "") -> str:
    parts = []
    for literal, name, _, _ in Formatter().parse(template):
        parts.append(literal)
        if name is not None:
            parts.append(label if name == LABEL else _SAMPLE)
    return "".join(parts)


def _encode(tokenizer: WordTokenizer, text: str) -> list[int]:
    return list(tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids)
