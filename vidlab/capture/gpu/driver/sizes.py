"""How large a piece of CUDA memory is that nobody here has seen being taken."""

from __future__ import annotations

import ctypes
import functools
import os
from typing import Any

from .. import hostcuda


def of(address: int) -> int:
    """Return the size, in bytes, of the block of CUDA memory that starts at an address.

    0 where it can't be learnt: the address is not the start of a block, or the driver does
    not say (it knows the sizes of device memory).
    """
    if hostcuda.installed():
        return hostcuda.block_size(address) or 0
    ask = _driver()
    if ask is None:
        return 0
    base, size = ctypes.c_uint64(), ctypes.c_size_t()
    status = ask(ctypes.byref(base), ctypes.byref(size), ctypes.c_uint64(address))
    return size.value if status == 0 and base.value == address else 0


@functools.cache
def _driver() -> Any:
    """The driver's function that tells; None where no driver is loaded."""
    try:
        library = ctypes.CDLL("libcuda.so.1", mode=os.RTLD_NOLOAD | os.RTLD_LAZY)
        return library.cuMemGetAddressRange_v2
    except (OSError, AttributeError):
        return None
