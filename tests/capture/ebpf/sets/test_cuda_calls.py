"""The set `cuda` on libraries that stand for NVIDIA's: what a call says is what the row tells.

The functions have the parameters of NVIDIA's public headers (`cuda.h`, `cuda_runtime_api.h`),
and C calls them, so that the arguments are where a compiler puts them.
"""

from __future__ import annotations

import ctypes
import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from vidlab.capture.ebpf import sets
from vidlab.capture.ebpf.declaring.probes import Probe

from .conftest import Listen

pytestmark = [pytest.mark.needs("ebpf"), pytest.mark.usefixtures("nothing_left")]

TYPES = r"""
#include <stddef.h>
#include <stdint.h>
#define E __attribute__((visibility("default"), noinline))
typedef unsigned long long ptr;
typedef uint32_t u32;
struct dim3 { u32 x, y, z; };
struct memcpy2d {
    size_t src_x, src_y; u32 src_type; const void *src_host; ptr src_device; void *src_array;
    size_t src_pitch;
    size_t dst_x, dst_y; u32 dst_type; void *dst_host; ptr dst_device; void *dst_array;
    size_t dst_pitch;
    size_t width, height;
};
struct memcpy3d {
    size_t src_x, src_y, src_z, src_lod; u32 src_type; const void *src_host; ptr src_device;
    void *src_array, *src_reserved; size_t src_pitch, src_height;
    size_t dst_x, dst_y, dst_z, dst_lod; u32 dst_type; void *dst_host; ptr dst_device;
    void *dst_array, *dst_reserved; size_t dst_pitch, dst_height;
    size_t width, height, depth;
};
struct memcpy2d_v1 {
    u32 src_x, src_y, src_type; const void *src_host; u32 src_device; void *src_array;
    u32 src_pitch;
    u32 dst_x, dst_y, dst_type; void *dst_host; u32 dst_device; void *dst_array; u32 dst_pitch;
    u32 width, height;
};
struct launch { u32 grid[3], block[3], shared; void *stream; void *attrs; u32 count; };
struct pitched { void *ptr; size_t pitch, xsize, ysize; };
struct pos { size_t x, y, z; };
struct extent { size_t width, height, depth; };
struct parms {
    void *src_array; struct pos src_pos; struct pitched src;
    void *dst_array; struct pos dst_pos; struct pitched dst;
    struct extent extent; int kind;
};
struct peer_parms {
    void *src_array; struct pos src_pos; struct pitched src; int src_device;
    void *dst_array; struct pos dst_pos; struct pitched dst; int dst_device;
    struct extent extent;
};
struct rt_launch { struct dim3 grid, block; size_t shared; void *stream; void *attrs; u32 count; };
"""

