"""Tensor-train adapters on the device, and from a model to a deployed one through the command line."""

import json

import numpy as np
import onnxruntime
import pytest
from safetensors import safe_open

from tests.builders import tiny
from tests.zoedge.commands import error, run
from zoedge.adapters.tensor_train import TensorTrainBranch
from zoedge.bundle import Bundle
from zoedge.manifest import Branch
from zoedge.runtime.adapters.base import adapter_of
from zoedge.runtime.adapters.tensor_train import multiplied
from zoedge.runtime.measuring.target_scale import foldable_head
from zoedge.runtime.run.run_folder import Run
from zoedge.tensor_file import map_tensors


def branch(out, width, *, relu=False, rank=3, bottleneck=4):
    settings = {"rank": rank, "bottleneck": bottleneck, "relu": float(relu)}
    bare = Branch(
        kind="tensor-train", module="m", weight="m.weight", transposed=False, shape=(out, width), tensors={},
        settings=settings,
    )  # fmt: skip
    bare.tensors.update({part: f"m.{part}" for part in TensorTrainBranch.of(bare).shapes})
    return bare


def values(made, seed=0):
    rng = np.random.default_rng(seed)
    shapes = TensorTrainBranch.of(made).shapes
    return {name: rng.standard_normal(shapes[part], np.float32) for part, name in made.tensors.items()}


def test_a_map_is_the_product_of_its_cores_slices():
    made = branch(24, 36)
    train, tensors = TensorTrainBranch.of(made), values(made)
    for side, cores in train.maps.items():
        product = multiplied(train, side, tensors)
        stored = [
            tensors[name].reshape(left, size, right).astype(np.float64)
            for name, size, left, right in zip(
                train.cores(side), cores.sizes, cores.ranks[:-1], cores.ranks[1:], strict=True
            )
        ]
        for row, column in ((0, 0), (cores.rows - 1, cores.columns - 1), (1, 2)):
            place = np.unravel_index(row * cores.columns + column, cores.sizes)
            element = np.eye(1)
            for core, index in zip(stored, place, strict=True):
                element = element @ core[:, index]
            assert product[row, column] == pytest.approx(element[0, 0], rel=1e-12)


