from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import binomtest

from zoedge.runtime.data.dataset import Dataset
from zoedge.runtime.run.certainty import accuracy_interval, best_text, metric_texts, validation_notes

NAMED = SimpleNamespace(labels=("cat", "dog", "hen"))


def rows(*classes):
    count = len(classes)
    return Dataset((), np.zeros(count, np.int64), (b"",) * count, classes=np.array(classes, np.int64))


@pytest.mark.parametrize(("right", "of"), [(6, 6), (0, 6), (3, 6), (45, 60), (1, 1)])
def test_the_interval_is_wilsons(right, of):
    expected = binomtest(right, of).proportion_ci(0.95, method="wilson")
    assert accuracy_interval(right / of, of) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_six_rows_say_little():
    text = best_text(40, {"loss": 0.1, "accuracy": 1.0, "f1": 1.0, "loss_stderr": 0.02}, 6)
    assert text == (
        "best after step 40: loss 0.1000 ± 0.0200, accuracy 1.0000, f1 1.0000; on 6 validation rows, which agree with "
        "an accuracy from 0.61 to 1.00 (95 %)"
    )


def test_what_is_not_known_is_left_out():
    assert metric_texts({"loss": math.nan, "loss_stderr": math.nan}) == ["loss not finite"]
    assert best_text(0, {"loss": 0.5}, 0) == "best after step 0: loss 0.5000"


def test_few_rows_and_missing_classes_are_said():
    few, missing = validation_notes(rows(*[0, 1, 2] * 20), rows(0, 0, 2), NAMED)
    assert few.startswith("validation has 3 rows, fewer than 30: each row moves the accuracy by 0.33, its")
    assert missing.startswith("validation has no row of the class dog: ")
    assert validation_notes(rows(*[0, 1] * 60), rows(*[0, 1] * 15), NAMED) == ()
    assert validation_notes(rows(0, 1), None, NAMED) == ()


def test_numbers_of_any_size_are_readable():
    assert metric_texts({"mse": 66075452423.7, "mae": 0.25, "r2": -0.0000125}) == [
        "mse 6.6075e+10",
        "mae 0.2500",
        "r2 -1.25e-05",
    ]
