"""What needs a GPU raises, and nothing ever returns a wrong number."""

from __future__ import annotations

import sys
import warnings
from typing import Any

import pytest

from vidlab.capture.gpu import hostcuda

pytestmark = pytest.mark.needs("hostcuda")


def refused() -> dict[str, Any]:
    """Return things that need a kernel or a library, each of which must raise."""
    import cupy

    square = cupy.zeros((4, 4))
    return {
        "sum": lambda: square.sum(),
        "sum by a cub accelerator": lambda: cupy.cuda.cub.device_reduce(square, 0, None),
        "cub for C callers": lambda: cupy.cuda.cub.cub_reduction(square, 0),
        "mean": lambda: square.mean(),
        "max": lambda: cupy.max(square),
        "argmax": lambda: square.argmax(),
        "all": lambda: square.all(),
        "add": lambda: square + 1,
        "astype": lambda: square.astype("f4"),
        "transposed copy": lambda: square.T.copy(),
        "arange": lambda: cupy.arange(3),
        "ones": lambda: cupy.ones(3),
        "cumsum": lambda: cupy.cumsum(square),
        "sort": lambda: cupy.sort(square),
        "matmul": lambda: square @ square,
        "inv": lambda: cupy.linalg.inv(square),
        "fft": lambda: cupy.fft.fft(square),
        "random": lambda: cupy.random.rand(3),
        "generator": lambda: cupy.random.default_rng(1).random(4),
        "bit generator": lambda: cupy.random.XORWOW(1),
        "choose by mask": lambda: square[square > 0],
        "raw kernel": lambda: cupy.RawKernel('extern "C" __global__ void f(){}', "f")(
            (1,), (1,), ()
        ),
        "reduction kernel": lambda: cupy.ReductionKernel(
            "T x", "T y", "x", "a + b", "y = a", "0", "mine"
        )(square),
        "module": lambda: cupy.RawModule(code="").get_function("f"),
        "module load": lambda: cupy.cuda.driver.moduleLoadData(b""),
        "launch": lambda: cupy.cuda.driver.launchKernel(0, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0),
        "texture": lambda: cupy.cuda.runtime.mallocArray(0, 4, 4),
        "capture": lambda: cupy.cuda.Stream(non_blocking=True).begin_capture(),
        "shared with a process": lambda: cupy.cuda.runtime.ipcGetMemHandle(square.data.ptr),
    }


def test_what_needs_a_gpu_raises_and_returns_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    swallowed: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", swallowed.append)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, call in refused().items():
            try:
                result = call()
            except hostcuda.NotServedError as error:
                assert "host memory (no GPU)" in str(error)  # noqa: PT017
            else:
                pytest.fail(f"{name} returned {type(result)}")
    assert swallowed == []


def test_accelerators_stay_off_and_would_not_help(monkeypatch: pytest.MonkeyPatch) -> None:
    import cupy
    from cupy import _core

    assert _core.get_routine_accelerators() == _core.get_reduction_accelerators() == []
    _core.set_routine_accelerators(["cub"])
    _core.set_reduction_accelerators(["cub"])
    try:
        for call in (cupy.zeros(4).sum, cupy.zeros(4).cumsum, lambda: cupy.bincount(cupy.empty(3))):
            with pytest.raises((hostcuda.NotServedError, TypeError)):
                call()
    finally:
        _core.set_routine_accelerators([])
        _core.set_reduction_accelerators([])


def test_the_error_is_of_every_kind_that_a_caller_may_expect() -> None:
    import pickle

    import vidlab.errors

    error = hostcuda.NotServedError("cupy.cuda.cufft")
    for kind in (vidlab.errors.VidlabError, NotImplementedError, ImportError):
        assert isinstance(error, kind)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
