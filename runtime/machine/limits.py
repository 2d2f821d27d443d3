"""What memory this process may still take: the limits of its control group, of itself, and of the machine."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Literal, NamedTuple

from .memory import Held

Kind = Literal["anonymous", "data", "address", "device"]
_UNLIMITED = 1 << 60  # version 1 control groups write a number near 2^63 for no limit


class Limit(NamedTuple):
    """A limit; ``allowed`` is how many bytes of its kind this process may hold in all.

    ``kind`` is the attribute of ``Held`` that it bounds, ``name`` what messages call it.
    """

    name: str
    kind: Kind
    allowed: int


def limits(now: Held, *, root: Path = Path("/")) -> list[Limit]:
    """Return every limit that is set; none where the system doesn't say.

    Args:
        now: what this process holds.
        root: where /proc and /sys lie.
    """
    found = [*_of_group(root, now), *_of_process(now)]
    free = _meminfo(root)
    if free is not None:
        found.append(Limit("memory available on this machine", "anonymous", now.anonymous + free))
    return found


def _of_process(now: Held) -> list[Limit]:
    found: list[Limit] = []
    pairs: tuple[tuple[str, int, Kind], ...] = (
        ("RLIMIT_DATA", resource.RLIMIT_DATA, "data"),
        ("RLIMIT_AS", resource.RLIMIT_AS, "address"),
    )
    for name, number, kind in pairs:
        soft = resource.getrlimit(number)[0]
        if soft != resource.RLIM_INFINITY:
            found.append(Limit(name, kind, soft))
    return found


def _of_group(root: Path, now: Held) -> list[Limit]:
    left = [value for value in (_version_2(root), _version_1(root)) if value is not None]
    return [Limit("limit of the control group", "anonymous", now.anonymous + min(left))] if left else []


def _version_2(root: Path) -> int | None:
    """Return what the group and those above it leave; pages of files are counted as free."""
    base = root / "sys/fs/cgroup"
    group = _group(root, "")
    if group is None:
        return None
    folders = [base / group, *(base / group).parents]
    left = []
    for folder in folders[: len(Path(group).parts) + 1]:
        most, used = _number(folder / "memory.max"), _number(folder / "memory.current")
        if most is not None and used is not None:
            left.append(most - used + _file_pages(folder / "memory.stat", ""))
    return min(left) if left else None


def _version_1(root: Path) -> int | None:
    group = _group(root, "memory")
    if group is None:
        return None
    base = root / "sys/fs/cgroup/memory"
    # inside a container the group's own folder is the mount's root
    folder = base / group if (base / group / "memory.stat").is_file() else base
    most, used = _stat(folder / "memory.stat").get("hierarchical_memory_limit"), None
    if most is None or most >= _UNLIMITED:
        return None
    used = _number(folder / "memory.usage_in_bytes")
    return None if used is None else most - used + _file_pages(folder / "memory.stat", "total_")


def _group(root: Path, controller: str) -> str | None:
    """Return the group of this process in the hierarchy of a controller, relative; "" names version 2's."""
    path = root / "proc/self/cgroup"
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        _, controllers, group = line.split(":", 2)
        if controller in controllers.split(",") if controller else not controllers:
            return group.lstrip("/")
    return None


def _file_pages(path: Path, prefix: str) -> int:
    stat = _stat(path)
    return sum(stat.get(f"{prefix}{name}", 0) for name in ("inactive_file", "active_file"))


def _stat(path: Path) -> dict[str, int]:
    if not path.is_file():
        return {}
    pairs = (line.split() for line in path.read_text(encoding="ascii").splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2}


def _number(path: Path) -> int | None:
    """Return the number a file holds; None where there is none ("max")."""
    text = path.read_text(encoding="ascii").strip() if path.is_file() else ""
    return int(text) if text.isdigit() and int(text) < _UNLIMITED else None


def _meminfo(root: Path) -> int | None:
    path = root / "proc/meminfo"
    for line in path.read_text(encoding="ascii").splitlines() if path.is_file() else []:
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return 1024 * int(value.split()[0])
    return None
