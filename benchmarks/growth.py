"""How the cost of a step grows with the number of parameters, the rows of a batch and their length.

    python benchmarks/growth.py --work FOLDER [--variants stock,full,lora]

Models shaped like OPT with random weights, made below FOLDER as steps.py makes them. FOLDER/growth.json and
FOLDER/growth.png hold the results; tables go to standard output. Labels are on the last 8 positions.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from steps import chosen
from variants import report
from variants.models import BUNDLES, prepare
from variants.processes import alternate
from variants.ratios import check_losses, quartiles
from variants.shapes import Shape, make_data

SIZES = ("opt-5m", "opt-16m", "opt-33m", "opt-92m", "opt-210m")
MIDDLE = "opt-33m"
ROWS, TOKENS = 8, 64
SWEEPS: dict[str, list[tuple[str, int, int]]] = {
    "parameters": [(name, ROWS, TOKENS) for name in SIZES],
    "rows": [(MIDDLE, rows, TOKENS) for rows in (1, 2, 4, 8, 16, 32)],
    "tokens of a row": [(MIDDLE, ROWS, tokens) for tokens in (16, 32, 64, 128, 256, 512)],
}


def parameters(model: Path) -> int:
    """Return how many numbers a model has, by its weights file."""
    size = (model / "hf" / "model.safetensors").stat().st_size
    return size // 4  # float32; the header is some KB


def point(work: Path, name: str, shape: Shape, variants: list[str], rounds: int) -> dict[str, Any]:
    """Measure one model at one shape."""
    print(f"{name}, {shape.name}", file=sys.stderr, flush=True)
    data = work / name / f"data-{shape.batch}x{shape.tokens}-{shape.labelled}"
    data.mkdir(exist_ok=True)
    make_data(shape, data)
    group = alternate(variants, work / name, data, rounds)
    check_losses(group, group[0].loss)
    about = {"model": name, "parameters": parameters(work / name), "rows": shape.batch}
    return {**about, "tokens of a row": shape.tokens, "measured": [vars(m) for m in group]}


def table(sweep: str, points: list[dict[str, Any]]) -> str:
    """Return one sweep's medians, and each variant's step as a multiple of the first variant's."""
    names = [m["variant"] for m in points[0]["measured"]]
    rows = []
    for p in points:
        base = p["measured"][0]["seconds"]
        cells = [f"{1e3 * quartiles(m['seconds'])[1]:.1f}" for m in p["measured"]]
        ratios = [
            quartiles([a / b for a, b in zip(m["seconds"], base, strict=True)]) for m in p["measured"][1:]
        ]
        rows.append(
            [f"{p[sweep]:,}", *cells, *(f"{m:.2f} ({low:.2f} to {high:.2f})" for low, m, high in ratios)]
        )
    head = [sweep, *(f"{n}, ms" for n in names), *(f"{n} / {names[0]}" for n in names[1:])]
    return report.table(head, rows)


def plot(sweeps: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Draw a panel for each sweep: the median step of each variant, and its quartiles as a band."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    size = (4.5 * len(sweeps), 4)
    figure, axes = pyplot.subplots(1, len(sweeps), figsize=size, squeeze=False, layout="constrained")
    for axis, (sweep, points) in zip(axes[0], sweeps.items(), strict=True):
        across = [p[sweep] for p in points]
        for n, first in enumerate(points[0]["measured"]):
            low, middle, high = zip(*(quartiles(p["measured"][n]["seconds"]) for p in points), strict=True)
            axis.plot(across, middle, marker="o", label=first["variant"])
            axis.fill_between(across, low, high, alpha=0.2)
        axis.set(xlabel=sweep, xscale="log", yscale="log", ylabel="seconds of a step (stock: two forwards)")
        axis.legend()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--variants", default="stock,full,lora,lora-int8")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--sweeps", default=",".join(SWEEPS))
    arguments = parser.parse_args()
    work, possible = arguments.work.resolve(), chosen(arguments.variants)
    variants = [name for name in arguments.variants.split(",") if name in possible]
    found: dict[str, list[dict[str, Any]]] = {}
    for sweep in arguments.sweeps.split(","):
        found[sweep] = []
        for name, rows, tokens in SWEEPS[sweep]:
            prepare(work, name, [bundle for bundle in BUNDLES if bundle in variants])
            found[sweep].append(point(work, name, Shape(rows, tokens), variants, arguments.rounds))
        kept = {"machine": report.machine(), "rounds": arguments.rounds, "sweeps": found}
        (work / "growth.json").write_text(json.dumps(kept, indent=1), encoding="utf-8")
        print(f"\n### By {sweep}\n\n{table(sweep, found[sweep])}", flush=True)
    plot(found, work / "growth.png")


if __name__ == "__main__":
    main()
