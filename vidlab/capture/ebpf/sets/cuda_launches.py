"""Kernels that CUDA is told to run, and waits for them: `kernel_cuda_launches`, `_waits`.

A launch's row is the call that asks for it: the kernel runs later. Columns of its own:

level              driver or runtime
function           the driver's CUfunction; the runtime's function that stands for the kernel;
                   of a graph, the graph that is launched
grid_x, _y, _z     blocks; null for graphs
block_x, _y, _z    threads in a block
shared_bytes       shared memory that is asked for at the launch
cuda_stream        0 is the default one
status             a CUresult or cudaError_t: 0 is success

A wait's row is a call that returns when what it is about is done: `op` is stream, event,
device or context, and `handle` is the stream, event or context (null for a device, and for
the context that is current).
"""

from __future__ import annotations

from ..declaring.checks import Value
from ..declaring.expressions import arg, deref
from ..declaring.operations import Expression
from ..declaring.probes import Probe
from .cuda_calls import driver, runtime

TABLE = "cuda_launches"
WAITS = "cuda_waits"

_DIMENSIONS = ("grid_x", "grid_y", "grid_z", "block_x", "block_y", "block_z")


def declarations() -> list[Probe]:
    """Return the probes on launches and waits."""
    return [*_launches(), *_waits()]


def _launches() -> list[Probe]:
    function = {"function": arg(0)}
    # A dim3 of 12 bytes comes in two registers: x and y, then z.
    pairs = [arg(1, "u32"), arg(1) >> 32, arg(2, "u32"), arg(3, "u32"), arg(3) >> 32]
    by_value = {
        **_dimensions(*pairs, arg(4, "u32")),
        "shared_bytes": arg(6, "u32"),
        "cuda_stream": arg(7),
    }
    by_number = {
        **_dimensions(*(arg(i, "u32") for i in range(1, 7))),
        "shared_bytes": arg(7, "u32"),
        "cuda_stream": arg(8),
    }
    config = {
        **_dimensions(*(deref(arg(0), "u32", offset) for offset in range(0, 24, 4))),
        "shared_bytes": deref(arg(0), "u32", 24),
        "cuda_stream": deref(arg(0), offset=32),
        "function": arg(1),
    }
    graph = {**function, "cuda_stream": arg(1)}
    old = {"grid_x": arg(1, "u32"), "grid_y": arg(2, "u32")}
    return [
        *driver(
            TABLE, "cuLaunchKernel+ptsz cuLaunchCooperativeKernel+ptsz", {**function, **by_number}
        ),
        *driver(TABLE, "cuLaunchKernelEx+ptsz", config),
        *driver(TABLE, "cuGraphLaunch+ptsz", graph),
        *driver(TABLE, "cuLaunch", function),
        *driver(TABLE, "cuLaunchGrid", {**function, **old}),
        *driver(TABLE, "cuLaunchGridAsync", {**function, **old, "cuda_stream": arg(3)}),
        *runtime(
            TABLE,
            "cudaLaunchKernel+ptsz cudaLaunchCooperativeKernel+ptsz __cudaLaunchKernel+ptsz",
            {**function, **by_value},
        ),
        *runtime(TABLE, "cudaLaunchKernelExC+ptsz", config),
        *runtime(TABLE, "cudaGraphLaunch+ptsz", graph),
    ]


def _waits() -> list[Probe]:
    handle = {"handle": arg(0)}
    return [
        *driver(WAITS, "cuStreamSynchronize+ptsz", {"op": "stream", **handle}),
        *driver(WAITS, "cuEventSynchronize", {"op": "event", **handle}),
        *driver(WAITS, "cuCtxSynchronize", {"op": "context"}),
        *driver(WAITS, "cuCtxSynchronize_v2", {"op": "context", **handle}),
        *runtime(WAITS, "cudaStreamSynchronize+ptsz", {"op": "stream", **handle}),
        *runtime(WAITS, "cudaEventSynchronize", {"op": "event", **handle}),
        *runtime(WAITS, "cudaDeviceSynchronize cudaThreadSynchronize", {"op": "device"}),
    ]


def _dimensions(*values: Expression) -> dict[str, Value]:
    return dict(zip(_DIMENSIONS, values, strict=False))
