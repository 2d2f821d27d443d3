"""Whole runs are the same to the bit whether rows' results are kept, and leave nothing of them behind."""

import itertools
import json
import os
import signal

import pytest

from zoedge.errors import InputError
from zoedge.export import to_bundle
from zoedge.options import TuneOptions, make
from zoedge.runtime.passes.row_store import RowStore
from zoedge.runtime.passes.ways import caching, choice
from zoedge.runtime.records import Assign, Eval, Step
from zoedge.runtime.replay import replay
from zoedge.runtime.run.journal import read_journal
from zoedge.runtime.run.progress import Silent
from zoedge.runtime.run.run_folder import Run
from zoedge.runtime.tune import dry_run, tune

from .open_files import open_files

WORDS = ["it", "was", "great", "terrible", "film", "slow", "really", "not", "good", "i", "loved", "plot"]
BUNDLES = {
    "dense": ("tiny_bert", {"train": ("*layer.1.output*", "classifier*")}),
    "lora": ("tiny_encoder", {"labels": ("no", "yes", "maybe"), "target_modules": ("*layer.1.*",)}),
}
STEPS = {"dense": 20, "lora": 30}


class Listen(Silent):
    def __init__(self, at=None):
        self.said, self._at = [], at

    def note(self, text):
        self.said.append(text)

    def step(self, row, *, report):
        if row["step"] == self._at:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_bert, tiny_encoder):
    folder = tmp_path_factory.mktemp("cached")
    models = {"tiny_bert": tiny_bert, "tiny_encoder": tiny_encoder}
    for name, (model, settings) in BUNDLES.items():
        to_bundle(models[model], folder / name, task="text-classification", **settings)
    rows = [
        {"text": " ".join(WORDS[(i * k) % len(WORDS)] for k in range(1, 2 + i % 14)), "label": label}
        for i, label in zip(range(44), itertools.cycle(["no", "yes", "maybe"]))
    ]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def always(monkeypatch):
    """Let a measurement find that reading takes no time, a probe a pass; count what is read."""
    monkeypatch.setattr(choice, "_most_points", lambda situation, use: 1)
    times = itertools.cycle([1.0, 0.0])
    monkeypatch.setattr(caching, "best_seconds", lambda action: (action(), next(times))[1])
    reads = []
    get = RowStore.get
    monkeypatch.setattr(RowStore, "get", lambda store, key: (reads.append(store), get(store, key))[1])
    return reads


def options(name, size, **changes):
    settings = {"steps": STEPS[name], "batch_size": 8, "lr": 0.01, "eval_every": 5, "queries": 4}
    return make(settings | {"prefix_cache": size, "threads": 1} | changes)


def run(place, name, folder, size, **changes):
    listen = Listen()
    tune(place / name, place / "data.jsonl", folder, options(name, size, **changes), progress=listen)
    return listen.said


def result(folder):
    records = read_journal(folder / "journal.zoj").records
    weights = {
        (which, name): value.tobytes()
        for which in ("best", "last")
        for name, value in Run.open(folder).weights(which).items()
    }
    return [repr(record) for record in records], weights


@pytest.mark.parametrize("name", list(BUNDLES))
@pytest.mark.parametrize(
    "changes",
    [{}, {"micro_batch_size": 3}, {"micro_batch_size": 1}, {"prepack": "no", "threads": 2}],
    ids=str,
)
def test_the_bits_of_a_run_do_not_depend_on_it(place, tmp_path, always, name, changes):
    """Rows of many lengths, several epochs, folds, a head solved again and again, evaluations."""
    run(place, name, tmp_path / "whole", "no", points_per_pass=1, **changes)
    assert not always
    records, weights = result(tmp_path / "whole")
    kinds = [type(r) for r in read_journal(tmp_path / "whole" / "journal.zoj").records]
    assert Step in kinds
    assert Eval in kinds
    assert (Assign in kinds) == (name == "lora")
    stores = {}
    for size in ("auto", "30kB"):
        always.clear()
        said = run(place, name, tmp_path / size, size, **changes)
        assert any("computed once per row and kept on disk" in text for text in said)
        assert len(always) > 20, size
        stores[size] = len({id(store) for store in always})
        got = result(tmp_path / size)
        assert got[0] == records
        assert got[1] == weights
    assert set(stores.values()) == {1}
    replay(tmp_path / "auto", tmp_path / "replayed")
    assert (tmp_path / "replayed" / "tensors.safetensors").read_bytes() == (
        tmp_path / "whole" / "last" / "tensors.safetensors"
    ).read_bytes()


