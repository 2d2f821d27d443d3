"""What the noise costs: ns per element of each kernel against a plain in-place addition, by turns.

    python benchmarks/noise.py -o noise.json

Prints a small table, and writes the figures as JSON where asked. Ratios are taken within a round, so that
what else the machine does weighs on both sides; ``cpu`` counts the seconds of this process alone.
"""

from __future__ import annotations

import argparse
import functools
import json
import platform
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numba
import numpy as np

from zoedge.runtime.machine.threads import usable_cores
from zoedge.runtime.noise import numba_kernel, reference
from zoedge.runtime.noise.reference import (
    PURPOSE_SAMPLE,
    Addition,
    Float32,
    Sample,
    Stream,
    Term,
    table,
    tensor_id,
)

BASELINE = "in-place add"
REFERENCE_ELEMENTS = 1 << 22  # the reference is slow and does not care how many there are
PIECE = 1 << 20
SHARES = (4, 16)  # of the elements: one in so many


def opt_125m() -> list[int]:
    """Return the sizes of OPT-125M's 196 tensors (tied vocabulary matrix)."""
    width, inner = 768, 3072
    layer = [width * width, width] * 4 + [width, width] * 2 + [width * inner, inner, inner * width, width]
    return [50272 * width, 2050 * width, width, width, *layer * 12]


@numba.njit(nogil=True)
def add_constant(part: Float32, value: float) -> None:
    for i in range(part.size):
        part[i] += value


def add_in_place(buffers: Sequence[Float32], threads: int) -> None:
    """Read and write every element once, with as many threads."""
    parts = iter([b[i : i + PIECE] for b in buffers for i in range(0, b.size, PIECE)])

    def take() -> None:
        for part in parts:
            add_constant(part, np.float32(1e-9))

    helpers = [threading.Thread(target=take) for _ in range(threads - 1)]
    for helper in helpers:
        helper.start()
    take()
    for helper in helpers:
        helper.join()


def terms_for(name: str, distribution: str, count: int, share: float = 1.0) -> list[Term]:
    tensor = tensor_id(name)
    sample = Sample(Stream(0, tensor, 0, 0, PURPOSE_SAMPLE), share) if share < 1.0 else None
    return [Term(Stream(0, tensor, 0, k), table(distribution, 1e-6), sample) for k in range(count)]


def additions_for(
    buffers: Sequence[Float32], distribution: str, count: int, share: float = 1.0
) -> list[Addition]:
    return [Addition(b, terms_for(f"tensor {i}", distribution, count, share)) for i, b in enumerate(buffers)]


def measure(calls: dict[str, Callable[[], Any]], elements: int, rounds: int) -> dict[str, dict[str, Any]]:
    """Run the calls by turns; return ns per element and ratios to the baseline, each as quartiles."""
    for call in calls.values():
        call()
    wall: dict[str, list[float]] = {name: [] for name in calls}
    cpu: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            began, began_cpu = time.perf_counter_ns(), time.process_time_ns()
            call()
            wall[name].append((time.perf_counter_ns() - began) / elements)
            cpu[name].append((time.process_time_ns() - began_cpu) / elements)
    return {
        name: {
            "ns_per_element": quartiles(wall[name]),
            "cpu_ns_per_element": quartiles(cpu[name]),
            "ratio": quartiles(np.divide(wall[name], wall[BASELINE])),
            "cpu_ratio": quartiles(np.divide(cpu[name], cpu[BASELINE])),
        }
        for name in calls
    }


def quartiles(values: Sequence[float]) -> list[float]:
    return [round(float(v), 4) for v in np.percentile(values, [25, 50, 75])]


