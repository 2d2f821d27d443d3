"""Prompt tuning (Lester et al. 2021, arXiv 2104.08691): trained embeddings before those of each text.

A graph sees longer texts: masks, types and positions as for real tokens, an id of ordinary text where it reads ids for
anything but the embedding. The prompt starts as the embeddings of random ordinary tokens, so that a graph must give
what the source does for texts that begin with those: which is how it is checked.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from zoedge.adapters import PROMPT, PromptBranch, PromptOptions
from zoedge.manifest import Branch

from ..exported import Exported
from ..surgery.graph import Array, Graph
from ..surgery.longer import find_lookup, lengthen, rows_of, without
from .base import GraphSurgery
from .start_tokens import asked_with, start_tokens, with_shorter_texts


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
        first = int(start_tokens(exported, name, own.prompt_tokens)[0])
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

    def start(self, branches: Sequence[Branch], exported: Exported) -> dict[str, Array]:
        """Return the embeddings of random ordinary tokens."""
        (branch,) = branches
        prompt = PromptBranch.of(branch)
        ids = start_tokens(exported, prompt.rows, prompt.tokens)
        return {prompt.rows: np.asarray(exported.weights[branch.weight][ids], np.float32)}

    def put(self, graph: Graph, branches: Sequence[Branch], *, stacked: bool) -> None:
        """Make texts longer, and let the lookup's first rows be the prompt's."""
        prompt = PromptBranch.of(branches[0])
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
        return with_shorter_texts(exported, own.prompt_tokens, PROMPT)

    def adapted(self, exported: Exported, branches: Sequence[Branch]) -> Exported:
        """Return the source that is asked with the first values' tokens before each text."""
        prompt = PromptBranch.of(branches[0])
        return asked_with(exported, start_tokens(exported, prompt.rows, prompt.tokens))


def _for_each_row(graph: Graph, prompt: PromptBranch, rows: str, *, stacked: bool) -> str:
    """Return the prompt [rows, tokens, width]; of several points, each point's at its rows."""
    size = graph.hold(np.array([prompt.tokens, prompt.width], np.int64), "prompt")
    if not stacked:
        return graph.add("Expand", graph.unsqueeze(prompt.rows, 0), graph.add("Concat", rows, size, axis=0))
    points = rows_of(graph, prompt.rows)
    shape = graph.add("Concat", points, graph.add("Div", rows, points), size, axis=0)
    each = graph.add("Expand", graph.unsqueeze(prompt.rows, 1), shape)
    return graph.add("Reshape", each, graph.add("Concat", rows, size, axis=0))


SURGERY: GraphSurgery = PromptSurgery()
