"""Imports point one way: export and runtime lean on the shared core alone, and in each house floors on lower ones."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# from the ground up; a folder or file of runtime/ may import from its own floor and from those before it
FLOORS = (
    ("records", "machine", "adapters"),
    ("noise",),
    ("device",),
    ("data",),
    ("tasks",),
    ("spaces",),
    ("passes",),
    ("losses",),
    ("measuring",),
    ("run",),
    ("start",),
    ("outputs",),
    ("asked", "plan", "unused"),
    ("job", "loaded"),
    ("preflight",),
    ("bench", "doctor", "estimate", "evaluate", "generate", "replay", "tune"),
)
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}


def imports(path):
    """Absolute names of what a file imports from zoedge, but for what only type checkers need."""
    package = ["zoedge", *path.relative_to(ROOT).with_suffix("").parts]
    if package[1] == "zoedge":
        package = package[1:]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and id(node) not in typing_only:
            base = package[: -node.level] if node.level else []
            module = [*base, *(node.module or "").split(".")]
            if module and module[0] == "zoedge":
                module = [part for part in module if part]
                yield from ([*module, alias.name] for alias in node.names)


def files(folder):
    return sorted((ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize(("folder", "never"), [("runtime", "export"), ("export", "runtime")])
def test_the_two_sides_never_import_each_other(folder, never):
    found = [(str(path), name) for path in files(folder) for name in imports(path) if name[1] == never]
    assert found == []


def test_the_core_imports_neither_side_and_no_command_line():
    core = [
        p for p in files("zoedge") if "cli" not in p.parts and p.name not in ("__init__.py", "__main__.py")
    ]
    found = [(str(p), n) for p in core for n in imports(p) if n[1] in ("export", "runtime", "cli")]
    assert found == []


def test_every_room_of_the_runtime_has_a_floor():
    rooms = {
        p.stem if p.is_file() else p.name
        for p in (ROOT / "runtime").iterdir()
        if p.suffix == ".py" or p.is_dir()
    }
    assert rooms - {"__init__", "__pycache__"} <= FLOOR.keys()


@pytest.mark.parametrize("room", [name for names in FLOORS for name in names])
def test_no_room_of_the_runtime_leans_on_a_higher_floor(room):
    paths = files(f"runtime/{room}") or [ROOT / "runtime" / f"{room}.py"]
    found = [
        (str(path.relative_to(ROOT)), ".".join(name))
        for path in paths
        if path.exists()
        for name in imports(path)
        if name[1] == "runtime" and FLOOR.get(name[2], 0) > FLOOR[room]
    ]
    assert found == []


def test_no_public_class_has_the_name_of_another():
    homes = {}
    for path in (p for folder in ("zoedge", "export", "runtime") for p in files(folder)):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes.setdefault(node.name, []).append(str(path.relative_to(ROOT)))
    assert {name: places for name, places in homes.items() if len(places) > 1} == {}


# one body a form, a method or a compiled twin, called by one name through a table or a module
CONTRACTS = {"add_terms", "build"}


def test_no_public_function_has_the_name_of_another():
    """But for commands, which are called as what they run, and what several modules must have."""
    homes = {}
    for path in (p for folder in ("zoedge", "export", "runtime") for p in files(folder)):
        if "cli" in path.parts:
            continue
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            overloaded = any("overload" in ast.unparse(d) for d in getattr(node, "decorator_list", ()))
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_") and not overloaded:
                homes.setdefault(node.name, []).append(str(path.relative_to(ROOT)))
    twice = {name: places for name, places in homes.items() if len(places) > 1 and name not in CONTRACTS}
    assert twice == {}
