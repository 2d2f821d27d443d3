"""Held-out loss of a small pretrained Llama, tuned on prompts and completions.

    python benchmarks/stories.py --checkpoint stories260K.bin --tokenizer tok512.bin --sentences train.tsv --work FOLDER

The checkpoint is a llama2.c file, which examples/llama_from_llama2c.py turns into a Hugging Face folder. Each
row of the sentences file (a tab-separated file with a ``sentence`` column: SST-2's) is cut in the middle: its
first words are the prompt and the others the completion. 600 rows are tuned on, 200 others are held out.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

TRAIN, TEST, WORDS = 600, 200, 8


def run(*command: str) -> str:
    print("$", " ".join(command), file=sys.stderr, flush=True)
    return subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout


def write(path: Path, sentences: list[str]) -> None:
    lines = []
    for sentence in sentences:
        words = sentence.split()
        half = len(words) // 2
        lines.append(
            json.dumps({"prompt": " ".join(words[:half]), "completion": " " + " ".join(words[half:])})
        )
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("checkpoint", "tokenizer", "sentences", "work"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    arguments, extra = parser.parse_known_args()
    work: Path = arguments.work
    work.mkdir(parents=True)
    with arguments.sentences.open(encoding="utf-8") as file:
        rows = [
            row["sentence"].strip() for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        ]
    rows = [row for row in rows if len(row.split()) >= WORDS]
    chosen = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))[: TRAIN + TEST]]
    write(work / "train.jsonl", chosen[:TRAIN])
    write(work / "test.jsonl", chosen[TRAIN:])
    converter = Path(__file__).parent.parent / "examples" / "llama_from_llama2c.py"
    run(
        sys.executable,
        str(converter),
        str(arguments.checkpoint),
        str(arguments.tokenizer),
        str(work / "llama"),
    )
    zoedge = (sys.executable, "-P", "-m", "zoedge")
    run(*zoedge, "export", str(work / "llama"), "-o", str(work / "bundle"), "--task", "text-generation")
    before = json.loads(run(*zoedge, "eval", str(work / "bundle"), "--data", str(work), "--json"))
    started = time.monotonic()
    run(*zoedge, "tune", str(work / "bundle"), "--data", str(work), "-o", str(work / "run"), *extra)
    seconds = time.monotonic() - started
    after = json.loads(run(*zoedge, "eval", str(work / "run"), "--data", str(work), "--json"))
    print(json.dumps({"before": before, "after": after, "seconds": round(seconds)}, indent=1))


if __name__ == "__main__":
    main()
