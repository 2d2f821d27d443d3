"""Trained matrices on the left of their products: the same numbers, and changes of the matrices are seen."""

import json

import numpy as np
import onnx
import pytest

from tests.builders.models import mlp, mlp_numpy, mlp_tensors, model, node, normal, run, value
from tests.builders.tiny import tiny_gpt2, tiny_llama, tiny_opt
from zoedge.export.forms import few_rows
from zoedge.export.forms import write as forms
from zoedge.export.surgery.few_rows import few_rows_model, multiply_from_left
from zoedge.export.surgery.graph import Graph
from zoedge.export.surgery.overridable import make_overridable
from zoedge.export.to_bundle import to_bundle
from zoedge.manifest import FEW_ROWS_FILE
from zoedge.runtime.device import Cpu
from zoedge.runtime.passes.engine import Engine

X = normal((5, 8), 0)


def on_the_left(proto, changing):
    graph = Graph(proto)
    return graph, multiply_from_left(graph, changing)


def test_a_gemm_and_its_bias_give_the_same_from_the_left():
    changing = ["blocks.0.fc.weight", "classifier.weight"]
    graph, matrices = on_the_left(mlp(), changing)
    got = run(graph.finish(list(mlp().graph.input), list(mlp().graph.output)), {"x": X})["y"]
    np.testing.assert_allclose(got, mlp_numpy(mlp_tensors(), X)[0], rtol=1e-4, atol=1e-5)
    assert matrices == tuple(changing)


@pytest.mark.parametrize("shape", [(8,), (3, 8), (2, 3, 8), (2, 2, 3, 8)])
def test_products_of_any_rank_keep_their_leading_axes(shape):
    nodes = [node("Transpose", "w", "wt", perm=[1, 0]), node("MatMul", "x wt", "y")]
    names = [f"n{axis}" for axis in range(len(shape) - 1)]
    proto = model(nodes, [value("x", [*names, 8])], [value("y", None)], {"w": normal((6, 8), 1)})
    graph, matrices = on_the_left(proto, ["w"])
    small = graph.finish(list(proto.graph.input), list(proto.graph.output))
    x = normal(shape, 2)
    np.testing.assert_allclose(run(small, {"x": x})["y"], run(proto, {"x": x})["y"], rtol=1e-5, atol=1e-6)
    assert matrices == (("w",) if len(shape) > 1 else ())


def test_frozen_matrices_and_those_stored_as_in_out_stay_where_they_are():
    _, matrices = on_the_left(mlp(), ["blocks.1.fc.weight"])  # stored as [in, out]
    assert matrices == ()
    _, matrices = on_the_left(mlp(), [])
    assert matrices == ()


def test_an_old_opset_has_no_such_form():
    assert few_rows_model(mlp(opset=13), ["classifier.weight"])[1] == ()


def test_a_session_reads_matrices_on_the_left_in_every_run(tmp_path):
    """The point of it all: buffers may change between runs."""
    tensors = {"w": normal((6, 8), 1)}
    nodes = [node("Transpose", "w", "wt", perm=[1, 0]), node("MatMul", "x wt", "y")]
    proto = model(nodes, [value("x", ["n", 8])], [value("y", ["n", 6])], tensors)
    small, _ = few_rows_model(proto, ["w"])
    make_overridable(small, ["w"])
    onnx.save(small, tmp_path / "m.onnx")
    engine = Engine(tmp_path / "m.onnx", tensors, device=Cpu())
    for scale in (1.0, -3.0):
        tensors["w"][...] = scale * normal((6, 8), 4)
        np.testing.assert_allclose(engine.run({"x": X})["y"], X @ tensors["w"].T, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("tiny", [tiny_opt, tiny_llama], ids=["opt", "llama"])
def test_a_fully_trained_bundle_has_a_graph_for_few_rows(tmp_path, tiny):
    bundle = to_bundle(tiny(tmp_path / "m"), tmp_path / "b", task="text-generation", train=["full"])
    assert FEW_ROWS_FILE in bundle.manifest.files
    loss, few = (onnx.load(bundle.path(f), load_external_data=False) for f in ("loss.onnx", FEW_ROWS_FILE))
    wanted = {row.name for row in bundle.manifest.trainable if len(row.shape) == 2}
    left = {each.input[0] for each in few.graph.node if each.op_type == "MatMul"}
    assert len(left & wanted) >= 4 * 2, "at least the attention of two layers"
    assert [v.name for v in few.graph.input] == [v.name for v in loss.graph.input]


@pytest.mark.parametrize(
    ("tiny", "train"), [(tiny_gpt2, "attn.c_proj"), (tiny_opt, "lora"), (tiny_opt, "norm")]
)
def test_other_bundles_have_none(tmp_path, tiny, train):
    bundle = to_bundle(tiny(tmp_path / "m"), tmp_path / "b", task="text-generation", train=[train])
    assert FEW_ROWS_FILE not in bundle.manifest.files
    assert not bundle.path(FEW_ROWS_FILE).exists()
    assert FEW_ROWS_FILE not in json.loads((tmp_path / "b" / "bundle.json").read_text())["files"]


def other_softmax(made):
    next(n for n in made.graph.node if n.op_type == "Softmax").op_type = "LogSoftmax"


def stale_matrix(made):
    """A product reads a copy of its matrix: the same losses, until the matrix changes."""
    product = next(n for n in made.graph.node if n.op_type == "MatMul" and n.input[0].endswith("fc1.weight"))
    tensor = next(t for t in made.graph.initializer if t.name == product.input[0])
    copy = type(tensor)()
    copy.CopyFrom(tensor)
    copy.name = "copy"
    made.graph.initializer.append(copy)
    product.input[0] = "copy"


@pytest.mark.parametrize("fault", [other_softmax, stale_matrix])
def test_a_graph_that_computes_something_else_is_not_kept(tmp_path, monkeypatch, fault):
    right, write = few_rows.few_rows_model, forms.write_graph

    def wrong(loss, changing):
        made, matrices = right(loss, changing)
        fault(made)
        return made, matrices

    def written(folder, name, model, weights, adapters):
        place = next(p for n, p in weights.places.items() if n.endswith("fc1.weight"))
        return write(folder, name, model, weights._replace(places=weights.places | {"copy": place}), adapters)

    monkeypatch.setattr(few_rows, "few_rows_model", wrong)
    monkeypatch.setattr(forms, "write_graph", written)
    bundle = to_bundle(tiny_opt(tmp_path / "m"), tmp_path / "b", task="text-generation", train=["full"])
    assert FEW_ROWS_FILE not in bundle.manifest.files
    assert not bundle.path(FEW_ROWS_FILE).exists()
