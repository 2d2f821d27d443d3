"""Layers that round their activations become products of float activations and the same matrices."""

import numpy as np
import pytest
from onnx import numpy_helper

from tests.builders.models import normal, run
from tests.builders.quantised import quantised
from zoedge.export.surgery.graph import Graph
from zoedge.export.surgery.weights_only import multiply_floats

ROUNDING = ("MatMulInteger", "DynamicQuantizeMatMul", "MatMulIntegerToFloat")
X = normal((5, 32), 0)


def smooth(proto):
    graph = Graph(proto)
    changed = multiply_floats(graph)
    return graph.finish(list(proto.graph.input), list(proto.graph.output)), changed


def per_column(proto, zero):
    """Give each column a scale and a zero of its own."""
    for tensor in proto.graph.initializer:
        if tensor.name == "ws":
            tensor.CopyFrom(_tensor(np.linspace(0.005, 0.02, 16, dtype=np.float32), "ws"))
        if tensor.name == "wz":
            tensor.CopyFrom(_tensor(np.full(16, zero, np.int8), "wz"))
    return proto


def _tensor(array, name):
    return numpy_helper.from_array(array, name)


@pytest.mark.parametrize("zero", [None, 0, 7])
@pytest.mark.parametrize("form", ROUNDING)
def test_a_rounding_layer_gives_nearly_the_same_without_it(form, zero):
    proto = quantised(form) if zero is None else per_column(quantised(form), zero)
    model, changed = smooth(proto)
    assert changed
    assert {n.op_type for n in model.graph.node} == {"DequantizeLinear", "MatMul"}
    wanted, got = run(proto, {"x": X})["y"], run(model, {"x": X})["y"]
    np.testing.assert_allclose(got, wanted, atol=0.02 * np.abs(wanted).max())
    held = {t.name: np.asarray(_array(t)) for t in proto.graph.initializer}
    matrix = (held["fc.weight_quantized"].astype(np.float32) - held["wz"]) * held["ws"]
    np.testing.assert_allclose(got, X @ matrix, atol=0.01 * np.abs(wanted).max())


def _array(tensor):
    return numpy_helper.to_array(tensor)


@pytest.mark.parametrize("form", ["DequantizeLinear", "QLinearMatMul", "MatMulNBits"])
def test_others_stay(form):
    model, changed = smooth(quantised(form))
    assert not changed
    assert [n.op_type for n in model.graph.node] == [n.op_type for n in quantised(form).graph.node]
