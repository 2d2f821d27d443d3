"""Rows that are cut are said wherever rows are read, and a run remembers which end they lose."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

import zoedge
from tests.builders.tiny import POSITIONS
from zoedge.cli.main import main
from zoedge.export import to_bundle
from zoedge.runtime.tune import dry_run

# what tells the labels apart stands at the end, beyond what the model takes
ROWS = [
    {"text": f"{'movie ' * 90}{word}", "label": label} for word, label in (("great", "good"), ("bad", "bad"))
] * 12
OPTIONS = {"steps": 2, "eval_every": 0, "batch_size": 8, "threads": 1}
ALL = f"24 of 24 rows are longer than {POSITIONS} tokens and lose the"


@pytest.fixture(scope="module")
def place(tiny_encoder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("long")
    to_bundle(tiny_encoder, folder / "bundle", task="text-classification", labels=("good", "bad"))
    for side in ("left", "right"):
        zoedge.tune(folder / "bundle", ROWS, folder / side, OPTIONS | {"truncation_side": side})
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return folder


@pytest.mark.parametrize(("side", "accuracy"), [("left", 1.0), ("right", 0.5)])
def test_a_run_cuts_as_it_was_tuned(place, side, accuracy):
    assert zoedge.evaluate(place / side, ROWS)["accuracy"] == accuracy
    predicted = [row["label"] for row in zoedge.predict(place / side, data=ROWS)]
    assert sum(p == row["label"] for p, row in zip(predicted, ROWS, strict=True)) == 24 * accuracy


def test_another_side_for_once(place):
    said = []
    assert zoedge.evaluate(place / "left", ROWS, truncation_side="right", say=said.append)["accuracy"] == 0.5
    assert f"{ALL} end of their text (--truncation-side, or a larger --max-seq-length at export)" in said


def test_the_command_line_says_it(place):
    out = CliRunner().invoke(main, ["eval", str(place / "left"), "--data", str(place / "rows.jsonl")])
    assert (f"{ALL} start of their text" in out.output, out.exit_code) == (True, 0)
    out = CliRunner().invoke(main, ["predict", str(place / "left"), "--data", str(place / "rows.jsonl")])
    assert f"{ALL} start of their text" in out.output
    note = dry_run(place / "bundle", place / "rows.jsonl", OPTIONS)["note"]
    assert f"{ALL} end of their text" in note


def test_held_out_rows_are_counted_too(place):
    note = dry_run(place / "bundle", ROWS, OPTIONS | {"val_size": 0.25})["note"]
    assert f"{ALL} end of their text" in note


def test_broken_characters_are_counted(place):
    said = []
    zoedge.evaluate(place / "bundle", [{"text": "great \ud83d", "label": "good"}], say=said.append)
    broken = "characters of the rows are no valid Unicode (lone surrogates): read as U+FFFD"
    assert [text for text in said if broken in text] == [f"1 {broken}"]
    list(zoedge.predict(place / "bundle", texts=["\udcff", "fine \ud83d\ude00"], say=said.append))
    assert len([text for text in said if broken in text]) == 2
