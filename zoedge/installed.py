"""What is known of this installation: its version, and the pip line that adds to it."""

from __future__ import annotations

import configparser
import re
from importlib import import_module
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

_NAME = "zoedge"
_OF_EXTRA = re.compile(r"""^(?P<what>[^;]+);\s*extra\s*==\s*["'](?P<extra>[\w-]+)["']$""")


def version() -> str:
    """Return zoedge's version; "0" for a clone that was never installed."""
    found = _found()
    return found.version if found is not None else "0"


def module_version(module: str) -> str:
    """Return what an installed module says of its version: wheels of several names bring onnxruntime."""
    return str(import_module(module).__version__)


def pip_line(extra: str) -> str:
    """Return the command that installs what an extra needs.

    From an index that is the extra itself. A clone can't be named by its distribution, so there it is the packages
    themselves, with the bounds that the extra sets.
    """
    found = _found()
    if found is not None and _from_index(found):
        return f"pip install '{_NAME}[{extra}]'"
    wanted = _requirements(found, extra)
    return "pip install " + " ".join(f"'{each}'" for each in wanted or [f"{_NAME}[{extra}]"])


def _from_index(found: Distribution) -> bool:
    # a clone's own folder holds metadata without a record of installed files
    return found.read_text("RECORD") is not None and found.read_text("direct_url.json") is None


def _requirements(found: Distribution | None, extra: str) -> list[str]:
    """Return the requirements of an extra, without those of extras in it."""
    if found is None:
        return _of_clone(extra)
    matches = [_OF_EXTRA.match(each) for each in found.requires or []]
    return [match["what"].strip() for match in matches if match and match["extra"] == extra]


def _of_clone(extra: str) -> list[str]:
    """Return the requirements of an extra where Python finds this package in a clone and none is installed."""
    settings = configparser.ConfigParser()
    settings.read(Path(__file__).parent.parent / "setup.cfg", encoding="utf-8")
    return settings.get("options.extras_require", extra, fallback="").split("\n")[1:]


def _found() -> Distribution | None:
    try:
        return distribution(_NAME)
    except PackageNotFoundError:
        return None
