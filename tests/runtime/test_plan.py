"""What a plan fills in where the user left it open."""

import pytest

from tests.builders.devices import Counting
from tests.builders.hand_bundle import LORA, manifest
from zoedge.errors import InputError
from zoedge.manifest import Head
from zoedge.options import make
from zoedge.runtime.device import Cpu
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


def half():
    """Return a device whose sessions read rounded weights."""
    device = Counting()
    device.out_of_place, device.precision = True, "float16"
    return device


@pytest.mark.parametrize(("limit", "suited"), [(1 << 22, "out-of-place"), (0, "in-place")])
def test_a_device_that_rounds_weights_has_masters_beside_them(monkeypatch, limit, suited):
    monkeypatch.setattr("zoedge.runtime.spaces.parameters.OUT_OF_PLACE_LIMIT", limit)
    assert make_plan(make({}), NEW_HEAD, 100, True).options.placement == suited
    plan = make_plan(make({}), NEW_HEAD, 100, True, device=half())
    assert (plan.options.placement, plan.options.precision) == ("out-of-place", "float16")
    with pytest.raises(InputError, match="--placement in-place is not possible with --precision float16"):
        make_plan(make({"placement": "in-place"}), NEW_HEAD, 100, True, device=half())


def test_a_plan_keeps_the_precision_of_its_device():
    assert make_plan(make({}), NEW_HEAD, 100, True, device=Cpu()).options.precision == "float32"
