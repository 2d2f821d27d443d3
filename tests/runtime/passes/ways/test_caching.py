"""When rows' results are kept: how much of the disk, for which graphs and runs, and what is said."""

import os
from collections import namedtuple
from dataclasses import replace

import numpy as np
import pytest

from tests.builders.networks import mlp, rows
from zoedge.bundle import Bundle
from zoedge.errors import InputError
from zoedge.export import to_bundle
from zoedge.options import TuneOptions
from zoedge.runtime.data.batches import MicroBatch
from zoedge.runtime.device import Cpu
from zoedge.runtime.passes.engine import Engine
from zoedge.runtime.passes.staged import Staged
from zoedge.runtime.passes.ways import caching, choice, two_parts
from zoedge.runtime.passes.ways.caching import Recurring, in_memory, most_bytes, unfit
from zoedge.runtime.passes.ways.choice import choose_way
from zoedge.runtime.passes.ways.situation import Situation
from zoedge.runtime.run.progress import Silent
from zoedge.runtime.spaces.parameters import load_buffers
from zoedge.runtime.tune import tune

from ...open_files import open_files

GIB = 1 << 30
KEPT = "the layers before the first trained one are computed once per row and kept on disk (up to 1 GiB)"
NOT_KEPT = "what the layers before the first trained one make of a row is not kept across epochs: "


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("caching")
    mlp(folder / "mlp.onnx")
    rows(folder / "data.jsonl", 120)
    for name in ("fc2", "full"):
        to_bundle(folder / "mlp.onnx", folder / name, task="classification", train=(name,))
    return folder


def batch(count=5):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((count, 6)).astype(np.float32)
    return MicroBatch({"x": x}, {"labels": rng.integers(0, 2, count)}, np.arange(count))


def situation(place, folder, name="fc2", **changes):
    bundle = Bundle.open(place / name)
    buffers = load_buffers(bundle, Cpu())
    recurring = Recurring(folder, **({"asked": "auto", "rows": 20, "epochs": 4.0} | changes))
    outputs = ("loss", "weight")
    return Situation(
        bundle, buffers, frozenset(buffers), [batch()], outputs, 3, Cpu(), 1, recurring=recurring
    )


def tried(here):
    return two_parts.USE.try_cache(here)


@pytest.fixture
def timed(monkeypatch):
    """Set the seconds of: computing, reading, a step of the whole graph, a step of the two parts."""

    def put(computing, reading, whole=1.0, parts=1.0):
        times = iter([computing, reading])
        monkeypatch.setattr(caching, "best_seconds", lambda action: (action(), next(times))[1])
        monkeypatch.setattr(
            choice, "timed", lambda s, probing: parts if isinstance(probing.forward, Staged) else whole
        )

    return put


