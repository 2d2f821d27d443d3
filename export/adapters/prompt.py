"""Prompt tuning (Lester et al. 2021, arXiv 2104.08691): trained embeddings before those of each text.

A graph sees longer texts: masks, types and positions as for real tokens, an id of ordinary text where it reads ids for
anything but the embedding. The prompt starts as the embeddings of random ordinary tokens, so that a graph must give
what the source does for texts that begin with those: which is how it is checked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from msgspec import structs

from zoedge.adapters import PROMPT, PromptBranch, PromptOptions
from zoedge.manifest import Branch

from ..exported import Exported
from ..ports import find_value, port_of
from ..surgery.graph import Array, Graph
from ..surgery.longer import IDS, find_lookup, lengthen, rows_of, without
from ..surgery.request_error import RequestError
from .base import GraphSurgery

SEED = 0


class PromptSurgery:
    """A ``GraphSurgery``."""

    counted = "rows"
    follows_activations = False

    def places(self, graph: Graph) -> tuple[str, ...]:
        """Return the table of embeddings."""
        return (find_lookup(graph)[1],)

    def describe_at(self, graph: Graph, exported: Exported, weight: str, own: PromptOptions) -> Branch:
        """Return the only branch."""
        rows, width = graph.shape(weight) or (0, 0)
        module = weight.removesuffix(".weight")
        name = graph.fresh(f"{module}.prompt")
        first = int(_start(exported, name, own.prompt_tokens)[0])
        return Branch(
            kind=PROMPT,
            module=module,
            weight=weight,
            transposed=True,  # a lookup is a product with rows of zeros and a one
            shape=(width, rows),
            tensors={"rows": name},
            settings={"tokens": own.prompt_tokens, "filler": first},
        )

    def unaddable(self, branch: Branch) -> str:
        """Return that a table of tokens has no place for a prompt."""
        return "a prompt, which comes before each text, can't be added to"

    def shapes(self, branch: Branch) -> dict[str, tuple[int, ...]]:
        """Return [tokens, width]."""
        prompt = PromptBranch.of(branch)
        return {"rows": (prompt.tokens, prompt.width)}

    def start(self, branch: Branch, exported: Exported) -> dict[str, Array]:
        """Return the embeddings of random ordinary tokens."""
        prompt = PromptBranch.of(branch)
        ids = _start(exported, prompt.rows, prompt.tokens)
        return {prompt.rows: np.asarray(exported.weights[branch.weight][ids], np.float32)}

    def put(self, graph: Graph, branch: Branch, *, stacked: bool) -> None:
        """Make texts longer, and let the lookup's first rows be the prompt's."""
        prompt = PromptBranch.of(branch)
        node, table = find_lookup(graph)
        made = node.output[0]
        lengthen(graph, prompt.tokens, prompt.filler)
        looked_up = graph.divert(made, f"{made}/tokens")
        rows = rows_of(graph, looked_up)
        front = _for_each_row(graph, prompt, rows, stacked=stacked)
        kind = graph.initializers[table].data_type
        front = graph.add("CastLike", front, looked_up) if kind != 1 else front
        graph.add("Concat", front, without(graph, looked_up, prompt.tokens, 1), output=made, axis=1)

    def fitted(self, exported: Exported, own: PromptOptions) -> Exported:
        """Return the source with texts short enough for a prompt."""
        count, text, sample = own.prompt_tokens, exported.text, exported.sample_inputs
        if text is None:
            raise RequestError("a prompt stands before a text's tokens, and the model reads no text")
        limit = text.max_length if exported.positions is None else exported.positions
        longest = min(text.max_length, limit - count)
        if longest < 1:
            raise RequestError(
                f"--prompt-tokens {count} leaves none of the {limit} positions that the model has to a text"
            )
        return replace(
            exported,
            text=structs.replace(text, max_length=longest),
            sample_inputs=lambda rng, batch, length: sample(rng, batch, min(length, max(1, limit - count))),
        )

    def adapted(self, exported: Exported, branches: Sequence[Branch]) -> Exported:
        """Return the source that is asked with the first values' tokens before each text."""
        prompt = PromptBranch.of(branches[0])
        ids = _start(exported, prompt.rows, prompt.tokens)
        lengths = _token_axes(exported)

        def reference(inputs: Mapping[str, Array]) -> dict[str, Array]:
            given = {name: _longer(name, array, ids) for name, array in inputs.items()}
            outputs = exported.reference(given)
            return {
                name: np.delete(array, np.arange(len(ids)), lengths[name]) if name in lengths else array
                for name, array in outputs.items()
            }

        return replace(exported, reference=reference)


def _start(exported: Exported, name: str, count: int) -> Array:
    """Return the tokens [count] that the prompt called ``name`` starts as."""
    seed = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")
    rng = np.random.Generator(np.random.Philox(key=[SEED, seed]))
    drawn = [exported.sample_inputs(rng, 1, 1)[IDS][0, 0] for _ in range(count)]
    return np.array(drawn, np.int64)


def _for_each_row(graph: Graph, prompt: PromptBranch, rows: str, *, stacked: bool) -> str:
    """Return the prompt [rows, tokens, width]; of several points, each point's at its rows."""
    size = graph.hold(np.array([prompt.tokens, prompt.width], np.int64), "prompt")
    if not stacked:
        return graph.add("Expand", graph.unsqueeze(prompt.rows, 0), graph.add("Concat", rows, size, axis=0))
    points = rows_of(graph, prompt.rows)
    shape = graph.add("Concat", points, graph.add("Div", rows, points), size, axis=0)
    each = graph.add("Expand", graph.unsqueeze(prompt.rows, 1), shape)
    return graph.add("Reshape", each, graph.add("Concat", rows, size, axis=0))


def _longer(name: str, array: Array, ids: Array) -> Array:
    """Return an input of the source with tokens before each row's."""
    if name == "position_ids":
        array = array + len(ids)
    first = {IDS: ids, "attention_mask": np.ones_like(ids), "position_ids": np.arange(len(ids))}
    front = np.broadcast_to(first.get(name, np.zeros_like(ids)), (len(array), len(ids)))
    return np.concatenate([front.astype(array.dtype), array], axis=1)


def _token_axes(exported: Exported) -> dict[str, int]:
    """Return output -> its axis for tokens."""
    length = port_of(next(v for v in exported.model.graph.input if v.name == IDS)).shape[1]
    shapes = {v.name: port_of(find_value(exported.model, v.name)).shape for v in exported.model.graph.output}
    return {name: shape.index(length) for name, shape in shapes.items() if length in shape[1:]}


SURGERY: GraphSurgery = PromptSurgery()
