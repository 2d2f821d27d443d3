"""Ctrl-C and SIGTERM wait for the end of a step, so that what is saved is whole."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupt:
    """Set once a signal has come; a second one isn't held back."""

    def __init__(self) -> None:
        self.requested = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True


@contextmanager
def interrupts_held() -> Iterator[Interrupt]:
    """Hold back interrupts inside the block; outside the main thread, where signals can't be caught, do nothing."""
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return
    old = {number: signal.signal(number, interrupt._handle) for number in _SIGNALS}
    try:
        yield interrupt
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
