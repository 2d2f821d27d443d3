"""What a GPU makes of it: passes, steps, noise and memory beside plain onnxruntime-gpu and torch.

    python benchmarks/on_gpu.py make FOLDER                                 # the bundles, exported on the processor
    python benchmarks/on_gpu.py measure --bundles FOLDER --json FILE [--sections steps,points,large,noise]
    python benchmarks/on_gpu.py check --bundles FOLDER                      # the tests for GPUs, and all of that
    python benchmarks/on_gpu.py table FILE                                  # a JSON file as Markdown

``check`` writes gpu-check.json and gpu-check.md. Bundles that are missing are exported first, which takes minutes and
needs `zoedge[export]`. ``--provider cpu --family tiny`` tries all of it but CUDA on small models.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from gpu import bundles, measure
from gpu.names import BUNDLES, FAMILIES
from gpu.table import markdown
from gpu.tests import run_tests
from gpu.variant import Place


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    make = verbs.add_parser("make")
    make.add_argument("folder", type=Path)
    make.add_argument("--only", default=",".join(BUNDLES))
    make.add_argument("--family", choices=FAMILIES, default="opt")
    table = verbs.add_parser("table")
    table.add_argument("file", type=Path)
    for name in ("measure", "check"):
        verb = verbs.add_parser(name)
        verb.add_argument("--bundles", type=Path, required=True)
        verb.add_argument("--json", type=Path, default=Path("gpu-check.json"))
        verb.add_argument("--markdown", type=Path, default=Path("gpu-check.md"))
        verb.add_argument("--sections", default="", help="beginnings of names")
        verb.add_argument("--seconds", type=float, default=330.0, help="for all of it")
        verb.add_argument("--patience", type=float, default=1.0, help="multiplies the limits of sections")
        verb.add_argument("--provider", choices=("cuda", "cpu"), default="cuda")
        verb.add_argument("--family", choices=FAMILIES, default="opt")
    given = parser.parse_args()
    if given.verb == "make":
        bundles.make(given.folder.resolve(), given.family, given.only.split(","))
    elif given.verb == "table":
        print(markdown(json.loads(given.file.read_text(encoding="utf-8"))), end="")
    else:
        sys.exit(_measure(given))


def _check_gpu() -> None:
    """Stop where nothing can be run on a GPU."""
    from zoedge.errors import ZoedgeError
    from zoedge.runtime.device.cuda_missing import check_wheel

    try:
        check_wheel()
    except ZoedgeError as error:
        raise SystemExit(str(error)) from error


def _measure(given: argparse.Namespace) -> int:
    """Measure, and test before where asked to; return 1 where something failed."""
    folder = given.bundles.resolve()
    if given.provider == "cuda":
        _check_gpu()
    wanted = measure.chosen(measure.sections(given.family, given.patience), given.sections)
    bundles.make(folder, given.family, bundles.missing(folder, given.family))
    seconds, tests = given.seconds, None
    if given.verb == "check":
        tests = run_tests(folder, seconds * 0.45)
        seconds -= tests["seconds"]

    def keep(result: dict[str, object]) -> None:
        whole = {**result, "tests": tests}
        measure.write(given.json, whole)
        given.markdown.write_text(markdown(whole), encoding="utf-8")

    with TemporaryDirectory() as work:
        place = Place(given.provider, folder, Path(work), given.family)
        result = measure.run_all(wanted, place, Path(work), seconds, keep)
    print(markdown({**result, "tests": tests}), end="")
    failed = [s for s in result["sections"] if "failed" in s or any(v["failed"] for v in s["variants"])]
    return int(bool(failed) or bool(tests and (tests["failed"] or tests["errors"] or not tests["passed"])))


if __name__ == "__main__":
    main()
