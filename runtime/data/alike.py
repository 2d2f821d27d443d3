"""Training rows that all have one target, from which a model learns nothing but to answer that."""

from __future__ import annotations

import numpy as np

from zoedge.manifest import Manifest

from .dataset import Dataset


def alike_notes(train: Dataset, manifest: Manifest) -> tuple[str, ...]:
    """Return a sentence where every training row has the same class, or the same numbers as its target.

    Args:
        train: the rows.
        manifest: the bundle's, for the names of classes.
    """
    if len(train) < 2 or manifest.loss == "token-cross-entropy":
        return ()
    if train.classes is not None:
        first = int(train.classes[0])
        alike = bool((train.classes == first).all())
        shared = f"the class {manifest.labels[first] if first < len(manifest.labels) else first}"
    else:
        targets = (next(iter(example.targets.values())) for example in train.examples)
        one = next(targets)
        alike, shared = all(np.array_equal(target, one) for target in targets), "one and the same target"
    if not alike:
        return ()
    return (
        f"all {len(train)} training rows have {shared}: the model can learn only to answer that; give rows of others, "
        "too, if that isn't meant",
    )
