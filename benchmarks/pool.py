"""The ratios of several runs of `benchmarks/steps.py` in one table: median (quartiles; number of rounds), goal.

    python benchmarks/pool.py FIRST.json SECOND.json ...

Each file is a copy of a run's `steps.json`, which the next run writes over. A ratio is taken within a round,
between processes that took their steps by turns, so rounds of runs on the same machine can be put together
where seconds can't. Memory counts once a run.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from variants import ratios, report
from variants.processes import Measured


def read(paths: list[Path]) -> dict[tuple[str, str, str], list[list[list[Measured]]]]:
    """Return the runs of each model, shape and set of labels, as groups of processes."""
    runs: dict[tuple[str, str, str], list[list[list[Measured]]]] = {}
    machines = set()
    for path in paths:
        content = json.loads(path.read_text(encoding="utf-8"))
        if "results" not in content:
            raise SystemExit(f"{path} is no steps.json")
        machines.add(json.dumps({**content["machine"], "load": None}, sort_keys=True))
        for result in content["results"]:
            groups = [[Measured(**measured) for measured in group] for group in result["groups"]]
            runs.setdefault((result["model"], result["shape"], result["labelled"]), []).append(groups)
    if len(machines) > 1:
        print("runs of different machines or versions are put together", file=sys.stderr)
    return runs


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="FILE", help="copies of steps.json")
    paths = parser.parse_args().runs
    if len({path.resolve() for path in paths}) < len(paths):
        parser.error("a run is named twice")
    models: dict[str, list[dict[str, Any]]] = {}
    for (model, shape, labelled), runs in read(paths).items():
        about = {"shape": shape, "labelled": labelled, "ratios": ratios.ratios(runs, shape)}
        models.setdefault(model, []).append(about)
    for model, results in models.items():
        print(f"\n### {model}\n\n{report.ratios(results)}")


if __name__ == "__main__":
    main()
