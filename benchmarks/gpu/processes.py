"""Processes of variants that take turns: while one works, the others wait without touching the hardware."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import msgspec
from variants.processes import environment

from gpu.variant import Place

STEPS = 5  # in a row, timed together: as in a run, where the next begins before all of the last is done
GRACE_SECONDS = 5.0  # for what was begun in time
_KEPT = 1500  # characters of a failure


class Figures(msgspec.Struct):
    """What one variant's process said.

    Attributes:
        variant: its name.
        passes: of a step, in words.
        loss: of the first batch.
        memory: the most that it took while it was built and first ran, bytes; 0 where others worked beside.
        wall, gpu: name of a part -> the seconds of one execution, a number a round.
        elements: name of a part -> elements that it changes, where that is what it is about.
        notes: sentences.
        failed: what was said when it failed; "" where it didn't.
    """

    variant: str
    passes: str = ""
    loss: float = 0.0
    memory: int = 0
    wall: dict[str, list[float]] = {}
    gpu: dict[str, list[float]] = {}
    elements: dict[str, int] = {}
    notes: list[str] = []
    failed: str = ""


class Worker:
    """One variant's process; use as a context. What goes wrong with it is kept in its figures, and ends it.

    Args:
        variant: its name.
        place: where it is run.
        until: the time (``time.monotonic``) after which it isn't waited for.
    """

    def __init__(self, variant: str, place: Place, until: float) -> None:
        self.figures = Figures(variant)
        self._until = until
        self._errors = TemporaryFile("w+")  # noqa: SIM115
        where = (str(place.bundles), str(place.data), place.family)
        self._process = subprocess.Popen(
            (sys.executable, "-P", "-m", "gpu.worker", variant, place.provider, *where),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=environment(),
        )
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._errors.close()

    @property
    def alive(self) -> bool:
        """Whether it may be asked for more."""
        return not self.figures.failed

    def ready(self) -> None:
        """Wait until everything is imported and read."""
        self._answer()

    def ask_build(self) -> None:
        """Tell it to build."""
        self._ask("build")

    def built(self, *, alone: bool) -> None:
        """Wait until it is built; its memory counts where it was alone."""
        if told := self._answer():
            f = self.figures
            f.loss, f.passes, f.notes, f.elements = (told[n] for n in ("loss", "passes", "notes", "elements"))
            f.memory = told["memory"] if alone else 0

    def turn(self) -> None:
        """Let it do its parts."""
        self._ask(f"turn {STEPS}")
        told = self._answer()
        for name, took in told["parts"].items() if told else ():
            self.figures.wall.setdefault(name, []).append(took["wall"])
            self.figures.gpu.setdefault(name, []).append(took["gpu"])

    def _ask(self, line: str) -> None:
        if not self.alive:
            return
        try:
            self._process.stdin.write(f"{line}\n")  # type: ignore[union-attr]
            self._process.stdin.flush()  # type: ignore[union-attr]
        except OSError:
            self._fail("it was gone when it was asked to go on")

    def _answer(self) -> dict[str, Any] | None:
        if not self.alive:
            return None
        try:
            line = self._lines.get(timeout=max(GRACE_SECONDS, self._until - time.monotonic()))
        except queue.Empty:
            self._fail("it took longer than this section may")
            return None
        if not line:
            self._fail(f"its process ended with status {self._process.wait()}")
            return None
        told: dict[str, Any] = json.loads(line)
        if "failed" in told:
            self._fail(told["failed"])
            return None
        return told

    def _fail(self, why: str) -> None:
        self._errors.seek(0)
        said = self._errors.read()[-_KEPT:]
        self.figures.failed = f"{why[-_KEPT:]}\n{said}".strip()
        self._process.kill()

    def _listen(self) -> None:
        for line in self._process.stdout or ():
            self._lines.put(line)
        self._lines.put("")


def measured(
    variants: Sequence[str], place: Place, rounds: int, until: float, *, memory: bool
) -> list[Figures]:
    """Let processes of all variants take turns, round by round, in alternating order.

    Args:
        variants: their names.
        place: where they run.
        rounds: how many turns each takes.
        until: the time (``time.monotonic``) after which no more turns are taken.
        memory: whether they are built one after the other, so that what each takes is known.
    """
    with _workers(variants, place, until) as workers:
        for worker in workers:
            if memory:
                worker.ask_build()
                worker.built(alone=True)
        for worker in [] if memory else workers:
            worker.ask_build()
        for worker in [] if memory else workers:
            worker.built(alone=False)
        for n in range(rounds):
            if time.monotonic() > until:
                break
            for worker in workers if n % 2 == 0 else reversed(workers):
                worker.turn()
        return [worker.figures for worker in workers]


@contextmanager
def _workers(variants: Sequence[str], place: Place, until: float) -> Iterator[list[Worker]]:
    """Start all processes at once; reading and importing they do beside one another."""
    with ExitStack() as stack:
        workers = [stack.enter_context(Worker(variant, place, until)) for variant in variants]
        for worker in workers:
            worker.ready()
        yield workers


def data_folder(work: Path, shape: Any) -> Path:
    """Return a folder with the rows of a shape."""
    from variants.shapes import make_data

    folder = work / f"{shape.batch}x{shape.tokens}"
    folder.mkdir(parents=True, exist_ok=True)
    make_data(shape, folder)
    return folder
