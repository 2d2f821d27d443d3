"""Ordinary tokens that what stands before each text starts as, and the source asked with them before each text."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from msgspec import structs

from ..exported import Exported
from ..ports import find_value, port_of
from ..surgery.graph import Array
from ..surgery.longer import IDS
from ..surgery.request_error import RequestError

SEED = 0


def start_tokens(exported: Exported, name: str, count: int) -> Array:
    """Return ordinary token ids int64 [count], a function of the source's vocabulary and ``name``."""
    seed = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")
    rng = np.random.Generator(np.random.Philox(key=[SEED, seed]))
    drawn = [exported.sample_inputs(rng, 1, 1)[IDS][0, 0] for _ in range(count)]
    return np.array(drawn, np.int64)


def with_shorter_texts(exported: Exported, count: int, kind: str) -> Exported:
    """Return the source with texts that leave room for the tokens of a kind, "prompt" or "prefix".

    Raises:
        RequestError: the model reads no text, or there is no room left for one.
    """
    text, sample = exported.text, exported.sample_inputs
    if text is None:
        raise RequestError(f"--train {kind} puts tokens before texts, and the model reads none")
    limit = text.max_length if exported.positions is None else exported.positions
    longest = min(text.max_length, limit - count)
    if longest < 1:
        raise RequestError(
            f"--{kind}-tokens {count} leaves none of the {limit} positions that the model has to a text"
        )
    return replace(
        exported,
        text=structs.replace(text, max_length=longest),
        sample_inputs=lambda rng, batch, length: sample(rng, batch, min(length, max(1, limit - count))),
    )


def asked_with(exported: Exported, ids: Array) -> Exported:
    """Return the source that is asked with tokens before each text, and whose outputs leave these out."""
    lengths = token_axes(exported)

    def reference(inputs: Mapping[str, Array]) -> dict[str, Array]:
        outputs = exported.reference({name: with_tokens(name, array, ids) for name, array in inputs.items()})
        return {
            name: np.delete(array, np.arange(len(ids)), lengths[name]) if name in lengths else array
            for name, array in outputs.items()
        }

    return replace(exported, reference=reference)


def with_tokens(name: str, array: Array, ids: Array) -> Array:
    """Return an input of the source with tokens before each row's."""
    if name == "position_ids":
        array = array + len(ids)
    first = {IDS: ids, "attention_mask": np.ones_like(ids), "position_ids": np.arange(len(ids))}
    front = np.broadcast_to(first.get(name, np.zeros_like(ids)), (len(array), len(ids)))
    return np.concatenate([front.astype(array.dtype), array], axis=1)


def token_axes(exported: Exported) -> dict[str, int]:
    """Return output -> its axis for tokens."""
    length = port_of(next(v for v in exported.model.graph.input if v.name == IDS)).shape[1]
    shapes = {v.name: port_of(find_value(exported.model, v.name)).shape for v in exported.model.graph.output}
    return {name: shape.index(length) for name, shape in shapes.items() if length in shape[1:]}
