from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk

from zoedge.runtime.data.batches import MicroBatch
from zoedge.runtime.data.facts import TargetScale
from zoedge.runtime.losses.metrics import METRICS, ErrorMetrics


def add_up(loss: str, outputs, labels, cuts=(), padding: int = 0):
    """Feed the rows in unequal batches, each followed by rows that must be ignored."""
    metrics = METRICS[loss]()
    rows = np.arange(len(labels))
    outputs = {
        "weight": np.ones(len(labels), np.float32),
        "loss": np.zeros(len(labels), np.float32),
        **outputs,
    }
    for part in np.split(rows, sorted(cuts)):
        if len(part):
            wrong = np.repeat(part[-1:], padding)
            taken = np.concatenate([part, wrong])
            batch = MicroBatch({}, {"labels": labels[taken]}, part)
            metrics.update(batch, {name: array[taken] for name, array in outputs.items()})
    return metrics.result()


@given(
    st.integers(1, 60),
    st.integers(2, 5),
    st.integers(0, 2**32 - 1),
    st.sets(st.integers(0, 60)),
    st.integers(0, 2),
)
def test_classes_as_scikit_learn_has_them(rows, classes, seed, cuts, padding):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, rng.integers(1, classes + 1), rows)  # some classes may not occur
    logits = rng.normal(size=(rows, classes)).astype(np.float32)
    loss = rng.exponential(size=rows).astype(np.float32)
    got = add_up("cross-entropy", {"logits": logits, "loss": loss}, labels, cuts, padding)
    predicted = logits.argmax(axis=1)
    average = "binary" if classes == 2 else "macro"
    assert got["accuracy"] == sk.accuracy_score(labels, predicted)
    assert got["f1"] == pytest.approx(
        sk.f1_score(labels, predicted, average=average, zero_division=0.0), abs=1e-12
    )
    assert got["loss"] == pytest.approx(np.mean(loss.astype(np.float64)), rel=1e-12)


@given(st.integers(1, 40), st.integers(1, 4), st.integers(0, 2**32 - 1), st.sets(st.integers(0, 40)))
def test_several_labels_as_scikit_learn_has_them(rows, count, seed, cuts):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, (rows, count)).astype(np.float32)
    logits = rng.normal(size=(rows, count)).astype(np.float32)
    got = add_up("bce-with-logits", {"logits": logits}, labels, cuts, 1)
    average = "binary" if count == 1 else "macro"
    expected = sk.f1_score(labels, logits > 0, average=average, zero_division=0.0)
    assert got["f1"] == pytest.approx(expected, abs=1e-12)
    assert got["accuracy"] == pytest.approx(np.mean((logits > 0) == labels), abs=1e-12)


@given(st.integers(1, 40), st.integers(0, 2**32 - 1), st.sets(st.integers(0, 40)))
def test_tokens(rows, seed, cuts):
    rng = np.random.default_rng(seed)
    labels = np.where(rng.random((rows, 5)) < 0.4, -100, rng.integers(0, 3, (rows, 5)))
    labels[0, 0] = 1
    predictions = rng.integers(0, 3, (rows, 5))
    weight = (labels != -100).sum(axis=1).astype(np.float32)
    token_loss = np.where(labels != -100, rng.exponential(size=(rows, 5)), 0.0)
    with np.errstate(invalid="ignore"):
        loss = (token_loss.sum(axis=1) / weight).astype(np.float32)  # NaN for a row without labels
    got = add_up(
        "token-cross-entropy", {"predictions": predictions, "loss": loss, "weight": weight}, labels, cuts, 2
    )
    counted = labels != -100
    mean = token_loss.sum() / counted.sum()
    assert got["loss"] == pytest.approx(mean, rel=1e-6)
    assert got["perplexity"] == pytest.approx(math.exp(mean), rel=1e-5)
    assert got["accuracy"] == pytest.approx(np.mean(predictions[counted] == labels[counted]), abs=1e-12)


