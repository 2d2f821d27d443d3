"""What every method must do, a row of a table each: what a new method adds is one row in each."""

import math

import numpy as np
import pytest

from tests.builders.folds import bits, buffers, dense, fold, parabola, run
from tests.builders.networks import deep, mlp, rows
from tests.rates import BY_SIZE, METHODS, RATES
from tests.zoedge.commands import error
from tests.zoedge.commands import run as command
from zoedge.export import to_bundle
from zoedge.methods import RECIPES, Length
from zoedge.options import make
from zoedge.runtime.evaluate import evaluate
from zoedge.runtime.noise.reference import Stream, directions, tensor_id
from zoedge.runtime.replay import replay
from zoedge.runtime.run.journal import encode_record, read_journal
from zoedge.runtime.tune import tune

SHAPES = {"layers.0.query.weight": (8, 5), "layers.1.value.weight": (5, 8), "bias": (7,)}
SIZE = sum(math.prod(shape) for shape in SHAPES.values())

# setting -> value, as the papers have them
PUBLISHED = {
    "adazeta": {"queries": 15, "query_factor": 0.85, "query_end": 20.0},
    "dizo": {
        "project": "query-value",
        "project_every": 50,
        "project_steps": 10,
        "project_range": 0.2,
        "project_eps": 0.1,
        "project_rate": 2.0,
    },
    "fzoo": {"directions": "rademacher"},
    "helene": {"beta1": 0.9, "beta2": 0.99, "curvature_every": 10},
    "lezo": {"active_layers": 0.25, "queries": 1},  # section 7: rho 0.75
    "lozo": {"rank": 2, "refresh": 50},
    "lozo-m": {"rank": 2, "refresh": 50, "momentum": 0.9},
    "meazo": {"queries": 1, "directions": "gaussian"},
    "mezo": {"queries": 1, "directions": "gaussian", "weight_decay": 0.0, "layer_scaling": "no"},
    "sparse-mezo": {"sparsity": 0.8, "mask": "dynamic"},
    "subzero": {"rank": 8, "refresh": 500},
    "zo-adam": {"beta1": 0.9, "beta2": 0.999},
    "zo-sgd-cons": {"queries": 1},
    "zo-sgd-momentum": {"momentum": 0.9},
    "zo-sgd-sign": {"queries": 1},
}
# forward passes of a step by default
FORWARDS = dict.fromkeys(METHODS, 2) | {"adazeta": 30, "fzoo": 17, "zo-sgd-cons": 5}
# method -> settings with which it is a simpler one, and that one, bit for bit out of place
DEGENERATE = [
    ("lezo", {"active_layers": 1.0}, "mezo", {}),
    ("lezo", {"active_layers": 0.5}, "mezo", {"active_layers": 0.5}),
    ("sparse-mezo", {"sparsity": 0.0}, "mezo", {}),
    ("dizo", {"project_every": 9}, "mezo", {}),  # before the first projection
    ("lozo-m", {"momentum": 0.0, "rank": 3}, "lozo", {"rank": 3}),
    ("mezo", {"active_elements": 1.0}, "mezo", {}),
    ("zo-sgd-cons", {}, "mezo", {}),  # where every step lowers the loss
]
# what a direction of a method counts for beside one of mezo's: the share of the signal that the signs of the scalar
# (2 / pi) or of all elements (4 / pi^2) leave
WORTH = {"meazo": 2 / math.pi, "zo-sgd-sign": 2 / math.pi, "zo-adam": 4 / math.pi**2, "fzoo": 16}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("methods")
    deep(folder / "deep.onnx")
    rows(folder / "data.jsonl", 200)
    for train in ("full", "lora"):
        to_bundle(folder / "deep.onnx", folder / train, task="classification", train=(train,), lora_rank=4)
    return folder


# what a method otherwise takes from how long the run is to be when it begins
LENGTHS = {"adazeta": {"query_growth": 1.0, "epoch_steps": 13}}


def settings(method, **changes):
    usual = {"method": method, "lr": RATES[method].network, "batch_size": 16, "eval_every": 0}
    return make(usual | LENGTHS.get(method, {}) | changes)


def weights(run):
    return (run / "last" / "tensors.safetensors").read_bytes()


@pytest.mark.parametrize("train", ["full", "lora"])
@pytest.mark.parametrize("method", METHODS)
def test_it_tunes_resumes_and_replays_as_it_is_published(place, tmp_path, method, train):
    """With its own settings, on layers: it learns, and neither an interruption nor a replay changes a bit."""
    bundle, data = place / train, place / "data.jsonl"
    lr = {} if train == "full" else {"lr": None}
    tune(bundle, data, tmp_path / "whole", settings(method, steps=130, **lr))
    tune(bundle, data, tmp_path / "parts", settings(method, steps=57, lr_schedule="constant", **lr))
    tune(bundle, data, tmp_path / "more", settings(method, steps=130, lr_schedule="constant", **lr))
    tune(bundle, data, tmp_path / "parts", make({"method": method, "steps": 130}), resume=True)
    assert weights(tmp_path / "more") == weights(tmp_path / "parts")
    more, parts = (read_journal(tmp_path / run / "journal.zoj").records for run in ("more", "parts"))
    assert list(map(encode_record, more)) == list(map(encode_record, parts))
    assert replay(tmp_path / "whole", tmp_path / "replayed").path.read_bytes() == weights(tmp_path / "whole")
    assert evaluate(tmp_path / "whole", data)["loss"] < evaluate(bundle, data)["loss"]


