"""The engine reads our buffers in place, and says what it can't do."""

import numpy as np
import pytest

from tests.builders.networks import mlp
from zoedge.errors import InputError, ZoedgeError
from zoedge.export import to_bundle
from zoedge.manifest import LOSS_FILE, MODEL_FILE
from zoedge.runtime.device import Cpu
from zoedge.runtime.passes.engine import Engine
from zoedge.runtime.spaces.parameters import load_buffers


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("engine")
    return to_bundle(mlp(folder / "mlp.onnx"), folder / "bundle", task="classification", train=("full",))


INPUTS = {
    "x": np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32),
    "labels": np.zeros(4, np.int64),
}


def test_a_changed_buffer_is_seen_by_the_next_run_and_restoring_it_is_exact(bundle):
    buffers = load_buffers(bundle, Cpu())
    engine = Engine(bundle.path(LOSS_FILE), buffers, device=Cpu(), threads=1)
    first = engine.run(INPUTS)["logits"]
    for buffer in buffers.values():
        saved = buffer.copy()
        buffer += 0.5
        assert np.any(engine.run(INPUTS)["logits"] != first)
        buffer[...] = saved
        np.testing.assert_array_equal(engine.run(INPUTS)["logits"], first)


def test_it_computes_what_numpy_does(bundle):
    w = load_buffers(bundle, Cpu())
    engine = Engine(bundle.path(LOSS_FILE), w, device=Cpu(), threads=1)
    out = engine.run(INPUTS)
    hidden = np.tanh(INPUTS["x"] @ w["fc1.weight"].T + w["fc1.bias"])
    logits = hidden @ w["fc2.weight"].T + w["fc2.bias"]
    np.testing.assert_allclose(out["logits"], logits, rtol=1e-5, atol=1e-6)
    losses = np.log(np.exp(logits).sum(1)) - logits[:, 0]
    np.testing.assert_allclose(out["loss"], losses, rtol=1e-5)


def test_the_bundles_file_never_changes(bundle):
    path = bundle.path("weights.safetensors")
    before = path.read_bytes()
    for buffer in load_buffers(bundle, Cpu()).values():
        buffer += 1.0
    assert path.read_bytes() == before


def test_a_constant_cannot_be_trained(bundle):
    with pytest.raises(InputError, match=r"holds fc1.bias as a constant"):
        Engine(bundle.path(MODEL_FILE), load_buffers(bundle, Cpu()), device=Cpu(), threads=1)


def test_a_failing_pass_names_the_shapes(bundle):
    engine = Engine(bundle.path(LOSS_FILE), load_buffers(bundle, Cpu()), device=Cpu(), threads=1)
    with pytest.raises(ZoedgeError, match=r"the forward pass failed on labels \[4\], x \[4, 5\]"):
        engine.run({"x": np.zeros((4, 5), np.float32), "labels": np.zeros(4, np.int64)})
