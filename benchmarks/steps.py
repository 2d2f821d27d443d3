"""What a training step costs, in time and memory: zoedge, onnxruntime's own forward pass, and torch.

    python benchmarks/steps.py --work FOLDER [--models opt-125m,llama-0.6b] [--shapes 1x16,8x64,16x128]
    python benchmarks/steps.py --work FOLDER --profile

Models with random weights are made and exported below FOLDER (once), every variant runs in a process of its
own, and processes take their steps in turn, so that what disturbs one disturbs the others. FOLDER/steps.json
and FOLDER/steps-MODEL.png hold the results; tables go to standard output. ``--profile`` prints instead which
operators the time of a forward pass goes to, in the ordinary export and in our loss graphs.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from variants import report
from variants.models import BUNDLES, MODELS, can_quantize, prepare
from variants.processes import Measured, alternate
from variants.ratios import GROUPS, check_losses, summary
from variants.shapes import LABELLED, Shape, make_data
from variants.worker import VARIANTS


def measure(model: Path, shape: Shape, variants: set[str], rounds: int) -> dict[str, object]:
    """Measure one model at one shape."""
    data = model / f"data-{shape.batch}x{shape.tokens}-{shape.labelled}"
    data.mkdir(exist_ok=True)
    make_data(shape, data)
    groups: list[list[Measured]] = []
    seen: set[str] = set()
    for group in GROUPS:
        wanted = [variant for variant in group if variant in variants]
        if not set(wanted) - seen:
            continue  # only what others are compared with
        seen |= set(wanted)
        print(
            f"{model.name}, {shape.name}, {shape.labelled}: {', '.join(wanted)}", file=sys.stderr, flush=True
        )
        groups.append(alternate(wanted, model, data, rounds))
        reference = next((m for g in groups for m in g if not m.variant.endswith("int8")), groups[0][0])
        check_losses(groups[-1], reference.loss)
    about = {"model": model.name, "shape": shape.name, "labelled": shape.labelled}
    return {**about, **summary(groups, shape.name)}


def chosen(text: str) -> set[str]:
    """Return the variants asked for that can run here; those that can't are named."""
    variants = set(text.split(","))
    unknown = variants - VARIANTS.keys()
    if unknown:
        raise SystemExit(f"unknown variants {sorted(unknown)}: use {', '.join(VARIANTS)}")
    if "lora-int8" in variants and not can_quantize():
        print("lora-int8 is left out: this zoedge has no `export --quantize`", file=sys.stderr)
        variants.discard("lora-int8")
    return variants


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--models", default="opt-125m,llama-0.6b", help=", ".join(MODELS))
    parser.add_argument("--shapes", default="1x16,8x64,16x128", help="rows x tokens")
    parser.add_argument("--labelled", default=",".join(LABELLED), help="label positions: last8, all")
    parser.add_argument("--variants", default=",".join(VARIANTS))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--profile", action="store_true")
    arguments = parser.parse_args()
    work, variants = arguments.work.resolve(), chosen(arguments.variants)
    models = arguments.models.split(",")
    shapes = [
        Shape.parse(s, kind) for kind in arguments.labelled.split(",") for s in arguments.shapes.split(",")
    ]
    for name in models:
        prepare(work, name, [bundle for bundle in BUNDLES if bundle in variants])
    if arguments.profile:
        from variants.profile import profile

        for name in models:
            for shape in shapes:
                print(
                    profile(work / name, shape, [v for v in ("stock", *BUNDLES) if v in variants]), flush=True
                )
        return
    results: list[dict[str, object]] = []
    for name in models:
        own: list[dict[str, object]] = []
        for shape in shapes:
            own.append(measure(work / name, shape, variants, arguments.rounds))
            kept = {"machine": report.machine(), "rounds": arguments.rounds, "results": [*results, *own]}
            (work / "steps.json").write_text(json.dumps(kept, indent=1), encoding="utf-8")
            print(
                f"\n### {name}, {shape.name}, labels: {shape.labelled}\n\n{report.times(own[-1])}", flush=True
            )
        print(f"\n### {name}: ratios\n\n{report.ratios(own)}\n", flush=True)
        report.plot(own, work / f"steps-{name}.png")
        results += own


if __name__ == "__main__":
    main()
