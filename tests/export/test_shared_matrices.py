"""LoRA beside a matrix that more than one place reads: the merged model computes what the run did."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zoedge.export import to_bundle
from zoedge.runtime.outputs import merge
from zoedge.runtime.passes.engine import Engine
from zoedge.runtime.spaces.parameters import load_buffers

from .models import model, node, normal, save, value

WIDTH = 4


def _linear(op, place, into, out, *, weight="w", **attrs):
    """h [n, 4] -> projected to what w takes, times w, and back to [n, 4]."""
    k = str(place)
    return [
        node("MatMul", f"h{k} in{into}", f"p{k}"),
        node("Tanh", f"p{k}", f"t{k}"),
        node(op, f"t{k} {weight}", f"q{k}", **attrs),
        node("MatMul", f"q{k} back{out}", f"c{k}"),
    ]


def _of_numbers(place, *nodes):
    """What is made of w alone, as one number that is added."""
    return [*nodes, node("ReduceSum", f"m{place}", f"s{place}", keepdims=0), node("Mul", f"h{place} s{place}", f"c{place}")]


def _in_a_body(place, rows, columns):
    k = str(place)
    inner = onnx.helper.make_graph([node("MatMul", f"t{k} w", "out")], "body", [], [value("out", None)])
    return [
        node("MatMul", f"h{k} in{rows}", f"p{k}"),
        node("Tanh", f"p{k}", f"t{k}"),
        onnx.helper.make_node("If", ["yes"], [f"q{k}"], then_branch=inner, else_branch=inner),
        node("MatMul", f"q{k} back{columns}", f"c{k}"),
    ]


# a place where w [rows, columns] is read: (number of the place, rows, columns) -> nodes from h<place> to c<place>
READERS = {
    "MatMul": lambda k, r, c: _linear("MatMul", k, r, c),
    "Gemm": lambda k, r, c: _linear("Gemm", k, r, c),
    "Gemm transB": lambda k, r, c: _linear("Gemm", k, c, r, transB=1),
    "Gemm alpha": lambda k, r, c: _linear("Gemm", k, r, c, alpha=0.5),
    "Transpose": lambda k, r, c: [
        node("Transpose", "w", f"w{k}", perm=[1, 0]), *_linear("MatMul", k, c, r, weight=f"w{k}"),
    ],
    "Identity": lambda k, r, c: [node("Identity", "w", f"w{k}"), *_linear("MatMul", k, r, c, weight=f"w{k}")],
    "ReduceSum": lambda k, r, c: _of_numbers(k, node("Identity", "w", f"m{k}")),
    "Mul": lambda k, r, c: _of_numbers(k, node("Mul", "w w", f"m{k}")),
    "Gram": lambda k, r, c: _of_numbers(k, node("Transpose", "w", f"g{k}", perm=[1, 0]), node("MatMul", f"g{k} w", f"m{k}")),
    "Gather": lambda k, r, c: _of_numbers(k, node("Gather", "w row", f"m{k}")),
    "If": _in_a_body,
}  # fmt: skip
LINEAR = ("MatMul", "Gemm", "Gemm transB", "Transpose", "Identity")


def shared(readers, rows, columns):
    """A network that reads w [rows, columns] in each of some ways, one after another."""
    nodes = []
    for k, reader in enumerate(readers):
        nodes += READERS[reader](k, rows, columns)
        nodes += [node("Add", f"h{k} c{k}", f"a{k}"), node("Tanh", f"a{k}", f"h{k + 1}")]
    nodes.append(node("MatMul", f"h{len(readers)} last", "y"))
    tensors = {"w": normal((rows, columns), 1), "last": normal((WIDTH, 3), 2), "row": np.array([1]), "yes": np.array(True)}
    for n in {rows, columns}:
        tensors |= {f"in{n}": normal((WIDTH, n), 3 + n), f"back{n}": normal((n, WIDTH), 20 + n)}
    read = {name for each in nodes for name in each.input} | {"w"}
    kept = {name: array for name, array in tensors.items() if name in read}
    return model(nodes, [value("h0", ["n", WIDTH])], [value("y", ["n", 3])], kept)


def both(proto, folder, **asked):
    """Return (logits of the run's own passes, of stock onnxruntime on the merged file, with the adapter; bundle)."""
    asked = {"loss": "cross-entropy", "target_modules": ["w"], "lora_rank": 2, **asked}
    bundle = to_bundle(save(proto, folder / "m.onnx"), folder / "bundle", **asked)
    buffers = load_buffers(bundle)
    for seed, (name, buffer) in enumerate(buffers.items()):
        if "lora" in name:
            buffer[...] = normal(buffer.shape, 40 + seed)
    x = normal((5, WIDTH), 9, 1.0)
    given_ = {"h0": x, "labels": np.arange(5) % 3}
    ours = Engine(bundle.path("loss.onnx"), buffers, threads=1).run(given_, ["logits"])["logits"]
    values = {name: buffer.copy() for name, buffer in buffers.items()}
    merge(bundle, values, folder / "merged")
    merged = _stock(folder / "merged" / "model.onnx").run(["y"], {"h0": x})[0]
    adapted = _stock(bundle.path("model_adapters.onnx")).run(["y"], {"h0": x, **values})[0]
    return ours, merged, adapted, bundle


def _stock(path):
    options = ort.SessionOptions()
    options.log_severity_level = 3
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    first=st.sampled_from(LINEAR),
    others=st.lists(st.sampled_from(sorted(READERS)), max_size=2),
    place=st.integers(0, 2),
    rows=st.sampled_from((4, 5)),
)
def test_the_merged_model_is_what_the_run_computed(tmp_path_factory, first, others, place, rows):
    readers = [*others[:place], first, *others[place:]]
    ours, merged, adapted, _ = both(shared(readers, rows, WIDTH), tmp_path_factory.mktemp("shared"))
    np.testing.assert_allclose(merged, ours, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(adapted, ours, rtol=1e-4, atol=1e-5)
