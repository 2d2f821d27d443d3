"""What every device must do: those that are registered, and a device with memory of its own."""

import numpy as np
import pytest

from tests.builders import fake_cupy, fake_kernel
from tests.builders.devices import Counting
from zoedge.errors import InputError
from zoedge.runtime.device import DEVICES, open_device
from zoedge.runtime.noise import reference
from zoedge.runtime.noise.reference import Addition, Sample, Stream, Term, table
from zoedge.runtime.noise.sweep import Family, StepMove, Sweep

ALL = {**DEVICES, "counting": Counting}
RNG = np.random.default_rng(0)


@pytest.fixture(params=list(ALL))
def device(request):
    if request.param != "cuda":
        yield ALL[request.param](2)
        return
    if fake_kernel.COMPILER is None:
        pytest.skip(fake_kernel.NO_COMPILER)
    with fake_cupy.installed(fake_kernel.RawModule):
        yield open_device("cuda")


def floats(*shape):
    return RNG.standard_normal(shape, dtype=np.float32)


def same(device, buffer, expected):
    found = device.host(buffer)
    assert found.shape == expected.shape
    np.testing.assert_array_equal(found.view(np.uint32), np.asarray(expected, np.float32).view(np.uint32))


def test_buffers_keep_what_they_are_given(device):
    values = floats(3, 5)
    buffer = device.own(values.copy())
    assert (buffer.shape, buffer.size, buffer.nbytes) == ((3, 5), 15, 60)
    copy = device.copy(buffer)
    device.write(buffer, np.arange(15, dtype=np.float64).reshape(3, 5))
    same(device, buffer, np.arange(15, dtype=np.float32).reshape(3, 5))
    same(device, copy, values)
    device.write(buffer, copy)
    same(device, buffer, values)
    device.write(buffer, values[::-1].reshape(-1))  # flat
    same(device, buffer, values[::-1])
    same(device, device.zeros((2, 3)), np.zeros((2, 3), np.float32))
    np.testing.assert_array_equal(device.host(device.put(np.arange(4))), np.arange(4))
    put = device.put(values)
    assert device.put(put) is put or np.shares_memory(device.host(device.put(put)), device.host(put))


def test_a_value_of_another_kind_is_refused(device):
    with pytest.raises(TypeError):
        device.write(device.zeros((2,)), np.array([1j, 2j]))


def test_alone_and_repeated(device):
    one = floats(2, 3)
    buffer = device.own(one.copy())
    same(device, device.alone(buffer), one[None])
    same(device, device.repeat(buffer, 3), np.concatenate([one, one, one]))


@pytest.mark.parametrize("distribution", ["gaussian", "rademacher"])
def test_noise_has_the_bits_of_the_specification(device, distribution):
    arrays = [floats(3_000), floats(70, 33)]
    sample = Sample(Stream(7, 8, 9, 0, 3), 0.5)
    terms = [
        [Term(Stream(1, 2, step, probe), table(distribution, scale), drawn)]
        for step, probe, scale, drawn in ((3, 0, 0.1, None), (4, 1, -0.25, sample))
    ]
    expected = [a.copy() for a in arrays]
    reference.add_terms([Addition(a, t, 0.9, None) for a, t in zip(expected, terms, strict=True)])
    buffers = [device.own(a.copy()) for a in arrays]
    device.add_terms([Addition(b, t, 0.9, None) for b, t in zip(buffers, terms, strict=True)])
    for buffer, wanted in zip(buffers, expected, strict=True):
        same(device, buffer, wanted)


def test_products_are_summed_in_order_and_rounded_to_float32(device):
    u, s = floats(40, 7), floats(7, 7)
    out = device.zeros((40, 7))
    device.product(device.own(u.copy()), device.own(s.copy()), out)
    expected = np.zeros((40, 7), np.float32)
    for k in range(7):
        expected += u[:, k : k + 1] * s[k]
    same(device, out, expected)
    outs = [device.zeros((40, 7)) for _ in range(2)]
    device.products([(device.own(u.copy()), device.own(s.copy()), each) for each in outs])
    for each in outs:
        same(device, each, expected)


