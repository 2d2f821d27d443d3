"""Starting workers, telling them to step in turn, and watching their memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PAUSE_SECONDS = 0.1  # before a step: threads of the step before have stopped spinning
SAMPLE_SECONDS = 0.002
WARM_UP = 2  # steps that are not timed, during which memory is sampled


def command(module: str, *arguments: str) -> tuple[str, ...]:
    """Return the command line that runs a module of this package."""
    return (sys.executable, "-P", "-m", f"variants.{module}", *arguments)


def environment() -> dict[str, str]:
    """Return this process's environment, with this package to be found."""
    found = [str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, found))}


@dataclass
class Measured:
    """What one process said and held.

    Attributes:
        variant: its name.
        loss: of the first batch at the weights it began with.
        passes: of a step, in words.
        seconds: of the timed steps.
        rss: peak of the resident set, bytes.
        anon_start, anon_steps: peak of anonymous memory until it was ready, and in steps, bytes.
    """

    variant: str
    loss: float = 0.0
    passes: str = ""
    seconds: list[float] = field(default_factory=list)
    rss: int = 0
    anon_start: int = 0
    anon_steps: int = 0

    @property
    def anon(self) -> int:
        return max(self.anon_start, self.anon_steps)


class Worker:
    """A variant's process; use as a context."""

    def __init__(self, variant: str, folder: Path, data: Path) -> None:
        self.measured = Measured(variant)
        self._process = subprocess.Popen(
            command("worker", variant, str(folder), str(data)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(),
        )
        with _AnonPeak(self._process.pid) as anon:
            first = self._answer()
        self.measured.loss, self.measured.passes = first["loss"], first["passes"]
        self.measured.anon_start = anon.peak

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill() if sys.exc_info()[0] else self._process.stdin.close()  # type: ignore[union-attr]
        self._process.wait()
        self._process.stdout.close()  # type: ignore[union-attr]

    def warm_up(self) -> None:
        """Take the first steps, and look at the memory they need."""
        with _AnonPeak(self._process.pid) as anon:
            for _ in range(WARM_UP):
                self._step()
        self.measured.anon_steps = anon.peak

    def timed_step(self) -> None:
        time.sleep(PAUSE_SECONDS)
        self.measured.seconds.append(self._step())
        self.measured.rss = _status(self._process.pid, "VmHWM")

    def _step(self) -> float:
        self._process.stdin.write("step\n")  # type: ignore[union-attr]
        self._process.stdin.flush()  # type: ignore[union-attr]
        return float(self._answer()["seconds"])

    def _answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline()  # type: ignore[union-attr]
        if not line:
            raise SystemExit(f"{self.measured.variant} ended with status {self._process.wait()}")
        return dict(json.loads(line))


def alternate(variants: Sequence[str], folder: Path, data: Path, rounds: int) -> list[Measured]:
    """Let processes of all variants take one step each, round by round, in alternating order."""
    with ExitStack() as stack:
        workers = []
        for variant in variants:
            workers.append(stack.enter_context(Worker(variant, folder, data)))
            workers[-1].warm_up()
        for n in range(rounds):
            for worker in workers if n % 2 == 0 else reversed(workers):
                worker.timed_step()
        return [worker.measured for worker in workers]


class _AnonPeak:
    """Samples a process's anonymous memory from a thread of this one."""

    def __init__(self, pid: int) -> None:
        self.peak = 0
        self._pid, self._done = pid, threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> _AnonPeak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            self.peak = max(self.peak, _status(self._pid, "RssAnon"))
            if self._done.wait(SAMPLE_SECONDS):
                return


def _status(pid: int, key: str) -> int:
    """Return a line of /proc/PID/status in bytes; 0 once the process is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:")), 0)
