"""The cost of kernel events: from a ring in the kernel to columns, and to a run.

The records are those of a probe on `cuMemAlloc_v2`; a program in the real kernel writes them
as fast as it is asked to. The peer is libbpf as pylibbpf brings it, which of libbpf's two
readers has the one of perf buffers: a Python callback for each event, through ctypes, which
unpacks the same fields.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import signal
import statistics
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from vidlab.capture.ebpf import Probe, arg, deref, retval
from vidlab.capture.ebpf.declaring.layout import Layout
from vidlab.capture.ebpf.kernel import bpf, privileges, programs
from vidlab.capture.ebpf.kernel.bpf import Command, MapType
from vidlab.capture.ebpf.kernel.maps import Map
from vidlab.capture.ebpf.program import helpers
from vidlab.capture.ebpf.program.encoding import R0, R1, R2, R3, R4, R5, R6, R7, R8, R10
from vidlab.capture.ebpf.program.instructions import Builder, Code
from vidlab.capture.ebpf.reading.columns import Columns
from vidlab.capture.ebpf.reading.reader import Reader, Source
from vidlab.capture.ebpf.reading.ring import Ring
from vidlab.runs.writer import RunWriter

from .figure import Figure, report

PROBE = Probe(
    "libcuda.so.1",
    "cuMemAlloc_v2",
    entry={"size_bytes": arg(1)},
    exit={"address": deref(arg(0)), "status": retval()},
)
LAYOUT = Layout({0: PROBE})

RING_BYTES = 16 << 20

#: Records that one run of the program writes.
AT_ONCE = 20

#: The rate of `share_of_a_core`, and for how long.
RATE, SECONDS = 1_000_000, 5

#: A socket filter can be run as often as one asks in one call.
SOCKET_FILTER = 1

#: What libbpf's perf buffers take: a type of map, and a helper.
PERF_EVENT_ARRAY, PERF_EVENT_OUTPUT = 4, 25


class Producer:
    """A program that writes records: increasing numbers, labels and probe 0."""

    def __init__(self) -> None:
        self.ring = Map.create(MapType.RINGBUF, 0, 0, RING_BYTES, name="bench_ring")
        self.numbers = Map.create(MapType.ARRAY, 4, 16, 1, name="bench_numbers")
        code = self._code().encode({"ring": self.ring.fd, "numbers": self.numbers.fd})
        self.program = programs.load(code, SOCKET_FILTER, name="bench")  # type: ignore[arg-type]

    def _code(self) -> Code:
        write = Builder()
        key, end = write.allocate(4), write.label("end")
        write.store(4, R10, key, 0)
        write.load_map(R1, "numbers")
        write.move(R2, R10)
        write.alu(R2, "+", key)
        write.call(helpers.MAP_LOOKUP)
        write.jump_if(R0, "==", 0, end)
        write.move(R6, R0)
        for index in range(AT_ONCE):
            lost, done = write.label(f"lost{index}"), write.label(f"done{index}")
            quiet = write.label(f"quiet{index}")
            write.move(R7, 1)
            write.atomic_add(R6, 0, R7, fetch=True)
            write.load_map(R1, "ring")
            write.move(R2, LAYOUT.dtype.itemsize)
            write.move(R3, 0)
            write.call(helpers.RING_RESERVE)
            write.jump_if(R0, "==", 0, lost)
            write.move(R8, R0)
            for offset in range(0, LAYOUT.dtype.itemsize, 8):
                labels = offset == LAYOUT.offset("labels")
                write.store(8, R8, offset, 0 if labels else R7)
            write.load_map(R1, "ring")
            write.move(R2, helpers.UNREAD_BYTES)
            write.call(helpers.RING_QUERY)
            write.alu(R0, "&", RING_BYTES // 8 - 1)
            write.move(R2, helpers.NO_WAKEUP)
            write.jump_if(R0, ">=", LAYOUT.stride, quiet)
            write.move(R2, helpers.FORCE_WAKEUP)
            write.place(quiet)
            write.move(R1, R8)
            write.call(helpers.RING_SUBMIT)
            write.jump(done)
            write.place(lost)
            write.move(R1, 1)
            write.atomic_add(R6, 8, R1)
            write.place(done)
        write.place(end)
        write.move(R0, 0)
        write.exit()
        return write.assemble()

    def counts(self) -> tuple[int, int]:
        """Return how many records were begun, and how many of them lost."""
        begun, lost = struct.unpack("<QQ", self.numbers.lookup(bytes(4)) or bytes(16))
        return begun, lost

    @contextmanager
    def paced(self) -> Iterator[None]:
        """Write records at `RATE` meanwhile, in another process."""
        child = os.fork()
        if child == 0:
            # The parent's threads, and what they hold, are none of this process's business.
            last = time.perf_counter()
            while os.getppid() != 1:
                time.sleep(0.002)
                # What was missed because this process had no CPU is not made up for at once.
                passed = min(time.perf_counter() - last, 0.02)
                last = time.perf_counter()
                run(self.program, int(passed * RATE))
            os._exit(0)
        try:
            yield
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)

    def close(self) -> None:
        for each in (self.program, self.ring, self.numbers):
            each.close()


def run(program: programs.Program, records: int) -> None:
    """Have a program write so many records, give or take `AT_ONCE`."""
    packet = ctypes.create_string_buffer(64)
    times, where = records // AT_ONCE, ctypes.addressof(packet)
    if times:
        arguments = (program.fd, 0, len(packet), 0, where, 0, times, 0)
        bpf.bpf(Command.PROG_TEST_RUN, struct.pack("<IIIIQQII32x", *arguments))


def number(text: str) -> int:
    """Stands for `RunWriter.names`: a text's number."""
    return 1


