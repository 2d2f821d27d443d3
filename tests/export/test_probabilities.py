"""Outputs that hold probabilities: the loss is computed from what they were made of, or the output is refused."""

import numpy as np
import pytest
import torch
from onnx import TensorProto
from torch import nn

from tests.builders.models import model, node, normal, run, save, value
from zoedge import InputError
from zoedge.export import to_bundle

from .test_to_bundle import outputs

X = normal((24, 6), 1, 1.0)
W = normal((6, 3), 2, 3.0)
CLASSES = np.random.default_rng(0).integers(0, 3, 24)
LOGITS = X.astype(np.float64) @ W
LOGS = LOGITS - np.logaddexp.reduce(LOGITS, axis=1, keepdims=True)
Z = LOGITS[:, :1]

TENSORS = {
    "flat": np.array([-1, 3]),
    "images": np.array([-1, 3, 1, 1]),
    "axes": np.array([2, 3]),
    "axis": np.array([1]),
    "last": np.array([-1]),
    "low": np.array(1e-7, np.float32),
    "high": np.array(1 - 1e-7, np.float32),
    "one": np.ones(1, np.float32),
    "plus_one": np.array(1.0, np.float32),
}
BY_LOGARITHMS = (
    "y holds probabilities, rows that sum to 1, and no logits were found behind them: the loss cross-entropy is "
    "computed from their logarithms; a probability nearer to 0 than 1e-38 trains no more"
)
SOFTMAX = [node("MatMul", "x w", "z"), node("Softmax", "z", "p", axis=1)]
SIGMOID = [node("MatMul", "x w", "z"), node("Sigmoid", "z", "p")]


def classifier(nodes, *, width=3, classes=3, opset=15, rank=2):
    """x [b, 6] -> y [b, classes], the weights [6, width]."""
    used = {read for each in nodes for read in each.input}
    tensors = {name: array for name, array in TENSORS.items() if name in used} | {"w": W[:, :width].copy()}
    shape = ["b", classes][:rank]
    return model(nodes, [value("x", ["b", 6])], [value("y", shape)], tensors, opset=opset)


def losses(tmp_path, proto, targets, told, **options):
    options = {"train": ("full",), **options}
    bundle = to_bundle(save(proto, tmp_path / "m.onnx"), tmp_path / "bundle", say=told.append, **options)
    return outputs(bundle.path("loss.onnx"), {"x": X, "labels": targets})["loss"], bundle


TAILS = {
    "plain": [node("Identity", "p", "y")],
    "Cast": [node("Cast", "p", "d", to=TensorProto.DOUBLE), node("Cast", "d", "y", to=TensorProto.FLOAT)],
    "Reshape": [node("Reshape", "p flat", "y")],
    "Flatten": [node("Flatten", "p", "y")],
    "Dropout": [node("Dropout", "p", "y")],
    "Clip": [node("Clip", "p low high", "y")],
    "Transpose twice": [
        node("Transpose", "p", "t", perm=[1, 0]),
        node("Transpose", "t", "y", perm=[1, 0]),
    ],
    "Squeeze": [node("Unsqueeze", "p axis", "u"), node("Squeeze", "u axis", "y")],
    "Log": [node("Add", "p low", "q"), node("Log", "q", "y")],
    "divided by its sum": [node("ReduceSum", "p last", "s", keepdims=1), node("Div", "p s", "y")],
}


@pytest.mark.parametrize("tail", TAILS)
def test_a_softmax_is_left_to_the_loss(tmp_path, tail):
    told = []
    loss, bundle = losses(tmp_path, classifier([*SOFTMAX, *TAILS[tail]]), CLASSES, told, loss="cross-entropy")
    np.testing.assert_allclose(loss, -LOGS[np.arange(24), CLASSES], rtol=1e-4, atol=1e-5)
    kind = "LogSoftmax" if tail == "Log" else "Softmax"
    assert told == [f"y is a {kind}: the loss cross-entropy is computed from its input, z"]
    deployed = outputs(bundle.path("model.onnx"), {"x": X})
    assert list(deployed) == ["y"]
    np.testing.assert_allclose(
        deployed["y"], run(classifier([*SOFTMAX, *TAILS[tail]]), {"x": X})["y"], rtol=1e-5
    )
    assert bundle.manifest.head.weight == "w"  # the layer is found although the output isn't its own


