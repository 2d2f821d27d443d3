"""Runs the tests that need a GPU, and counts."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from xml.etree import ElementTree

ROOT = Path(__file__).parents[2]
_KEPT = 300  # characters of a failure


def run_tests(seconds: float) -> dict[str, Any]:
    """Run ``pytest -m gpu``; after so many seconds it is stopped, and what ran by then is not known.

    Returns:
        How many passed, failed, were skipped or could not run, the problems by test, and the seconds.
    """
    began = time.monotonic()
    with TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = (
            sys.executable,
            "-m",
            "pytest",
            "-m",
            "gpu",
            "-q",
            "-p",
            "no:cacheprovider",
            f"--junitxml={report}",
        )
        counts = {"passed": 0, "failed": 0, "skipped": 0, "errors": 0}
        problems: dict[str, str] = {}
        try:
            subprocess.run(
                (*command, str(ROOT / "tests" / "gpu")), cwd=ROOT, timeout=seconds, stdout=sys.stderr
            )
        except subprocess.TimeoutExpired:
            problems["pytest"] = f"stopped after {seconds:.0f} seconds"
            counts["errors"] = 1
        cases = ElementTree.parse(report).iter("testcase") if report.exists() else ()
        for case in cases:
            kind, why = _outcome(case)
            counts[kind] += 1
            if kind != "passed":
                problems[f"{case.get('classname')}::{case.get('name')}"] = why[:_KEPT]
    return {**counts, "problems": problems, "seconds": time.monotonic() - began}


def _outcome(case: ElementTree.Element) -> tuple[str, str]:
    for tag, kind in (("failure", "failed"), ("error", "errors"), ("skipped", "skipped")):
        found = case.find(tag)
        if found is not None:
            return kind, " ".join((found.get("message") or found.text or "").split())
    return "passed", ""
