import importlib
import json
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import onnx
import pytest
from msgspec import structs
from safetensors.numpy import load_file, save_file

from tests.builders.hand_bundle import (
    DENSE,
    LORA,
    SHAPES,
    hand_bundle,
    logits,
    seal,
    tensors,
    tuned,
    write_graphs,
)
from zoedge.adapters import LoraBranch, lora_branches
from zoedge.bundle import Bundle
from zoedge.errors import BundleError, InputError
from zoedge.manifest import FORMAT_VERSION, Parameter
from zoedge.runtime.device import Cpu
from zoedge.runtime.outputs import write_merged
from zoedge.runtime.passes.engine import Engine
from zoedge.runtime.spaces.parameters import load_buffers

ROOT = Path(__file__).parents[3]
X = np.random.default_rng(7).standard_normal((5, 4), np.float32)

STOCK = """
    import json, sys
    sys.modules["zoedge"] = None  # importing it fails
    import numpy, onnxruntime
    session = onnxruntime.InferenceSession(sys.argv[1] + "/model.onnx", providers=["CPUExecutionProvider"])
    x = numpy.array(json.loads(sys.stdin.read()), numpy.float32)
    print(json.dumps(session.run(["logits"], {"x": x})[0].tolist()))
"""


def stock_logits(folder):
    """What a script with onnxruntime alone gets."""
    command = [sys.executable, "-c", textwrap.dedent(STOCK), str(folder)]
    done = subprocess.run(
        command, input=json.dumps(X.tolist()), capture_output=True, text=True, check=True, cwd=folder.parent
    )
    return np.array(json.loads(done.stdout))


@pytest.mark.parametrize("names", [LORA, DENSE, LORA + DENSE], ids=["lora", "dense", "both"])
def test_a_stock_script_computes_what_was_tuned(tmp_path, names):
    bundle = hand_bundle(tmp_path / "bundle", trainable=names)
    values = tuned(names)
    write_merged(bundle, values, tmp_path / "merged")
    np.testing.assert_allclose(stock_logits(tmp_path / "merged"), logits(X, values), rtol=1e-4, atol=1e-4)
    assert np.abs(logits(X, values) - logits(X, {})).min() > 1e-3  # the tuned values matter


def test_branches_are_added_in_float64_and_rounded_once(tmp_path):
    bundle = hand_bundle(tmp_path / "bundle")
    values = tuned(LORA)
    write_merged(bundle, values, str(tmp_path / "merged"))
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    base = tensors()[0]
    a, b, c, d = (values[name].astype(np.float64) for name in LORA)
    expected = (base["fc.weight"] + 4.0 * (b @ a)).astype(np.float32)
    np.testing.assert_array_equal(merged["fc.weight"], expected)
    expected = (base["mix.weight"] + 4.0 * (d @ c).T).astype(np.float32)
    np.testing.assert_array_equal(merged["mix.weight"], expected)
    for name in ("fc.bias", "classifier.weight", "classifier.bias"):
        np.testing.assert_array_equal(merged[name], base[name])


def test_a_large_matrix_is_merged_in_blocks(tmp_path, monkeypatch):
    module = importlib.import_module("zoedge.runtime.adapters.merging")
    monkeypatch.setattr(module, "_BLOCK_ELEMENTS", 12)  # one row of mix, three of fc, which has eight
    test_branches_are_added_in_float64_and_rounded_once(tmp_path)


def test_an_untuned_branch_keeps_its_exported_values(tmp_path):
    bundle = hand_bundle(tmp_path / "bundle", trainable=LORA[:2])
    values = tuned(LORA[:2])
    write_merged(bundle, values, tmp_path / "merged")
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    np.testing.assert_array_equal(merged["mix.weight"], tensors()[0]["mix.weight"])
    np.testing.assert_allclose(stock_logits(tmp_path / "merged"), logits(X, values), rtol=1e-4, atol=1e-4)


