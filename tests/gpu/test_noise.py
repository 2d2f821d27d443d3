"""The bits of noise on a GPU are those of the specification."""

import numpy as np
import pytest

from zoedge.runtime.device import open_device
from zoedge.runtime.noise import reference
from zoedge.runtime.noise.reference import Addition, Sample, Stream, Term, table, tensor_id
from zoedge.runtime.noise.sweep import Family, StepMove, Sweep

pytestmark = pytest.mark.gpu

SIZES = (1, 3, 4, 31, 32, 33, 63, 100, 127, 1000, 1023, 1024, 1025, 4096, 4097, 16_389, 100_003, 768 * 3072)
SCALES = (1e-3, -2e-3, 7e-4, 0.3)


@pytest.fixture(scope="module")
def device():
    return open_device("cuda", 0, "float32")


def floats(size, seed=0):
    return np.random.default_rng([size, seed]).standard_normal(size).astype(np.float32)


def terms(name, count, distribution, share=None):
    drawn = None if share is None else Sample(Stream(7, tensor_id(name), 9, 0, 3), share)
    return [
        Term(Stream(11, tensor_id(name), 3 + n, n), table(distribution, scale), drawn)
        for n, scale in enumerate(SCALES[:count])
    ]


def buffer_of(device, values, offset=0):
    """A buffer of the device; with an offset, a view that begins so many elements into its memory."""
    from zoedge.runtime.device.cuda_buffer import CudaBuffer, cupy

    whole = cupy.zeros(values.size + offset, values.dtype)
    part = whole[offset:]
    part[...] = cupy.asarray(values)
    device.wait()
    return CudaBuffer(part)


def bits(array):
    return np.ascontiguousarray(array).view({2: np.uint16, 4: np.uint32}[array.dtype.itemsize])


def check(device, additions, buffers):
    """Make additions to arrays by the reference and to buffers by the device, and compare."""
    arrays = [addition.target for addition in additions]
    on_device = [
        a._replace(
            target=buffer,
            source=None if a.source is None else device.own(a.source.copy()),
            mask=None if a.mask is None else device.put(a.mask),
        )
        for a, buffer in zip(additions, buffers, strict=True)
    ]
    device.add_terms(on_device)
    reference.add_terms(additions)
    for array, buffer in zip(arrays, buffers, strict=True):
        np.testing.assert_array_equal(bits(device.host(buffer)), bits(array))


@pytest.mark.parametrize("distribution", ["gaussian", "rademacher"])
@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("size", SIZES)
def test_terms(device, size, count, distribution):
    values = floats(size)
    check(device, [Addition(values.copy(), terms("w", count, distribution))], [buffer_of(device, values)])


@pytest.mark.parametrize("offset", [1, 2, 3])
@pytest.mark.parametrize("size", [1, 5, 33, 1024, 4099, 70_001])
def test_addresses_that_are_no_multiple_of_16(device, size, offset):
    values = floats(size)
    buffer = buffer_of(device, values, offset)
    check(device, [Addition(values.copy(), terms("w", 2, "gaussian"), 0.9)], [buffer])


@pytest.mark.parametrize("distribution", ["gaussian", "rademacher"])
@pytest.mark.parametrize("share", [0.1, 0.5])
@pytest.mark.parametrize("size", [1, 40, 1024, 5000, 100_003])
def test_samples(device, size, share, distribution):
    values = floats(size)
    drawn = Sample(Stream(7, tensor_id("w"), 9, 0, 3), share)
    addition = Addition(values.copy(), terms("w", 3, distribution, share), 0.75, drawn)
    check(device, [addition], [buffer_of(device, values)])


@pytest.mark.parametrize("shrink", [1.0, 0.999, 0.5])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("sourced", [False, True])
@pytest.mark.parametrize("size", [1, 9, 1000, 4097, 65_540])
def test_shrink_masks_and_sources(device, size, sourced, masked, shrink):
    values = floats(size)
    mask = np.packbits(np.random.default_rng(size).random(size) < 0.4, bitorder="little") if masked else None
    source = floats(size, 1) if sourced else None
    addition = Addition(values.copy(), terms("w", 2, "gaussian"), shrink, None, mask, source)
    check(device, [addition], [buffer_of(device, values)])


@pytest.mark.parametrize("count", [0, 1, 3])
@pytest.mark.parametrize("size", [1, 7, 33, 1024, 4099, 100_003])
def test_float16_targets_are_rounded_once(device, size, count):
    target, source = floats(size).astype(np.float16), floats(size, 1)
    addition = Addition(target.copy(), terms("w", count, "gaussian"), source=source)
    check(device, [addition], [buffer_of(device, target)])


def test_many_tensors_in_one_launch(device):
    sizes = np.random.default_rng(0).integers(1, 5000, 300).tolist()
    values = [floats(size, n) for n, size in enumerate(sizes)]
    additions = [
        Addition(v.copy(), terms(f"w{n}", 1 + n % 3, "gaussian"), 0.99 if n % 2 else 1.0)
        for n, v in enumerate(values)
    ]
    check(device, additions, [buffer_of(device, v) for v in values])


@pytest.mark.parametrize("distribution", ["gaussian", "rademacher"])
@pytest.mark.parametrize("sourced", [False, True])
def test_sweeps_are_their_additions(device, distribution, sourced):
    sizes = [5, 1024, 33, 70_001, 2, 4096]
    values = [floats(size, n) for n, size in enumerate(sizes)]
    ids = tuple(tensor_id(f"layer.{n}.weight") for n in range(len(sizes)))
    sources = tuple(floats(size, 50 + n) for n, size in enumerate(sizes)) if sourced else None
    arrays = tuple(v.copy() for v in values)
    buffers = tuple(buffer_of(device, v) for v in values)
    kept = None if sources is None else tuple(buffer_of(device, s) for s in sources)
    family, mirror = Family(buffers, ids, kept), Family(arrays, ids, sources)
    for step, moves, shrink in (
        (3, (1e-3,), 1.0), (3, (-2e-3,), 1.0), (4, (1e-3, -0.5, 1e-3), 0.9), (2**31, (0.25, 0.1), 1.0),
    ):  # fmt: skip
        told = tuple(StepMove(step, probe, scale) for probe, scale in enumerate(moves))
        device.sweep([Sweep(family, 99, told, distribution, shrink)])
        reference.add_terms(Sweep(mirror, 99, told, distribution, shrink).additions())
        for array, buffer in zip(arrays, buffers, strict=True):
            np.testing.assert_array_equal(bits(device.host(buffer)), bits(array))


@pytest.mark.parametrize("shape", [(1, 1), (40, 7), (768, 8), (3072, 16), (5, 64)])
def test_products_are_summed_in_order(device, shape):
    rows, rank = shape
    u, s = floats(rows * rank).reshape(shape), floats(rank * rank, 1).reshape(rank, rank)
    expected = np.zeros(shape, np.float32)
    for k in range(rank):
        expected += u[:, k : k + 1] * s[k]
    outs = [device.zeros(shape) for _ in range(3)]
    device.products([(device.own(u.copy()), device.own(s.copy()), out) for out in outs])
    for out in outs:
        np.testing.assert_array_equal(bits(device.host(out)), bits(expected))
