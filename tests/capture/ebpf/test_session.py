"""Sessions in the real kernel: what is called is recorded, exactly, or counted as lost."""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vidlab.capture.ebpf import (
    Counter,
    Histogram,
    Probe,
    Tracepoint,
    arg,
    deref,
    duration,
    retval,
    string,
)
from vidlab.capture.ebpf.kernel import links
from vidlab.capture.ebpf.plan import Plan
from vidlab.capture.ebpf.reading.counters import Histogram as HistogramMap
from vidlab.capture.ebpf.session import Session
from vidlab.capture.ebpf.symbols.libraries import UnknownSymbolError
from vidlab.errors import InputError, VidlabError

from .lab import SMALLEST, SOURCE, Watch, accounted, build, load, wait_until

pytestmark = [pytest.mark.needs("ebpf"), pytest.mark.usefixtures("nothing_left")]

LIBRARY = "libcalls.so"
TWICE = Probe(LIBRARY, "twice", {"x": arg(0, "i32")}, {"result": retval()})


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("calls"))


@pytest.fixture(scope="module")
def library(path: Path) -> ctypes.CDLL:
    return load(path)


@pytest.fixture(params=["session", "pair"])
def sessions(request: pytest.FixtureRequest) -> bool:
    """Whether entry and return of a call share a link."""
    if request.param == "session" and not links.has_sessions():
        pytest.skip("sessions came with Linux 6.13")
    return bool(request.param == "session")


def in_threads(count: int, work: Callable[[], Any]) -> None:
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


# --- what is recorded -----------------------------------------------------------------


def test_each_call_is_a_row_with_its_values_between_two_looks_at_the_clock(
    library: ctypes.CDLL, sessions: bool
) -> None:
    probe = Probe(
        LIBRARY,
        "give",
        {"size_bytes": arg(1, "i64"), "op": "alloc", "label": string(arg(2), 32)},
        {"address": deref(arg(0)), "status": retval()},
    )
    count, out, clock = 200, ctypes.c_ulong(), []
    with Watch([probe], sessions=sessions) as watch:
        for size in range(count):
            begin = time.monotonic_ns()
            library.give(ctypes.byref(out), size, b"frame-%d" % size)
            clock.append((begin, time.monotonic_ns()))
        watch.stop()
        rows = watch.rows("kernel_give")
        assert [row["size_bytes"] for row in rows] == list(range(count))
        assert [row["address"] for row in rows] == [2 * size + 1 for size in range(count)]
        assert [row["status"] for row in rows] == [-(size % 7) for size in range(count)]
        assert [row["label"] for row in rows] == [f"frame-{size}" for size in range(count)]
        assert {row["op"] for row in rows} == {"alloc"}
        assert {row["symbol"] for row in rows} == {"give"}
        assert {(row["pid"], row["tid"]) for row in rows} == {
            (os.getpid(), threading.get_native_id())
        }
        for row, (begin, end) in zip(rows, clock, strict=True):
            assert begin <= row["t_ns"] <= row["t_ns"] + row["duration_ns"] <= end
        assert watch.counts()["hits"] == watch.counts()["emitted"] == count
        how = {attachment.how for attachment in watch.session.attachments}
        assert how == {"session" if sessions else "pair"}


def test_a_probe_without_exit_is_a_moment(library: ctypes.CDLL) -> None:
    with Watch([Probe(LIBRARY, "twice", {"x": arg(0, "i32")})]) as watch:
        for x in (3, -4):
            begin = time.monotonic_ns()
            library.twice(x)
            end = time.monotonic_ns()
        watch.stop()
        rows = watch.rows("kernel_twice")
        assert [row["x"] for row in rows] == [3, -4]
        assert "duration_ns" not in rows[0]
        assert begin <= rows[1]["t_ns"] <= end


