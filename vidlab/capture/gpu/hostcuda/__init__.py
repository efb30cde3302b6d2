"""The CUDA runtime over host memory: the real, unmodified CuPy on a machine with no GPU.

Call `install` before CuPy is imported, and CuPy finds one device or more, named
"host memory (no GPU)", with as much memory as they are said to have. Allocation at every level
(pools, driver, stream-ordered, managed, pinned), copies, fills, streams, events and several
devices work, and memory runs out when it is used up. There are no kernels: whatever needs one
raises `NotServedError`, and so does everything else that is not served. Nothing ever returns a
wrong number.

It serves tests, demonstrations and laptops, and it measures no GPU: a copy takes the time that
this machine's memory takes, and is complete when the call returns.
"""

from .cudart import Books, block_size, books, library
from .installing import for_children, install, install_from_environment, installed
from .refusals import DEVICE_NAME, NotServedError

__all__ = [
    "DEVICE_NAME",
    "Books",
    "NotServedError",
    "block_size",
    "books",
    "for_children",
    "install",
    "install_from_environment",
    "installed",
    "library",
]
