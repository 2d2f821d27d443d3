"""Sparse-MeZO: which elements move, that the others keep their bits, and degenerate settings."""

import numpy as np
import pytest

from tests.builders.devices import Counting
from tests.builders.folds import bits, buffers, dense, fold, parabola, run
from zoedge.errors import InputError
from zoedge.methods.support import SmallMagnitudes
from zoedge.runtime.device import Cpu
from zoedge.runtime.noise import reference
from zoedge.runtime.noise.numba_kernel import add_terms as compiled
from zoedge.runtime.noise.reference import Addition, Sample, Stream, Term, table
from zoedge.runtime.spaces.support import Moved, Support

SHAPES = {"a.weight": (70, 61), "b.weight": (41, 3, 5), "c.bias": (130,)}
WHERE = pytest.mark.parametrize("placement", ["in-place", "out-of-place"])


def moved_elements(mask, size):
    return np.unpackbits(mask, count=size, bitorder="little").astype(bool)


@pytest.mark.parametrize("sparsity", [0.0, 0.2, 0.5, 0.8, 0.97])
def test_the_share_is_exact_and_the_smallest_move(sparsity):
    arrays = buffers(dense(SHAPES))
    support = Support((SmallMagnitudes(sparsity),), Moved(tuple(SHAPES), set(SHAPES), arrays.get), 0)
    for name, part in support.at(0, arrays.get).items():
        moves = moved_elements(part.mask, arrays[name].size)
        assert moves.sum() == round((1 - sparsity) * moves.size)
        sizes = np.abs(arrays[name]).ravel()
        assert sizes[moves].max() <= sizes[~moves].min(initial=np.inf)


def test_a_dynamic_mask_follows_the_weights_and_a_constant_one_stays():
    arrays = buffers(dense(SHAPES))
    supports = {
        constant: Support((SmallMagnitudes(0.5, constant),), Moved(tuple(SHAPES), set(SHAPES), arrays.get), 0)
        for constant in (False, True)
    }
    first = {c: s.at(0, arrays.get)["a.weight"].mask for c, s in supports.items()}
    np.testing.assert_array_equal(first[False], first[True])
    now = arrays | {"a.weight": arrays["a.weight"] * 2}
    then = {c: s.at(1, now.get)["a.weight"].mask for c, s in supports.items()}
    np.testing.assert_array_equal(then[True], first[True])
    size = arrays["a.weight"].size
    assert moved_elements(then[False], size).sum() < moved_elements(first[False], size).sum()


@WHERE
@pytest.mark.parametrize("device", [Cpu, Counting])
def test_large_elements_keep_their_bits_and_small_ones_descend(placement, device):
    m = dense(SHAPES)
    arrays = buffers(m)
    own = device()
    held = {n: own.own(a.copy()) for n, a in arrays.items()}
    f = fold(
        m, held, method="sparse-mezo", sparsity=0.8, mask="constant", placement=placement, weight_decay=0.5,
        queries=4, device=own,
    )  # fmt: skip

    def losses(points):
        for _ in points:
            f.parameters.settle()
            yield parabola({n: own.host(b) for n, b in held.items()})

    for _ in range(12):
        f.apply(f.measure(1e-4, losses))
    f.rest()
    for name, before in arrays.items():
        after = own.host(held[name])
        threshold = np.sort(np.abs(before).ravel())[round(0.2 * before.size) - 1]
        large = np.abs(before) > threshold
        assert after[large].tobytes() == before[large].tobytes()
        assert (after[~large] != before[~large]).mean() > 0.95
    assert parabola({n: own.host(b) for n, b in held.items()}) < parabola(arrays)


@WHERE
def test_nothing_left_out_is_mezo_bit_for_bit(placement):
    m = dense(SHAPES)
    sparse, plain = buffers(m), buffers(m)
    for arrays, settings in (
        (sparse, {"method": "sparse-mezo", "sparsity": 0.0}),
        (plain, {"method": "mezo"}),
    ):
        run(fold(m, arrays, placement=placement, weight_decay=0.1, queries=2, **settings), parabola, 6, 1e-4)
    assert bits(sparse) == bits(plain)


@WHERE
@pytest.mark.parametrize("mask", ["dynamic", "constant"])
def test_a_resumed_run_and_a_replay_have_its_bits(placement, mask):
    """Thresholds are of the exported weights, wherever the run has come to."""
    m = dense(SHAPES)
    settings = {"method": "sparse-mezo", "sparsity": 0.7, "mask": mask, "placement": placement}
    whole, parts, replayed = buffers(m), buffers(m), buffers(m)
    records = run(fold(m, whole, **settings), parabola, 8, 1e-2)
    first = fold(m, parts, **settings)
    run(first, parabola, 3, 1e-2)
    snapshot = {name: np.array(value) for name, value in first.snapshot().items()}
    again = buffers(m)  # as exported
    second = fold(m, again, **settings)
    second.restore(snapshot)
    run(second, parabola, 5, 1e-2)
    third = fold(m, replayed, **settings)
    third.replay(records)
    third.rest()
    assert bits(whole) == bits(again) == bits(replayed)


def test_zeros_alone_are_refused():
    m = dense({"b": (30,)})
    with pytest.raises(InputError, match="all that is tuned begins as zeros"):
        fold(m, {"b": np.zeros(30, np.float32)}, method="sparse-mezo", sparsity=0.5)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("size", [1, 7, 4_096, 13_333])
def test_both_kernels_leave_out_the_same_elements(size, threads):
    rng = np.random.default_rng(size)
    start = [rng.standard_normal(size, dtype=np.float32) for _ in range(3)]
    masks = [None, *(np.packbits(rng.random(size) < share, bitorder="little") for share in (0.2, 0.7))]
    terms = [
        Term(Stream(1, 2, 3, 0), table("gaussian", 0.1)),
        Term(Stream(1, 2, 4, 1), table("rademacher", 0.2), Sample(Stream(5, 6, 7, 0, 3), 0.5)),
    ]
    found = []
    for add_terms in (reference.add_terms, lambda additions: compiled(additions, threads)):
        arrays = [a.copy() for a in start]
        add_terms([Addition(a, terms, 0.9, None, mask) for a, mask in zip(arrays, masks, strict=True)])
        found.append(arrays)
    plain = [a.copy() for a in start]
    reference.add_terms([Addition(a, terms, 0.9) for a in plain])
    for one, other, before, all_, mask in zip(*found, start, plain, masks, strict=True):
        np.testing.assert_array_equal(one.view(np.uint32), other.view(np.uint32))
        moves = np.ones(size, bool) if mask is None else moved_elements(mask, size)
        np.testing.assert_array_equal(one, np.where(moves, all_, before))


def test_a_mask_of_another_size_is_refused():
    with pytest.raises(ValueError, match="a bit for each of 20 elements, not 2 bytes"):
        compiled([Addition(np.zeros(20, np.float32), [], 0.5, None, np.zeros(2, np.uint8))])
