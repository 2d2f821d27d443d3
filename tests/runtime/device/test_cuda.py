"""The device for GPUs but for the hardware: CuPy over NumPy, kernels built by g++, sessions on the processor.

What a real GPU makes of it is tested in ``tests/gpu``.
"""

import json
import subprocess
import sys

import numpy as np
import pytest

from tests.builders import fake_cupy, fake_kernel, tiny
from zoedge.bundle import Bundle
from zoedge.errors import InputError
from zoedge.export import to_bundle
from zoedge.manifest import LOSS_FILE, SUFFIX_FILE
from zoedge.runtime.device import Cpu, open_device
from zoedge.runtime.passes.engine import Engine
from zoedge.runtime.passes.frozen import frozen_where, map_frozen
from zoedge.runtime.passes.staged import Staged
from zoedge.runtime.replay import replay
from zoedge.runtime.spaces.parameters import load_buffers
from zoedge.runtime.tune import tune
from zoedge.tensor_file import map_tensors

pytestmark = pytest.mark.skipif(fake_kernel.COMPILER is None, reason=fake_kernel.NO_COMPILER)
ROWS = [{"text": " ".join(np.random.default_rng(i).choice(tiny.WORDS, 4 + i % 9))} for i in range(40)]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cuda")
    source = tiny.tiny_opt(folder / "opt")
    for train in ("full", "lora"):
        to_bundle(source, folder / train, task="text-generation", train=(train,), lora_rank=2)
    return folder


@pytest.fixture
def sessions():
    with fake_cupy.installed(fake_kernel.RawModule) as module:
        yield module


def opened(bundle, device, file=LOSS_FILE):
    return Engine(bundle.path(file), load_buffers(bundle, device), device=device, frozen=map_frozen(bundle))


def given(batch, length, seed=0):
    rng = np.random.default_rng(seed)
    ids = rng.integers(4, 30, (batch, length))
    positions = np.tile(np.arange(4), (batch, 1))
    labels = rng.integers(4, 30, (batch, 4))
    return {
        "input_ids": ids,
        "attention_mask": np.ones_like(ids),
        "label_positions": positions,
        "labels": labels,
    }


@pytest.mark.parametrize("train", ["full", "lora"])
def test_passes_give_what_the_processor_gives(sessions, place, train):
    bundle = Bundle.open(place / train)
    here, there = opened(bundle, Cpu()), opened(bundle, open_device("cuda"))
    assert sorted(there.outputs) == sorted(here.outputs)
    for shape in ((2, 8), (3, 12), (2, 8)):
        inputs = given(*shape)
        wanted, got = here.run(inputs), there.run(inputs)
        for name in wanted:
            np.testing.assert_allclose(got[name], wanted[name], rtol=1e-5, atol=1e-6)
        begun = there.begin(inputs)
        for _ in range(2):
            np.testing.assert_allclose(there.later(begun, ("loss",))()["loss"], wanted["loss"], rtol=1e-5)


def test_what_moves_is_seen_by_the_next_pass_and_results_wait_for_nobody(sessions, place):
    bundle, device = Bundle.open(place / "full"), open_device("cuda")
    buffers = load_buffers(bundle, device)
    engine = Engine(bundle.path(LOSS_FILE), buffers, device=device, frozen=map_frozen(bundle))
    begun = engine.begin(given(2, 8))
    first = engine.later(begun, ("loss",))
    name = bundle.manifest.trainable[0].name
    kept = device.copy(buffers[name])
    device.write(buffers[name], np.full(kept.shape, 0.3, np.float32))
    moved = engine.later(begun, ("loss",))
    device.write(buffers[name], kept)
    again = engine.later(begun, ("loss",))
    assert (first()["loss"] != moved()["loss"]).any()
    np.testing.assert_array_equal(first()["loss"], again()["loss"])


def test_inputs_that_were_put_stay_as_they_are(sessions, place):
    engine = opened(Bundle.open(place / "full"), open_device("cuda"))
    one, other = engine.begin(given(2, 8, 1)), engine.begin(given(2, 8, 2))
    losses = [engine.later(begun, ("loss",))()["loss"] for begun in (one, other, one, other)]
    np.testing.assert_array_equal(losses[0], losses[2])
    np.testing.assert_array_equal(losses[1], losses[3])
    assert (losses[0] != losses[1]).any()


def test_shapes_that_were_used_last_are_kept(sessions, place, monkeypatch):
    monkeypatch.setattr(sessions, "MOST_SHAPES", 2)
    device = open_device("cuda")
    engine = opened(Bundle.open(place / "full"), device)
    losses = {}
    for shape in ((1, 8), (2, 8), (1, 8), (3, 8), (1, 8), (2, 8)):
        loss = engine.later(engine.begin(given(*shape)), ("loss",))()["loss"]
        np.testing.assert_array_equal(loss, losses.setdefault(shape, loss))
        assert len(device._passes.fixed) <= 2
    kept = [key[-1][1] for key in device._passes.fixed]
    assert len(kept) == 2


