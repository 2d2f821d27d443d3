"""CUDA's kernels on a processor: what CuPy compiles for a GPU, compiled by g++ and called the same way."""

import ctypes
import functools
import hashlib
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

SHIM = Path(__file__).parent / "cuda_on_cpu" / "shim.h"
COMPILER = shutil.which("g++")
NO_COMPILER = "the kernels' source is run on a processor by a build of g++, which is not here"
SCALARS = {np.int64: ctypes.c_int64, np.uint64: ctypes.c_uint64, np.int32: ctypes.c_int32}


@functools.lru_cache(maxsize=4)
def library(code):
    """Return the shared library of some source."""
    folder = Path(tempfile.mkdtemp(prefix="cuda_on_cpu"))
    name = hashlib.sha256(code.encode()).hexdigest()[:16]
    source = folder / f"{name}.cpp"
    source.write_text(f'#include "{SHIM}"\n{code}')
    # contraction to fused operations would round once where the kernels round twice
    command = [COMPILER, "-std=c++17", "-O2", "-ffp-contract=off", "-shared", "-fPIC", "-Wno-unknown-pragmas"]
    subprocess.run(
        [*command, "-fno-strict-aliasing", str(source), "-o", str(folder / f"{name}.so")], check=True
    )
    built = ctypes.CDLL(str(folder / f"{name}.so"))
    shutil.rmtree(folder)
    return built


class RawModule:
    """``cupy.RawModule`` as far as it is used."""

    def __init__(self, *, code, options=()):
        assert all(option.startswith("--") for option in options)
        self._library = library(code)

    def get_function(self, name):
        return Function(self._library, name)


class Function:
    """``cupy.RawKernel`` as far as it is used: blocks run one after the other."""

    def __init__(self, library, name):
        self._library, self._entry = library, getattr(library, name)
        self._entry.restype = None
        self.calls = 0

    def __call__(self, grid, block, args, *, shared_mem=0):
        assert len(grid) == len(block) == 1
        assert shared_mem <= 48 << 10, "more shared memory than a block has without being asked"
        self.calls += 1
        given = [_argument(each) for each in args]
        for number in range(grid[0]):
            self._library.set_block(number, grid[0], block[0], shared_mem)
            self._entry(*given)


def _argument(given):
    """Return what C gets: the address of an array, or a scalar of a known width."""
    if isinstance(given, np.generic):
        return SCALARS[type(given)](given.item())
    return ctypes.c_void_p(address(given))


def address(array):
    """Return where an array lies: the fake's are NumPy's, or have CuPy's attribute."""
    return array.ctypes.data if isinstance(array, np.ndarray) else array.data.ptr