@given(
    st.integers(2, 40),
    st.integers(1, 4),
    st.integers(0, 2**32 - 1),
    st.sets(st.integers(0, 40)),
    st.sampled_from([0.0, 1e4]),
)
def test_errors_as_scikit_learn_has_them(rows, outputs, seed, cuts, offset):
    rng = np.random.default_rng(seed)
    labels, logits = (rng.normal(size=(2, rows, outputs)) + offset).astype(np.float32)
    got = add_up("mse", {"logits": logits}, labels, cuts, 1)
    known, found = labels.astype(np.float64), logits.astype(np.float64)
    assert got["mse"] == pytest.approx(sk.mean_squared_error(known, found), rel=1e-12)
    assert got["mae"] == pytest.approx(sk.mean_absolute_error(known, found), rel=1e-12)
    assert got["r2"] == pytest.approx(sk.r2_score(known, found), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("hit", [0.0, 1.0])
def test_r2_of_labels_that_are_all_the_same(hit):
    labels = np.full((5, 1), 2.0, np.float32)
    logits = labels + np.float32(1.0 - hit)
    assert add_up("mse", {"logits": logits}, labels, (2,))["r2"] == sk.r2_score(labels, logits) == hit


def test_r2_of_one_row_is_unknown():
    assert math.isnan(add_up("mse", {"logits": np.ones((1, 1))}, np.ones((1, 1)))["r2"])


@given(st.integers(2, 40), st.integers(1, 3), st.integers(0, 2**32 - 1), st.sets(st.integers(0, 40)))
def test_errors_of_standardised_targets_are_in_the_users_units(rows, outputs, seed, cuts):
    rng = np.random.default_rng(seed)
    scale = TargetScale(
        mean=tuple(rng.normal(size=outputs) * 1e3),
        std=tuple(10.0 ** rng.integers(-2, 4, outputs)),
        outputs=True,
    )
    labels, logits = rng.normal(size=(2, rows, outputs)).astype(np.float32)
    metrics = ErrorMetrics(scale)
    for part in np.split(np.arange(rows), sorted(cuts)):
        if len(part):
            own = {"loss": np.zeros(len(part)), "weight": np.ones(len(part)), "logits": logits[part]}
            metrics.update(MicroBatch({}, {"labels": labels[part]}, part), own)
    known, found = (values.astype(np.float64) * scale.std + scale.mean for values in (labels, logits))
    got = metrics.result()
    assert got["mse"] == pytest.approx(sk.mean_squared_error(known, found), rel=1e-9)
    assert got["mae"] == pytest.approx(sk.mean_absolute_error(known, found), rel=1e-9)
    assert got["r2"] == pytest.approx(sk.r2_score(known, found), rel=1e-5, abs=1e-9)


@given(st.integers(2, 60), st.integers(0, 2**32 - 1), st.sets(st.integers(0, 60)))
def test_the_standard_error_of_a_loss(rows, seed, cuts):
    loss = np.random.default_rng(seed).exponential(size=rows).astype(np.float32)
    logits = np.zeros((rows, 2), np.float32)
    got = add_up("cross-entropy", {"logits": logits, "loss": loss}, np.zeros(rows, np.int64), cuts, 1)
    expected = np.std(loss.astype(np.float64), ddof=1) / math.sqrt(rows)
    assert got["loss_stderr"] == pytest.approx(expected, rel=1e-6, abs=1e-7)


def test_mean_squared_error_of_one_number_per_row():
    labels, logits = np.array([1.0, 2.0], np.float32), np.array([[1.0], [4.0]], np.float32)
    assert add_up("mse", {"logits": logits}, labels)["mse"] == 2.0  # not 4.5, as broadcasting would have it


@pytest.mark.parametrize("loss", METRICS)
def test_nothing_added_is_nan_without_a_warning(loss):
    metrics = METRICS[loss]()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = metrics.result()
    assert set(result) == {"loss", "loss_stderr", *metrics.names}
    assert all(math.isnan(value) for value in result.values())


def test_perplexity_does_not_overflow():
    rows = {"predictions": np.zeros((1, 1)), "loss": np.array([1e5]), "weight": np.ones(1)}
    assert add_up("token-cross-entropy", rows, np.zeros((1, 1)))["perplexity"] == math.inf
