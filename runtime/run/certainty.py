"""How much a number from a few validation rows says."""

from __future__ import annotations

import math
from collections.abc import Mapping

from zoedge.manifest import Manifest

from ..data.dataset import Dataset
from ..data.facts import Facts
from ..losses.metrics import f1_meaning

FEW_ROWS = 30
_Z = 1.959964  # of a normal distribution: 95 % lie within so many deviations
_STDERR = "_stderr"  # after a metric's name: its standard error
_LEAST, _MOST = 1e-3, 1e5  # what four decimals are right for
_SHOWN = 5  # classes named in a sentence


def accuracy_interval(accuracy: float, rows: int) -> tuple[float, float]:
    """Return the accuracies that agree with the one seen on ``rows`` rows at 95 % (Wilson's interval)."""
    z2 = _Z * _Z / rows
    middle = (accuracy + z2 / 2) / (1 + z2)
    half = _Z * math.sqrt(accuracy * (1 - accuracy) / rows + z2 / (4 * rows)) / (1 + z2)
    return max(0.0, middle - half), min(1.0, middle + half)


def validation_notes(
    train: Dataset, valid: Dataset | None, manifest: Manifest, crossfit_rows: int = 0
) -> tuple[str, ...]:
    """Return what the user should know about the rows that decide what is best.

    Args:
        train, valid: the rows; ``valid`` may be None.
        manifest: the bundle's.
        crossfit_rows: training rows that a solved head is judged on where there is no ``valid``.
    """
    if valid is None or not len(valid):
        judged = f"the solved head is judged on {crossfit_rows} training rows"
        few = 0 < crossfit_rows < FEW_ROWS
        return (_few(judged, crossfit_rows, train, "give more rows or a valid split"),) if few else ()
    meaning = f1_meaning(manifest)
    notes = [meaning] if meaning else []
    remedy = "give more rows, a valid split of their own or a larger --val-size"
    if len(valid) < FEW_ROWS:
        rows = "1 row" if len(valid) == 1 else f"{len(valid)} rows"
        notes.append(_few(f"validation has {rows}", len(valid), valid, remedy))
    missing = _missing_classes(train, valid, manifest)
    if missing:
        shown = ", ".join(missing[:_SHOWN]) + (
            f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        )
        notes.append(
            f"validation has no row of the class {shown}: its numbers say nothing about that; {remedy}"
        )
    return tuple(notes)


def _few(judged: str, rows: int, of: Dataset, remedy: str) -> str:
    accuracy = ""
    if of.classes is not None:
        moves = f"each row moves the accuracy by {1 / rows:.2f}"
        accuracy = f"{moves}, its standard error is up to {0.5 / math.sqrt(rows):.2f}, and "
    return f"{judged}, fewer than {FEW_ROWS}: {accuracy}what looks best may be luck; {remedy}"


def best_text(step: int, metrics: Mapping[str, float], facts: Facts) -> str:
    """Return the best evaluation in words: its numbers, the rows behind them, and how sure they are."""
    shown = ", ".join(metric_texts(metrics))
    text = f"best after step {step}: {shown}"
    rows = facts.validation_rows or facts.crossfit_rows
    if not rows:
        return text
    many = "s" if rows > 1 else ""
    if facts.validation_rows:
        text += f"; on {rows} validation row{many}"
    else:
        text += f"; on {rows} training row{many}, each judged by a head that had not seen it"
    accuracy = metrics.get("accuracy")
    if accuracy is not None and "perplexity" not in metrics and 0.0 <= accuracy <= 1.0:
        low, high = accuracy_interval(accuracy, rows)
        text += f", which agree with an accuracy from {low:.2f} to {high:.2f} (95 %)"
    return text


def metric_texts(metrics: Mapping[str, float | None]) -> list[str]:
    """Return "name value" for each metric, the loss with its standard error."""
    texts = []
    for name, value in metrics.items():
        if name.endswith(_STDERR):
            continue
        error = metrics.get(name + _STDERR)
        number = "not finite" if value is None or not math.isfinite(value) else number_text(value)
        known = error is not None and math.isfinite(error)
        texts.append(f"{name} {number} ± {number_text(error or 0.0)}" if known else f"{name} {number}")
    return texts


def number_text(value: float) -> str:
    """Return a metric with four decimals, or with its first digits where that would say nothing."""
    usual = value == 0.0 or _LEAST <= abs(value) < _MOST or not math.isfinite(value)
    return f"{value:.4f}" if usual else f"{value:.5g}"


def _missing_classes(train: Dataset, valid: Dataset, manifest: Manifest) -> list[str]:
    if train.classes is None or valid.classes is None:
        return []
    absent = sorted(set(train.classes.tolist()) - set(valid.classes.tolist()))
    return [manifest.labels[c] if c < len(manifest.labels) else str(c) for c in absent]