def columns_of(columns: Columns) -> None:
    """A sink that makes the table's columns and forgets them."""
    assert len(LAYOUT.columns(columns, number)["address"]) == len(columns)  # type: ignore[arg-type]


class Libbpf:
    """libbpf's reader of perf buffers, with a callback per event, and a program that writes."""

    EVENT = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p, ctypes.c_uint32)

    def __init__(self, library: ctypes.CDLL) -> None:
        cpus = os.sysconf("SC_NPROCESSORS_CONF")
        self.events = Map.create(PERF_EVENT_ARRAY, 4, 4, cpus, name="bench_events")  # type: ignore[arg-type]
        code = self._code().encode({"events": self.events.fd})
        self.program = programs.load(code, SOCKET_FILTER, name="bench_peer")  # type: ignore[arg-type]
        self._consume = library.perf_buffer__consume
        self._consume.argtypes = [ctypes.c_void_p]
        self._free = library.perf_buffer__free
        self._free.argtypes = [ctypes.c_void_p]
        letters = {"<i8": "q", "<u8": "Q", "<i4": "i", "<u4": "I", "<u2": "H"}
        kinds = [LAYOUT.dtype[name] for name in LAYOUT.dtype.names or ()]
        form = "<" + "".join(letters.get(kind.str, f"{kind.itemsize}x") for kind in kinds)
        size, unpack, text = LAYOUT.dtype.itemsize, struct.Struct(form).unpack, ctypes.string_at
        assert struct.calcsize(form) == size
        self.rows: list[tuple[int, ...]] = []
        append = self.rows.append

        def event(context: int, cpu: int, data: int, length: int) -> None:
            append(unpack(text(data, size)))

        self._event = self.EVENT(event)
        new = library.perf_buffer__new
        new.restype = ctypes.c_void_p
        new.argtypes = [ctypes.c_int, ctypes.c_size_t, self.EVENT, *3 * [ctypes.c_void_p]]
        pages = RING_BYTES // os.sysconf("SC_PAGE_SIZE")
        self._buffer = new(self.events.fd, pages, self._event, None, None, None)
        assert self._buffer, "libbpf did not make a buffer"

    def _code(self) -> Code:
        write = Builder()
        write.move(R6, R1)
        record = write.allocate(LAYOUT.dtype.itemsize)
        for offset in range(0, LAYOUT.dtype.itemsize, 8):
            write.store(8, R10, record + offset, offset)
        for _ in range(AT_ONCE):
            write.move(R1, R6)
            write.load_map(R2, "events")
            write.move(R3, 0xFFFFFFFF)  # this CPU's buffer
            write.move(R4, R10)
            write.alu(R4, "+", record)
            write.move(R5, LAYOUT.dtype.itemsize)
            write.call(PERF_EVENT_OUTPUT)
        write.move(R0, 0)
        write.exit()
        return write.assemble()

    def read(self) -> int:
        self.rows.clear()
        self._consume(self._buffer)
        return len(self.rows)

    def close(self) -> None:
        self._free(self._buffer)
        self.program.close()
        self.events.close()


def libbpf() -> ctypes.CDLL | None:
    """Return the libbpf in pylibbpf's extension module, if it is installed."""
    found = importlib.util.find_spec("pylibbpf")
    if found is None or found.origin is None:
        return None
    (library,) = Path(found.origin).parent.glob("pylibbpf*.so")
    return ctypes.CDLL(str(library))


