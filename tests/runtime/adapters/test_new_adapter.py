"""A kind of adapter of one file, dW = p q^T: registered, it is exported, tuned, merged and written; and every kind is.

This file is both of its modules: what it tells the export (``SURGERY``) and the device (``ADAPTER``).
"""

import json
from typing import Annotated

import numpy as np
import onnxruntime
import pytest

from tests.builders.networks import mlp, rows
from tests.zoedge.commands import error
from tests.zoedge.commands import run as command
from zoedge.adapters import ADAPTERS, AdapterModules, AdapterOptions
from zoedge.export import to_bundle
from zoedge.export.adapters.base import LayerSurgery, surgery_of
from zoedge.manifest import Branch
from zoedge.options import make
from zoedge.runtime.adapters.base import Adapter, adapter_of
from zoedge.runtime.adapters.merging import merged
from zoedge.runtime.evaluate import evaluate, predict
from zoedge.runtime.outputs.verbs import merge
from zoedge.runtime.outputs.verbs import write_adapter as write
from zoedge.runtime.replay import replay
from zoedge.runtime.run import journal
from zoedge.runtime.tune import tune
from zoedge.settings import Setting

INPUTS = np.random.default_rng(3).standard_normal((5, 6)).astype(np.float32)


class OuterOptions(AdapterOptions, frozen=True):
    outer_times: Annotated[float, Setting("what outer products are multiplied by", above=0)] = 1.0


class OuterSurgery:
    counted = "p"
    follows_activations = False
    sites = ()

    def describe(self, graph, first, own):
        p, q = (graph.fresh(f"{first.module}.outer_{side}") for side in "pq")
        return Branch(
            kind="outer",
            module=first.module,
            weight=first.weight,
            transposed=first.transposed,
            shape=(first.width_out, first.width_in),
            tensors={"q": q, "p": p},
            settings={"times": own.outer_times},
        )

    def unaddable(self, branch):
        return ""

    def shapes(self, branch):
        return {"q": (branch.shape[1],), "p": (branch.shape[0],)}

    def initial(self, branch):
        q = np.random.default_rng(0).standard_normal(branch.shape[1], dtype=np.float32)
        return {branch.tensors["q"]: q, branch.tensors["p"]: np.zeros(branch.shape[0], np.float32)}

    def beside(self, graph, x, y, branch):
        column = graph.add("Unsqueeze", branch.tensors["q"], graph.hold(np.array([1], np.int64)))
        return self._times(
            graph, graph.add("Mul", graph.add("MatMul", x, column), branch.tensors["p"]), branch
        )

    def _times(self, graph, value, branch):
        return graph.add("Mul", value, graph.hold(np.float32(branch.settings["times"])))

    def beside_stacked(self, graph, x, y, branch):
        column = graph.add("Unsqueeze", branch.tensors["q"], graph.hold(np.array([2], np.int64)))
        row = graph.add("Unsqueeze", branch.tensors["p"], graph.hold(np.array([1], np.int64)))
        return self._times(graph, graph.add("Mul", graph.add("MatMul", x, column), row), branch)


class Outer(Adapter):
    def added(self, branch, factors, base, rows, columns):
        p, q = (factors[branch.tensors[part]].astype(np.float64) for part in "pq")
        return base + branch.settings["times"] * np.outer(p[rows], q[columns])

    def times(self, branch, factors, factor):
        p = branch.tensors["p"]
        return {p: (factors[p] * factor).astype(np.float32)}


SURGERY, ADAPTER = OuterSurgery(), Outer()
KINDS = [*(kind for kind in ADAPTERS if isinstance(surgery_of(kind), LayerSurgery)), "outer"]


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    modules = AdapterModules("outer products", __name__, __name__, OuterOptions)
    monkeypatch.setitem(ADAPTERS, "outer", modules)


@pytest.fixture
def place(tmp_path):
    mlp(tmp_path / "mlp.onnx")
    rows(tmp_path / "data.jsonl", 120)
    return tmp_path


