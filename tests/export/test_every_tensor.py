"""Every float tensor that a loss depends on is trained by ``full``, or named as frozen: on random graphs."""

import re
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, numpy_helper

from tests.builders.random_graphs import LAYERS, random_graph
from zoedge.errors import InputError
from zoedge.export import to_bundle
from zoedge.manifest import SETTING
from zoedge.runtime.device import Cpu
from zoedge.runtime.loaded import load_buffers
from zoedge.runtime.passes.engine import Engine

FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)
REMEDY = re.compile(r"--train (\S+?)(?: --target-modules (\S+?))?(?=,| or |$)")


def tensors_in(graph, prefix=""):
    """Yield (name, tensor) for what a file holds, however deep it lies: the test's own walk.

    Names of branches and bodies are NODE/BRANCH/NAME.
    """
    for tensor in graph.initializer:
        yield prefix + tensor.name, tensor
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.name == "value":
                yield prefix + node.output[0], attribute.t
            if attribute.HasField("g"):
                yield from tensors_in(attribute.g, f"{prefix}{node.name}/{attribute.name}/")


def called(full, known):
    """Return what a manifest may call a tensor: by its own name, where no other has it."""
    return full if full in known else full.rsplit("/", 1)[-1]


def at_inference(model):
    """Return a file without what its nodes do in training alone."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for node in copy.graph.node:
        if node.op_type == "BatchNormalization":
            del node.output[1:], node.attribute[:]
        if node.op_type == "Dropout":
            del node.input[1:]
    return copy


def rows(scale=1.0):
    """Return inputs of both signs, so that both branches of an If are taken."""
    rng = np.random.default_rng(0)
    drawn = [(scale * rng.standard_normal((3, 4))).astype(np.float32) for _ in range(3)]
    return [
        sign * (np.abs(each) if number % 2 else each) for number, each in enumerate(drawn) for sign in (1, -1)
    ]


class Source:
    """A file in stock onnxruntime as it is written, whose own tensors may be changed.

    Optimised, a rounded bias is taken to have the scale that the product beside it implies.
    """

    def __init__(self, made):
        self.model, self.turned = at_inference(made.model), made.turned
        self.tensors = dict(tensors_in(self.model.graph))

    def losses(self, scale=1.0):
        """Return the squares of y [passes, rows] with the tensors as they are, on inputs of a size."""
        options = ort.SessionOptions()
        options.log_severity_level = 3  # tensors that are no longer read
        options.intra_op_num_threads = 1
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = ort.InferenceSession(
            self.model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        inputs = [np.ascontiguousarray(each.T) if self.turned else each for each in rows(scale)]
        return np.stack([np.square(session.run(["y"], {"x": each})[0].ravel()) for each in inputs])

    def put(self, name, array):
        tensor = self.tensors[name]
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))

    def read(self):
        """Return the names of the floats and codes that y depends on; zero points are no numbers that count."""
        asked = {name for name, tensor in self.tensors.items() if counts(name, tensor.data_type in FLOATS)}
        found = set()
        for scale in (1.0, 0.1, 10.0):  # what saturates for some inputs doesn't for others
            first = self.losses(scale)
            found |= {name for name in asked - found if self.changing(name, first, scale)}
        return found

    def changing(self, name, first, scale):
        """Whether another value of a tensor gives other losses."""
        kept = numpy_helper.to_array(self.tensors[name])
        for changed in changes(kept):
            self.put(name, changed)
            if not np.array_equal(self.losses(scale), first):
                break
        else:
            changed = None
        self.put(name, kept)
        return changed is not None


def counts(name, floats):
    return floats or name.startswith("codes")


def changes(array):
    """Yield a tensor with other values, which are usual ones at first."""
    rng = np.random.default_rng(99)  # no seed that values are drawn with
    if array.dtype.kind in "iu":
        info = np.iinfo(array.dtype)
        yield rng.integers(info.min + 1, info.max + 1, array.shape).astype(array.dtype)
        return
    yield (array * np.exp(rng.standard_normal(array.shape))).astype(array.dtype)
    for scale in (1, -1, 30, -30):
        yield (array + scale * rng.uniform(0.5, 1, array.shape)).astype(array.dtype)


def losses(engine):
    labels = np.zeros((3, 1), np.float32)
    return np.stack([engine.run({"x": each, "labels": labels}, ("loss",))["loss"] for each in rows()])


def exported(path, folder, train=("full",), targets=None):
    return to_bundle(
        path, folder, loss="mse", output_name="y", train=train, target_modules=targets, say=lambda _: None
    )


def opened(path, folder):
    """Return a bundle of all that can be trained; where that isn't ``full``, one advice is followed."""
    try:
        return exported(path, folder / "full")
    except InputError as error:
        refusal = str(error)
    remedies = REMEDY.findall(refusal)
    assert "can't train a quantised graph" in refusal
    assert remedies, refusal
    train, target = remedies[path.stat().st_size % len(remedies)]
    exported(path, folder / "advised", (train,), [target] if target else None)
    return exported(path, folder / "parts", ("head", "bitfit"))


