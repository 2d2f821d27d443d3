"""The records of a journal as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from zoedge.runtime.records import Assign, Eval, Record, Step
from zoedge.runtime.run.journal import read_journal


def json_lines(path: Path) -> Iterator[str]:
    """Yield one JSON object per record, in order; losses that aren't finite come as null.

    Raises:
        BundleError: ``path`` is not a journal.
    """
    for record in read_journal(path).records:
        yield json.dumps(_plain(record))


def _plain(record: Record) -> dict[str, Any]:
    match record:
        case Step(step, lr, losses):
            return {"kind": "step", "step": step, "lr": lr, "losses": [_finite(loss) for loss in losses]}
        case Assign(step, slots):
            sizes = {
                slot: {name: value.size for name, value in values.items()} for slot, values in slots.items()
            }
            return {"kind": "assign", "step": step, "elements": sizes}
        case Eval(step, metrics):
            return {"kind": "eval", "step": step, "metrics": {k: _finite(v) for k, v in metrics.items()}}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
