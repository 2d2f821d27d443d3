"""Runs the tests that need a GPU, and counts."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from xml.etree import ElementTree

ROOT = Path(__file__).parents[2]
BUNDLES = "tests"  # the folder of the tests' bundles, beside those that are measured
_TESTS = ROOT / "tests" / "gpu"
_ALONE = _TESTS / "test_memory.py"  # looks at what all processes take
_WORKERS = ("--numprocesses", "4", "--dist", "load")
_KEPT = 300  # characters of a failure


def run_tests(bundles: Path, seconds: float) -> dict[str, Any]:
    """Run ``pytest -m gpu``; after so many seconds it is stopped, and what ran by then is not known.

    Args:
        bundles: the folder of the bundles that are measured.
        seconds: that all tests may take.

    Returns:
        How many passed, failed, were skipped or could not run, the problems by test, and the seconds.
    """
    began = time.monotonic()
    counts = {"passed": 0, "failed": 0, "skipped": 0, "errors": 0}
    problems: dict[str, str] = {}
    environment = dict(os.environ)
    if (bundles / BUNDLES).is_dir():
        environment["ZOEDGE_GPU_BUNDLES"] = str(bundles / BUNDLES)
    for what in ((str(_TESTS), f"--ignore={_ALONE}", *_WORKERS), (str(_ALONE),)):
        left = max(20.0, seconds - (time.monotonic() - began))
        for name, (kind, why) in _run(what, environment, left).items():
            counts[kind] += 1
            if kind != "passed":
                problems[name] = why[:_KEPT]
    return {**counts, "problems": problems, "seconds": time.monotonic() - began}


def _run(what: tuple[str, ...], environment: dict[str, str], seconds: float) -> dict[str, tuple[str, str]]:
    """Return test -> its outcome and what is said about it."""
    with TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = (sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider")
        found: dict[str, tuple[str, str]] = {}
        try:
            subprocess.run(
                (*command, f"--junitxml={report}", *what),
                cwd=ROOT,
                env=environment,
                timeout=seconds,
                stdout=sys.stderr,
            )
        except subprocess.TimeoutExpired:
            found[f"pytest {what[0]}"] = ("errors", f"stopped after {seconds:.0f} seconds")
        if report.exists():
            for case in ElementTree.parse(report).iter("testcase"):
                found[f"{case.get('classname')}::{case.get('name')}"] = _outcome(case)
        return found


def _outcome(case: ElementTree.Element) -> tuple[str, str]:
    for tag, kind in (("failure", "failed"), ("error", "errors"), ("skipped", "skipped")):
        found = case.find(tag)
        if found is not None:
            return kind, " ".join((found.get("message") or found.text or "").split())
    return "passed", ""
