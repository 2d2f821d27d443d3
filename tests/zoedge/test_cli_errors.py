import errno
import json
import os
import subprocess
import sys

import pytest
import yaml
from click.testing import CliRunner

from tests.builders.hand_bundle import hand_bundle
from tests.zoedge.commands import error, run
from zoedge.cli.main import failure, main
from zoedge.errors import RefusedError, ZoedgeError
from zoedge.manifest import FORMAT_VERSION
from zoedge.methods import RECIPES

BAD = {
    "no such folder": (
        ["eval", "{tmp}/no", "-d", "x"],
        "{tmp}/no does not exist: give a bundle (zoedge export) or a run (zoedge tune)",
    ),
    "not a run": (
        ["merge", "{tmp}", "-o", "{tmp}/m"],
        "{tmp} is not a run folder: it has no config.yaml (zoedge tune BUNDLE -o RUN makes one)",
    ),
    "inspect nothing": (
        ["inspect", "{tmp}/no"],
        "{tmp}/no does not exist: give a bundle, a run or a journal",
    ),
    "inspect other": (
        ["inspect", "{tmp}"],
        "{tmp} has neither bundle.json nor config.yaml: give a bundle, a run or a journal",
    ),
    "no bundle": (
        ["tune", "-d", "x", "-o", "{tmp}/r"],
        "no BUNDLE is given: zoedge tune BUNDLE --data DATA -o RUN (zoedge export makes bundles)",
    ),
    "no data": (
        ["tune", "b", "-o", "{tmp}/r"],
        "no --data is given: name the rows to tune b on, like --data rows.csv",
    ),
    "run exists": (
        ["tune", "{made}/bundle", "-d", "{made}/data.npz", "-o", "{made}/run"],
        "{made}/run holds a run already: continue it with --resume or choose another -o",
    ),
    "resumed otherwise": (
        ["tune", "--resume", "-o", "{made}/run", "--eps", "0.5"],
        "--eps 0.5 differs from the 0.01 that {made}/run was started with: "
        "leave it out to resume, or choose another -o",
    ),
    "resumed with a default": (
        ["tune", "--resume", "-o", "{made}/run", "--batch-size", "16"],
        "--batch-size 16 differs from the 8 that {made}/run was started with: "
        "leave it out to resume, or choose another -o",
    ),
    "range": (["tune", "b", "-d", "x", "-o", "{tmp}/r", "--lr", "0"], "--lr is 0.0 and must be above 0"),
    "large batch": (
        ["tune", "{made}/bundle", "-d", "{made}/data.npz", "-o", "{tmp}/r", "--batch-size", "64"],
        "--batch-size 64 is larger than the 54 training rows: use at most 54",
    ),
    "method": (
        ["tune", "{made}/bundle", "-d", "{made}/data.npz", "-o", "{tmp}/r", "--method", "mezzo"],
        "--method 'mezzo' is not a method; did you mean mezo, meazo, lezo? (methods: "
        f"{', '.join(sorted(RECIPES))})",
    ),
    "missing data": (
        ["eval", "{made}/bundle", "-d", "{tmp}/no.csv"],
        "{tmp}/no.csv does not exist: check the path",
    ),
    "which of a bundle": (
        ["eval", "{made}/bundle", "-d", "{made}/data.npz", "--which", "last"],
        "--which last is of a run's weights, and {made}/bundle is a bundle: leave it out",
    ),
    "texts and data": (
        ["predict", "{made}/run", "text", "-d", "x"],
        "give either texts or --data: zoedge predict RUN TEXT... or zoedge predict RUN --data DATA",
    ),
    "neither": (
        ["predict", "{made}/run"],
        "give either texts or --data: zoedge predict RUN TEXT... or zoedge predict RUN --data DATA",
    ),
    "a text with a dash": (
        ["predict", "{made}/run", "A film.", "- dull"],
        "No such option '- '. A text that begins with a dash stands behind --: zoedge predict RUN -- '- dull'",
    ),
    "a flag for predict": (
        ["predict", "{made}/run", "--splt", "test"],
        "No such option '--splt'. Did you mean '--split'?",
    ),
    "a short name": (["tune", "b", "--bs", "1"], "there is no --bs; here it is --batch-size"),
    "unknown command": (["tunes"], "No such command 'tunes'. Did you mean 'tune'?"),
    "unknown flag": (["tune", "b", "--lrr", "1"], "No such option '--lrr'. Did you mean '--lr'?"),
    "no output": (["merge", "r"], "Missing option '-o' / '--out'."),
    "too many steps": (
        ["replay", "{made}/run", "-o", "{tmp}/w", "--steps", "7"],
        "--steps 7 is more than the 6 that {made}/run took: give at most 6",
    ),
    "output exists": (
        ["merge", "{made}/run", "-o", "{made}/bundle"],
        "{made}/bundle exists already: choose another output folder or remove it first",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_sentence(made, tmp_path, name):
    arguments, message = BAD[name]
    places = {"made": made, "tmp": tmp_path}
    assert error(*(a.format(**places) for a in arguments)) == f"Error: {message.format(**places)}\n"
    assert list(tmp_path.iterdir()) == []  # nothing half-written


def test_a_corrupt_weights_file(made, tmp_path):
    folder = hand_bundle(tmp_path / "bundle").folder
    with (folder / "weights.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x7f")
    message = error("eval", folder, "-d", made / "data.npz")
    path = folder / "weights.safetensors"
    assert (
        message
        == f"Error: {path} is not the file that was exported (its SHA-256 differs): copy or export it again\n"
    )


def test_a_newer_bundle(made, tmp_path):
    path = tmp_path / "bundle.json"
    path.write_text('{"format": 99}')
    message = f"Error: {path} has format 99, and this zoedge reads up to {FORMAT_VERSION}: upgrade zoedge\n"
    assert error("eval", tmp_path, "-d", made / "data.npz") == message


def test_a_bundle_that_is_gone(made, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    config = yaml.safe_load((made / "run" / "config.yaml").read_text()) | {"bundle": str(tmp_path / "gone")}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    assert error("replay", folder, "-o", tmp_path / "again") == (
        f"Error: {folder} was tuned from {tmp_path / 'gone'}, which is gone: "
        f"put the bundle back or correct 'bundle' in {folder / 'config.yaml'}\n"
    )


def _fail_with(monkeypatch, raised):
    def fail(*arguments, **settings):
        raise raised

    monkeypatch.setattr("zoedge.runtime.replay.replay", fail)


@pytest.mark.parametrize(
    ("raised", "code", "message"),
    [
        (ZoedgeError("no finite loss"), 1, "no finite loss"),
        (RefusedError("too little memory"), 3, "too little memory"),
        (OSError(errno.ENOSPC, "No space left on device", "/data/run"), 1,
         "/data/run: No space left on device: free some space or write elsewhere"),
        (PermissionError(errno.EACCES, "Permission denied", "/elsewhere/x"), 1,
         "/elsewhere/x: Permission denied: check its permissions or choose another path"),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "/data"), 1, "/data: Is a directory"),
        (MemoryError(), 1, "not enough memory: lower --micro-batch-size, or tune fewer tensors"),
        (RuntimeError("a\nbug"), 1, "unexpected RuntimeError: a bug (zoedge --debug shows where)"),
    ],
)  # fmt: skip
def test_failures_are_one_sentence(monkeypatch, tmp_path, raised, code, message):
    _fail_with(monkeypatch, raised)
    assert error("replay", "run", "-o", tmp_path / "x", code=code) == f"Error: {message}\n"


@pytest.mark.parametrize(
    "arguments", [["--debug", "replay", "run", "-o", "x"], ["replay", "run", "-o", "x", "--debug"]]
)
def test_debug_shows_the_traceback(monkeypatch, arguments):
    _fail_with(monkeypatch, RuntimeError("a bug"))
    result = CliRunner().invoke(main, arguments)
    assert isinstance(result.exception, RuntimeError)
    assert result.exit_code == 1


def test_an_interrupt_anywhere_is_130(monkeypatch, tmp_path):
    _fail_with(monkeypatch, KeyboardInterrupt())
    assert run("replay", "run", "-o", tmp_path / "x", code=130).output == ""


def test_a_reader_that_goes_away_is_no_error_of_ours(made):
    done = subprocess.run(
        f"{sys.executable} -m zoedge inspect {made / 'run'} --records | head -1; exit ${{PIPESTATUS[0]}}",
        shell=True, executable="/bin/bash", capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stderr == ""
    assert json.loads(done.stdout)["step"] == 0


def test_failure_names_an_error_without_a_file():
    assert failure(OSError(errno.EIO, "Input/output error")) == ("Input/output error", 1)
