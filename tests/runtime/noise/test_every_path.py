"""One processor's noise is every processor's: the reference and the compiled kernel, as other machines run them."""

import os
import subprocess
import sys
from pathlib import Path

import llvmlite.binding
import numpy as np
import pytest

from zoedge.runtime.noise import reference

from .every_path import digest

FEATURES = llvmlite.binding.get_host_cpu_features()
WIDE = FEATURES.get("avx512f", False) and "NUMBA_CPU_NAME" not in os.environ
OLD_NUMPY = {
    "NPY_DISABLE_CPU_FEATURES": " ".join(
        name
        for name in np._core._multiarray_umath.__cpu_dispatch__
        if np._core._multiarray_umath.__cpu_features__[name]
    )
}


def processor(name):
    return {"NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": ""}


@pytest.fixture(scope="module")
def expected():
    return digest(reference.add_terms)


@pytest.mark.parametrize(
    ("path", "environment", "code"),
    [
        pytest.param("reference", OLD_NUMPY, [], id="reference without NumPy's newer instructions"),
        pytest.param(
            "compiled", {}, ["permutes", "eight", "asks"] if WIDE else ["loads", "one", "asks"], id="this"
        ),
        pytest.param(
            "one-at-a-time",
            {},
            ["permutes" if WIDE else "loads", "one", "asks"],
            id="this, one block at a time",
        ),
        pytest.param(
            "compiled",
            processor("haswell"),
            ["loads", "one", "asks"],
            id="haswell",
            marks=pytest.mark.skipif(not FEATURES.get("avx2", False), reason="this processor has no AVX2"),
        ),
        pytest.param("compiled", processor("generic"), ["loads", "one", "asks"], id="generic"),
    ],
)
def test_every_path_gives_the_reference_bits(path, environment, code, expected, tmp_path):
    ran = subprocess.run(
        [sys.executable, "-P", "-W", "error", Path(__file__).with_name("every_path.py"), path],
        env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), **environment},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == [expected, *code]