#: Functions that do something, by their heads; all others do nothing, and succeed.
DRIVER = r"""
E int cuMemAlloc_v2(ptr *p, size_t n) { *p = 0x7f0000000000 + n; return 0; }
E int cuMemAlloc(u32 *p, u32 n) { *p = 0x1000 + n; return 0; }
E int cuMemAllocPitch_v2(ptr *p, size_t *pitch, size_t w, size_t h, u32 e)
{ *p = 0x7100; *pitch = 512; return 0; }
E int cuMemAllocAsync(ptr *p, size_t n, void *stream) { *p = 0x7200; return 2; }
E int cuMemAllocFromPoolAsync_ptsz(ptr *p, size_t n, void *pool, void *stream)
{ *p = 0x7300; return 0; }
E int cuMemFree_v2(ptr p) { return 0; }
E int cuMemFreeHost(void *p) { return 0; }
E int cuMemFreeAsync_ptsz(ptr p, void *stream) { return 0; }
E int cuMemHostRegister_v2(void *p, size_t n, u32 flags) { return 0; }
E int cuMemCreate(ptr *handle, size_t n, const void *prop, unsigned long long flags)
{ *handle = 77; return 0; }
E int cuMemMap(ptr p, size_t n, size_t at, ptr handle, unsigned long long flags) { return 0; }
E int cuMemcpyHtoD_v2(ptr d, const void *s, size_t n) { return 0; }
E int cuMemcpyHtoD(u32 d, const void *s, u32 n) { return 0; }
E int cuMemcpyDtoHAsync_v2_ptsz(void *d, ptr s, size_t n, void *stream) { return 0; }
E int cuMemcpyAtoH_v2(void *d, void *array, size_t at, size_t n) { return 0; }
E int cuMemcpyAtoA_v2(void *d, size_t at, void *s, size_t from, size_t n) { return 0; }
E int cuMemcpyPeerAsync(ptr d, void *to, ptr s, void *from, size_t n, void *stream) { return 0; }
E int cuMemcpy2D_v2(const struct memcpy2d *p) { return 0; }
E int cuMemcpy2D(const struct memcpy2d_v1 *p) { return 0; }
E int cuMemcpy3DAsync_v2(const struct memcpy3d *p, void *stream) { return 0; }
E int cuMemsetD16_v2(ptr d, unsigned short v, size_t n) { return 0; }
E int cuMemsetD2D32Async(ptr d, size_t pitch, u32 v, size_t w, size_t h, void *stream)
{ return 1; }
E int cuMemcpyBatchAsync(ptr *d, ptr *s, size_t *n, size_t count, void *attrs, size_t *at,
                         size_t number, size_t *failed, void *stream) { return 0; }
E int cuLaunchKernel(void *f, u32 gx, u32 gy, u32 gz, u32 bx, u32 by, u32 bz, u32 shared,
                     void *stream, void **params, void **extra) { return 0; }
E int cuLaunchKernelEx(const struct launch *c, void *f, void **params, void **extra)
{ return 0; }
E int cuGraphLaunch(void *graph, void *stream) { return 0; }
E int cuStreamSynchronize_ptsz(void *stream) { return 0; }
E int cuCtxSynchronize(void) { return 0; }
E int cuCtxCreate_v2(ptr *c, u32 flags, int device) { *c = 0xc0; return 0; }
E int cuCtxCreate_v3(ptr *c, void *params, int n, u32 flags, int device) { *c = 0xc1; return 0; }
E int cuCtxCreate_v4(ptr *c, void *params, u32 flags, int device) { *c = 0xc2; return 0; }
E int cuDevicePrimaryCtxRetain(ptr *c, int device) { *c = 0xc3; return 0; }
E int cuDevicePrimaryCtxRelease_v2(int device) { return 0; }
E int cuCtxSetCurrent(ptr c) { return 0; }
E int cuCtxPopCurrent_v2(ptr *c) { *c = 0xc3; return 0; }
"""

RUNTIME = r"""
E int cudaMalloc(void **p, size_t n) { *p = (void *)0x8100; return 0; }
E int cudaFree(void *p) { return 0; }
E int cudaMemcpy(void *d, const void *s, size_t n, int kind) { return 0; }
E int cudaMemcpyAsync(void *d, const void *s, size_t n, int kind, void *stream) { return 0; }
E int cudaMemcpy2D(void *d, size_t dp, const void *s, size_t sp, size_t w, size_t h, int kind)
{ return 0; }
E int cudaMemcpy2DAsync(void *d, size_t dp, const void *s, size_t sp, size_t w, size_t h, int kind,
                        void *stream) { return 0; }
E int cudaMemcpy2DToArrayAsync(void *d, size_t x, size_t y, const void *s, size_t pitch, size_t w,
                               size_t h, int kind, void *stream) { return 0; }
E int cudaMemcpy2DArrayToArray(void *d, size_t x, size_t y, void *s, size_t sx, size_t sy, size_t w,
                               size_t h, int kind) { return 0; }
E int cudaMemcpy3D(const struct parms *p) { return 0; }
E int cudaMemcpy3DPeer(const struct peer_parms *p) { return 0; }
E int cudaMemcpyToSymbol(const void *symbol, const void *s, size_t n, size_t at, int kind)
{ return 0; }
E int cudaMemcpyFromArray(void *d, void *s, size_t w, size_t h, size_t n, int kind) { return 0; }
E int cudaMemset2DAsync(void *d, size_t pitch, int v, size_t w, size_t h, void *stream)
{ return 0; }
E int cudaLaunchKernel(const void *f, struct dim3 grid, struct dim3 block, void **args,
                       size_t shared, void *stream) { return 9; }
E int cudaLaunchKernelExC(const struct rt_launch *c, const void *f, void **args) { return 0; }
E int cudaDeviceSynchronize(void) { return 0; }
E int cudaSetDevice(int device) { return 0; }
"""

