"""Folds over plain arrays: methods and spaces without onnxruntime."""

import numpy as np

from tests.builders.devices import Reference
from zoedge.adapters import LoraBranch
from zoedge.manifest import ADAPTERS_FILE, Manifest, Parameter, Source
from zoedge.methods import find_recipe
from zoedge.runtime.run.fold import Fold
from zoedge.runtime.spaces.parameters import Parameters

REFERENCE = Reference()


def manifest(parameters, branches=()):
    return Manifest(
        format=1, zoedge="test", task="regression", loss="mse", source=Source(kind="onnx", name="test"),
        inputs=(), targets=(), outputs=(), model_inputs=(), model_outputs=(),
        parameters=tuple(parameters), branches=tuple(branches),
    )  # fmt: skip


def dense(shapes, *, no_decay=()):
    return manifest(
        Parameter(name=n, dtype="float32", shape=s, trainable=True, decay=n not in no_decay)
        for n, s in shapes.items()
    )


def branch(out, inner, rank, alpha):
    rows = [
        Parameter(name="m.weight", dtype="float32", shape=(out, inner)),
        Parameter(
            name="m.lora_A.weight", dtype="float32", shape=(rank, inner), file=ADAPTERS_FILE, trainable=True
        ),
        Parameter(
            name="m.lora_B.weight", dtype="float32", shape=(out, rank), file=ADAPTERS_FILE, trainable=True
        ),
    ]
    lora = LoraBranch(
        module="m",
        weight="m.weight",
        transposed=False,
        shape=(out, inner),
        a="m.lora_A.weight",
        b="m.lora_B.weight",
        rank=rank,
        alpha=alpha,
    ).branch
    return manifest(rows, [lora])


def buffers(manifest, seed=0):
    rng = np.random.default_rng(seed)
    return {p.name: rng.standard_normal(p.shape).astype(np.float32) for p in manifest.trainable}


def fold(
    manifest,
    arrays,
    *,
    method="mezo",
    placement="in-place",
    seed=0,
    eps=1e-3,
    fixed=(),
    device=REFERENCE,
    **options,
):
    recipe = find_recipe(method)
    few = {"query_growth": 1.0, "epoch_steps": 5, "active_layers": 1.0, "project": "all"}
    settings = {"rank": 4, "refresh": 10, "sparsity": 0.0} | few | options
    known = recipe.options.__struct_fields__
    built = recipe.build(recipe.options(**{n: v for n, v in settings.items() if n in known}))
    parameters = Parameters(
        manifest,
        arrays,
        seed=seed,
        method=built,
        placement=placement,
        device=device,
        fixed=fixed,
    )
    return Fold(built, parameters, eps=eps)


def run(fold, loss, steps, lr):
    """Take steps on a function of the buffers; return the records."""
    records = []

    def losses_at(points):
        for _ in points:
            fold.parameters.settle()
            yield loss(fold.parameters.buffers)

    for _ in range(steps):
        record = fold.measure(lr, losses_at)
        fold.apply(record)
        records.append(record)
    fold.rest()
    return records


def parabola(arrays):
    """sum((w - 1)^2) over all tensors, in float64."""
    return sum(float(((a.astype(np.float64) - 1.0) ** 2).sum()) for a in arrays.values())


def bits(arrays):
    return {name: array.tobytes() for name, array in arrays.items()}
