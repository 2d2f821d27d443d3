"""Runs the graph of an ``Exported`` in onnxruntime and compares it with the source."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime

from zoedge.export.exported import Exported


def session_of(exported: Exported) -> onnxruntime.InferenceSession:
    """An ordinary session on a copy of the graph with its data inside."""
    model = onnx.ModelProto()
    model.CopyFrom(exported.model)
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            assert not tensor.raw_data
            tensor.CopyFrom(onnx.numpy_helper.from_array(exported.weights[tensor.name], tensor.name))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options)


def check_parity(exported: Exported, shapes: tuple[tuple[int, int], ...]) -> None:
    """Logits equal the reference's at every (batch, length), and they depend on the inputs."""
    session = session_of(exported)
    rng = np.random.default_rng(7)
    for batch, length in shapes:
        inputs = exported.sample_inputs(rng, batch, length)
        wanted = exported.reference(inputs)[exported.logits]
        got = session.run([exported.logits], inputs)[0]
        assert got.shape == wanted.shape
        assert wanted.shape[0] == batch
        assert float(wanted.std()) > 1e-2
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=2e-5)


def initializers(exported: Exported) -> dict[str, onnx.TensorProto]:
    return {tensor.name: tensor for tensor in exported.model.graph.initializer}
