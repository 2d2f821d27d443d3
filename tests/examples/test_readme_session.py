"""The session of the README, as somebody would paste it."""

import json
import re
import shlex
from pathlib import Path

import pytest

from tests.zoedge.commands import run

ROOT = Path(__file__).parents[2]
SESSION = re.search(r"## A session to paste.*?```\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]


def shown():
    """Command -> the lines that follow it."""
    found = {}
    for line in SESSION.splitlines():
        if line.startswith("$ "):
            lines = found[line[2:]] = []
        else:
            lines.append(line)
    return found


def numbers_left_out(text):
    return re.sub(r"[-+]?[0-9][0-9.,e+-]*", "#", text)


def test_every_command_works_and_prints_what_is_shown(tmp_path, monkeypatch):
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    commands = shown()
    for command, lines in commands.items():
        program, *arguments = shlex.split(command)
        if program == "pip":
            continue
        output = run(*arguments).output
        if lines:
            shape = [numbers_left_out(line) for line in output.splitlines()]
            assert shape == [numbers_left_out(line) for line in lines], command
    before, after = (
        json.loads(run("eval", what, "--data", "examples/wine/test.csv", "--json").stdout)["accuracy"]
        for what in ("bundle", "run")
    )
    assert before == pytest.approx(0.58, abs=0.05)
    assert after > 0.85


def test_the_session_is_about_these_commands():
    assert [c.split()[1] for c in shown()] == ["install", "export", "eval", "tune", "eval", "merge"]
