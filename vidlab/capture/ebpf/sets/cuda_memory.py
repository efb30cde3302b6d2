"""Memory that CUDA gives and takes back: the table `kernel_cuda_memory`.

Columns of its own, beside what every table of calls has:

op          alloc, free; map, unmap: an address for memory that is there already
kind        device, async (ordered by a stream), pool (from a pool that was named), managed,
            pinned, host (the program's memory, made known to the driver), array, physical
            (memory without an address, which `map` gives), ipc (another process's memory).
            Null for a free that takes several kinds: what was allocated there tells it.
level       driver or runtime
address     what was given or taken back; a handle for array and physical. After an
            allocation that failed (status is not 0) it is what was there before.
size_bytes  as asked for, rows padded to their pitch; null for frees, and for arrays and
            `cudaMalloc3D`, whose extents are not among the arguments that can be read
cuda_stream of an allocation or free that is ordered by one
status      a CUresult or cudaError_t: 0 is success
"""

from __future__ import annotations

from collections.abc import Mapping

from ..declaring.checks import Value
from ..declaring.expressions import arg, deref
from ..declaring.operations import Expression
from ..declaring.probes import Probe
from .cuda_calls import driver, runtime

TABLE = "cuda_memory"

_ASKED = {"size_bytes": arg(1, "i64")}
_GIVEN = {"address": deref(arg(0))}
_TAKEN = {"address": arg(0)}

#: Rows as long as the driver likes: how long is known when it has said so.
_PITCHED = {**_GIVEN, "size_bytes": deref(arg(1), "i64") * arg(3, "i64")}


def declarations() -> list[Probe]:
    """Return the probes on allocations and frees."""
    return [*_driver(), *_runtime()]


def _driver() -> list[Probe]:
    old_size = {"size_bytes": arg(1, "u32")}
    old_given = {"address": deref(arg(0), "u32")}
    old_pitched = {**old_given, "size_bytes": deref(arg(1), "u32") * arg(3, "u32")}
    return [
        *driver(TABLE, "cuMemAlloc_v2", _alloc("device", _ASKED), _GIVEN),
        *driver(TABLE, "cuMemAlloc", _alloc("device", old_size), old_given),
        *driver(TABLE, "cuMemAllocPitch_v2", _alloc("device"), _PITCHED),
        *driver(TABLE, "cuMemAllocPitch", _alloc("device"), old_pitched),
        *driver(TABLE, "cuMemAllocHost_v2 cuMemHostAlloc", _alloc("pinned", _ASKED), _GIVEN),
        *driver(TABLE, "cuMemAllocHost", _alloc("pinned", old_size), _GIVEN),
        *driver(TABLE, "cuMemAllocManaged", _alloc("managed", _ASKED), _GIVEN),
        *driver(TABLE, "cuMemAllocAsync+ptsz", _on(arg(2), _alloc("async", _ASKED)), _GIVEN),
        *driver(TABLE, "cuMemAllocFromPoolAsync+ptsz", _on(arg(3), _alloc("pool", _ASKED)), _GIVEN),
        *driver(TABLE, "cuMemCreate", _alloc("physical", _ASKED), _GIVEN),
        *driver(
            TABLE,
            "cuArrayCreate_v2 cuArrayCreate cuArray3DCreate_v2 cuArray3DCreate "
            "cuMipmappedArrayCreate",
            _alloc("array"),
            _GIVEN,
        ),
        *driver(
            TABLE, "cuMemHostRegister_v2 cuMemHostRegister", _alloc("host", {**_TAKEN, **_ASKED})
        ),
        *driver(TABLE, "cuMemFree_v2", _free()),
        *driver(TABLE, "cuMemFree", {"op": "free", "address": arg(0, "u32")}),
        *driver(TABLE, "cuMemFreeHost", _free("pinned")),
        *driver(TABLE, "cuMemFreeAsync+ptsz", _on(arg(1), _free())),
        *driver(TABLE, "cuMemRelease", _free("physical")),
        *driver(TABLE, "cuArrayDestroy cuMipmappedArrayDestroy", _free("array")),
        *driver(TABLE, "cuMemHostUnregister", _free("host")),
        *driver(TABLE, "cuMemMap", {"op": "map", "kind": "physical", **_TAKEN, **_ASKED}),
        *driver(TABLE, "cuMemUnmap", {"op": "unmap", "kind": "physical", **_TAKEN, **_ASKED}),
        *driver(
            TABLE, "cuIpcOpenMemHandle_v2 cuIpcOpenMemHandle", {"op": "map", "kind": "ipc"}, _GIVEN
        ),
        *driver(TABLE, "cuIpcCloseMemHandle", {"op": "unmap", "kind": "ipc", **_TAKEN}),
    ]


def _runtime() -> list[Probe]:
    return [
        *runtime(TABLE, "cudaMalloc", _alloc("device", _ASKED), _GIVEN),
        *runtime(TABLE, "cudaMallocPitch", _alloc("device"), _PITCHED),
        *runtime(TABLE, "cudaMalloc3D", _alloc("device"), _GIVEN),
        *runtime(TABLE, "cudaMallocHost cudaHostAlloc", _alloc("pinned", _ASKED), _GIVEN),
        *runtime(TABLE, "cudaMallocManaged", _alloc("managed", _ASKED), _GIVEN),
        *runtime(TABLE, "cudaMallocAsync+ptsz", _on(arg(2), _alloc("async", _ASKED)), _GIVEN),
        *runtime(
            TABLE, "cudaMallocFromPoolAsync+ptsz", _on(arg(3), _alloc("pool", _ASKED)), _GIVEN
        ),
        *runtime(
            TABLE,
            "cudaMallocArray cudaMalloc3DArray cudaMallocMipmappedArray",
            _alloc("array"),
            _GIVEN,
        ),
        *runtime(TABLE, "cudaHostRegister", _alloc("host", {**_TAKEN, **_ASKED})),
        *runtime(TABLE, "cudaFree", _free()),
        *runtime(TABLE, "cudaFreeHost", _free("pinned")),
        *runtime(TABLE, "cudaFreeAsync+ptsz", _on(arg(1), _free())),
        *runtime(TABLE, "cudaFreeArray cudaFreeMipmappedArray", _free("array")),
        *runtime(TABLE, "cudaHostUnregister", _free("host")),
        *runtime(TABLE, "cudaIpcOpenMemHandle", {"op": "map", "kind": "ipc"}, _GIVEN),
        *runtime(TABLE, "cudaIpcCloseMemHandle", {"op": "unmap", "kind": "ipc", **_TAKEN}),
    ]


def _alloc(kind: str, entry: Mapping[str, Value] | None = None) -> dict[str, Value]:
    return {"op": "alloc", "kind": kind, **(entry or {})}


def _free(kind: str | None = None) -> dict[str, Value]:
    known: dict[str, Value] = {"kind": kind} if kind else {}
    return {"op": "free", **known, **_TAKEN}


def _on(stream: Expression, entry: Mapping[str, Value]) -> dict[str, Value]:
    return {**entry, "cuda_stream": stream}
