"""Prefix tuning (Li and Liang 2021, arXiv 2101.00190): each layer's trained keys and values before those of a text.

A graph sees longer texts, and the keys and values of what comes first are replaced. In a model that reads from the
left nothing else of those positions reaches a text, so this is what past keys and values are: masks and positions of
the text follow, and keys have their positions in them already. Prefixes start from real activations, those of random
ordinary tokens (as in MeZO, arXiv 2305.17333): a graph must give at first what the source gives for texts that begin
with these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from onnx import TensorProto, helper

from zoedge.adapters import PREFIX, PrefixBranch, PrefixOptions
from zoedge.manifest import Branch

from ..exported import Exported
from ..session import Session
from ..surgery.attention import Attention, find_attention
from ..surgery.graph import Array, Graph
from ..surgery.longer import IDS, lengthen, rows_of, without
from ..surgery.request_error import RequestError
from .base import GraphSurgery
from .start_tokens import asked_with, start_tokens, token_axes, with_shorter_texts, with_tokens

_STARTS = "zoedge.prefix"  # what its tokens are drawn for
_CLOSE = 1e-3  # of the largest value: other sums, not other texts
_ROUNDED = 0.1  # the same where activations are rounded by the scale of a whole text


class PrefixSurgery:
    """A ``GraphSurgery``."""

    counted = "keys"
    follows_activations = False

    def places(self, graph: Graph) -> tuple[str, ...]:
        """Return the matrix that makes the values of each layer."""
        found = [layer.linear.weight for layer in find_attention(graph)]
        softmaxes = sum(node.op_type == "Softmax" for node in graph.nodes)
        if not found:
            raise RequestError(
                "a prefix needs attention in plain operators (keys and values of stored matrices, MatMul and Softmax), "
                f"and the graph has {softmaxes} Softmax and none of this form"
            )
        if len(set(found)) < len(found):
            raise RequestError(
                "a prefix needs a matrix of its own for the values of each layer, and layers share one"
            )
        return tuple(found)

    def describe_at(self, graph: Graph, exported: Exported, weight: str, own: PrefixOptions) -> Branch:
        """Return the branch of a layer."""
        count = own.prefix_tokens
        layer = next(each for each in find_attention(graph) if each.linear.weight == weight)
        keys, values = (graph.fresh(f"{layer.linear.module}.prefix_{part}") for part in ("keys", "values"))
        filler = int(start_tokens(exported, _STARTS, count)[0])
        return Branch(
            kind=PREFIX,
            module=layer.linear.module,
            weight=weight,
            transposed=layer.linear.transposed,
            shape=(layer.linear.width_out, layer.linear.width_in),
            tensors={"keys": keys, "values": values},
            settings={"tokens": count, "heads": layer.heads, "width": layer.width, "filler": filler},
        )

    def unaddable(self, branch: Branch) -> str:
        """Return that no matrix makes what comes before texts."""
        return "a prefix, which comes before each text, can't be added to"

    def shapes(self, branch: Branch) -> dict[str, tuple[int, ...]]:
        """Return [heads, tokens, width] of both."""
        prefix = PrefixBranch.of(branch)
        shape = (prefix.heads, prefix.tokens, prefix.width)
        return {"keys": shape, "values": shape}

    def start(self, branches: Sequence[Branch], exported: Exported) -> dict[str, Array]:
        """Return the keys and values of random ordinary tokens.

        Raises:
            RequestError: the model doesn't read from the left.
        """
        layers = _layers(Graph(exported.model), branches)
        names = [name for layer in layers for name in (layer.keys, layer.values)]
        ids = start_tokens(exported, _STARTS, PrefixBranch.of(branches[0]).tokens)
        text = exported.sample_inputs(np.random.default_rng(7), 1, 4)
        followed = {name: with_tokens(name, array, ids) for name, array in text.items()}
        alone = {name: array[:, : len(ids)] for name, array in followed.items()}
        run = _activations(exported, names)
        made = run(alone)
        known = exported.reference if token_axes(exported) else run
        if not _alike(known(alone), known(followed), len(ids), _ROUNDED if exported.quantization else _CLOSE):
            raise RequestError(
                "a prefix needs a model that reads texts from the left, and here what comes first sees what follows"
            )
        found: dict[str, Array] = {}
        for branch, layer in zip(branches, layers, strict=True):
            shape = self.shapes(branch)["keys"]
            keys = made[layer.keys].swapaxes(2, 3) if layer.turned else made[layer.keys]
            for part, value in (("keys", keys), ("values", made[layer.values])):
                if value.shape != (1, *shape):
                    raise RequestError(
                        f"a prefix needs keys and values of one shape, and {layer.linear.module} has "
                        f"{list(value.shape[1:])} and {list(shape)}"
                    )
                found[branch.tensors[part]] = np.ascontiguousarray(value[0], np.float32)
        return found

    def put(self, graph: Graph, branches: Sequence[Branch], *, stacked: bool) -> None:
        """Make texts longer, and let the first keys and values of each layer be the prefix's."""
        layers = _layers(graph, branches)
        first = PrefixBranch.of(branches[0])
        lengthen(graph, first.tokens, first.filler)
        for branch, layer in zip(branches, layers, strict=True):
            prefix = PrefixBranch.of(branch)
            keys = _for_each_row(graph, prefix, prefix.keys, stacked=stacked)
            if layer.turned:
                keys = graph.add("Transpose", keys, perm=[0, 1, 3, 2])
            values = _for_each_row(graph, prefix, prefix.values, stacked=stacked)
            _replace(graph, layer, layer.keys, keys, prefix.tokens, 3 if layer.turned else 2)
            _replace(graph, layer, layer.values, values, prefix.tokens, 2)

    def fitted(self, exported: Exported, own: PrefixOptions) -> Exported:
        """Return the source with texts short enough for a prefix."""
        return with_shorter_texts(exported, own.prefix_tokens, PREFIX)

    def adapted(self, exported: Exported, branches: Sequence[Branch]) -> Exported:
        """Return the source that is asked with the first values' tokens before each text."""
        return asked_with(exported, start_tokens(exported, _STARTS, PrefixBranch.of(branches[0]).tokens))