def decoding(producer: Producer, count: int = 100_000, rounds: int = 15) -> list[Figure]:
    """CPU per record from the ring to columns, in turns with libbpf's callbacks."""
    library = libbpf()
    peer = None if library is None else Libbpf(library)
    spent: dict[str, list[float]] = {"ours": [], "peer": []}
    with Ring(producer.ring.fd, RING_BYTES, LAYOUT.dtype, LAYOUT.stride) as ring:
        reader = Reader([Source(LAYOUT.name, ring, columns_of)], print)
        for turn in range(rounds + 1):
            run(producer.program, count)
            taken = [("ours", *measured(reader.read))]
            if peer is not None:
                run(peer.program, count)
                taken.append(("peer", *measured(peer.read)))
            for name, read, took in taken:
                assert read == count, f"{name} read {read} of {count}"
                if turn:  # the first warms up
                    spent[name].append(took / count)
    ours = statistics.median(spent["ours"])
    figures = [Figure("a kernel record to columns", ours, "ns", None, 25)]
    if peer is not None:
        peer.close()
        name = "the same / a callback of libbpf through ctypes"
        figures.append(Figure(name, ours, "ns", statistics.median(spent["peer"]), 1 / 50))
    else:
        print("pylibbpf is not installed: no peer", file=sys.stderr)
    return figures


def measured(read: Callable[[], int]) -> tuple[int, int]:
    """Return what it returns, and the process CPU that it took, in ns."""
    before = time.process_time_ns()
    count = read()
    return count, time.process_time_ns() - before


def share_of_a_core(
    producer: Producer, name: str, sink: Callable[[Columns], None], target: float | None
) -> list[Figure]:
    """Read a million records a second for five seconds; return the CPU used, in %."""
    with Ring(producer.ring.fd, RING_BYTES, LAYOUT.dtype, LAYOUT.stride) as ring:
        source = Source(LAYOUT.name, ring, sink)
        reader = Reader([source], lambda name: print(f"{name} failed", file=sys.stderr))
        begun, lost = producer.counts()
        with producer.paced():
            reader.start()
            time.sleep(0.5)
            begin, cpu, before = time.perf_counter(), time.process_time(), source.read
            time.sleep(SECONDS)
            used = time.process_time() - cpu
            took, read = time.perf_counter() - begin, source.read - before
        reader.stop()
    now_begun, now_lost = producer.counts()
    lost = now_lost - lost
    assert source.read + lost == now_begun - begun
    rate = read / took
    # At the very rate, if the machine had no room for the producer to keep to it.
    share = 100 * used / took * RATE / rate
    return [
        Figure(f"1,000,000 records/s {name}: share of a core", share, "%", None, target),
        Figure(f"1,000,000 records/s {name}: lost", 100 * lost / (now_begun - begun), "%"),
    ]


def idle() -> Figure:
    """The CPU that a reader of twelve rings uses while nothing comes."""
    rings = [Map.create(MapType.RINGBUF, 0, 0, 4096, name="idle") for _ in range(12)]
    mapped = [Ring(ring.fd, 4096, LAYOUT.dtype, LAYOUT.stride) for ring in rings]
    reader = Reader([Source("idle", ring, lambda columns: None) for ring in mapped], print)
    reader.start()
    begin, cpu = time.perf_counter(), time.process_time()
    time.sleep(SECONDS)
    used = (time.process_time() - cpu) / (time.perf_counter() - begin)
    reader.stop()
    for each in (*mapped, *rings):
        each.close()
    return Figure("a reader of 12 rings, idle: share of a core", 100 * used, "%", None, 0.1)


def written(producer: Producer, folder: Path) -> list[Figure]:
    writer = RunWriter(folder)
    try:
        return share_of_a_core(
            producer,
            "into a run",
            lambda columns: writer.append(
                LAYOUT.table,
                LAYOUT.columns(columns, writer.names.number),  # type: ignore[arg-type]
            ),
            None,
        )
    finally:
        writer.close()


def main() -> None:
    if not privileges.can_trace():
        print("kernel events are not measured: this process may not trace", file=sys.stderr)
        return
    producer = Producer()
    try:
        figures = [*decoding(producer), idle()]
        figures += share_of_a_core(producer, "to columns", columns_of, 5)
        with tempfile.TemporaryDirectory() as folder:
            figures += written(producer, Path(folder) / "run")
    finally:
        producer.close()
    report(figures)


if __name__ == "__main__":
    main()