def test_several_probes_in_a_pass_share_what_is_kept(place, tmp_path, always):
    run(place, "lora", tmp_path / "one", "no", points_per_pass=3)
    assert not always
    said = run(place, "lora", tmp_path / "three", "auto", points_per_pass=3)
    assert said[0] == (
        "the layers before the first trained one are computed once per row and kept on disk (up to 1 GiB): "
        "faster here, with the same results"
    )
    assert len(always) > 20
    assert result(tmp_path / "one") == result(tmp_path / "three")


@pytest.mark.parametrize("size", ["auto", "no", "30kB"])
def test_a_resumed_run_starts_cold_and_ends_the_same(place, tmp_path, always, size):
    run(place, "dense", tmp_path / "whole", "no", points_per_pass=1)
    with pytest.raises(KeyboardInterrupt):
        tune(
            place / "dense",
            place / "data.jsonl",
            tmp_path / "parts",
            options("dense", "auto"),
            progress=Listen(9),
        )
    assert open_files(tmp_path) == []
    tune(
        place / "dense",
        place / "data.jsonl",
        tmp_path / "parts",
        TuneOptions(prefix_cache=size),
        given={"prefix_cache"},
        resume=True,
    )
    assert result(tmp_path / "parts") == result(tmp_path / "whole")


def test_a_full_disk_is_said_and_changes_nothing(place, tmp_path, always, monkeypatch):
    run(place, "dense", tmp_path / "whole", "no", points_per_pass=1)
    write, written = os.pwrite, []

    def filling(handle, data, start):
        if len(written) > 30:
            raise OSError(28, "No space left on device")
        written.append(start)
        return write(handle, data, start)

    monkeypatch.setattr(os, "pwrite", filling)
    said = run(place, "dense", tmp_path / "full", "auto")
    assert "kept on disk (up to 1 GiB)" in said[0]
    assert (
        "results of the layers before the first trained one are not kept on disk any more (No space left on "
        "device): steps take longer, with the same results"
    ) in said[1:]
    assert len(written) == 31
    assert result(tmp_path / "full") == result(tmp_path / "whole")


class Watch(Silent):
    """Looks at the disk in the middle of a run, and may fail there."""

    def __init__(self, folder, fail=False):
        self.seen, self.names, self._folder, self._fail = [], [], folder, fail

    def step(self, row, *, report):
        if row["step"] == 8:
            self.seen = open_files(self._folder)
            self.names = sorted(p.name for p in self._folder.iterdir())
            if self._fail:
                raise RuntimeError("in the middle")


@pytest.mark.parametrize("fail", [False, True])
def test_nothing_is_left_after_a_run_or_a_failure(place, tmp_path, always, fail):
    watch, folder = Watch(tmp_path / "run", fail), tmp_path / "run"
    settings = options("dense", "auto")
    if fail:
        with pytest.raises(RuntimeError, match="in the middle") as caught:
            tune(place / "dense", place / "data.jsonl", folder, settings, progress=watch)
        assert caught.tb is not None  # what failed is still referred to
    else:
        tune(place / "dense", place / "data.jsonl", folder, settings, progress=watch)
    nameless = [link for link in watch.seen if link.endswith("(deleted)")]
    assert len(nameless) == 1
    assert set(watch.names) <= {".lock", "best", "config.yaml", "journal.zoj", "last", "log.jsonl"}
    assert open_files(tmp_path) == []


def test_a_run_that_is_refused_leaves_nothing(place, tmp_path, always):
    run(place, "dense", tmp_path / "run", "auto", steps=6)
    other = tmp_path / "other.jsonl"
    other.write_text((place / "data.jsonl").read_text().replace("great", "bad"))
    with pytest.raises(InputError, match="other training data"):
        tune(place / "dense", other, tmp_path / "run", resume=True)
    assert open_files(tmp_path) == []


def test_a_dry_run_takes_no_disk(place, always):
    dry_run(place / "dense", place / "data.jsonl", options("dense", "auto"))
    assert not always


def test_a_size_that_is_none_is_refused_before_anything_is_written(place, tmp_path):
    with pytest.raises(
        InputError, match="--prefix-cache 'plenty' is not a size: write auto, no, 512MB or 2GB"
    ):
        run(place, "dense", tmp_path / "run", "plenty")
    assert not (tmp_path / "run").exists()