def _layers(graph: Graph, branches: Sequence[Branch]) -> list[Attention]:
    """Return the layer of each branch."""
    found = {layer.linear.weight: layer for layer in find_attention(graph)}
    return [found[branch.weight] for branch in branches]


def _replace(graph: Graph, layer: Attention, value: str, front: str, count: int, axis: int) -> None:
    """Let the first tokens of keys or values be a prefix."""
    own = graph.divert(value, f"{value}/text")
    if layer.linear.dtype != TensorProto.FLOAT:
        front = graph.add("Cast", front, to=layer.linear.dtype)
    graph.add("Concat", front, without(graph, own, count, axis), output=value, axis=axis)


def _alike(a: Mapping[str, Array], b: Mapping[str, Array], count: int, tolerance: float) -> bool:
    """Return whether what is made of the first tokens is the same, whatever follows."""
    for name in a:
        axis = next(
            (i for i, size in enumerate(a[name].shape) if size == count and b[name].shape[i] > count), None
        )
        if axis is None:
            continue
        first = np.take(b[name], np.arange(count), axis).astype(np.float64)
        if np.abs(a[name] - first).max() > tolerance * max(1e-3, float(np.abs(first).max())):
            return False
    return True


def _activations(
    exported: Exported, names: Sequence[str]
) -> Callable[[Mapping[str, Array]], dict[str, Array]]:
    """Return what runs the inference graph up to some values."""
    graph = Graph(exported.model)
    inputs = [value for value in exported.model.graph.input if value.name in graph.inputs]
    model = graph.finish(inputs, [helper.make_empty_tensor_value_info(name) for name in dict.fromkeys(names)])
    # the tensors are fed, as no file holds them yet
    stored = [tensor for tensor in model.graph.initializer if tensor.name in exported.weights]
    weights = {tensor.name: exported.weights[tensor.name] for tensor in stored}
    for tensor in stored:
        model.graph.input.append(
            helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
        )
        model.graph.initializer.remove(tensor)
    session = Session(model.SerializeToString(), "the model", prepack=False, ours=False)
    return lambda given: session.run({**weights, **given})


def _for_each_row(graph: Graph, prefix: PrefixBranch, tensor: str, *, stacked: bool) -> str:
    """Return a prefix [rows, heads, tokens, width]; of several points, each point's at its rows."""
    rows = rows_of(graph, IDS)
    size = graph.hold(np.array([prefix.heads, prefix.tokens, prefix.width], np.int64), "prefix")
    if not stacked:
        return graph.add("Expand", graph.unsqueeze(tensor, 0), graph.add("Concat", rows, size, axis=0))
    points = rows_of(graph, prefix.keys)
    shape = graph.add("Concat", points, graph.add("Div", rows, points), size, axis=0)
    each = graph.add("Expand", graph.unsqueeze(tensor, 1), shape)
    return graph.add("Reshape", each, graph.add("Concat", rows, size, axis=0))


SURGERY: GraphSurgery = PrefixSurgery()
