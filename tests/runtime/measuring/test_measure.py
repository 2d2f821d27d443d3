"""Passes that evaluate are no larger than those of a step, unless those are very small."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tests.builders.tiny as tiny
from zoedge.export import to_bundle
from zoedge.options import make
from zoedge.runtime.passes.bounds import EVAL_ROWS, EVAL_TOKENS, bounds_beside
from zoedge.runtime.passes.engine import Engine
from zoedge.runtime.tune import tune

COUNT = st.integers(1, 10_000)


@given(COUNT, st.none() | COUNT, st.none() | COUNT)
def test_bounds_follow_the_step_within_limits(rows, tokens, limit):
    bounds = bounds_beside(rows, tokens, limit)
    assert 1 <= bounds.rows <= min(EVAL_ROWS, limit or EVAL_ROWS)
    assert bounds.tokens <= EVAL_TOKENS
    if tokens is None:
        assert bounds.rows <= max(8, rows)
    else:
        assert bounds.tokens <= max(512, tokens)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("measure")
    return to_bundle(tiny.tiny_bert(folder / "bert"), folder / "bundle", lora_rank=2)


@pytest.mark.parametrize("batch_size", [2, 24])
def test_no_pass_of_a_run_holds_more_than_its_steps_do(bundle, tmp_path, monkeypatch, batch_size):
    seen = []
    passed = Engine._passed

    def watched(self, begun, outputs, run):
        seen.append(begun["input_ids"].size if "input_ids" in begun else 0)
        return passed(self, begun, outputs, run)

    monkeypatch.setattr(Engine, "_passed", watched)
    text = " ".join(tiny.WORDS[:30])
    rows = [{"text": text, "label": "yes"}, {"text": text, "label": "no"}] * 150
    settings = {"steps": 2, "eval_every": 1, "batch_size": batch_size, "points_per_pass": 1, "threads": 1}
    tune(
        bundle, rows, tmp_path / "run", make({**settings, "method": "mezo", "val_size": 0.3}), preflight=False
    )
    longest = 32  # of a row, padded
    assert batch_size * longest in seen
    assert max(seen) <= max(512, batch_size * longest, 16 * longest)
