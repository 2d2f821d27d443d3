"""The source that CUDA compiles, compiled for this processor: the specification's bits, whatever is asked for."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.builders import fake_kernel
from zoedge.runtime.noise import reference
from zoedge.runtime.noise.cuda_kernel import OPTIONS, Launches, cuda_source
from zoedge.runtime.noise.reference import Addition, Sample, Stream, Term, table
from zoedge.runtime.noise.sweep import Family, StepMove, Sweep
from zoedge.runtime.noise.work import CHUNK, Work

pytestmark = pytest.mark.skipif(fake_kernel.COMPILER is None, reason=fake_kernel.NO_COMPILER)

WORDS = st.integers(0, 2**64 - 1)
SIZES = st.one_of(
    st.integers(0, 70), st.integers(250, 260), st.integers(1_000, 1_100), st.integers(4_090, 5_200)
)
SCALES = st.one_of(st.floats(-1.0, 1.0), st.sampled_from([0.0, 1e-38, 1e-45, 1e38]))
DISTRIBUTIONS = st.sampled_from(sorted(reference.LEVELS))
SHRINKS = st.sampled_from([1.0, 0.999, -2.0])
SAMPLES = st.none() | st.builds(
    Sample, st.builds(Stream, WORDS, WORDS, WORDS, WORDS, WORDS), st.sampled_from([0.3, 0.7])
)
TERMS = st.builds(
    lambda seed, tensor, step, probe, purpose, name, scale, sample: Term(
        Stream(seed, tensor, step, probe, purpose), table(name, scale), sample
    ),
    WORDS, WORDS, WORDS, WORDS, WORDS, DISTRIBUTIONS, SCALES, SAMPLES,
)  # fmt: skip
# elements, bytes from an address that is a multiple of 64, kind
PLACES = st.tuples(SIZES, st.sampled_from([0, 4, 8, 12, 16]), st.sampled_from([np.float32, np.float16]))


class Uploaded:
    """What an upload returns: an array that is aligned as a device's are."""

    def __init__(self, raw):
        self.array = placed(raw.size, 0, np.uint8)
        self.array[:] = raw
        self.nbytes = raw.size

    data = property(lambda self: self)
    ptr = property(lambda self: self.array.ctypes.data)


@pytest.fixture(scope="module", params=[1, 5])
def launches(request):
    module = fake_kernel.RawModule(code=cuda_source(), options=OPTIONS)
    return Launches(module.get_function, Uploaded, fake_kernel.address, request.param)


def placed(size, offset, kind, seed=0):
    """Return an array so many bytes behind an address that is a multiple of 64, in memory that may not change."""
    kind = np.dtype(kind)
    memory = np.full(size * kind.itemsize + 256, 0xA5, np.uint8)
    start = -memory.ctypes.data % 64 + 64 + offset
    array = memory[start : start + size * kind.itemsize].view(kind)
    if kind.kind == "f":
        array[:] = np.random.default_rng(seed).standard_normal(size)
    return array


def guarded(array):
    """Whether the memory around an array of ``placed`` is as it was."""
    memory = array.base
    while memory.base is not None:
        memory = memory.base
    start = array.ctypes.data - memory.ctypes.data
    around = np.concatenate([memory[:start], memory[start + array.nbytes :]])
    return (around == 0xA5).all()


