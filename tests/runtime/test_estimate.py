"""Estimates and preflight on a tiny real encoder, against runs in processes of their own."""

import json
import math
import subprocess
import sys

import pytest

from tests.builders.devices import Counting
from tests.zoedge.commands import error, run
from zoedge.bundle import Bundle
from zoedge.errors import InputError
from zoedge.export import to_bundle
from zoedge.manifest import Manifest
from zoedge.options import TuneOptions
from zoedge.runtime.bench import bench
from zoedge.runtime.device import Cpu
from zoedge.runtime.estimate import estimate
from zoedge.runtime.machine.limits import Limit
from zoedge.runtime.machine.memory import Held
from zoedge.runtime.preflight import check as preflight
from zoedge.runtime.preflight.footprint import footprint
from zoedge.runtime.preflight.rehearsal import TooMuchError
from zoedge.runtime.preflight.trial import Pass, Trial
from zoedge.runtime.tune import tune

MIB = 1 << 20
QUICK = TuneOptions(steps=3, batch_size=8, method_options={"queries": 4})


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_encoder):
    folder = tmp_path_factory.mktemp("estimate")
    to_bundle(tiny_encoder, folder / "bundle", task="text-classification", labels=("bad", "good"))
    words = ("sharp", "slow", "quick", "loved", "hated", "very", "not", "really")
    rows = [{"text": " ".join(words[k % (2 + k % 5) :]), "label": ("bad", "good")[k % 2]} for k in range(48)]
    (folder / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def test_the_memory_is_that_of_a_run_within_15_percent(place, tmp_path):
    found = estimate(place / "bundle", place / "data.jsonl", QUICK)
    command = [sys.executable, "-P", "-m", "zoedge", "tune", place / "bundle", "-d", place / "data.jsonl"]
    command += ["-o", tmp_path / "run", "--steps", "3", "--batch-size", "8", "-q", "4"]
    subprocess.run([*map(str, command)], check=True, capture_output=True)
    rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    peak = max(row.get("peak_rss_bytes", 0) for row in rows)
    assert found.peak_rss_bytes == pytest.approx(peak, rel=0.15)
    assert 0 < found.peak_anonymous_bytes < found.peak_rss_bytes
    assert found.passes >= 5
    assert found.steps == 3
    parts = found.start_seconds + found.solve_seconds + found.evaluation_seconds + 3 * found.step_seconds
    assert found.total_seconds == pytest.approx(parts)


def test_without_data_rows_are_as_long_as_asked(place):
    found = json.loads(
        run("estimate", place / "bundle", "--sequence-length", 8, "--steps", 2, "--json").stdout
    )
    assert found["largest_width"] == 8
    assert found["solve_seconds"] == found["evaluation_seconds"] == 0.0


def test_the_lines_name_every_part(place):
    lines = run("estimate", place / "bundle", "-d", place / "data.jsonl", "--steps", 2).stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["memory", "largest", "step", "start", "head", "run"]


def test_a_length_beyond_the_bundle_s_is_an_error(place):
    assert error("estimate", place / "bundle", "--sequence-length", 4096).startswith(
        "Error: --sequence-length 4096 is more than the "
    )


def test_a_length_beside_data_is_an_error(place):
    with pytest.raises(InputError, match="leave one out"):
        estimate(place / "bundle", place / "data.jsonl", sequence_length=8)


def test_an_error_of_the_rehearsal_is_the_run_s(place):
    with pytest.raises(InputError, match="--batch-size 64 is larger than the 48 training rows"):
        estimate(place / "bundle", place / "data.jsonl", TuneOptions(batch_size=64))


def test_bench_has_a_line_for_every_part(place):
    found = bench(place / "bundle", QUICK, sequence_length=8)
    for part in (found.forward, found.moves, found.rest):  # of each step they make up the whole
        assert 0.0 <= part.lower <= part.median <= part.upper
        assert part.lower <= found.step.upper
    assert found.passes == 5
    assert found.floor.lower <= found.floor.median <= found.floor.upper
    text = run("bench", place / "bundle", "--sequence-length", 8, "--queries", 2).stdout
    assert [line.split()[0] for line in text.splitlines()] == [
        "per", "3", "moves", "batching,", "step", "floor:", "7", "a",
    ]  # fmt: skip


@pytest.fixture
def squeezed(monkeypatch):
    """Let limits be so many MiB of anonymous memory, and rehearsals show what a function says."""

    def squeeze(mib, need):
        monkeypatch.setattr(Cpu, "limits", lambda self, now: [Limit("limit here", "anonymous", mib * MIB)])
        asked = []

        def rehearse(ask):
            asked.append(ask)
            most = Held(anonymous=need(ask) * MIB)
            if most.anonymous > ask.may_hold["anonymous"]:
                raise TooMuchError("anonymous")
            return Trial(
                most=most, ready=Held(), largest=Pass(rows=1, width=1), passes=1.0,
                forward_seconds=0.0, moves_seconds=0.0, start_seconds=0.0,
            )  # fmt: skip

        monkeypatch.setattr(preflight, "rehearse", rehearse)
        return asked

    return squeeze


def test_a_small_run_isn_t_rehearsed(place, squeezed, tmp_path):
    asked = squeezed(100_000, lambda ask: 1)
    tune(place / "bundle", place / "data.jsonl", tmp_path / "run", QUICK)
    assert asked == []


def test_a_run_that_fits_without_prepacking_says_so(place, squeezed, tmp_path):
    squeezed(1, lambda ask: 1 if ask.options.prepack == "no" else 2)
    done = run("tune", place / "bundle", "-d", place / "data.jsonl", "-o", tmp_path / "run", "--steps", 2)
    assert "memory is short: frozen matrices are used where they lie" in done.stdout
    assert "prepack: 'no'" in (tmp_path / "run" / "config.yaml").read_text()
    run("eval", tmp_path / "run", "-d", place / "data.jsonl")


@pytest.mark.parametrize(
    ("need", "advice"),
    [
        (lambda ask: 1 + (ask.options.micro_batch_size or 16) // 5, "use --micro-batch-size 4,"),
        (lambda ask: 1 if ask.sequence_length else 3, "use --micro-batch-size 1 and --max-seq-length "),
        (lambda ask: 3, "export with --quantize int8"),
    ],
)
def test_a_run_that_can_t_fit_is_refused_with_what_would(
    place, squeezed, tmp_path, monkeypatch, need, advice
):
    monkeypatch.setattr(preflight, "_LEAST_LENGTH", 1)
    squeezed(1, need)
    words = ("tune", place / "bundle", "-d", place / "data.jsonl", "-o", tmp_path / "run", "--steps", 2)
    text = error(*words, code=3)
    assert text.startswith("Error: this run needs more than the 1 MiB of the limit here: ")
    assert advice in text
    assert text.count("\n") == 1
    assert not (tmp_path / "run" / "journal.zoj").exists()
    run(*words, "--no-preflight")


def test_the_rough_figure_grows_with_what_it_stands_for(place):
    from zoedge.bundle import Bundle

    manifest: Manifest = Bundle.open(place / "bundle").manifest
    small = footprint(manifest, TuneOptions(prepack="no"), 16, Cpu())
    assert small.copied == 0 < footprint(manifest, TuneOptions(), 16, Cpu()).copied
    assert footprint(manifest, TuneOptions(), 64, Cpu()).passes > small.passes
    assert footprint(manifest, TuneOptions(micro_batch_size=1), 16, Cpu()).passes < small.passes


@pytest.mark.parametrize(("precision", "size"), [("float32", 4), ("float16", 2)])
def test_where_a_device_has_memory_the_weights_lie_there_once(place, precision, size):
    manifest: Manifest = Bundle.open(place / "bundle").manifest
    device = Counting()
    device.precision = precision
    found = footprint(manifest, TuneOptions(placement="out-of-place"), 16, device)
    frozen = sum(math.prod(p.shape) for p in manifest.parameters if not p.trainable)
    trained = sum(math.prod(p.shape) for p in manifest.trainable)
    here = footprint(manifest, TuneOptions(placement="out-of-place"), 16, Cpu())
    assert (found.frozen, found.trained, found.copied) == (size * frozen, (size + 4) * trained, 0)
    assert found.passes == here.passes * size // 4
    assert found.total == found.seen == here.seen
    assert found.device == found.trained + found.frozen + found.passes
    assert here.device == here.frozen == 0


def test_arrays_that_a_rule_keeps_are_counted(place):
    manifest = Bundle.open(place / "bundle").manifest
    held = {
        m: footprint(manifest, TuneOptions(method=m, placement="in-place"), 16, Cpu()).trained
        for m in ("mezo", "zo-adam")
    }
    assert held["zo-adam"] == 4 * held["mezo"]