D, H, A = "device", "host", "array"

#: What is called, and what its row has to tell; all columns that are not named are null.
DRIVER_CALLS: list[tuple[str, str, dict[str, Any]]] = [
    ("cuMemAlloc_v2(&p, 1000)", "memory", {
        "op": "alloc", "kind": D, "size_bytes": 1000, "address": 0x7F0000000000 + 1000,
    }),
    ("cuMemAlloc((u32 *)&p, 8)", "memory", {
        "op": "alloc", "kind": D, "size_bytes": 8, "address": 0x1008,
    }),
    ("cuMemAllocPitch_v2(&p, &n, 500, 3, 4)", "memory", {
        "op": "alloc", "kind": D, "size_bytes": 1536, "address": 0x7100,
    }),
    ("cuMemAllocAsync(&p, 123*8, (void *)5)", "memory", {
        "op": "alloc", "kind": "async", "size_bytes": 984, "address": 0x7200, "cuda_stream": 5,
        "status": 2,
    }),
    ("cuMemAllocFromPoolAsync_ptsz(&p, 9, (void *)4, (void *)6)", "memory", {
        "op": "alloc", "kind": "pool", "size_bytes": 9, "address": 0x7300, "cuda_stream": 6,
    }),
    ("cuMemFree_v2(0x7f00000003e8)", "memory", {"op": "free", "address": 0x7F00000003E8}),
    ("cuMemFreeHost((void *)0x55)", "memory", {"op": "free", "kind": "pinned", "address": 0x55}),
    ("cuMemFreeAsync_ptsz(0x7200, (void *)5)", "memory", {
        "op": "free", "address": 0x7200, "cuda_stream": 5,
    }),
    ("cuMemHostRegister_v2((void *)0x66000, 4096, 1)", "memory", {
        "op": "alloc", "kind": "host", "address": 0x66000, "size_bytes": 4096,
    }),
    ("cuMemCreate(&p, 1 << 21, 0, 0)", "memory", {
        "op": "alloc", "kind": "physical", "address": 77, "size_bytes": 1 << 21,
    }),
    ("cuMemMap(0x9000, 1 << 21, 0, 77, 0)", "memory", {
        "op": "map", "kind": "physical", "address": 0x9000, "size_bytes": 1 << 21,
    }),
    ("cuMemcpyHtoD_v2(0xd0, (void *)0x50, 100)", "copies", {
        "direction": "host_to_device", "destination": 0xD0, "source": 0x50, "size_bytes": 100,
    }),
    # What a caller leaves in the upper halves of registers is not part of a u32.
    ("((int (*)(ptr, void *, ptr))cuMemcpyHtoD)(0xff000000d0, (void *)0x50, 0xff00000064)",
     "copies", {
        "direction": "host_to_device", "destination": 0xD0, "source": 0x50, "size_bytes": 100,
    }),
    ("cuMemcpyDtoHAsync_v2_ptsz((void *)0x51, 0xd1, 101, (void *)3)", "copies", {
        "direction": "device_to_host", "destination": 0x51, "source": 0xD1, "size_bytes": 101,
        "cuda_stream": 3, "asynchronous": 1,
    }),
    ("cuMemcpyAtoH_v2((void *)0x52, (void *)0xa2, 7, 102)", "copies", {
        "direction": "device_to_host", "destination": 0x52, "source": 0xA2, "size_bytes": 102,
    }),
    ("cuMemcpyAtoA_v2((void *)0xa3, 1, (void *)0xa4, 2, 103)", "copies", {
        "direction": "device_to_device", "destination": 0xA3, "source": 0xA4, "size_bytes": 103,
    }),
    ("cuMemcpyPeerAsync(0xd2, (void *)1, 0xd3, (void *)2, 104, (void *)4)", "copies", {
        "direction": "device_to_device", "destination": 0xD2, "source": 0xD3, "size_bytes": 104,
        "cuda_stream": 4, "asynchronous": 1,
    }),
    *[
        (f"""{{ struct memcpy2d c = {{.src_type = {source}, .dst_type = {to}, .width = 640,
            .height = 3, .src_host = (void *)0x10, .src_device = 0x20, .src_array = (void *)0x30,
            .dst_host = (void *)0x40, .dst_device = 0x50, .dst_array = (void *)0x60}};
            cuMemcpy2D_v2(&c); }}""", "copies", {
            "direction": direction, "size_bytes": 1920,
            "source": {1: 0x10, 2: 0x20, 3: 0x30, 4: 0x20}[source],
            "destination": {1: 0x40, 2: 0x50, 3: 0x60, 4: 0x50}[to],
        })
        for source, to, direction in (
            (1, 1, "host_to_host"), (1, 2, "host_to_device"), (1, 3, "host_to_device"),
            (2, 1, "device_to_host"), (3, 1, "device_to_host"), (2, 3, "device_to_device"),
            (3, 2, "device_to_device"), (4, 2, None), (1, 4, None), (4, 4, None),
        )
    ],
    ("{ struct memcpy2d_v1 c = {.src_type = 1, .dst_type = 2, .width = 5, .height = 7};"
     " cuMemcpy2D(&c); }", "copies", {"size_bytes": 35}),
    ("""{ struct memcpy3d c = {.src_type = 2, .dst_type = 1, .src_device = 0xd4,
        .dst_host = (void *)0x54, .width = 10, .height = 20, .depth = 30};
        cuMemcpy3DAsync_v2(&c, (void *)8); }""", "copies", {
        "direction": "device_to_host", "source": 0xD4, "destination": 0x54, "size_bytes": 6000,
        "cuda_stream": 8, "asynchronous": 1,
    }),
    ("cuMemcpyBatchAsync(&p, &p, &n, 1, 0, 0, 0, 0, (void *)6)", "copies", {
        "cuda_stream": 6, "asynchronous": 1,
    }),
    ("cuMemsetD16_v2(0xd5, 1, 50)", "copies", {
        "op": "set", "destination": 0xD5, "size_bytes": 100,
    }),
    ("cuMemsetD2D32Async(0xd6, 512, 1, 10, 3, (void *)9)", "copies", {
        "op": "set", "destination": 0xD6, "size_bytes": 120, "cuda_stream": 9, "asynchronous": 1,
        "status": 1,
    }),
    ("cuLaunchKernel((void *)0xf0, 1, 2, 3, 4, 5, 6, 7, (void *)8, 0, 0)", "launches", {
        "function": 0xF0, "grid_x": 1, "grid_y": 2, "grid_z": 3, "block_x": 4, "block_y": 5,
        "block_z": 6, "shared_bytes": 7, "cuda_stream": 8,
    }),
    ("{ struct launch c = {{1, 2, 3}, {4, 5, 6}, 7, (void *)8};"
     " cuLaunchKernelEx(&c, (void *)0xf1, 0, 0); }", "launches", {
        "function": 0xF1, "grid_x": 1, "grid_y": 2, "grid_z": 3,
        "block_x": 4, "block_y": 5, "block_z": 6, "shared_bytes": 7, "cuda_stream": 8,
    }),
    ("cuGraphLaunch((void *)0xf2, (void *)9)", "launches", {"function": 0xF2, "cuda_stream": 9}),
    ("cuStreamSynchronize_ptsz((void *)2)", "waits", {"op": "stream", "handle": 2}),
    ("cuCtxSynchronize()", "waits", {"op": "context"}),
    ("cuCtxCreate_v2(&p, 0, 1)", "contexts", {"op": "create", "context": 0xC0, "device": 1}),
    ("cuCtxCreate_v3(&p, 0, 5, 6, 2)", "contexts", {"op": "create", "context": 0xC1, "device": 2}),
    ("cuCtxCreate_v4(&p, 0, 6, 3)", "contexts", {"op": "create", "context": 0xC2, "device": 3}),
    ("cuDevicePrimaryCtxRetain(&p, 4)", "contexts", {
        "op": "retain", "context": 0xC3, "device": 4,
    }),
    ("cuDevicePrimaryCtxRelease_v2(4)", "contexts", {"op": "release", "device": 4}),
    ("cuCtxSetCurrent(0xc3)", "contexts", {"op": "set_current", "context": 0xC3}),
    ("cuCtxPopCurrent_v2(&p)", "contexts", {"op": "pop", "context": 0xC3}),
]  # fmt: skip

