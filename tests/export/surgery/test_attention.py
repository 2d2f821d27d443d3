"""Attention layers as graphs write them."""

import numpy as np
import pytest

from tests.builders.models import model, node, normal, value
from zoedge.export.surgery.attention import find_attention
from zoedge.export.surgery.graph import Graph

HEADS, WIDTH = 2, 4


def layer(*, shape=(0, 0, HEADS, WIDTH), turned=False, masked=True, bias=True, fused=False):
    """Nodes of one layer on x [b, t, 8] -> y [b, heads, t, 4]."""
    total = HEADS * WIDTH
    tensors = {name: normal((total, total), i) for i, name in enumerate(("wq", "wk", "wv"))}
    tensors |= {
        "b": normal(total, 4),
        "shape": np.array(shape, np.int64),
        "scale": np.float32(0.5),
        "mask": normal((1, 1), 5),
    }
    nodes = []
    for name in "qkv":
        nodes.append(node("MatMul", f"x w{name}", f"{name}0"))
        nodes.append(
            node("Add", f"{name}0 b", f"{name}1") if bias else node("Identity", f"{name}0", f"{name}1")
        )
        nodes.append(node("Reshape", f"{name}1 shape", f"{name}2"))
        nodes.append(node("Transpose", f"{name}2", f"{name}", perm=[0, 2, 1, 3]))
    nodes.append(
        node("Transpose", "k2", "kt", perm=[0, 2, 3, 1])
        if turned
        else node("Transpose", "k", "kt", perm=[0, 1, 3, 2])
    )
    nodes.append(node("MatMul", "q kt", "s0"))
    nodes.append(node("Mul", "s0 scale", "s1"))
    nodes.append(node("Add", "s1 mask", "s2") if masked else node("Identity", "s1", "s2"))
    nodes.append(node("Relu" if fused else "Softmax", "s2", "a"))
    nodes.append(node("MatMul", "a v", "y"))
    return Graph(model(nodes, [value("x", ["b", "t", total])], [value("y", None)], tensors))


@pytest.mark.parametrize("settings", [{}, {"masked": False}, {"bias": False}, {"shape": (0, 0, -1, WIDTH)}])
def test_keys_and_values_are_found_by_head(settings):
    (found,) = find_attention(layer(**settings))
    assert (found.keys, found.values, found.turned) == ("k", "v", False)
    assert (found.heads, found.width) == (HEADS, WIDTH)
    assert found.linear.weight == "wv"


def test_keys_that_are_turned_at_once_are_told():
    (found,) = find_attention(layer(turned=True))
    assert (found.keys, found.turned) == ("kt", True)


def test_what_is_no_attention_is_left_alone():
    assert find_attention(layer(fused=True)) == []
    plain = [node("MatMul", "x w", "a"), node("Softmax", "a", "y")]
    assert (
        find_attention(
            Graph(model(plain, [value("x", ["b", 4])], [value("y", None)], {"w": normal((4, 4), 1)}))
        )
        == []
    )


def test_a_width_that_no_constant_tells_is_no_layer():
    graph = layer()
    graph.initializers.pop("shape")
    assert find_attention(graph) == []