def test_the_folder_holds_the_model_and_the_source_files_alone(tmp_path):
    bundle = hand_bundle(tmp_path / "bundle", files={"config.json": b"{}", "tokenizer.json": b"[1]"})
    write_merged(bundle, tuned(LORA), tmp_path / "merged")
    names = {path.name for path in (tmp_path / "merged").iterdir()}
    assert names == {"model.onnx", "model.safetensors", "config.json", "tokenizer.json"}
    assert (tmp_path / "merged" / "tokenizer.json").read_bytes() == b"[1]"


def test_the_graph_is_the_bundle_s_but_for_the_name(tmp_path):
    bundle = hand_bundle(tmp_path / "bundle")
    write_merged(bundle, tuned(LORA), tmp_path / "merged")
    old, new = (tmp_path / folder / "model.onnx" for folder in ("bundle", "merged"))
    assert new.read_bytes() == old.read_bytes().replace(b"weights.safetensors", b"./model.safetensors")
    header = int.from_bytes((tmp_path / "bundle" / "weights.safetensors").read_bytes()[:8], "little") + 8
    old, new = (tmp_path / "bundle" / "weights.safetensors", tmp_path / "merged" / "model.safetensors")
    assert new.read_bytes()[:header] == old.read_bytes()[:header]


def test_half_precision_weights(tmp_path):
    bundle = hand_bundle(tmp_path / "bundle")
    weights = tensors()[0]
    weights["fc.weight"] = weights["fc.weight"].astype(np.float16)
    # same order, so onnxruntime isn't needed to see that the merged bytes are right
    save_file(weights, tmp_path / "bundle" / "weights.safetensors")
    bundle = seal(bundle.folder, structs.replace(_with_offsets(bundle).manifest, format=FORMAT_VERSION))
    values = tuned(LORA)
    write_merged(bundle, values, tmp_path / "merged")
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    a, b = values[LORA[0]].astype(np.float64), values[LORA[1]].astype(np.float64)
    np.testing.assert_array_equal(
        merged["fc.weight"], (weights["fc.weight"] + 4.0 * (b @ a)).astype(np.float16)
    )


def _with_offsets(bundle):
    """Write the graphs again for the weights that lie there now."""
    write_graphs(bundle.folder, lora=True, trainable=LORA)
    return seal(bundle.folder, bundle.manifest)


def test_a_quantised_weight_is_refused(tmp_path):
    bundle = hand_bundle(tmp_path / "bundle")
    weights = tensors()[0]
    weights["mix.weight"] = np.zeros((8, 8), np.int8)
    save_file(weights, tmp_path / "bundle" / "weights.safetensors")
    bundle = seal(bundle.folder, bundle.manifest)
    message = (
        "the adapter of mix can't be merged into mix.weight, which is stored as I8: "
        "deploy the bundle's model_adapters.onnx with the file that zoedge adapter writes"
    )
    with pytest.raises(InputError) as caught:
        write_merged(bundle, tuned(LORA), tmp_path / "merged")
    assert str(caught.value) == message
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize(
    ("weight", "rounded", "reason"),
    [("fc.qweight", False, "is stored as packed"), ("fc.weight", True, "the graph rounds to integers")],
)
def test_a_packed_or_rounded_weight_is_refused(tmp_path, weight, rounded, reason):
    fc = LoraBranch(
        module="fc",
        weight=weight,
        shape=SHAPES["fc"],
        transposed=False,
        a=LORA[0],
        b=LORA[1],
        rank=2,
        alpha=8.0,
    ).branch
    fc = structs.replace(fc, rounded=rounded)
    bundle = hand_bundle(tmp_path / "bundle", branches=(fc,))
    with pytest.raises(InputError, match=rf"into {weight}, which {reason}: deploy"):
        write_merged(bundle, tuned(LORA[:2]), tmp_path / "merged")


def test_a_shared_weight_is_refused(tmp_path):
    bundle = hand_bundle(tmp_path / "bundle")
    rows = [_tied(row) if row.name == "fc.weight" else row for row in bundle.manifest.parameters]
    shared = hand_bundle(tmp_path / "shared", parameters=tuple(rows))
    with pytest.raises(InputError, match=r"into fc\.weight, which embedding\.weight shares: deploy"):
        write_merged(shared, tuned(LORA), tmp_path / "merged")