RUNTIME_CALLS: list[tuple[str, str, dict[str, Any]]] = [
    ("cudaMalloc((void **)&p, 24)", "memory", {
        "op": "alloc", "kind": D, "size_bytes": 24, "address": 0x8100,
    }),
    ("cudaFree((void *)0x8100)", "memory", {"op": "free", "address": 0x8100}),
    *[
        (f"cudaMemcpy((void *)1, (void *)2, 3, {kind})", "copies", {
            "destination": 1, "source": 2, "size_bytes": 3, "direction": direction,
            "direction_code": kind,
        })
        for kind, direction in enumerate(
            ["host_to_host", "host_to_device", "device_to_host", "device_to_device", None]
        )
    ],
    ("cudaMemcpyAsync((void *)1, (void *)2, 3, 1, (void *)7)", "copies", {
        "destination": 1, "source": 2, "size_bytes": 3, "direction": "host_to_device",
        "direction_code": 1, "cuda_stream": 7, "asynchronous": 1,
    }),
    ("cudaMemcpy2D((void *)1, 64, (void *)2, 128, 60, 4, 1)", "copies", {
        "destination": 1, "source": 2, "size_bytes": 240, "direction": "host_to_device",
        "direction_code": 1,
    }),
    ("cudaMemcpy2DAsync((void *)1, 64, (void *)2, 128, 60, 4, 2, (void *)9)", "copies", {
        "destination": 1, "source": 2, "size_bytes": 240, "direction": "device_to_host",
        "direction_code": 2, "cuda_stream": 9, "asynchronous": 1,
    }),
    ("cudaMemcpy2DToArrayAsync((void *)1, 3, 4, (void *)2, 64, 60, 5, 1, (void *)9)", "copies", {
        "destination": 1, "source": 2, "size_bytes": 300, "direction": "host_to_device",
        "direction_code": 1, "cuda_stream": 9, "asynchronous": 1,
    }),
    ("cudaMemcpy2DArrayToArray((void *)1, 3, 4, (void *)2, 5, 6, 60, 7, 3)", "copies", {
        "destination": 1, "source": 2, "size_bytes": 420, "direction": "device_to_device",
        "direction_code": 3,
    }),
    ("""{ struct parms c = {.src_array = (void *)0xa1, .dst = {(void *)0xd1}, .kind = 3,
        .extent = {2, 3, 4}}; cudaMemcpy3D(&c); }""", "copies", {
        "source": 0xA1, "destination": 0xD1, "size_bytes": 24, "direction": "device_to_device",
        "direction_code": 3,
    }),
    ("""{ struct peer_parms c = {.src = {(void *)0xd2}, .dst_array = (void *)0xa2,
        .extent = {5, 3, 4}}; cudaMemcpy3DPeer(&c); }""", "copies", {
        "source": 0xD2, "destination": 0xA2, "size_bytes": 60, "direction": "device_to_device",
    }),
    ("cudaMemcpyToSymbol((void *)0x99, (void *)2, 30, 4, 1)", "copies", {
        "source": 2, "size_bytes": 30, "direction": "host_to_device", "direction_code": 1,
    }),
    ("cudaMemcpyFromArray((void *)1, (void *)0xa3, 4, 5, 31, 2)", "copies", {
        "destination": 1, "source": 0xA3, "size_bytes": 31, "direction": "device_to_host",
        "direction_code": 2,
    }),
    ("cudaMemset2DAsync((void *)1, 64, 0, 60, 5, (void *)8)", "copies", {
        "op": "set", "destination": 1, "size_bytes": 300, "cuda_stream": 8, "asynchronous": 1,
    }),
    ("cudaLaunchKernel((void *)0xf3, (struct dim3){1, 2, 3}, (struct dim3){4, 5, 6}, 0, 7,"
     " (void *)8)", "launches", {
        "function": 0xF3, "grid_x": 1, "grid_y": 2, "grid_z": 3,
        "block_x": 4, "block_y": 5, "block_z": 6, "shared_bytes": 7, "cuda_stream": 8, "status": 9,
    }),
    ("{ struct rt_launch c = {{1, 2, 3}, {4, 5, 6}, 7, (void *)8};"
     " cudaLaunchKernelExC(&c, (void *)0xf4, 0); }", "launches", {
        "function": 0xF4, "grid_x": 1, "grid_y": 2, "grid_z": 3,
        "block_x": 4, "block_y": 5, "block_z": 6, "shared_bytes": 7, "cuda_stream": 8,
    }),
    ("cudaDeviceSynchronize()", "waits", {"op": "device"}),
    ("cudaSetDevice(1)", "contexts", {"op": "set_device", "device": 1}),
]  # fmt: skip