def test_calls_within_calls_are_told_apart(library: ctypes.CDLL, sessions: bool) -> None:
    probe = Probe(LIBRARY, "recurse", {"n": arg(0, "i32")}, {"result": retval()})
    with Watch([probe], sessions=sessions) as watch:
        in_threads(3, lambda: library.recurse(20))
        watch.stop()
        rows = watch.rows("kernel_recurse")
        assert sorted((row["n"], row["result"]) for row in rows) == sorted(
            3 * [(n, n) for n in range(1, 21)]
        )


def test_calls_deeper_than_the_kernel_follows_are_counted_as_lost(
    library: ctypes.CDLL, sessions: bool
) -> None:
    probe = Probe(LIBRARY, "recurse", {"n": arg(0, "i32")}, {"result": retval()})
    with Watch([probe], sessions=sessions) as watch:
        library.recurse(100)  # of which the kernel watches the first 64 return
        watch.stop()
        counts, rows = watch.counts(), watch.rows("kernel_recurse")
        assert all(row["n"] == row["result"] for row in rows)
        assert counts["hits"] == 100
        assert len(rows) == counts["emitted"] == 64
        assert counts["hits"] - accounted(counts) == 36  # for ever under way


@pytest.mark.parametrize("run", range(20))
def test_calls_are_read_or_lost_exactly_however_many_there_are(
    library: ctypes.CDLL, run: int
) -> None:
    sessions = (None, False)[run % 2]
    ring_bytes = (SMALLEST, 1 << 14, 1 << 20)[run % 3]
    calls = 20_000 if run % 4 else 60_000
    with Watch([TWICE], ring_bytes=ring_bytes, sessions=sessions) as watch:
        in_threads(2, lambda: library.many(calls))
        watch.stop()
        counts, read = watch.counts(), watch.read("kernel_twice")
    assert counts["hits"] == accounted(counts) == 2 * calls
    assert len(read["t_ns"]) == counts["emitted"]
    assert 2 * calls == len(read["t_ns"]) + counts["lost_ring"] + counts["lost_stash"]
    assert np.array_equal(read["result"], 2 * read["x"])
    for tid in np.unique(read["tid"]):  # in order, and none twice
        assert (np.diff(read["x"][read["tid"] == tid]) > 0).all()


def test_an_overloaded_ring_loses_and_says_so(library: ctypes.CDLL) -> None:
    with Watch([TWICE], ring_bytes=SMALLEST) as watch:
        with watch.reader._reading:  # nobody reads
            library.many(1000)
        watch.stop()
        counts = watch.counts()
        fit = SMALLEST // watch.plan.layouts["kernel_twice"].stride
        assert len(watch.read("kernel_twice")["x"]) == counts["emitted"]
        assert fit - 1 <= counts["emitted"] <= fit
        assert counts["lost_ring"] == 1000 - counts["emitted"]


def test_filters_and_samples_are_part_of_the_sum(library: ctypes.CDLL, sessions: bool) -> None:
    probes = [
        Probe(LIBRARY, "twice", {"x": arg(0, "i32")}, {}, arg(0, "i32") % 2 == 0, name="even"),
        Probe(LIBRARY, "twice", {"x": arg(0, "i32")}, {}, retval() > 100, name="late"),
        Probe(LIBRARY, "twice", {"x": arg(0, "i32")}, {}, name="some", sample=1 / 10),
        Probe(LIBRARY, "twice", {}, {}, name="mine", tid=threading.get_native_id()),
        Probe(LIBRARY, "twice", {}, {}, (arg(0) < 500) & (duration() >= 0), name="both"),
    ]
    with Watch(probes, sessions=sessions) as watch:
        in_threads(2, lambda: library.many(1000))
        library.many(10)
        watch.stop()
        all = 2010
        for number in range(len(probes)):
            counts = watch.counts(number)
            assert counts["hits"] == accounted(counts) == all
            table = probes[number].table
            assert len(watch.read(table)["t_ns"]) == counts["emitted"]
        assert watch.counts(0)["emitted"] == 1005
        assert watch.counts(1)["emitted"] == 2 * (1000 - 51)
        assert watch.counts(2)["sampled_out"] == all - 201
        assert watch.counts(3)["emitted"] == 10
        assert watch.counts(4)["emitted"] == 1010


