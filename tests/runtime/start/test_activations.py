"""The directions of LoRA branches: singular vectors, and a step size that means the same for every layer."""

import numpy as np
import pytest

from tests.builders.devices import Reference
from tests.builders.networks import mlp
from zoedge.adapters import LoraBranch
from zoedge.export import to_bundle
from zoedge.methods import Dense, Move
from zoedge.runtime.spaces import ActivationBranch, Site, basis_name, carry_out
from zoedge.runtime.spaces.support import Part
from zoedge.runtime.start import activations
from zoedge.runtime.start.activations import bases

RNG = np.random.default_rng(0)
BRANCH = LoraBranch(
    module="m", weight="m.weight", transposed=False, shape=(15, 20), a="m.a", b="m.b", rank=4, alpha=12.0
)
# inputs whose energy lies mostly in four directions, seen through a matrix
X = (RNG.standard_normal((300, 6)) * [9, 7, 5, 3, 0.3, 0.1] @ RNG.standard_normal((6, 20))).astype(np.float32)
W = RNG.standard_normal((15, 20)).astype(np.float32)
Y = X @ W.T


def test_a_spans_the_leading_singular_vectors_of_the_inputs():
    a = bases(BRANCH, X, Y)["m.a"]
    expected = np.linalg.svd(X.astype(np.float64))[2][:4]
    np.testing.assert_allclose(np.abs(np.linalg.svd(a @ expected.T)[1]), np.ones(4), atol=1e-3)
    np.testing.assert_allclose(a @ a.T, np.eye(4), atol=1e-5)


def test_the_basis_spans_those_of_the_outputs():
    u = bases(BRANCH, X, Y)[basis_name(BRANCH)]
    expected = np.linalg.svd(Y.astype(np.float64))[2][:4]
    inside = u.T @ expected.T @ expected
    np.testing.assert_allclose(inside, u.T, atol=1e-3 * np.abs(u).max())


@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_signs_of_size_eps_change_the_outputs_by_eps_times_their_size(scale):
    a, b = np.zeros((4, 20), np.float32), np.zeros((15, 4), np.float32)
    space = ActivationBranch(
        [
            Site(
                name="m.weight",
                buffers=(a, b),
                branch=BRANCH.branch,
                decays=True,
                seed=0,
                directions=Dense("rademacher"),
                arrays=(),
                device=Reference(),
            )
        ]
    )
    space.assign(bases(BRANCH, scale * X, scale * Y))
    ratios = []
    for step in range(40):
        space.visit(step, (Move(0, 0.05),), Part())
        carry_out(Reference(), space.settle())
        space.settled()
        delta = 3.0 * scale * X @ a.T @ b.T  # alpha / rank = 3
        ratios.append(np.sqrt(np.square(delta).sum(1).mean() / np.square(scale * Y).sum(1).mean()))
    assert np.sqrt(np.mean(np.square(ratios))) == pytest.approx(0.05, rel=0.1)


def test_fewer_rows_than_the_rank_leave_directions_empty():
    found = bases(BRANCH, X[:2], Y[:2])
    assert np.isfinite(found["m.a"]).all()
    np.testing.assert_array_equal(found["m.a"][2:], 0.0)


def test_silent_layers_get_no_direction():
    found = bases(BRANCH, np.zeros_like(X), np.zeros_like(Y))
    np.testing.assert_array_equal(found[basis_name(BRANCH)], 0.0)


def test_what_is_held_of_a_wide_model_is_bounded(tmp_path, monkeypatch):
    bundle = to_bundle(mlp(tmp_path / "m.onnx"), tmp_path / "b", task="classification", train=("lora",))
    widths = (6 + 16) + (16 + 3) if len(bundle.manifest.branches) == 2 else 6 + 16
    for vectors, wanted in ((100, 100), (1, activations._FEWEST), (10**6, activations.TOKENS)):
        monkeypatch.setattr(activations, "HELD_BYTES", 4 * widths * vectors)
        assert activations._most_vectors(bundle) == wanted


def test_the_vectors_that_are_kept_are_spread_over_all():
    vectors = np.arange(30, dtype=np.float32).reshape(10, 3)
    assert activations._thinned(vectors, 4)[:, 0].tolist() == [0, 9, 18, 27]
    np.testing.assert_array_equal(activations._thinned(vectors, 99), vectors)


def test_vectors_of_several_passes_are_joined_in_their_order():
    held = activations._Held(("a", "b"), 5)
    parts = [np.full((n, 2), n, np.float32) for n in (2, 1)]
    for part in parts:
        held.add("a", part)
    held.add("b", np.ones((5, 3), np.float32))
    np.testing.assert_array_equal(held.joined()["a"], np.concatenate(parts))
    assert held.joined()["b"].shape == (5, 3)
