"""The noise specification against NumPy's Philox, SciPy's quantiles and the published constants."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

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