@pytest.mark.parametrize(
    ("made", "possible"),
    [
        (branch(7, 20), True),
        (branch(16, 20), True),
        (branch(32, 20), False),  # what the matrix makes is dealt to two cores
        (branch(7, 20, relu=True), False),  # reads what it would change
    ],
)
def test_a_scale_goes_into_the_last_core_where_that_has_all_outputs(made, possible):
    adapter = adapter_of(made)
    assert adapter.scalable(made) is possible
    if possible:
        tensors, factor = values(made), np.arange(1.0, made.shape[0] + 1)
        every, zeros = slice(None), np.zeros(made.shape)
        scaled = tensors | adapter.times(made, tensors, factor)
        np.testing.assert_allclose(
            adapter.added(made, scaled, zeros, every, every),
            factor[:, None] * adapter.added(made, tensors, zeros, every, every),
            rtol=1e-5, atol=1e-6,
        )  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tensor_train")
    tiny.tiny_bert(folder / "bert", labels=("no", "yes"))
    words = ["great film", "terrible film", "good plot", "bad plot", "loved it", "hated it"]
    lines = [
        json.dumps({"text": f"{w} {k}", "label": ("yes", "no")[i % 2]})
        for k in "abcdef"
        for i, w in enumerate(words)
    ]
    (folder / "data.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def logits(session, given):
    wanted = {i.name: given[i.name] for i in session.get_inputs()}
    return session.run(["logits"], wanted)[0]


def inputs(bundle):
    rng = np.random.default_rng(2)
    ids = rng.integers(5, 30, (3, 7)).astype(np.int64)
    given = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    return {port.name: given[port.name] for port in bundle.manifest.model_inputs}


# beside integers nothing is merged, whatever the activation
@pytest.mark.parametrize(("activation", "quantize"), [("relu", "none"), ("none", "none"), ("relu", "int8")])
def test_from_a_model_to_a_deployed_one(place, tmp_path, activation, quantize):
    asked = (
        "--train",
        "tensor-train,head",
        "--tt-rank",
        3,
        "--tt-bottleneck",
        8,
        "--tt-activation",
        activation,
    )
    run("export", place / "bert", "-o", tmp_path / "bundle", *asked, "--quantize", quantize)
    bundle = Bundle.open(tmp_path / "bundle")
    told = run("inspect", tmp_path / "bundle").output
    assert f"tensor-train  4 branches, rank 3 bottleneck 8 relu {int(activation == 'relu')}" in told
    settings = ("--method", "adazeta", "--steps", 24, "--batch-size", 12, "--lr", 0.02, "--eps", 0.01)
    data = ("--data", place / "data.jsonl")
    told = run("tune", tmp_path / "bundle", *data, "-o", tmp_path / "run", *settings, "--threads", 1).output
    assert "method     adazeta, lr 0.02 constant, eps 0.01, 2 to 30 points a step" in told
    tuned = Run.open(tmp_path / "run").weights("last")
    run("replay", tmp_path / "run", "-o", tmp_path / "replayed")
    again = map_tensors(next((tmp_path / "replayed").rglob("*.safetensors")))
    assert all(np.array_equal(again[name], value) for name, value in tuned.items())
    assert "loss" in run("eval", tmp_path / "run", *data).output
    run("merge", tmp_path / "run", "-o", tmp_path / "merged", "--which", "last")
    apart = activation == "relu" or quantize == "int8"
    assert (tmp_path / "merged" / "adapters.safetensors").exists() is apart
    assert (tmp_path / "merged" / "model.safetensors").exists() is (activation == "none")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    stock = onnxruntime.InferenceSession(
        tmp_path / "merged" / "model.onnx", options, providers=["CPUExecutionProvider"]
    )
    with_adapters = onnxruntime.InferenceSession(
        bundle.path("model_adapters.onnx"), options, providers=["CPUExecutionProvider"]
    )
    given = inputs(bundle)
    wanted = with_adapters.run(["logits"], given | tuned)[0]
    np.testing.assert_allclose(logits(stock, given), wanted, rtol=1e-3, atol=2e-4)
    plain = onnxruntime.InferenceSession(
        bundle.path("model.onnx"), options, providers=["CPUExecutionProvider"]
    )
    assert np.abs(logits(plain, given) - wanted).max() > 1e-3


def test_its_file_holds_cores_and_what_they_are(place, tmp_path):
    run("export", place / "bert", "-o", tmp_path / "bundle", "--train", "tensor-train", "--tt-bottleneck", 8)
    settings = ("--method", "mezo", "--steps", 3, "--batch-size", 12)
    run("tune", tmp_path / "bundle", "--data", place / "data.jsonl", "-o", tmp_path / "run", *settings)
    run("adapter", tmp_path / "run", "-o", tmp_path / "tuned.safetensors", "--which", "last")
    tuned = Run.open(tmp_path / "run").weights("last")
    with safe_open(tmp_path / "tuned.safetensors", "numpy") as file:
        assert set(file.keys()) == set(tuned)
        assert all(np.array_equal(file.get_tensor(name), value) for name, value in tuned.items())
        branches = json.loads(file.metadata()["branches"])
    assert branches[0]["kind"] == "tensor-train"
    assert branches[0]["settings"] == {"rank": 5.0, "bottleneck": 8.0, "relu": 1.0}
    run("adapter", tmp_path / "run", "-o", tmp_path / "tuned.onnx_adapter")
    assert error("adapter", tmp_path / "run", "-o", tmp_path / "peft") == (
        "Error: PEFT has no adapter of the kind tensor-train: write NAME.onnx_adapter or NAME.safetensors instead, or "
        "use zoedge merge\n"
    )


def test_a_scale_of_targets_goes_past_a_head_with_an_activation_beside_it(place, tmp_path):
    found = []
    for activation in ("relu", "none"):
        source = place / f"regression-{activation}"
        tiny.tiny_bert(source, labels=("value",))
        asked = (
            "--train",
            "tensor-train,head",
            "--target-modules",
            "classifier",
            "--tt-activation",
            activation,
        )
        run("export", source, "-o", tmp_path / activation, "--task", "regression", *asked)
        found.append(foldable_head(Bundle.open(tmp_path / activation).manifest))
    assert found[0] is None
    assert found[1] is not None