@pytest.mark.parametrize("kind", KINDS)
def test_it_tunes_resumes_replays_and_leaves_as_a_stock_model(place, kind):
    bundle = to_bundle(place / "mlp.onnx", place / "bundle", task="classification", train=(kind,))
    assert {branch.kind for branch in bundle.manifest.branches} == {kind}
    data = place / "data.jsonl"
    common = {"method": "mezo", "batch_size": 16, "lora_space": "factors", "lr": 0.02, "eval_every": 0}
    common |= {"points_per_pass": 1, "threads": 1, "lr_schedule": "constant"}
    tune(bundle, data, place / "whole", make(common | {"steps": 60}))
    tune(bundle, data, place / "parts", make(common | {"steps": 20}))
    tune(bundle, data, place / "parts", make({"steps": 60}), resume=True)
    files = [place / run / "last" / "tensors.safetensors" for run in ("whole", "parts")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert replay(place / "whole", place / "replayed").path.read_bytes() == files[0].read_bytes()
    assert evaluate(place / "whole", data)["loss"] < evaluate(bundle, data)["loss"]
    merge(place / "whole", place / "merged")
    session = onnxruntime.InferenceSession(
        place / "merged" / "model.onnx", providers=["CPUExecutionProvider"]
    )
    (logits,) = session.run(["logits"], {"x": INPUTS})
    told = predict(place / "whole", data=[{"x": list(map(float, x))} for x in INPUTS])
    assert [row["label"] for row in told] == logits.argmax(1).tolist()


def test_what_cannot_be_added_stays_beside_its_matrix(place, monkeypatch):
    monkeypatch.setattr(SURGERY, "unaddable", lambda branch: "an outer product can't be added to")
    told = []
    bundle = to_bundle(
        place / "mlp.onnx", place / "bundle", task="classification", train=("outer",), say=told.append
    )
    assert not any(name.startswith("activations") for name in bundle.manifest.files)
    said = "fc1 beside a matrix that an outer product can't be added to"
    assert told == [f"a merged model.onnx keeps branches apart: {said}"]
    run = tune(bundle, place / "data.jsonl", place / "run", make({"method": "mezo", "steps": 20, "lr": 0.02}))
    merge(run, place / "merged")
    session = onnxruntime.InferenceSession(
        place / "merged" / "model.onnx", providers=["CPUExecutionProvider"]
    )
    (logits,) = session.run(["logits"], {"x": INPUTS})
    told = predict(run, data=[{"x": list(map(float, x))} for x in INPUTS], which="last")
    assert [row["label"] for row in told] == logits.argmax(1).tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_several_points_share_a_pass(place, kind):
    bundle = to_bundle(place / "mlp.onnx", place / "bundle", task="classification", train=(kind,))
    assert bundle.manifest.stages is not None
    found = []
    for count in (1, 4):
        settings = {"method": "fzoo", "queries": 3, "steps": 5, "batch_size": 8, "lora_space": "factors"}
        run = tune(
            bundle, place / "data.jsonl", place / str(count), make(settings | {"points_per_pass": count})
        )
        found.append([r.answers for r in journal.read_journal(run.journal).records if hasattr(r, "answers")])
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_an_onnx_adapter_gives_the_runs_numbers(place, kind):
    bundle = to_bundle(place / "mlp.onnx", place / "bundle", task="classification", train=(kind,))
    settings = {"method": "mezo", "steps": 20, "batch_size": 16, "lora_space": "factors", "lr": 0.02}
    run = tune(bundle, place / "data.jsonl", place / "run", make(settings))
    write(run, place / "tuned.onnx_adapter")
    loaded = onnxruntime.LoraAdapter()
    loaded.Load(str(place / "tuned.onnx_adapter"))
    chosen = onnxruntime.RunOptions()
    chosen.add_active_adapter(loaded)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        bundle.path("model_adapters.onnx"), options, providers=["CPUExecutionProvider"]
    )
    (logits,) = session.run(["logits"], {"x": INPUTS}, chosen)
    told = predict(run, data=[{"x": list(map(float, x))} for x in INPUTS], which="last")
    assert [row["label"] for row in told] == logits.argmax(1).tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_merging_adds_what_the_graph_does_block_by_block(place, kind):
    """The nodes beside a layer of zeros are the matrix that merging adds."""
    linear = {"tt_activation": "none"} if kind == "tensor-train" else {}
    bundle = to_bundle(place / "mlp.onnx", place / "bundle", task="classification", train=(kind,), **linear)
    rng = np.random.default_rng(0)
    for branch in bundle.manifest.branches:
        surgery, adapter = surgery_of(kind), adapter_of(branch)
        shapes = surgery.shapes(branch)
        assert shapes.keys() == branch.tensors.keys()
        first = surgery.initial(branch)
        assert {n: v.shape for n, v in first.items()} == {branch.tensors[k]: s for k, s in shapes.items()}
        zeros = np.zeros(branch.shape)
        np.testing.assert_array_equal(merged(branch, first, zeros), zeros)  # it begins as nothing
        tuned = {n: rng.standard_normal(v.shape, dtype=np.float32) for n, v in first.items()}
        whole = merged(branch, tuned, zeros)
        for rows_, columns in ((slice(0, 2), slice(None)), (slice(1, 3), slice(2, 5))):
            block = adapter.added(branch, tuned, np.zeros(whole[rows_, columns].shape), rows_, columns)
            np.testing.assert_allclose(block, whole[rows_, columns], rtol=1e-12)
        factor = rng.standard_normal(branch.shape[0])
        scaled = tuned | adapter.times(branch, tuned, factor)
        np.testing.assert_allclose(
            merged(branch, scaled, zeros), factor[:, None] * whole, rtol=1e-5, atol=1e-6
        )


def test_what_peft_lacks_and_what_the_commands_say(place):
    asked = ("--task", "classification", "--train", "outer", "--outer-times", 3)
    command("export", place / "mlp.onnx", "-o", place / "bundle", *asked)
    lines = [line.split() for line in command("inspect", place / "bundle").output.splitlines()]
    assert ["outer", "products", "1", "branches,", "times", "3"] in lines
    tune(place / "bundle", place / "data.jsonl", place / "run", make({"method": "mezo", "steps": 2}))
    assert error("adapter", place / "run", "-o", place / "peft") == (
        "Error: PEFT can't load mlp.onnx, an ONNX file: write NAME.onnx_adapter or use zoedge merge instead\n"
    )
    assert not (place / "peft").exists()
    two = ("--train", "outer", "--train", "lora")
    assert error("export", place / "mlp.onnx", "-o", place / "two", "--task", "classification", *two) == (
        "Error: --train names outer and lora, and a matrix gets one adapter: leave one out\n"
    )
    manifest = json.loads((place / "bundle" / "bundle.json").read_text())
    assert manifest["branches"][0]["kind"] == "outer"


def test_a_kinds_settings_are_flags_and_keywords_checked_as_any_others(place):
    told = command("export", "--help").output
    assert "--outer-times FLOAT" in told
    assert "outer: what outer products are multiplied by" in " ".join(told.split())
    asked = ("export", place / "mlp.onnx", "-o", place / "bundle", "--task", "classification")
    assert error(*asked, "--train", "outer", "--outer-times", -1) == (
        "Error: --outer-times is -1.0 and must be above 0\n"
    )
    assert not (place / "bundle").exists()
    told = command(*asked, "--outer-times", 2).stderr.splitlines()
    assert told[0] == "--outer-times has no effect here: outer has it, which --train doesn't name"
