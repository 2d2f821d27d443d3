"""The noise specification against NumPy's Philox, SciPy's quantiles, the published constants and numba."""

import hashlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import llvmlite.binding
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from zoedge.runtime.machine.compiled import compiled
from zoedge.runtime.noise import numba_kernel, reference
from zoedge.runtime.noise.reference import Addition, Stream, Term

KERNELS = [reference.add_terms, numba_kernel.add_terms]
WORDS = st.integers(0, 2**64 - 1)
STREAMS = st.builds(Stream, WORDS, WORDS, WORDS, WORDS, WORDS)


def philox4x64(counter, key):
    """Philox4x64-10 from the paper (Salmon et al., SC 2011), in Python integers."""
    mask = 2**64 - 1
    c, k = list(counter), list(key)
    for _ in range(10):
        p0, p1 = 0xD2E7470EE14C6C93 * c[0], 0xCA5A826395121157 * c[2]
        c = [(p1 >> 64) ^ c[1] ^ k[0], p1 & mask, (p0 >> 64) ^ c[3] ^ k[1], p0 & mask]
        k = [(k[0] + 0x9E3779B97F4A7C15) & mask, (k[1] + 0xBB67AE8584CAA73B) & mask]
    return c


@settings(max_examples=25, deadline=None)
@given(stream=STREAMS, block=st.integers(0, 2**40))
def test_stream_is_philox_of_the_specified_key_and_counter(stream, block):
    counter = (block + 1, stream.step, stream.probe, stream.purpose)
    words = philox4x64(counter, (stream.seed, stream.tensor))
    expected = b"".join(w.to_bytes(8, "little") for w in words)
    assert reference.stream_bytes(stream, block, 32).tobytes() == expected


def test_philox_known_answer():
    # the paper's known-answer test for all-zero counter and key
    words = philox4x64((0, 0, 0, 0), (0, 0))
    assert words[0] == 0x16554D9ECA36314C


def test_tensor_id_is_blake2b_64():
    name = "model.decoder.layers.0.self_attn.q_proj.weight"
    assert reference.tensor_id(name) == int.from_bytes(
        hashlib.blake2b(name.encode(), digest_size=8).digest(), "little"
    )


def test_gaussian_levels_are_the_quantiles_with_unit_variance():
    quantiles = stats.norm.ppf((np.arange(256) + 0.5) / 256)
    np.testing.assert_array_equal(
        reference.LEVELS["gaussian"], (quantiles / quantiles.std()).astype(np.float32)
    )


@pytest.mark.parametrize("distribution", sorted(reference.LEVELS))
def test_levels_have_mean_zero_and_unit_variance(distribution):
    levels = reference.LEVELS[distribution].astype(np.float64)
    assert levels.mean() == pytest.approx(0.0, abs=1e-7)
    assert levels.var() == pytest.approx(1.0, abs=1e-6)


def test_levels_come_in_pairs_of_both_signs():
    for levels in reference.LEVELS.values():
        assert levels[::-1].tobytes() == (-levels).tobytes()


def test_levels_are_pinned():
    """A journal replays only while these bytes stay as they are."""
    pinned = {
        "gaussian": "d9c3f5aa97ac35f6",
        "rademacher": "c1112024d84bac17",
    }
    assert {
        k: hashlib.sha256(v.astype("<f4").tobytes()).hexdigest()[:16] for k, v in reference.LEVELS.items()
    } == pinned


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


PROCESSORS = """
import sys
import numpy as np
from zoedge.runtime.noise import numba_kernel, reference
from zoedge.runtime.noise.reference import Addition, Stream, Term

targets = [np.ones(5_000, np.float32) for _ in range(2)]
terms = [Term(Stream(1, 2, 3, 4), reference.table(name, 0.1)) for name in reference.LEVELS]
for add_terms, target in zip((reference.add_terms, numba_kernel.add_terms), targets):
    add_terms([Addition(target, terms)])
assert targets[0].tobytes() == targets[1].tobytes()
(compiled,) = numba_kernel._run.inspect_asm().values()
print("permutes" if "vpermt2ps" in compiled or "vpermi2ps" in compiled else "loads")
print("vectors" if compiled.count("vpmuludq") > 20 else "scalars")
"""


