"""The bundle's tokenizer: the one place that touches the package ``tokenizers``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from tokenizers import Tokenizer

from zoedge.bundle import Bundle
from zoedge.errors import BundleError, InputError
from zoedge.manifest import Text

TOKENIZER_FILE = "tokenizer.json"


Side = Literal["left", "right"]


class Encoded(NamedTuple):
    """Token ids with, for each, its segment (0 or 1) and whether the tokenizer added it; and how many were cut."""

    ids: list[int]
    type_ids: list[int]
    special: list[int]
    cut: int = 0


class TextTokenizer:
    """``tokenizer.json`` with truncation and padding switched off: those are the tasks' and batches' work.

    Args:
        bundle: whose tokenizer.
        side: the end that texts lose which are longer than asked for, as transformers' ``truncation_side``.

    Attributes:
        prefix: ids in front of every text of a causal model: what the tokenizer puts there itself, else
            ``Text.bos_id`` where it is set.

    Raises:
        BundleError: the bundle has no tokenizer, or one that can't be read.
    """

    def __init__(self, bundle: Bundle, side: Side = "right") -> None:
        self.text, self._side = text_of(bundle), side
        path = bundle.path(TOKENIZER_FILE)
        if not path.is_file():
            raise BundleError(f"{bundle.folder} has no {TOKENIZER_FILE}: export the bundle again")
        try:
            self._inner = Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises bare Exception
            raise BundleError(f"{path} can't be read ({error}): export the bundle again") from error
        self._inner.no_truncation()
        self._inner.no_padding()
        self.prefix = self._prefix()

    def ids(self, text: str) -> list[int]:
        """Return the ids of a text, nothing added."""
        found: list[int] = self._inner.encode(text, add_special_tokens=False).ids
        return found

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Return where each token of a text begins and ends, in characters."""
        found: list[tuple[int, int]] = self._inner.encode(text, add_special_tokens=False).offsets
        return found

    def encode(self, text: str, pair: str | None = None, max_length: int | None = None) -> Encoded:
        """Return a text or a pair with the tokenizer's own special tokens.

        Args:
            text: the first text.
            pair: the second; an empty one is none, as in transformers.
            max_length: most tokens; the longer text is cut first, as transformers' ``longest_first`` does.
        """
        first = self._inner.encode(text, add_special_tokens=False)
        second = self._inner.encode(pair, add_special_tokens=False) if pair else None
        cut = 0
        if max_length is not None:
            room = max(0, max_length - self._inner.num_special_tokens_to_add(second is not None))
            sizes = _longest_first(len(first.ids), 0 if second is None else len(second.ids), room)
            cut = len(first.ids) + (0 if second is None else len(second.ids)) - sum(sizes)
            first.truncate(sizes[0], direction=self._side)
            if second is not None:
                second.truncate(sizes[1], direction=self._side)
        whole = self._inner.post_process(first, second, True)
        return Encoded(whole.ids, whole.type_ids, whole.special_tokens_mask, cut)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids, special tokens left out."""
        return str(self._inner.decode([int(i) for i in ids], skip_special_tokens=True))

    def token(self, token_id: int) -> str:
        """Return how a token is written.

        Raises:
            BundleError: the vocabulary has no such id.
        """
        found = self._inner.id_to_token(token_id)
        if found is None:
            raise BundleError(f"{TOKENIZER_FILE} has no token {token_id}: export the bundle again")
        return str(found)

    def _prefix(self) -> tuple[int, ...]:
        probe = self.encode("a")
        front = probe.special.index(0) if 0 in probe.special else 0
        added = tuple(probe.ids[:front])
        bos = self.text.bos_id
        return added if bos is None or bos in added else (bos, *added)


def text_of(bundle: Bundle) -> Text:
    """Return how the bundle treats text.

    Raises:
        InputError: it has no text input.
    """
    if bundle.manifest.text is None:
        raise InputError(f"{bundle.folder} takes no text ({bundle.manifest.task}): choose data that fits it")
    return bundle.manifest.text


def _longest_first(first: int, second: int, room: int) -> tuple[int, int]:
    """Return the lengths that two texts are cut to, so that they fit into ``room`` together."""
    if first + second <= room:
        return first, second
    short = min(first, second)
    long = max(short, room - short)
    if short + long > room:
        short, long = room // 2, room - room // 2
    return (short, long) if first <= second else (long, short)