def test_most_bytes(tmp_path, monkeypatch):
    usage = namedtuple("usage", "free")
    for free, most in ((8 * GIB, GIB), (4 * GIB, GIB), (2 * GIB, GIB // 2), (0, 0)):
        monkeypatch.setattr(caching.shutil, "disk_usage", lambda folder, free=free: usage(free))
        assert most_bytes(tmp_path, "auto") == most
    assert most_bytes(tmp_path, "2GB") == 2 * 10**9
    assert most_bytes(tmp_path, "no") == 0
    monkeypatch.setattr(caching, "in_memory", lambda folder: True)
    assert most_bytes(tmp_path, "auto") == 0  # a disk that is memory saves none
    assert most_bytes(tmp_path, "1MB") == 10**6
    with pytest.raises(InputError):
        most_bytes(tmp_path, "some")


@pytest.mark.parametrize(("kind", "wanted"), [("tmpfs", True), ("ramfs", True), ("ext4", False)])
def test_a_folder_in_memory_is_told_by_its_mount(tmp_path, kind, wanted):
    device = os.stat(tmp_path).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "21 26 0:9999 / /sys rw - tmpfs tmpfs rw\n"
        f"25 26 {number} /x /run/user rw,nosuid shared:5 master:1 - {kind} none rw,size=1k\n"
    )
    assert in_memory(tmp_path, mounts) == wanted
    mounts.write_text("21 26 0:9999 / /sys rw - tmpfs tmpfs rw\n")
    assert not in_memory(tmp_path, mounts)
    assert not in_memory(tmp_path, tmp_path / "absent")


def test_what_is_worth_it_is_kept_and_holds_the_batch(place, tmp_path, timed):
    timed(0.9, 0.1)
    found = tried(situation(place, tmp_path))
    assert found.saving == pytest.approx(0.75 * 0.8)  # of four epochs, the first computes
    assert found.note == KEPT
    assert len(open_files(tmp_path)) == 1
    assert found.cache.entry_bytes == 2 * 16 * 4  # a value and the output that it is
    found.cache.close()


def test_a_bound_below_the_data_saves_less(place, tmp_path, timed):
    timed(0.9, 0.1)
    found = tried(situation(place, tmp_path, asked="1280", rows=20))  # of 128 bytes each
    assert found.saving == pytest.approx(0.5 * 0.75 * 0.8)
    assert found.note.endswith("(up to 1280 bytes)")
    found.cache.close()


@pytest.mark.parametrize(
    ("changes", "times", "note"),
    [
        ({"epochs": 1.4}, None, None),
        ({"epochs": 1.4, "asked": "1MB"}, None, "--prefix-cache has no effect here: 1.4 epochs meet few rows twice"),
        ({"asked": "no"}, None, None),
        ({}, (0.1, 0.1), None),
    ],
    ids=["short", "short-asked", "no", "slow disk"],
)  # fmt: skip
def test_what_is_not_worth_it_takes_no_disk(place, tmp_path, timed, changes, times, note):
    timed(*(times or ()) or (0.9, 0.1))
    found = tried(situation(place, tmp_path, **changes))
    assert (found.cache, found.saving, found.note) == (None, 0.0, note)
    assert open_files(tmp_path) == []


def test_a_bundle_whose_every_layer_is_trained_has_nothing_to_keep(place, tmp_path):
    assert tried(situation(place, tmp_path, "full")) == (None, 0.0, None)


def test_a_folder_that_takes_no_file_is_said(place, tmp_path, monkeypatch):
    def fail(folder, most):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(caching, "RowStore", fail)
    found = tried(situation(place, tmp_path))
    assert found.cache is None
    assert found.note == f"{NOT_KEPT}{tmp_path} can't hold it (Read-only file system)"


def test_a_disk_that_is_full_at_once_is_said(place, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.pwrite", fail)
    found = tried(situation(place, tmp_path))
    assert found.cache is None
    assert "(No space left on device)" in found.note
    assert open_files(tmp_path) == []


def test_rows_that_depend_on_each_other_are_said(place, tmp_path, monkeypatch):
    run = Engine.run

    def other(engine, inputs, outputs=None):
        got = run(engine, inputs, outputs)
        return {n: v + len(v) if "a" in got else v for n, v in got.items()}

    monkeypatch.setattr(Engine, "run", other)
    found = tried(situation(place, tmp_path))
    assert found.cache is None
    assert found.note == f"{NOT_KEPT}it depends on the rows beside it"
    assert open_files(tmp_path) == []


def test_bits_that_differ_from_computing_are_never_kept(place, tmp_path, monkeypatch, timed):
    timed(0.9, 0.1)
    joined = caching.PrefixCache.run

    def wrong(cache, compute, inputs):
        return {n: np.nextafter(v, np.float32(9)) for n, v in joined(cache, compute, inputs).items()}

    monkeypatch.setattr(caching.PrefixCache, "run", wrong)
    assert tried(situation(place, tmp_path)).cache is None


@pytest.mark.parametrize(
    ("whole", "parts", "used"),
    [(1.0, 1.1, True), (1.0, 1.8, False), (1.0, 0.9, True), (30.0, 20.0, False)],
    ids=["slower within a step", "slower still", "faster", "not worth its disk"],
)
def test_the_two_parts_are_timed_with_what_reading_saves(place, tmp_path, timed, whole, parts, used):
    timed(0.9, 0.1, whole, parts)  # saves 0.6 a step
    chosen = choose_way(situation(place, tmp_path))
    assert (chosen.cache is not None) == used
    assert len(open_files(tmp_path)) == used
    assert isinstance(chosen.forward, Staged) == (used or parts < whole)
    if used:
        assert chosen.note == f"{KEPT}: faster here, with the same results"
        assert chosen.forward.cache is chosen.cache
        chosen.cache.close()
    elif parts < whole:
        assert chosen.note.startswith("the layers before the first trained one run once a step: faster")
        assert chosen.forward.cache is None


def test_the_whole_graph_asked_for_keeps_nothing(place, tmp_path, timed):
    timed(0.9, 0.1, 1.0, 0.1)
    chosen = choose_way(replace(situation(place, tmp_path), options=TuneOptions(points_per_pass=1)))
    assert (type(chosen.forward), chosen.cache) == (Engine, None)


def test_operators_are_found_by_their_name_in_the_file(place, tmp_path):
    from onnx import TensorProto, helper, save

    assert unfit(place / "fc2" / "prefix.onnx") is None
    for name, why in (("NonZero", "makes shapes that follow from values"), ("Neg", None), ("NonZeros", None)):
        graph = helper.make_graph(
            [helper.make_node(name, ["x"], ["y"])],
            "NonZero",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])],
            [helper.make_tensor_value_info("y", TensorProto.INT64, [1, None])],
        )
        save(helper.make_model(graph), tmp_path / "g.onnx")
        assert unfit(tmp_path / "g.onnx") == (why and f"{name} {why}")


def test_an_int8_bundle_says_why_nothing_is_kept(tiny_bert, tmp_path):
    """Its activations are rounded by one scale for a whole pass."""
    train = {"train": ("lora",), "target_modules": ("*layer.1.*",)}
    to_bundle(tiny_bert, tmp_path / "int8", task="text-classification", quantize="int8", **train)
    lines = [f'{{"text": "it was {w}", "label": "{label}"}}' for w in ("great", "slow", "not", "good", "it")
             for label in ("no", "yes", "maybe", "no")]  # fmt: skip
    (tmp_path / "data.jsonl").write_text("\n".join(lines))
    said = []

    class Listen(Silent):
        def note(self, text):
            said.append(text)

    options = TuneOptions(steps=8, batch_size=6, eval_every=0, method_options={"queries": 2})
    tune(tmp_path / "int8", tmp_path / "data.jsonl", tmp_path / "run", options, progress=Listen())
    assert next(text for text in said if "kept" in text).endswith(
        f"{NOT_KEPT}DynamicQuantizeLinear rounds all rows of a pass by one scale"
    )
    assert open_files(tmp_path) == []
