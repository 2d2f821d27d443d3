"""Every float tensor that a loss depends on is trained by ``full``, or named as frozen: on random graphs."""

import shutil
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from zoedge.export import to_bundle
from zoedge.manifest import SETTING
from zoedge.runtime.device import Cpu
from zoedge.runtime.loaded import load_buffers
from zoedge.runtime.passes.engine import Engine

from .random_graphs import random_graph

_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)


def float_tensors(graph):
    """Yield the shape of each float tensor of a file, however deep it lies: the test's own walk."""
    for tensor in graph.initializer:
        if tensor.data_type in _FLOATS:
            yield tuple(tensor.dims)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.name == "value" and attribute.t.data_type in _FLOATS:
                yield tuple(attribute.t.dims)
            if attribute.HasField("g"):
                yield from float_tensors(attribute.g)


def put(graph, values, prefix=""):
    """Write values into a file's own tensors, wherever they lie; those of branches by NODE/BRANCH/NAME."""
    for tensor in graph.initializer:
        _put(tensor, tensor.name, values, prefix)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.name == "value":
                _put(attribute.t, node.output[0], values, prefix)
            if attribute.HasField("g"):
                put(attribute.g, values, f"{node.name}/{attribute.name}/")


def _put(tensor, name, values, prefix):
    known = [full for full in (f"{prefix}{name}", name) if full in values]
    if known:
        tensor.CopyFrom(numpy_helper.from_array(values[known[0]], tensor.name))


def rows(count=8):
    """Return inputs of both signs, so that both branches of an If are taken."""
    rng = np.random.default_rng(0)
    drawn = [rng.standard_normal((3, 4)).astype(np.float32) for _ in range(count)]
    return [
        sign * (np.abs(each) if number % 2 else each) for number, each in enumerate(drawn) for sign in (1, -1)
    ]


def losses(engine):
    labels = np.zeros((3, 1), np.float32)
    return np.stack([engine.run({"x": each, "labels": labels}, ("loss",))["loss"] for each in rows()])


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_every_float_tensor_is_trained_or_named(data):
    model = random_graph(lambda low, high: data.draw(st.integers(low, high)))
    folder = Path(tempfile.mkdtemp())
    try:
        onnx.save(model, folder / "m.onnx")
        bundle = to_bundle(
            folder / "m.onnx", folder / "b", loss="mse", train=("full",), say=lambda text: None
        )
        manifest = bundle.manifest
        buffers = load_buffers(bundle, Cpu())
        listed = [p.shape for p in manifest.parameters] + [row.shape for row in manifest.frozen]
        assert Counter(listed) == Counter(float_tensors(model.graph))
        left = [p for p in manifest.parameters if not p.trainable]
        assert not any(p.live for p in left)
        names = [p.name for p in manifest.parameters] + [row.name for row in manifest.frozen]
        assert len(names) == len(set(names))
        settings_alone = [row for row in manifest.frozen if row.reason == SETTING]
        assert all(np.prod(row.shape) == 1 for row in settings_alone)
        engine = Engine(bundle.path("loss.onnx"), buffers, device=Cpu(), threads=1)
        first = losses(engine)
        for name, array in buffers.items():
            kept = array.copy()
            array += 0.3 * np.random.default_rng(1).standard_normal(array.shape).astype(np.float32)
            assert not np.array_equal(losses(engine), first), name
            array[...] = kept
        assert np.array_equal(losses(engine), first)
        for array in buffers.values():
            array += 0.1 * np.random.default_rng(2).standard_normal(array.shape).astype(np.float32)
        put(model.graph, buffers)
        changed = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        wanted = np.stack([np.square(changed.run(None, {"x": each})[0][:, 0]) for each in rows()])
        np.testing.assert_allclose(losses(engine), wanted, rtol=2e-3, atol=1e-4)
    finally:
        shutil.rmtree(folder)
