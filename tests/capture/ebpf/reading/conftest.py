"""Programs in the real kernel that write records as fast as they can, and count what they do."""

from __future__ import annotations

import ctypes
import struct
import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from vidlab.capture.ebpf.kernel import bpf, programs
from vidlab.capture.ebpf.kernel.bpf import Command, MapType
from vidlab.capture.ebpf.kernel.maps import Map
from vidlab.capture.ebpf.program import helpers
from vidlab.capture.ebpf.program.encoding import R0, R1, R2, R3, R4, R6, R7, R8, R9, R10
from vidlab.capture.ebpf.program.instructions import Builder
from vidlab.capture.ebpf.program.words import COUNTS
from vidlab.capture.ebpf.reading.counters import KEY, Counts
from vidlab.capture.ebpf.reading.ring import Ring

#: Socket filters run anywhere, and as often as one asks in one call.
SOCKET_FILTER = 1


def record_type(stride: int) -> np.dtype:
    """A record's number and the same number in all that follows, in a ring with this stride."""
    return np.dtype([("number", "<u8"), ("rest", "<u8", ((stride - 16) // 8,))])


class Producer:
    """Writes numbered records into a ring; its counts are as a session's.

    A record that is discarded counts as `filtered`.
    """

    def __init__(
        self,
        ring_bytes: int,
        stride: int,
        at_once: int = 16,
        discard_every: int = 0,
        flags: int | None = None,
        dawdle: int = 0,
    ) -> None:
        self.at_once, self.ring_bytes, self.stride = at_once, ring_bytes, stride
        self.dtype = record_type(stride)
        self.ring_map = Map.create(MapType.RINGBUF, 0, 0, ring_bytes, name="test_ring")
        self.counts_map = Map.create(MapType.PERCPU_ARRAY, 4, 8 * len(COUNTS), 1, name="counts")
        self.numbers = Map.create(MapType.ARRAY, 4, 8, 1, name="numbers")
        self.programs: list[programs.Program] = []
        self.program = self.another(at_once, discard_every, flags, dawdle)
        self.counts = Counts(self.counts_map)

    def another(
        self, at_once: int, discard_every: int = 0, flags: int | None = None, dawdle: int = 0
    ) -> programs.Program:
        """Return a further program for the same ring; it dawdles before it submits."""
        code = self._code(at_once, discard_every, flags, dawdle)
        maps = {"ring": self.ring_map, "counts": self.counts_map, "numbers": self.numbers}
        encoded = code.encode({name: map.fd for name, map in maps.items()})
        self.programs.append(programs.load(encoded, SOCKET_FILTER, name="producer"))
        return self.programs[-1]

    def _code(self, at_once, discard_every, flags, dawdle):
        write = Builder()
        key = write.allocate(4)
        end = write.label("end")
        for name, register in (("numbers", R6), ("counts", R9)):
            write.store(4, R10, key, 0)
            write.load_map(R1, name)
            write.move(R2, R10)
            write.alu(R2, "+", key)
            write.call(helpers.MAP_LOOKUP)
            write.jump_if(R0, "==", 0, end)
            write.move(register, R0)

        def count(name: str) -> None:
            write.move(R1, 1)
            write.atomic_add(R9, 8 * COUNTS.index(name), R1)

        for index in range(at_once):
            lost, done = write.label(f"lost{index}"), write.label(f"done{index}")
            count("hits")
            write.move(R7, 1)
            write.atomic_add(R6, 0, R7, fetch=True)
            write.load_map(R1, "ring")
            write.move(R2, self.stride - 8)
            write.move(R3, 0)
            write.call(helpers.RING_RESERVE)
            write.jump_if(R0, "==", 0, lost)
            write.move(R8, R0)
            for offset in range(0, self.stride - 8, 8):
                write.store(8, R8, offset, R7)
            for _ in range(dawdle):
                write.call(helpers.TIME_NS)
            if discard_every and index % discard_every == discard_every - 1:
                count("filtered")
                write.move(R1, R8)
                write.move(R2, helpers.NO_WAKEUP)
                write.call(helpers.RING_DISCARD)
            else:
                count("emitted")
                if flags is None:
                    self._wake_each_eighth(write, index)
                else:
                    write.move(R2, flags)
                write.move(R1, R8)
                write.call(helpers.RING_SUBMIT)
            write.jump(done)
            write.place(lost)
            count("lost_ring")
            write.place(done)
        write.place(end)
        write.move(R0, 0)
        write.exit()
        return write.assemble()

    def _wake_each_eighth(self, write: Builder, index: int) -> None:
        quiet = write.label(f"quiet{index}")
        write.load_map(R1, "ring")
        write.move(R2, helpers.UNREAD_BYTES)
        write.call(helpers.RING_QUERY)
        write.alu(R0, "&", self.ring_bytes // 8 - 1)
        write.move(R2, helpers.NO_WAKEUP)
        write.jump_if(R0, ">=", self.stride, quiet)
        write.move(R2, helpers.FORCE_WAKEUP)
        write.place(quiet)

    def ring(self) -> Ring:
        return Ring(self.ring_map.fd, self.ring_bytes, self.dtype, self.stride)

    def run(self, times: int, program: programs.Program | None = None) -> None:
        """Run the program so often in the kernel, with the GIL released."""
        packet = ctypes.create_string_buffer(64)
        attributes = struct.pack(
            "<IIIIQQII32x",
            (program or self.program).fd,
            0,
            64,
            0,
            ctypes.addressof(packet),
            0,
            times,
            0,
        )
        bpf.bpf(Command.PROG_TEST_RUN, attributes)

    def start(self, times: int, program: programs.Program | None = None) -> threading.Thread:
        thread = threading.Thread(target=self.run, args=(times, program))
        thread.start()
        return thread

    def count(self, name: str) -> int:
        return int(self.counts.read()[0, COUNTS.index(name)])

    def close(self) -> None:
        for each in (*self.programs, self.ring_map, self.counts_map, self.numbers):
            each.close()


@pytest.fixture
def producer() -> Iterator[Callable[..., Producer]]:
    made: list[Producer] = []

    def make(*args, **options) -> Producer:
        made.append(Producer(*args, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


class Tally:
    """A histogram's map and a program that adds to a few of its buckets."""

    def __init__(self) -> None:
        self.map = Map.create(
            MapType.PERCPU_HASH, KEY.itemsize, 8, 4096, bpf.F_NO_PREALLOC, "tally"
        )
        self.turns = Map.create(MapType.ARRAY, 4, 8, 1, name="turns")
        encoded = self._code().encode({"tally": self.map.fd, "turns": self.turns.fd})
        self.program = programs.load(encoded, SOCKET_FILTER, name="tally")

    def _code(self):
        """Adds to (labels, bucket) = (turn % 5, turn % 3)."""
        write = Builder()
        zero, one, key = write.allocate(8), write.allocate(8), write.allocate(8)
        end, there = write.label("end"), write.label("there")
        write.store(8, R10, zero, 0)
        write.load_map(R1, "turns")
        write.move(R2, R10)
        write.alu(R2, "+", zero)
        write.call(helpers.MAP_LOOKUP)
        write.jump_if(R0, "==", 0, end)
        write.move(R7, 1)
        write.atomic_add(R0, 0, R7, fetch=True)
        for offset, divisor in ((0, 5), (4, 3)):
            write.move(R8, R7)
            write.alu(R8, "%", divisor)
            write.store(4, R10, key + offset, R8)

        def look_up() -> None:
            write.load_map(R1, "tally")
            write.move(R2, R10)
            write.alu(R2, "+", key)
            write.call(helpers.MAP_LOOKUP)

        look_up()
        write.jump_if(R0, "!=", 0, there)
        write.store(8, R10, one, 0)
        write.load_map(R1, "tally")
        write.move(R2, R10)
        write.alu(R2, "+", key)
        write.move(R3, R10)
        write.alu(R3, "+", one)
        write.move(R4, helpers.NO_EXIST)
        write.call(helpers.MAP_UPDATE)
        look_up()
        write.jump_if(R0, "==", 0, end)
        write.place(there)
        write.move(R1, 1)
        write.atomic_add(R0, 0, R1)
        write.place(end)
        write.move(R0, 0)
        write.exit()
        return write.assemble()

    run = Producer.run
    start = Producer.start

    def close(self) -> None:
        for each in (self.program, self.map, self.turns):
            each.close()


@pytest.fixture
def tally() -> Iterator[Tally]:
    made = Tally()
    yield made
    made.close()
