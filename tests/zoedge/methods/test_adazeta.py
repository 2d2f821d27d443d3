"""AdaZeta's schedule of queries: the formula's table, what follows from the data, and runs whose points vary."""

import math

import numpy as np
import pytest

from tests.builders.folds import bits, buffers, dense, fold, parabola, run
from tests.builders.networks import mlp, rows
from zoedge.errors import InputError
from zoedge.export import to_bundle
from zoedge.methods import Duration, find_recipe
from zoedge.methods.adazeta import AdazetaOptions, GrowingTwoPoint
from zoedge.options import make, own
from zoedge.runtime.estimate import estimate
from zoedge.runtime.replay import replay
from zoedge.runtime.run import journal
from zoedge.runtime.run.run_folder import Run
from zoedge.runtime.tune import dry_run, tune

RECIPE = find_recipe("adazeta")
# the example of the paper's code: alpha 0.85, 20 directions to be reached after 160 epochs, 15 at most
TABLE = {
    0: 1,
    1: 1,
    2: 1,
    3: 1,
    4: 2,
    5: 2,
    8: 3,
    16: 4,
    27: 6,
    40: 8,
    80: 12,
    99: 14,
    100: 14,
    120: 15,
    159: 15,
}
SHAPES = {"a.weight": (20, 15), "b.weight": (30,)}


def estimator(**settings):
    return RECIPE.build(AdazetaOptions(**settings)).estimator


def test_the_defaults_are_those_of_the_papers_example():
    options = AdazetaOptions()
    assert (options.query_factor, options.query_end, options.queries) == (0.85, 20.0, 15)
    assert (RECIPE.defaults.factors.lr, RECIPE.defaults.factors.eps) == (1e-4, 1e-3)
    assert RECIPE.defaults.schedule == "constant"


def test_queries_grow_by_the_papers_table():
    growth = AdazetaOptions().for_run(Duration(63, 160.0)).query_growth
    assert growth == pytest.approx(math.log(20 / 0.85) / math.log(160))
    grown = GrowingTwoPoint(15, 0.85, growth, 63)
    assert {epoch: grown.queries_in(epoch) for epoch in TABLE} == TABLE
    for epoch in range(1, 400):  # the formula, away from whole numbers
        exact = 0.85 * epoch**growth
        if abs(exact - round(exact)) > 1e-9:
            assert grown.queries_in(epoch) == min(max(math.floor(exact), 1), 15)


@pytest.mark.parametrize(
    ("settings", "queries"),
    [
        ({"query_factor": 2.0, "query_growth": 1.0, "queries": 7}, [1, 2, 4, 6, 7, 7]),
        ({"query_factor": 3.0, "query_growth": 0.0}, [3, 3, 3, 3, 3, 3]),
        ({"query_factor": 1.0, "query_growth": 2.0, "queries": 9}, [1, 1, 4, 9, 9, 9]),
    ],
)
def test_other_schedules(settings, queries):
    grown = estimator(**settings)
    assert [grown.queries_in(epoch) for epoch in range(6)] == queries
    assert (grown.least_points, grown.most_points) == (2 * queries[0], 2 * settings.get("queries", 15))


def test_an_epoch_has_the_steps_that_go_through_the_data_and_the_growth_ends_with_the_run():
    filled = AdazetaOptions(query_end=10.0).for_run(Duration(epoch_steps=8, epochs=5.0))
    assert filled.epoch_steps == 8
    assert filled.query_growth == pytest.approx(math.log(10 / 0.85) / math.log(5))
    again = filled.for_run(Duration(epoch_steps=3, epochs=50.0))
    assert again == filled  # a run that goes on keeps what it was begun with
    assert AdazetaOptions().for_run(Duration(8, 1.0)).query_growth == 0.0
    assert AdazetaOptions(query_end=0.1).for_run(Duration(8, 9.0)).query_growth == 0.0
    assert AdazetaOptions(epoch_steps=4).for_run(Duration(8, 9.0)).epoch_steps == 4


def test_points_follow_the_epochs_and_the_mean_counts_them():
    method = RECIPE.build(AdazetaOptions(query_factor=1.0, query_growth=1.0, queries=3, epoch_steps=2))
    state, asked = method.init(), []
    for _ in range(9):
        points = method.ask(state, 1e-3)
        asked.append(len(points))
        state = method.tell(state, [1.0] * len(points), lr=1.0, eps=1e-3).state
    assert asked == [2, 2, 2, 2, 4, 4, 6, 6, 6]
    assert method.estimator.mean_points(9) == pytest.approx(sum(asked) / 9)
    assert method.told_points == "2 to 6"