def _tied(row):
    return Parameter(name=row.name, dtype=row.dtype, shape=row.shape, tied_to=("embedding.weight",))


def test_tensors_of_another_bundle_are_refused(tmp_path):
    bundle = hand_bundle(tmp_path / "bundle")
    with pytest.raises(
        BundleError, match=r"^the tuned fc\.bias \(float32 \[9\]\) has no place in .*: merge with the bundle"
    ):
        write_merged(bundle, {"fc.bias": np.zeros(9, np.float32)}, tmp_path / "merged")
    with pytest.raises(BundleError, match=r"^the tuned gone \(float32 \[1\]\) has no place"):
        write_merged(bundle, {"gone": np.zeros(1, np.float32)}, tmp_path / "merged")


def test_an_existing_folder_is_left_alone(tmp_path):
    bundle = hand_bundle(tmp_path / "bundle")
    (tmp_path / "merged").mkdir()
    (tmp_path / "merged" / "mine").write_text("kept")
    with pytest.raises(InputError, match="exists already: choose another output folder"):
        write_merged(bundle, tuned(LORA), tmp_path / "merged")
    assert [path.name for path in (tmp_path / "merged").iterdir()] == ["mine"]


def _rewritten(bundle: Bundle, change):
    path = bundle.folder / "model.onnx"
    model = onnx.load(path, load_external_data=False)
    change(model)
    onnx.save(model, path)
    return seal(bundle.folder, bundle.manifest)


