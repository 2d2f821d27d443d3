"""A trial of a run in a process of its own, so that what it took is known and given back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from zoedge.errors import InputError, RefusedError, ZoedgeError

from ..data.in_memory import InMemory
from ..device import Device, open_device
from ..machine.limits import Kind
from .trial import Ask, Trial, try_out

# exit codes of a child that would take more memory than it may, by the kind of memory
_STOPPED: dict[Kind, int] = {"anonymous": 75, "device": 76}
_CHECK_SECONDS = 0.005


class TooMuchError(RefusedError):
    """Raised where a rehearsal took more memory of a kind than there is."""

    def __init__(self, kind: Kind) -> None:
        place = "of the device " if kind == "device" else ""
        super().__init__(f"a rehearsal of the run took more memory {place}than this process may hold")
        self.kind: Kind = kind


def rehearse(ask: Ask) -> Trial:
    """Try a run out in a child process.

    Raises:
        TooMuchError: the child would have held more than it may, or the system stopped it.
        InputError: something given can't be used.
    """
    code = "import json, sys; sys.path[:] = json.loads(sys.stdin.readline()); "
    code += "from zoedge.runtime.preflight.rehearsal import rehearsal_main; rehearsal_main()"
    with _on_disk(ask) as sent:
        done = subprocess.run(
            [sys.executable, "-c", code],
            input=json.dumps(sys.path) + "\n" + msgspec.json.encode(sent).decode(),
            text=True,
            capture_output=True,
            check=False,
        )
    if done.returncode == 0:
        return msgspec.json.decode(done.stdout.splitlines()[-1], type=Trial)
    kinds = {code: kind for kind, code in _STOPPED.items()}
    if done.returncode in kinds or done.returncode < 0:
        raise TooMuchError(kinds.get(done.returncode, "anonymous"))
    last = (done.stderr.strip().splitlines() or [f"the rehearsal ended with exit code {done.returncode}"])[-1]
    raise (InputError if done.returncode == InputError.exit_code else ZoedgeError)(last)


@contextmanager
def _on_disk(ask: Ask) -> Iterator[Ask]:
    """Yield what to send to a child, with rows in memory written to a file for as long."""
    if not isinstance(ask.data, InMemory):
        yield ask
        return
    with TemporaryDirectory(prefix="zoedge.") as folder:  # for this user alone
        path = Path(folder) / "rows"
        ask.data.save(path)
        yield msgspec.structs.replace(ask, data=str(path), in_memory=True)


def rehearsal_main() -> None:
    """Be the child: read an ``Ask``, print a ``Trial``."""
    started = time.time() - _age()
    ask = msgspec.json.decode(sys.stdin.read(), type=Ask)
    _go_first()
    import rich.progress  # noqa: F401  a run has it loaded

    try:
        trial = _watched(ask, started)
    except ZoedgeError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    print(msgspec.json.encode(trial).decode())


def _watched(ask: Ask, started: float) -> Trial:
    """Return what a trial sees; end this process where that takes more memory than it may."""
    options = ask.options
    device = open_device(options.provider, options.threads, options.precision)
    if ask.may_hold:
        threading.Thread(target=_stop_above, args=(device, ask.may_hold), daemon=True).start()
    try:
        return try_out(ask, device, started)
    except (MemoryError, ZoedgeError) as error:
        if device.out_of_memory(error):
            os._exit(_STOPPED["device" if device.own_memory else "anonymous"])
        if isinstance(error, MemoryError):
            os._exit(_STOPPED["anonymous"])
        raise


def _go_first() -> None:
    """Be what the system kills before the process that asked, should memory run out."""
    path = Path("/proc/self/oom_score_adj")
    if path.exists():
        path.write_text("1000", encoding="ascii")


def _stop_above(device: Device, most: Mapping[Kind, int]) -> None:
    while True:
        held = device.held()
        for kind, bytes_ in most.items():
            if getattr(held, kind) > bytes_:
                os._exit(_STOPPED[kind])
        time.sleep(_CHECK_SECONDS)


def _age() -> float:
    """Return the seconds since this process began; 0 where the system doesn't say."""
    stat = Path("/proc/self/stat")
    if not stat.exists():
        return 0.0
    ticks = float(stat.read_text(encoding="ascii").rpartition(")")[2].split()[19])
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK"))