#: Columns that rows have besides what a call's own row is told to have.
COMMON = {"t_ns", "tid", "pid", "span", "frame", "labels", "cpu", "symbol", "duration_ns", "level"}


def names(library: str) -> list[str]:
    return [
        probe.symbol
        for probe in sets.probe_set("cuda")
        if isinstance(probe, Probe) and probe.library == library
    ]


def source(library: str, functions: str, calls: list[tuple[str, str, dict[str, Any]]]) -> str:
    """C with all functions that the set probes in a library, and `play`, which calls some."""
    told = {name for name in names(library) if f" {name}(" in functions}
    others = (f"E int {name}(void) {{ return 0; }}" for name in names(library) if name not in told)
    play = "".join(f"    {call};\n" for call, _, _ in calls)
    return "\n".join(
        [
            TYPES,
            functions,
            *others,
            f"E void play(void) {{\n    ptr p = 0; size_t n = 0;\n{play}}}",
        ]
    )


@pytest.fixture(autouse=True)
def nothing_to_collect() -> None:
    """Free what earlier tests have left: its memory would be given back at any moment."""
    gc.collect()


@pytest.fixture
def stands_for(compile_library: Callable[[str, str], Path]) -> Iterator[Any]:
    """Load libraries that stand for NVIDIA's; they are unloaded after the test."""
    loaded: list[ctypes.CDLL] = []

    def load(name: str, text: str) -> ctypes.CDLL:
        library = ctypes.CDLL(str(compile_library(name, text)), mode=os.RTLD_LOCAL | os.RTLD_NOW)
        loaded.append(library)
        return library

    yield load
    for library in loaded:
        ctypes.CDLL(None).dlclose(ctypes.c_void_p(library._handle))


