"""Of which value an output is the softmax or the sigmoid."""

import numpy as np
import pytest

from tests.builders.models import model, node, normal, run, value
from zoedge.export.sources.activation import Output, find_activation

RNG = np.random.default_rng(0)
Z = RNG.standard_normal((3, 16, 4)) * np.array([3.0, 0.3, 30.0])[:, None, None]


def softmax(z):
    return np.exp(z - np.logaddexp.reduce(z, axis=-1, keepdims=True))


def output(values, loss="cross-entropy", total=1.0):
    values = list(values)
    return Output(values, log=False, loss=loss, batch=0, shape=(-1, *values[0].shape[1:]), total=total)


def test_the_order_of_classes_is_found_where_it_is_certain():
    order = [2, 0, 3, 1]
    found = find_activation(output(softmax(Z)[..., order]), {"z": list(Z)})
    assert found.order == tuple(order)
    twins = Z[..., [0, 1, 2, 2]]
    assert find_activation(output(softmax(twins)[..., [1, 0, 3, 2]]), {"z": list(twins)}) is None


def test_rare_classes_in_another_order_are_no_match():
    """A tolerance of a share of the largest value would let them pass."""
    rare = np.concatenate([Z, Z[..., :2] - 12.0], axis=-1)
    swapped = softmax(rare)[..., [0, 1, 2, 3, 5, 4]]
    found = find_activation(output(swapped), {"z": list(rare)})
    assert found.order == (0, 1, 2, 3, 5, 4)


def test_a_value_that_only_comes_near_is_no_match():
    near = 1e-3 * Z  # the softmax of these shares is nearly what they are
    shares = softmax(near)
    assert find_activation(output(shares), {"p": list(shares)}) is None
    assert find_activation(output(shares), {"p": list(shares), "z": list(near)}).value == "z"
    hard = np.clip(0.5 + 0.25 * Z, 0, 1)
    assert find_activation(output(hard, "bce-with-logits"), {"z": list(Z)}) is None


@pytest.mark.parametrize(
    ("loss", "value_shape", "shape", "wanted"),
    [
        ("cross-entropy", (5, 4, 1, 1), (5, 4), lambda z: z[:, :, 0, 0]),
        ("cross-entropy", (5,), (5, 2), lambda z: np.stack([0 * z, z], axis=1)),
        ("cross-entropy", (5, 2), (5, 1), lambda z: z),
        ("bce-with-logits", (5, 2), (5, 1), lambda z: z[:, 1:] - z[:, :1]),
        ("bce-with-logits", (5, 3, 1), (5, 3), lambda z: z[:, :, 0]),
    ],
)
def test_logits_get_the_form_that_the_loss_takes(loss, value_shape, shape, wanted):
    """The nodes are run in stock onnxruntime; the output is made of the wanted logits."""
    z = normal(value_shape, 3, 2.0)
    logits = wanted(z.astype(np.float64))
    made = 1 / (1 + np.exp(-logits)) if loss == "bce-with-logits" else softmax(logits)
    probabilities = made if made.shape == shape else made[:, 1:]
    found = find_activation(output([probabilities], loss), {"z": [z]})
    dims = ["b", *value_shape[1:]]
    proto = model([node("Identity", "x", "z")], [value("x", dims)], [value("z", dims)], {}, opset=15)
    from zoedge.export.surgery.graph import Graph

    nodes, name = found.nodes(Graph(proto))
    proto.graph.node.extend(nodes)
    proto.graph.output.append(value(name, None))
    np.testing.assert_allclose(run(proto, {"x": z})[name], logits, rtol=1e-6)
