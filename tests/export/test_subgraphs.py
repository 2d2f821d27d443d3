"""Weights inside If, Loop and Scan: trained where the model runs them, and counted in any case."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

import zoedge
from tests.builders.models import INT64, model, node, normal, save, value
from zoedge.bundle import Bundle
from zoedge.cli.summary import bundle_lines
from zoedge.export import to_bundle
from zoedge.runtime.device import Cpu
from zoedge.runtime.loaded import load_buffers
from zoedge.runtime.passes.engine import Engine

X = normal((6, 4), 0, 1.0)
BOOL = onnx.TensorProto.BOOL


def tensor(name, array):
    return numpy_helper.from_array(np.ascontiguousarray(array), name)


def branch(seed, *, constant=False):
    """x [n, 4] -> x w + b, where both branches of an If call their tensors so."""
    w, b = normal((4, 3), seed), normal(3, seed + 1)
    nodes = [node("MatMul", "x w", "p"), node("Add", "p b", "out")]
    held = [tensor("w", w), tensor("b", b)]
    if constant:
        nodes = [helper.make_node("Constant", [], [t.name], value=t) for t in held] + nodes
        held = []
    graph = helper.make_graph(nodes, "branch", [], [value("out", None)], held)
    return graph, (w, b)


def choosing(*, constant=False):
    """A first layer, and one of two by the sign of its sum."""
    then, (w0, b0) = branch(1, constant=constant)
    other, (w1, b1) = branch(3, constant=constant)
    nodes = [
        node("MatMul", "given first", "x"),
        node("ReduceSum", "x", "total", keepdims=0),
        node("Greater", "total zero", "cond"),
        helper.make_node("If", ["cond"], ["y"], name="choice", then_branch=then, else_branch=other),
    ]
    first = normal((4, 4), 7)
    proto = model(
        nodes, [value("given", ["n", 4])], [value("y", ["n", 3])], {"first": first, "zero": np.float32(0)}
    )
    return proto, {
        "first": first,
        "choice/then_branch/w": w0,
        "choice/then_branch/b": b0,
        "choice/else_branch/w": w1,
        "choice/else_branch/b": b1,
    }


def choosing_numpy(t, x):
    hidden = x @ t["first"]
    prefix = "choice/then_branch/" if hidden.sum() > 0 else "choice/else_branch/"
    return hidden @ t[f"{prefix}w"] + t[f"{prefix}b"]


def looping():
    """Three rounds of h = tanh(h w + b) with w of the body and b passed along, then a head."""
    body = helper.make_graph(
        [
            node("MatMul", "h w", "p"),
            node("Add", "p c", "q"),
            node("Tanh", "q", "h_next"),
            node("Identity", "going", "go_on"),
            node("Identity", "c", "c_next"),
        ],
        "body",
        [value("i", [], INT64), value("going", [], BOOL), value("h", None), value("c", None)],
        [value("go_on", [], BOOL), value("h_next", None), value("c_next", None)],
        [tensor("w", normal((4, 4), 1))],
    )
    nodes = [
        helper.make_node("Loop", ["rounds", "", "x", "b"], ["h_last", "b_last"], body=body, name="loop"),
        node("Gemm", "h_last head bias", "y"),
    ]
    held = {"b": normal(4, 2), "head": normal((4, 1), 3), "bias": normal(1, 4)}
    proto = model(
        nodes, [value("x", ["n", 4])], [value("y", ["n", 1])], {**held, "rounds": np.array(3, np.int64)}
    )
    return proto, {**held, "w": normal((4, 4), 1)}


def looping_numpy(t, x):
    for _ in range(3):
        x = np.tanh(x @ t["w"] + t["b"])
    return x @ t["head"] + t["bias"]


def scanning():
    """One round for each of the stacked layers; the body has a bias of its own, inside an If besides."""
    inner = [
        helper.make_graph(
            [node("Add", "p b", "q0")], "then", [], [value("q0", None)], [tensor("b", normal(4, 2))]
        ),
        helper.make_graph(
            [node("Sub", "p s", "q0")], "else", [], [value("q0", None)], [tensor("s", normal(4, 5))]
        ),
    ]
    body = helper.make_graph(
        [
            node("MatMul", "h layer", "p"),
            node("ReduceMax", "p", "m", keepdims=0),
            node("Less", "m limit", "cond"),
            helper.make_node("If", ["cond"], ["q"], name="inner", then_branch=inner[0], else_branch=inner[1]),
            node("Tanh", "q", "h_next"),
        ],
        "body",
        [value("h", None), value("layer", [4, 4])],
        [value("h_next", None)],
        [tensor("limit", np.float32(1e6))],
    )
    nodes = [
        helper.make_node("Scan", ["x", "layers"], ["y"], body=body, num_scan_inputs=1, name="scan"),
    ]
    held = {"layers": normal((3, 4, 4), 1)}
    proto = model(nodes, [value("x", ["n", 4])], [value("y", ["n", 4])], held)
    return proto, {**held, "b": normal(4, 2)}


def scanning_numpy(t, x):
    for layer in t["layers"]:
        x = np.tanh(x @ layer + t["b"])
    return x


CASES = {
    "if": (choosing, choosing_numpy),
    "constants": (lambda: choosing(constant=True), choosing_numpy),
    "loop": (looping, looping_numpy),
    "scan": (scanning, scanning_numpy),
}


@pytest.mark.parametrize("case", CASES)
def test_weights_of_branches_and_bodies_are_trained(tmp_path, case):
    make, reference = CASES[case]
    proto, tensors = make()
    bundle = to_bundle(save(proto, tmp_path / "m.onnx"), tmp_path / "b", loss="mse", train=("full",))
    rows = {p.name: p for p in bundle.manifest.parameters}
    assert {name for name, row in rows.items() if row.trainable} == tensors.keys()
    (out,) = bundle.manifest.outputs[2].shape[1:]
    assert {(rows[name].group, rows[name].decay) for name in tensors if name.endswith("b")} <= {
        ("bias", False)
    }
    buffers = load_buffers(bundle, Cpu())
    engine = Engine(bundle.path("loss.onnx"), buffers, device=Cpu(), threads=1)
    (given,) = (port.name for port in bundle.manifest.inputs)
    for sign in (1, -1):
        for name, array in buffers.items():
            array[...] = tensors[name] + normal(array.shape, len(name), 0.1)
        got = engine.run({given: sign * X, "labels": np.zeros((6, out), np.float32)})
        wanted = reference(
            {name: a.astype(np.float64) for name, a in buffers.items()}, sign * X.astype(np.float64)
        )
        np.testing.assert_allclose(got["logits"], wanted, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(got["loss"], np.square(wanted).mean(1), rtol=1e-4)
    every = sum(array.size for array in tensors.values()) + (4 if case == "scan" else 0)
    assert bundle.manifest.elements == every
    share = f"{sum(a.size for a in tensors.values()):,} of {every:,} parameters"
    assert any(share in line for line in bundle_lines(bundle))


def test_what_is_never_subtracted_into_training_is_named(tmp_path):
    proto, _ = scanning()
    bundle = to_bundle(save(proto, tmp_path / "m.onnx"), tmp_path / "b", loss="mse", train=("full",))
    assert {(row.name, row.size) for row in bundle.manifest.frozen} == {("s", 4), ("limit", 0)}
    assert [line for line in bundle_lines(bundle) if line.startswith("frozen")] == [
        "frozen     4 not used as weights (s)"
    ]


def test_a_run_tunes_branches_and_merges_them(tmp_path):
    from zoedge.runtime.run.run_folder import Run

    proto, tensors = choosing()
    bundle = to_bundle(save(proto, tmp_path / "m.onnx"), tmp_path / "b", loss="mse", train=("full",))
    np.savez(tmp_path / "d.npz", given=np.repeat(X, 4, 0), y=np.ones((24, 3), np.float32))
    options = zoedge.TuneOptions(steps=20, method="mezo", lr=1e-3, batch_size=4, eval_every=0, threads=1)
    zoedge.tune(bundle.folder, tmp_path / "d.npz", tmp_path / "run", options)
    run = Run.open(tmp_path / "run")
    weights = run.weights("last")
    assert set(weights) == set(tensors)
    zoedge.merge(bundle, weights, tmp_path / "merged")
    merged = ort.InferenceSession(tmp_path / "merged" / "model.onnx", providers=["CPUExecutionProvider"])
    for rows in (X, -X):
        wanted = choosing_numpy({name: a.astype(np.float64) for name, a in weights.items()}, rows)
        np.testing.assert_allclose(merged.run(None, {"given": rows})[0], wanted, rtol=1e-4, atol=1e-5)


def test_a_branch_beside_the_layers_of_an_if(tmp_path):
    """LoRA lies beside the layer outside; those inside are named."""
    proto, _ = choosing()
    said = []
    to_bundle(save(proto, tmp_path / "m.onnx"), tmp_path / "b", loss="mse", train=("lora",), say=said.append)
    assert [text for text in said if "LoRA" in text] == [
        "no LoRA branch lies beside choice/else_branch/w, choice/then_branch/w (read by If), as it needs the product "
        "of an activation and one stored matrix of two axes: name them in --train to train them"
    ]
    bundle = Bundle.open(tmp_path / "b")
    assert bundle.manifest.elements == 16 + 2 * (12 + 3) + sum(
        np.prod(p.shape) for p in bundle.manifest.trainable
    )
