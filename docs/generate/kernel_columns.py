"""What the tables of the ready-made probe sets mean.

Names, types and units are declared by the sets; a declaration has no room for more than how a
value is read. `tests/test_docs.py` holds this to the declarations, column by column.
"""

from __future__ import annotations

_STATUS = "a CUresult or cudaError_t: 0 is success"
_LEVEL = "whose function it was: driver or runtime"
_STREAM = "the CUDA stream's handle; 0 is the default stream"

#: Columns that mean the same in all tables.
EVERYWHERE = {
    "symbol": "the function, or the kernel's event, that was hit",
    "duration_ns": "how long the call took",
}

#: By table: what a row is, and what its own columns mean.
MEANINGS: dict[str, tuple[str, dict[str, str]]] = {
    "kernel_offcpu": (
        "one wait of a thread, from leaving a CPU to running again (set `sched`)",
        {
            "duration_ns": "how long it was off the CPU",
            "state": "why it left: preempted (it could have run on), sleeping (a lock, a pipe, a "
            "timer), disk (storage, as a rule), stopped, traced, parked, idle, new",
            "state_code": "the kernel's number of that state",
            "wakeup_ns": "when it was woken; null if it never slept, or that is not known",
            "runqueue_ns": "of the wait: ready to run, and without a CPU",
            "waker_tid": "the thread that woke it",
        },
    ),
    "kernel_libav": (
        "one call of FFmpeg's libraries (set `libav`)",
        {
            "op": "demux, send_packet, receive_frame, send_frame, receive_packet or write",
            "codec_context": "the decoder or encoder; null for demux and write",
            "packet": "the AVPacket; 0 for the one that ends a stream; null where it is a frame",
            "packet_bytes": "its size; 0 where there is none",
            "pts": "of the packet or frame, in its time base; the least number if it has none",
            "status": '0 is success, below it an AVERROR: -11 is "try again"',
        },
    ),
    "kernel_cuda_memory": (
        "one call that takes or gives back memory (set `cuda`)",
        {
            "op": "alloc, free, map or unmap",
            "kind": "device, async, pool, managed, pinned, host, array, physical or ipc; null for "
            "a free that takes several kinds",
            "size_bytes": "what was asked for; null for frees and for arrays",
            "level": _LEVEL,
            "address": "what was given or taken back; a handle for array and physical",
            "status": _STATUS,
            "cuda_stream": "of what is ordered by a stream: its handle",
        },
    ),
    "kernel_cuda_copies": (
        "one call that copies or fills memory (set `cuda`)",
        {
            "op": "copy or set",
            "asynchronous": "1 if the call may return before it is done",
            "destination": "where it goes: an address, or an array's handle; null for batches",
            "source": "where it comes from, likewise; null for fills",
            "size_bytes": "width times height times depth; null for batches",
            "direction": "host_to_host, host_to_device, device_to_host or device_to_device; null "
            "where the addresses say it",
            "level": _LEVEL,
            "status": _STATUS,
            "cuda_stream": _STREAM,
            "direction_code": "the cudaMemcpyKind, of calls that give one",
        },
    ),
    "kernel_cuda_launches": (
        "one call that asks for a kernel or a graph to be run, later (set `cuda`)",
        {
            "function": "the kernel, or the graph",
            **{f"grid_{axis}": "blocks; null for graphs" for axis in "xyz"},
            **{f"block_{axis}": "threads in a block; null for graphs" for axis in "xyz"},
            "shared_bytes": "shared memory that is asked for at the launch",
            "cuda_stream": _STREAM,
            "level": _LEVEL,
            "status": _STATUS,
        },
    ),
    "kernel_cuda_waits": (
        "one call that returns when something on the GPU is done (set `cuda`)",
        {
            "op": "what it waits for: stream, event, device or context",
            "handle": "the stream, event or context; null for a device and the current context",
            "level": _LEVEL,
            "status": _STATUS,
        },
    ),
    "kernel_cuda_contexts": (
        "one call that makes, ends or changes a context (set `cuda`)",
        {
            "op": "what it does: create, destroy, retain, set_current, …",
            "device": "the device's index, of calls that name one",
            "level": _LEVEL,
            "context": "the context's handle",
            "status": _STATUS,
        },
    ),
    "kernel_nvcodec": (
        "one call of NVIDIA's video decoder, or the encoder's library taken into use (set "
        "`nvcodec`)",
        {
            "op": "create_parser, parse, destroy_parser, create_decoder, reconfigure_decoder, "
            "decode, decode_status, map, unmap, destroy_decoder, create_instance or version",
            "session": "the decoder or parser; null for the encoder",
            "status": "a CUresult, or the encoder's NVENCSTATUS: 0 is success",
            "picture_index": "the surface that a picture is decoded into, or that is mapped",
            "device_pointer": "where a mapped surface is on the device",
        },
    ),
    "kernel_tcp": (
        "one event of a TCP connection (set `tcp`)",
        {
            "op": "state (it goes from one to another), retransmit, sample (as its owner sends or "
            "receives, at most one each 100 ms) or closed",
            "socket": "the connection's number",
            "old_state": "of a change: the TCP state before",
            "new_state": "and after",
            "local_port": "null until the kernel has chosen one",
            "remote_port": "null of a listening socket",
            "family": "2 is IPv4, 10 is IPv6",
            "local_address": "null if it is any",
            "remote_address": "null of a listening socket",
            "bytes_sent": "until now, what was sent again each time",
            "bytes_received": "until now",
            "srtt_us": "the smoothed round-trip time; null until there is one",
            "owner_pid": "the process that connected or listened, or last used it",
        },
    ),
    "kernel_python_gc": (
        "a garbage collection that starts or is done, seen from outside (set `cpython`)",
        {
            "op": "start or done",
            "generation": "of a start: the generation",
            "collected": "of an end: how many unreachable objects it found",
        },
    ),
    "kernel_python_memory": (
        "a call that asked for 128 KiB of host memory or more (set `cpython`)",
        {
            "size_bytes": "what was asked for",
            "domain": "raw (the interpreter's own function) or c (the C library's)",
            "address": "what was given",
        },
    ),
    "kernel_python_calls": (
        "a Python function that is entered or left (set `cpython_calls`)",
        {
            "op": "entry or return",
            "file": "the source file",
            "function": "the function",
            "line": "the line that it is at",
        },
    ),
    "kernel_page_faults": (
        "a page fault of the program (set `faults`)",
        {
            "address": "what was touched",
            "ip": "the instruction that touched it",
            "error_code": "the CPU's bits: what was wrong with the page, and what was tried",
        },
    ),
    "kernel_gpu_errors": (
        "an Xid: what NVIDIA's driver reports as gone wrong with a GPU (set `xid`)",
        {
            "device": "the GPU's PCI address",
            "code": "NVIDIA's number of the error: 31 is a page fault, 79 a GPU off the bus",
            "message": "the driver's words",
        },
    ),
}