def test_frozen_tensors_are_held_once_whatever_is_opened(sessions, place):
    bundle, device = Bundle.open(place / "lora"), open_device("cuda")
    held = []
    for _ in range(2):
        buffers, frozen = load_buffers(bundle, device), frozen_where(bundle, device, "auto")
        Engine(bundle.path(LOSS_FILE), buffers, device=device, frozen=frozen)
        held.append({name: buffer.address for name, (_, buffer) in device._passes._frozen.items()})
    assert held[0] == held[1] != {}


def test_why_passes_are_not_recorded_is_told_once(sessions, place, monkeypatch):
    device = open_device("cuda")
    engine, opened_with = opened(Bundle.open(place / "full"), device), sessions.Passes.open

    def refusing(self, path, sizes=None, *, recorded=False):
        if recorded:
            raise RuntimeError("a node runs elsewhere")
        return opened_with(self, path, sizes)

    monkeypatch.setattr(sessions.Passes, "open", refusing)
    assert device.news() is None
    assert np.isfinite(engine.later(engine.begin(given(2, 8)), ("loss",))()["loss"]).all()
    assert (
        device.news() == "passes are not recorded as CUDA graphs, which takes longer: a node runs elsewhere"
    )
    assert device.news() is None


def test_points_share_a_pass(sessions, place):
    bundle, device = Bundle.open(place / "lora"), open_device("cuda")
    buffers = load_buffers(bundle, device)
    staged = Staged(bundle, buffers, device=device, frozen=map_frozen(bundle))
    names = sorted(bundle.manifest.factors)
    stacked = {name: device.empty_stack(buffers[name], 2) for name in names}
    begun, alone = staged.begin(given(2, 8)), []
    rng = np.random.default_rng(0)
    for point in range(2):
        for name in names:
            device.write(buffers[name], 0.05 * rng.standard_normal(buffers[name].shape, dtype=np.float32))
        device.gather([buffers[n] for n in names], [stacked[n] for n in names], point)
        alone.append(staged.later(begun, ("loss",))()["loss"])
    together = staged.later(begun, ("loss",), stacked)()["loss"]
    np.testing.assert_allclose(together, np.concatenate(alone), rtol=1e-5)


def test_a_bundle_without_graphs_for_it_is_refused(sessions, place, tmp_path):
    with pytest.raises(InputError, match=r"has no loss_inputs\.onnx.*export it again"):
        open_device("cuda").open(tmp_path / LOSS_FILE, {})
    assert (place / "lora" / SUFFIX_FILE).is_file()


@pytest.mark.parametrize("precision", ["float32", "auto"])
@pytest.mark.parametrize(
    ("train", "method"),
    [
        ("full", "mezo"),
        ("full", "zo-adam"),
        ("full", "sparse-mezo"),
        ("full", "zo-sgd-cons"),
        ("full", "dizo"),
        ("full", "helene"),
        ("lora", "fzoo"),
        ("lora", "subzero"),
        ("lora", "lozo-m"),
    ],
)
def test_a_run_replays_on_the_processor_to_the_same_bits(sessions, place, tmp_path, train, method, precision):
    settings = {"method": method, "steps": 4, "batch_size": 4, "eval_every": 2, "threads": 1}
    settings |= {"project_every": 2, "project_steps": 1} if method == "dizo" else {}
    runs = {}
    for provider in ("cuda", "cpu"):
        own = {"provider": provider, "precision": precision}
        runs[provider] = tune(place / train, ROWS, tmp_path / provider, {**settings, **own}, preflight=False)
    every = {"float16", "tf32", "float32"}
    chosen = {"float32"} if precision == "float32" else {"float16"} if method in ("mezo", "dizo") else every
    assert runs["cuda"].options.precision in chosen
    logs = [
        [json.loads(line) for line in (tmp_path / p / "log.jsonl").read_text().splitlines()] for p in runs
    ]
    for here, there in zip(*logs, strict=True):
        if "loss" in here:
            # branches' directions come from other rows where passes are padded otherwise
            assert here["loss"] == pytest.approx(there["loss"], rel=3e-4 if train == "full" else 3e-3)
    replay(tmp_path / "cuda", tmp_path / "replayed")
    found = {path.name: path for path in (tmp_path / "replayed").rglob("*.safetensors")}
    assert found
    for name, path in found.items():
        again, last = map_tensors(path), map_tensors(tmp_path / "cuda" / "last" / name)
        assert again.keys() == last.keys()
        for tensor in last:
            assert again[tensor].tobytes() == last[tensor].tobytes(), tensor


def test_nothing_asks_for_cupy_on_the_processor():
    code = (
        "import sys; from zoedge.runtime.device import open_device; open_device('cpu'); "
        "sys.exit('cupy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
