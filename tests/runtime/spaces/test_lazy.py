"""LOZO: its directions, that probes and updates share them where V is drawn anew, and its momentum."""

import numpy as np
import pytest

from tests.builders.devices import Counting
from tests.builders.folds import branch, buffers, dense, fold, run
from zoedge.methods import Dense, LazyLowRank, Move
from zoedge.runtime.device import Cpu
from zoedge.runtime.noise.reference import PURPOSE_BASIS, Stream, directions, tensor_id
from zoedge.runtime.spaces import Site
from zoedge.runtime.spaces.core_arrays import CoreArrays
from zoedge.runtime.spaces.lazy import LazyWindow
from zoedge.runtime.spaces.low_rank import rank_of, window_of

OUT, IN, RANK, EVERY = 12, 9, 3, 4
SHAPES = {"w": (OUT, IN), "b": (5,)}
SLOPE = np.random.default_rng(3).standard_normal((OUT, IN))


def drawn(step, first, shape=(OUT, IN), name="w"):
    """U and V as the paper has them."""
    u = directions(Stream(0, tensor_id(name), step, 0), (shape[0], RANK)).astype(np.float64)
    v = directions(Stream(0, tensor_id(name), first, 1, PURPOSE_BASIS), (shape[1], RANK)).astype(np.float64)
    return u, v


def along(w):
    return float((SLOPE * w).sum())


def line(arrays):
    return along(arrays["w"].astype(np.float64))


def published(steps, lr, *, beta=None):
    """The paper's algorithms in float64, in its own units: perturbations eps' U V^T and updates lr N V^T / r."""
    w = buffers(dense(SHAPES))["w"].astype(np.float64)
    eps, n, v_before = 1e-2 / np.sqrt(RANK), np.zeros((OUT, RANK)), None
    for step in range(steps):
        u, v = drawn(step, step - step % EVERY)
        c = (along(w + eps * u @ v.T) - along(w - eps * u @ v.T)) / (2 * eps)
        if beta is None:
            n = c * u
        else:
            if step % EVERY == 0 and v_before is not None:
                n = n @ v_before.T @ v / IN
            n = beta * n + (1 - beta) * c * u
        v_before = v
        w = w - lr * n @ v.T / RANK
    return w


@pytest.mark.parametrize("device", [Cpu, Counting])
@pytest.mark.parametrize(("method", "beta"), [("lozo", None), ("lozo-m", 0.8)])
def test_it_is_the_published_one_with_the_papers_learning_rate(method, beta, device):
    """Also at steps 4 and 8, where V is drawn anew: the update has the U of its probes."""
    own, m = device(), dense(SHAPES)
    held = {n: own.own(a.copy()) for n, a in buffers(m).items()}
    given = {} if beta is None else {"momentum": beta}
    f = fold(m, held, method=method, rank=RANK, refresh=EVERY, eps=1e-2, device=own, **given)

    def losses(points):
        for _ in points:
            f.parameters.settle()
            yield line({n: own.host(b) for n, b in held.items()})

    for _ in range(10):
        f.apply(f.measure(1e-2, losses))
    f.rest()
    np.testing.assert_allclose(own.host(held["w"]), published(10, 1e-2, beta=beta), atol=2e-3)


def test_its_momentum_goes_over_into_new_directions():
    window = LazyWindow("w", (OUT, 4000), 0, LazyLowRank("gaussian", RANK))
    beside = CoreArrays("w", window, ("momentum",))
    beside.enter(0)
    before = window.v
    kept = np.random.default_rng(0).standard_normal((OUT, RANK)).astype(np.float32)
    beside.load({"w:momentum": kept, "w:window": np.array([0])})
    np.testing.assert_array_equal(beside.state()["w:momentum"], kept)
    beside.enter(7)
    found = beside.state()
    assert found["w:window"] == [7]
    wanted = kept.astype(np.float64) @ before.astype(np.float64).T @ window.v.astype(np.float64) / 4000
    np.testing.assert_allclose(found["w:momentum"], wanted, atol=1e-6)
    assert np.abs(found["w:momentum"]).max() < 0.2  # random directions hardly overlap
    np.testing.assert_allclose(window.carried(kept, window.v), kept, atol=0.3)  # V^T V is about n


def test_a_resumed_run_has_its_momentum_within_a_window_and_behind_one():
    m = dense(SHAPES)
    settings = {"method": "lozo-m", "rank": RANK, "refresh": EVERY, "weight_decay": 0.1}
    for at in range(1, 9):
        whole, parts, again = buffers(m), buffers(m), buffers(m)
        run(fold(m, whole, **settings), line, 9, 1e-2)
        first = fold(m, parts, **settings)
        run(first, line, at, 1e-2)
        second = fold(m, again, **settings)
        second.restore({n: np.array(v) for n, v in first.snapshot().items()})
        run(second, line, 9 - at, 1e-2)
        assert whole["w"].tobytes() == again["w"].tobytes()


@pytest.mark.parametrize("method", ["lozo", "lozo-m"])
def test_beside_a_frozen_matrix_it_learns_what_it_would_in_it(method):
    """What a branch adds is what a dense matrix of the same name would have moved by, while nothing is dropped."""
    m, matrix = branch(OUT, IN, rank=8, alpha=16.0), dense({"m.weight": (OUT, IN)})
    arrays, plain = buffers(m), {"m.weight": np.zeros((OUT, IN), np.float32)}
    arrays["m.lora_B.weight"][...] = 0.0

    def beside(values):
        return along(2.0 * values["m.lora_B.weight"].astype(np.float64) @ values["m.lora_A.weight"])

    settings = {"method": method, "rank": 2, "refresh": 3, "eps": 1e-2}
    run(fold(m, arrays, **settings), beside, 9, 1e-2)
    run(fold(matrix, plain, **settings), lambda values: along(values["m.weight"].astype(np.float64)), 9, 1e-2)
    delta = 2.0 * arrays["m.lora_B.weight"].astype(np.float64) @ arrays["m.lora_A.weight"]
    assert np.abs(plain["m.weight"]).max() > 0.05
    np.testing.assert_allclose(delta, plain["m.weight"], atol=1e-4)


def test_rank_is_bounded_by_the_matrix_and_directions_must_have_one():
    assert LazyWindow("w", (40, 2), 0, LazyLowRank("gaussian", 8)).core_shape == (40, 2)
    site = Site("w", (np.zeros((3, 3)),), None, True, 0, Dense("gaussian"), (), Cpu())
    for make in (rank_of, lambda s: window_of(s, "w", (3, 3))):
        with pytest.raises(ValueError, match="w can't move by"):
            make(site)


def test_a_directions_size_is_that_of_a_dense_one():
    window = LazyWindow("w", (60, 50), 0, LazyLowRank("gaussian", 2))
    sizes = []
    for step in range(60):
        window.enter(step)
        sizes.append(np.square(window.core(step, (Move(0, 1.0),)) @ window.v.T).sum())
    assert np.mean(sizes) == pytest.approx(60 * 50, rel=0.1)
