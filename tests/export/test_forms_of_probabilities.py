"""Softmaxes and sigmoids in forms that no list of patterns holds, against cross-entropy of the true logits."""

import numpy as np
import pytest
from onnx import TensorProto

import zoedge
from tests.builders.models import model, node, normal, run, save, value
from zoedge import InputError
from zoedge.export import to_bundle

from .test_to_bundle import outputs

X = normal((24, 6), 1, 1.0)
W, W2 = normal((6, 3), 2, 3.0), normal((6, 3), 9, 2.0)
CLASSES = np.random.default_rng(0).integers(0, 3, 24)
SIDES = CLASSES % 2
TARGETS = (normal((24, 3), 5) > 0).astype(np.float32)
W3 = normal((6, 1), 4, 0.5)
ORDER = [2, 0, 1]
TENSORS = {
    "hundred": np.float32(100), "one": np.ones(1, np.float32), "half": np.float32(0.5), "heat": np.float32(1.7),
    "low": np.float32(1e-7), "high": np.float32(1), "small": np.float32(1e-3), "most": np.float32(1e9),
    "start": np.array([0]), "end": np.array([3]), "axis": np.array([1]), "last": np.array([-1]),
    "second": np.array([1]),
    "parts": np.array([1, 2]), "order": np.array(ORDER), "yes": np.ones((1, 3), bool), "w2": W2, "w3": W3,
    "clone": W.copy(),
    "bias": np.full(3, 0.4, np.float32), "third": np.full(3, 1 / 3, np.float32), "scale": np.float32(1 / 255),
    "zero": np.uint8(0), "image": np.array([-1, 3, 1, 1]),
}  # fmt: skip
Z = X.astype(np.float64) @ W
P = np.exp(Z - np.logaddexp.reduce(Z, axis=1, keepdims=True))
S = 1 / (1 + np.exp(-Z))
LINEAR = [node("MatMul", "x w", "z")]
SOFTMAX = [*LINEAR, node("Softmax", "z", "p", axis=1)]
SIGMOID = [*LINEAR, node("Sigmoid", "z", "p")]
TANH = [
    *LINEAR,
    node("Mul", "z half", "h"),
    node("Tanh", "h", "t"),
    node("Mul", "t half", "u"),
    node("Add", "u half", "y"),
]
MEAN = [node("Softmax", "z2", "q", axis=1), node("Add", "p q", "s"), node("Mul", "s half", "y")]


def cross_entropy(logits, labels=CLASSES):
    logs = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    return -logs[np.arange(24), labels]


def binary(logits, targets=TARGETS):
    return np.logaddexp(0, np.where(targets > 0, -logits, logits)).mean(axis=1)


def two(logit):
    return cross_entropy(np.stack([0 * logit, logit], axis=1), SIDES)


def export(
    tmp_path, nodes, loss, *, classes=3, width=3, weight=W, train=("full",), kind=TensorProto.FLOAT, **options
):
    """Export x [b, 6] -> y [b, classes]; return (bundle, what was said, the file's graph)."""
    used = {read for each in nodes for read in each.input}
    tensors = {n: array for n, array in TENSORS.items() if n in used} | {"w": weight[:, :width].copy()}
    shape = options.pop("shape", ["b", classes])
    proto = model(nodes, [value("x", ["b", 6])], [value("y", shape, kind)], tensors, opset=15)
    told = []
    tmp_path.mkdir(exist_ok=True)
    path = save(proto, tmp_path / "m.onnx")
    return (
        to_bundle(path, tmp_path / "bundle", loss=loss, train=train, say=told.append, **options),
        told,
        proto,
    )