@pytest.mark.parametrize("placement", ["in-place", "out-of-place"])
def test_with_one_direction_it_is_mezo_bit_for_bit(placement):
    found = []
    for method, settings in (("mezo", {}), ("adazeta", {"queries": 1})):
        arrays = buffers(dense(SHAPES))
        run(fold(dense(SHAPES), arrays, method=method, placement=placement, **settings), parabola, 8, 1e-4)
        found.append(bits(arrays))
    assert found[0] == found[1]


def test_a_skipped_step_is_no_part_of_an_epoch():
    arrays = buffers(dense(SHAPES))
    f = fold(dense(SHAPES), arrays, method="adazeta", epoch_steps=1, query_growth=1.0, query_factor=1.0)
    before = dict(f.state)
    f.apply(f.measure(1e-4, lambda points: [float("nan") for _ in points]))
    assert dict(f.state) == before


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adazeta")
    rows(folder / "data.jsonl", 80)
    mlp(folder / "mlp.onnx")
    to_bundle(folder / "mlp.onnx", folder / "bundle", task="classification", train=("tensor-train",))
    return folder


SETTINGS = {"method": "adazeta", "batch_size": 16, "lr": 0.01, "eps": 0.01, "val_size": 0.0, "eval_every": 0}
SETTINGS |= {"queries": 6, "threads": 1, "points_per_pass": 1}


def test_a_run_asks_for_more_in_later_epochs_and_resumes_and_replays_bit_for_bit(place, tmp_path):
    bundle, data = place / "bundle", place / "data.jsonl"
    tune(bundle, data, tmp_path / "whole", make(SETTINGS | {"steps": 30}))
    options = Run.open(tmp_path / "whole").options
    assert own(options).epoch_steps == 5
    growth = own(options).query_growth
    assert growth == pytest.approx(math.log(20 / 0.85) / math.log(6))
    records = journal.read_journal(tmp_path / "whole" / "journal.zoj").records
    counts = [len(record.answers) for record in records]
    grown = GrowingTwoPoint(6, 0.85, growth, 5)
    assert counts == [2 * grown.queries_in(step // 5) for step in range(30)]
    assert (counts[0], counts[-1]) == (2, 12)
    tune(bundle, data, tmp_path / "parts", make(SETTINGS | {"steps": 30, "max_time": "1h"}))
    tune(bundle, data, tmp_path / "cut", make(SETTINGS | {"steps": 12, "query_growth": growth}))
    tune(bundle, data, tmp_path / "cut", make({"steps": 30}), resume=True)
    files = [
        (tmp_path / name / "last" / "tensors.safetensors").read_bytes() for name in ("whole", "parts", "cut")
    ]
    assert files[0] == files[1] == files[2]
    assert replay(tmp_path / "whole", tmp_path / "replayed").path.read_bytes() == files[0]


def test_a_run_that_is_resumed_longer_keeps_its_growth(place, tmp_path):
    tune(place / "bundle", place / "data.jsonl", tmp_path / "run", make(SETTINGS | {"steps": 10}))
    before = own(Run.open(tmp_path / "run").options).query_growth
    tune(place / "bundle", place / "data.jsonl", tmp_path / "run", make({"steps": 20}), resume=True)
    assert own(Run.open(tmp_path / "run").options).query_growth == before
    shorter = {"method": "adazeta", "query_end": 5.0}
    with pytest.raises(InputError, match=r"--query-end 5.0 differs from the 20.0 that"):
        tune(place / "bundle", place / "data.jsonl", tmp_path / "run", make(shorter), resume=True)


def test_several_points_share_a_pass_with_the_same_answers(place, tmp_path):
    found = []
    for count in (1, 5):
        settings = make(SETTINGS | {"steps": 20, "points_per_pass": count})
        tune(place / "bundle", place / "data.jsonl", tmp_path / str(count), settings)
        records = journal.read_journal(tmp_path / str(count) / "journal.zoj").records
        found.append([answer for record in records for answer in record.answers])
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5)


def test_an_estimate_and_the_dry_run_tell_of_varying_points(place):
    options = make(SETTINGS | {"steps": 30})
    told = estimate(place / "bundle", place / "data.jsonl", options)
    growth = math.log(20 / 0.85) / math.log(6)
    assert told.passes == pytest.approx(GrowingTwoPoint(6, 0.85, growth, 5).mean_points(30))
    lines = dry_run(place / "bundle", place / "data.jsonl", options)
    assert lines["method"] == "adazeta, lr 0.01 constant, eps 0.01, 2 to 12 points a step"
