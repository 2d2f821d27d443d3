from __future__ import annotations

import math
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from tests.builders.bundles import arrays
from zoedge.errors import InputError
from zoedge.runtime.data.batches import MicroBatch
from zoedge.runtime.losses.objectives import OBJECTIVES, Criterion, beside, module_folder, objective
from zoedge.runtime.records import Eval
from zoedge.runtime.run.evaluations import Evaluations

CLASSES = arrays().manifest
NUMBERS = arrays(task="regression", loss="mse").manifest
FLOATS = st.floats(-1e6, 1e6, width=32)


def results(outputs, labels, cuts=(), padding: int = 0, order=None):
    """Deal rows into micro-batches with rows behind them that must not count."""
    found = []
    rows = np.arange(len(labels)) if order is None else np.array(order)
    for part in np.split(rows, sorted(cuts)):
        if len(part):
            taken = np.concatenate([part, np.repeat(part[-1:], padding)]).astype(int)
            batch = MicroBatch({}, {"labels": labels[taken]}, part)
            found.append((batch, {name: array[taken] for name, array in outputs.items()}))
    return found


@given(st.lists(st.tuples(FLOATS, st.integers(0, 50)), min_size=1, max_size=30), st.data())
def test_loss_is_the_weighted_mean_to_the_last_bit_for_any_dealing(rows, data):
    loss, weight = np.array(rows, np.float32).T
    outputs = {"loss": loss, "weight": weight}
    cuts = data.draw(st.sets(st.integers(0, len(rows))))
    order = data.draw(st.permutations(range(len(rows))))
    value = objective("loss", CLASSES)(results(outputs, np.zeros(len(rows)), cuts, 2, order))
    once = objective("loss", CLASSES)(results(outputs, np.zeros(len(rows))))
    if not weight.any():
        assert math.isnan(value)
        return
    assert value == once
    expected = np.average(loss.astype(np.longdouble), weights=weight)
    assert value == pytest.approx(float(expected), rel=1e-9, abs=1e-9)


def test_loss_that_is_not_finite():
    def at(*losses, weight=1.0):
        outputs = {"loss": np.array(losses, np.float32), "weight": np.full(len(losses), weight, np.float32)}
        return objective("loss", CLASSES)(results(outputs, np.zeros(len(losses))))

    assert math.isnan(at(1.0, np.nan))
    assert at(1.0, np.inf) == math.inf
    assert math.isnan(at(np.nan, np.inf))


def test_a_row_without_label_tokens_does_not_count():
    outputs = {"loss": np.array([np.nan, 2.0], np.float32), "weight": np.array([0.0, 3.0], np.float32)}
    assert objective("loss", CLASSES)(results(outputs, np.zeros(2))) == 2.0


@pytest.mark.parametrize("classes", [2, 4])
def test_accuracy_and_f1_are_of_the_whole_batch(classes):
    rng = np.random.default_rng(0)
    labels, logits = rng.integers(0, classes, 23), rng.normal(size=(23, classes))
    outputs = {"logits": logits, "loss": np.ones(23), "weight": np.ones(23)}
    dealt = results(outputs, labels, (3, 4, 20), 2)
    predicted = logits.argmax(axis=1)
    average = "binary" if classes == 2 else "macro"
    assert objective("accuracy", CLASSES)(dealt) == -np.mean(predicted == labels)
    assert objective("f1", CLASSES)(dealt) == pytest.approx(-f1_score(labels, predicted, average=average))


def test_metric_of_a_broken_model_is_not_a_score():
    outputs = {"logits": np.full((2, 3), np.nan), "loss": np.full(2, np.nan), "weight": np.ones(2)}
    assert math.isnan(objective("accuracy", CLASSES)(results(outputs, np.zeros(2, int))))


def test_outputs_that_are_read():
    assert objective("loss", CLASSES).outputs == ("loss", "weight")
    assert set(objective("f1", CLASSES).outputs) == {"loss", "weight", "logits"}


