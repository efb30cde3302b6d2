"""The set `cuda`: what a program asks of CUDA, of the driver and of the runtime.

Tables: `kernel_cuda_memory`, `kernel_cuda_copies`, `kernel_cuda_launches`,
`kernel_cuda_waits` and `kernel_cuda_contexts`; their columns are told in the modules of
these names. All functions are probed under all names that the headers of CUDA 12 and 13 have
for them: the first versions, the later ones (`_v2`), and those for a default stream of each
thread (`_ptsz`, `_ptds`).

A call of the runtime makes calls of the driver, so that with a real driver one call of the
program can be two rows, of level runtime and of level driver, the one's time within the
other's, in the same thread. What is counted is counted at one level: the driver's sees
everything, also of libraries that have a runtime of their own inside; the runtime's is there
where there is no driver (vidlab's host memory), and tells the direction of copies. Rows of
the runtime that hold one of the driver, by thread and time, are the same call.
"""

from __future__ import annotations

from ..declaring.probes import Probe
from . import cuda_contexts, cuda_copies, cuda_launches, cuda_memory


def declarations() -> list[Probe]:
    """Return the probes of the set."""
    return [
        *cuda_memory.declarations(),
        *cuda_copies.declarations(),
        *cuda_launches.declarations(),
        *cuda_contexts.declarations(),
    ]
