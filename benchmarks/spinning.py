"""What onnxruntime's waiting threads cost the noise kernel: a forward pass, then moves of all parameters, by turns.

    python benchmarks/spinning.py --bundle FOLDER [--rows 1] [--tokens 16]

A session's threads spin for a while after a run, ready for the next one, on the cores that the noise wants. Three
settings are compared: as onnxruntime comes, stopping after each run (what zoedge sets), and never spinning.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from zoedge.bundle import Bundle
from zoedge.options import TuneOptions
from zoedge.runtime.data.made_up import made_up_rows
from zoedge.runtime.device import Cpu, cpu
from zoedge.runtime.job import build_fold
from zoedge.runtime.measuring.measure import eval_batches
from zoedge.runtime.passes.bounds import Bounds
from zoedge.runtime.passes.engine import Engine
from zoedge.runtime.plan import make_plan

STOP = "session.force_spinning_stop"
SETTINGS = {
    "spinning after a run": {STOP: "0"},
    "stopped after a run": {STOP: "1"},
    "never spinning": {STOP: "0", "session.intra_op.allow_spinning": "0"},
}


def options_with(entries: dict[str, str]) -> type[Any]:
    """Return onnxruntime's session options with some entries, whatever is set later."""

    class Options(cpu.ort.SessionOptions):  # type: ignore[misc]
        def add_session_config_entry(self, key: str, value: str) -> None:
            for name, wanted in {key: value, **entries}.items():
                super().add_session_config_entry(name, entries.get(name, wanted))

    return Options


def seconds(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=25)
    arguments = parser.parse_args()
    bundle = Bundle.open(arguments.bundle)
    data = made_up_rows(bundle.manifest, arguments.rows, arguments.tokens, bundle.folder)
    (batch,) = eval_batches(bundle.manifest, data.examples, np.arange(arguments.rows), Bounds(arguments.rows))
    plan = make_plan(
        TuneOptions(method="mezo", steps=1, batch_size=arguments.rows),
        bundle.manifest,
        arguments.rows,
        has_validation=True,
    )
    fold = build_fold(bundle, Cpu(), plan)
    buffers = fold.parameters.buffers
    engines = {}
    for name, entries in SETTINGS.items():
        with mock.patch.object(cpu.ort, "SessionOptions", options_with(entries)):
            engines[name] = Engine(bundle.path("loss.onnx"), buffers, device=Cpu())
    point = fold.method.ask(fold.state, fold.eps)[0]

    def move() -> None:
        fold.parameters.visit(0, point)
        fold.parameters.settle()
        fold.parameters.visit(0, ())
        fold.parameters.settle()

    passes: dict[str, list[float]] = {name: [] for name in engines}
    moves: dict[str, list[float]] = {name: [] for name in engines}
    move()  # compiles, and writes every page once
    for turn in range(arguments.rounds):
        for name in engines if turn % 2 == 0 else reversed(engines):
            time.sleep(0.05)  # lets the threads of the one before come to rest
            passes[name].append(
                seconds(lambda run=engines[name]: run.run({**batch.inputs, **batch.targets}))  # type: ignore[misc]
            )
            moves[name].append(seconds(move))
    print("| | a pass, ms | moving there and back, ms |\n|---|---|---|")
    for name in engines:
        cells = [
            "{1:.1f} [{0:.1f}, {2:.1f}]".format(*np.percentile(np.array(v) * 1e3, [25, 50, 75]))
            for v in (passes[name], moves[name])
        ]
        print(f"| {name} | {cells[0]} | {cells[1]} |")


if __name__ == "__main__":
    main()
