"""What a plan fills in where the user left it open."""

import pytest

from tests.builders.hand_bundle import LORA, manifest
from zoedge.manifest import Head
from zoedge.options import make
from zoedge.runtime.plan import make_plan

HEAD = ("classifier.weight", "classifier.bias")
FRESH = Head(weight=HEAD[0], bias=HEAD[1], fresh=True)
NEW_HEAD = manifest(lora=True, trainable=(*LORA, *HEAD), head=FRESH)


@pytest.mark.parametrize(
    ("settings", "own_validation", "held_out"),
    [
        ({}, False, 0.0),  # a solved head's loss on rows that it hasn't seen validates
        ({"objective": "accuracy"}, False, 0.1),  # but nothing else than the loss
        ({"objective": "accuracy"}, True, 0.0),
        ({"objective": "accuracy", "val_size": 0.0}, False, 0.0),
        ({"head_init": "zeros"}, False, 0.1),
    ],
)
def test_rows_are_held_out_where_nothing_else_can_validate(settings, own_validation, held_out):
    plan = make_plan(make(settings), NEW_HEAD, 100, own_validation)
    assert plan.options.val_size == held_out