@pytest.mark.parametrize(
    ("level", "name", "library", "functions", "calls"),
    [
        ("driver", "libcuda.so.1", "libcuda.so.1", DRIVER, DRIVER_CALLS),
        ("runtime", "libcudart.so.13", "libcudart", RUNTIME, RUNTIME_CALLS),
    ],
    ids=["driver", "runtime"],
)
def test_rows_tell_what_calls_say(
    listen: Listen,
    stands_for: Any,
    level: str,
    name: str,
    library: str,
    functions: str,
    calls: list[tuple[str, str, dict[str, Any]]],
) -> None:
    stub = stands_for(name, source(library, functions, calls))
    with listen("cuda") as heard:
        attached = {one.symbol for one in heard.session.attachments if name in one.library}
        assert attached == set(names(library))
        stub.play()
        told = {table: heard.rows(table) for table in heard.plan.layouts}
    for table in told:
        expected = [(call, row) for call, where, row in calls if f"kernel_cuda_{where}" == table]
        rows = [row for row in told[table] if row["symbol"] in attached]
        assert len(rows) == len(expected)
        for row, (call, known) in zip(rows, expected, strict=True):
            assert row["symbol"] in call
            assert row["level"] == level
            assert row["duration_ns"] >= 0
            own = {column: value for column, value in row.items() if column not in COMMON}
            filled = {"status": 0, **known}
            if table == "kernel_cuda_copies":
                filled = {"op": "copy", "asynchronous": 0, **filled}
            assert {name: value for name, value in own.items() if value is not None} == {
                name: value for name, value in filled.items() if value is not None
            }, call
