"""The C library of host-memory CUDA, from Python: its public names, and its exact books."""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass
from pathlib import Path

from ....errors import VidlabError
from .. import native

SOURCES = Path(__file__).parent
UNITS = ("hostcuda.h", "books.c", "devices.c", "memory.c", "pools.c", "streams.c")

_pointer = ctypes.c_void_p
_size = ctypes.c_size_t
_int = ctypes.c_int

#: The public names that a caller from Python may want, with what each takes.
_ARGUMENTS: dict[str, tuple[type, ...]] = {
    "cudaGetDeviceCount": (_pointer,),
    "cudaGetDevice": (_pointer,),
    "cudaSetDevice": (_int,),
    "cudaGetLastError": (),
    "cudaPeekAtLastError": (),
    "cudaDeviceSynchronize": (),
    "cudaMalloc": (_pointer, _size),
    "cudaMallocAsync": (_pointer, _size, _pointer),
    "cudaMallocManaged": (_pointer, _size, ctypes.c_uint),
    "cudaHostAlloc": (_pointer, _size, ctypes.c_uint),
    "cudaFree": (_pointer,),
    "cudaFreeAsync": (_pointer, _pointer),
    "cudaFreeHost": (_pointer,),
    "cudaMemGetInfo": (_pointer, _pointer),
    "cudaMemcpy": (_pointer, _pointer, _size, _int),
    "cudaMemcpyAsync": (_pointer, _pointer, _size, _int, _pointer),
    "cudaMemset": (_pointer, _int, _size),
    "cudaMemsetAsync": (_pointer, _int, _size, _pointer),
    "cudaStreamCreate": (_pointer,),
    "cudaStreamDestroy": (_pointer,),
    "cudaStreamSynchronize": (_pointer,),
    "hostcuda_setup": (_int, ctypes.c_uint64, _int),
    "hostcuda_books": (_int, _pointer, _pointer),
    "hostcuda_block_size": (_pointer,),
}


@dataclass(frozen=True)
class Books:
    """What one device's memory is at this moment, exactly.

    Attributes
    ----------
    device : int
        Its number.
    used_bytes : int
        Σ of live driver allocations, and of what its stream-ordered pools keep in reserve.
        Pinned memory is the host's and not among them.
    total_bytes : int
        What it was said to have.
    process_used_bytes : int
        The same as `used_bytes`: each process has devices of its own.
    """

    device: int
    used_bytes: int
    total_bytes: int
    process_used_bytes: int


@functools.cache
def library() -> ctypes.CDLL:
    """Return the C library, with the CUDA runtime's public names as its functions.

    What is taken through it is taken behind CuPy's back; the books know of it. Its file, for a
    probe from outside, is ``library()._name``.

    Raises
    ------
    MissingDependencyError
        If there is no C compiler to build it with.

    Examples
    --------
    >>> address = ctypes.c_void_p()
    >>> library().cudaMalloc(ctypes.byref(address), 1 << 20)
    0
    >>> library().cudaFree(address)
    0
    """
    path = native.build(
        "libhostcuda.so",
        [SOURCES / unit for unit in UNITS],
        ["-Wl,-soname,libhostcuda.so", "-pthread"],
    )
    loaded = ctypes.CDLL(str(path))
    for name, arguments in _ARGUMENTS.items():
        getattr(loaded, name).argtypes = arguments
    loaded.hostcuda_block_size.restype = ctypes.c_int64
    return loaded


def books() -> list[Books]:
    """Return the books of every device; empty before `install`."""
    count = _int()
    library().cudaGetDeviceCount(ctypes.byref(count))
    return [_books_of(device) for device in range(count.value)]


def _books_of(device: int) -> Books:
    used, total = ctypes.c_uint64(), ctypes.c_uint64()
    if library().hostcuda_books(device, ctypes.byref(used), ctypes.byref(total)) != 0:
        raise VidlabError(f"there is no device {device}")
    return Books(device, used.value, total.value, used.value)


def block_size(address: int) -> int | None:
    """Return the size in bytes of the live block that starts at an address, or None.

    Blocks are those of the driver level and pinned ones, not a pool's chunks.
    """
    size = int(library().hostcuda_block_size(address))
    return size if size >= 0 else None
