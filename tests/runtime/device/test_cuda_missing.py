"""What a user is told whose machine lacks something of ``--provider cuda``; GPU, CuPy and wheels are pretended."""

import sys
from importlib.metadata import PackageNotFoundError
from types import SimpleNamespace

import pytest

from zoedge.errors import InputError, MissingPackageError
from zoedge.installed import pip_line
from zoedge.runtime.device import cuda_missing
from zoedge.runtime.device.cuda_missing import check_session, check_wheel

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
INSTALL = pip_line("cuda")


def session(*providers):
    return SimpleNamespace(get_providers=lambda: list(providers))


def driver_is_missing():
    raise RuntimeError("cudaErrorNoDevice: no CUDA-capable device is detected")


@pytest.fixture
def wheels(monkeypatch):
    """Let these distributions be installed, and the providers be those of the build for GPUs where that is one."""

    def pretend(*names, gpu=True):
        def distribution(name):
            if name not in names:
                raise PackageNotFoundError(name)

        monkeypatch.setattr(cuda_missing, "distribution", distribution)
        providers = [CUDA, CPU] if gpu else [CPU]
        monkeypatch.setattr(cuda_missing.ort, "get_available_providers", lambda: providers)

    return pretend


def gpus(monkeypatch, count):
    runtime = SimpleNamespace(getDeviceCount=count)
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(cuda=SimpleNamespace(runtime=runtime)))


def test_the_extra_is_the_build_for_gpus_and_cupy():
    assert INSTALL == "pip install 'onnxruntime-gpu[cuda,cudnn]>=1.27' 'cupy-cuda13x>=13'"


@pytest.mark.parametrize(
    ("there", "removed"),
    [
        (("onnxruntime",), "onnxruntime"),
        # their files are the same: what removes one leaves the other broken
        (("onnxruntime", "onnxruntime-gpu"), "onnxruntime onnxruntime-gpu"),
        ((), "onnxruntime"),
    ],
)
def test_the_wheel_for_processors(wheels, there, removed):
    wheels(*there, gpu=False)
    with pytest.raises(InputError) as caught:
        check_wheel()
    assert str(caught.value).endswith(f"for processors: pip uninstall -y {removed} && {INSTALL}")


def test_no_cupy(wheels, monkeypatch):
    wheels("onnxruntime-gpu")
    monkeypatch.setattr(
        cuda_missing.importlib, "import_module", raises(ModuleNotFoundError("no", name="cupy"))
    )
    with pytest.raises(MissingPackageError) as caught:
        check_wheel()
    assert str(caught.value) == f"--provider cuda needs the package cupy: {INSTALL}"


def raises(error):
    def import_module(name):
        raise error

    return import_module


@pytest.mark.parametrize(
    "error",
    [
        ImportError("libnvrtc.so.13: cannot open shared object file.\nmore"),
        ModuleNotFoundError("libnvrtc.so.13: cannot open shared object file.", name="fastrlock"),
    ],
)
def test_a_cupy_that_cannot_be_loaded(wheels, monkeypatch, error):
    wheels("onnxruntime-gpu")
    monkeypatch.setattr(cuda_missing.importlib, "import_module", raises(error))
    with pytest.raises(InputError) as caught:
        check_wheel()
    assert not isinstance(caught.value, MissingPackageError)
    assert f"can't be loaded (libnvrtc.so.13: cannot open shared object file): {INSTALL}" in str(caught.value)


@pytest.mark.parametrize(
    ("count", "why"),
    [
        (driver_is_missing, "cudaErrorNoDevice: no CUDA-capable device is detected"),
        (lambda: 0, "there is none that CUDA sees"),
    ],
)
def test_no_gpu(wheels, monkeypatch, count, why):
    wheels("onnxruntime-gpu")
    gpus(monkeypatch, count)
    with pytest.raises(InputError) as caught:
        check_wheel()
    assert f"--provider cuda finds no GPU ({why}): install NVIDIA's driver" in str(caught.value)


def test_all_is_there(wheels, monkeypatch, capsys):
    wheels("onnxruntime-gpu")
    gpus(monkeypatch, lambda: 1)
    loaded = []

    def preload_dlls(directory):
        print("Failed to load one")  # as it does
        loaded.append(directory)

    monkeypatch.setattr(cuda_missing.ort, "preload_dlls", preload_dlls)
    check_wheel()
    assert loaded == [""]
    assert capsys.readouterr().out == ""


def test_a_session_with_the_provider():
    check_session(session(CUDA, CPU))


@pytest.mark.parametrize(
    ("loaded", "cause"),
    [
        (
            OSError("libcudnn.so.9: cannot open shared object file: No such file or directory"),
            "libcudnn.so.9: ",
        ),
        (None, "its libraries can be loaded, so the driver may be older"),
    ],
)
def test_a_session_that_fell_back_names_the_cause(monkeypatch, loaded, cause):
    def load(path):
        assert path.endswith("capi/libonnxruntime_providers_cuda.so")
        if loaded is not None:
            raise loaded

    monkeypatch.setattr(cuda_missing.ctypes, "CDLL", load)
    with pytest.raises(InputError) as caught:
        check_session(session(CPU))
    told = str(caught.value)
    assert f"offers {CPU} ({cause}" in told
    assert told.endswith(INSTALL)
