"""Counters and histograms in the real kernel: nothing is counted twice, or not at all."""

from __future__ import annotations

import ctypes
import threading
from pathlib import Path

import pytest

from vidlab.capture.ebpf import Counter, Histogram, Probe, arg, retval
from vidlab.capture.ebpf.program.counting import bucket_of

from .lab import Kernel

pytestmark = [pytest.mark.needs("ebpf"), pytest.mark.usefixtures("nothing_left")]

CALLS = 500


def call_of(symbol: str, entry: dict | None = None, exit: dict | None = None, **more) -> Probe:
    return Probe("liblab.so", symbol, entry or {}, exit or {}, **more)


def test_histogram_of_durations_and_results(
    library: ctypes.CDLL, library_path: Path, session: bool
) -> None:
    members = {0: Histogram("sums", call_of("add"), retval("i32"))}
    with Kernel(library_path, members) as kernel:
        kernel.attach_call(0, session)
        word = kernel.give_word(threading.get_native_id(), 1, 2, 3, 1)
        for a in range(-5, 1000):
            library.add(a, 0)
        word[2] = 4
        library.add(1 << 20, 0)
        expected: dict[tuple[int, int], int] = {}
        for a in range(-5, 1000):
            key = 3, bucket_of(a)
            expected[key] = expected.get(key, 0) + 1
        expected[4, bucket_of(1 << 20)] = 1
        assert kernel.values() == expected
        assert kernel.counts() == {"hits": 1006, "emitted": 1006}
        assert kernel.under_way() == 0


def test_counter_of_failures(library: ctypes.CDLL, library_path: Path, session: bool) -> None:
    members = {0: Counter("failures_total", call_of("allocate", when=retval() < 0))}
    with Kernel(library_path, members) as kernel:
        kernel.attach_call(0, session)
        out = ctypes.c_void_p()
        for size in (0, 1, 2, 0, 4):
            library.allocate(ctypes.byref(out), ctypes.c_size_t(size))
        assert kernel.values() == {(0, 0): 2}
        assert kernel.counts() == {"hits": 5, "filtered": 3, "emitted": 2}


def test_counters_by_labels(library: ctypes.CDLL, library_path: Path) -> None:
    members = {
        0: Counter("all_total", Probe("x", "add")),
        1: Histogram("sizes", Probe("x", "add", when=arg(1) == 1), arg(0, "i64")),
    }
    with Kernel(library_path, members) as kernel:
        kernel.attach_entry(0)
        word = kernel.give_word(threading.get_native_id(), 1, 0, 9, 1)
        for _ in range(5):
            library.add(1, 0)
        word[2] = 10
        library.add(1, 0)
        assert kernel.values() == {(9, 0): 5, (10, 0): 1}
    with Kernel(library_path, members) as kernel:
        kernel.attach_entry(1)
        library.add.argtypes = [ctypes.c_int64, ctypes.c_int64]
        values = [0, 1, 7, 8, 9, 15, 16, 1000, 10**12, (1 << 63) - 1]
        try:
            for value in [*values, -1]:
                library.add(value, 1)
        finally:
            library.add.argtypes = None
        library.add(3, 2)
        expected: dict[tuple[int, int], int] = {}
        for value in [*values, 0]:
            key = 0, bucket_of(value)
            expected[key] = expected.get(key, 0) + 1
        assert kernel.values() == expected
        assert kernel.counts(1) == {"hits": 12, "filtered": 1, "emitted": 11}


def test_a_full_metric_counts_what_it_loses(library: ctypes.CDLL, library_path: Path) -> None:
    metric = Histogram("sizes", Probe("x", "add"), arg(0, "u32"))
    with Kernel(library_path, {0: metric}, values=4) as kernel:
        kernel.attach_entry(0)
        for power in range(30):
            library.add(1 << power, 0)
        counts = kernel.counts()
        counted = sum(kernel.values().values())
        assert counts == {"hits": 30, "emitted": counted, "lost_stash": 30 - counted}
        assert 4 <= counted < 30


def test_threads_count_together(library: ctypes.CDLL, library_path: Path) -> None:
    metric = Histogram("sizes", Probe("x", "add"), arg(0, "u32"))
    with Kernel(library_path, {0: metric}) as kernel:
        kernel.attach_entry(0)
        add = ctypes.cast(library.add, ctypes.c_void_p)
        threads = [threading.Thread(target=library.many, args=(add, 2000)) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(kernel.values().values()) == 12000
        assert kernel.counts() == {"hits": 12000, "emitted": 12000}
