"""What the benchmarks share: reading the data sets, writing CSV, and calling zoedge as a user does."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

TREC_LABELS = ("DESC", "ENTY", "ABBR", "HUM", "LOC", "NUM")
SST2_LABELS = ("negative", "positive")

Row = tuple[str, str]


def read_trec(path: Path) -> list[Row]:
    """Return (question, label) from a file of TREC lines: a class number, a space, the question."""
    lines = path.read_text(encoding="latin-1").splitlines()
    return [(text, TREC_LABELS[int(label)]) for label, text in (line.split(" ", 1) for line in lines)]


def read_sst2(path: Path) -> list[Row]:
    """Return (sentence, label) from a TSV file with a header, 1 for positive."""
    lines = path.read_text(encoding="utf-8").splitlines()[1:]
    return [
        (text.strip(), SST2_LABELS[int(label)]) for text, label in (line.rsplit("\t", 1) for line in lines)
    ]


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """Write rows as a CSV file that ``zoedge tune`` reads."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label"), *rows])


def zoedge(*arguments: str, threads: int = 0) -> str:
    """Run ``zoedge`` in a process of its own and return what it printed; ``threads`` bounds every pool in it."""
    print("$ zoedge", " ".join(arguments), file=sys.stderr, flush=True)
    pools = ("OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS", "OMP_NUM_THREADS")
    bounded = {name: str(threads) for name in pools} if threads else {}
    command = [sys.executable, "-P", "-m", "zoedge", *arguments]
    return subprocess.run(
        command, check=True, text=True, stdout=subprocess.PIPE, env=os.environ | bounded
    ).stdout