def test_metrics_count_each_call_once(library: ctypes.CDLL, sessions: bool) -> None:
    probe = Probe(LIBRARY, "twice", exit={})
    asked = [
        Counter("calls_total", Probe(LIBRARY, "twice")),
        Histogram("twice_x", probe, arg(0, "i32"), "1"),
    ]
    with Watch(asked, sessions=sessions) as watch:
        in_threads(2, lambda: library.many(5000))
        watch.stop()
        maps = watch.session.shared.metrics
        assert HistogramMap(maps["calls_total"]).read().counts.tolist() == [10_000]
        buckets = HistogramMap(maps["twice_x"]).read()
        assert buckets.counts.sum() == 10_000
        assert buckets.counts[:8].tolist() == [2] * 8


def test_a_call_under_way_at_the_end_is_no_row(library: ctypes.CDLL, sessions: bool) -> None:
    flag = ctypes.c_int(0)
    probe = Probe(LIBRARY, "wait_for", exit={})
    with Watch([probe], sessions=sessions) as watch:
        thread = threading.Thread(target=library.wait_for, args=(ctypes.byref(flag),))
        thread.start()
        wait_until(lambda: watch.counts()["hits"])
        watch.stop()
        flag.value = 1
        thread.join()
        counts = watch.counts()
        assert counts["hits"] - accounted(counts) == 1
        assert not watch.rows("kernel_wait_for")


def test_a_call_that_began_before_is_no_row(library: ctypes.CDLL, sessions: bool) -> None:
    flags = (ctypes.c_int * 2)()
    thread = threading.Thread(target=library.begin_and_wait, args=(flags,))
    thread.start()
    wait_until(lambda: flags[1])
    with Watch([Probe(LIBRARY, "begin_and_wait", exit={})], sessions=sessions) as watch:
        flags[0] = 1
        thread.join()
        watch.stop()
        assert watch.counts()["hits"] == 0
        assert not watch.rows("kernel_begin_and_wait")


