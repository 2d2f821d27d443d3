"""Peak memory of whole runs of ``zoedge tune``, beside stock inference of the same batch and beside ``estimate``.

    python benchmarks/whole_runs.py --work FOLDER [--rounds 3]

FOLDER is that of ``steps.py``, whose models and bundles are made there where they are missing. A run is a process of
its own from its start to its end: imports, reading, timing, a rehearsal's parent, steps, held-out evaluations and what
it saves. Its peak is the kernel's VmHWM, read until the process ends; anonymous memory is sampled every 5 ms.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

from variants.models import prepare
from variants.processes import environment
from variants.shapes import Shape, make_data

SHAPE = Shape(8, 64)
ROWS = 800  # a tenth is held out
RUNS = {
    "full, mezo": ("full", ("--method", "mezo")),
    "full, fzoo": ("full", ()),
    "LoRA, fzoo": ("lora", ()),
    "LoRA int8, fzoo": ("lora-int8", ()),
}
MIB = 1 << 20
STOCK = """
import sys
from pathlib import Path
from variants.stock import Stock
stock = Stock(Path(sys.argv[1]), Path(sys.argv[2]))
for _ in range(3):
    stock.step()
"""


def peaks(command: list[str]) -> tuple[float, float]:
    """Run a command; return the most resident and the most anonymous memory that it held, in MiB."""
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL)
    resident = anonymous = 0.0
    while process.poll() is None:
        try:
            lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            break
        values = {line.split(":")[0]: line.split()[1] for line in lines if line.endswith(" kB")}
        resident = max(resident, int(values.get("VmHWM", 0)) / 1024)
        anonymous = max(anonymous, int(values.get("RssAnon", 0)) / 1024)
        time.sleep(0.005)
    if process.wait() != 0:
        raise SystemExit(f"{' '.join(command)} failed")
    return resident, anonymous


def zoedge(*arguments: str) -> list[str]:
    return [sys.executable, "-P", "-m", "zoedge", *arguments]


def estimated(bundle: Path, data: Path, flags: list[str]) -> float:
    command = zoedge("estimate", str(bundle), "-d", str(data), "--json", *flags)
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment())
    return float(json.loads(done.stdout)["peak_rss_bytes"]) / MIB


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--model", default="opt-125m")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--runs", default=",".join(RUNS).replace(", ", "+"), help="names with + for a comma")
    arguments = parser.parse_args()
    chosen = [name.replace("+", ", ") for name in arguments.runs.split(",")]
    prepare(arguments.work, arguments.model, sorted({RUNS[name][0] for name in chosen}))
    folder = arguments.work / arguments.model
    data = folder / "whole-runs"
    data.mkdir(exist_ok=True)
    make_data(SHAPE, data)
    lines = (data / "rows.jsonl").read_text().splitlines()
    (data / "many.jsonl").write_text("".join(f"{lines[i % len(lines)]}\n" for i in range(ROWS)))
    stock = [peaks([sys.executable, "-c", STOCK, str(folder), str(data)]) for _ in range(arguments.rounds)]
    yardstick = statistics.median(resident for resident, _ in stock)
    print(f"stock, {SHAPE.name}: {yardstick:.0f} MiB resident")
    print(f"{'whole run':<18}{'resident':>10}{'of stock':>10}{'anonymous':>11}{'estimate':>10}{'off':>7}")
    for name in chosen:
        bundle, method = RUNS[name]
        flags = [*method, "--steps", "2", "--eval-every", "1", "--batch-size", str(SHAPE.batch)]
        found = []
        for _ in range(arguments.rounds):
            output = folder / "whole-run"
            shutil.rmtree(output, ignore_errors=True)
            rows = data / "many.jsonl"
            found.append(
                peaks(zoedge("tune", str(folder / bundle), "-d", str(rows), "-o", str(output), *flags))
            )
        resident = statistics.median(r for r, _ in found)
        anonymous = statistics.median(a for _, a in found)
        guess = estimated(folder / bundle, data / "many.jsonl", flags)
        spread = " to ".join(f"{r:.0f}" for r in (min(found)[0], max(found)[0]))
        print(
            f"{name:<18}{resident:>10.0f}{resident / yardstick:>10.2f}{anonymous:>11.0f}{guess:>10.0f}"
            f"{guess / resident - 1:>+7.0%}   ({spread})",
            flush=True,
        )


if __name__ == "__main__":
    main()
