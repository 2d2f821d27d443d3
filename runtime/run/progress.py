"""How a run shows itself: a bar on a terminal, plain lines elsewhere. The log file is written by the run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TextIO, cast

from zoedge.errors import InputError

from .certainty import metric_texts

if TYPE_CHECKING:
    from rich.console import Console

Row = Mapping[str, Any]


class Extent(NamedTuple):
    """Where a run ends: after so many steps, so many seconds, or whichever comes first."""

    steps: int | None
    seconds: float | None = None

    def share(self, step: int, elapsed_seconds: float) -> float:
        """Return the share of the run that is done, by steps or by time, whichever is further."""
        by_steps = step / self.steps if self.steps else 0.0
        by_time = elapsed_seconds / self.seconds if self.seconds else 0.0
        return max(by_steps, by_time)


class Progress(Protocol):
    """Is told what happens; only ever shows it."""

    def start(self, header: Mapping[str, str], extent: Extent, step: int) -> None:
        """Begin: what is tuned and how, how long it takes, and the step to begin at."""

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

    def start(self, header: Mapping[str, str], extent: Extent, step: int) -> None:
        """Do nothing."""

    def step(self, row: Row, *, report: bool) -> None:
        """Do nothing."""

    def evaluation(self, row: Row) -> None:
        """Do nothing."""

    def note(self, text: str) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class Called(Silent):
    """Calls a function with each log row: those of steps, and those of evaluations."""

    def __init__(self, function: Callable[[Row], object]) -> None:
        self._function = function

    def step(self, row: Row, *, report: bool) -> None:
        """Call it with a step's row."""
        self._function(row)

    def evaluation(self, row: Row) -> None:
        """Call it with an evaluation's row."""
        self._function(row)


def as_progress(progress: Progress | Callable[[Row], object] | None) -> Progress:
    """Return who is told: nobody for None; a plain function is called with each log row.

    Raises:
        InputError: it is neither a function nor has what ``Progress`` has.
    """
    if progress is None:
        return Silent()
    if all(hasattr(progress, name) for name in ("start", "step", "evaluation", "note", "close")):
        return cast("Progress", progress)
    if callable(progress):
        return Called(progress)
    raise InputError(f"progress is {progress!r:.60}: give a function that takes a log row, or leave it out")


class Lines:
    """One plain line per report."""

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = out or sys.stdout
        self._total: int | None = None

    def start(self, header: Mapping[str, str], extent: Extent, step: int) -> None:
        """Print the header, one line per entry."""
        self._total = extent.steps
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
    """A rich progress bar with the reports above it; it shows the share of the steps or of the time.

    Args:
        console: where to draw; standard output by default.
    """

    def __init__(self, console: Console | None = None) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self._console = console or Console(highlight=False, markup=False)
        columns = (
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[steps]}"),
            TextColumn("{task.fields[loss]}"),
            TimeElapsedColumn(),
            TextColumn("eta"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[memory]}"),
        )
        self._bar = Progress(*columns, console=self._console)
        self._task = self._bar.add_task("tune", total=1.0, steps="", loss="", memory="", start=True)
        self._extent = Extent(None)

    def start(self, header: Mapping[str, str], extent: Extent, step: int) -> None:
        """Print the header and show the bar."""
        from rich.table import Table
        from rich.text import Text

        table = Table.grid(padding=(0, 2))
        for name, value in header.items():
            table.add_row(Text(name, style="dim"), Text(value))
        self._console.print(table)
        self._extent = extent
        self._bar.update(self._task, completed=extent.share(step, 0.0), steps=_of(step, extent.steps))
        self._bar.start()

    def step(self, row: Row, *, report: bool) -> None:
        """Advance the bar; print a report above it."""
        self._bar.update(
            self._task,
            completed=self._extent.share(row["step"], row["elapsed_seconds"]),
            steps=_of(row["step"], self._extent.steps),
            loss=_value_text(row),
            memory=memory_text(row),
        )
        if report:
            self._console.print(step_text(row, self._extent.steps))

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


def _value_text(row: Row) -> str:
    name = "objective" if "objective" in row else "loss"
    return f"{name} {row[name]:.4f}"


def step_text(row: Row, total: int | None) -> str:
    """Return a step's report on one line."""
    gradient = row["projected_gradient"]
    shown = "skipped" if gradient is None else f"g {gradient:+.3g}"
    return (
        f"step {_of(row['step'], total)}  {_value_text(row)}  lr {row['lr']:.2e}  {shown}  "
        f"{row['step_seconds']:.2f} s/step  {memory_text(row)}"
    )


def _of(step: int, total: int | None) -> str:
    return f"{step}/{total}" if total else str(step)


def evaluation_text(row: Row) -> str:
    """Return an evaluation's report on one line."""
    metrics = {name.removeprefix("eval_"): value for name, value in row.items() if name.startswith("eval_")}
    return f"step {row['step']}  eval  {'  '.join(metric_texts(metrics))}"


def memory_text(row: Row) -> str:
    """Return a step's peak of memory in MB (10^6 bytes), and that of a device's own."""
    there = row.get("peak_device_bytes")
    beside = "" if there is None else f" and {there / 1e6:.0f} MB on the device"
    return f"peak {row['peak_rss_bytes'] / 1e6:.0f} MB{beside}"
