"""Rows for the bundles of these tests, as lists of dicts by split: nothing needs a file or a tokenizer."""

import numpy as np

ROWS = {"train": 48, "test": 24}
_WORDS = (
    "the film was",
    "a slow plot",
    "i hated that",
    "not one good dog",
    "we loved the acting and the story",
)


def rows_for(bundle):
    make = _MAKERS[bundle.partition("-")[0]]
    return {
        split: [make(np.random.default_rng([n, i])) for i in range(count)]
        for n, (split, count) in enumerate(ROWS.items())
    }


def _mlp(rng):
    x = rng.standard_normal(6).round(4)
    return {"x": x.tolist(), "label": int((x @ np.random.default_rng(99).standard_normal((6, 3))).argmax())}


def _cnn(rng):
    label = int(rng.integers(4))
    pixels = rng.standard_normal((3, 8, 8)) + 0.5 * label
    return {"pixels": pixels.round(3).tolist(), "label": label}


def _opt(rng):
    first, second = rng.integers(len(_WORDS), size=2)
    return {"prompt": " ".join([_WORDS[first]] * int(rng.integers(1, 4))), "completion": f" {_WORDS[second]}"}


def _encoder(rng):
    label = int(rng.integers(2))
    words = " ".join(_WORDS[i] for i in rng.integers(len(_WORDS), size=int(rng.integers(1, 4))))
    return {"text": f"{words} it was {('bad', 'good')[label]}", "label": ("bad", "good")[label]}


_MAKERS = {"mlp": _mlp, "cnn": _cnn, "opt": _opt, "encoder": _encoder}