def test_a_graph_that_reads_another_file_is_refused(tmp_path):
    def elsewhere(model):
        model.graph.initializer[0].external_data[0].value = "my-weights.safetensors"

    bundle = _rewritten(hand_bundle(tmp_path / "bundle"), elsewhere)
    with pytest.raises(
        BundleError, match=r"reads tensors from elsewhere than weights\.safetensors: export the bundle again"
    ):
        write_merged(bundle, tuned(LORA), tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_a_graph_that_keeps_a_copy_of_a_tuned_tensor_is_refused(tmp_path):
    def inline(model):
        own = next(t for t in model.graph.initializer if t.name == "fc.bias")
        own.CopyFrom(onnx.numpy_helper.from_array(tensors()[0]["fc.bias"], "fc.bias"))

    bundle = _rewritten(hand_bundle(tmp_path / "bundle", trainable=("fc.bias",)), inline)
    with pytest.raises(
        BundleError, match=r"doesn't read fc\.bias from weights\.safetensors: export the bundle again"
    ):
        write_merged(bundle, tuned(("fc.bias",)), tmp_path / "merged")


def test_names_in_the_graph_that_look_like_the_file_stay(tmp_path):
    def rename(model):
        model.graph.node[0].name = "weights.safetensors"
        model.doc_string = "made from weights.safetensors"

    bundle = _rewritten(hand_bundle(tmp_path / "bundle"), rename)
    values = tuned(LORA)
    write_merged(bundle, values, tmp_path / "merged")
    np.testing.assert_allclose(stock_logits(tmp_path / "merged"), logits(X, values), rtol=1e-4, atol=1e-4)
    assert (tmp_path / "merged" / "model.onnx").read_bytes().count(b"weights.safetensors") == 2


def test_memory_stays_small(tmp_path):
    """A graph is not parsed and a weights file not read whole: 64 MB of weights cost a few MB."""
    bundle = hand_bundle(tmp_path / "bundle")
    weights = tensors()[0] | {"zz.unused": np.zeros(1 << 24, np.float32)}
    save_file(weights, tmp_path / "bundle" / "weights.safetensors")
    _with_offsets(bundle)
    script = """
        import sys
        from pathlib import Path
        from tests.builders.hand_bundle import SHAPES, LORA, tuned
        from zoedge.bundle import Bundle
        from zoedge.runtime.outputs import write_merged
        def peak():  # getrusage would count the parent's, from before exec
            return next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("VmHWM"))
        bundle, values = Bundle.open(sys.argv[1], verify=False), tuned(LORA)
        before = peak()
        write_merged(bundle, values, Path(sys.argv[2]))
        print(peak() - before)
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(bundle.folder), str(tmp_path / "merged")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert int(done.stdout) < 16_000  # kilobytes


@pytest.mark.parametrize("train", [("lora",), ("full",)])
def test_an_onnx_file_comes_back_tuned(tmp_path, train):
    """Source .onnx: exported, tuned to random values, merged, and run by a stock script."""
    from zoedge.export import to_bundle

    hand_bundle(tmp_path / "hand")
    source = onnx.load(tmp_path / "hand" / "model.onnx")
    onnx.save(source, tmp_path / "net.onnx")
    bundle = to_bundle(
        tmp_path / "net.onnx", tmp_path / "bundle", output_name="logits", loss="cross-entropy", train=train
    )
    rng = np.random.default_rng(5)
    values = {
        name: buffer + rng.standard_normal(buffer.shape, np.float32)
        for name, buffer in load_buffers(bundle, Cpu()).items()
    }
    write_merged(bundle, values, tmp_path / "merged")
    buffers = load_buffers(bundle, Cpu())
    for name, value in values.items():
        np.copyto(buffers[name], value)
    given = {"x": X, "labels": np.arange(5) % 3}
    expected = Engine(bundle.path("loss.onnx"), buffers, device=Cpu(), threads=1).run(given, ["logits"])[
        "logits"
    ]
    np.testing.assert_allclose(stock_logits(tmp_path / "merged"), expected, rtol=1e-4, atol=1e-4)
    assert np.abs(stock_logits(tmp_path / "merged") - logits(X, {})).max() > 0.1


def test_a_bfloat16_matrix_that_is_cast_is_exported_and_merged(tmp_path):
    """onnxruntime's CPU has no MatMul of bfloat16, but weights are often stored so and cast."""
    import ml_dtypes
    from onnx import TensorProto, helper

    from zoedge.export import to_bundle

    w = np.random.default_rng(3).standard_normal((4, 3)).astype(ml_dtypes.bfloat16)  # [in, out]
    stored = TensorProto(name="fc.weight", data_type=TensorProto.BFLOAT16, dims=w.shape, raw_data=w.tobytes())
    nodes = [
        helper.make_node("Cast", ["fc.weight"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["x", "wide"], ["logits"]),
    ]
    x, y = (
        helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", k]) for n, k in (("x", 4), ("logits", 3))
    )
    graph = helper.make_graph(nodes, "g", [x], [y], [stored])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8),
        tmp_path / "m.onnx",
    )
    bundle = to_bundle(
        tmp_path / "m.onnx", tmp_path / "bundle", loss="mse", lora_rank=2, target_modules=["fc"]
    )
    assert {p.name: p.dtype for p in bundle.manifest.parameters}["fc.weight"] == "bfloat16"
    (branch,) = lora_branches(bundle.manifest)
    rng = np.random.default_rng(5)
    values = {
        branch.a: rng.standard_normal((2, 4), np.float32),
        branch.b: rng.standard_normal((3, 2), np.float32),
    }
    write_merged(bundle, values, tmp_path / "merged")
    delta = branch.alpha / branch.rank * values[branch.b].astype(np.float64) @ values[branch.a]
    merged = (w.astype(np.float64) + delta.T).astype(ml_dtypes.bfloat16).astype(np.float64)
    np.testing.assert_allclose(stock_logits(tmp_path / "merged"), X @ merged, rtol=1e-4, atol=1e-4)


def test_a_bundle_of_an_early_format_whose_model_can_not_be_tried(tmp_path):
    bundle = hand_bundle(tmp_path / "bundle")
    (bundle.folder / "model_adapters.onnx").write_bytes(b"no model")
    bundle = seal(bundle.folder, bundle.manifest)
    with pytest.raises(
        InputError, match=r"which doesn't tell whether .* couldn't be tried \(.*: deploy its model_ad"
    ):
        write_merged(bundle, tuned(LORA), tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