# form -> (nodes behind x, what the loss is)
CLASSED = {
    "percentages": ([*SOFTMAX, node("Mul", "p hundred", "y")], Z),
    "times one": ([*SOFTMAX, node("Mul", "p one", "y")], Z),
    "the whole slice": ([*SOFTMAX, node("Slice", "p start end axis", "y")], Z),
    "split and joined": ([*SOFTMAX, node("Split", "p parts", "a b", axis=1), node("Concat", "a b", "y", axis=1)], Z),
    "chosen from itself": ([*SOFTMAX, node("Where", "yes p p", "y")], Z),
    "another order": ([*SOFTMAX, node("Gather", "p order", "y", axis=1)], Z[:, ORDER]),
    "with a temperature": ([*LINEAR, node("Div", "z heat", "v"), node("Softmax", "v", "y", axis=1)], Z / 1.7),
    "exp of logarithms": ([*LINEAR, node("LogSoftmax", "z", "l", axis=1), node("Exp", "l", "y")], Z),
    "clipped": ([*SOFTMAX, node("Clip", "p low high", "y")], Z),
    "through float16": (
        [*SOFTMAX, node("Cast", "p", "f", to=TensorProto.FLOAT16), node("Cast", "f", "y", to=TensorProto.FLOAT)], Z,
    ),
    "mean of two": ([*SOFTMAX, node("MatMul", "x w2", "z2"), *MEAN],
                    np.log(P + np.exp(X @ W2 - np.logaddexp.reduce(X @ W2, axis=1, keepdims=True)))),
    "mean of two that are equal today": ([*SOFTMAX, node("MatMul", "x clone", "z2"), *MEAN], Z),
    "chosen by the input": (
        [*SOFTMAX, node("Neg", "z", "n"), node("Softmax", "n", "q", axis=1), node("ReduceMax", "x", "m", axes=[1]),
         node("Less", "m most", "c"), node("Where", "c p q", "y")], Z,
    ),
    "sigmoids over their sum": (
        [*SIGMOID, node("ReduceSum", "p last", "s", keepdims=1), node("Div", "p s", "y")], np.log(S),
    ),
    "relu over its sum": (
        [*LINEAR, node("Relu", "z", "r"), node("Add", "r small", "a"), node("ReduceSum", "a last", "s", keepdims=1),
         node("Div", "a s", "y")], np.log(np.maximum(Z, 0) + 1e-3),
    ),
}  # fmt: skip
BY_LOGARITHMS = {"mean of two", "mean of two that are equal today", "chosen by the input", "sigmoids over their sum",
                 "relu over its sum"}  # fmt: skip


@pytest.mark.parametrize("form", CLASSED)
def test_rows_that_sum_to_the_same_are_classes(tmp_path, form):
    nodes, logits = CLASSED[form]
    bundle, told, proto = export(tmp_path, nodes, "cross-entropy")
    loss = outputs(bundle.path("loss.onnx"), {"x": X, "labels": CLASSES})["loss"]
    np.testing.assert_allclose(loss, cross_entropy(logits), rtol=2e-4, atol=1e-5)
    told = [
        line for line in told if "float16" not in line
    ]  # whose range logarithms of small numbers may leave
    assert len(told) == 1
    assert ("computed from their logarithms" in told[0]) == (form in BY_LOGARITHMS)
    deployed = outputs(bundle.path("model.onnx"), {"x": X})["y"]
    np.testing.assert_allclose(deployed, run(proto, {"x": X})["y"], rtol=1e-5)
    for got, row in zip(zoedge.predict(bundle.folder, data={"x": X}), deployed, strict=True):
        assert got["label"] == row.argmax()
        assert got["score"] == pytest.approx(row.max() / row.sum(), abs=2e-3)


EACH = {
    "half a tanh": (TANH, Z),
    "chosen from itself": ([*SIGMOID, node("Where", "yes p p", "y")], Z),
    "percentages": ([*SIGMOID, node("Mul", "p hundred", "q"), node("Where", "yes q q", "y")], Z),
    "another order": ([*SIGMOID, node("Gather", "p order", "y", axis=1)], Z[:, ORDER]),
    "logarithm": ([*SIGMOID, node("Where", "yes p p", "q"), node("Log", "q", "y")], Z),
}


