"""A method that keeps an array beside each parameter, has a flag and a support of its own: all of it in this file."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import pytest

from tests.builders.devices import Reference
from tests.builders.folds import bits, buffers, dense, fold, parabola, run
from tests.builders.networks import mlp, rows
from tests.zoedge.commands import error
from tests.zoedge.commands import run as command
from zoedge.export import to_bundle
from zoedge.methods import RECIPES, Defaults, Dense, Length, Method, Recipe, Rule, Update
from zoedge.methods.core import Move
from zoedge.methods.estimators import TwoPoint
from zoedge.methods.options import DenseOptions
from zoedge.options import make
from zoedge.runtime.evaluate import evaluate
from zoedge.runtime.noise.reference import Stream, directions, tensor_id
from zoedge.runtime.replay import replay
from zoedge.runtime.run.run_folder import Run
from zoedge.runtime.spaces.support import NARROWINGS
from zoedge.runtime.tune import tune
from zoedge.settings import Setting


class ToyOptions(DenseOptions, frozen=True):
    beta: Annotated[float, Setting("share of the momentum that stays", least=0, below=1)] = 0.9
    only: Annotated[str | None, Setting("part of the names of the tensors that move")] = None


@dataclass(frozen=True)
class Momentum(Rule):
    """m <- beta m + mean_k(g_k z_k); theta <- (1 - lr wd) theta - lr m."""

    beta: float
    weight_decay: float
    arrays = ("momentum",)

    def update(self, state, g, lr):
        moves = tuple(Move(k, c / len(g)) for k, c in enumerate(g))

        def step(tensor, moves, shrink):
            tensor.add("momentum", moves, self.beta)
            for part in tensor.parts():
                part["theta"] *= np.float32(shrink)
                part["theta"] -= np.float32(lr) * part["momentum"]

        return {}, Update(moves, 1.0 - lr * self.weight_decay, step)


@dataclass(frozen=True)
class Only:
    part: str


class OnlyNarrowing:
    """Tensors by name, and of them those that have not left the unit ball: a support that looks at theta."""

    reads_theta, masks = True, False

    def __init__(self, declaration, moved, seed):
        self._part = declaration.part

    def narrow(self, step, parts, theta):
        return {n: p for n, p in parts.items() if self._part in n and np.abs(theta(n)).max() < 10}


def build(options):
    only = (Only(options.only),) if options.only is not None else ()
    rule = Momentum(options.beta, options.weight_decay)
    return Method(
        Dense(options.directions), TwoPoint(options.queries), rule, support=(*options.support, *only)
    )


LENGTH = Length(1e-3, 1e-2)
TOY = Recipe("toy", "momentum", "none", Defaults(*[LENGTH] * 4, "constant", 5), ToyOptions, build)
SHAPES = {"a.weight": (40, 30), "b.weight": (70,)}
WHERE = ["in-place", "out-of-place"]


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    monkeypatch.setitem(RECIPES, "toy", TOY)
    monkeypatch.setitem(NARROWINGS, Only, OnlyNarrowing)


def by_hand(arrays, losses_of, steps, lr, *, beta=0.9, eps=1e-3, decay=0.0):
    """The method in float64."""
    theta = {n: a.astype(np.float64) for n, a in arrays.items()}
    momentum = {n: np.zeros_like(a) for n, a in theta.items()}
    for step in range(steps):
        z = {n: directions(Stream(0, tensor_id(n), step, 0), a.shape) for n, a in theta.items()}
        plus, minus = (losses_of({n: a + s * eps * z[n] for n, a in theta.items()}) for s in (1, -1))
        g = (plus - minus) / (2 * eps)
        for n in theta:
            momentum[n] = beta * momentum[n] + g * z[n]
            theta[n] = (1 - lr * decay) * theta[n] - lr * momentum[n]
    return theta


@pytest.mark.parametrize("placement", WHERE)
def test_it_is_the_method_written_by_hand(placement):
    m = dense(SHAPES)
    arrays = buffers(m)
    expected = by_hand(arrays, parabola, 12, 1e-5, decay=2.0)
    run(fold(m, arrays, method="toy", placement=placement, weight_decay=2.0), parabola, 12, 1e-5)
    for name, value in expected.items():
        np.testing.assert_allclose(arrays[name], value, rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("active_elements", [1.0, 0.4])
@pytest.mark.parametrize("placement", WHERE)
def test_its_array_goes_into_snapshots_and_follows_from_the_journal(placement, active_elements):
    m = dense(SHAPES)
    settings = {"method": "toy", "placement": placement, "active_elements": active_elements}
    whole, parts, replayed = buffers(m), buffers(m), buffers(m)
    records = run(fold(m, whole, **settings), parabola, 8, 1e-4)
    first = fold(m, parts, **settings)
    run(first, parabola, 3, 1e-4)
    snapshot = {name: np.array(value) for name, value in first.snapshot().items()}
    assert snapshot["parameter/a.weight:momentum"].any()
    again = buffers(m, seed=5)
    second = fold(m, again, **settings)
    second.restore(snapshot)
    run(second, parabola, 5, 1e-4)
    fold_of_records = fold(m, replayed, **settings, device=Reference())
    fold_of_records.replay(records)
    fold_of_records.rest()
    assert bits(whole) == bits(again) == bits(replayed)


@pytest.mark.parametrize("placement", WHERE)
def test_its_support_looks_at_the_parameters(placement):
    m = dense(SHAPES)
    arrays = buffers(m)
    before = bits(arrays)
    f = fold(m, arrays, method="toy", placement=placement, only="b.", weight_decay=1.0)
    run(f, parabola, 3, 1e-3)
    assert bits(arrays)["a.weight"] == before["a.weight"]
    assert bits(arrays)["b.weight"] != before["b.weight"]
    arrays["b.weight"][...] = 20.0
    f = fold(m, arrays, method="toy", placement=placement, only="b.")
    far = bits(arrays)
    run(f, parabola, 3, 1e-3)
    assert bits(arrays) == far


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy")
    mlp(folder / "mlp.onnx")
    rows(folder / "data.jsonl", 120)
    for train in ("full", "lora"):
        to_bundle(folder / "mlp.onnx", folder / train, task="classification", train=(train,), lora_rank=4)
    return folder


@pytest.mark.parametrize("train", ["full", "lora"])
def test_it_tunes_resumes_and_replays(place, tmp_path, train):
    settings = {"method": "toy", "batch_size": 16, "lr": 3e-3, "beta": 0.8, "eval_every": 0}
    data = place / "data.jsonl"
    tune(place / train, data, tmp_path / "whole", make(settings | {"steps": 40}))
    tune(place / train, data, tmp_path / "parts", make(settings | {"steps": 15}))
    tune(place / train, data, tmp_path / "parts", make({"method": "toy", "steps": 40}), resume=True)
    files = [tmp_path / run / "last" / "tensors.safetensors" for run in ("whole", "parts")]
    assert files[0].read_bytes() == files[1].read_bytes()
    replayed = replay(tmp_path / "whole", tmp_path / "replayed").path
    assert replayed.read_bytes() == files[0].read_bytes()
    assert evaluate(tmp_path / "whole", data)["loss"] < evaluate(place / train, data)["loss"]
    assert Run.open(tmp_path / "whole").options.method_options["beta"] == 0.8


def test_its_flag_its_range_its_page_and_its_note(place, tmp_path):
    assert "--beta FLOAT" in command("tune", "--help").output
    assert "toy: share of the momentum that stays" in " ".join(command("tune", "--help").output.split())
    assert "--beta 0.9" in command("methods").output
    arguments = ["tune", place / "full", "-d", place / "data.jsonl", "-o", tmp_path / "run", "--steps", 1]
    assert error(*arguments, "--method", "toy", "--beta", 1) == (
        "Error: --beta is 1.0 and must be at least 0 and below 1 for toy\n"
    )
    output = command(*arguments, "--method", "mezo", "--beta", 0.5).output
    assert "--beta has no effect here: mezo has no such setting, toy has" in " ".join(output.split())
