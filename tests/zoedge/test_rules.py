"""Rules and scalings against torch's optimisers, on estimates that are known."""

import numpy as np
import pytest
import torch

from tests.builders.folds import buffers, dense, fold
from zoedge.runtime.noise.reference import Stream, directions, tensor_id

SHAPES = {"a.weight": (30, 20), "b.weight": (50,)}
LR, EPS, STEPS = 1e-2, 1e-3, 12


def slope(step, probe):
    """What the losses of a made-up function say: a directional derivative for each step and direction."""
    return float(np.sin(1 + 3 * step + probe))


def tuned(method, placement, **settings):
    """The parameters after some steps whose derivatives are given."""
    m = dense(SHAPES, no_decay=("b.weight",))
    arrays = buffers(m)
    f = fold(m, arrays, method=method, placement=placement, eps=EPS, queries=2, **settings)
    for step in range(STEPS):
        answers = [sign * EPS * slope(step, k) for k in range(2) for sign in (1.0, -1.0)]
        f.apply(f.measure(LR, lambda points, answers=answers: [answers[point] for point in points]))
    f.rest()
    return arrays


def by_torch(make, *, sign=False):
    """The same by an optimiser of torch, in float64."""
    tensors = {
        n: torch.tensor(v, dtype=torch.float64, requires_grad=True) for n, v in buffers(dense(SHAPES)).items()
    }
    optimizer = make(tensors)
    for step in range(STEPS):
        for name, tensor in tensors.items():
            scales = [slope(step, k) for k in range(2)]
            scales = np.sign(scales) if sign else scales
            z = [directions(Stream(0, tensor_id(name), step, k), tensor.shape) for k in range(2)]
            tensor.grad = torch.tensor(
                np.mean([s * d.astype(np.float64) for s, d in zip(scales, z, strict=True)], axis=0)
            )
        optimizer.step()
    return {n: t.detach().numpy() for n, t in tensors.items()}


CASES = {
    "mezo": ({}, lambda t: torch.optim.SGD(t.values(), LR), False),  # n-SPSA: the mean of its estimates
    "zo-sgd-momentum": ({"momentum": 0.8}, lambda t: torch.optim.SGD(t.values(), LR, momentum=0.8), False),
    "zo-adam": ({}, lambda t: torch.optim.Adam(t.values(), LR), False),
    "zo-sgd-sign": ({}, lambda t: torch.optim.SGD(t.values(), LR), True),
}


@pytest.mark.parametrize("placement", ["in-place", "out-of-place"])
@pytest.mark.parametrize("method", CASES)
def test_they_are_torchs_optimisers(method, placement):
    settings, make, sign = CASES[method]
    expected = by_torch(make, sign=sign)
    for name, value in tuned(method, placement, **settings).items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize(("method", "settings"), [("zo-adam", {"beta1": 0.7, "beta2": 0.9})])
def test_adam_decays_apart_from_its_moments_and_spares_biases(method, settings):
    def make(tensors):
        groups = [
            {"params": [t], "weight_decay": 0.0 if n == "b.weight" else 0.5} for n, t in tensors.items()
        ]
        return torch.optim.AdamW(groups, LR, betas=(0.7, 0.9))

    found = tuned(method, "out-of-place", weight_decay=0.5, **settings)
    for name, value in by_torch(make).items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=2e-5)


def helene(*, b1=0.9, b2=0.99, anneal=5.0, every=4, gamma=2.0, floor=0.01, decay=0.5):
    """HELENE in float64, as the paper has it but for the batch size."""
    theta = {n: a.astype(np.float64) for n, a in buffers(dense(SHAPES)).items()}
    m, h = ({n: np.zeros_like(a) for n, a in theta.items()} for _ in range(2))
    for step in range(STEPS):
        alpha = b1 + (1 - b1) * np.exp(-step / anneal)
        for name, value in theta.items():
            z = [directions(Stream(0, tensor_id(name), step, k), value.shape) for k in range(2)]
            e = np.mean([slope(step, k) * z[k].astype(np.float64) for k in range(2)], axis=0)
            m[name] = b1 * m[name] + alpha * e
            if step % every == 0:
                h[name] = b2 * h[name] + (1 - b2) * e * e
            value *= 1 - LR * (decay if name != "b.weight" else 0.0)
            value -= LR * m[name] / (gamma * np.maximum(h[name], floor * value.size) + 1e-8)
    return theta, h


@pytest.mark.parametrize("placement", ["in-place", "out-of-place"])
@pytest.mark.parametrize("floor", [1e-5, 1.0])
def test_helene_is_the_published_one(placement, floor):
    expected, curvature = helene(floor=floor)
    above = np.mean([np.mean(h > floor * h.size) for h in curvature.values()])
    assert (0.1 < above < 0.9) if floor < 1 else above == 0.0  # both sides of the clip are seen
    settings = {"anneal": 5.0, "curvature_every": 4, "curvature_scale": 2.0, "curvature_floor": floor}
    found = tuned("helene", placement, weight_decay=0.5, **settings)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("placement", ["in-place", "out-of-place"])
def test_without_momentum_it_is_mezo(placement):
    plain, momentum = tuned("mezo", placement), tuned("zo-sgd-momentum", placement, momentum=0.0)
    for name, value in plain.items():
        np.testing.assert_allclose(momentum[name], value, rtol=0, atol=2e-6)
