"""Which side of their products trained matrices are on: by the rows, kept for the run, the same numbers."""

from dataclasses import replace

import numpy as np
import pytest
from msgspec.structs import replace as replace_options

from tests.builders.networks import mlp, rows
from zoedge.bundle import Bundle
from zoedge.errors import InputError
from zoedge.export import to_bundle
from zoedge.forms import FEW_ROWS
from zoedge.manifest import FEW_ROWS_FILE, Port, Text
from zoedge.options import TuneOptions
from zoedge.runtime.data.batches import MicroBatch
from zoedge.runtime.data.dataset import Dataset
from zoedge.runtime.device import FINE, Cpu
from zoedge.runtime.job import _layer_rows
from zoedge.runtime.passes.ways import few_rows
from zoedge.runtime.passes.ways.choice import choose_way
from zoedge.runtime.passes.ways.situation import Situation
from zoedge.runtime.records import Step
from zoedge.runtime.run import journal
from zoedge.runtime.spaces.parameters import load_buffers
from zoedge.runtime.tune import tune


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("order")
    mlp(folder / "mlp.onnx")
    rows(folder / "data.jsonl", 60)
    for name, train in (("full", ("full",)), ("lora", ("lora",))):
        to_bundle(folder / "mlp.onnx", folder / name, task="classification", train=train)
    return folder


def situation(place, name="full", count=5, asked="auto"):
    opened = Bundle.open(place / name)
    buffers = load_buffers(opened, Cpu())
    x = np.random.default_rng(0).standard_normal((count, 6)).astype(np.float32)
    batch = MicroBatch({"x": x}, {"labels": np.zeros(count, np.int64)}, np.arange(count))
    options = TuneOptions(few_rows=asked)
    return Situation(
        opened, buffers, frozenset(buffers), [batch], ("loss",), 2, Cpu(), 1, rows=count, options=options
    )


@pytest.mark.parametrize(
    ("count", "wanted"),
    [(1, False), (few_rows.FEWEST, True), (few_rows.MOST, True), (few_rows.MOST + 1, False)],
)
def test_the_rows_of_a_pass_decide(place, count, wanted):
    assert few_rows.USE.usable(situation(place, count=count)) is wanted


@pytest.mark.parametrize("count", [1, 5, 200])
@pytest.mark.parametrize("asked", ["yes", "no"])
def test_an_order_that_was_asked_for_is_taken(place, asked, count):
    assert few_rows.USE.usable(situation(place, count=count, asked=asked)) is (asked == "yes")


def test_rows_that_nobody_knows_change_nothing(place):
    assert not few_rows.USE.usable(replace(situation(place), rows=None))


def ports(*shapes):
    return tuple(Port(name=f"x{n}", dtype="float32", shape=shape) for n, shape in enumerate(shapes))


@pytest.mark.parametrize(
    ("shapes", "lengths", "micro", "wanted"),
    [
        ([("batch", "sequence")], [3, 26, 7], None, 5 * 28),  # padded to a multiple of 4
        ([("batch", "sequence")], [3, 26, 7], 2, 2 * 28),
        ([("batch", "sequence")], [29], None, 5 * 30),  # but not beyond the longest
        ([("batch", 6)], None, None, 5),
        ([("batch", 3, 32, 32)], None, None, None),
    ],
)
def test_rows_of_the_largest_pass_are_those_of_the_longest_texts(place, shapes, lengths, micro, wanted):
    text = Text(max_length=30, pad_id=0) if lengths else None
    manifest = replace_options(Bundle.open(place / "full").manifest, inputs=ports(*shapes), text=text)
    rows_ = Dataset((), np.array(lengths or [0], np.int64), ())
    assert _layer_rows(manifest, TuneOptions(batch_size=5, micro_batch_size=micro), rows_, FINE) == wanted


def test_a_bundle_of_branches_has_no_other_order(place):
    assert not few_rows.USE.usable(situation(place, "lora"))
    with pytest.raises(InputError, match=r"--few-rows yes needs loss_few_rows.onnx, and .*lora has none"):
        choose_way(situation(place, "lora", asked="yes"))


@pytest.mark.parametrize(("batch", "saved"), [(4, "yes"), (1, "no")])
def test_the_choice_is_saved_with_the_run(place, tmp_path, batch, saved):
    assert (choose_way(situation(place, count=batch)).form == FEW_ROWS) is (saved == "yes")
    settings = TuneOptions(steps=2, val_size=0.0, batch_size=batch)
    tune(place / "full", place / "data.jsonl", tmp_path / "run", settings)
    assert journal.read_journal(tmp_path / "run" / "journal.zoj").header.options["few_rows"] == saved


def losses(run):
    return [r.answers for r in journal.read_journal(run / "journal.zoj").records if isinstance(r, Step)]


def test_both_orders_take_the_same_steps_up_to_rounding(place, tmp_path):
    runs = {}
    for asked in ("yes", "no"):
        tune(
            place / "full",
            place / "data.jsonl",
            tmp_path / asked,
            TuneOptions(steps=6, few_rows=asked, val_size=0.0),
        )
        runs[asked] = np.array(losses(tmp_path / asked))
    assert FEW_ROWS_FILE in Bundle.open(place / "full").manifest.files
    np.testing.assert_allclose(runs["yes"], runs["no"], rtol=1e-4)


def test_a_resumed_run_keeps_its_order_whatever_the_rule_is_by_then(place, tmp_path, monkeypatch):
    options = TuneOptions(steps=6, val_size=0.0, lr_schedule="constant")
    tune(place / "full", place / "data.jsonl", tmp_path / "whole", options)
    parts = tmp_path / "parts"
    tune(place / "full", place / "data.jsonl", parts, replace_options(options, steps=3))
    monkeypatch.setattr(few_rows, "MOST", 1)
    tune(place / "full", place / "data.jsonl", parts, TuneOptions(steps=6), resume=True)
    assert journal.read_journal(parts / "journal.zoj").header.options["few_rows"] == "yes"
    assert losses(parts) == losses(tmp_path / "whole")