def test_probes_are_taken_off_while_they_are_hit(library: ctypes.CDLL, sessions: bool) -> None:
    stop, made = ctypes.c_int(0), []
    threads = [
        threading.Thread(target=lambda: made.append(library.until(ctypes.byref(stop))))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    try:
        for _ in range(5):
            with Watch([TWICE], sessions=sessions) as watch:
                wait_until(lambda: watch.counts()["emitted"])
                watch.stop()
                counts = watch.counts()
                under_way = counts["hits"] - accounted(counts)
                assert 0 <= under_way <= 2
                assert counts["lost_stash"] == 0  # none began that was not seen to return
                assert len(watch.read("kernel_twice")["x"]) == counts["emitted"]
    finally:
        stop.value = 1
        for thread in threads:
            thread.join()
    assert len(made) == 2


# --- which library --------------------------------------------------------------------


def test_a_library_that_is_loaded_later(tmp_path: Path) -> None:
    with Watch([Probe("libcalls-late.so", "twice", {"x": arg(0, "i32")})]) as watch:
        assert [member.label for member in watch.session.pending] == ["twice"]
        assert watch.session.attach_pending() == []
        late = load(build(tmp_path, "libcalls-late.so"))
        late.twice(1)
        (attached,) = watch.session.attach_pending()
        assert attached.library == str(tmp_path / "libcalls-late.so")
        assert not watch.session.pending
        late.twice(2)
        assert watch.session.attach_pending() == []
        watch.stop()
        assert [row["x"] for row in watch.rows("kernel_twice")] == [2]


def test_a_library_loaded_later_without_the_function_is_told(tmp_path: Path) -> None:
    with Watch([Probe("libcalls-other.so", "twise")]) as watch:
        other = load(build(tmp_path, "libcalls-other.so"))
        assert watch.session.attach_pending() == []
        (problem,) = watch.session.problems
        assert "twise" in problem
        assert "twice" in problem
        other.twice(2)


def test_a_symbol_in_two_libraries_is_probed_in_both(tmp_path: Path) -> None:
    paths = [build(tmp_path / name, f"libcalls-{name}.so") for name in ("one", "two")]
    one, two = map(load, paths)
    with Watch([Probe("libcalls-*.so", "twice", {"x": arg(0, "i32")})]) as watch:
        one.twice(1)
        two.twice(2)
        watch.stop()
        assert [row["x"] for row in watch.rows("kernel_twice")] == [1, 2]
        known = {attachment.library for attachment in watch.session.attachments}
        assert {str(path) for path in paths} <= known


@pytest.mark.parametrize("gone", ["deleted", "replaced"])
def test_a_library_that_is_deleted_or_replaced_while_it_is_mapped(
    tmp_path: Path, gone: str, sessions: bool
) -> None:
    path = build(tmp_path, "libcalls-old.so")
    old = load(path)

    def go() -> None:
        if gone == "deleted":
            path.unlink()
        else:
            build(tmp_path, "libcalls-old.so", "int filler; " + SOURCE)

    with Watch([Probe("libcalls-old.so", "twice", exit={})], sessions=sessions) as watch:
        old.twice(1)
        go()
        old.twice(2)  # the probe is on the file that is mapped
        watch.stop()
        assert len(watch.rows("kernel_twice")) == 2
    with Watch([Probe("libcalls-old.so", "twice", exit={})], sessions=sessions) as watch:
        old.twice(3)  # and finds it even now
        watch.stop()
        assert len(watch.rows("kernel_twice")) == 1


def test_a_library_that_is_unmapped_and_mapped_again(tmp_path: Path, sessions: bool) -> None:
    path = build(tmp_path, "libcalls-gone.so")
    _ctypes = pytest.importorskip("_ctypes")
    first = load(path)
    with Watch([Probe("libcalls-gone.so", "twice", exit={})], sessions=sessions) as watch:
        first.twice(1)
        _ctypes.dlclose(first._handle)
        load(path).twice(2)
        watch.stop()
        assert len(watch.rows("kernel_twice")) == 2


# --- what cannot be -------------------------------------------------------------------


def test_a_missing_function_is_named_with_near_ones(library: ctypes.CDLL) -> None:
    with pytest.raises(UnknownSymbolError, match=r"did you mean.*twice"):
        Session(Plan([Probe(LIBRARY, "twise")]), os.getpid())


def test_a_missing_tracepoint_is_named_with_near_ones() -> None:
    with pytest.raises(VidlabError, match="sched_switch"):
        Session(Plan([Tracepoint("sched", "sched_swich")]), os.getpid())


def test_a_process_that_is_not_there() -> None:
    with pytest.raises(InputError, match="no process"):
        Session(Plan([TWICE]), 2**22 - 1)


@pytest.mark.parametrize("ring_bytes", [0, 4095, 5000, 1 << 31, -4096])
def test_a_ring_of_no_possible_size(ring_bytes: int) -> None:
    with pytest.raises(InputError, match="power of two"):
        Session(Plan([TWICE]), os.getpid(), ring_bytes=ring_bytes)


def test_the_second_of_two_probes_fails_and_leaves_nothing(
    library: ctypes.CDLL, nothing_left: Callable[[], None]
) -> None:
    for broken in (Probe(LIBRARY, "twise"), Tracepoint("sched", "sched_switch", ["nonsense"])):
        with pytest.raises(VidlabError):
            Session(Plan([TWICE, "sched", broken]), os.getpid())
        nothing_left()
