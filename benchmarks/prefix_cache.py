"""A step when only late layers are tuned: the whole graph, its first part once a step, and that part from disk.

    python benchmarks/prefix_cache.py --work FOLDER [--model opt-92m] [--trained 2] [--shape 8x64]

A model with random weights is made and exported below FOLDER (once) with LoRA branches in its last layers alone.
The ways take the same steps by turns, so that what disturbs one disturbs the others, and ratios are taken within
a round. The cache holds all rows before the first timed step, as from the second epoch on.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike
from variants.models import MODELS, save_model
from variants.report import table
from variants.shapes import ROWS, Shape, make_data

from zoedge.bundle import Bundle
from zoedge.export import to_bundle
from zoedge.options import TuneOptions
from zoedge.runtime.device import Cpu
from zoedge.runtime.job import Job, make_job, read_rows
from zoedge.runtime.losses.objectives import objective
from zoedge.runtime.passes.engine import Engine
from zoedge.runtime.passes.prefix_cache import PrefixCache
from zoedge.runtime.passes.probing import OneByOne, Probing
from zoedge.runtime.passes.row_store import RowStore
from zoedge.runtime.passes.staged import Staged

WHOLE, ONCE, KEPT = "whole graph", "first part once a step", "first part from disk"


def prepared(work: Path, model: str, trained: int) -> Bundle:
    source, folder, config = work / model / "hf", work / model / f"last{trained}", MODELS[model]()
    if not folder.exists():
        save_model(config, source)
        last = [f"*layers.{config.num_hidden_layers - 1 - back}.*" for back in range(trained)]
        to_bundle(source, folder, task="text-generation", target_modules=last)
    return Bundle.open(folder)


def ways(job: Job, store: RowStore) -> dict[str, Probing]:
    buffers = job.fold.parameters.buffers
    once, kept = Staged(job.bundle, buffers, device=Cpu()), Staged(job.bundle, buffers, device=Cpu())
    kept.cache = PrefixCache(store)
    whole = OneByOne(Engine(job.bundle.path("loss.onnx"), buffers, device=Cpu()))
    return {WHOLE: whole, ONCE: OneByOne(once), KEPT: OneByOne(kept)}


def step(job: Job, probing: Probing, number: int) -> tuple[float, ...]:
    """Take a step of learning rate 0 on the rows of step ``number``; return its losses."""
    batch, goal = job.measure.batch(number), objective("loss", job.bundle.manifest)

    def losses(points: Iterator[int]) -> Iterator[float]:
        moved = (job.fold.parameters.settle() for _ in points)
        yield from map(goal, probing.results(batch, moved, goal.outputs))

    record = job.fold.measure(0.0, losses)
    job.fold.apply(record)
    job.fold.rest()
    return record.answers


def measured(job: Job, store: RowStore, rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each way's steps; the losses of the first must be the same to the bit."""
    calls = {name: partial(step, job, probing) for name, probing in ways(job, store).items()}
    for number in range(ROWS // job.plan.options.batch_size):
        calls[KEPT](number)
    start, seconds = job.fold.step, {name: list[float]() for name in calls}
    for number in range(rounds + 1):  # the first one warms up
        losses: set[tuple[float, ...]] = set()
        for name, call in calls.items():
            job.fold.step = start  # the same directions for all
            began = time.perf_counter()
            losses.add(call(number))
            seconds[name].append(time.perf_counter() - began)
        if len(losses) > 1:
            raise SystemExit(f"losses differ: {losses}")
    return {name: taken[1:] for name, taken in seconds.items()}


def spread(values: ArrayLike) -> str:
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    return f"{middle:.3g} ({low:.3g} to {high:.3g})"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--model", default="opt-92m", choices=MODELS)
    parser.add_argument("--trained", type=int, default=2, help="layers with branches, from the last")
    parser.add_argument("--shape", default="8x64", help="rows x tokens")
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()
    bundle = prepared(given.work, given.model, given.trained)
    shape = Shape.parse(given.shape, "last8")
    make_data(shape, given.work)
    rows = []
    for method in ("mezo", "fzoo"):
        options = TuneOptions(method=method, batch_size=shape.batch, val_size=0.0, points_per_pass=1)
        job = make_job(bundle, Cpu(), *read_rows(bundle, Cpu(), str(given.work / "rows.jsonl"), options))
        job.fold.apply(job.initial())
        store = RowStore(given.work, 1 << 30)
        seconds = measured(job, store, given.rounds)
        print(f"{method}: {store.used_bytes / len(store) / 1024:.0f} KiB a row", flush=True)
        for name, taken in seconds.items():
            ratios = [np.divide(taken, seconds[other]) for other in (WHOLE, ONCE)]
            rows.append((method, name, *map(spread, (taken, *ratios))))
    print(table(("method", "way", "seconds a step", "over the whole graph", "over once a step"), rows))


if __name__ == "__main__":
    main()
