"""Which operators a forward pass spends its time on, by onnxruntime's own profiler."""

from __future__ import annotations

import gc
import json
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import onnxruntime

from variants import ours, report, stock
from variants.shapes import Shape, make_data

RUNS = 5
SHOWN = 16  # operators


def profile(model: Path, shape: Shape, variants: Sequence[str]) -> str:
    """Return a table: per operator, how many nodes and how many milliseconds, for each variant."""
    data = model / f"data-{shape.batch}x{shape.tokens}-{shape.labelled}"
    data.mkdir(exist_ok=True)
    make_data(shape, data)
    found = {variant: _operators(variant, model, data) for variant in variants}
    total = {
        op: sum(ops[op][1] for ops in found.values() if op in ops) for ops in found.values() for op in ops
    }
    kinds = sorted(total, key=total.__getitem__, reverse=True)
    rows = [[op, *(_cell(found[v].get(op)) for v in variants)] for op in kinds[:SHOWN]]
    rows += [[f"{len(kinds) - SHOWN} others", *(_cell(_sum(found[v], kinds[SHOWN:])) for v in variants)]]
    rows += [["all", *(_cell(_sum(found[v], kinds)) for v in variants)]]
    title = f"### {model.name}, {shape.name}, labels: {shape.labelled} (nodes, ms of one forward)"
    return f"\n{title}\n\n{report.table(['operator', *variants], rows)}"


def _operators(variant: str, model: Path, data: Path) -> dict[str, tuple[float, float]]:
    """Return operator -> nodes and milliseconds of one forward pass."""
    with tempfile.TemporaryDirectory() as folder:
        with mock.patch.object(onnxruntime, "SessionOptions", _profiled(onnxruntime.SessionOptions, folder)):
            if variant == "stock":
                runs: Any = stock.Stock(model, data, onnxruntime.SessionOptions())
            else:
                runs = ours.Ours(model, data, variant, begin=False)
            for _ in range(RUNS + 1):
                runs.loss()
        del runs  # a session that ends writes its profile
        gc.collect()
        path = max(Path(folder).iterdir(), key=lambda p: p.stat().st_mtime_ns)  # others were tried before it
        events = json.loads(path.read_text(encoding="utf-8"))
    first = next(e for e in events if e["name"] == "model_run")
    operators: dict[str, tuple[float, float]] = defaultdict(lambda: (0.0, 0.0))
    for event in events:
        if event["name"].endswith("_kernel_time") and event["ts"] > first["ts"] + first["dur"]:
            nodes, ms = operators[event["args"]["op_name"]]
            operators[event["args"]["op_name"]] = (nodes + 1 / RUNS, ms + event["dur"] / 1e3 / RUNS)
    return operators


def _profiled(make: Callable[[], Any], folder: str) -> Callable[[], Any]:
    def options() -> Any:
        made = make()
        made.enable_profiling = True
        made.profile_file_prefix = str(Path(folder) / "profile")
        return made

    return options


def _cell(figures: tuple[float, float] | None) -> str:
    return f"{figures[0]:.0f}, {figures[1]:.1f}" if figures else "-"


def _sum(operators: dict[str, tuple[float, float]], kinds: Sequence[str]) -> tuple[float, float]:
    some = [operators[kind] for kind in kinds if kind in operators]
    return sum(n for n, _ in some), sum(ms for _, ms in some)
