"""The JSON of a GPU's check as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gpu.ratios import quartiles

MB, MS = 1e6, 1e3
Json = Mapping[str, Any]


def markdown(result: Json) -> str:
    """Return all that a check found: the machine, tests, ratios with their goals, and a table a section."""
    parts = [_about(result["machine"]), *_tests(result.get("tests"))]
    sections = result.get("sections", [])
    rows = [ratio for section in sections for ratio in section.get("ratios", [])]
    if rows:
        parts += ["### Ratios", _ratios(rows)]
    for section in sections:
        parts += [f"### {section['name']}", *_section(section)]
    return "\n\n".join(parts) + "\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [list(head), ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _about(machine: Json) -> str:
    hardware = (
        [machine["gpu"], f"compute capability {machine['compute_capability']}"]
        if "compute_capability" in machine
        else []
    )
    hardware += [f"{machine['cores']} cores of {machine['processor']}", f"Python {machine['python']}"]
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    return f"{', '.join(hardware)}. {versions}. Provider: {machine['provider']}."


def _tests(tests: Json | None) -> list[str]:
    if not tests:
        return []
    counts = ", ".join(f"{tests[n]} {n}" for n in ("passed", "failed", "skipped", "errors") if tests[n])
    lines = [f"- `{name}`: {why}" for name, why in tests["problems"].items()]
    return [
        "### Tests",
        f"{counts or 'none ran'} ({tests['seconds']:.0f} s)",
        *(["\n".join(lines)] if lines else []),
    ]


def _ratios(rows: Sequence[Json]) -> str:
    """Return a row a ratio and a column a shape; bold where the median meets its goal."""
    shapes = list(dict.fromkeys(row["shape"] for row in rows))
    names = list(dict.fromkeys(row["name"] for row in rows))
    cells = {(row["name"], row["shape"]): _ratio(row) for row in rows}
    return table(["ratio", *shapes], [[name, *(cells.get((name, s), "-") for s in shapes)] for name in names])


def _ratio(row: Json) -> str:
    middle, (low, high) = row["median"], row["quartiles"]
    value = f"**{middle:.2f}**" if row["met"] else f"{middle:.2f}"
    spread = f" ({low:.2f} to {high:.2f}; {row['rounds']})" if row["rounds"] > 1 else ""
    if row["goal"] is None:
        return value + spread
    missed = "" if row["met"] else ", missed"
    return f"{value}{spread}, goal {'>=' if row['at_least'] else '<='} {row['goal']:g}{missed}"


def _section(section: Json) -> list[str]:
    if "failed" in section:
        return [f"failed:\n\n```\n{section['failed'].strip()}\n```"]
    whole = [v for v in section["variants"] if v["wall"]]
    of_elements = [v for v in whole if v["elements"]]
    parts = [_bandwidths(v) for v in of_elements]
    steps = [v for v in whole if not v["elements"]]
    if steps:
        parts.append(_steps(steps))
    notes = [f"- {v['variant']}: {note}" for v in section["variants"] for note in v["notes"]]
    parts += ["\n".join(notes)] if notes else []
    parts += [
        f"{v['variant']} failed:\n\n```\n{v['failed'].strip()}\n```"
        for v in section["variants"]
        if v["failed"]
    ]
    return parts


def _steps(variants: Sequence[Json]) -> str:
    head = (
        "variant",
        "a step",
        "ms (quartiles)",
        "ms by events",
        "its passes alone, ms",
        "peak memory, MB",
        "first loss",
    )
    rows = []
    for v in variants:
        low, middle, high = (MS * q for q in quartiles(v["wall"]["step"]))
        passes = v["wall"].get("passes")
        rows.append([
            v["variant"], v["passes"], f"{middle:.2f} ({low:.2f} to {high:.2f})",
            f"{MS * quartiles(v['gpu']['step'])[1]:.2f}",
            f"{MS * quartiles(passes)[1]:.2f}" if passes else "-",
            f"{v['memory'] / MB:.0f}" if v["memory"] else "-", f"{v['loss']:.5f}",
        ])  # fmt: skip
    return table(head, rows)


def _bandwidths(variant: Json) -> str:
    """Return the table of what reads and writes float32 elements once."""
    rows = []
    for name, wall in variant["wall"].items():
        count, by_events = variant["elements"][name], quartiles(variant["gpu"][name])[1]
        rate = 8 * count / by_events / 1e9
        rows.append(
            [name, f"{count:,}", f"{MS * quartiles(wall)[1]:.3f}", f"{MS * by_events:.3f}", f"{rate:.0f}"]
        )
    return table(("what", "elements", "ms", "ms by events", "GB/s read and written"), rows)