@pytest.mark.parametrize("distribution", ["gaussian", "rademacher"])
def test_a_sweep_has_the_bits_of_its_additions(device, distribution):
    arrays = [floats(3_000), floats(70, 33), floats(1)]
    terms = (StepMove(3, 0, 0.1), StepMove(4, 1, -0.25))
    for sourced in (False, True):
        copies = [tuple(device.own(a.copy()) for a in arrays) for _ in range(3)]
        wanted, made, sources = copies
        ids = (5, 2**64 - 1, 7)
        for targets, add in (
            (wanted, lambda sweep: device.add_terms(sweep.additions())),
            (made, lambda sweep: device.sweep([sweep])),
        ):
            sweep = Sweep(Family(targets, ids, sources if sourced else None), 1, terms, distribution, 0.9)
            add(sweep)
            add(sweep._replace(terms=terms[:1], shrink=1.0))
        for one, other in zip(made, wanted, strict=True):
            same(device, one, device.host(other))


def test_points_are_gathered_where_they_stay(device):
    arrays = [floats(2, 3), floats(4)]
    buffers = [device.own(a.copy()) for a in arrays]
    stacked = [device.empty_stack(buffer, 3) for buffer in buffers]
    for point in range(3):
        for buffer, array in zip(buffers, arrays, strict=True):
            device.write(buffer, array + np.float32(point))
        device.gather(buffers, stacked, point)
    for rows, array in zip(stacked, arrays, strict=True):
        same(device, rows, np.stack([array, array + np.float32(1), array + np.float32(2)]))
        same(device, device.first(rows, 2), np.stack([array, array + np.float32(1)]))


def test_a_master_changes_by_itself(device):
    values = floats(5)
    buffer = device.own(values.copy())
    master = device.master(buffer)
    device.write(master, np.zeros(5, np.float32))
    same(device, buffer, values)
    same(device, master, np.zeros(5, np.float32))


def test_a_product_is_added_and_a_buffer_shrinks(device):
    matrix, left, right = floats(600, 4, 5), floats(600, 3), floats(3, 20)
    buffer = device.own(matrix.copy())
    device.add_product(buffer, left, right)
    expected = matrix + (left.astype(np.float64) @ right).reshape(matrix.shape)
    np.testing.assert_allclose(device.host(buffer), expected, rtol=1e-5, atol=1e-5)
    before = device.host(buffer).copy()
    device.shrink(buffer, 0.9)
    same(device, buffer, before * np.float32(0.9))


def test_pieces_cover_each_element_once(device):
    ones, twos = np.zeros((300, 301), np.float32), np.full((300, 301), 2.0, np.float32)
    buffers = {"theta": device.own(ones), "moment": device.own(twos)}
    for piece in device.pieces(buffers):
        assert piece["theta"].shape == piece["moment"].shape
        piece["theta"] += 1.0
        np.sqrt(piece["moment"], out=piece["moment"])
    same(device, buffers["theta"], np.ones((300, 301), np.float32))
    same(device, buffers["moment"], np.sqrt(np.full((300, 301), 2.0, np.float32)))


def test_it_knows_its_memory(device):
    now = device.held()
    assert now.anonymous > 0
    assert all(limit.allowed > 0 for limit in device.limits(now))
    device.settle_pages([device.own(floats(10))])
    device.give_back()


def test_its_grain_is_a_number_of_rows_and_tokens(device):
    assert min(device.grain) >= 1


def test_an_unknown_provider():
    with pytest.raises(InputError, match=r"--provider 'tpu' is not supported: use cpu"):
        open_device("tpu")


@pytest.mark.parametrize("precision", ["tf32", "float16"])
def test_the_processor_computes_in_float32_alone(precision):
    assert open_device("cpu", 1, "float32").precision == open_device("cpu").precision == "float32"
    with pytest.raises(InputError, match=f"--precision {precision} is not to be had with --provider cpu"):
        open_device("cpu", 1, precision)
