"""The set `cuda` under CuPy on host memory: its rows are what CuPy was given and asked for."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest

from vidlab.capture.ebpf import sets
from vidlab.capture.ebpf.declaring.probes import Probe
from vidlab.capture.ebpf.symbols import libraries

from .conftest import Heard, Listen, Row

pytestmark = [pytest.mark.needs("ebpf"), pytest.mark.usefixtures("nothing_left")]


@pytest.fixture(autouse=True)
def nothing_to_collect() -> None:
    """Free what earlier tests have left: its memory would be given back at any moment."""
    gc.collect()


@pytest.fixture(scope="module")
def cupy() -> Any:
    return pytest.importorskip("cupy")


def of_host_memory(heard: Heard, table: str) -> list[Row]:
    return heard.rows(f"kernel_cuda_{table}")


@pytest.mark.needs("hostcuda")
def test_what_cupy_is_given_and_gives_back(listen: Listen, cupy: Any) -> None:
    known: list[tuple[str, int, int]] = []

    class Hook(cupy.cuda.MemoryHook):  # type: ignore[misc]
        def alloc_postprocess(self, **told: int) -> None:
            known.append(("alloc", told["mem_ptr"], told["mem_size"]))

    sizes = [123 * 8, 1 << 20, 777]
    with listen("cuda") as heard:
        assert {"cudaMalloc", "cudaFree"} <= heard.attached("kernel_cuda_memory")
        pool = cupy.cuda.MemoryPool()
        with Hook():
            blocks = [pool.malloc(size) for size in sizes]
        addresses = [block.ptr for block in blocks]
        del blocks
        pool.free_all_blocks()
        rows = of_host_memory(heard, "memory")
    given = [row for row in rows if row["op"] == "alloc"]
    assert [(row["op"], row["address"], row["size_bytes"]) for row in given] == known
    assert [row["address"] for row in given] == addresses
    assert {(row["symbol"], row["kind"], row["level"], row["status"]) for row in given} == {
        ("cudaMalloc", "device", "runtime", 0)
    }
    taken = [row for row in rows if row["op"] == "free"]
    assert sorted(row["address"] for row in taken) == sorted(addresses)
    assert all(row["size_bytes"] is None and row["kind"] is None for row in taken)
    assert all(row["cuda_stream"] is None and row["duration_ns"] > 0 for row in rows)


@pytest.mark.needs("hostcuda")
def test_each_kind_of_memory(listen: Listen, cupy: Any) -> None:
    runtime = cupy.cuda.runtime
    stream = cupy.cuda.Stream(non_blocking=True)
    with listen("cuda") as heard:
        pinned = runtime.hostAlloc(4096, 0)
        runtime.freeHost(pinned)
        managed = runtime.mallocManaged(5000)
        runtime.free(managed)
        ordered = runtime.mallocAsync(6000, stream.ptr)
        runtime.freeAsync(ordered, stream.ptr)
        with pytest.raises(cupy.cuda.runtime.CUDARuntimeError) as refused:
            runtime.malloc(1 << 60)
        rows = of_host_memory(heard, "memory")
    assert [
        (row["op"], row["kind"], row["size_bytes"], row["cuda_stream"], row["status"])
        for row in rows
    ] == [
        ("alloc", "pinned", 4096, None, 0),
        ("free", "pinned", None, None, 0),
        ("alloc", "managed", 5000, None, 0),
        ("free", None, None, None, 0),
        ("alloc", "async", 6000, stream.ptr, 0),
        ("free", None, None, stream.ptr, 0),
        ("alloc", "device", 1 << 60, None, refused.value.status),
    ]
    given = [pinned, pinned, managed, managed, ordered, ordered]
    assert [row["address"] for row in rows[:-1]] == given


@pytest.mark.needs("hostcuda")
def test_copies_have_direction_and_bytes(listen: Listen, cupy: Any) -> None:
    image = np.arange(1920 * 3, dtype=np.uint8)
    array = cupy.empty(image.shape, np.uint8)
    other = cupy.empty_like(array)
    cupy.cuda.get_current_stream().synchronize()
    with listen("cuda") as heard:
        array.set(image)
        other.data.copy_from_device(array.data, 1000)
        back = array.get()
        array.data.memset_async(7, 100)
        rows = of_host_memory(heard, "copies")
    np.testing.assert_array_equal(image, back)
    told = [(row["op"], row["direction"], row["size_bytes"]) for row in rows]
    assert ("copy", "host_to_device", image.nbytes) in told
    assert ("copy", "device_to_host", image.nbytes) in told
    assert ("set", None, 100) in told
    (up,) = [row for row in rows if row["direction"] == "host_to_device"]
    (down,) = [row for row in rows if row["direction"] == "device_to_host"]
    (fill,) = [row for row in rows if row["op"] == "set"]
    assert up["destination"] == down["source"] == fill["destination"] == array.data.ptr
    assert (up["direction_code"], down["direction_code"], fill["direction_code"]) == (1, 2, None)
    assert fill["source"] is None
    (across,) = [row for row in rows if row["size_bytes"] == 1000]
    assert (across["source"], across["destination"]) == (array.data.ptr, other.data.ptr)
    assert across["direction"] in ("device_to_device", None)  # as CuPy says it, or leaves it open
    assert len(rows) == 4
    assert all(row["status"] == 0 and row["level"] == "runtime" for row in rows)


@pytest.mark.needs("hostcuda")
def test_waits_and_devices(listen: Listen, cupy: Any) -> None:
    runtime = cupy.cuda.runtime
    stream, event = cupy.cuda.Stream(), cupy.cuda.Event()
    with listen("cuda") as heard:
        stream.synchronize()
        event.record(stream)
        event.synchronize()
        runtime.deviceSynchronize()
        for device in (1, 0):
            runtime.setDevice(device)
        waits = of_host_memory(heard, "waits")
        contexts = of_host_memory(heard, "contexts")
    assert [(row["op"], row["handle"]) for row in waits] == [
        ("stream", stream.ptr),
        ("event", event.ptr),
        ("device", None),
    ]
    assert [(row["op"], row["device"], row["context"]) for row in contexts] == [
        ("set_device", 1, None),
        ("set_device", 0, None),
    ]


def test_cupys_own_runtime_is_probed_inside_its_module(listen: Listen, cupy: Any) -> None:
    """CuPy's wheel has the runtime statically in a module, known by its symbol table only."""
    with listen("cuda") as heard:
        modules = {
            one.symbol
            for one in heard.session.attachments
            if "/cupy_backends/cuda/api/runtime." in one.library
        }
    assert {
        *("cudaMalloc", "cudaMallocAsync", "cudaMallocManaged", "cudaHostAlloc"),
        *("cudaFree", "cudaFreeAsync", "cudaFreeHost", "cudaMemcpyAsync", "cudaMemsetAsync"),
        *("cudaLaunchKernel", "cudaStreamSynchronize", "cudaEventSynchronize", "cudaSetDevice"),
    } <= modules


def test_all_that_host_memory_serves_is_probed(cupy: Any) -> None:
    served = {
        probe.symbol
        for probe in sets.probe_set("cuda")
        if isinstance(probe, Probe) and probe.library == "libhostcuda.so"
    }
    found = libraries.Process(None).find_all("libhostcuda.so", served)
    assert found is not None
    assert len(found) > 20
    assert {"cudaMemcpy2DAsync", "cudaMallocFromPoolAsync", "cudaMemsetAsync"} <= found.keys()
