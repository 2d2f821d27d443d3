"""Greedy generation with the loss graph: one forward pass per token, no cache. For a look, not for serving."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from zoedge.manifest import Manifest

from .data.example import Example
from .measuring.measure import run_rows
from .passes.engine import Engine


def complete(
    engine: Engine, manifest: Manifest, examples: Sequence[Example], max_new_tokens: int
) -> list[list[int]]:
    """Return the most probable continuation of each prompt.

    Args:
        engine: runs the loss graph of a text-generation bundle.
        manifest: the bundle's.
        examples: prompts, encoded without labels.
        max_new_tokens: most tokens per continuation; the end token or the model's length end it earlier.

    Returns:
        Token ids of the continuations, the end token left out.
    """
    text = manifest.text
    longest, eos = (text.max_length, text.eos_id) if text else (0, None)
    current = list(examples)
    found: list[list[int]] = [[] for _ in examples]
    active = [row for row, example in enumerate(examples) if example.length <= longest]
    for _ in range(max_new_tokens):
        if not active:
            break
        continued = []
        for row, token in zip(
            active, _next_tokens(engine, manifest, [current[r] for r in active]), strict=True
        ):
            if token == eos:
                continue
            found[row].append(token)
            current[row] = _appended(current[row], token)
            if current[row].length <= longest:
                continued.append(row)
        active = continued
    return found


def _next_tokens(engine: Engine, manifest: Manifest, examples: Sequence[Example]) -> list[int]:
    tokens = [0] * len(examples)
    for batch, outputs in run_rows(engine, manifest, examples, np.arange(len(examples)), ("predictions",)):
        for place, row in enumerate(batch.rows):
            tokens[int(row)] = int(outputs["predictions"][place, 0])  # a prompt has one label position
    return tokens


def _appended(example: Example, token: int) -> Example:
    ids = np.append(example.inputs["input_ids"], np.int64(token))
    inputs = {
        "input_ids": ids,
        "attention_mask": np.ones_like(ids),
        "label_positions": np.array([len(ids) - 1], np.int64),
    }
    return replace(example, inputs=inputs, length=len(ids))
