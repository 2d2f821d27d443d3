"""A sweep over a family means additions to its tensors; and what targets are made of, and rounded to."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoedge.runtime.noise import numba_kernel, reference
from zoedge.runtime.noise.reference import PURPOSE_SAMPLE, Addition, Sample, Stream, Term, table
from zoedge.runtime.noise.sweep import Family, StepMove, Sweep, rounds

SIZES = st.sampled_from([0, 1, 31, 33, 1_000, 1_024, 4_095, 4_097, 66_000])
STREAM = Stream(3, 1, 4, 1)


def normal(size, seed=0):
    return np.random.default_rng(seed).standard_normal(size).astype(np.float32)


def test_a_sweep_is_the_additions_of_its_tensors():
    family = Family((normal(5), normal(40, 1)), (7, 2**64 - 1))
    first, second = Sweep(
        family, 9, (StepMove(1, 0, 0.5), StepMove(2, 3, -1.0)), "rademacher", 0.9
    ).additions()
    assert (first.target, second.target) == family.targets
    assert (first.shrink, first.source) == (0.9, None)
    assert [t.stream for t in second.terms] == [Stream(9, 2**64 - 1, 1, 0), Stream(9, 2**64 - 1, 2, 3)]
    assert [t.table.tolist() for t in first.terms] == [[-0.5, 0.5], [1.0, -1.0]]


def test_terms_that_stay_change_the_sources_first():
    sources = (normal(5), normal(40, 1))
    family = Family(tuple(np.zeros_like(a) for a in sources), (7, 8), sources)
    terms = (StepMove(1, 0, 0.5), StepMove(2, 0, -1.0))
    lasting, probing = Sweep(family, 9, terms, "gaussian", 0.9, stays=1).parts()
    assert (lasting.family.targets, lasting.family.sources) == (sources, None)
    assert (lasting.terms, lasting.shrink) == (terms[:1], 0.9)
    assert probing == Sweep(family, 9, terms[1:], "gaussian")
    assert rounds([probing, Sweep(family, 9, terms, "gaussian", stays=2)])[1][0].terms == ()
    with pytest.raises(ValueError, match="which has none"):
        Sweep(family.of_sources, 9, terms, "gaussian", stays=1).parts()


def test_a_family_is_itself_alone_and_needs_an_id_for_each_tensor():
    assert Family((), ()) != Family((), ())
    with pytest.raises(ValueError, match="an id and a source for each of its 1"):
        Family((normal(1),), (1, 2))
    with pytest.raises(ValueError, match="an id and a source for each of its 1"):
        Family((normal(1),), (1,), ())


@settings(max_examples=40, deadline=None)
@given(
    size=SIZES,
    count=st.integers(0, 3),
    distribution=st.sampled_from(sorted(reference.LEVELS)),
    shrink=st.sampled_from([1.0, 0.99]),
    share=st.sampled_from([None, 0.5]),
    masked=st.booleans(),
    compiled=st.booleans(),
)
def test_a_source_is_copied_first(size, count, distribution, shrink, share, masked, compiled):
    sample = share and Sample(Stream(3, 1, 4, 0, PURPOSE_SAMPLE), share)
    terms = [Term(STREAM._replace(probe=p), table(distribution, 0.1 + p), sample) for p in range(count)]
    mask = np.random.default_rng(2).integers(0, 256, -(-size // 8), np.uint8) if masked else None
    source, copied, made = normal(size), normal(size), np.full(size, np.nan, np.float32)
    add_terms = numba_kernel.add_terms if compiled else reference.add_terms
    reference.add_terms([Addition(copied, terms, shrink, sample, mask)])
    add_terms([Addition(made, terms, shrink, sample, mask, source)])
    assert made.tobytes() == copied.tobytes()
    assert source.tobytes() == normal(size).tobytes()


@pytest.mark.parametrize("source", [normal(64)[::2], normal(31), normal(32).astype(np.float64)])
def test_the_compiled_kernel_takes_no_other_source(source):
    with pytest.raises(ValueError, match="a source is C-contiguous and has 32 float32 values"):
        numba_kernel.add_terms([Addition(np.zeros(32, np.float32), [], source=source)])


@pytest.mark.parametrize("sourced", [False, True])
def test_a_float16_target_is_rounded_once_at_the_end(sourced):
    terms = [Term(STREAM._replace(probe=p), table("gaussian", 1e-3)) for p in range(3)]
    values = normal(70_000)
    held = values.astype(np.float16)
    wide = values.copy() if sourced else held.astype(np.float32)
    reference.add_terms([Addition(held, terms, 0.5, source=values if sourced else None)])
    reference.add_terms([Addition(wide, terms, 0.5)])
    assert held.tobytes() == wide.astype(np.float16).tobytes()


def test_what_float16_cannot_hold_is_infinite():
    held = np.zeros(2, np.float16)
    reference.add_terms([Addition(held, [], source=np.array([65_519.9, -1e6], np.float32))])
    assert held.tolist() == [65_504.0, -np.inf]
