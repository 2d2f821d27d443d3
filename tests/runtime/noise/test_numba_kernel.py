"""The compiled kernel against the reference: the same bits, for any buffers and threads."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoedge.runtime.machine.compiled import compiled
from zoedge.runtime.noise import numba_kernel, reference
from zoedge.runtime.noise.reference import Addition, Stream, Term

WORDS = st.integers(0, 2**64 - 1)
STREAMS = st.builds(Stream, WORDS, WORDS, WORDS, WORDS, WORDS)
SIZES = st.one_of(
    st.integers(0, 100),
    st.integers(200, 600),
    st.integers(4_000, 4_400),
    st.integers(65_500, 65_700),
    st.integers(262_100, 262_200),
)
TERMS = st.builds(
    lambda stream, name, scale: Term(stream, reference.table(name, scale)),
    STREAMS,
    st.sampled_from(sorted(reference.LEVELS)),
    st.floats(-1.0, 1.0),
)


@settings(max_examples=60, deadline=None)
@given(
    buffers=st.lists(
        st.tuples(SIZES, st.lists(TERMS, max_size=3), st.sampled_from([1.0, 0.999])), min_size=0, max_size=4
    ),
    threads=st.integers(0, 5),
)
def test_numba_gives_the_reference_bits(buffers, threads):
    def additions():
        start = np.random.default_rng(0)
        return [
            Addition(start.standard_normal(size).astype(np.float32), terms, shrink)
            for size, terms, shrink in buffers
        ]

    expected, actual = additions(), additions()
    reference.add_terms(expected)
    numba_kernel.add_terms(actual, threads=threads)
    assert [a.target.tobytes() for a in actual] == [e.target.tobytes() for e in expected]


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
@pytest.mark.parametrize("distribution", sorted(reference.LEVELS))
def test_every_thread_count_gives_the_reference_bits(threads, distribution):
    sizes = [3_000_001, 768, 1, 1_500_000]
    terms = [Term(Stream(1, 2, 3, probe), reference.table(distribution, 0.1)) for probe in range(2)]
    expected, actual = ([Addition(np.ones(n, np.float32), terms) for n in sizes] for _ in range(2))
    reference.add_terms(expected)
    numba_kernel.add_terms(actual, threads=threads)
    assert [a.target.tobytes() for a in actual] == [e.target.tobytes() for e in expected]


def test_memory_beside_the_buffers_stays():
    memory = np.zeros(10_000, np.float32)
    terms = [Term(Stream(1, 2, 3, 4), reference.table(name, 1.0)) for name in reference.LEVELS]
    numba_kernel.add_terms([Addition(memory[7:4_500], terms), Addition(memory[4_600:4_611], terms)])
    for untouched in (memory[:7], memory[4_500:4_600], memory[4_611:]):
        np.testing.assert_array_equal(untouched, 0.0)


@pytest.mark.parametrize(
    "target",
    [np.zeros(8), np.zeros((8, 8), np.float32)[:, ::2], np.frombuffer(bytes(32), np.float32)],
    ids=["float64", "strided", "read-only"],
)
def test_numba_takes_only_buffers_that_it_can_change_in_place(target):
    with pytest.raises(ValueError, match="C-contiguous, writeable float32"):
        numba_kernel.add_terms([Addition(target, [])])


def test_numba_takes_only_tables_that_its_lookups_stay_within():
    with pytest.raises(ValueError, match="2 or 256 levels"):
        numba_kernel.add_terms(
            [Addition(np.zeros(64, np.float32), [Term(Stream(0, 0, 0, 0), np.ones(16, np.float32))])]
        )


def test_numba_takes_only_tables_whose_levels_come_in_pairs():
    table = reference.table("gaussian", 1.0).copy()
    table[200] += 1.0
    with pytest.raises(ValueError, match="level 255 - k must be level k with its sign turned"):
        numba_kernel.add_terms([Addition(np.zeros(64, np.float32), [Term(Stream(0, 0, 0, 0), table)])])


@pytest.mark.parametrize("distribution", sorted(reference.LEVELS))
@pytest.mark.parametrize("scale", [np.nan, np.inf, -np.inf, 1e38, 1e-44, 0.0, -0.0])
def test_scales_at_the_ends_of_float32_give_the_reference_bits(distribution, scale):
    with np.errstate(over="ignore", under="ignore"):
        terms = [Term(Stream(1, 2, 3, 4), reference.table(distribution, scale))]
    expected, actual = (np.tile(np.float32([0.0, -0.0, 1.0]), 300) for _ in range(2))
    reference.add_terms([Addition(expected, terms)])
    numba_kernel.add_terms([Addition(actual, terms)])
    assert actual.tobytes() == expected.tobytes()


def test_without_a_folder_for_its_cache_the_kernel_is_compiled_anyway(monkeypatch):
    njit = numba_kernel.numba.njit

    def no_folder(*function, cache=False, **given):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return njit(*function, **given)

    monkeypatch.setattr(numba_kernel.numba, "njit", no_folder)
    monkeypatch.setattr(numba_kernel, "_run", compiled(numba_kernel._keyed(0)))
    w = np.zeros(300, np.float32)
    numba_kernel.add_terms([Addition(w, [Term(Stream(1, 2, 3, 4), reference.table("rademacher", 1.0))])])
    assert w.tobytes() == reference.directions(Stream(1, 2, 3, 4), (300,), "rademacher").tobytes()


def test_callers_in_several_threads_do_not_disturb_each_other():
    terms = [Term(Stream(1, 2, 3, 4), reference.table("gaussian", 1.0))]
    buffers = [np.zeros(700_000, np.float32) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda w: numba_kernel.add_terms([Addition(w, terms)], threads=2), buffers))
    assert len({w.tobytes() for w in buffers}) == 1


def test_a_change_of_the_sources_is_not_served_from_the_cache(monkeypatch, tmp_path):
    monkeypatch.setattr(numba_kernel.numba.config, "CACHE_DIR", str(tmp_path))
    hits = []
    for sources in (1, 1, 2):
        kernel = compiled(numba_kernel._keyed(sources))
        monkeypatch.setattr(numba_kernel, "_run", kernel)
        numba_kernel.add_terms([Addition(np.zeros(8, np.float32), [])])
        hits.append(sum(kernel.stats.cache_hits.values()))
    assert hits == [0, 1, 0]
