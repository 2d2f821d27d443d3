"""How a run shows itself: a bar on a terminal, plain lines elsewhere. The log file is written by the run."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, Protocol, TextIO

Row = Mapping[str, Any]


class Progress(Protocol):
    """Is told what happens; only ever shows it."""

    def start(self, header: Mapping[str, str], total_steps: int | None, step: int) -> None:
        """Begin: what is tuned and how, the number of steps where one is known, and the step to begin at."""

    def step(self, row: Row, *, report: bool) -> None:
        """Take in a step's log row; ``report`` marks the ones to print."""

    def evaluation(self, row: Row) -> None:
        """Take in an evaluation's log row."""

    def note(self, text: str) -> None:
        """Show a sentence."""

    def close(self) -> None:
        """Leave the screen tidy."""


class Silent:
    """Shows nothing."""

    def start(self, header: Mapping[str, str], total_steps: int | None, step: int) -> None:
        """Do nothing."""

    def step(self, row: Row, *, report: bool) -> None:
        """Do nothing."""

    def evaluation(self, row: Row) -> None:
        """Do nothing."""

    def note(self, text: str) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class Lines:
    """One plain line per report."""

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = out or sys.stdout
        self._total: int | None = None

    def start(self, header: Mapping[str, str], total_steps: int | None, step: int) -> None:
        """Print the header, one line per entry."""
        self._total = total_steps
        width = max(map(len, header), default=0)
        for name, value in header.items():
            self.note(f"{name:<{width}}  {value}")

    def step(self, row: Row, *, report: bool) -> None:
        """Print a step."""
        if report:
            self.note(step_text(row, self._total))

    def evaluation(self, row: Row) -> None:
        """Print an evaluation."""
        self.note(evaluation_text(row))

    def note(self, text: str) -> None:
        """Print a sentence."""
        print(text, file=self._out, flush=True)

    def close(self) -> None:
        """Do nothing: every line is out already."""


class Bar:
    """A rich progress bar with the reports above it."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self._console = Console(highlight=False, markup=False)
        columns = (
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[loss]}"),
            TimeElapsedColumn(),
            TextColumn("eta"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[memory]}"),
        )
        self._bar = Progress(*columns, console=self._console)
        self._task = self._bar.add_task("tune", total=None, loss="", memory="", start=True)
        self._total: int | None = None

    def start(self, header: Mapping[str, str], total_steps: int | None, step: int) -> None:
        """Print the header and show the bar."""
        from rich.table import Table
        from rich.text import Text

        table = Table.grid(padding=(0, 2))
        for name, value in header.items():
            table.add_row(Text(name, style="dim"), Text(value))
        self._console.print(table)
        self._total = total_steps
        self._bar.update(self._task, total=total_steps, completed=step)
        self._bar.start()

    def step(self, row: Row, *, report: bool) -> None:
        """Advance the bar; print a report above it."""
        memory = memory_text(row["peak_rss_bytes"])
        self._bar.update(self._task, completed=row["step"], loss=f"loss {row['loss']:.4f}", memory=memory)
        if report:
            self._console.print(step_text(row, self._total))

    def evaluation(self, row: Row) -> None:
        """Print an evaluation above the bar."""
        self._console.print(evaluation_text(row), style="bold")

    def note(self, text: str) -> None:
        """Print a sentence above the bar."""
        self._console.print(text)

    def close(self) -> None:
        """Stop drawing."""
        self._bar.stop()


def for_terminal() -> Progress:
    """Return a bar when standard output is a terminal, else plain lines."""
    return Bar() if sys.stdout.isatty() else Lines()


def step_text(row: Row, total: int | None) -> str:
    """Return a step's report on one line."""
    of = f"/{total}" if total else ""
    gradient = row["projected_gradient"]
    shown = "skipped" if gradient is None else f"g {gradient:+.3g}"
    return (
        f"step {row['step']}{of}  loss {row['loss']:.4f}  lr {row['lr']:.2e}  {shown}  "
        f"{row['step_seconds']:.2f} s/step  {memory_text(row['peak_rss_bytes'])}"
    )


def evaluation_text(row: Row) -> str:
    """Return an evaluation's report on one line."""
    shown = {
        k.removeprefix("eval_"): "not finite" if v is None else f"{v:.4f}"
        for k, v in row.items()
        if k.startswith("eval_")
    }
    metrics = "  ".join(f"{name} {value}" for name, value in shown.items())
    return f"step {row['step']}  eval  {metrics}"


def memory_text(peak_bytes: int) -> str:
    """Return a peak of memory in MB (10^6 bytes)."""
    return f"peak {peak_bytes / 1e6:.0f} MB"
