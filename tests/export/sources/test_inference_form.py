"""Nodes in training mode and nodes that draw random numbers: a row's loss is its own, or it is said."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.builders.models import convnet, mlp, model, node, normal, run, save, value
from zoedge import InputError
from zoedge.export import to_bundle

from ..test_to_bundle import outputs

PIXELS = normal((4, 3, 8, 8), 1)
CLASSES = np.array([0, 1, 3, 2])


def training(opset, *, statistics=False):
    """``convnet`` as a training run would export it; its own graph is at inference."""
    proto = convnet()
    proto.opset_import[0].version = opset
    norm = next(n for n in proto.graph.node if n.op_type == "BatchNormalization")
    norm.output.extend(["new_mean", "new_var"])
    if opset >= 14:
        norm.attribute.append(helper.make_attribute("training_mode", 1))
    else:
        norm.output.extend(["saved_mean", "saved_var"])
    if statistics:
        proto.graph.output.append(value("new_mean", [6]))
    drop = node("Dropout", "f ratio training", "dropped")
    proto.graph.node.insert(len(proto.graph.node) - 1, drop)
    proto.graph.node[-1].input[0] = "dropped"
    held = {"ratio": np.array(0.5, np.float32), "training": np.array(True)}
    proto.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in held.items())
    return proto


@pytest.mark.parametrize("opset", [13, 15])
@pytest.mark.parametrize("statistics", [False, True])
def test_training_mode_becomes_inference_and_is_said(tmp_path, opset, statistics):
    told = []
    path = save(training(opset, statistics=statistics), tmp_path / "m.onnx")
    options = {"loss": "cross-entropy", "train": ("full",), "output_name": "logits", "say": told.append}
    bundle = to_bundle(path, tmp_path / "bundle", **options)
    assert told == [
        "1 BatchNormalization and 1 Dropout of the file are in training mode, where a row's loss depends on the rows "
        "beside it or on chance: taken as at inference, with running statistics and without dropping"
    ]
    wanted = run(convnet(), {"pixels": PIXELS})["logits"]
    got = outputs(bundle.path("loss.onnx"), {"pixels": PIXELS, "labels": CLASSES})
    np.testing.assert_allclose(got["logits"], wanted, rtol=1e-4, atol=1e-5)
    for row in range(4):
        alone = {"pixels": PIXELS[row : row + 1], "labels": CLASSES[row : row + 1]}
        loss = outputs(bundle.path("loss.onnx"), alone)["loss"]
        np.testing.assert_allclose(loss, got["loss"][row : row + 1], rtol=1e-5)
    deployed = outputs(bundle.path("model.onnx"), {"pixels": PIXELS})
    np.testing.assert_allclose(deployed["logits"], wanted, rtol=1e-4, atol=1e-5)
    if statistics:
        kept = next(t for t in convnet().graph.initializer if t.name == "bn.running_mean")
        np.testing.assert_array_equal(deployed["new_mean"], numpy_helper.to_array(kept))


RANDOM = {
    "RandomNormalLike": [node("RandomNormalLike", "y", "r"), node("Add", "y r", "z")],
    "RandomUniformLike": [node("RandomUniformLike", "y", "r"), node("Mul", "y r", "z")],
    "RandomNormal": [node("RandomNormal", "", "r", shape=[1, 3]), node("Add", "y r", "z")],
    "Bernoulli": [node("Sigmoid", "y", "p"), node("Bernoulli", "p", "r"), node("Mul", "y r", "z")],
    "Multinomial": [
        node("Multinomial", "y", "i", sample_size=3),
        node("Cast", "i", "r", to=TensorProto.FLOAT),
        node("Add", "y r", "z"),
    ],
}


@pytest.mark.parametrize("op", RANDOM)
def test_what_depends_on_chance_is_refused_by_name(tmp_path, op):
    path = save(mlp(tail=RANDOM[op]), tmp_path / "m.onnx")
    with pytest.raises(InputError) as error:
        to_bundle(path, tmp_path / "bundle", loss="mse", train=("full",))
    assert str(error.value) == (
        f"the output z of m.onnx depends on chance: {op} draws random numbers, so that equal rows get unequal "
        "losses; export the model in evaluation mode, or without that node"
    )
    assert not (tmp_path / "bundle").exists()


def test_chance_in_a_branch_is_found_and_chance_beside_the_loss_is_none_of_its_business(tmp_path):
    branch = helper.make_graph([node("RandomNormalLike", "y", "r")], "noisy", [], [value("r", ["n", 3])])
    still = helper.make_graph([node("Identity", "y", "q")], "still", [], [value("q", ["n", 3])])
    either = node("If", "flag", "s", then_branch=branch, else_branch=still)
    proto = mlp(tail=[either, node("Add", "y s", "z")])
    proto.graph.initializer.append(numpy_helper.from_array(np.array(True), "flag"))
    with pytest.raises(InputError, match=r"depends on chance: RandomNormalLike draws"):
        to_bundle(save(proto, tmp_path / "m.onnx"), tmp_path / "bundle", loss="mse", train=("full",))
    proto = mlp(tail=RANDOM["RandomNormalLike"])
    proto.graph.output.insert(0, value("y", ["n", 3]))
    path = save(proto, tmp_path / "m.onnx")
    bundle = to_bundle(path, tmp_path / "bundle", loss="mse", train=("full",), output_name="y")
    assert [port.name for port in bundle.manifest.model_outputs] == ["y", "z"]


def mixing():
    """Every row minus the mean over the rows."""
    proto = mlp(tail=[node("ReduceMean", "y first", "m", keepdims=1), node("Sub", "y m", "z")])
    proto.graph.initializer.append(numpy_helper.from_array(np.array([0]), "first"))
    return proto


def test_rows_that_mix_are_said(tmp_path):
    told = []
    path = save(mixing(), tmp_path / "m.onnx")
    bundle = to_bundle(path, tmp_path / "bundle", loss="cross-entropy", train=("full",), say=told.append)
    assert told[0].startswith("a row's loss depends on the rows beside it (by ")
    assert told[1].startswith("loss_few_rows.onnx, with trained matrices on the left, can't be shown to give")
    x, labels = normal((3, 8), 5), np.array([0, 1, 2])
    together = outputs(bundle.path("loss.onnx"), {"x": x, "labels": labels})["loss"]
    alone = outputs(bundle.path("loss.onnx"), {"x": x[:1], "labels": labels[:1]})["loss"]
    assert abs(together[0] - alone[0]) > 0.01  # so it is true


def test_a_scale_for_all_rows_is_said_as_such(tmp_path):
    told = []
    path = save(mlp(), tmp_path / "m.onnx")
    to_bundle(path, tmp_path / "bundle", loss="cross-entropy", quantize="int8", say=told.append)
    (said,) = [text for text in told if "beside it" in text]
    assert said.startswith("a row's loss depends a little on the rows beside it (by ")
    assert said.endswith("rounds the activations of all rows by one scale")
    told.clear()
    to_bundle(path, tmp_path / "other", loss="cross-entropy", say=told.append)
    assert told == []


def test_a_normalisation_at_inference_is_left_alone(tmp_path):
    told = []
    path = save(convnet(), tmp_path / "m.onnx")
    bundle = to_bundle(path, tmp_path / "bundle", loss="cross-entropy", train=("full",), say=told.append)
    ops = [n.op_type for n in onnx.load(bundle.path("model.onnx"), load_external_data=False).graph.node]
    assert told == []
    assert "BatchNormalization" in ops


def test_a_training_flag_that_is_an_input_is_named(tmp_path):
    nodes = [
        node("MatMul", "x w", "m"),
        node("Dropout", "m ratio training", "y"),
    ]
    inputs = [value("x", ["n", 4]), value("training", [], TensorProto.BOOL)]
    proto = model(nodes, inputs, [value("y", ["n", 3])], {"w": normal((4, 3), 1)})
    proto.graph.initializer.append(numpy_helper.from_array(np.array(0.5, np.float32), "ratio"))
    with pytest.raises(InputError, match=r"^the input training of m.onnx is a single number, with no axis"):
        to_bundle(save(proto, tmp_path / "m.onnx"), tmp_path / "bundle", loss="mse", train=("full",))
