"""A probed head: scaled features, cross-fitting, and what it scores on the rows it has not seen."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from zoedge.manifest import Head
from zoedge.runtime.data.batches import MicroBatch
from zoedge.runtime.run.fold import FULL
from zoedge.runtime.start.probe import STRENGTHS, Scale, deal, fit_probe
from zoedge.runtime.start.refit import HeadRefit

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 3, 240)
FEATURES = (RNG.standard_normal((240, 10)) * 7.0 + 3.0 * np.eye(10)[LABELS] * 5.0 + 20.0).astype(np.float32)


def dealt(folds):
    return deal(RNG.permutation(240).tolist(), folds)


@pytest.mark.parametrize("folds", [2, 5])
def test_every_row_is_dealt_once(folds):
    rows = dealt(folds)
    assert sorted(row for fold in rows for row in fold) == list(range(240))
    assert max(map(len, rows)) - min(map(len, rows)) <= 1


def test_the_full_head_is_scikit_learns_on_scaled_features():
    fitted = fit_probe("cross-entropy", FEATURES, LABELS, 3, dealt(5))
    assert fitted.l2 in STRENGTHS
    scaled = Scale.of(FEATURES).normalised(FEATURES)
    reference = LogisticRegression(C=1.0 / (fitted.l2 * 240), tol=1e-10, max_iter=10_000).fit(scaled, LABELS)
    scores = fitted.scores(FEATURES, FULL)
    expected = reference.decision_function(scaled)
    np.testing.assert_allclose(scores - scores.mean(axis=1, keepdims=True), expected, atol=0.02)


def test_a_fold_is_scored_by_a_head_that_has_not_seen_it():
    rows = dealt(4)
    shuffled = LABELS.copy()
    shuffled[rows[2]] = RNG.integers(0, 3, len(rows[2]))  # other labels in one fold
    first = fit_probe("cross-entropy", FEATURES, LABELS, 3, rows)
    second = fit_probe("cross-entropy", FEATURES, shuffled, 3, rows)
    if first.l2 == second.l2:
        np.testing.assert_allclose(first.heads[2], second.heads[2], atol=1e-3)
    assert np.abs(first.heads[0] - second.heads[0]).max() > 1e-2


def test_the_loss_is_the_one_on_left_out_rows():
    rows = dealt(3)
    fitted = fit_probe("cross-entropy", FEATURES, LABELS, 3, rows)
    losses = []
    for slot, fold in enumerate(rows):
        scores = fitted.scores(FEATURES[fold], slot)
        log_sum = np.log(np.exp(scores - scores.max(1, keepdims=True)).sum(1)) + scores.max(1)
        losses += (log_sum - scores[np.arange(len(fold)), LABELS[fold]]).tolist()
    assert fitted.loss == pytest.approx(np.mean(losses), rel=1e-6)


def test_the_scale_of_features_does_not_matter():
    rows = dealt(3)
    plain = fit_probe("cross-entropy", FEATURES, LABELS, 3, rows)
    scaled = fit_probe("cross-entropy", FEATURES * 1000.0, LABELS, 3, rows)
    assert scaled.l2 == plain.l2
    np.testing.assert_allclose(
        scaled.scores(FEATURES * 1000.0, FULL), plain.scores(FEATURES, FULL), atol=1e-2
    )


def test_features_without_variance_give_a_finite_head():
    fitted = fit_probe("cross-entropy", np.ones((240, 4), np.float32), LABELS, 3, dealt(2))
    assert all(np.isfinite(w).all() for w in fitted.heads.values())


def test_a_head_that_is_stored_transposed_is_solved_as_it_lies():
    def forward(rows, outputs):
        batch = MicroBatch({}, {"labels": LABELS[rows]}, np.arange(len(rows)))
        return [(batch, {"features": FEATURES[rows]})]

    rows = dealt(2)
    heads = [Head(weight="w", bias="b", fresh=True, transposed=t) for t in (False, True)]
    plain, flipped = (HeadRefit(head, "cross-entropy", 3, rows, forward).fit().heads[FULL] for head in heads)
    assert flipped["w"].shape == (10, 3)
    np.testing.assert_array_equal(flipped["w"].T, plain["w"])
    np.testing.assert_array_equal(flipped["b"], plain["b"])