def test_a_softmax_written_out_is_found(tmp_path):
    nodes = [
        node("MatMul", "x w", "z"),
        node("ReduceMax", "z", "m", axes=[1]),
        node("Sub", "z m", "c"),
        node("Exp", "c", "e"),
        node("ReduceSum", "e last", "s", keepdims=1),
        node("Div", "e s", "y"),
    ]
    told = []
    loss, _ = losses(tmp_path, classifier(nodes), CLASSES, told, loss="cross-entropy")
    np.testing.assert_allclose(loss, -LOGS[np.arange(24), CLASSES], rtol=1e-4, atol=1e-5)
    assert told == ["y is a Softmax: the loss cross-entropy is computed from its input, c"]


def test_logits_take_the_shape_that_probabilities_have(tmp_path):
    """Networks for images end with a softmax over channels [b, 3, 1, 1] and then drop the last axes."""
    nodes = [
        node("MatMul", "x w", "a"),
        node("Reshape", "a images", "z"),
        node("Softmax", "z", "p", axis=1),
        node("Squeeze", "p axes", "y"),
    ]
    told = []
    loss, bundle = losses(tmp_path, classifier(nodes), CLASSES, told, loss="cross-entropy")
    np.testing.assert_allclose(loss, -LOGS[np.arange(24), CLASSES], rtol=1e-4, atol=1e-5)
    assert told == ["y is a Softmax: the loss cross-entropy is computed from its input, z"]
    assert list(outputs(bundle.path("model.onnx"), {"x": X})) == ["y"]


PAIRS = {
    "[1 - p, p]": ([node("Sub", "one p", "q"), node("Concat", "q p", "y", axis=1)], True, 2),
    "[p, 1 - p]": ([node("Sub", "plus_one p", "q"), node("Concat", "p q", "y", axis=-1)], False, 2),
    "p alone": ([node("Identity", "p", "y")], True, 1),
}


@pytest.mark.parametrize("pair", PAIRS)
def test_a_sigmoid_stands_for_two_classes(tmp_path, pair):
    tail, second, classes = PAIRS[pair]
    labels = CLASSES % 2
    told = []
    proto = classifier([*SIGMOID, *tail], width=1, classes=classes)
    options = {"loss": "cross-entropy", "labels": ("no", "yes"), "train": ("head",)}
    loss, bundle = losses(tmp_path, proto, labels, told, **options)
    logit = Z[:, 0] if second else -Z[:, 0]
    np.testing.assert_allclose(
        loss, np.logaddexp(0, np.where(labels == 1, -logit, logit)), rtol=1e-4, atol=1e-5
    )
    assert len(told) == 1
    assert told[0].endswith("the loss cross-entropy is computed from its input, z")
    assert [port.shape for port in bundle.manifest.model_outputs] == [("b", classes)]
    assert bundle.manifest.head is None  # its logits are no product of features alone


@pytest.mark.parametrize(
    "tail",
    [[node("Identity", "p", "y")], [node("Flatten", "p", "c"), node("Log", "c", "y")]],
    ids=["p", "log p"],
)
def test_sigmoids_are_left_to_their_loss(tmp_path, tail):
    targets = (normal((24, 3), 5) > 0).astype(np.float32)
    told = []
    loss, _ = losses(tmp_path, classifier([*SIGMOID, *tail]), targets, told, loss="bce-with-logits")
    wanted = np.logaddexp(0, np.where(targets > 0, -LOGITS, LOGITS)).mean(axis=1)
    np.testing.assert_allclose(loss, wanted, rtol=1e-4, atol=1e-5)
    assert told[0].endswith("the loss bce-with-logits is computed from its input, z")


