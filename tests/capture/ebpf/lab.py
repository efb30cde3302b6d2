"""A small library of C functions to be probed, and what comes of probing it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pytest

import vidlab as vl
from vidlab.capture.ebpf.plan import Asked, Plan
from vidlab.capture.ebpf.program.words import COUNTS
from vidlab.capture.ebpf.reading.columns import Columns
from vidlab.capture.ebpf.reading.counters import Counts
from vidlab.capture.ebpf.reading.reader import Reader, Source
from vidlab.capture.ebpf.reading.ring import Ring
from vidlab.capture.ebpf.session import Session

#: The smallest ring.
SMALLEST = os.sysconf("SC_PAGE_SIZE")

#: What the C compiler makes of it is small, and known: no function is inlined or cloned. The
#: first instruction is one that the kernel need not step over, which makes calls much cheaper.
SOURCE = r"""
#define SEEN __attribute__((noinline, noclone, visibility("default")))

SEEN int give(unsigned long *out, unsigned long size, const char *name) {
    __asm__ volatile("nop");
    *out = 2 * size + 1;
    return -(int)(size % 7);
}
SEEN int twice(int x) { __asm__ volatile("nop"); return 2 * x; }
SEEN int recurse(int n) {
    __asm__ volatile("nop");
    int below = n > 1 ? recurse(n - 1) : 0;
    __asm__ volatile("" : "+r"(below));
    return below + 1;
}
SEEN int wait_for(volatile int *flag) {
    __asm__ volatile("nop");
    while (!*flag) __asm__ volatile("");
    return *flag;
}
SEEN int begin_and_wait(volatile int *flags) {
    __asm__ volatile("nop");
    flags[1] = 1;
    while (!flags[0]) __asm__ volatile("");
    return flags[0];
}
SEEN void many(long n) { for (long i = 0; i < n; i++) twice((int)i); }
SEEN long until(volatile int *stop) {
    long n = 0;
    while (!*stop) twice((int)n++);
    return n;
}
"""


def build(folder: Path, name: str = "libcalls.so", source: str = SOURCE, *more: str) -> Path:
    """Compile a library into a folder and return its path."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no C compiler: apt install gcc")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    code = path.with_suffix(".c")
    code.write_text(source)
    # A library that is replaced is another file: the old one may be mapped.
    made = path.with_suffix(".new")
    command = [compiler, "-O1", "-shared", "-fPIC", *more, "-o", str(made), str(code)]
    subprocess.run(command, check=True)
    made.rename(path)
    return path


def load(path: Path) -> ctypes.CDLL:
    """Load it into this process."""
    library = ctypes.CDLL(str(path))
    library.until.restype = ctypes.c_long
    library.many.argtypes = [ctypes.c_long]
    library.many.restype = None
    return library


class Watch:
    """A session whose records are read all the while, by the reader that recordings have.

    Parameters
    ----------
    asked : sequence of declarations, metrics or sets
    target : int, optional
        By default this process.
    **options
        Of `Session`.
    """

    def __init__(self, asked: Sequence[Asked], target: int | None = None, **options: Any) -> None:
        self.plan = Plan(asked)
        self._texts = [""]
        self._numbers: dict[str, int] = {}
        self._kept: dict[str, list[dict[str, Any]]] = {table: [] for table in self.plan.layouts}
        with contextlib.ExitStack() as undo:
            self.session = undo.enter_context(
                Session(self.plan, os.getpid() if target is None else target, **options)
            )
            sources = []
            for table, map in self.session.shared.rings.items():
                layout = self.plan.layouts[table]
                ring = Ring(map.fd, map.max_entries, layout.dtype, layout.stride)
                undo.enter_context(contextlib.closing(ring))
                sources.append(Source(table, ring, self._sink(table)))
            self.reader = Reader(sources, self._failed)
            self.reader.start()
            undo.callback(self.reader.stop)
            self._undo = undo.pop_all()

    def _failed(self, table: str) -> None:
        raise AssertionError(f"{table} could not be read")

    def _sink(self, table: str) -> Any:
        def keep(columns: Columns) -> None:
            self._kept[table].append({name: columns[name].copy() for name in columns.names})

        return keep

    def stop(self) -> None:
        """Take the programs off and read the rest."""
        self.session.detach()
        self.reader.stop()

    def close(self) -> None:
        self._undo.close()

    def read(self, table: str) -> dict[str, np.ndarray[Any, Any]]:
        """All records of a table that were read so far, by field."""
        kept = self._kept[table]
        dtype = self.plan.layouts[table].dtype
        names = [name for name in dtype.names or () if not name.startswith("_")]
        return {
            name: np.concatenate([np.empty(0, dtype[name]), *(part[name] for part in kept)])
            for name in names
        }

    def rows(self, table: str) -> list[dict[str, Any]]:
        """The same as rows of the table, with texts, in their order in time."""
        layout, read = self.plan.layouts[table], self.read(table)
        records = np.empty(len(read["t_ns"]), layout.dtype)
        for name, values in read.items():
            records[name] = values
        columns = layout.columns(records, self._number)
        types = {column.name: column.type for column in layout.table.columns}
        plain = {
            name: [self._texts[number] or None for number in values.tolist()]
            if name in types and str(types[name]).startswith(("dictionary", "string"))
            else values.tolist()
            for name, values in columns.items()
        }
        rows = [
            dict(zip(plain, values, strict=True)) for values in zip(*plain.values(), strict=True)
        ]
        return sorted(rows, key=lambda row: row["t_ns"])

    def counts(self, number: int = 0) -> dict[str, int]:
        """What became of a program's hits."""
        values = Counts(self.session.shared.counts).read()[number]
        return dict(zip(COUNTS, map(int, values), strict=True))

    def _number(self, text: str) -> int:
        if text not in self._numbers:
            self._numbers[text] = len(self._texts)
            self._texts.append(text)
        return self._numbers[text]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def wait_until(holds: Callable[[], object]) -> None:
    """Wait for what has to come sooner or later, for a minute."""
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.001)


def warm(folder: Path) -> None:
    """Have Polars open, by recording and reading a run, what it keeps open for good."""
    with vl.record(folder / "warm", engines=[vl.Frames()]), vl.stage("warm"):
        pass
    vl.open_run(folder / "warm").scan("spans").collect()


def accounted(counts: dict[str, int]) -> int:
    """Hits of which it is known what became of them."""
    names = ("filtered", "sampled_out", "emitted", "lost_ring", "lost_stash")
    return sum(counts[name] for name in names)
