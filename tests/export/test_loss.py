"""The loss nodes, run by onnxruntime, against float64 formulas, hand-worked numbers and torch-free references."""

import numpy as np
import pytest
from onnx import TensorProto
from scipy.special import expit, log_softmax, xlogy

from tests.builders.models import model, node, run, value
from zoedge.export.surgery.graph import Graph
from zoedge.export.surgery.loss import LOSSES
from zoedge.export.surgery.overridable import make_overridable
from zoedge.names import PREDICT, in_graph


def losses(name, logits, labels, *, opset=18, predict=True):
    kind = TensorProto.INT64 if labels.dtype == np.int64 else TensorProto.FLOAT
    inputs = [value("logits", list(logits.shape)), value("labels", list(labels.shape), kind)]
    graph = Graph(
        model(
            [node("Identity", "logits", "same")], inputs, [value("same", list(logits.shape))], {}, opset=opset
        )
    )
    nodes = LOSSES[name].build(graph, "logits", "labels")
    outputs = [value(nodes.loss, ["n"]), value(nodes.weight, ["n"])]
    if nodes.predictions:
        outputs.append(value(nodes.predictions, ["n", "p"], TensorProto.INT64))
    finished = graph.finish(inputs, outputs)
    make_overridable(finished, ())
    asked = {in_graph(PREDICT): np.array(predict)} if nodes.predictions else {}
    result = run(finished, {"logits": logits, "labels": labels, **asked})
    return [result[o.name] for o in outputs]


EXTREME = np.array(
    [[1000.0, 999.0, -1000.0], [-1000.0, -1001.0, -1002.0], [0.0, 0.0, 0.0], [88.0, -88.0, 3.0]], np.float32
)


@pytest.mark.parametrize("opset", [11, 13, 17, 18, 23])
def test_cross_entropy_equals_log_softmax_also_for_extreme_logits(opset):
    labels = np.array([1, 2, 0, 1])
    loss, weight = losses("cross-entropy", EXTREME, labels, opset=opset)
    np.testing.assert_allclose(
        loss, -log_softmax(EXTREME.astype(np.float64), axis=1)[range(4), labels], rtol=1e-5
    )
    np.testing.assert_array_equal(weight, np.ones(4, np.float32))


def test_cross_entropy_by_hand():
    loss, _ = losses(
        "cross-entropy", np.array([[0.0, 0.0], [np.log(3.0), 0.0]], np.float32), np.array([1, 0])
    )
    np.testing.assert_allclose(loss, [np.log(2.0), np.log(4.0 / 3.0)], rtol=1e-6)


@pytest.mark.parametrize("opset", [11, 13, 18])
def test_token_cross_entropy_counts_label_tokens_only(opset):
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((3, 4, 5)).astype(np.float32) * 10
    labels = np.array([[1, 2, -100, -100], [4, 3, 2, 0], [-100] * 4])
    loss, weight, predictions = losses("token-cross-entropy", logits, labels, opset=opset)
    log_p = log_softmax(logits.astype(np.float64), axis=-1)
    wanted = [
        -(log_p[0, 0, 1] + log_p[0, 1, 2]) / 2,
        -np.mean([log_p[1, i, w] for i, w in enumerate(labels[1])]),
        0.0,
    ]
    np.testing.assert_allclose(loss, wanted, rtol=1e-5)
    np.testing.assert_array_equal(weight, [2, 4, 0])
    np.testing.assert_array_equal(predictions, logits.argmax(-1))


def test_predictions_are_empty_where_they_are_not_asked_for():
    logits, labels = np.ones((2, 3, 4), np.float32), np.zeros((2, 3), np.int64)
    loss, _, predictions = losses("token-cross-entropy", logits, labels, predict=False)
    np.testing.assert_allclose(loss, np.log(4.0), rtol=1e-6)
    assert predictions.shape == (0, 0)


def test_an_example_without_label_tokens_is_zero_even_where_its_logits_are_not_finite():
    logits = np.full((1, 2, 3), np.inf, np.float32)
    loss, weight, _ = losses("token-cross-entropy", logits, np.full((1, 2), -100))
    assert (loss[0], weight[0]) == (0.0, 0.0)


@pytest.mark.parametrize("shape", [(4,), (4, 1), (4, 3), (4, 2, 5)])
@pytest.mark.parametrize("opset", [11, 18])
def test_mse_is_the_mean_over_everything_but_the_batch(shape, opset):
    rng = np.random.default_rng(1)
    y, t = (rng.standard_normal(shape).astype(np.float32) for _ in range(2))
    loss, weight = losses("mse", y, t, opset=opset)
    np.testing.assert_allclose(loss, ((y.astype(np.float64) - t) ** 2).reshape(4, -1).mean(1), rtol=1e-5)
    np.testing.assert_array_equal(weight, np.ones(4))


def test_bce_equals_the_textbook_formula_and_stays_finite_far_out():
    rng = np.random.default_rng(2)
    x = rng.standard_normal((5, 4)).astype(np.float32) * 4
    t = rng.integers(0, 2, (5, 4)).astype(np.float32)
    loss, _ = losses("bce-with-logits", x, t)
    p = expit(x.astype(np.float64))
    np.testing.assert_allclose(loss, -(xlogy(t, p) + xlogy(1 - t, 1 - p)).mean(1), rtol=1e-5)
    far, _ = losses(
        "bce-with-logits", np.array([[200.0, -200.0]], np.float32), np.array([[0.0, 1.0]], np.float32)
    )
    np.testing.assert_allclose(far, [200.0], rtol=1e-6)
