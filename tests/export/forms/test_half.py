"""Float16 counterparts: their slopes are those of float32, and wrong or overflowing ones are left out."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.builders.models import mlp, save
from tests.export.forms.test_counterparts import arrays_for, opened, run
from zoedge.counterparts import FLOAT16, INPUTS, counterpart, counterparts, has
from zoedge.export import to_bundle
from zoedge.export.forms import half, inputs
from zoedge.manifest import LOSS_FILE
from zoedge.names import in_graph

EPS = 1e-3
LOSS = in_graph("loss")


@pytest.mark.parametrize("name", ["tiny_opt", "tiny_llama"])
def test_projected_differences_are_those_of_float32(name, request, tmp_path):
    bundle = to_bundle(request.getfixturevalue(name), tmp_path / "b", train=("full",))
    sessions = [opened(bundle, counterpart(LOSS_FILE, kind)) for kind in (INPUTS, FLOAT16)]
    arrays = arrays_for(sessions[0], bundle)
    trained = [row.name for row in bundle.manifest.trainable]
    slopes = []
    for seed in range(12):
        pair = [0.0, 0.0]
        for sign in (1, -1):
            rng = np.random.default_rng(seed)
            moved = {n: arrays[n] + sign * EPS * rng.standard_normal(arrays[n].shape) for n in trained}
            moved = {**arrays, **{n: array.astype(np.float32) for n, array in moved.items()}}
            for index, session in enumerate(sessions):
                pair[index] += sign * float(run(session, moved)[LOSS].mean(dtype=np.float64)) / (2 * EPS)
        slopes.append(pair)
    assert np.corrcoef(np.array(slopes).T)[0, 1] > 0.98


def made(tmp_path, told, **mlp_settings):
    source = save(mlp(**mlp_settings), tmp_path / "m.onnx")
    return to_bundle(source, tmp_path / "b", task="classification", train=("full",), say=told.append)


def doubled(model):
    for node in model.graph.node:
        node.output[:] = ["single" if output == LOSS else output for output in node.output]
    model.graph.node.append(helper.make_node("Add", ["single", "single"], [LOSS]))


def unknown(model):
    model.graph.node[-1].op_type = "NoSuchOperator"


def deaf(model):
    """Let a trained tensor be a constant."""
    name = "classifier.bias"
    kept = [value for value in model.graph.input if value.name != name]
    kind = next(v.type.tensor_type.elem_type for v in model.graph.input if v.name == name)
    del model.graph.input[:]
    model.graph.input.extend(kept)
    model.graph.initializer.append(helper.make_tensor(name, kind, [3], [0.0, 0.0, 0.0]))


@pytest.mark.parametrize("fault", [doubled, unknown, deaf])
def test_a_wrong_graph_is_left_out_with_all_that_is_made_of_it_and_told_once(tmp_path, monkeypatch, fault):
    right = inputs.input_graphs

    def wrong(*args):
        found = right(*args)
        for each in found:
            fault(each.model)
        return found

    monkeypatch.setattr(inputs, "input_graphs", wrong)
    told = []
    bundle = made(tmp_path, told)
    assert told == [
        "the graphs with weights as inputs can't be shown to give the losses of loss.onnx and are left out: "
        "the bundle runs on the CPU alone"
    ]
    for kind in (INPUTS, FLOAT16):
        assert not has(bundle.manifest.files, kind)
        assert not set(counterparts(kind)) & {path.name for path in bundle.folder.iterdir()}


@pytest.mark.parametrize("fault", ["other values", "no such operator"])
def test_float16_alone_is_left_out_where_it_is_wrong(tmp_path, monkeypatch, fault):
    right = half.to_half

    def wrong(*args):
        model = right(*args)
        (doubled if fault == "other values" else unknown)(model)
        return model

    monkeypatch.setattr(half, "to_half", wrong)
    told = []
    bundle = made(tmp_path, told)
    assert told == [
        "the graphs in float16 don't give the losses of loss.onnx to 3 % and are left out: passes on a GPU are in "
        "float32"
    ]
    assert has(bundle.manifest.files, INPUTS)
    assert not has(bundle.manifest.files, FLOAT16)


def test_activations_that_overflow_leave_float16_out(tmp_path):
    proto = mlp()
    for tensor in proto.graph.initializer:
        if tensor.name in ("blocks.0.fc.weight", "blocks.0.fc.bias"):
            tensor.CopyFrom(
                onnx.numpy_helper.from_array(6e4 * onnx.numpy_helper.to_array(tensor), tensor.name)
            )
    told = []
    bundle = to_bundle(
        save(proto, tmp_path / "m.onnx"),
        tmp_path / "b",
        task="classification",
        train=("head",),
        say=told.append,
    )
    assert [text for text in told if "float16" in text]
    assert has(bundle.manifest.files, INPUTS)
    assert not has(bundle.manifest.files, FLOAT16)


def test_control_flow_of_the_model_leaves_both_out(tmp_path):
    proto = mlp()
    body = helper.make_graph(
        [helper.make_node("Identity", ["b"], ["same"])],
        "g",
        [],
        [helper.make_tensor_value_info("same", 1, None)],
    )
    proto.graph.node[1].output[0] = "b"
    for node in proto.graph.node[2:]:
        node.input[:] = ["chosen" if name == "b" else name for name in node.input]
    proto.graph.node.insert(
        2, helper.make_node("If", ["yes"], ["chosen"], then_branch=body, else_branch=body)
    )
    proto.graph.node.insert(2, helper.make_node("ReduceMax", ["b"], ["top"], keepdims=0))
    proto.graph.node.insert(3, helper.make_node("Cast", ["top"], ["yes"], to=TensorProto.BOOL))
    told = []
    source = save(proto, tmp_path / "m.onnx")
    bundle = to_bundle(source, tmp_path / "b", task="classification", train=("head",), say=told.append)
    said = (
        "no graphs with weights as inputs are written, as the model has If: the bundle runs on the CPU alone"
    )
    assert told.count(said) == 1
    assert not has(bundle.manifest.files, INPUTS)
    assert not has(bundle.manifest.files, FLOAT16)
