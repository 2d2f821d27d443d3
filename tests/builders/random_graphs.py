"""Random small graphs of layers of every kind, from x [n, 4] or [4, n] to y [n, 1] or [1, n]."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tests.builders.models import INT64, value
from tests.builders.random_draws import MICROSOFT, WIDTH, Drawn

from . import random_floats, random_integers

LAYERS = {layer.__name__: layer for layer in (*random_floats.LAYERS, *random_integers.LAYERS)}
ML = "ai.onnx.ml"


class Made(NamedTuple):
    """A file; ``turned`` where its batch is the last axis of x and y."""

    model: onnx.ModelProto
    turned: bool


def random_graph(draw, first):
    """Return a file with a layer of that name, and up to two others.

    Args:
        draw: (low, high) -> an integer, chosen by hypothesis.
        first: a name in LAYERS.
    """
    d = Drawn(draw)
    turned = bool(draw(0, 1))
    x = d.rows = d.op("Transpose", "x", perm=[1, 0]) if turned else "x"
    every = list(LAYERS.values())
    for layer in (LAYERS[first], *(every[draw(0, len(every) - 1)] for _ in range(draw(0, 2)))):
        x = layer(d, x)
    y = d.op("Gemm", x, d.held((WIDTH, 1)), d.held([(1,), (1, 1)][draw(0, 1)]))
    d.nodes.append(helper.make_node("Transpose" if turned else "Identity", [y], ["y"]))
    outputs = [value("y", [1, "n"] if turned else ["n", 1]), *_others(d, x)]
    held = [
        numpy_helper.from_array(np.ascontiguousarray(a).reshape(a.shape), n) for n, a in d.tensors.items()
    ]
    given = value("x", [WIDTH, "n"] if turned else ["n", WIDTH])
    graph = helper.make_graph(d.nodes, "g", [given], outputs, held)
    imports = [helper.make_opsetid("", 17), helper.make_opsetid(MICROSOFT, 1), helper.make_opsetid(ML, 3)]
    return Made(helper.make_model(graph, opset_imports=imports, ir_version=9), turned)


def _others(d, x):
    """Return further outputs, of other types than tensors of floats, with tensors that y doesn't depend on."""
    kind = d.draw(0, 4)
    if kind == 0:
        return []
    scores = d.op("Softmax", d.op("MatMul", x, d.held((WIDTH, 3), "unread")))
    if kind == 1:
        d.nodes.append(
            helper.make_node("ZipMap", [scores], ["other"], domain=ML, classlabels_int64s=[4, 5, 6])
        )
        key, element = onnx.TensorProto.INT64, helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, [])
        kind_of = helper.make_sequence_type_proto(helper.make_map_type_proto(key, element))
    elif kind == 2:
        d.nodes.append(helper.make_node("SequenceConstruct", [scores, scores], ["other"]))
        kind_of = helper.make_sequence_type_proto(helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, None))
    elif kind == 3:
        d.nodes.append(helper.make_node("Optional", [scores], ["other"]))
        kind_of = helper.make_optional_type_proto(helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, None))
    else:
        d.nodes.append(helper.make_node("ArgMax", [scores], ["other"], axis=1))
        return [value("other", None, INT64)]
    return [helper.make_value_info("other", kind_of)]