# -- functions of the user ----------------------------------------------------------------------------------


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module in the working directory, which isn't on the path."""
    (tmp_path / "my_scores.py").write_text(
        "def negative_first(outputs, targets):\n"
        "    assert outputs['logits'].shape[0] == targets['labels'].shape[0]\n"
        "    return -outputs['logits'][0, 0]\n"
        "def order(outputs, targets):\n"
        "    return outputs['logits'][:, 0].tolist() == targets['labels'].tolist() == [0, 1, 2, 3, 4, 5]\n"
        "def text(outputs, targets):\n    return 'high'\n"
        "def several(outputs, targets):\n    return outputs['logits']\n"
        "def nothing(outputs, targets):\n    pass\n"
        "def broken(outputs, targets):\n    return outputs['nope']\n"
        "constant = 3\n"
        "async def later(outputs, targets):\n    return 1.0\n"
        "def error(outputs, targets):\n    return outputs['logits'].mean()\n"
        "error.direction = 'min'\n"
        "def wrong(outputs, targets):\n    return 0\n"
        "wrong.direction = 'up'\n"
        "def one(outputs):\n    return 0\n"
        "def three(a, b, c):\n    return 0\n"
    )
    (tmp_path / "broken_scores.py").write_text("import nowhere_to_be_found\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name in ("my_scores", "broken_scores"):
        sys.modules.pop(name, None)


def run(name):
    outputs = {"logits": np.arange(6.0)[:, None]}
    made = objective(name, CLASSES, "max")
    return made(results(outputs, np.arange(6), (2, 3), 1, order=[4, 1, 0, 5, 2, 3]))


@pytest.mark.usefixtures("module")
def test_function_sees_the_whole_batch_in_order():
    assert run("my_scores:order") == -1.0
    assert objective("my_scores:order", CLASSES, "min").outputs is None


@pytest.mark.usefixtures("module")
def test_a_function_is_maximised_or_minimised_as_somebody_says():
    rows = results({"logits": np.full((2, 1), 7.0)}, np.zeros(2))
    for direction, number in (("max", 7.0), ("min", -7.0)):
        made = objective("my_scores:negative_first", CLASSES, direction)
        assert made.maximised == (direction == "max")
        assert made(rows) == number
    told = objective("my_scores:error", CLASSES)
    assert not told.maximised
    assert told(rows) == 7.0
    assert objective("my_scores:error", CLASSES, "min")(rows) == 7.0


@pytest.mark.usefixtures("module")
@pytest.mark.parametrize(
    ("name", "direction", "message"),
    [
        (
            "my_scores:order",
            None,
            "doesn't say whether less or more of it is better: give --objective-direction min",
        ),
        ("my_scores:error", "max", r"contradicts the function's own error.direction = 'min': leave one out"),
        ("my_scores:later", "max", "is an async function: define it without async"),
        ("my_scores:wrong", None, "has the direction 'up': it must be 'min' or 'max'"),
        ("accuracy", "min", "--objective-direction min contradicts --objective accuracy, which is maximised"),
        ("loss", "max", "--objective-direction max contradicts --objective loss, which is minimised"),
        (
            "my_scores:one",
            "max",
            r"takes \(outputs\), and is called with two dicts of arrays, outputs \(.*targets \(",
        ),
        ("my_scores:three", "max", r"takes \(a, b, c\), and is called with two dicts"),
    ],
)
def test_directions_and_signatures_that_cannot_be_right(name, direction, message):
    with pytest.raises(InputError, match=message):
        objective(name, CLASSES, direction)


@pytest.mark.parametrize(
    ("maximised", "best", "order"), [(True, 3.0, [1.0, math.nan, 3.0, 2.0]), (False, 1.0, [2.0, 1.0, 3.0])]
)
def test_the_best_evaluation_is_so_in_the_direction_of_the_objective(maximised, best, order):
    evaluations = Evaluations(Criterion("objective", maximised, "f"))
    for step, value in enumerate(order):
        evaluations.take(Eval(step, {"objective": value, "loss": 0.0}))
    assert (evaluations.best, evaluations.best_step) == (best, order.index(best))
    assert evaluations.since_best == len(order) - 1 - order.index(best)


@pytest.mark.usefixtures("module")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my_scorse:order", "importing 'my_scorse' raised ModuleNotFoundError"),
        ("broken_scores:f", r"raised ModuleNotFoundError \(No module named 'nowhere_to_be_found'\)"),
        ("my_scores:ordr", r"has no 'ordr'; did you mean order\?"),
        ("my_scores:constant", "it is int and not a function"),
        (
            "accuracies",
            r"'accuracies' is unknown; did you mean accuracy\?; use loss, accuracy, f1 or module:function",
        ),
    ],
)
def test_function_that_can_not_be_loaded(name, message):
    with pytest.raises(InputError, match=message):
        objective(name, CLASSES)


@pytest.mark.usefixtures("module")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("text", "returned 'high': return one number"),
        ("several", "return one number"),
        ("nothing", "returned None: return one number"),
        ("broken", r"raised KeyError \('nope'\): correct the function"),
    ],
)
def test_function_that_returns_no_number(name, message):
    with pytest.raises(InputError, match=message) as caught:
        run(f"my_scores:{name}")
    assert "\n" not in str(caught.value)


def test_metric_that_the_task_does_not_have():
    with pytest.raises(
        InputError, match="--objective f1 needs class labels, and this bundle's regression has none"
    ):
        objective("f1", NUMBERS)


def test_every_objective_names_itself():
    for name in OBJECTIVES:
        assert callable(objective(name, CLASSES))


@pytest.mark.usefixtures("module")
def test_the_folder_of_a_function(tmp_path, monkeypatch):
    for name in (
        "accuracy",
        "loss",
        "math:fsum",
        "json.decoder:scanstring",
        "numpy.linalg:norm",
        "not_loaded:f",
    ):
        assert module_folder(name) == ""
    objective("my_scores:order", CLASSES, "max")
    assert module_folder("my_scores:order") == str(tmp_path)
    (tmp_path / "elsewhere" / "my_pack").mkdir(parents=True)
    (tmp_path / "elsewhere" / "my_pack" / "__init__.py").touch()
    (tmp_path / "elsewhere" / "my_pack" / "scores.py").write_text(
        "def f(outputs, targets):\n    return 0.5\n"
    )
    message = rf"importing 'my_pack.scores' raised .*; name a module in {tmp_path}, or an installed one"
    with pytest.raises(InputError, match=message):
        objective("my_pack.scores:f", CLASSES, "max")
    with beside(str(tmp_path / "gone")):
        message = rf"name a module in {tmp_path / 'gone'} or {tmp_path}, or an installed one"
        with pytest.raises(InputError, match=message):
            objective("my_pack.scores:f", CLASSES, "max")
    with beside(str(tmp_path / "elsewhere")):
        objective("my_pack.scores:f", CLASSES, "max")
    assert module_folder("my_pack.scores:f") == str(tmp_path / "elsewhere")
    for name in ("my_pack.scores", "my_pack"):
        sys.modules.pop(name)