@pytest.mark.parametrize("form", EACH)
def test_numbers_from_0_to_1_are_a_probability_each(tmp_path, form):
    nodes, logits = EACH[form]
    bundle, told, _ = export(tmp_path, nodes, "bce-with-logits")
    loss = outputs(bundle.path("loss.onnx"), {"x": X, "labels": TARGETS})["loss"]
    np.testing.assert_allclose(loss, binary(logits), rtol=2e-4, atol=1e-5)
    assert len(told) == 1
    scores = [row["scores"] for row in zoedge.predict(bundle.folder, data={"x": X})]
    np.testing.assert_allclose(scores, 1 / (1 + np.exp(-logits)), atol=1e-5)


def test_the_mean_of_two_sigmoids_gives_the_loss_by_itself(tmp_path):
    """Sigmoids of onnxruntime are good to 1e-7 or so, and no better are the logarithms."""
    weak = (0.3 * W).astype(np.float32)
    nodes = [*SIGMOID, node("MatMul", "x w2", "z2"), node("Sigmoid", "z2", "q"), node("Add", "p q", "s"),
             node("Mul", "s half", "y")]  # fmt: skip
    bundle, told, _ = export(tmp_path, nodes, "bce-with-logits", weight=weak)
    p = (1 / (1 + np.exp(-X.astype(np.float64) @ weak)) + 1 / (1 + np.exp(-X.astype(np.float64) @ W2))) / 2
    loss = outputs(bundle.path("loss.onnx"), {"x": X, "labels": TARGETS})["loss"]
    np.testing.assert_allclose(loss, binary(np.log(p) - np.log1p(-p)), rtol=1e-3)
    assert told == [
        "y holds probabilities, numbers from 0 to 1, and no logits were found behind them: the loss bce-with-logits is "
        "computed from their logarithms; a probability nearer to 0 or 1 than 1e-07 trains no more"
    ]


ONE_OF_TWO = {
    "[1 - p, p] by Neg and Add": (
        [*SIGMOID, node("Neg", "p", "n"), node("Add", "n one", "q"), node("Concat", "q p", "y", axis=1)], 1, 2, Z[:, 0],
    ),
    "half a tanh": (TANH, 1, 1, Z[:, 0]),
    "the second of a softmax": ([*SOFTMAX, node("Gather", "p second", "y", axis=1)], 2, 1, Z[:, 1] - Z[:, 0]),
}  # fmt: skip


@pytest.mark.parametrize("form", ONE_OF_TWO)
def test_one_number_stands_for_two_classes(tmp_path, form):
    nodes, width, classes, logit = ONE_OF_TWO[form]
    options = {"width": width, "classes": classes, "labels": ("no", "yes")}
    bundle, told, _ = export(tmp_path, nodes, "cross-entropy", **options)
    loss = outputs(bundle.path("loss.onnx"), {"x": X, "labels": SIDES})["loss"]
    np.testing.assert_allclose(loss, two(logit), rtol=2e-4, atol=1e-5)
    assert told[0].endswith("the loss cross-entropy is computed from its input, z")


def test_the_second_of_a_softmax_is_a_sigmoid(tmp_path):
    nodes = [*SOFTMAX, node("Gather", "p second", "y", axis=1)]
    bundle, _, _ = export(tmp_path, nodes, "bce-with-logits", width=2, classes=1)
    loss = outputs(bundle.path("loss.onnx"), {"x": X, "labels": TARGETS[:, :1]})["loss"]
    np.testing.assert_allclose(
        loss, binary((Z[:, 1] - Z[:, 0])[:, None], TARGETS[:, :1]), rtol=2e-4, atol=1e-5
    )


