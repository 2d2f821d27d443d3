"""Outputs of a file that are no tensors of floats: listed, passed over, and refused with what to choose."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.builders.models import INT64, model, node, normal, save, value
from zoedge import InputError
from zoedge.export import to_bundle

from ..test_to_bundle import outputs

X = normal((5, 6), 1, 1.0)
CLASSES = np.array([0, 2, 1, 1, 0])
TENSORS = {"coefficient": normal((6, 8), 2), "intercepts": normal((1, 8), 3)}
TENSORS |= {"coefficient1": normal((8, 3), 4), "intercepts1": normal((1, 3), 5)}
MAPS = helper.make_sequence_type_proto(
    helper.make_map_type_proto(INT64, helper.make_tensor_type_proto(1, None))
)


def sklearn(*, probabilities=False, texts=False):
    """A network as skl2onnx writes it: labels, and probabilities as a sequence of maps."""
    nodes = [
        node("MatMul", "X coefficient", "m0"),
        node("Add", "m0 intercepts", "a0"),
        node("Relu", "a0", "h"),
        node("MatMul", "h coefficient1", "m1"),
        node("Add", "m1 intercepts1", "a1"),
        node("Softmax", "a1", "out_activations", axis=1),
        node("ArgMax", "out_activations", "best", axis=1, keepdims=0),
        helper.make_node(
            "ZipMap",
            ["out_activations"],
            ["output_probability"],
            domain="ai.onnx.ml",
            classlabels_int64s=[0, 1, 2],
        ),
    ]
    held = dict(TENSORS)
    if texts:
        held["names"] = np.array(["a", "b", "c"], object)
        nodes.append(
            helper.make_node("ArrayFeatureExtractor", ["names", "best"], ["picked"], domain="ai.onnx.ml")
        )
        held["flat"] = np.array([-1])
        nodes.append(node("Reshape", "picked flat", "output_label"))
    else:
        nodes.append(node("Identity", "best", "output_label"))
    label = value("output_label", [None], TensorProto.STRING if texts else INT64)
    found = [label, helper.make_value_info("output_probability", MAPS)]
    if probabilities:
        found.append(value("out_activations", [None, 3]))
    proto = model(nodes, [value("X", [None, 6])], found, {}, opset=15)
    proto.graph.initializer.extend(
        helper.make_tensor(name, TensorProto.STRING, array.shape, [text.encode() for text in array])
        if array.dtype == object
        else numpy_helper.from_array(array, name)
        for name, array in held.items()
    )
    proto.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))
    return proto


def logits():
    hidden = np.maximum(X.astype(np.float64) @ TENSORS["coefficient"] + TENSORS["intercepts"], 0)
    return hidden @ TENSORS["coefficient1"] + TENSORS["intercepts1"]


@pytest.mark.parametrize("texts", [False, True])
def test_maps_and_labels_are_kept_and_ignored(tmp_path, texts):
    path = save(sklearn(texts=texts), tmp_path / "m.onnx")
    bundle = to_bundle(
        path, tmp_path / "bundle", loss="cross-entropy", output_name="out_activations", train=("full",)
    )
    assert {p.name for p in bundle.manifest.trainable} == set(TENSORS)
    assert [(p.name, p.dtype) for p in bundle.manifest.model_outputs] == [
        ("output_label", "object" if texts else "int64"),
        ("output_probability", "seq(map(int64,tensor(float)))"),
    ]
    got = outputs(bundle.path("loss.onnx"), {"X": X, "labels": CLASSES})
    wanted = logits()
    losses = np.logaddexp.reduce(wanted, axis=1) - wanted[np.arange(5), CLASSES]
    np.testing.assert_allclose(got["loss"], losses, rtol=1e-4, atol=1e-5)
    deployed = outputs(bundle.path("model.onnx"), {"X": X})
    assert len(deployed["output_probability"]) == 5
    exp = np.exp(wanted)
    assert deployed["output_probability"][2][1] == pytest.approx(exp[2, 1] / exp[2].sum(), rel=1e-4)


def test_the_only_tensor_of_floats_is_taken(tmp_path):
    told = []
    path = save(sklearn(probabilities=True), tmp_path / "m.onnx")
    bundle = to_bundle(path, tmp_path / "bundle", loss="cross-entropy", train=("full",), say=told.append)
    assert told == [
        "the loss is computed from out_activations; other outputs are no floats: output_label, tensor(int64), "
        "output_probability, seq(map(int64,tensor(float)))",
        "out_activations is a Softmax: the loss cross-entropy is computed from its input, a1",
    ]
    assert len(bundle.manifest.model_outputs) == 3


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        (None, "m.onnx has no output that is a tensor of floats (output_label, tensor(int64), output_probability, "
         "seq(map(int64,tensor(float))))"),
        ("output_label", "the output output_label, tensor(int64) of m.onnx is no tensor of floats"),
        ("output_probability",
         "the output output_probability, seq(map(int64,tensor(float))) of m.onnx is no tensor of floats"),
    ],
)  # fmt: skip
def test_what_can_not_be_chosen_names_what_it_is_made_from(tmp_path, name, problem):
    path = save(sklearn(), tmp_path / "m.onnx")
    with pytest.raises(InputError) as error:
        to_bundle(path, tmp_path / "bundle", loss="cross-entropy", output_name=name, train=("full",))
    assert str(error.value) == f"{problem}: choose what it is made from with --output-name out_activations"


def test_sequences_and_optional_values_are_ignored_too(tmp_path):
    nodes = [
        node("MatMul", "x w", "y"),
        node("SequenceConstruct", "y y", "both"),
        node("Optional", "y", "maybe"),
    ]
    tensor = helper.make_tensor_type_proto(TensorProto.FLOAT, ["n", 3])
    kinds = {
        "both": helper.make_sequence_type_proto(tensor),
        "maybe": helper.make_optional_type_proto(tensor),
    }
    found = [helper.make_value_info(name, kind) for name, kind in kinds.items()]
    proto = model(nodes, [value("x", ["n", 4])], [*found, value("y", ["n", 3])], {"w": normal((4, 3), 1)})
    told = []
    bundle = to_bundle(
        save(proto, tmp_path / "m.onnx"), tmp_path / "bundle", loss="mse", train=("full",), say=told.append
    )
    assert [(p.name, p.dtype) for p in bundle.manifest.model_outputs] == [
        ("both", "seq(tensor(float))"), ("maybe", "optional(tensor(float))"), ("y", "float32"),
    ]  # fmt: skip
    assert told[0].startswith(
        "the loss is computed from y; other outputs are no floats: both, seq(tensor(float))"
    )
    session = ort.InferenceSession(str(bundle.path("model.onnx")), providers=["CPUExecutionProvider"])
    assert len(session.run(["both"], {"x": np.ones((2, 4), np.float32)})[0]) == 2


def test_outputs_without_declared_types_are_tried(tmp_path):
    proto = model([node("MatMul", "x w", "y")], [value("x", ["n", 4])], [], {"w": normal((4, 3), 1)})
    proto.graph.output.append(onnx.ValueInfoProto(name="y"))
    bundle = to_bundle(save(proto, tmp_path / "m.onnx"), tmp_path / "bundle", loss="mse", train=("full",))
    assert [(p.name, p.dtype, p.shape) for p in bundle.manifest.model_outputs] == [("y", "float32", ("n", 3))]


def test_only_outputs_that_fit_the_loss_are_proposed(tmp_path):
    nodes = [node("MatMul", "x w", "hidden"), node("ReduceMean", "hidden axes", "y", keepdims=0)]
    nodes.append(node("Identity", "y", "again"))
    tensors = {"w": normal((4, 3), 1), "axes": np.array([1])}
    found = [value("hidden", ["n", "t", 3]), value("y", ["n", 3]), value("again", ["n", 3])]
    path = save(model(nodes, [value("x", ["n", "t", 4])], found, tensors), tmp_path / "m.onnx")
    with pytest.raises(InputError) as error:
        to_bundle(path, tmp_path / "bundle", loss="cross-entropy", train=("full",))
    assert str(error.value) == "m.onnx has 3 outputs: choose one with --output-name y or again"
    with pytest.raises(InputError, match=r"needs \[batch, classes\]: use --output-name y or again$"):
        to_bundle(path, tmp_path / "bundle", loss="cross-entropy", train=("full",), output_name="hidden")
    to_bundle(path, tmp_path / "bundle", loss="cross-entropy", train=("full",), output_name="again")