@pytest.mark.parametrize("processor", ["this", "generic"])
def test_every_processor_gives_the_reference_bits(processor, tmp_path):
    other = {} if processor == "this" else {"NUMBA_CPU_NAME": processor, "NUMBA_CPU_FEATURES": ""}
    done = subprocess.run(
        [sys.executable, "-P", "-W", "error", "-c", PROCESSORS],
        env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), **other},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    wide = processor == "this" and llvmlite.binding.get_host_cpu_features().get("avx512f", False)
    assert done.stdout.split() == (["permutes", "vectors"] if wide else ["loads", "scalars"])


@pytest.mark.parametrize("add_terms", KERNELS)
def test_one_float32_addition_per_term(add_terms):
    stream = Stream(7, reference.tensor_id("w"), 3, 1)
    w = np.full(1000, 0.3, np.float32)
    add_terms([Addition(w, [Term(stream, reference.table("gaussian", 1e-3))])])
    z = reference.LEVELS["gaussian"][reference.stream_bytes(stream, 0, 1000)].astype(np.float64)
    np.testing.assert_array_equal(w, np.float32(0.3) + (1e-3 * z).astype(np.float32))


@pytest.mark.parametrize("add_terms", KERNELS)
def test_a_sign_takes_one_bit_lowest_first(add_terms):
    stream = Stream(7, reference.tensor_id("w"), 3, 1)
    w = np.zeros((3, 333), np.float32)
    add_terms([Addition(w, [Term(stream, reference.table("rademacher", 0.5))])])
    raw = reference.stream_bytes(stream, 0, 125)
    expected = [0.5 if raw[i // 8] >> i % 8 & 1 else -0.5 for i in range(999)]
    assert w.reshape(-1).tolist() == expected


def test_a_term_takes_as_many_bits_as_its_table_needs():
    assert [
        Term(Stream(0, 0, 0, 0), reference.table(name, 1.0)).bits for name in ("gaussian", "rademacher")
    ] == [
        8,
        1,
    ]


def test_streams_differ_by_every_field():
    base = Stream(1, 2, 3, 4, 0)
    others = [base._replace(**{field: 9}) for field in Stream._fields]
    seen = {reference.stream_bytes(s, 0, 64).tobytes() for s in [base, *others]}
    assert len(seen) == 6


def test_seed_zero_is_a_seed():
    z0, z42 = (reference.directions(Stream(seed, 5, 0, 0), (64,)) for seed in (0, 42))
    assert z0.tobytes() != z42.tobytes()
    assert z0.tobytes() == reference.directions(Stream(0, 5, 0, 0), (64,)).tobytes()


@pytest.mark.parametrize("distribution", sorted(reference.LEVELS))
def test_directions_are_white(distribution):
    z = np.stack([reference.directions(Stream(0, 11, step, 0), (4096,), distribution) for step in range(64)])
    assert z.mean() == pytest.approx(0.0, abs=0.01)
    covariance = z @ z.T / 4096
    np.testing.assert_allclose(covariance, np.eye(64), atol=0.09)


def test_without_a_folder_for_its_cache_the_kernel_is_compiled_anyway(monkeypatch):
    njit = numba_kernel.numba.njit

    def no_folder(*function, cache=False, **given):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return njit(*function, **given)

    monkeypatch.setattr(numba_kernel.numba, "njit", no_folder)
    monkeypatch.setattr(numba_kernel, "_run", compiled(numba_kernel._add_chunks))
    w = np.zeros(300, np.float32)
    numba_kernel.add_terms([Addition(w, [Term(Stream(1, 2, 3, 4), reference.table("rademacher", 1.0))])])
    assert w.tobytes() == reference.directions(Stream(1, 2, 3, 4), (300,), "rademacher").tobytes()


def test_callers_in_several_threads_do_not_disturb_each_other():
    terms = [Term(Stream(1, 2, 3, 4), reference.table("gaussian", 1.0))]
    buffers = [np.zeros(700_000, np.float32) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda w: numba_kernel.add_terms([Addition(w, terms)], threads=2), buffers))
    assert len({w.tobytes() for w in buffers}) == 1