NO_PROBABILITIES = {
    "logits": ([node("MatMul", "x w", "y")], W, Z),
    "relu": ([*LINEAR, node("Relu", "z", "y")], W, np.maximum(Z, 0)),
    "logits near a bias": ([*LINEAR, node("Add", "z bias", "y")], 1e-3 * W, 1e-3 * Z + 0.4),
    "a new head under a cap": (
        [*LINEAR, node("Tanh", "z", "t"), node("Mul", "t hundred", "y")],
        0 * W,
        0 * Z,
    ),
}


@pytest.mark.parametrize("form", NO_PROBABILITIES)
@pytest.mark.parametrize("loss", ["cross-entropy", "bce-with-logits"])
def test_logits_stay_logits(tmp_path, form, loss):
    nodes, weight, logits = NO_PROBABILITIES[form]
    bundle, told, _ = export(tmp_path, nodes, loss, weight=weight.astype(np.float32))
    labels, wanted = (
        (CLASSES, cross_entropy(logits)) if loss == "cross-entropy" else (TARGETS, binary(logits))
    )
    got = outputs(bundle.path("loss.onnx"), {"x": X, "labels": labels})["loss"]
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)
    assert told == []


def test_a_constant_that_sums_to_one_is_said(tmp_path):
    nodes = [*LINEAR, node("Add", "z third", "y")]
    _, told, _ = export(tmp_path, nodes, "cross-entropy", weight=0 * W)
    assert told == [
        "y gives the same numbers for every random input, so that nothing tells whether they are probabilities: "
        "cross-entropy takes them for logits; example_inputs of to_bundle on which they differ tell it"
    ]


@pytest.mark.parametrize("scale", [0.0, 30.0])
def test_softmaxes_of_new_and_of_saturated_heads_are_found(tmp_path, scale):
    weight = np.float32(scale) * W
    bundle, told, _ = export(
        tmp_path, [*SOFTMAX, node("Mul", "p hundred", "y")], "cross-entropy", weight=weight
    )
    loss = outputs(bundle.path("loss.onnx"), {"x": X, "labels": CLASSES})["loss"]
    np.testing.assert_allclose(loss, cross_entropy(X.astype(np.float64) @ weight), rtol=1e-4, atol=1e-5)
    assert told == ["y is a Softmax times 100: the loss cross-entropy is computed from its input, z"]


def test_probabilities_in_8_bits_are_found(tmp_path):
    nodes = [
        *SOFTMAX,
        node("QuantizeLinear", "p scale zero", "q"),
        node("DequantizeLinear", "q scale zero", "y"),
    ]
    bundle, _, _ = export(tmp_path, nodes, "cross-entropy", train=("head",))
    loss = outputs(bundle.path("loss.onnx"), {"x": X, "labels": CLASSES})["loss"]
    np.testing.assert_allclose(loss, cross_entropy(Z), rtol=1e-4, atol=1e-5)


