import numpy as np
import pytest

from tests.builders.hand_bundle import LORA, hand_bundle
from zoedge.manifest import LOSS_FILE
from zoedge.runtime.device import Cpu
from zoedge.runtime.passes.engine import Engine
from zoedge.runtime.passes.frozen import frozen_where, map_frozen
from zoedge.runtime.spaces.parameters import load_buffers
from zoedge.tensor_file import map_some, map_tensors


@pytest.fixture
def bundle(tmp_path):
    return hand_bundle(tmp_path / "bundle", trainable=(*LORA, "fc.bias"))


def test_frozen_tensors_are_the_others_and_read_only(bundle):
    frozen = map_frozen(bundle)
    assert set(frozen) == {"classifier.bias", "classifier.weight", "fc.weight", "mix.weight"}
    assert not any(array.flags.writeable for array in frozen.values())


def test_an_engine_on_them_computes_the_same(bundle):
    given = {"x": np.ones((2, 4), np.float32), "labels": np.zeros(2, np.int64)}
    buffers = load_buffers(bundle, Cpu())
    lean = Engine(bundle.path(LOSS_FILE), buffers, frozen=map_frozen(bundle), device=Cpu(), threads=1)
    before = lean.run(given)["logits"]
    plain = Engine(bundle.path(LOSS_FILE), load_buffers(bundle, Cpu()), device=Cpu(), threads=1)
    np.testing.assert_allclose(before, plain.run(given)["logits"], rtol=1e-5)
    buffers["fc.lora_B.weight"] += 1.0
    assert (lean.run(given)["logits"] != before).any()


def test_who_is_given_them(bundle, monkeypatch):
    assert frozen_where(bundle, Cpu(), "auto") is None
    assert set(frozen_where(bundle, Cpu(), "no")) == set(map_frozen(bundle))
    monkeypatch.setattr(Cpu, "takes_frozen", True)
    assert set(frozen_where(bundle, Cpu(), "yes")) == set(map_frozen(bundle))


def test_tensors_mapped_alone_are_those_of_the_file(bundle):
    path = bundle.path("weights.safetensors")
    whole, some = map_tensors(path), map_some(path, {"fc.bias", "mix.weight"})
    assert set(some) == {"fc.bias", "mix.weight"}
    for name, array in some.items():
        np.testing.assert_array_equal(array, whole[name])
        array += 1.0  # private: the file and other maps stay as they are
    np.testing.assert_array_equal(map_tensors(path)["fc.bias"], whole["fc.bias"])
