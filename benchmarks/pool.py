"""The ratios of several runs of `benchmarks/steps.py` in one table: medians and quartiles over all their rounds.

    python benchmarks/pool.py FIRST.json SECOND.json ...

Each file is a copy of a run's `steps.json`. A ratio is taken within a round, between processes that took their
steps by turns, so rounds of runs on the same machine can be put together where seconds can't.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from variants import report
from variants.processes import Measured
from variants.ratios import ratios


def read(paths: list[Path]) -> dict[tuple[str, str, str], list[list[list[Measured]]]]:
    """Return the runs of each model, shape and set of labels, as groups of processes."""
    runs: dict[tuple[str, str, str], list[list[list[Measured]]]] = {}
    for path in paths:
        for result in json.loads(path.read_text(encoding="utf-8"))["results"]:
            groups = [[Measured(**measured) for measured in group] for group in result["groups"]]
            runs.setdefault((result["model"], result["shape"], result["labelled"]), []).append(groups)
    return runs


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="FILE")
    models: dict[str, list[dict[str, Any]]] = {}
    for (model, shape, labelled), runs in sorted(read(parser.parse_args().runs).items()):
        about = {"shape": shape, "labelled": labelled, "ratios": ratios(runs, shape)}
        models.setdefault(model, []).append(about)
    for model, results in models.items():
        print(f"\n### {model}\n\n{report.ratios(results)}")


if __name__ == "__main__":
    main()
