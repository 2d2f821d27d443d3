"""Learning rates of the methods on a small task, within minutes: scikit-learn's digits, at equal forward passes.

    python benchmarks/digits.py --work FOLDER --settings mezo:full:1e-4,mezo:full:3e-4,lezo:lora:1e-3:active_layers=0.5

A network of four residual layers (22,000 parameters) learns digits that are moved by a pixel, in torch; then it is
tuned on 400 that are where they were and scored on 1,000 others. A setting is METHOD:TRAIN:LR and the method's own
settings; every run gets the same number of forward passes of 16 rows. What is printed is the loss and the accuracy on
the others, over seeds.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits

import zoedge
from zoedge.export import to_bundle
from zoedge.methods import find_recipe
from zoedge.options import make, own

LAYERS, WIDTH, TUNED, SCORED = 4, 48, 400, 1000
Tensors = dict[str, np.ndarray]


def forward(tensors: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """Return the logits of the network."""
    h = x @ tensors["embed.weight"].T
    for i in range(LAYERS):
        names = (f"layers.{i}.query.weight", f"layers.{i}.value.weight", f"layers.{i}.value.bias")
        query, value, bias = (tensors[name] for name in names)
        h = h + torch.relu(h @ query.T) @ value.T + bias
    return h @ tensors["head.weight"].T


def learnt(images: np.ndarray, labels: np.ndarray) -> Tensors:
    """Return tensors that were trained by backpropagation."""
    rng = torch.Generator().manual_seed(0)
    shapes = {"embed.weight": (WIDTH, 64)}
    for i in range(LAYERS):
        shapes |= {f"layers.{i}.{name}.weight": (WIDTH, WIDTH) for name in ("query", "value")}
        shapes[f"layers.{i}.value.bias"] = (WIDTH,)
    shapes["head.weight"] = (10, WIDTH)
    tensors = {
        name: (torch.randn(shape, generator=rng) * (0.0 if len(shape) == 1 else 0.5 / shape[-1] ** 0.5))
        .detach()
        .requires_grad_()
        for name, shape in shapes.items()
    }
    optimizer = torch.optim.Adam(tensors.values(), 3e-3)
    x, y = torch.tensor(images), torch.tensor(labels)
    for _ in range(40):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(forward(tensors, x), y, label_smoothing=0.3).backward()
        optimizer.step()
    return {name: value.detach().numpy() for name, value in tensors.items()}


def save(path: Path, tensors: Tensors) -> None:
    """Write the network as an ONNX file."""
    nodes = [helper.make_node("Gemm", ["x", "embed.weight"], ["h0"], transB=1)]
    for i in range(LAYERS):
        value = [f"layers.{i}.value.weight", f"layers.{i}.value.bias"]
        nodes += [
            helper.make_node("Gemm", [f"h{i}", f"layers.{i}.query.weight"], [f"q{i}"], transB=1),
            helper.make_node("Relu", [f"q{i}"], [f"a{i}"]),
            helper.make_node("Gemm", [f"a{i}", *value], [f"v{i}"], transB=1),
            helper.make_node("Add", [f"h{i}", f"v{i}"], [f"h{i + 1}"]),
        ]
    nodes.append(helper.make_node("Gemm", [f"h{LAYERS}", "head.weight"], ["logits"], transB=1))
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 64])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])],
        [numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)


def prepared(work: Path) -> None:
    """Make the bundles and the rows, once."""
    if (work / "lora").exists():
        return
    images, labels = load_digits(return_X_y=True)
    images = (images / 16.0).astype(np.float32)
    order = np.random.default_rng(0).permutation(len(images))
    moved = np.roll(images.reshape(-1, 8, 8), 1, axis=2).reshape(-1, 64)
    first, other = order[: TUNED + SCORED], order[TUNED + SCORED :]
    work.mkdir(parents=True, exist_ok=True)
    save(work / "digits.onnx", learnt(moved[other], labels[other]))
    np.savez(work / "tune.npz", x=images[first[:TUNED]], label=labels[first[:TUNED]])
    np.savez(work / "score.npz", x=images[first[TUNED:]], label=labels[first[TUNED:]])
    for train in ("full", "lora"):
        to_bundle(work / "digits.onnx", work / train, task="classification", train=(train,), lora_rank=8)


def scored(work: Path, text: str, passes: int, seed: int) -> tuple[float, float]:
    """Return loss and accuracy after a run."""
    method, train, lr, *given = text.split(":")
    values = dict(pair.split("=") for pair in given)
    options = {
        "method": method,
        "lr": float(lr),
        "seed": seed,
        "batch_size": 16,
        "eval_every": 0,
        "threads": 1,
    }
    settings = make(
        options
        | {n: float(v) if v.replace(".", "").replace("e-", "").isdigit() else v for n, v in values.items()}
    )
    points = find_recipe(method).build(own(settings)).most_points
    settings = make(options | zoedge_values(settings) | {"steps": passes // points})
    with tempfile.TemporaryDirectory() as scratch:
        try:
            run = zoedge.tune(work / train, work / "tune.npz", Path(scratch) / "run", settings)
        except zoedge.ZoedgeError:  # it diverged
            return float("nan"), 0.0
        found = zoedge.evaluate(run.folder, work / "score.npz")
    return found["loss"], found["accuracy"]


def zoedge_values(settings: zoedge.TuneOptions) -> dict[str, object]:
    """Return what was given beside what all runs have."""
    given = {"lora_space": settings.lora_space, "eps": settings.eps}
    return {**{n: v for n, v in given.items() if v is not None}, **settings.method_options}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--settings", required=True)
    parser.add_argument("--passes", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=2)
    arguments = parser.parse_args()
    prepared(arguments.work)
    for train in ("full", "lora"):
        found = zoedge.evaluate(arguments.work / train, arguments.work / "score.npz")
        print(f"{train}: loss {found['loss']:.3f}, accuracy {found['accuracy']:.3f} before", flush=True)
    for text in arguments.settings.split(","):
        runs = [scored(arguments.work, text, arguments.passes, seed) for seed in range(arguments.seeds)]
        loss, accuracy = np.mean(runs, axis=0)
        spread = np.ptp([run[0] for run in runs])
        print(f"{text}: loss {loss:.3f} (within {spread:.3f}), accuracy {accuracy:.3f}", flush=True)


if __name__ == "__main__":
    main()