def same(made, wanted):
    for one, other in zip(made, wanted, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(np.isnan(one), np.isnan(other))
        numbers = ~np.isnan(one)
        assert one[numbers].tobytes() == other[numbers].tobytes()
        assert guarded(one)


def additions_of(cases, seed=0):
    made = []
    for i, ((size, offset, kind), terms, shrink, sample, masked, sourced) in enumerate(cases):
        target = placed(size, offset, kind, seed + i)
        mask = placed(-(-size // 8), 0, np.uint8) if masked else None
        if masked:
            mask[:] = np.random.default_rng(i).integers(0, 256, mask.size)
        source = placed(size, (offset + 4) % 20, np.float32, seed + i + 100) if sourced else None
        made.append(Addition(target, terms, shrink, sample, mask, source))
    return made


@settings(max_examples=120, deadline=None)
@given(
    cases=st.lists(
        st.tuples(PLACES, st.lists(TERMS, max_size=3), SHRINKS, SAMPLES, st.booleans(), st.booleans()),
        min_size=1,
        max_size=4,
    )
)
@np.errstate(over="ignore", invalid="ignore")
def test_additions_have_the_reference_bits(launches, cases):
    wanted, made = additions_of(cases), additions_of(cases)
    reference.add_terms(wanted)
    launches.add_terms(made)
    same([a.target for a in made], [a.target for a in wanted])


@settings(max_examples=120, deadline=None)
@given(
    families=st.lists(
        st.tuples(
            st.lists(st.tuples(PLACES, WORDS), min_size=1, max_size=4),
            st.booleans(),
            WORDS,
            st.lists(st.builds(StepMove, WORDS, WORDS, SCALES), max_size=3),
            DISTRIBUTIONS,
            SHRINKS,
        ),
        min_size=1,
        max_size=3,
    )
)
@np.errstate(over="ignore", invalid="ignore")
def test_sweeps_have_the_bits_of_their_additions(launches, families):
    def sweeps():
        made = []
        for f, (tensors, sourced, seed, terms, distribution, shrink) in enumerate(families):
            targets = tuple(placed(*place, seed=10 * f + i) for i, (place, _) in enumerate(tensors))
            sources = tuple(placed(t.size, 8 * (i % 2), np.float32, i + 50) for i, t in enumerate(targets))
            family = Family(targets, tuple(own for _, own in tensors), sources if sourced else None)
            made.append(Sweep(family, seed, tuple(terms), distribution, shrink))
        return made

    wanted, made = sweeps(), sweeps()
    reference.add_terms([addition for sweep in wanted for addition in sweep.additions()])
    launches.sweep(made)
    for one, other in zip(made, wanted, strict=True):
        same(one.family.targets, other.family.targets)


@pytest.mark.parametrize("scale", [float("inf"), float("nan"), 1e300])
@np.errstate(over="ignore", invalid="ignore")
def test_scales_that_are_no_numbers_give_none_here_either(launches, scale):
    wanted, made = placed(3_000, 0, np.float32), placed(3_000, 0, np.float32)
    for target, change in ((wanted, None), (made, launches.sweep)):
        sweep = Sweep(Family((target,), (5,)), 1, (StepMove(0, 0, scale),), "gaussian")
        change([sweep]) if change else reference.add_terms(sweep.additions())
    same([made], [wanted])


@pytest.mark.parametrize("distribution", sorted(reference.LEVELS))
def test_more_terms_than_shared_memory_has_tables_for(launches, distribution):
    terms = tuple(StepMove(3, probe, 0.1 * probe) for probe in range(50))
    wanted, made = placed(9_000, 0, np.float32), placed(9_000, 0, np.float32)
    sweep = Sweep(Family((made,), (7,)), 1, terms, distribution, 0.9)
    launches.sweep([sweep])
    reference.add_terms([a._replace(target=wanted) for a in sweep.additions()])
    same([made], [wanted])


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("stays", [0, 1, 2])
def test_terms_that_stay_are_in_the_sources_afterwards(launches, dtype, stays):
    def family():
        rng = np.random.default_rng(3)
        sources = tuple(rng.standard_normal(n).astype(np.float32) for n in (1, 1023, 5000, 4096))
        return Family(tuple(np.zeros(a.shape, dtype) for a in sources), (1, 2, 3, 4), sources)

    terms = (StepMove(0, 0, 0.1), StepMove(1, 0, -0.2))
    wanted, made = (Sweep(family(), 1, terms, "gaussian", 0.9, stays=stays) for _ in range(2))
    for part in wanted.parts():
        reference.add_terms(part.additions())
    launches.sweep([made])
    for one, other in zip(
        (*wanted.family.targets, *wanted.family.sources),
        (*made.family.targets, *made.family.sources),
        strict=True,
    ):
        assert one.tobytes() == other.tobytes()


def test_a_family_is_uploaded_once_and_a_sweep_is_one_launch(launches):
    uploads, calls = [], []

    def upload(raw):
        uploads.append(raw.size)
        return Uploaded(raw)

    def kernel(name):
        function = launches._kernels[name]
        return lambda *args, **keywords: (calls.append(name), function(*args, **keywords))

    counted = Launches(kernel, upload, fake_kernel.address, 7)
    families = [Family(tuple(placed(n, 0, np.float32) for n in (5_000, 3, 70)), (1, 2, 3)) for _ in range(2)]
    for step in range(3):
        counted.sweep([Sweep(f, 1, (StepMove(step, 0, 0.1),), "gaussian") for f in families])
    assert calls == ["sweep"] * 3
    assert len(uploads) == 1 + 2 + 3
    assert max(uploads[3:]) < 512
    counted.sweep([])
    counted.sweep([Sweep(Family((), ()), 1, (), "gaussian")])
    counted.add_terms([])
    assert calls == ["sweep"] * 3


@settings(max_examples=60, deadline=None)
@given(
    cases=st.lists(st.tuples(PLACES, st.sampled_from([0, 4, 16])), min_size=1, max_size=5),
    count=st.integers(1, 3),
)
def test_buffers_are_gathered_at_a_point(launches, cases, count):
    buffers = [placed(*place, seed=i) for i, (place, _) in enumerate(cases)]
    stacked = [placed(count * b.size, offset, b.dtype) for b, (_, offset) in zip(buffers, cases, strict=True)]
    copies = launches.copies(buffers, stacked)
    for point in range(count):
        launches.gather(copies, point)
        for b in buffers:
            b += 1
    for buffer, rows in zip(buffers, stacked, strict=True):
        assert guarded(rows)
        for point in range(count):
            start = placed(buffer.size, 0, buffer.dtype)
            start[:] = buffer
            for _ in range(count - point):
                start -= 1
            np.testing.assert_allclose(rows.reshape(count, -1)[point], start, atol=0.01)


@settings(max_examples=60, deadline=None)
@given(
    cases=st.lists(
        st.tuples(st.integers(0, 300), st.integers(1, 20), st.sampled_from([np.float32, np.float16])),
        min_size=1,
        max_size=4,
    )
)
def test_products_are_summed_in_order_and_rounded(launches, cases):
    triples, wanted = [], []
    for i, (rows, rank, kind) in enumerate(cases):
        u, s = (
            placed(rows * rank, 4, np.float32, i).reshape(rows, rank),
            placed(rank * rank, 0, np.float32, i),
        )
        out = placed(rows * rank, 0, kind)
        triples.append((u, s.reshape(rank, rank), out))
        product = np.zeros((rows, rank), np.float32)
        for k in range(rank):
            product += u[:, k : k + 1] * s.reshape(rank, rank)[k]
        wanted.append(product.reshape(-1).astype(kind))
    launches.products(launches.triples(triples))
    same([out for *_, out in triples], wanted)


def test_every_half_is_rounded_as_numpy_rounds(launches):
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    halves = halves[~np.isnan(halves)].astype(np.float32)
    ups, downs = np.nextafter(halves, np.float32(np.inf)), np.nextafter(halves, np.float32(-np.inf))
    numbers = np.sort(halves[np.isfinite(halves)])
    ties = ((numbers[1:].astype(np.float64) + numbers[:-1]) / 2).astype(np.float32)
    source = np.concatenate([halves, ups, downs, ties, np.float32([65_519.99, 65_520.0, 1e38])])
    made = placed(source.size, 0, np.float16)
    launches.add_terms([Addition(made, [], source=source)])
    with np.errstate(over="ignore"):
        same([made], [source.astype(np.float16)])
    launches.add_terms([Addition(made, [])])  # its own values, through float32
    with np.errstate(over="ignore"):
        same([made], [source.astype(np.float16)])


@pytest.mark.parametrize(
    ("addition", "said"),
    [
        (Addition(np.zeros(8), []), "float32 and float16 buffers only, not float64"),
        (
            Addition(np.zeros(9, np.float32), [], mask=np.zeros(1, np.uint8)),
            "each of 9 elements, not 1 bytes",
        ),
        (
            Addition(np.zeros(9, np.float32), [], source=np.zeros(8, np.float32)),
            "a source has 9 float32 values",
        ),
        (
            Addition(np.zeros(9, np.float32), [Term(Stream(0, 0, 0, 0), np.ones(4, np.float32))]),
            "2 or 256 levels",
        ),
    ],
)
def test_what_the_kernel_would_misread_is_refused(launches, addition, said):
    with pytest.raises(ValueError, match=said):
        launches.add_terms([addition])


@pytest.mark.parametrize("distribution", sorted(reference.LEVELS))
def test_elements_are_counted_in_64_bits(launches, monkeypatch, distribution):
    far, size = 1 << 41, 5_000  # as if the tensor had so many elements before those that the launch works on
    term = Term(Stream(1, 2, 3, 4), table(distribution, 0.1))
    wanted, made = placed(size, 0, np.float32), placed(size, 0, np.float32)
    work = Work.of([Addition(made, [term])])
    work.additions[0, :3] += [-far // CHUNK, -4 * far, far]
    monkeypatch.setattr(Work, "of", lambda *_: work)
    launches.add_terms([Addition(made, [term])])
    wanted += term.table[reference.stream_indices(term, far, size)]
    same([made], [wanted])