def flat(elements: int, threads: int, rounds: int) -> dict[str, Any]:
    """One buffer: one term of each distribution, and what a step of many directions fuses."""
    buffers = [np.zeros(elements, np.float32)]
    calls: dict[str, Callable[[], Any]] = {BASELINE: lambda: add_in_place(buffers, threads)}
    for label, distribution, count in (
        ("gaussian", "gaussian", 1),
        ("signs", "rademacher", 1),
        ("gaussian, 3 terms", "gaussian", 3),
        ("signs, 17 terms", "rademacher", 17),
    ):
        additions = additions_for(buffers, distribution, count)
        calls[label] = functools.partial(numba_kernel.add_terms, additions, threads=threads)
    return measure(calls, elements, rounds)


def numpy_reference(rounds: int) -> dict[str, Any]:
    """The NumPy reference, which has one thread."""
    buffers = [np.zeros(REFERENCE_ELEMENTS, np.float32)]
    calls: dict[str, Callable[[], Any]] = {BASELINE: lambda: add_in_place(buffers, 1)}
    for label, distribution in (("reference gaussian", "gaussian"), ("reference signs", "rademacher")):
        calls[label] = functools.partial(reference.add_terms, additions_for(buffers, distribution, 1))
        for one_in in SHARES:
            sampled = additions_for(buffers, distribution, 1, 1 / one_in)
            calls[f"{label}, 1/{one_in} of it"] = functools.partial(reference.add_terms, sampled)
    return measure(calls, REFERENCE_ELEMENTS, rounds)


def model(threads: int, rounds: int) -> dict[str, Any]:
    """OPT-125M's tensors in one call, in a call each, and as one buffer; terms are made each time."""
    sizes = opt_125m()
    whole = np.zeros(sum(sizes), np.float32)
    buffers = np.split(whole, np.cumsum(sizes)[:-1])
    calls: dict[str, Callable[[], Any]] = {BASELINE: lambda: add_in_place([whole], threads)}

    def together(buffers: Sequence[Float32], distribution: str, share: float = 1.0) -> None:
        numba_kernel.add_terms(additions_for(buffers, distribution, 1, share), threads=threads)

    def one_by_one(distribution: str) -> None:
        for addition in additions_for(buffers, distribution, 1):
            numba_kernel.add_terms([addition], threads=threads)

    for label, distribution in (("gaussian", "gaussian"), ("signs", "rademacher")):
        calls[f"{label}, flat"] = functools.partial(together, [whole], distribution)
        calls[f"{label}, all tensors in a call"] = functools.partial(together, buffers, distribution)
        calls[f"{label}, a call each"] = functools.partial(one_by_one, distribution)
        for one_in in SHARES:
            calls[f"{label}, 1/{one_in} of the elements"] = functools.partial(
                together, buffers, distribution, 1 / one_in
            )
    return measure(calls, whole.size, rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("-o", "--output", type=Path, help="write the figures here as JSON")
    parser.add_argument("--elements", type=int, default=1 << 25, help="of the flat buffer")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, nargs="+", default=sorted({1, usable_cores()}))
    given = parser.parse_args()
    tables = {"reference, 1 thread": numpy_reference(given.rounds)}
    for threads in given.threads:
        tables[f"{given.elements} elements, threads: {threads}"] = flat(given.elements, threads, given.rounds)
        tables[f"OPT-125M, threads: {threads}"] = model(threads, given.rounds)
    for title, rows in tables.items():
        print(f"\n{title}\n{'':36}{'ns/element':>12}{'ratio [quartiles]':>24}{'cpu ratio':>12}")
        for name, row in rows.items():
            low, middle, high = row["ratio"]
            spread = f"{middle:.2f} [{low:.2f}, {high:.2f}]"
            print(f"{name:36}{row['ns_per_element'][1]:12.3f}{spread:>24}{row['cpu_ratio'][1]:12.2f}")
    if given.output:
        about = {
            "machine": platform.machine(),
            "cores": usable_cores(),
            "numba": numba.__version__,
            "rounds": given.rounds,
        }
        given.output.write_text(json.dumps({"about": about, "tables": tables}, indent=1) + "\n")


if __name__ == "__main__":
    main()
