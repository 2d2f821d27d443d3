"""``zoedge estimate`` beside the run it is about: memory and time.

    python benchmarks/estimate.py --bundle FOLDER --data DATA --work FOLDER [flags of zoedge tune]

Give --steps so that the run ends soon. The run's peak of anonymous memory is sampled every 5 ms, as the
estimate's is; its step time is the median over all steps but the first two. An estimate is taken before the
run and one after it: on a machine that others use, the two show how far its speed drifts.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

WATCHED = """
import sys
from zoedge.cli.main import main
from zoedge.runtime.machine.memory import Watch
with Watch() as watch:
    code = main(sys.argv[1:], standalone_mode=False)
print(watch.most.anonymous)
sys.exit(code)
"""


def estimated(arguments: argparse.Namespace, extra: list[str]) -> tuple[dict[str, float], float]:
    command = [sys.executable, "-P", "-m", "zoedge", "estimate", str(arguments.bundle), "-d", arguments.data]
    started = time.monotonic()
    done = subprocess.run([*command, "--json", *extra], check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout), time.monotonic() - started


def ran(arguments: argparse.Namespace, extra: list[str]) -> dict[str, float]:
    output = arguments.work / f"run{time.time_ns()}"
    command = [sys.executable, "-P", "-c", WATCHED, "tune", str(arguments.bundle), "-d", arguments.data]
    started = time.monotonic()
    done = subprocess.run(
        [*command, "-o", str(output), *extra], check=True, stdout=subprocess.PIPE, text=True
    )
    total = time.monotonic() - started
    rows = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    steps = [row["step_seconds"] for row in rows if "step_seconds" in row]
    return {
        "peak_rss_bytes": max(row.get("peak_rss_bytes", 0) for row in rows),
        "peak_anonymous_bytes": int(done.stdout.split()[-1]),
        "step_seconds": statistics.median(steps[2:] or steps),
        "total_seconds": total,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--work", type=Path, required=True)
    arguments, extra = parser.parse_known_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    (before, took), run = estimated(arguments, extra), ran(arguments, extra)
    after, _ = estimated(arguments, extra)
    print(f"{'':<22}{'estimate':>12}{'again':>12}{'run':>12}{'off':>8}")
    for name, value in run.items():
        unit = 1 << 20 if name.endswith("bytes") else 1
        off = (before[name] + after[name]) / 2 / value - 1
        print(
            f"{name:<22}{before[name] / unit:>12.3f}{after[name] / unit:>12.3f}{value / unit:>12.3f}{off:>+8.0%}"
        )
    print(f"an estimate took {took:.1f} s")


if __name__ == "__main__":
    main()
