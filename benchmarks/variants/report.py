"""Tables and plots of what was measured."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from variants.ratios import quartiles

MB = 1e6


def machine() -> dict[str, Any]:
    """Return what a reader needs to judge times by; nothing that names the machine."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    libraries = ("onnxruntime", "torch", "transformers", "peft", "optimum", "numpy", "numba", "zoedge")
    return {
        "processor": names[0] if names else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "versions": {name: version(name) for name in libraries},
    }


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [list(head), ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def times(result: dict[str, Any]) -> str:
    """Return the table of one model, shape and set of labels; a variant's figures are its first group's."""
    rows = []
    for variant, m in first_of(result).items():
        low, middle, high = (1e3 * value for value in quartiles(m["seconds"]))
        rows.append([variant, m["passes"], f"{middle:.0f}", f"{low:.0f} to {high:.0f}", f"{m['rss'] / MB:.0f}",
                     f"{m['anon_start'] / MB:.0f}", f"{m['anon_steps'] / MB:.0f}", f"{m['loss']:.5f}"])  # fmt: skip
    head = ("variant", "a step", "median, ms", "quartiles", "peak RSS, MB", "peak anonymous until ready, MB",
            "in steps, MB", "first loss")  # fmt: skip
    return table(head, rows)


def ratios(results: Sequence[dict[str, Any]]) -> str:
    """Return one model's ratios, a column for each shape and set of labels: median (quartiles; number), goal."""
    names = list(dict.fromkeys(name for r in results for name in r["ratios"]))
    rows = [[name, *(_ratio(r["ratios"].get(name)) for r in results)] for name in names]
    return table(["ratio", *(f"{r['shape']}, {r['labelled']}" for r in results)], rows)


def first_of(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return each variant's first process."""
    found: dict[str, dict[str, Any]] = {}
    for group in result["groups"]:
        for measured in group:
            found.setdefault(measured["variant"], measured)
    return found


def plot(results: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw step times and peak memory of one model: a row of bars for each shape and set of labels."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot, ticker

    size = (11, 2.6 * len(results))
    figure, axes = pyplot.subplots(len(results), 2, figsize=size, squeeze=False, layout="constrained")
    for (left, right), result in zip(axes, results, strict=True):
        found = first_of(result)
        names, quarts = list(found), [quartiles(m["seconds"]) for m in found.values()]
        middle = [q[1] for q in quarts]
        spread = [[q[1] - q[0] for q in quarts], [q[2] - q[1] for q in quarts]]
        left.barh(names, middle, xerr=spread)
        left.set(xlabel="seconds of a step (stock: of two forwards)", xscale="log")
        left.xaxis.set_minor_formatter(ticker.NullFormatter())
        right.barh(names, [m["rss"] / MB for m in found.values()], color="lightgrey", label="resident")
        anon = [max(m["anon_start"], m["anon_steps"]) / MB for m in found.values()]
        right.barh(names, anon, height=0.4, label="anonymous")
        right.set(xlabel="peak memory, MB")
        right.legend()
        for axis in (left, right):
            axis.invert_yaxis()
            axis.set_title(
                f"{result['model']}, {result['shape']}, labels: {result['labelled']}", size="medium"
            )
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _ratio(ratio: dict[str, Any] | None) -> str:
    if ratio is None:
        return "-"
    low, middle, high = ratio["quartiles"]
    spread = f" ({low:.2f} to {high:.2f}; {ratio['values']})" if low != high else ""
    goal = f", goal {ratio['goal']}" if ratio["goal"] else ""
    return f"**{middle:.2f}**{spread}{goal}"
