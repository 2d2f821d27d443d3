"""Accounts of memory."""

import sys

import numpy as np
import pytest

from zoedge.runtime.machine.memory import Held, memory_held, own_pages


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the kernel's accounts")
def test_pages_written_as_they_are_become_this_process_s(tmp_path):
    values = np.random.default_rng(0).standard_normal(1 << 22).astype(np.float32)
    values[:3] = np.nan, -0.0, np.float32(1e-45)
    values.tofile(tmp_path / "values")
    before = memory_held().anonymous
    mapped = np.memmap(tmp_path / "values", np.float32, mode="c")
    buffers = [mapped[:1_000_001].reshape(1, -1), mapped[1_000_001:]]
    own_pages(buffers)
    assert memory_held().anonymous - before > 0.9 * values.nbytes
    assert mapped.tobytes() == values.tobytes() == (tmp_path / "values").read_bytes()


def test_the_most_of_each_kind_is_kept():
    one, other = Held(peak=3, anonymous=1, device=7), Held(peak=2, anonymous=5, device=4)
    assert one.most(other) == Held(peak=3, anonymous=5, device=7)
    assert memory_held(device=9).device == 9
    assert memory_held().device == 0