REFUSED = {
    "softmax for bce": ([*SOFTMAX, *TAILS["Reshape"]], "bce-with-logits", {}, "--loss cross-entropy"),
    "sigmoids for classes": ([*SIGMOID, *TAILS["plain"]], "cross-entropy", {}, "--loss bce-with-logits"),
    "one class": (
        [node("MatMul", "x w", "y")], "cross-entropy", {"width": 1, "classes": 1}, "--loss bce-with-logits",
    ),
    "p without an axis of classes": (
        [*SIGMOID, node("Squeeze", "p axis", "y")], "cross-entropy", {"width": 1, "rank": 1}, "--loss bce-with-logits",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_probabilities_of_another_kind_are_refused_with_what_works(tmp_path, case):
    nodes, loss, options, remedy = REFUSED[case]
    path = save(classifier(nodes, **options), tmp_path / "m.onnx")
    with pytest.raises(InputError) as error:
        to_bundle(path, tmp_path / "bundle", loss=loss, train=("full",))
    assert str(error.value).endswith(f"use {remedy}")
    to_bundle(path, tmp_path / "bundle", loss=remedy.removeprefix("--loss "), train=("full",))


def test_rows_that_sum_to_one_are_probabilities_by_themselves(tmp_path):
    """The graph shows no softmax here: squares over their sum."""
    nodes = [
        node("MatMul", "x w", "z"),
        node("Mul", "z z", "q"),
        node("ReduceSum", "q last", "s", keepdims=1),
        node("Div", "q s", "y"),
    ]
    told = []
    loss, _ = losses(tmp_path, classifier(nodes), CLASSES, told, loss="cross-entropy")
    shares = LOGITS**2 / (LOGITS**2).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(loss, -np.log(shares[np.arange(24), CLASSES]), rtol=1e-4, atol=1e-5)
    assert told == [BY_LOGARITHMS]


def test_a_regression_on_probabilities_keeps_them(tmp_path):
    told = []
    targets = normal((24, 3), 7)
    loss, _ = losses(tmp_path, classifier([*SOFTMAX, *TAILS["plain"]]), targets, told, loss="mse")
    np.testing.assert_allclose(loss, np.square(np.exp(LOGS) - targets).mean(axis=1), rtol=1e-4, atol=1e-6)
    assert told == []


class Ending(nn.Module):
    def __init__(self, last):
        super().__init__()
        self.layer, self.last = nn.Linear(6, 3), last

    def forward(self, x):
        return self.last(self.layer(x))


class Times(nn.Module):
    def __init__(self, before, factor):
        super().__init__()
        self.before, self.factor = before, factor

    def forward(self, x):
        return self.factor * self.before(x)


def test_a_module_that_returns_probabilities_is_refused(tmp_path):
    torch.manual_seed(0)
    given = {"task": "classification", "example_inputs": {"x": torch.from_numpy(X)}, "train": ("full",)}
    for last, loss, kind in (
        (nn.Softmax(-1), "cross-entropy", "probabilities, rows that sum to 1"),
        (Times(nn.Softmax(-1), 100), "cross-entropy", "probabilities, rows that sum to 100"),
        (nn.Sigmoid(), "bce-with-logits", "probabilities, numbers from 0 to 1"),
        (nn.LogSigmoid(), "bce-with-logits", "logarithms of probabilities, numbers from 0 to 1"),
    ):
        with pytest.raises(InputError) as error:
            to_bundle(Ending(last), tmp_path / "bundle", loss=loss, **given)
        assert str(error.value) == (
            f"Ending.forward returns {kind}, and {loss} takes logits: return what goes into the last softmax or sigmoid"
        )
    module = Ending(nn.LogSoftmax(-1))  # the softmax of log-probabilities is the softmax of the logits
    bundle = to_bundle(module, tmp_path / "bundle", loss="cross-entropy", **given)
    got = outputs(bundle.path("loss.onnx"), {"x": X, "labels": CLASSES})["loss"]
    logits = module.layer(torch.from_numpy(X))
    wanted = nn.functional.cross_entropy(logits, torch.from_numpy(CLASSES), reduction="none")
    np.testing.assert_allclose(got, wanted.detach().numpy(), rtol=1e-4, atol=1e-5)
