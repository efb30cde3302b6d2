"""A small library of C functions, and programs attached to it: what a session does, by hand."""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vidlab.capture.ebpf.declaring.layout import Layout
from vidlab.capture.ebpf.declaring.metrics import Metric
from vidlab.capture.ebpf.declaring.probes import Probe
from vidlab.capture.ebpf.kernel import btf, links, programs
from vidlab.capture.ebpf.kernel.bpf import AttachType, MapType, ProgramType
from vidlab.capture.ebpf.kernel.maps import Map
from vidlab.capture.ebpf.program import calls, moments
from vidlab.capture.ebpf.program.context import ProgramContext
from vidlab.capture.ebpf.program.instructions import Code
from vidlab.capture.ebpf.program.words import COUNTS, STASH_KEY
from vidlab.capture.ebpf.reading.ring import Ring
from vidlab.capture.ebpf.symbols.tables import symbols

#: What the C compiler makes of it is small, and known: no function is inlined or cloned.
SOURCE = r"""
#include <setjmp.h>
#include <stddef.h>
#include <string.h>
#define SEEN __attribute__((noinline, noclone, visibility("default")))

SEEN int add(int a, int b) { __asm__ volatile(""); return a + b; }
SEEN long widths(signed char a, unsigned char b, short c, unsigned short d, int e, unsigned f) {
    __asm__ volatile("");
    return (long)a - b + c - d + e - f;
}
SEEN int allocate(void **out, size_t size) {
    if (size == 0) { *out = NULL; return -1; }
    *out = (void *)(0x7f0000000000 + size);
    return (int)(size % 3);
}
SEEN size_t length(const char *text) { __asm__ volatile(""); return strlen(text); }
SEEN int recurse(int n) {
    int below = n > 0 ? recurse(n - 1) : 0;
    __asm__ volatile("" : "+r"(below));
    return below + 1;
}
static jmp_buf back;
SEEN void never_returns(int n) { __asm__ volatile(""); if (n) longjmp(back, 1); }
SEEN int leap(int n) { if (setjmp(back) == 0) never_returns(n); return n; }
SEEN int inner(int a) { __asm__ volatile(""); return a * 2; }
SEEN int outer(int a) { int b = inner(a + 1); __asm__ volatile("" : "+r"(b)); return b + 1; }
SEEN int wait_for(volatile int *flag) { while (!*flag) __asm__ volatile("pause"); return *flag; }
SEEN int begin_and_wait(volatile int *flags) {
    flags[1] = 1; /* the call has begun, and what runs as it begins is over */
    while (!flags[0]) __asm__ volatile("pause");
    return flags[0];
}
SEEN void many(int (*f)(int, int), int n) { for (int i = 0; i < n; i++) f(i, n); }
"""


