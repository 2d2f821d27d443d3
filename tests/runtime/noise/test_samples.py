"""Samples of a tensor: which stretches take part, what they get, and several of them in one pass."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoedge.runtime.noise import numba_kernel, reference
from zoedge.runtime.noise.reference import PURPOSE_SAMPLE, STRETCH, Addition, Sample, Stream, Term

KERNELS = [reference.add_terms, numba_kernel.add_terms]
SHARES = st.one_of(
    st.floats(0.0, 1.0, exclude_min=True, exclude_max=True), st.sampled_from([1 / 16, 0.25, 0.9])
)
SIZES = st.one_of(
    st.integers(0, 100),
    st.integers(STRETCH - 1, STRETCH + 1),
    st.integers(4 * STRETCH - 300, 4 * STRETCH + 300),
    st.integers(65_500, 65_700),
    st.integers(270_000, 280_000),
)
STEPS = st.integers(0, 3)


def sample(step, share, *, tensor=5):
    return Sample(Stream(7, tensor, step, 0, PURPOSE_SAMPLE), share)


def term(step, probe=0, drawn=None, *, tensor=5, distribution="gaussian"):
    return Term(Stream(7, tensor, step, probe), reference.table(distribution, 0.1), drawn)


def taking_part(drawn, size):
    """Which elements take part, from the words of the stream as the specification has them."""
    count = -(-size // STRETCH)
    raw = reference.stream_bytes(drawn.stream, 0, 8 * count).tobytes()
    words = [int.from_bytes(raw[8 * s : 8 * s + 8], "little") for s in range(count)]
    return np.repeat([word < drawn.share * 2.0**64 for word in words], STRETCH)[:size]


def normal(size, seed=0):
    return np.random.default_rng(seed).standard_normal(size).astype(np.float32)


TERMS = st.builds(
    lambda step, probe, share, name: term(
        step, probe, None if share is None else sample(step, share), distribution=name
    ),
    STEPS,
    STEPS,
    st.none() | SHARES,
    st.sampled_from(sorted(reference.LEVELS)),
)


@settings(max_examples=60, deadline=None)
@given(
    buffers=st.lists(
        st.tuples(SIZES, st.lists(TERMS, max_size=4), st.sampled_from([1.0, 0.999]), st.none() | SHARES),
        max_size=4,
    ),
    threads=st.integers(0, 5),
)
def test_numba_gives_the_reference_bits(buffers, threads):
    def additions():
        return [
            Addition(normal(size), terms, shrink, None if share is None else sample(9, share))
            for size, terms, shrink, share in buffers
        ]

    expected, actual = additions(), additions()
    reference.add_terms(expected)
    numba_kernel.add_terms(actual, threads=threads)
    assert [a.target.tobytes() for a in actual] == [e.target.tobytes() for e in expected]


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
@pytest.mark.parametrize("distribution", sorted(reference.LEVELS))
def test_every_thread_count_gives_the_reference_bits(threads, distribution):
    terms = [term(step, 0, sample(step, 0.4), distribution=distribution) for step in range(2)]
    expected, actual = (
        [Addition(normal(size), terms, 0.99, sample(2, 0.3)) for size in (2_000_001, 768, 1, 700_000)]
        for _ in range(2)
    )
    reference.add_terms(expected)
    numba_kernel.add_terms(actual, threads=threads)
    assert [a.target.tobytes() for a in actual] == [e.target.tobytes() for e in expected]


@settings(max_examples=40, deadline=None)
@given(
    share=SHARES, size=SIZES, name=st.sampled_from(sorted(reference.LEVELS)), kernel=st.sampled_from(KERNELS)
)
def test_what_takes_part_gets_its_own_bits_and_the_rest_keeps_its(share, size, name, kernel):
    start, drawn = normal(size), sample(3, share)
    sampled, whole = start.copy(), start.copy()
    kernel([Addition(sampled, [term(3, 1, drawn, distribution=name)], 0.9, drawn)])
    kernel([Addition(whole, [term(3, 1, distribution=name)], 0.9)])
    assert sampled.tobytes() == np.where(taking_part(drawn, size), whole, start).tobytes()


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("size", [700, 5_000, 100_001])
def test_terms_of_several_steps_in_one_pass_are_one_pass_each(kernel, size):
    terms = [term(step, probe, sample(step, 0.35)) for step in range(4) for probe in range(2)]
    terms += [term(4), term(5, 0, sample(5, 0.01))]
    together, apart = normal(size), normal(size)
    kernel([Addition(together, terms, 0.9, sample(0, 0.35))])
    kernel([Addition(apart, [], 0.9, sample(0, 0.35))])
    for each in terms:
        kernel([Addition(apart, [each])])
    assert together.tobytes() == apart.tobytes()


@pytest.mark.parametrize("share", [1 / 16, 0.25, 0.8])
def test_stretches_are_drawn_with_the_share_and_by_themselves(share):
    drawn = np.stack([reference.stretches(sample(step, share), 0, 4_000) for step in range(50)])
    deviation = (share * (1 - share) / drawn.size) ** 0.5
    assert drawn.mean() == pytest.approx(share, abs=4 * deviation)
    assert drawn.mean(axis=0).std() == pytest.approx((share * (1 - share) / 50) ** 0.5, rel=0.05)
    expected = share**2
    deviation = (expected * (1 - expected) / drawn.size) ** 0.5
    for neighbours in (drawn[:, 1:] & drawn[:, :-1], drawn[:, 4:] & drawn[:, :-4], drawn[1:] & drawn[:-1]):
        assert neighbours.mean() == pytest.approx(expected, abs=5 * deviation)


def test_seed_tensor_and_step_decide_which():
    streams = [
        Stream(s, t, step, 0, PURPOSE_SAMPLE) for s, t, step in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))
    ]
    assert len({reference.stretches(Sample(stream, 0.5), 0, 64).tobytes() for stream in streams}) == 4


def test_a_larger_share_takes_more_of_the_same():
    small, large = (reference.stretches(sample(0, share), 0, 1_000) for share in (0.2, 0.3))
    assert not (small & ~large).any()


def test_which_is_pinned_so_that_runs_can_be_resumed_by_later_versions():
    drawn = reference.stretches(sample(0, 0.25), 0, 256)
    assert hashlib.sha256(drawn.tobytes()).hexdigest()[:16] == "45e6f6b372356649"
    assert STRETCH == 1024


@pytest.mark.parametrize("share", [5e-324, 1e-30, 1 - 2**-53])
def test_extreme_shares(share):
    expected = share > 0.5
    assert reference.stretches(sample(0, share), 0, 100).all() == expected
    for kernel in KERNELS:
        w = np.zeros(5_000, np.float32)
        kernel([Addition(w, [term(0, 0, sample(0, share))])])
        assert w.any() == expected
