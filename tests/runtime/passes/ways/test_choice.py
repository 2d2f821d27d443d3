"""Several forms that a timing may choose: the fastest is taken, and no cache is left open that it doesn't read."""

from dataclasses import replace

import numpy as np
import pytest

from tests.builders.networks import WIDTH, mlp
from zoedge.bundle import Bundle
from zoedge.export import to_bundle
from zoedge.forms import FORMS, WHOLE, Form
from zoedge.manifest import PREFIX_FILE, SUFFIX_FILE
from zoedge.options import TuneOptions
from zoedge.runtime.data.batches import MicroBatch
from zoedge.runtime.device import Cpu
from zoedge.runtime.passes.staged import Staged
from zoedge.runtime.passes.ways import choice
from zoedge.runtime.passes.ways.caching import Tried
from zoedge.runtime.passes.ways.choice import Way, choose_way
from zoedge.runtime.passes.ways.situation import Situation
from zoedge.runtime.passes.ways.two_parts import TwoParts
from zoedge.runtime.spaces.parameters import load_buffers


class OtherParts(Staged):
    """The same two parts, told apart by their type."""


class AlsoParts(TwoParts):
    saves = "something else runs once a step"

    def open(self, situation, cache=None):
        return OtherParts(situation.bundle, situation.buffers, **situation.session)


USE = AlsoParts()


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    two = FORMS["two-parts"]
    monkeypatch.setitem(FORMS, "also", Form((PREFIX_FILE, SUFFIX_FILE), two.export, __name__))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("choice")
    to_bundle(mlp(folder / "mlp.onnx"), folder / "lora", task="classification", train=("lora",))
    return folder / "lora"


@pytest.fixture
def here(place):
    bundle = Bundle.open(place)
    buffers = load_buffers(bundle, Cpu())
    x = np.random.default_rng(0).standard_normal((5, WIDTH)).astype(np.float32)
    batch = MicroBatch({"x": x}, {"labels": np.zeros(5, np.int64)}, np.arange(5))
    return Situation(bundle, buffers, frozenset(buffers), [batch], ("loss",), 4, Cpu(), 1)


@pytest.mark.parametrize(
    ("two", "also", "wanted"),
    [(0.5, 0.9, Staged), (0.9, 0.5, OtherParts), (0.5, 0.49, Staged), (1.0, 1.0, None)],
)
def test_the_fastest_of_all_forms_is_taken(here, monkeypatch, two, also, wanted):
    seconds = {Staged: two, OtherParts: also}
    monkeypatch.setattr(choice, "timed", lambda s, probing: seconds.get(type(probing.forward), 1.0))
    chosen = choose_way(here)
    if wanted is None:
        assert type(chosen.forward) not in seconds
    else:
        assert type(chosen.forward) is wanted
    assert chosen.form == WHOLE


def test_its_own_words_say_what_it_saves(here, monkeypatch):
    monkeypatch.setattr(
        choice, "timed", lambda s, p: 1 - 0.5 * isinstance(p.forward, OtherParts) * (p.count == 1)
    )
    assert choose_way(here).note == "something else runs once a step: faster here, with the same results"


def test_points_that_were_asked_for_share_passes_of_the_first_that_can(here, monkeypatch):
    asked = replace(here, options=TuneOptions(points_per_pass=2))
    assert type(choose_way(asked).forward) is Staged
    monkeypatch.setattr(TwoParts, "stacks", lambda self, situation: isinstance(self, AlsoParts))
    chosen = choose_way(asked)
    assert type(chosen.forward) is OtherParts
    assert chosen.probing.count == chosen.asked == 2


class Disk:
    """Stands in for a cache."""

    closed = False

    def close(self):
        self.closed = True


SECONDS = {Way(WHOLE, 1): 1.0, Way("a", 1): 0.9, Way("b", 2): 0.8}


@pytest.mark.parametrize(
    ("savings", "form", "kept"),
    [
        ({"a": 0.5, "b": 0.3}, "a", {"a"}),
        ({"a": 0.1, "b": 0.3}, "b", {"b"}),
        ({"a": 0.02, "b": 0.01}, "b", set()),
        ({"a": 0.0, "b": 0.0}, "b", set()),
    ],
)
def test_a_cache_is_kept_where_the_fastest_way_gains_from_it(savings, form, kept):
    tried = {name: Tried(Disk(), saving) for name, saving in savings.items()}
    way, left = choice._without_poor_caches(SECONDS, tried)
    assert way.form == form
    assert {name for name, one in tried.items() if not one.cache.closed} == kept
    assert {name for name, one in left.items() if one.cache is not None} == kept
