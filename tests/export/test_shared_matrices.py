"""LoRA beside a matrix that more than one place reads: the merged model computes what the run did."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import structs

from tests.builders.hand_bundle import seal
from tests.builders.models import model, node, normal, save, value
from zoedge.adapters import lora_branches
from zoedge.errors import InputError
from zoedge.export import to_bundle
from zoedge.runtime.device import Cpu
from zoedge.runtime.outputs import write_merged
from zoedge.runtime.passes.engine import Engine
from zoedge.runtime.spaces.parameters import load_buffers

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
    return [
        *nodes,
        node("ReduceSum", f"m{place}", f"s{place}", keepdims=0),
        node("Mul", f"h{place} s{place}", f"c{place}"),
    ]


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
    "Gram": lambda k, r, c: _of_numbers(
        k, node("Transpose", "w", f"g{k}", perm=[1, 0]), node("MatMul", f"g{k} w", f"m{k}")
    ),
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
    tensors = {
        "w": normal((rows, columns), 1),
        "last": normal((WIDTH, 3), 2),
        "row": np.array([1]),
        "yes": np.array(True),
    }
    for n in {rows, columns}:
        tensors |= {f"in{n}": normal((WIDTH, n), 3 + n), f"back{n}": normal((n, WIDTH), 20 + n)}
    read = {name for each in nodes for name in each.input} | {"w"}
    kept = {name: array for name, array in tensors.items() if name in read}
    return model(nodes, [value("h0", ["n", WIDTH])], [value("y", ["n", 3])], kept)


def both(proto, folder, **asked):
    """Return (logits of the run's own passes, of stock onnxruntime on the merged file, with the adapter; bundle)."""
    asked = {"loss": "cross-entropy", "target_modules": ["w"], "lora_rank": 2, **asked}
    bundle = to_bundle(save(proto, folder / "m.onnx"), folder / "bundle", **asked)
    buffers = load_buffers(bundle, Cpu())
    for seed, (name, buffer) in enumerate(buffers.items()):
        if "lora" in name:
            buffer[...] = normal(buffer.shape, 40 + seed)
    x = normal((5, WIDTH), 9, 1.0)
    given_ = {"h0": x, "labels": np.arange(5) % 3}
    ours = Engine(bundle.path("loss.onnx"), buffers, device=Cpu(), threads=1).run(given_, ["logits"])[
        "logits"
    ]
    values = {name: buffer.copy() for name, buffer in buffers.items()}
    write_merged(bundle, values, folder / "merged")
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


REASONS = {
    "Gemm": "",
    "Identity": "",
    "Gemm transB": "Gemm reads, too",
    "Gemm alpha": "Gemm reads, too",
    "Transpose": "MatMul reads, too",
    "ReduceSum": "ReduceSum reads, too",
    "Mul": "Mul reads, too",
    "Gram": "MatMul reads, too",
    "Gather": "Gather reads, too",
    "If": "If reads, too",
}


@pytest.mark.parametrize("other", REASONS)
def test_who_else_reads_the_matrix_is_said_at_export(tmp_path, other):
    told = []
    *_, bundle = both(shared(["MatMul", other], 4, WIDTH), tmp_path, say=told.append)
    (branch,) = bundle.manifest.branches
    assert branch.apart == REASONS[other]
    said = f"a merged model.onnx keeps LoRA branches as products: w beside a matrix that {REASONS[other]}"
    assert [text for text in told if "keeps" in text] == ([said] if REASONS[other] else [])
    files = {path.name for path in (tmp_path / "merged").iterdir()}
    beside = {"weights.safetensors", "adapters.safetensors"}
    assert files == {"model.onnx"} | (beside if REASONS[other] else {"model.safetensors"})


@pytest.mark.parametrize("rows", [4, 5])
@pytest.mark.parametrize("turned", ["Transpose", "Gemm transB"])
def test_a_branch_is_beside_the_layers_that_read_as_the_first_does(tmp_path, turned, rows):
    """Those that read the matrix the other way see it as it is; NumPy does the same arithmetic."""
    readers = ["MatMul", turned, "Gemm"]
    proto = shared(readers, rows, WIDTH)
    ours, *_, bundle = both(proto, tmp_path)
    tensors = {t.name: onnx.numpy_helper.to_array(t).astype(np.float64) for t in proto.graph.initializer}
    (branch,) = lora_branches(bundle.manifest)
    a, b = (normal(p.shape, 40 + i).astype(np.float64) for i, p in enumerate(bundle.manifest.trainable))
    tuned = tensors["w"] + branch.scale * (b @ a).T
    h = normal((5, WIDTH), 9, 1.0).astype(np.float64)
    for reader in readers:
        w = tensors["w"].T if reader == turned else tuned
        projected = np.tanh(h @ tensors[f"in{w.shape[0]}"])
        h = np.tanh(h + projected @ w @ tensors[f"back{w.shape[1]}"])
    np.testing.assert_allclose(ours, h @ tensors["last"], rtol=1e-4, atol=1e-5)


def test_other_matrices_take_their_branches_in(tmp_path):
    """Only what has to stays a product: it costs time in every run."""
    proto = shared(["MatMul", "Gather"], 4, WIDTH)
    ours, merged, _, bundle = both(proto, tmp_path, target_modules=["w", "in4"])
    np.testing.assert_allclose(merged, ours, rtol=1e-4, atol=1e-5)
    assert {branch.module: bool(branch.apart) for branch in bundle.manifest.branches} == {
        "in4": False,
        "w": True,
    }
    graph = onnx.load(tmp_path / "merged" / "model.onnx").graph
    assert {t.name for t in graph.initializer if "lora_A" in t.name} == {"w.lora_A.weight"}


def test_a_matrix_that_is_trained_itself_is_one_tensor_for_all_its_readers(tmp_path):
    proto = shared(["MatMul", "Transpose", "Mul"], 4, WIDTH)
    bundle = to_bundle(
        save(proto, tmp_path / "m.onnx"), tmp_path / "bundle", loss="cross-entropy", train=["w"]
    )
    w, x = normal((4, WIDTH), 77), normal((5, WIDTH), 9, 1.0)
    write_merged(bundle, {"w": w}, tmp_path / "merged")
    for tensor in proto.graph.initializer:
        if tensor.name == "w":
            tensor.CopyFrom(onnx.numpy_helper.from_array(w, "w"))
    wanted = _stock(save(proto, tmp_path / "wanted.onnx")).run(["y"], {"h0": x})[0]
    got = _stock(tmp_path / "merged" / "model.onnx").run(["y"], {"h0": x})[0]
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["int8", "int4"])
@pytest.mark.parametrize("rows", [4, 5])
@pytest.mark.parametrize(
    ("others", "rounded"),
    [(["Transpose"], False), (["Gemm transB"], False), (["ReduceSum"], True), (["MatMul", "Gather"], True)],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_so_it_is_where_export_rounds_matrices(tmp_path, kind, others, rounded, rows):
    ours, merged, adapted, bundle = both(shared(["MatMul", *others], rows, WIDTH), tmp_path, quantize=kind)
    np.testing.assert_allclose(merged, ours, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(adapted, ours, rtol=1e-3, atol=1e-3)
    quantization = bundle.manifest.quantization
    assert ("w" in [matrix.name for matrix in quantization.matrices]) == rounded
    assert quantization.error < (
        0.03 if kind == "int8" else 0.15
    )  # a matrix read the wrong way was off by 0.17
    assert not (tmp_path / "merged" / "model.safetensors").exists()  # one matrix could not be both


def test_bundles_of_earlier_formats_keep_all_branches_of_rounded_matrices(tmp_path):
    """They don't tell which stay apart; their graph of constants has every one."""
    ours, merged, _, bundle = both(shared(["MatMul", "MatMul"], 4, WIDTH), tmp_path, quantize="int8")
    (branch,) = bundle.manifest.branches
    assert branch.apart == "is stored as int8"
    older = structs.replace(bundle.manifest, format=2, branches=(structs.replace(branch, apart=""),))
    values = {p.name: normal(p.shape, 40 + i) for i, p in enumerate(older.trainable)}
    write_merged(seal(bundle.folder, older), values, tmp_path / "again")
    again = _stock(tmp_path / "again" / "model.onnx").run(["y"], {"h0": normal((5, WIDTH), 9, 1.0)})[0]
    np.testing.assert_array_equal(again, merged)
    np.testing.assert_allclose(again, ours, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("train", [("lora",), ("lora", "head")])
@pytest.mark.parametrize(
    ("others", "alone"), [(["MatMul"], True), (["Transpose"], False), (["ReduceSum"], False)]
)
def test_bundles_of_earlier_formats_merge_only_what_is_right(tmp_path, others, alone, train):
    proto = shared(["MatMul", *others], 4, WIDTH)
    path = save(proto, tmp_path / "m.onnx")
    bundle = to_bundle(path, tmp_path / "bundle", loss="cross-entropy", train=train, target_modules=("w",))
    branches = tuple(structs.replace(branch, apart="") for branch in bundle.manifest.branches)
    (bundle.folder / "model_merged.onnx").unlink(missing_ok=True)
    files = {name: digest for name, digest in bundle.manifest.files.items() if name != "model_merged.onnx"}
    older = seal(bundle.folder, structs.replace(bundle.manifest, format=2, branches=branches, files=files))
    values = {p.name: normal(p.shape, 40 + i) for i, p in enumerate(older.manifest.trainable)}
    if alone:
        write_merged(older, values, tmp_path / "merged")
        x = normal((5, WIDTH), 9, 1.0)
        got = _stock(tmp_path / "merged" / "model.onnx").run(["y"], {"h0": x})[0]
        wanted = _stock(older.path("model_adapters.onnx")).run(["y"], {"h0": x, **values})[0]
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)
    else:
        with pytest.raises(
            InputError, match=r"something else in the graph reads its matrices, too, .* early format"
        ):
            write_merged(older, values, tmp_path / "merged")
        assert not (tmp_path / "merged").exists()