@pytest.mark.parametrize("method", METHODS)
def test_another_seed_goes_another_way(place, tmp_path, method):
    ways = {}
    for seed in (0, 1):
        folder = tmp_path / str(seed)
        tune(place / "full", place / "data.jsonl", folder, settings(method, steps=5, seed=seed))
        ways[seed] = weights(folder)
    assert ways[0] != ways[1]


def test_methods_are_listed_with_what_they_cost():
    told = command("methods").output
    for method in METHODS:
        assert f"{method}:" in told or f"{method} (default):" in told
    assert told.count("forward passes of a batch per step: ") == len(METHODS)
    assert told.count("memory beside what is tuned: ") == len(METHODS)


@pytest.mark.parametrize("method", METHODS)
def test_constants_are_the_published_ones(method):
    recipe = RECIPES[method]
    options = recipe.options()
    assert {name: getattr(options, name) for name in PUBLISHED[method]} == PUBLISHED[method]
    assert recipe.build(options).most_points == FORWARDS[method]


@pytest.mark.parametrize(("method", "given", "simpler", "its"), DEGENERATE)
def test_degenerate_settings_are_the_simpler_method_bit_for_bit(method, given, simpler, its):
    m = dense(SHAPES)
    found = []
    for name, options in ((method, given), (simpler, its)):
        arrays = buffers(m)
        f = fold(m, arrays, method=name, placement="out-of-place", queries=2, **options)
        records = run(f, parabola, 8, 1e-4)
        found.append((bits(arrays), [record.answers[:4] for record in records]))
    assert found[0] == found[1]


@pytest.mark.parametrize("method", METHODS)
def test_the_estimate_turns_to_the_gradient_as_theory_says(method):
    """After n directions in d dimensions the cosine is about 1 / sqrt(1 + (d + 1) / n)."""
    m = dense(SHAPES)
    start = buffers(m)
    slope = {n: np.random.default_rng(7).standard_normal(a.shape) for n, a in start.items()}
    gradient = np.concatenate([slope[n].ravel() for n in SHAPES])

    def line(arrays):
        return sum(float((slope[n] * a.astype(np.float64)).sum()) for n, a in arrays.items())

    arrays = {n: a.copy() for n, a in start.items()}
    f = fold(
        m, arrays, method=method, placement="out-of-place", rank=5, refresh=1, eps=1e-2, curvature_floor=1e4
    )
    fresh = {n: np.array(v) for n, v in f.snapshot().items()}
    total, seen = np.zeros(SIZE), {}
    for step in range(1, 1201):
        run(f, line, 1, 1e-2)
        moved = [(start[n].astype(np.float64) - arrays[n]).ravel() for n in SHAPES]
        total += np.concatenate([part * (part.size if method in BY_SIZE else 1) for part in moved])
        f.restore(fresh | {"step": np.array(f.step)})
        if step in (75, 300, 1200):
            seen[step] = total @ gradient / np.linalg.norm(total) / np.linalg.norm(gradient)
    worth = WORTH.get(method, 1.0)
    for step, cosine in seen.items():
        assert cosine == pytest.approx(1 / math.sqrt(1 + (SIZE + 1) / (worth * step)), abs=0.1)
    assert seen[1200] > 0.9


def test_lengths_in_other_units():
    """With directions s times as long, a step of lr and a probe of eps are those of lr s^2 and eps s."""
    assert Length(1e-3, 1e-2).in_units(3.0) == pytest.approx((9e-3, 3e-2))
    assert RECIPES["lozo"].defaults.dense == pytest.approx((1e-6, 1e-3 * math.sqrt(2)))
    m = dense({"w": (50,)})
    unit = buffers(m)
    z = directions(Stream(0, tensor_id("w"), 0, 0), (50,)).astype(np.float64)
    given = Length(1e-3, 1e-3)
    w = unit["w"].astype(np.float64)
    plus, minus = (((w + s * given.eps * 3.0 * z - 1.0) ** 2).sum() for s in (1, -1))
    wanted = w - given.lr * (plus - minus) / (2 * given.eps) * 3.0 * z
    ours = given.in_units(3.0)
    run(fold(m, unit, eps=ours.eps), parabola, 1, ours.lr)
    np.testing.assert_allclose(unit["w"], wanted, atol=1e-3)


def test_lezo_needs_layers(place, tmp_path):
    mlp(tmp_path / "mlp.onnx")
    to_bundle(tmp_path / "mlp.onnx", tmp_path / "bundle", task="classification", train=("full",))
    told = error(
        "tune", tmp_path / "bundle", "-d", place / "data.jsonl", "-o", tmp_path / "run", "--method", "lezo"
    )
    assert told == (
        "Error: --active-layers 0.25 needs parameters of numbered layers, and none is tuned: use --method mezo\n"
    )
