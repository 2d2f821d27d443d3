"""A run that dies between any two writes goes on to the very bytes of the one that did not."""

import csv
import shutil

import msgspec
import numpy as np
import pytest

from tests.builders.hand_bundle import LORA, hand_bundle
from zoedge.errors import BundleError, InputError
from zoedge.manifest import Head
from zoedge.options import TuneOptions, flat, make
from zoedge.runtime.records import Assign, Eval, Step
from zoedge.runtime.run import journal
from zoedge.runtime.run.journal import Journal
from zoedge.runtime.run.run_folder import Run
from zoedge.runtime.tune import tune

OPTIONS = TuneOptions(
    steps=6, batch_size=8, method_options={"queries": 4}, lr=0.02, eval_every=2, head_refit_every=2
)
HEAD = Head(weight="classifier.weight", bias="classifier.bias", fresh=True)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("crash")
    rng = np.random.default_rng(0)
    x = rng.standard_normal((48, 4)).round(4)
    with (folder / "data.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["a", "b", "c", "d", "label"])
        writer.writerows([*row, int(label)] for row, label in zip(x, (x[:, :3]).argmax(axis=1), strict=True))
    trainable = (*LORA, "classifier.weight", "classifier.bias")
    hand_bundle(folder / "bundle", trainable=trainable, head=HEAD)
    tune(folder / "bundle", folder / "data.csv", folder / "whole", OPTIONS)
    return folder


def ends(path):
    """Return the journal's length after its header and after each record."""
    contents = journal.read_journal(path)
    sizes = [contents.size]
    for record in reversed(contents.records):
        sizes.append(sizes[-1] - len(journal._frame(journal.encode_record(record))))
    return sizes[::-1]


def weights(run, which):
    return {name: value.tobytes() for name, value in Run.open(run).weights(which).items()}


def test_the_run_refits_and_evaluates(place):
    records = journal.read_journal(place / "whole" / "journal.zoj").records
    assert [type(r) for r in records if not isinstance(r, Step)] == [Assign, Eval] * 4


def test_every_evaluation_judges_a_head_that_was_solved_for_it(place, tmp_path):
    """Without validation rows; 5 steps between refits of their own."""
    options = msgspec.structs.replace(OPTIONS, head_refit_every=5)
    tune(place / "bundle", place / "data.csv", tmp_path / "run", options)
    records = journal.read_journal(tmp_path / "run" / "journal.zoj").records
    assert [r.step for r in records if isinstance(r, Eval)] == [0, 2, 4, 6]
    assert [r.step for r in records if isinstance(r, Assign)] == [0, 2, 4, 5, 6]


def test_a_cut_after_any_record_is_made_good(place, tmp_path):
    whole = (place / "whole" / "journal.zoj").read_bytes()
    cuts = ends(place / "whole" / "journal.zoj")
    assert cuts[-1] == len(whole)
    for size in cuts:
        run = tmp_path / f"cut{size}"
        shutil.copytree(place / "whole", run)
        shutil.rmtree(run / "last")
        (run / "journal.zoj").write_bytes(whole[:size])
        tune(place / "bundle", place / "data.csv", run, resume=True)
        assert (run / "journal.zoj").read_bytes() == whole, size
        for which in ("best", "last"):
            assert weights(run, which) == weights(place / "whole", which), (size, which)


def test_a_run_that_died_before_its_journal_starts_anew(place, tmp_path):
    (tmp_path / "run").mkdir()
    shutil.copy(place / "whole" / "config.yaml", tmp_path / "run")
    (tmp_path / "run" / ".journal.zoj.abcd").write_bytes(b"torn")
    tune(place / "bundle", place / "data.csv", tmp_path / "run", OPTIONS, resume=True)
    assert (tmp_path / "run" / "journal.zoj").read_bytes() == (place / "whole" / "journal.zoj").read_bytes()
    assert not (tmp_path / "run" / ".journal.zoj.abcd").exists()


def test_a_journal_shorter_than_its_snapshot_is_not_cut_further(place, tmp_path):
    shutil.copytree(place / "whole", tmp_path / "run")
    path = tmp_path / "run" / "journal.zoj"
    path.write_bytes(path.read_bytes()[: ends(path)[3]])
    with pytest.raises(BundleError, match=r"is damaged after 3 of at least 14 records: restore journal.zoj"):
        tune(place / "bundle", place / "data.csv", tmp_path / "run", resume=True)


def test_a_journal_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    def fail(header):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(journal.msgspec.json, "encode", fail)
    with pytest.raises(OSError, match="No space left"):
        Journal.create(tmp_path / "journal.zoj", None)
    assert not (tmp_path / "journal.zoj").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 30}, "--batch-size 30 is too large for the two halves of 48 rows"),
        ({"queries": 1}, "--queries is 1 and must be at least 2 for fzoo"),
        ({"epochs": 2.0}, "--steps 6 and --epochs 2 are both given: leave one out"),
    ],
)
def test_settings_that_cannot_work_are_refused(place, tmp_path, changes, message):
    settings = flat(OPTIONS) | changes
    with pytest.raises(InputError, match=message):
        tune(place / "bundle", place / "data.csv", tmp_path / "run", make(settings))
    assert not (tmp_path / "run").exists()
