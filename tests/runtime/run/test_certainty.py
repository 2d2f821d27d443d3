from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import binomtest

from zoedge.manifest import Head
from zoedge.runtime.data.dataset import Dataset
from zoedge.runtime.data.facts import Facts
from zoedge.runtime.losses.metrics import f1_meaning
from zoedge.runtime.run.certainty import accuracy_interval, best_text, metric_texts, validation_notes
from zoedge.runtime.start.probe import deal
from zoedge.runtime.start.refit import HeadRefit, fitted_rows

NAMED = SimpleNamespace(labels=("cat", "dog", "hen"), loss="cross-entropy", outputs=())


def rows(*classes):
    count = len(classes)
    return Dataset((), np.zeros(count, np.int64), (b"",) * count, classes=np.array(classes, np.int64))


@pytest.mark.parametrize(("right", "of"), [(6, 6), (0, 6), (3, 6), (45, 60), (1, 1)])
def test_the_interval_is_wilsons(right, of):
    expected = binomtest(right, of).proportion_ci(0.95, method="wilson")
    assert accuracy_interval(right / of, of) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_six_rows_say_little():
    text = best_text(
        40, {"loss": 0.1, "accuracy": 1.0, "f1": 1.0, "loss_stderr": 0.02}, Facts(validation_rows=6)
    )
    assert text == (
        "best after step 40: loss 0.1000 ± 0.0200, accuracy 1.0000, f1 1.0000; on 6 validation rows, which agree with "
        "an accuracy from 0.61 to 1.00 (95 %)"
    )


def test_what_is_not_known_is_left_out():
    assert metric_texts({"loss": math.nan, "loss_stderr": math.nan}) == ["loss not finite"]
    assert best_text(0, {"loss": 0.5}, Facts()) == "best after step 0: loss 0.5000"


def test_few_rows_and_missing_classes_are_said():
    few, missing = validation_notes(rows(*[0, 1, 2] * 20), rows(0, 0, 2), NAMED)
    assert few.startswith("validation has 3 rows, fewer than 30: each row moves the accuracy by 0.33, its")
    assert missing.startswith("validation has no row of the class dog: ")
    assert validation_notes(rows(*[0, 1] * 60), rows(*[0, 1] * 15), NAMED) == ()
    assert validation_notes(rows(0, 1), None, NAMED) == ()
    assert validation_notes(rows(*[0, 1] * 15), None, NAMED, 30) == ()
    (few,) = validation_notes(rows(0, 0, 1, 1), None, NAMED, 4)
    assert few.startswith(
        "the solved head is judged on 4 training rows, fewer than 30: each row moves the accuracy by"
    )


def test_the_class_that_f1_is_of_is_said():
    many = rows(*[0, 1] * 15)
    two = SimpleNamespace(labels=("spam", "ham"), loss="cross-entropy", outputs=())
    assert validation_notes(many, many, two) == ("f1 is that of the second class, ham",)
    ports = (SimpleNamespace(name="logits", shape=("batch", 2)),)
    assert f1_meaning(SimpleNamespace(labels=(), loss="cross-entropy", outputs=ports)).endswith("class, 1")
    assert f1_meaning(SimpleNamespace(labels=(), loss="mse", outputs=ports)) == ""
    assert f1_meaning(SimpleNamespace(labels=(), loss="bce-with-logits", outputs=ports)) == ""


def test_a_solved_head_is_as_sure_as_the_rows_that_it_was_judged_on():
    text = best_text(0, {"loss": 0.4, "accuracy": 0.9}, Facts(crossfit_rows=60))
    low, high = binomtest(54, 60).proportion_ci(0.95, method="wilson")
    assert text == (
        "best after step 0: loss 0.4000, accuracy 0.9000; on 60 training rows, each judged by a head that had not seen "
        f"it, which agree with an accuracy from {low:.2f} to {high:.2f} (95 %)"
    )
    for count, folds in ((48, 3), (7, 2), (9000, 5), (4097, 4)):
        shuffled = deal(range(count), folds)
        refit = HeadRefit(Head(weight="w"), "mse", 1, shuffled, lambda rows, outputs: [])
        assert fitted_rows(count, folds) == len(refit._rows)


def test_numbers_of_any_size_are_readable():
    assert metric_texts({"mse": 66075452423.7, "mae": 0.25, "r2": -0.0000125}) == [
        "mse 6.6075e+10",
        "mae 0.2500",
        "r2 -1.25e-05",
    ]
