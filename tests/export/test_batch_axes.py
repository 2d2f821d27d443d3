"""Graphs whose batch is not the first axis: bundles take rows first, and compute what the file itself does."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import nn

import zoedge
from tests.builders.models import INT64, model, node, normal, run, save, value
from zoedge import InputError
from zoedge.export import to_bundle
from zoedge.export.sources.onnx_file import from_onnx

ROWS, STEPS = 6, 5
X, H = normal((ROWS, STEPS, 3), 1, 1.0), normal((ROWS, 2, 4), 2, 2.0)
CLASSES = np.array([0, 2, 1, 1, 0, 2])


def gru(*, batch="b", steps="t", time_major=False, out="y", state=True):
    """x [batch, steps, 3] (time-major: the first two changed) and the state h [2, batch, 4] -> y [batch, 3]."""
    tensors = {"w": normal((2, 12, 3), 3), "r": normal((2, 12, 4), 4), "bias": normal((2, 24), 5)}
    tensors |= {"head.weight": normal((3, 8), 6), "head.bias": normal(3, 7)}
    first = "x" if time_major else "xt"
    nodes = [] if time_major else [node("Transpose", "x", "xt", perm=[1, 0, 2])]
    held = onnx.helper.make_node(
        "GRU",
        [first, "w", "r", "bias", "", "h" if state else ""],
        ["", "hn"],
        hidden_size=4,
        direction="bidirectional",
    )
    nodes += [
        held,
        node("Transpose", "hn", "t", perm=[1, 0, 2]),
        node("Flatten", "t", "f"),
        node("Gemm", "f head.weight head.bias", "y", transB=1),
        node("Transpose", "y", "columns", perm=[1, 0]),
    ]
    shape = [steps, batch, 3] if time_major else [batch, steps, 3]
    inputs = [value("x", shape), *([value("h", [2, batch, 4])] if state else [])]
    outputs = {"y": [batch, 3], "hn": [2, batch, 4], "columns": [3, batch]}
    return model(nodes, inputs, [value(name, outputs[name]) for name in dict.fromkeys([out, "hn"])], tensors)


def fed(proto, x, h):
    """The rows as the file itself takes them."""
    order = {"x": x, "h": h.transpose(1, 0, 2)}
    if proto.graph.node[0].op_type == "GRU":
        order["x"] = x.transpose(1, 0, 2)
    names = {given.name for given in proto.graph.input}
    return {name: np.ascontiguousarray(array) for name, array in order.items() if name in names}


def made(tmp_path, proto, **options):
    options = {"loss": "cross-entropy", "output_name": "y", "train": ("head",), **options}
    return to_bundle(save(proto, tmp_path / "m.onnx"), tmp_path / "bundle", **options)


def losses(logits, classes):
    logs = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    return -logs[np.arange(len(classes)), classes]


def data(tmp_path, proto, rows=ROWS):
    arrays = {"x": X[:rows], **({"h": H[:rows]} if len(proto.graph.input) > 1 else {})}
    np.savez(tmp_path / "d.npz", **arrays, label=CLASSES[:rows])
    return tmp_path / "d.npz"


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"batch": None, "steps": None},
        {"batch": "N", "steps": "N_steps", "time_major": True},
        {"batch": None, "steps": None, "time_major": True},
        {"time_major": True, "state": False},
        {"steps": STEPS, "time_major": True, "state": False},
        {"out": "columns"},
    ],
    ids=str,
)
def test_rows_are_stacked_along_the_axis_that_is_the_batch(tmp_path, options):
    proto = gru(**options)
    out = options.get("out", "y")
    bundle = made(tmp_path, proto, output_name=out, train=("full",))
    logits = run(proto, fed(proto, X, H), [out])[out].astype(np.float64)
    logits = logits.T if out == "columns" else logits
    assert all(port.shape[0] == bundle.manifest.targets[0].shape[0] for port in bundle.manifest.inputs)
    wanted = losses(logits, CLASSES)
    assert zoedge.evaluate(tmp_path / "bundle", data(tmp_path, proto))["loss"] == pytest.approx(
        wanted.mean(), rel=1e-5
    )
    scores = [each["score"] for each in zoedge.predict(tmp_path / "bundle", data=tmp_path / "d.npz")]
    np.testing.assert_allclose(scores, np.exp(logits).max(1) / np.exp(logits).sum(1), rtol=1e-5)


def test_the_head_lies_behind_the_turn_of_its_logits(tmp_path):
    bundle = made(tmp_path, gru(out="columns"), output_name="columns")
    assert [p.name for p in bundle.manifest.trainable] == ["head.weight", "head.bias"]
    assert bundle.manifest.head.weight == "head.weight"


@pytest.mark.parametrize("rows", [3, 2])
def test_a_fixed_batch_on_another_axis_is_filled_up(tmp_path, rows):
    proto = gru(batch=2, steps=STEPS, time_major=True)
    bundle = made(tmp_path, proto)
    assert [port.shape for port in bundle.manifest.inputs] == [(2, STEPS, 3), (2, 2, 4)]
    pairs = [fed(proto, X[[a, b]], H[[a, b]]) for a, b in ((0, 1), (2, 2))]
    logits = np.concatenate([run(proto, pair, ["y"])["y"] for pair in pairs])[:rows].astype(np.float64)
    loss = zoedge.evaluate(tmp_path / "bundle", data(tmp_path, proto, rows))["loss"]
    assert loss == pytest.approx(losses(logits, CLASSES[:rows]).mean(), rel=1e-5)


def test_what_is_deployed_takes_the_rows_as_the_file_did(tmp_path):
    proto = gru()
    bundle = made(tmp_path, proto, train=("lora",), target_modules=("head",))
    assert [port.shape for port in bundle.manifest.model_inputs] == [("b", "t", 3), (2, "b", 4)]
    options = zoedge.TuneOptions(steps=4, batch_size=4, threads=1, val_size=0, lr=0.05)
    zoedge.tune(tmp_path / "bundle", data(tmp_path, proto), tmp_path / "run", options)
    weights = zoedge.Run.open(tmp_path / "run").weights("last")
    zoedge.merge(bundle, weights, tmp_path / "tuned")
    session = ort.InferenceSession(str(tmp_path / "tuned" / "model.onnx"), providers=["CPUExecutionProvider"])
    logits = session.run(["y"], fed(proto, X, H))[0].astype(np.float64)
    assert not np.allclose(logits, run(proto, fed(proto, X, H), ["y"])["y"], atol=1e-4)
    wanted = losses(logits, CLASSES).mean()
    assert zoedge.evaluate(tmp_path / "run", tmp_path / "d.npz")["loss"] == pytest.approx(wanted, rel=1e-5)


def test_a_cached_prefix_changes_no_bit(tmp_path):
    proto = gru(time_major=True)
    bundle = made(tmp_path, proto)
    assert bundle.manifest.stages is not None
    journals = []
    for kept in ("no", "1MB"):
        options = zoedge.TuneOptions(steps=9, batch_size=3, threads=1, val_size=0, prefix_cache=kept)
        zoedge.tune(tmp_path / "bundle", data(tmp_path, proto), tmp_path / kept, options)
        weights = zoedge.Run.open(tmp_path / kept).weights("last")
        journals.append({name: array.tobytes() for name, array in weights.items()})
    assert journals[0] == journals[1]


class TimeMajor(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.Linear(3, 4), nn.Linear(4, 3)

    def forward(self, x):  # [time, batch, 3]
        return self.head(torch.cumsum(torch.tanh(self.layer(x)), 0)[-1])


def test_a_module_tells_its_batch_by_the_name_of_the_dimension(tmp_path):
    torch.manual_seed(0)
    module = TimeMajor()
    bundle = to_bundle(
        module,
        tmp_path / "bundle",
        task="classification",
        example_inputs={"x": torch.randn(5, 2, 3)},
        dynamic_shapes={"x": {0: "time", 1: "batch"}},
        train=("full",),
    )
    assert [port.shape for port in bundle.manifest.inputs] == [("batch", "time", 3)]
    assert [port.shape for port in bundle.manifest.model_inputs] == [("time", "batch", 3)]
    np.savez(tmp_path / "d.npz", x=X, label=CLASSES)
    logits = module(torch.from_numpy(X.transpose(1, 0, 2).copy())).detach().numpy().astype(np.float64)
    loss = zoedge.evaluate(tmp_path / "bundle", tmp_path / "d.npz")["loss"]
    assert loss == pytest.approx(losses(logits, CLASSES).mean(), rel=1e-5)


def test_positions_that_are_independent_of_each_other_are_not_taken_for_rows(tmp_path):
    """Every axis of a layer that works position by position could be the batch: the first is."""
    nodes = [node("MatMul", "x w", "y")]
    proto = model(
        nodes,
        [value("x", ["rows", "columns", 4])],
        [value("y", ["rows", "columns", 3])],
        {"w": normal((4, 3), 1)},
    )
    exported = from_onnx(save(proto, tmp_path / "m.onnx"), loss="mse")
    assert exported.batch_axes == {}
    named = model(
        nodes, [value("x", ["t", "batch", 4])], [value("y", ["t", "batch", 3])], {"w": normal((4, 3), 1)}
    )
    exported = from_onnx(save(named, tmp_path / "m.onnx"), loss="mse")
    assert exported.batch_axes == {"x": 1, "y": 1}


def test_inputs_that_can_not_hold_a_batch_are_named(tmp_path):
    nodes = [node("MatMul", "x w", "m"), node("Mul", "m scale", "y")]
    tensors = {"w": normal((4, 3), 1)}
    proto = model(nodes, [value("x", ["n", 4]), value("scale", [])], [value("y", ["n", 3])], tensors)
    with pytest.raises(InputError) as error:
        from_onnx(save(proto, tmp_path / "m.onnx"), loss="mse")
    assert str(error.value) == (
        "the input scale of m.onnx is a single number, with no axis for the batch: export the file with its value "
        "as a constant"
    )
    lookup = [node("Gather", "w i", "g", axis=0), node("ReduceSum", "g axes", "y", keepdims=0)]
    proto = model(
        lookup,
        [value("i", ["n"], INT64)],
        [value("y", [3])],
        tensors | {"axes": np.array([0])},
    )
    with pytest.raises(
        InputError, match=r"^no axis of the output y of m.onnx, of shape \[3\], follows the batch"
    ):
        from_onnx(save(proto, tmp_path / "m.onnx"), loss="mse")


def test_an_input_that_is_no_tensor_is_named(tmp_path):
    nodes = [node("ConcatFromSequence", "x", "c", axis=0), node("MatMul", "c w", "y")]
    kind = onnx.helper.make_sequence_type_proto(onnx.helper.make_tensor_type_proto(1, ["n", 4]))
    proto = model(
        nodes, [onnx.helper.make_value_info("x", kind)], [value("y", ["m", 3])], {"w": normal((4, 3), 1)}
    )
    with pytest.raises(InputError, match=r"^the input x of m.onnx is seq\(tensor\(float\)\) and no tensor: "):
        from_onnx(save(proto, tmp_path / "m.onnx"), loss="mse")
