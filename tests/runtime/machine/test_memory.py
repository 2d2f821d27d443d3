"""Accounts of memory."""

import sys

import numpy as np
import pytest

from zoedge.runtime.machine.memory import memory_held, own_pages


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