def check(made, folder):
    onnx.save(made.model, folder / "m.onnx")
    bundle = opened(folder / "m.onnx", folder)
    manifest, buffers, source = bundle.manifest, load_buffers(bundle, Cpu()), Source(made)
    live = [p for p in manifest.parameters if p.live]
    listed = [row.name for row in (*live, *manifest.frozen) if counts(row.name, "float" in row.dtype)]
    assert len(listed) == len(set(listed))
    every = {p.name for p in manifest.parameters} | set(listed)
    read = {called(name, every) for name in source.read()}
    assert read == set(listed), sorted(read ^ set(listed))
    if bundle.path("bundle.json").parent.name == "full":
        assert all(p.trainable for p in live)
    assert all(np.prod(row.shape) == 1 for row in manifest.frozen if row.reason == SETTING)
    check_passes(bundle, buffers, source)


def check_passes(bundle, buffers, source):
    """Change the trainables: each tells, and all together give what the file gives with their values."""
    engine = Engine(bundle.path("loss.onnx"), buffers, device=Cpu(), threads=1)
    first = losses(engine)
    for name, array in buffers.items():
        kept = array.copy()
        for changed in changes(kept):
            array[...] = changed
            if not np.array_equal(losses(engine), first):
                break
        else:
            pytest.fail(f"{name} changes nothing")
        array[...] = kept
    assert np.array_equal(losses(engine), first)
    rng = np.random.default_rng(2)
    for array in buffers.values():
        array += 0.1 * rng.standard_normal(array.shape).astype(np.float32)
    for name in source.tensors:
        if called(name, buffers) in buffers:
            source.put(name, buffers[called(name, buffers)])
    check_close(losses(engine), source.losses(), rounded=rounds(source.model))


def check_close(got, wanted, *, rounded):
    if not rounded:
        np.testing.assert_allclose(got, wanted, rtol=2e-3, atol=1e-4)
        return
    close = np.isclose(got, wanted, rtol=0.05, atol=0.05)
    assert close.mean() > 0.5  # activations are rounded, and a sum at a step's edge falls to either side


def rounds(model):
    return any("quant" in node.op_type.lower() or "NBits" in node.op_type for node in model.graph.node)


@pytest.mark.parametrize("layer", LAYERS)
def test_every_float_tensor_is_trained_or_named(layer):
    run(layer, examples=2)


def run(layer, examples):
    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],  # making a failing graph smaller takes minutes
    )
    @given(st.data())
    def one(data):
        made = random_graph(lambda low, high: data.draw(st.integers(low, high)), layer)
        with tempfile.TemporaryDirectory() as folder:
            check(made, Path(folder))

    one()


@pytest.mark.slow
@pytest.mark.parametrize("layer", LAYERS)
def test_many_graphs(layer):
    run(layer, examples=100)
