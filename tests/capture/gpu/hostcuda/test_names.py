"""The CUDA runtime's public names, for probes from outside."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable

import pytest

from vidlab.capture.gpu import hostcuda

pytestmark = pytest.mark.needs("hostcuda")

Child = Callable[..., subprocess.CompletedProcess[str]]


def test_the_library_exports_the_public_names_only() -> None:
    exported = set(
        re.findall(
            r" T (\w+)",
            subprocess.run(
                ["nm", "-D", "--defined-only", hostcuda.library()._name],
                capture_output=True,
                text=True,
                check=True,
            ).stdout,
        )
    )
    assert {
        "cudaMalloc", "cudaFree", "cudaMallocAsync", "cudaFreeAsync", "cudaMallocManaged",
        "cudaHostAlloc", "cudaFreeHost", "cudaMemcpyAsync", "cudaMemsetAsync", "cudaEventRecord",
        "cudaStreamSynchronize", "cudaMallocFromPoolAsync",
    } <= exported  # fmt: skip
    assert all(re.match(r"cuda[A-Z]|cu[A-Z]|hostcuda_", name) for name in exported), exported


def test_cupy_calls_through_the_public_names(child: Child) -> None:
    """A jump is written over cudaMalloc's first bytes: CuPy must land where it leads."""
    import platform

    if platform.machine() != "x86_64":
        pytest.skip("the jump is one of x86-64")
    answer = child(
        """
import ctypes, mmap
from vidlab.capture.gpu import hostcuda
hostcuda.install()
import cupy
library = hostcuda.library()
asked = []
@ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t)
def probe(address, size):
    asked.append(size)
    return 2
def address_of(function):
    return ctypes.cast(function, ctypes.c_void_p).value
target = address_of(library.cudaMalloc)
page = target & -mmap.PAGESIZE
libc = ctypes.CDLL(None)
assert libc.mprotect(ctypes.c_void_p(page), ctypes.c_size_t(2 * mmap.PAGESIZE), 7) == 0
jump = bytes.fromhex("48b8") + address_of(probe).to_bytes(8, "little") + bytes.fromhex("ffe0")
ctypes.memmove(target, jump, len(jump))
try:
    cupy.empty(123 * 8, "u1")
except cupy.cuda.memory.OutOfMemoryError:
    print(asked[0])
"""
    )
    assert answer.stdout.split() == ["1024"]
