"""Every float tensor that a loss depends on is trained by ``full``, or named as frozen: on random graphs."""

import shutil
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zoedge.export import to_bundle
from zoedge.manifest import SETTING
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


def losses(engine, count=8):
    """Return losses on rows of both signs, so that both branches of an If are taken."""
    labels = np.zeros((3, 1), np.float32)
    rng = np.random.default_rng(0)
    rows = [rng.standard_normal((3, 4)).astype(np.float32) for _ in range(count)]
    rows = [
        sign * (np.abs(each) if number % 2 else each) for number, each in enumerate(rows) for sign in (1, -1)
    ]
    return np.stack([engine.run({"x": each, "labels": labels}, ("loss",))["loss"] for each in rows])


@settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
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
        buffers = load_buffers(bundle)
        listed = [p.shape for p in manifest.parameters] + [row.shape for row in manifest.frozen]
        assert Counter(listed) == Counter(float_tensors(model.graph))
        left = [p for p in manifest.parameters if not p.trainable]
        assert not any(p.live for p in left)
        names = [p.name for p in manifest.parameters] + [row.name for row in manifest.frozen]
        assert len(names) == len(set(names))
        settings_alone = [row for row in manifest.frozen if row.reason == SETTING]
        assert all(np.prod(row.shape) == 1 for row in settings_alone)
        engine = Engine(bundle.path("loss.onnx"), buffers, threads=1)
        first = losses(engine)
        for name, array in buffers.items():
            kept = array.copy()
            array += 0.3 * np.random.default_rng(1).standard_normal(array.shape).astype(np.float32)
            assert not np.array_equal(losses(engine), first), name
            array[...] = kept
        assert np.array_equal(losses(engine), first)
    finally:
        shutil.rmtree(folder)
