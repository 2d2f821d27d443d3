"""Where a loss graph is cut, and that a cut is only kept where rows don't depend on each other."""

import numpy as np
import onnx

from tests.builders.models import mlp, model, node, save, value
from zoedge.export import to_bundle
from zoedge.export.surgery.graph import Graph
from zoedge.export.surgery.stages import crossing_values
from zoedge.manifest import PREFIX_FILE, SUFFIX_FILE


def test_the_cut_lies_before_the_first_trainable_tensor():
    graph = Graph(mlp())
    assert crossing_values(graph, ["y"], ["classifier.weight"]) == ["f"]
    assert crossing_values(graph, ["y"], ["blocks.1.fc.weight", "classifier.weight"]) == ["c"]
    assert crossing_values(graph, ["y"], ["blocks.1.fc.bias"]) == ["d"]
    assert crossing_values(graph, ["y"], ["blocks.0.fc.weight"]) == []
    assert crossing_values(graph, ["y"], []) == ["y"]


def test_cheap_values_are_computed_again_instead_of_handed_over():
    """A mask from the inputs is needed by the later part too; so is the shape of what is handed over."""
    nodes = [
        node("Sign", "x", "mask"),
        node("MatMul", "x first", "h"),
        node("Shape", "h", "s"),
        node("MatMul", "h second", "u"),
        node("Reshape", "u s", "v"),
        node("Mul", "v mask", "y"),
    ]
    tensors = {"first": np.eye(4, dtype=np.float32), "second": np.eye(4, dtype=np.float32)}
    graph = Graph(model(nodes, [value("x", ["n", 4])], [value("y", ["n", 4])], tensors))
    assert crossing_values(graph, ["y"], ["second"]) == ["h"]


def test_the_parts_hold_each_product_once(tmp_path):
    source = save(mlp(), tmp_path / "m.onnx")
    bundle = to_bundle(source, tmp_path / "b", task="classification", train=("classifier",))
    ops = {}
    for file in (PREFIX_FILE, SUFFIX_FILE):
        graph = onnx.load(bundle.path(file), load_external_data=False).graph
        ops[file] = sorted(n.op_type for n in graph.node if n.op_type in ("Gemm", "MatMul"))
    assert ops == {PREFIX_FILE: ["Gemm", "MatMul"], SUFFIX_FILE: ["Gemm"]}
    assert bundle.manifest.stages.crossing == ("f", "zoedge/features")  # an output of the graph too


def test_rows_that_depend_on_each_other_are_not_stacked(tmp_path):
    tail = [node("ReduceMean", "y axes", "m", keepdims=1), node("Sub", "y m", "z")]
    proto = mlp(tail=tail)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array([0], np.int64), "axes"))
    del proto.graph.output[:]
    proto.graph.output.append(value("z", ["n", 3]))
    source = save(proto, tmp_path / "m.onnx")
    bundle = to_bundle(source, tmp_path / "b", task="classification", train=("lora",), output_name="z")
    assert bundle.manifest.stages is None
    assert not bundle.path(SUFFIX_FILE).exists()
    assert SUFFIX_FILE not in bundle.manifest.files


def test_one_number_for_all_rows_is_not_handed_over(tmp_path):
    """Whether the sum of a frozen layer's values is positive decides which branch all rows take."""
    branches = {
        f"{name}_branch": onnx.helper.make_graph([node(op, "k", name)], name, [], [value(name, None)])
        for name, op in (("then", "Tanh"), ("else", "Relu"))
    }
    nodes = [
        node("MatMul", "x first", "h"),
        node("ReduceSum", "h", "sum", keepdims=0),
        onnx.helper.make_node("Constant", [], ["zero"], value_float=0.0),
        node("Greater", "sum zero", "positive"),
        node("MatMul", "x second", "k"),
        node("If", "positive", "y", **branches),
    ]
    eye = np.eye(4, dtype=np.float32)
    tensors = {"first": eye, "second": 2 * eye}
    proto = model(nodes, [value("x", ["n", 4])], [value("y", ["n", 4])], tensors)
    bundle = to_bundle(
        save(proto, tmp_path / "m.onnx"),
        tmp_path / "b",
        loss="mse",
        train=("lora",),
        target_modules=["second"],
    )
    assert bundle.manifest.stages is None