class Kernel:
    """Maps for one table, and programs that share them.

    Parameters
    ----------
    path : Path
        The library.
    members : Mapping of int to Probe, Tracepoint, Usdt, Counter or Histogram
        What is recorded, by number.
    ring_bytes, stash_room, stash_entries, values : int
        Sizes of the maps.
    **context
        Further attributes of the programs' context.
    """

    def __init__(
        self,
        path: Path | None,
        members: Mapping[int, Any],
        *,
        ring_bytes: int = 1 << 20,
        stash_room: int = 0,
        stash_entries: int = 1024,
        values: int = 1024,
        **context: Any,
    ) -> None:
        self.path, self.members = path, members
        recorded = {n: one for n, one in members.items() if not isinstance(one, Metric)}
        self.layout = Layout(recorded) if recorded else None
        self._undo = contextlib.ExitStack()
        self._context = {**context, "stash_room": stash_room, "ring_bytes": ring_bytes}
        room = self.context(next(iter(members))).stash_bytes
        size = max(members) + 1
        self.maps: dict[str, Map] = {}
        for name, shape in {
            "ring": (MapType.RINGBUF, 0, 0, ring_bytes),
            "counts": (MapType.PERCPU_ARRAY, 4, 8 * len(COUNTS), size),
            "slots": (MapType.HASH, 4, 8, 64),
            "targets": (MapType.HASH, 4, 8, 64),
            "stash": (MapType.HASH, STASH_KEY, room, stash_entries),
            "blank": (MapType.ARRAY, 4, room, 1),
            "samples": (MapType.ARRAY, 4, 8, size),
            "values": (MapType.PERCPU_HASH, 8, 8, values),
            "programs": (MapType.PROG_ARRAY, 4, 4, size),
        }.items():
            self.maps[name] = self._undo.enter_context(Map.create(*shape, name=name))
        self.ring = None
        if self.layout is not None:
            fd = self.maps["ring"].fd
            ring = Ring(fd, ring_bytes, self.layout.dtype, self.layout.stride)
            self.ring = self._undo.enter_context(contextlib.closing(ring))
        self.links: list[links.Link] = []

    def context(self, number: int, **more: Any) -> ProgramContext:
        """What the program of this number is made for."""
        layout = None if isinstance(self.members[number], Metric) else self.layout
        return ProgramContext(**{"index": number, "layout": layout, **self._context, **more})

    def load(
        self,
        code: Code,
        attach_type: AttachType = AttachType.UPROBE_MULTI,
        type: ProgramType = ProgramType.KPROBE,
    ) -> programs.Program:
        """Load a program with our maps."""
        encoded = code.encode({name: map.fd for name, map in self.maps.items()}, function_id)
        return self._undo.enter_context(programs.load(encoded, type, attach_type, "lab"))

    def attach(
        self, program: programs.Program, symbol: str, cookie: int = 0, **options: bool
    ) -> links.Link:
        """Attach a program to a function of the library, for this process."""
        assert self.path is not None
        (found,) = symbols(str(self.path)).lookup(symbol)
        link = links.attach_uprobes(
            program, self.path, [found.offset], [cookie], pid=os.getpid(), **options
        )
        self.links.append(self._undo.enter_context(link))
        return link

    def attach_entry(self, number: int) -> None:
        """Attach the program of a probe without exit fields."""
        source = self.members[number]
        of = source.of if isinstance(source, Metric) else source
        self.attach(self.load(moments.entry(self.context(number), source)), of.symbol)

    def attach_call(self, number: int, session: bool) -> None:
        """Attach the programs of a probe with exit fields, as a session or a pair."""
        source = self.members[number]
        of = source.of if isinstance(source, Metric) else source
        assert isinstance(of, Probe)
        if session:
            code = calls.call_session(self.context(number), source)
            self.attach(self.load(code, AttachType.UPROBE_SESSION), of.symbol, session=True)
            return
        begin, end = calls.call_pair(self.context(number), source)
        self.attach(self.load(end), of.symbol, returns=True)
        self.attach(self.load(begin), of.symbol)

    def records(self) -> np.ndarray:
        """Take the records that are in the ring."""
        assert self.ring is not None
        view = self.ring.view(1 << 20)
        records = view.records.copy()
        self.ring.advance(view.extent)
        return records

    def raw_records(self) -> list[bytearray]:
        """Take the records that are in the ring, every byte of them but the ring's header."""
        assert self.ring is not None
        view = self.ring.view(1 << 20)
        raw = view.records.view(f"V{self.ring.stride}")
        found = [bytearray(record.tobytes()[8:]) for record in raw]
        self.ring.advance(view.extent)
        return found

    def counts(self, number: int = 0) -> dict[str, int]:
        """What was counted of a program on all CPUs, without what is zero."""
        each = self.maps["counts"].lookup_percpu(struct.pack("<I", number))
        assert each is not None
        sums = np.sum([np.frombuffer(one, "<u8") for one in each], axis=0)
        return {name: int(n) for name, n in zip(COUNTS, sums, strict=True) if n}

    def values(self) -> dict[tuple[int, int], int]:
        """What was counted, by labels and bucket."""
        map = self.maps["values"]
        return {
            struct.unpack("<II", key): sum(struct.unpack(f"<{len(value) // 8}Q", value))
            for key, value in map.items()
        }

    def under_way(self) -> int:
        """How many calls are kept in the stash."""
        return len(list(self.maps["stash"].keys()))

    def give_word(self, tid: int, *values: int) -> ctypes.Array[ctypes.c_uint64]:
        """Let a thread have a span word of these four numbers, and return it."""
        word = (ctypes.c_uint64 * 4)(*values)
        self.point_word(tid, ctypes.addressof(word))
        return word

    def point_word(self, tid: int, address: int) -> None:
        """Let a thread's span word be at an address."""
        self.maps["slots"].update(struct.pack("<I", tid), struct.pack("<Q", address))

    def close(self) -> None:
        self._undo.close()

    def __enter__(self) -> Kernel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def function_id(name: str) -> int:
    """The number of a kernel function."""
    number = btf.function_id(name)
    assert number is not None
    return number
