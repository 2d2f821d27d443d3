"""Counterparts of graphs: every stored tensor is an input without a value, and the numbers are the graph's."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from tests.builders.models import convnet, mlp, save
from zoedge.bundle import Bundle
from zoedge.counterparts import FLOAT16, INPUTS, ORIGINALS, counterpart, counterparts
from zoedge.export import to_bundle
from zoedge.manifest import LOSS_FILE, PREFIX_FILE, SUFFIX_FILE
from zoedge.names import given, in_graph
from zoedge.tensor_file import map_tensors

SIZES = {"batch": 4, "sequence": 7, "positions": 2, "points": 2, "points_or_1": 2, "batch*sequence": 28}
TASK = {"task": "classification"}
CASES = {
    "opt full": ("tiny_opt", {"train": ("full",)}),
    "opt lora": ("tiny_opt", {"train": ("lora",)}),
    "llama lora": ("tiny_llama", {"train": ("lora",)}),
    "bert, new head": ("tiny_bert", {"train": ("head",), "labels": ("a", "b", "c", "d")}),
    "opt int8": ("tiny_opt", {"train": ("lora",), "quantize": "int8"}),
    "opt int4": ("tiny_opt", {"train": ("lora",), "quantize": "int4"}),
    "mlp": (lambda folder: save(mlp(), folder / "m.onnx"), {"train": ("full",), **TASK}),
    "mlp of one row": (lambda folder: save(mlp(batch=1), folder / "m.onnx"), {"train": ("full",), **TASK}),
    "convnet": (lambda folder: save(convnet(), folder / "m.onnx"), {"train": ("full",), **TASK}),
}


@pytest.fixture(scope="module")
def bundles(request, tmp_path_factory):
    """Each case once, with what was said."""
    made = {}

    def make(name):
        if name not in made:
            source, settings = CASES[name]
            folder = tmp_path_factory.mktemp("bundle")
            told = []
            path = request.getfixturevalue(source) if isinstance(source, str) else source(folder)
            made[name] = to_bundle(path, folder / "b", say=told.append, **settings), told
        return made[name]

    return make


def opened(bundle, file, **sizes):
    options = ort.SessionOptions()
    for name, size in sizes.items():
        options.add_free_dimension_override_by_name(name, size)
    return ort.InferenceSession(bundle.path(file), options, providers=["CPUExecutionProvider"])


def stored(bundle):
    files = [name for name in bundle.manifest.files if name.endswith(".safetensors")]
    return {name: array for file in files for name, array in map_tensors(bundle.path(file)).items()}


def arrays_for(session, bundle, seed=0, like=None):
    """Return arrays for every input of a session, stored tensors as they lie in the files."""
    rng, tensors, found = np.random.default_rng(seed), stored(bundle), dict(like or {})
    for put in session.get_inputs():
        if put.name in found:
            continue
        shape = [SIZES.get(d, 4) if isinstance(d, str) or d is None else d for d in put.shape]
        if put.name in tensors and len(put.shape) == tensors[put.name].ndim:
            found[put.name] = tensors[put.name]
        elif put.name in tensors:
            found[put.name] = np.stack([tensors[put.name] + 0.05] * shape[0])
        elif put.name == "attention_mask":
            found[put.name] = np.ones(shape, np.int64)
        elif put.type == "tensor(int64)":
            found[put.name] = rng.integers(0, 2, shape)
        else:
            found[put.name] = rng.standard_normal(shape).astype(np.float32)
    return found


def run(session, arrays):
    kinds = {"tensor(float16)": np.float16, "tensor(float)": np.float32}
    feeds = {}
    for put in session.get_inputs():
        array = given(arrays, put.name)
        feeds[put.name] = array.astype(kinds.get(put.type, array.dtype))
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, feeds), strict=True))


def originals(bundle, file, arrays):
    """Return the outputs of the graph itself with its trained tensors fed."""
    session = opened(bundle, file)
    feeds = {put.name: given(arrays, put.name) for put in session.get_inputs()}
    optional = {value.name for value in session.get_overridable_initializers()}
    feeds |= {name: arrays[name] for name in optional & arrays.keys()}
    if in_graph("predict") in optional:
        feeds[in_graph("predict")] = np.array(True)
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, feeds), strict=True))


def every(bundle, kind):
    """Yield (original, predictions, file) of each counterpart that a bundle should have."""
    for file in ORIGINALS:
        if file not in bundle.manifest.files:
            continue
        shows = "predictions" in {port.name for port in bundle.manifest.outputs}
        for predictions in (False, True) if shows and file in (LOSS_FILE, SUFFIX_FILE) else (False,):
            yield file, predictions, counterpart(file, kind, predictions=predictions)


@pytest.mark.parametrize("kind", [INPUTS, FLOAT16])
@pytest.mark.parametrize("name", CASES)
def test_a_bundle_has_one_of_each_graph_and_nothing_is_said(bundles, name, kind):
    bundle, told = bundles(name)
    wanted = {file for _, _, file in every(bundle, kind)}
    assert wanted == {file for file in counterparts(kind) if file in bundle.manifest.files}
    assert not [text for text in told if "left out" in text]
    Bundle.open(bundle.folder)  # with all digests


@pytest.mark.parametrize("kind", [INPUTS, FLOAT16])
@pytest.mark.parametrize("name", CASES)
def test_tensors_are_inputs_alone_and_nothing_branches(bundles, name, kind):
    bundle, _ = bundles(name)
    rows = {row.name: row for row in bundle.manifest.parameters}
    rounded = bundle.manifest.quantization.matrices if bundle.manifest.quantization else ()
    for original, _, file in every(bundle, kind):
        proto = onnx.load(bundle.path(file), load_external_data=False)
        onnx.checker.check_model(proto)
        assert proto.ir_version >= 8
        assert not [t.name for t in proto.graph.initializer if t.data_location == t.EXTERNAL]
        assert not {t.name for t in proto.graph.initializer} & rows.keys()
        assert not [
            n.op_type for n in proto.graph.node if n.op_type in ("If", "Loop", "DynamicQuantizeLinear")
        ]
        inputs = {value.name: value for value in proto.graph.input}
        before = onnx.load(bundle.path(original), load_external_data=False).graph
        reads = {read for n in before.node for read in n.input}
        assert reads & rows.keys() <= inputs.keys()
        assert {m.scale for m in rounded if m.scale in reads} <= inputs.keys()
        assert in_graph("predict") not in inputs
        for value_ in proto.graph.input:
            assert all(d.dim_value or d.dim_param for d in value_.type.tensor_type.shape.dim), value_.name
            floats = value_.name in rows and rows[value_.name].dtype == "float32"
            wanted = onnx.TensorProto.FLOAT16 if kind == FLOAT16 else onnx.TensorProto.FLOAT
            assert not floats or value_.type.tensor_type.elem_type == wanted


@pytest.mark.parametrize("kind", [INPUTS, FLOAT16])
@pytest.mark.parametrize("name", CASES)
def test_they_give_what_their_graphs_give_with_other_weights_too(bundles, name, kind):
    bundle, _ = bundles(name)
    smooth = bundle.manifest.quantization is not None and bundle.manifest.quantization.kind == "int8"
    tolerance = 0.1 if smooth else 2e-2 if kind == FLOAT16 else 1e-5
    rng = np.random.default_rng(1)
    crossing = {}
    for original, predictions, file in every(bundle, kind):
        session = opened(bundle, file)
        arrays = arrays_for(session, bundle, like=crossing if original == SUFFIX_FILE else None)
        for row in bundle.manifest.trainable:
            if row.name in arrays:
                noise = rng.standard_normal(arrays[row.name].shape, dtype=np.float32)
                arrays[row.name] = arrays[row.name] + 0.02 * noise
        got, wanted = run(session, arrays), originals(bundle, original, arrays)
        assert got.keys() == wanted.keys() - (set() if predictions else {in_graph("predictions")})
        for output, array in got.items():
            if array.dtype.kind == "f":
                scale = max(1.0, np.abs(wanted[output]).max())
                assert np.abs(array.astype(np.float32) - wanted[output]).max() <= tolerance * scale, output
            elif tolerance < 1e-4:
                np.testing.assert_array_equal(array, wanted[output])
        if original == PREFIX_FILE:
            crossing = wanted
