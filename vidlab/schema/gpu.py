"""Tables of GPU memory, GPU time and what the devices say."""

from __future__ import annotations

import pyarrow as pa

from .declaration import FRAME, TEXT, Column, Record, Table

#: What happens to GPU memory; a record stores this index plus one.
OPS = ("alloc", "free")
ALLOC, FREE = range(len(OPS))

#: Of whom memory is asked: an allocator of the program's (a pool, mostly), the CUDA
#: runtime, or somebody else who lends it (DLPack, `UnownedMemory`).
LEVELS = ("pool", "driver", "borrowed")
POOL, DRIVER, BORROWED = range(len(LEVELS))

#: What sort of memory it is; "async" is stream-ordered device memory.
MEMORY_KINDS = ("device", "async", "managed", "pinned")
DEVICE, ASYNC, MANAGED, PINNED = range(len(MEMORY_KINDS))

#: Why memory was freed: the last reference went, the garbage collector found it, or a
#: pool gave back what it had kept.
FREED_BY = ("refcount", "gc", "release")
BY_REFCOUNT, BY_GC, BY_RELEASE = range(len(FREED_BY))

#: Stands in a record's `freed_by` for "it was not".
NOT_FREED = 255

CHOICES = {
    ("allocations", "op"): OPS,
    ("allocations", "level"): LEVELS,
    ("allocations", "kind"): MEMORY_KINDS,
    ("allocations", "freed_by"): FREED_BY,
}

_DEVICE = Column("device", pa.int16(), "the device's index")

TABLES = (
    Table(
        "stacks",
        "a call stack",
        (
            Column("stack", pa.uint32(), "its number in this run"),
            Column(
                "frames",
                pa.list_(
                    pa.struct(
                        [("function", pa.string()), ("file", pa.string()), ("line", pa.int32())]
                    )
                ),
                "its calls, innermost first",
            ),
        ),
        event=False,
    ),
    Table(
        "allocations",
        "GPU memory that was taken or given back",
        (
            Column("duration_ns", pa.int64(), "how long the call took", "ns"),
            Column("op", TEXT, "alloc or free"),
            Column("level", TEXT, "of whom it was asked: pool, driver or borrowed"),
            Column("kind", TEXT, "device, async, managed or pinned"),
            _DEVICE,
            Column("context", pa.uint64(), "the CUDA context's handle; null if not known"),
            Column("cuda_stream", pa.uint64(), "the CUDA stream's handle; 0 is the default stream"),
            Column("address", pa.uint64(), "where the memory is"),
            Column(
                "generation",
                pa.uint64(),
                "the allocation's number in its process, the same for its free; 0 if it is "
                "older than the recording",
            ),
            Column("size_bytes", pa.int64(), "what was given", "bytes"),
            Column("size_asked_bytes", pa.int64(), "what was asked for; null for a free", "bytes"),
            Column("status", TEXT, "ok, or the error's name"),
            Column("pooled", pa.bool_(), "it is driver memory that a pool keeps"),
            Column("freed_by", TEXT, "refcount, gc or release; null for an alloc"),
            Column("stack", pa.uint32(), "where in the program, a row of the table `stacks`"),
            Column("span", pa.uint64(), "the innermost open span, a row of the table `spans`"),
            FRAME,
            Column("task", TEXT, "the asyncio task; null if none"),
        ),
        Record(
            (
                ("t_ns", "q"),
                ("duration_ns", "q"),
                ("address", "Q"),
                ("size_bytes", "q"),
                ("size_asked_bytes", "q"),
                ("generation", "Q"),
                ("span", "Q"),
                ("frame", "Q"),
                ("context", "Q"),
                ("cuda_stream", "Q"),
                ("stack", "I"),
                ("labels", "I"),
                ("task", "H"),
                ("status", "H"),
                ("device", "h"),
                ("level", "B"),
                ("kind", "B"),
                ("freed_by", "B"),
                ("pooled", "B"),
                ("op", "B"),
            )
        ),
    ),
    Table(
        "holders",
        "a chain of references that kept a block alive at the recording's end",
        (
            _DEVICE,
            Column("address", pa.uint64(), "where the block is"),
            Column("generation", pa.uint64(), "its allocation's number in the process"),
            Column("size_bytes", pa.int64(), "the block's size", "bytes"),
            Column("kind", TEXT, "local, closure, queue, cache, context variable, …"),
            Column("holder", TEXT, "what holds it, in a line"),
            Column("chain", pa.string(), "the references from the root to the array, as JSON"),
            Column("arrays", pa.int32(), "how many arrays view it"),
        ),
    ),
    Table(
        "gpu_samples",
        "a reading of a device",
        (
            Column("duration_ns", pa.int64(), "how long reading its memory took", "ns"),
            _DEVICE,
            Column("device_name", TEXT, "what the driver calls it"),
            Column("used_bytes", pa.int64(), "memory in use on the device", "bytes"),
            Column("total_bytes", pa.int64(), "memory that the device has", "bytes"),
            Column("process_used_bytes", pa.int64(), "of it, by this process", "bytes"),
            Column("utilization", pa.float64(), "time that a kernel ran", "%"),
            Column("memory_utilization", pa.float64(), "time that memory was accessed", "%"),
            Column("decoder", pa.float64(), "load of the video decoder", "%"),
            Column("encoder", pa.float64(), "load of the video encoder", "%"),
            Column("sm_clock_mhz", pa.float64(), "clock of the multiprocessors", "MHz"),
            Column("memory_clock_mhz", pa.float64(), "clock of the memory", "MHz"),
            Column("power_w", pa.float64(), "power drawn", "W"),
            Column("temperature_c", pa.float64(), "temperature of the chip", "°C"),
            Column(
                "async_reserved_bytes",
                pa.int64(),
                "what CUDA's stream-ordered pool has taken of the device",
                "bytes",
            ),
        ),
    ),
    Table(
        "gpu_times",
        "a span's time on the GPU; it is put into `spans`, and not kept",
        (
            Column("span", pa.uint64(), "the span"),
            Column("gpu_duration_ns", pa.int64(), "between its two CUDA events", "ns"),
        ),
        Record((("t_ns", "q"), ("span", "Q"), ("gpu_duration_ns", "q"), ("whole", "B"))),
    ),
)