def test_the_batch_may_be_last(tmp_path):
    nodes = [*LINEAR, node("Transpose", "z", "v", perm=[1, 0]), node("Softmax", "v", "p", axis=0),
             node("Gather", "p order", "y", axis=0)]  # fmt: skip
    bundle, _, _ = export(tmp_path, nodes, "cross-entropy", shape=[3, "b"])
    loss = outputs(bundle.path("loss.onnx"), {"x": X, "labels": CLASSES})["loss"]
    np.testing.assert_allclose(loss, cross_entropy(Z[:, ORDER]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("axis", [0, 1])
def test_one_number_for_two_classes_without_logits(tmp_path, axis):
    """[b, 1], and with the batch last [1, b]."""
    weak = (0.3 * W).astype(np.float32)
    nodes = [
        *SIGMOID,
        node("Mul", "p p", "s"),
        node("MatMul", "x w3", "z3"),
        node("Sigmoid", "z3", "g"),
        node("Mul", "s g", "q"),
        node("Transpose", "q", "y", perm=[axis, 1 - axis]),
    ]
    shape = ["b", 1] if axis == 0 else [1, "b"]
    bundle, told, _ = export(tmp_path, nodes, "cross-entropy", width=1, weight=weak, shape=shape)
    x = X.astype(np.float64)
    p = 1 / (1 + np.exp(-x @ weak[:, 0])) ** 2 / (1 + np.exp(-x @ W3[:, 0]))
    loss = outputs(bundle.path("loss.onnx"), {"x": X, "labels": SIDES})["loss"]
    np.testing.assert_allclose(loss, -np.log(np.where(SIDES == 1, p, 1 - p)), rtol=1e-3)
    assert "computed from their logarithms" in told[0]


def test_the_layer_behind_probabilities_is_the_head(tmp_path):
    for form in ("another order", "sigmoids over their sum"):
        bundle, _, _ = export(tmp_path / form, CLASSED[form][0], "cross-entropy", train=("head",))
        assert [row.name for row in bundle.manifest.trainable] == ["w"]
        assert bundle.manifest.frozen == ()


def test_logarithms_are_logits_of_classes_as_they_are(tmp_path):
    for name, nodes, logits in (
        ("twice", [*LINEAR, node("LogSoftmax", "z", "l", axis=1), node("Add", "l l", "y")], 2 * Z),
        ("of each", [*LINEAR, node("Softplus", "z", "s"), node("Neg", "s", "y")], np.log(1 - S)),
    ):
        bundle, told, _ = export(tmp_path / name, nodes, "cross-entropy")
        loss = outputs(bundle.path("loss.onnx"), {"x": X, "labels": CLASSES})["loss"]
        np.testing.assert_allclose(loss, cross_entropy(logits), rtol=1e-4, atol=1e-5)
        assert told == []


def test_logarithms_of_each_are_none_for_binary_losses(tmp_path):
    nodes = [*LINEAR, node("Softplus", "z", "s"), node("Neg", "s", "y")]  # log(1 - p)
    weak = (0.3 * W).astype(np.float32)
    bundle, told, _ = export(tmp_path, nodes, "bce-with-logits", weight=weak)
    loss = outputs(bundle.path("loss.onnx"), {"x": X, "labels": TARGETS})["loss"]
    np.testing.assert_allclose(loss, binary(-X.astype(np.float64) @ weak), rtol=1e-3)
    assert len(told) == 1


def test_steps_are_refused_with_what_they_are_made_from(tmp_path):
    nodes = [*LINEAR, node("Hardmax", "z", "y", axis=1)]
    with pytest.raises(InputError) as error:
        export(tmp_path, nodes, "cross-entropy")
    assert str(error.value) == (
        "the output y gave nothing but 0 and 1 for random inputs, steps that no small change of the weights moves: "
        "choose z with --output-name"
    )
    bundle, _, _ = export(tmp_path, nodes, "cross-entropy", output_name="z")
    loss = outputs(bundle.path("loss.onnx"), {"x": X, "labels": CLASSES})["loss"]
    np.testing.assert_allclose(loss, cross_entropy(Z), rtol=1e-4, atol=1e-5)


def test_classes_along_another_axis_are_named(tmp_path):
    nodes = [*LINEAR, node("Reshape", "z image", "i"), node("Softmax", "i", "y", axis=1)]
    with pytest.raises(
        InputError, match=r"3 probabilities .* along axis 1, .* an output \[batch, classes\]$"
    ):
        export(tmp_path, nodes, "cross-entropy", shape=["b", 3, 1, 1])


def test_what_a_refusal_names_works(tmp_path):
    circular = CLASSED["sigmoids over their sum"][0]
    with pytest.raises(InputError, match=r"rows that sum to 1, and .* use --loss cross-entropy$"):
        export(tmp_path, circular, "bce-with-logits")
    export(tmp_path / "classes", circular, "cross-entropy")
    with pytest.raises(
        InputError, match=r"whose rows don't sum to the same, and .* use --loss bce-with-logits$"
    ):
        export(tmp_path, EACH["another order"][0], "cross-entropy")
    export(tmp_path / "each", EACH["another order"][0], "bce-with-logits")
