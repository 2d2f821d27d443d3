"""A variant in a process of its own, told over a pipe what to do: a line asked, a line of JSON answered.

``python -m gpu.worker VARIANT PROVIDER BUNDLES DATA FAMILY`` imports and reads; ``build`` makes it ready and tells the
memory that it took; ``turn N`` does each part once untimed and N times in a row timed.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpu.clock import Peak
from gpu.variant import Place, Variant
from gpu.variants import VARIANTS


def answer_all(variant: Variant, tell: Any) -> None:
    """Do what is asked until there is no more."""
    for line in sys.stdin:
        verb, *arguments = line.split()
        if verb == "build":
            tell(_built(variant))
        else:
            tell(_turn(variant, int(arguments[0])))


def _built(variant: Variant) -> Mapping[str, Any]:
    clock = variant.clock
    with Peak(clock) as peak:
        variant.build()
        loss = variant.loss()
        for part in variant.parts.values():
            clock.time(part, 2)
    return {
        "memory": peak.bytes,
        "loss": loss,
        "passes": variant.passes,
        "notes": variant.notes,
        "elements": getattr(variant, "elements", {}),
    }


def _turn(variant: Variant, times: int) -> Mapping[str, Any]:
    found = {}
    for name, part in variant.parts.items():
        part()  # after a pause, or after another part
        found[name] = variant.clock.time(part, times)._asdict()
    return {"parts": found}


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a library prints goes to standard error

    def tell(what: Mapping[str, Any]) -> None:
        answers.write(json.dumps(what) + "\n")

    name, provider, bundles, data, family = sys.argv[1:]
    try:
        place = Place(provider, Path(bundles), Path(data), family)
        variant = VARIANTS[name](place)
        tell({"ready": True})
        answer_all(variant, tell)
    except BaseException:  # told to who reads the table, not only to who watches
        tell({"failed": traceback.format_exc(limit=-6)})
        raise


if __name__ == "__main__":
    main()
