"""The methods at an equal number of forward passes: which one, and which step size, is the default.

    python benchmarks/methods.py --encoder FOLDER --data trec=FOLDER --work FOLDER --score select --seeds 100
    python benchmarks/methods.py --encoder FOLDER --data sst2=FOLDER --work FOLDER --score test --seeds 101,102 \\
        --settings fzoo:activations:0.05,meazo:activations:0.005

Each seed draws 1,000 rows to tune on, 2,000 others of the training file to select on and at most 2,000 test
rows. A setting is METHOD:LORA_SPACE:LR; every run gets the same number of forward passes of 16 rows.
``--score select`` scores the rows to select on; ``--score test`` is for settings that are decided.
Results are appended to WORK/results.jsonl, and a run that is there is not made again.
"""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from common import SST2_LABELS, TREC_LABELS, read_sst2, read_trec, write_csv, zoedge

TUNED, SELECTED_ON = 1000, 2000
LABELS = {"trec": TREC_LABELS, "sst2": SST2_LABELS}
PASSES_A_STEP = {"fzoo": 17, "mezo": 2, "meazo": 2, "subzero": 2}

GRID = [
    *(f"fzoo:activations:{lr}" for lr in (0.05, 0.1)),
    *(f"mezo:activations:{lr}" for lr in (0.0015, 0.004, 0.01)),
    *(f"meazo:activations:{lr}" for lr in (0.002, 0.006, 0.015)),
    *(f"fzoo:factors:{lr}" for lr in (0.015, 0.05)),
    *(f"meazo:factors:{lr}" for lr in (0.002, 0.006)),
    "mezo:factors:0.0005",
    *(f"subzero:factors:{lr}" for lr in (5e-6, 2e-5, 5e-4)),
]


class Setting(NamedTuple):
    method: str
    space: str
    lr: float

    @classmethod
    def parse(cls, text: str) -> Setting:
        method, space, lr = text.split(":")
        return cls(method, space, float(lr))


def split(name: str, folder: Path, seed: int, work: Path) -> Path:
    """Write the seed's rows and return their folder: tune.csv, select.csv, test.csv."""
    target = work / f"{name}-{seed}"
    if name == "trec":
        rows, test = read_trec(folder / "TREC.train.all"), read_trec(folder / "TREC.test.all")
    else:
        rows, test = read_sst2(folder / "train.tsv"), read_sst2(folder / "dev.tsv")
    order = np.random.default_rng(seed).permutation(len(rows))
    write_csv(target / "tune.csv", [rows[i] for i in order[:TUNED]])
    write_csv(target / "select.csv", [rows[i] for i in order[TUNED : TUNED + SELECTED_ON]])
    shuffled = np.random.default_rng(seed).permutation(len(test))[:SELECTED_ON]
    write_csv(target / "test.csv", [test[i] for i in shuffled])
    return target


def measure(
    bundle: Path, data: Path, setting: Setting, seed: int, arguments: argparse.Namespace
) -> dict[str, object]:
    """Tune once and score the best checkpoint and the last weights."""
    run = data / f"{setting.method}-{setting.space}-{setting.lr:g}-{arguments.passes}"
    steps = max(1, arguments.passes // PASSES_A_STEP[setting.method])
    if not (run / "best.safetensors").exists():
        zoedge("tune", str(bundle), "--data", str(data / "tune.csv"), "-o", str(run), "--resume",
               "--seed", str(seed), "--method", setting.method, "--steps", str(steps), "--lr", str(setting.lr),
               "--lr-schedule", "linear", "--lora-space", setting.space,
               "--threads", str(arguments.threads), threads=arguments.threads)  # fmt: skip
    result: dict[str, object] = {
        "data": data.name,
        **setting._asdict(),
        "passes": arguments.passes,
        "seed": seed,
    }
    scored = data / f"{arguments.score}.csv"
    for which in ("best", "last"):
        shown = json.loads(zoedge("eval", str(run), "--which", which, "--data", str(scored), "--json",
                                  threads=arguments.threads))  # fmt: skip
        result[which] = {name: round(shown[name], 4) for name in ("accuracy", "loss")}
    return result | {"scored": arguments.score}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--encoder", type=Path, required=True)
    parser.add_argument("--data", required=True, help="trec=FOLDER or sst2=FOLDER")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--score", choices=("select", "test"), required=True)
    parser.add_argument("--seeds", default="100")
    parser.add_argument("--settings", default=",".join(GRID), help="METHOD:LORA_SPACE:LR, comma between")
    parser.add_argument("--passes", type=int, default=1700)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side")
    arguments = parser.parse_args()
    name, folder = arguments.data.split("=", 1)
    bundle = arguments.work / f"bundle-{name}"
    if not bundle.exists():
        zoedge("export", str(arguments.encoder), "-o", str(bundle), "--task", "text-classification",
               "--labels", ",".join(LABELS[name]), "--train", "lora")  # fmt: skip
    log = arguments.work / "results.jsonl"

    def one(job: tuple[int, Path, Setting]) -> None:
        seed, data, setting = job
        result = measure(bundle, data, setting, seed, arguments)
        with log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(result) + "\n")
        print(json.dumps(result), flush=True)

    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    folders = {seed: split(name, Path(folder), seed, arguments.work) for seed in seeds}
    jobs = [(s, folders[s], Setting.parse(text)) for text in arguments.settings.split(",") for s in seeds]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        for _ in pool.map(one, jobs):
            pass


if __name__ == "__main__":
    main()
