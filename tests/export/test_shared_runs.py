"""Runs on files that read a matrix in several places: `eval` and the merged file in stock onnxruntime agree."""

import json

import numpy as np
import onnxruntime as ort
import pytest

from tests.builders.models import model, node, normal, save, value
from tests.zoedge.commands import run
from zoedge.runtime.records import Eval
from zoedge.runtime.run import journal

from .test_shared_matrices import WIDTH, shared

STEPS = (
    *(
        "--method",
        "mezo",
        "--steps",
        4,
        "--batch-size",
        8,
        "--lr",
        0.3,
        "--eps",
        0.05,
        "--lora-space",
        "factors",
    ),
)


def tuned(proto, folder, asked, arrays):
    """Export, tune, merge; return (metrics of eval, of eval before, outputs of the merged file, what merge said)."""
    save(proto, folder / "m.onnx")
    np.savez(folder / "rows.npz", **arrays)
    run("export", folder / "m.onnx", "-o", folder / "bundle", *asked)
    run(
        "tune",
        folder / "bundle",
        "--data",
        folder / "rows.npz",
        "-o",
        folder / "run",
        *STEPS,
        "--eval-every",
        0,
    )
    told, before = (
        json.loads(run("eval", folder / name, "--data", folder / "rows.npz", "--json").stdout)
        for name in ("run", "bundle")
    )
    said = run("merge", folder / "run", "-o", folder / "merged").stderr
    return told, before, stock(folder / "merged", {"h0": arrays["h0"]}), said


def stock(folder, given):
    session = ort.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    return session.run(["y"], given)[0].astype(np.float64)


@pytest.mark.parametrize("other", ["Gather", "Transpose", "ReduceSum", "MatMul"])
def test_eval_of_a_run_is_what_the_merged_file_gives(tmp_path, other):
    labels = np.arange(40) % 3
    arrays = {"h0": normal((40, WIDTH), 5, 1.0), "labels": labels}
    asked = ("--task", "classification", "--target-modules", "w")
    told, before, logits, said = tuned(shared(["MatMul", other], 4, WIDTH), tmp_path, asked, arrays)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    wanted = -log_p[np.arange(40), labels].mean()
    assert told["loss"] == pytest.approx(wanted, rel=1e-5)
    assert abs(told["loss"] - before["loss"]) > 1e-3
    kept = "model.onnx keeps branches as products: w beside a matrix that"
    assert said.startswith(kept) == (other != "MatMul")


def regression(*, shared_weight=False, shared_bias=False):
    """h0 [n, 4] -> a layer, tanh, and a last layer of one output whose matrix or bias an earlier one may have, too."""
    tensors = {
        "fc": normal((WIDTH, WIDTH), 1),
        "fb": normal(WIDTH, 2),
        "w": normal((WIDTH, 1), 3),
        "b": normal(1, 4),
    }
    nodes = [
        node("MatMul", "h0 fc", "a"),
        node("Add", f"a {'b' if shared_bias else 'fb'}", "c"),
        node("Tanh", "c", "d"),
    ]
    if shared_weight:
        nodes += [node("ReduceSum", "w", "s", keepdims=0), node("Mul", "d s", "e")]
    nodes.append(node("Gemm", f"{'e' if shared_weight else 'd'} w b", "y"))
    read = {name for each in nodes for name in each.input}
    kept = {name: array for name, array in tensors.items() if name in read}
    return model(nodes, [value("h0", ["n", WIDTH])], [value("y", ["n", 1])], kept)


REGRESSIONS = {
    "alone": ({}, ("--train", "full")),
    "a matrix that is read elsewhere": ({"shared_weight": True}, ("--train", "full")),
    "a bias that is read elsewhere": ({"shared_bias": True}, ("--train", "full")),
    "a branch beside it": (
        {},
        ("--train", "full", "--train", "lora", "--target-modules", "w", "--lora-rank", "1"),
    ),
}


@pytest.mark.parametrize("case", REGRESSIONS)
def test_a_scale_goes_only_into_a_head_that_nothing_else_reads(tmp_path, case):
    """What the run measured last, before the scale goes into the head, is what the merged file gives."""
    built, train = REGRESSIONS[case]
    x = normal((40, WIDTH), 5, 1.0)
    y = (2000 + 300 * x[:, :1] + 100 * normal((40, 1), 6)).astype(np.float32)
    (tmp_path / "rows").mkdir()
    for split in ("train", "valid"):
        np.savez(tmp_path / "rows" / f"{split}.npz", h0=x, labels=y)
    save(regression(**built), tmp_path / "m.onnx")
    run("export", tmp_path / "m.onnx", "-o", tmp_path / "bundle", "--task", "regression", *train)
    asked = ("tune", tmp_path / "bundle", "--data", tmp_path / "rows", "-o", tmp_path / "run", *STEPS)
    if built:
        assert "scale the targets to (target - " in run(*asked, "--eval-every", 4, code=2).stderr
        return
    run(*asked, "--eval-every", 4)
    last = [r for r in journal.read_journal(tmp_path / "run" / "journal.zoj").records if isinstance(r, Eval)][
        -1
    ]
    run("merge", tmp_path / "run", "-o", tmp_path / "merged", "--which", "last")
    outputs = stock(tmp_path / "merged", {"h0": x})
    assert last.metrics["mse"] == pytest.approx(np.square(outputs - y).mean(), rel=1e-4)
