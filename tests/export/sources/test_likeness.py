"""What numbers of an output are taken for."""

import numpy as np
import pytest

from zoedge.export.sources.likeness import CLASSES, EACH, UNKNOWN, likeness, without_logarithm

SHARES = np.random.default_rng(0).dirichlet(np.ones(4), 32)
SINGLE = np.random.default_rng(1).uniform(0, 1, (32, 4))
TINY = 1.1754943508222875e-38


@pytest.mark.parametrize(
    ("outputs", "operators", "kind", "total"),
    [
        (SHARES, (), CLASSES, 1.0),
        (100 * SHARES, (), CLASSES, 100.0),
        (255 * SHARES, ("Softmax",), CLASSES, 255.0),
        (np.rint(100 * SHARES) / 100, ("Softmax",), CLASSES, 1.0),
        (SHARES.reshape(8, 4, 4), (), CLASSES, 1.0),
        (SINGLE, ("Sigmoid",), EACH, 1.0),
        (SINGLE[:, 0], ("Tanh",), EACH, 1.0),
        (np.append(100 * SINGLE, [[99.99] * 4], axis=0), ("Sigmoid",), EACH, 100.0),
        (np.full((8, 2), 0.5), (), UNKNOWN, 1.0),
        (np.full((8, 2), 0.5), ("Softmax",), CLASSES, 1.0),
        (np.full((8, 2), 0.3), ("Tanh",), UNKNOWN, 1.0),
    ],
)
def test_probabilities_are_seen(outputs, operators, kind, total):
    seen = likeness([outputs[:3], outputs[3:]], operators)
    assert (seen.kind, seen.total) == (kind, pytest.approx(total))


@pytest.mark.parametrize(
    ("outputs", "operators"),
    [
        (255 * SHARES, ()),
        (SHARES - 0.3, ("Softmax",)),
        (SINGLE, ()),
        (SINGLE, ("Relu", "Div", "Add")),
        (2 * SINGLE, ("Sigmoid",)),
        (50 * SINGLE, ("Sigmoid",)),
        (np.zeros((8, 2)), ("Tanh",)),
        (np.zeros((8, 0)), ("Softmax",)),
    ],
)
def test_other_numbers_are_not(outputs, operators):
    assert likeness([outputs], operators) is None


def test_the_smallest_probability_is_what_isn_t_rounding():
    p = np.exp(-np.linspace(0.1, 30, 200))
    rounded = 1 - (1 - p).astype(np.float32).astype(np.float64)
    for small, operators, least in (
        (p, (), TINY),
        (rounded, (), 2.0**-23),
        (p.astype(np.float16).astype(np.float64), (), 2.0**-23),
        (p, ("Sigmoid",), 2.0**-23),
    ):
        rows = np.stack([small, 1 - small], axis=1)
        assert likeness([rows], operators).least == least


def test_logarithms_are_told_by_sign_and_operator():
    (shares,), log = without_logarithm([np.log(SHARES)], ("Log",))
    np.testing.assert_allclose(shares, SHARES)
    assert log
    for outputs, operators in ((np.log(SHARES), ("Relu",)), (SHARES, ("Log",))):
        (same,), log = without_logarithm([outputs], operators)
        assert same is not outputs or not log
        np.testing.assert_array_equal(same, outputs)
        assert not log
