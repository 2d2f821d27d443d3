"""Settings without effect are said."""

import pytest

from tests.builders.hand_bundle import DENSE, LORA, manifest
from zoedge.manifest import Head, Stages
from zoedge.options import load_options
from zoedge.runtime.plan import make_plan

FRESH = Head(weight="classifier.weight", bias="classifier.bias", fresh=True)
LORA_BUNDLE = manifest(lora=True, trainable=LORA)
DENSE_BUNDLE = manifest(lora=False, trainable=DENSE)
LATE = manifest(lora=True, trainable=LORA, stages=Stages(crossing=("h",)))
WHOLE_SUFFIX = manifest(lora=True, trainable=LORA, stages=Stages())
NEW_HEAD = manifest(lora=True, trainable=(*LORA, "classifier.weight", "classifier.bias"), head=FRESH)


def notes(bundle, *, valid=False, **settings):
    loaded = load_options(None, settings)
    return make_plan(loaded.options, bundle, 100, valid, loaded.given).notes


@pytest.mark.parametrize(
    ("bundle", "settings", "note"),
    [
        (LORA_BUNDLE, {"rank": 4},
         "--rank has no effect here: fzoo has no such setting, lozo, lozo-m and subzero have"),
        (LORA_BUNDLE, {"refresh": 4, "method": "mezo"},
         "--refresh has no effect here: mezo has no such setting, lozo, lozo-m and subzero have"),
        (LORA_BUNDLE, {"head_init": "zeros"}, "--head-init has no effect here: the bundle has no new head"),
        (LORA_BUNDLE, {"head_refit_every": 9},
         "--head-refit-every has no effect here: no head is solved in closed form"),
        (NEW_HEAD, {"head_refit_every": 9, "head_init": "zeros"},
         "--head-refit-every has no effect here: no head is solved in closed form"),
        (DENSE_BUNDLE, {"lora_space": "factors"},
         "--lora-space has no effect here: the bundle has no LoRA branches"),
        (LORA_BUNDLE, {"lora_space": "factors", "method": "subzero"},
         "--lora-space has no effect here: subzero has its own directions in LoRA branches"),
        (LORA_BUNDLE, {"prefix_cache": "1GB"},
         "--prefix-cache has no effect here: no layer lies before the first trained one"),
        (LATE, {"prefix_cache": "1GB", "points_per_pass": 1},
         "--prefix-cache has no effect here: --points-per-pass 1 takes the whole graph"),
        (WHOLE_SUFFIX, {"prefix_cache": "1GB"},
         "--prefix-cache has no effect here: no layer lies before the first trained one"),
        (LORA_BUNDLE, {"val_size": 0.2, "valid": True},
         "--val-size has no effect here: the data has a validation split"),
        (LORA_BUNDLE, {"val_size": 0.0, "eval_every": 5},
         "--eval-every has no effect here: there are no validation rows"),
    ],
)  # fmt: skip
def test_a_setting_that_decides_nothing_is_said(bundle, settings, note):
    assert notes(bundle, **settings) == (note,)


@pytest.mark.parametrize(
    ("bundle", "settings"),
    [
        (LORA_BUNDLE, {"method": "subzero", "rank": 4, "refresh": 4}),
        (LORA_BUNDLE, {"lora_space": "factors"}),
        (NEW_HEAD, {"head_refit_every": 9, "val_size": 0.2}),
        (NEW_HEAD, {"head_init": "random"}),
        (LORA_BUNDLE, {"val_size": 0.2, "eval_every": 5}),
        (LATE, {"prefix_cache": "1GB"}),
        (LATE, {"prefix_cache": "1GB", "points_per_pass": 2}),
        (DENSE_BUNDLE, {}),
    ],
)
def test_a_setting_that_decides_something_is_not(bundle, settings):
    assert notes(bundle, **settings) == ()
