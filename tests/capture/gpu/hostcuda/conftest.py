"""For the tests of host memory: nothing may be left behind, and a fresh Python to try it in."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest

from vidlab.capture.gpu import hostcuda


@pytest.fixture
def runtime() -> Any:
    from cupy.cuda import runtime

    return runtime


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """Each test gives back all it took: the books at its end are those at its start."""
    if not hostcuda.installed():
        yield
        return
    give_back_what_pools_keep()
    before = [books.used_bytes for books in hostcuda.books()]
    yield
    give_back_what_pools_keep()
    assert [books.used_bytes for books in hostcuda.books()] == before


def give_back_what_pools_keep() -> None:
    """On every device: another file's tests may have used any."""
    import cupy

    gc.collect()
    for device in range(cupy.cuda.runtime.getDeviceCount()):
        with cupy.cuda.Device(device):
            cupy.get_default_memory_pool().free_all_blocks()
            cupy.cuda.runtime.deviceSynchronize()


@pytest.fixture
def fails_with() -> Callable[[int], AbstractContextManager[None]]:
    """Return what expects CuPy's own error with a status."""

    @contextmanager
    def fails(status: int) -> Iterator[None]:
        from cupy.cuda.runtime import CUDARuntimeError

        with pytest.raises(CUDARuntimeError) as caught:
            yield
        assert caught.value.status == status

    return fails


@pytest.fixture
def used() -> Callable[..., int]:
    """Return what reads a device's used bytes."""

    def used_bytes(device: int = 0) -> int:
        return hostcuda.books()[device].used_bytes

    return used_bytes


@pytest.fixture
def child() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return what runs a program in a fresh Python, in which nothing is installed by itself."""

    def run(
        program: str, *, check: bool = True, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        environment = {name: v for name, v in os.environ.items() if name != "VIDLAB_HOSTCUDA"}
        answer = subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            check=False,
            env=environment | variables,
        )
        if check:
            assert answer.returncode == 0, answer.stderr
        return answer

    return run
