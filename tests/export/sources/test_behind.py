"""What lies between an output and the layers before it."""

from tests.builders.models import model, node, normal, value
from zoedge.export.sources.behind import behind
from zoedge.export.surgery.graph import Graph

TENSORS = {"w": normal((6, 3), 1), "v": normal((3, 3), 2)}


def walked(*nodes):
    proto = model([*nodes], [value("x", ["b", 6])], [value("y", ["b", 3])], TENSORS)
    return behind(Graph(proto), "y")


def test_the_walk_ends_at_layers():
    found = walked(
        node("MatMul", "x w", "h"),
        node("Relu", "h", "r"),
        node("MatMul", "r v", "z"),
        node("Softmax", "z", "p"),
        node("Identity", "p", "y"),
    )
    assert found.sources == ("z", "p")  # what a softmax reads comes first
    assert found.activated == {"z"}
    assert found.operators == {"Softmax", "Identity"}


def test_a_source_decides_the_output_alone():
    found = walked(
        node("MatMul", "x w", "a"),
        node("MatMul", "x w", "b"),
        node("Softmax", "a", "p"),
        node("Softmax", "b", "q"),
        node("Add", "p q", "s"),
        node("Tanh", "s", "y"),
    )
    assert found.sources == ("s",)
    assert found.activated == frozenset()


def test_a_product_of_two_activations_is_no_layer():
    found = walked(
        node("MatMul", "x w", "z"),
        node("Softmax", "z", "p"),
        node("Transpose", "p", "t", perm=[1, 0]),
        node("MatMul", "t p", "g"),
        node("MatMul", "p g", "y"),
    )
    assert "Softmax" in found.operators
    assert "z" in found.sources
