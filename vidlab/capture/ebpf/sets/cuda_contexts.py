"""CUDA contexts, and which one a thread works on: the table `kernel_cuda_contexts`.

With it an event's device is known: that of the context, or the device, that its thread
has made current last. Columns of its own:

op       create, destroy; retain, release, reset: of a device's primary context, which the
         runtime uses; set_current, push, pop, get_current: of the calling thread;
         set_device: the same by the runtime's word
context  the CUcontext; null where the call has none. What was made, retained or popped is
         told by rows of status 0 only
device   the device's number; null where the call does not say. What a context is on, the
         rows that create or retain it say
level    driver or runtime
status   a CUresult or cudaError_t: 0 is success

Calls that only ask for the current device are not recorded: CuPy makes several of them for
each array. A thread that chose its device before the recording is known by its next choice.
"""

from __future__ import annotations

from ..declaring.checks import Value
from ..declaring.expressions import arg, deref
from ..declaring.probes import Probe
from .cuda_calls import driver, runtime

TABLE = "cuda_contexts"


def declarations() -> list[Probe]:
    """Return the probes on contexts."""
    given, told = {"context": deref(arg(0))}, {"context": arg(0)}
    by_number = {"device": arg(0, "i32")}

    def create(device: int) -> dict[str, Value]:
        return {"op": "create", "device": arg(device, "i32")}

    return [
        *driver(TABLE, "cuCtxCreate cuCtxCreate_v2", create(2), given),
        *driver(TABLE, "cuCtxCreate_v3", create(4), given),
        *driver(TABLE, "cuCtxCreate_v4", create(3), given),
        *driver(TABLE, "cuCtxDestroy cuCtxDestroy_v2", {"op": "destroy", **told}),
        *driver(TABLE, "cuCtxAttach", {"op": "retain"}, given),
        *driver(TABLE, "cuCtxDetach", {"op": "release", **told}),
        *driver(
            TABLE, "cuDevicePrimaryCtxRetain", {"op": "retain", "device": arg(1, "i32")}, given
        ),
        *driver(
            TABLE,
            "cuDevicePrimaryCtxRelease_v2 cuDevicePrimaryCtxRelease",
            {"op": "release", **by_number},
        ),
        *driver(
            TABLE,
            "cuDevicePrimaryCtxReset_v2 cuDevicePrimaryCtxReset",
            {"op": "reset", **by_number},
        ),
        *driver(TABLE, "cuCtxSetCurrent", {"op": "set_current", **told}),
        *driver(TABLE, "cuCtxGetCurrent", {"op": "get_current"}, given),
        *driver(TABLE, "cuCtxPushCurrent_v2 cuCtxPushCurrent", {"op": "push", **told}),
        *driver(TABLE, "cuCtxPopCurrent_v2 cuCtxPopCurrent", {"op": "pop"}, given),
        *runtime(TABLE, "cudaSetDevice", {"op": "set_device", **by_number}),
        *runtime(TABLE, "cudaInitDevice", {"op": "retain", **by_number}),
        *runtime(TABLE, "cudaDeviceReset", {"op": "reset"}),
    ]
