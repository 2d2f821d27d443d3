"""Bits of every kind of addition, as a digest: ``python every_path.py PATH`` prints it with what was compiled.

PATH is ``reference``, ``compiled``, or ``one-at-a-time`` for compiled code that never computes eight blocks at once.
"""

import hashlib
import sys

import numba
import numpy as np

from zoedge.runtime.noise import numba_kernel, reference
from zoedge.runtime.noise.reference import PURPOSE_SAMPLE, Addition, Sample, Stream, Term

SIZES = (1, 31, 33, 255, 257, 1_023, 4_096, 4_390, 70_001)


def additions():
    """Yield additions of each distribution, of many terms, sampled and whole, and of none, shrinking and not."""
    names = sorted(reference.LEVELS)
    for number, size in enumerate(SIZES):
        whole, *samples = None, _sample(number, 0), _sample(number, 1)
        for chosen in (*([name] for name in names), 2 * names, names + 2 * names[::-1], []):
            for taken in ([whole], samples, [whole, *samples]):
                terms = [
                    Term(
                        Stream(2**64 - 1, number, 3, probe),
                        reference.table(name, 0.1 + probe),
                        taken[probe % len(taken)],
                    )
                    for probe, name in enumerate(chosen)
                ]
                for shrink, own in ((1.0, whole), (0.999, whole), (0.5, samples[0])):
                    start = np.random.default_rng(size).standard_normal(size).astype(np.float32)
                    yield Addition(start, terms, shrink, own)


def _sample(tensor, step):
    return Sample(Stream(7, tensor, step, 0, PURPOSE_SAMPLE), 0.4)


def digest(add_terms):
    """Return a digest of all buffers, each changed in a call of its own and then all in one."""
    apart, together = list(additions()), list(additions())
    for addition in apart:
        add_terms([addition])
    add_terms(together)
    state = hashlib.sha256(b"".join(a.target.tobytes() for a in [*apart, *together]))
    return state.hexdigest()


def main(path):
    if path == "reference":
        print(digest(reference.add_terms))
        return
    if path == "one-at-a-time":
        numba_kernel.eight_blocks = numba.njit(lambda: False)
    print(digest(numba_kernel.add_terms))
    (code,) = numba_kernel._run.inspect_asm().values()
    print("permutes" if "vpermt2ps" in code or "vpermi2ps" in code else "loads")
    print("eight" if code.count("pmuludq") > 20 else "one")
    print("asks" if "prefetch" in code else "waits")


if __name__ == "__main__":
    main(sys.argv[1])
