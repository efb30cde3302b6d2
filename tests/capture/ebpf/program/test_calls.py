"""Calls in the real kernel: N calls are N records, with the right values."""

from __future__ import annotations

import ctypes
import os
import struct
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from vidlab.capture.ebpf import Probe, arg, deref, duration, retval, string

from .lab import Kernel

pytestmark = [pytest.mark.needs("ebpf"), pytest.mark.usefixtures("nothing_left")]

CALLS = 500


def call_of(symbol: str, entry: dict | None = None, exit: dict | None = None, **more) -> Probe:
    return Probe("liblab.so", symbol, entry or {}, exit or {}, **more)


def test_every_call_is_a_record_with_its_values(
    library: ctypes.CDLL, library_path: Path, session: bool
) -> None:
    probe = call_of(
        "allocate", {"size_bytes": arg(1)}, {"address": deref(arg(0)), "status": retval()}
    )
    with Kernel(library_path, {0: probe}) as kernel:
        kernel.attach_call(0, session)
        expected, between = [], []
        for size in range(CALLS):
            out = ctypes.c_void_p(12345)
            before = time.monotonic_ns()
            status = library.allocate(ctypes.byref(out), ctypes.c_size_t(size))
            between.append((before, time.monotonic_ns()))
            expected.append((size, out.value or 0, status))
        records = kernel.records()
        assert records[["size_bytes", "address", "status"]].tolist() == expected
        assert kernel.counts() == {"hits": CALLS, "emitted": CALLS}
        assert kernel.under_way() == 0
        begin = records["t_ns"]
        end = begin + records["duration_ns"]
        assert all(
            before <= b <= e <= after
            for (before, after), b, e in zip(between, begin, end, strict=True)
        )
        assert set(records["pid"]) == {os.getpid()}
        assert set(records["tid"]) == {threading.get_native_id()}
        assert set(records["probe"]) == {0}
        assert set(records["cpu"]) <= set(range(os.cpu_count() or 1))
        assert not records["span"].any()


def test_arguments_have_their_types_sign_and_zero_extended(
    library: ctypes.CDLL, library_path: Path, session: bool
) -> None:
    types = ("i8", "u8", "i16", "u16", "i32", "u32")
    entry = {f"at_entry_{type}": arg(i, type) for i, type in enumerate(types)}
    exit = {f"at_exit_{type}": arg(i, type) for i, type in enumerate(types)}
    exit["wide"] = arg(0, "i8") + 0
    exit["result"] = retval("i64")
    with Kernel(library_path, {0: call_of("widths", entry, exit)}) as kernel:
        kernel.attach_call(0, session)
        cases = [
            (-1, 255, -2, 65535, -3, 0xFFFFFFFF),
            (-128, 0, -(1 << 15), 1, -(1 << 31), 1 << 31),
            (127, 128, 1, 2, 3, 4),
        ]
        results = [library.widths(*case) for case in cases]
        records = kernel.records()
        for record, case, result in zip(records, cases, results, strict=True):
            assert tuple(record[f"at_entry_{type}"] for type in types) == case
            assert tuple(record[f"at_exit_{type}"] for type in types) == case
            assert record["wide"] == case[0]
            assert record["result"] == result


def test_recursion_is_told_call_by_call(
    library: ctypes.CDLL, library_path: Path, session: bool
) -> None:
    probe = call_of("recurse", {"depth": arg(0, "i32")}, {"below": retval()})
    with Kernel(library_path, {0: probe}) as kernel:
        kernel.attach_call(0, session)
        assert library.recurse(20) == 21
        records = kernel.records()
        # The innermost returns first.
        assert records["depth"].tolist() == list(range(21))
        assert records["below"].tolist() == list(range(1, 22))
        assert np.all(np.diff(records["t_ns"]) < 0)
        assert np.all(np.diff(records["duration_ns"]) > 0)
        assert kernel.counts() == {"hits": 21, "emitted": 21}


def test_nested_calls_of_two_probes_do_not_mix(
    library: ctypes.CDLL, library_path: Path, session: bool
) -> None:
    members = {
        0: call_of("outer", {"a": arg(0, "i32")}, {"result": retval()}, name="both"),
        7: call_of("inner", {"a": arg(0, "i32")}, {"result": retval()}, name="both"),
        8: call_of("inner", {"b": arg(0, "i32")}, {"result": retval()}, name="both"),
    }
    with Kernel(library_path, members) as kernel:
        for number in members:
            kernel.attach_call(number, session)
        for a in range(CALLS):
            assert library.outer(a) == 2 * a + 3
        records = kernel.records()
        for number, expected in {
            0: [(a, 0, 2 * a + 3) for a in range(CALLS)],
            7: [(a + 1, 0, 2 * a + 2) for a in range(CALLS)],
            8: [(0, a + 1, 2 * a + 2) for a in range(CALLS)],
        }.items():
            mine = records[records["probe"] == number]
            assert mine[["a", "b", "result"]].tolist() == expected
            assert kernel.counts(number) == {"hits": CALLS, "emitted": CALLS}


def test_threads_do_not_mix_and_carry_their_spans(
    library: ctypes.CDLL, library_path: Path, session: bool
) -> None:
    probe = call_of("add", {"a": arg(0, "i32"), "b": arg(1, "i32")}, {"sum": retval()})
    with Kernel(library_path, {0: probe}, ring_bytes=1 << 22) as kernel:
        kernel.attach_call(0, session)
        spans: dict[int, int] = {}

        def work(number: int) -> None:
            tid = threading.get_native_id()
            spans[tid] = number
            word = kernel.give_word(tid, 0, 0, 0, 0)
            for i in range(CALLS):
                span = number << 32 | i
                word[:] = [span, span + 1, number, span]
                library.add(i, number)
            word[3] = 1

        threads = [threading.Thread(target=work, args=(n,)) for n in (1, 2, 3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        records = kernel.records()
        assert len(records) == 3 * CALLS
        for tid, number in spans.items():
            mine = records[records["tid"] == tid]
            assert mine["a"].tolist() == list(range(CALLS))
            assert mine["sum"].tolist() == [i + number for i in range(CALLS)]
            assert mine["span"].tolist() == [number << 32 | i for i in range(CALLS)]
            assert mine["frame"].tolist() == [(number << 32 | i) + 1 for i in range(CALLS)]
            assert set(mine["labels"]) == {number}


def test_a_word_that_is_being_written_or_not_there_is_none(
    library: ctypes.CDLL, library_path: Path, session: bool
) -> None:
    with Kernel(library_path, {0: call_of("add")}) as kernel:
        kernel.attach_call(0, session)
        tid = threading.get_native_id()
        word = kernel.give_word(tid, 5, 6, 7, 5)
        library.add(1, 2)
        word[0] = 9
        library.add(1, 2)
        kernel.point_word(tid, 0xDEAD0000)
        library.add(1, 2)
        records = kernel.records()
        assert records[["span", "frame", "labels"]].tolist() == [(5, 6, 7), (0, 0, 0), (0, 0, 0)]


def test_strings_are_cut_and_clean(library: ctypes.CDLL, library_path: Path, session: bool) -> None:
    probe = call_of(
        "length",
        {"name": string(arg(0), 16)},
        {"again": string(arg(0), 32), "length": retval("u64")},
    )
    with Kernel(library_path, {0: probe}, ring_bytes=4096) as kernel:
        kernel.attach_call(0, session)
        texts = [b"", b"short", b"exactly fifteen", b"a" * 16, b"x" * 200, b"\xff\xfe"] * 20
        for text in texts:
            assert library.length(text) == len(text)
            (record,) = kernel.records()
            # NumPy drops zeros at the end: these are all the bytes that are not.
            assert record["name"] == text[:15]
            assert record["again"] == text[:31]
            assert record["length"] == len(text)


@pytest.mark.parametrize("size", [232, 256])
def test_what_is_larger_than_the_stack_is_kept_in_place(
    library: ctypes.CDLL, library_path: Path, session: bool, size: int
) -> None:
    probe = call_of(
        "length",
        {"name": string(arg(0), size), "other": string(arg(0), 128), "third": arg(0)},
        {"length": retval("u64")},
    )
    with Kernel(library_path, {0: probe}) as kernel:
        assert kernel.context(0).stashes_in_place
        kernel.attach_call(0, session)
        texts = [b"y" * 500, b"brief"] * 3
        buffers = [ctypes.create_string_buffer(text) for text in texts]
        word = kernel.give_word(threading.get_native_id(), 5, 6, 7, 5)
        before = time.monotonic_ns()
        for buffer in buffers:
            library.length(buffer)
        after = time.monotonic_ns()
        records = kernel.records()
        assert records["name"].tolist() == [text[: size - 1] for text in texts]
        assert records["other"].tolist() == [text[:127] for text in texts]
        assert records["third"].tolist() == [ctypes.addressof(buffer) for buffer in buffers]
        assert records["length"].tolist() == list(map(len, texts))
        assert set(records["span"]) == {word[0]}
        assert np.all(records["t_ns"] > before)
        assert np.all(records["duration_ns"] > 0)
        assert np.all(records["t_ns"] + records["duration_ns"] < after)
        assert kernel.counts() == {"hits": len(texts), "emitted": len(texts)}
        assert kernel.under_way() == 0


def test_conditions_at_entry_and_at_return(
    library: ctypes.CDLL, library_path: Path, session: bool
) -> None:
    members = {
        0: call_of("add", {"a": arg(0, "i32")}, {"s": retval()}, when=arg(0, "i32") < -3, name="t"),
        1: call_of("add", {"a": arg(0, "i32")}, {"s": retval()}, when=retval() == 0, name="t"),
        2: call_of("add", {"a": arg(0, "i32")}, {}, when=duration() < 0, name="t"),
        3: call_of("add", {"a": arg(0, "i32")}, {}, tid=threading.get_native_id(), name="t"),
        4: call_of("add", {"a": arg(0, "i32")}, {}, tid=1, name="t"),
    }
    numbers = range(-10, 10)
    with Kernel(library_path, members) as kernel:
        for number in members:
            kernel.attach_call(number, session)
        for a in numbers:
            library.add(a, 2)
        records = kernel.records()
        by_probe = {n: records[records["probe"] == n]["a"].tolist() for n in members}
        expected = {0: list(range(-10, -3)), 1: [-2], 2: [], 3: list(numbers), 4: []}
        assert by_probe == expected
        for number, kept in expected.items():
            counts = kernel.counts(number)
            counts.pop("orphans", None)  # of a pair: what was kept of those that were filtered
            lost = {"filtered": 20 - len(kept)} if len(kept) < 20 else {}
            emitted = {"emitted": len(kept)} if kept else {}
            assert counts == {"hits": 20, **lost, **emitted}
        assert kernel.under_way() == 0


def test_one_of_n_exactly(library: ctypes.CDLL, library_path: Path, session: bool) -> None:
    members = {
        0: call_of("add", {"a": arg(0, "i32")}, sample=1 / 7, name="t"),
        1: call_of("add", {"a": arg(0, "i32")}, sample=1 / 7, when=retval() % 2 == 0, name="t"),
    }
    with Kernel(library_path, members) as kernel:
        for number in members:
            kernel.attach_call(number, session)
        for a in range(100):
            library.add(a, 0)
        records = kernel.records()
        assert records[records["probe"] == 0]["a"].tolist() == list(range(0, 100, 7))
        assert records[records["probe"] == 1]["a"].tolist() == list(range(0, 100, 14))
        assert kernel.counts(1) == {"hits": 100, "filtered": 50, "sampled_out": 42, "emitted": 8}
        counts = kernel.counts(0)
        counts.pop("orphans", None)
        assert counts == {"hits": 100, "sampled_out": 85, "emitted": 15}


def test_a_full_ring_counts_what_it_loses(
    library: ctypes.CDLL, library_path: Path, session: bool
) -> None:
    probe = call_of("add", {"a": arg(0, "i32")})
    with Kernel(library_path, {0: probe}, ring_bytes=4096) as kernel:
        kernel.attach_call(0, session)
        for a in range(CALLS):
            library.add(a, 0)
        records = kernel.records()
        assert 0 < len(records) < CALLS
        assert records["a"].tolist() == list(range(len(records)))
        lost = CALLS - len(records)
        assert kernel.counts() == {"hits": CALLS, "emitted": len(records), "lost_ring": lost}
        assert kernel.under_way() == 0


def test_a_full_stash_counts_what_it_loses(
    library: ctypes.CDLL, library_path: Path, session: bool
) -> None:
    probe = call_of("recurse", {"n": arg(0, "i32")})
    with Kernel(library_path, {0: probe}, stash_entries=4) as kernel:
        kernel.attach_call(0, session)
        library.recurse(9)
        counts = kernel.counts()
        orphans = counts.pop("orphans", 0)
        emitted = counts["emitted"]
        # A prealloacted hash has a few more elements than were asked for, some for each CPU.
        assert 4 <= emitted < 10
        assert counts == {"hits": 10, "emitted": emitted, "lost_stash": 10 - emitted}
        assert orphans == (0 if session else 10 - emitted)
        assert len(kernel.records()) == emitted
        assert kernel.under_way() == 0


def test_calls_that_never_return_are_known(
    library: ctypes.CDLL, library_path: Path, session: bool
) -> None:
    probe = call_of("never_returns", {"n": arg(0, "i32")})
    with Kernel(library_path, {0: probe}) as kernel:
        kernel.attach_call(0, session)
        for n in (1, 1, 1, 0, 0):
            assert library.leap(n) == n
        counts = kernel.counts()
        assert kernel.records()["n"].tolist() == [0, 0]
        # In a pair a later call at the same place of the stack takes the place of the first.
        left = counts["hits"] - counts["emitted"] - counts.get("lost_stash", 0)
        assert counts["hits"] == 5
        assert counts["emitted"] == 2
        assert kernel.under_way() == left
        assert counts.get("lost_stash", 0) == (0 if session else 3)


@pytest.mark.parametrize("room", [200, 400], ids=["on the stack", "in place"])
def test_what_is_kept_of_a_call(
    library: ctypes.CDLL, library_path: Path, session: bool, room: int
) -> None:
    probe = call_of("begin_and_wait", {"flags": arg(0)}, {"result": retval()})
    with Kernel(library_path, {0: probe}, stash_room=room) as kernel:
        kernel.attach_call(0, session)
        flags = (ctypes.c_int * 2)()
        thread = threading.Thread(target=library.begin_and_wait, args=(flags,))
        before = time.monotonic_ns()
        thread.start()
        while not flags[1]:
            time.sleep(0)
        ((key, value),) = kernel.maps["stash"].items()
        flags[0] = 1
        thread.join()
        (record,) = kernel.records()
    identity, token = struct.unpack("<QQ", key)
    assert identity == os.getpid() << 32 | int(record["tid"])
    t_ns, *word = struct.unpack_from("<QQQQ", value)
    assert before < t_ns == record["t_ns"]
    assert token
    assert word == [0, 0, 0]
    address = ctypes.addressof(flags)
    assert struct.unpack_from("<Q", value, 32) == (address,)
    assert struct.unpack_from("<Q", value, 80) == (address,)
    assert len(value) == room
    assert not any(value[88:])


def test_a_probe_that_comes_while_a_call_is_under_way(
    library: ctypes.CDLL, library_path: Path, session: bool
) -> None:
    with Kernel(library_path, {0: call_of("begin_and_wait", {}, {"flag": retval()})}) as kernel:
        flags = (ctypes.c_int * 2)()
        thread = threading.Thread(target=library.begin_and_wait, args=(flags,))
        thread.start()
        while not flags[1]:
            time.sleep(0)
        kernel.attach_call(0, session)
        flags[0] = 1
        thread.join()
        library.begin_and_wait(flags)
        assert kernel.records()["flag"].tolist() == [1]
        assert kernel.counts() == {"hits": 1, "emitted": 1}


def test_only_targets_are_hits(library: ctypes.CDLL, library_path: Path, session: bool) -> None:
    with Kernel(library_path, {0: call_of("add", {"a": arg(0)})}, targets=True) as kernel:
        kernel.attach_call(0, session)
        library.add(1, 0)
        assert kernel.counts().get("hits", 0) == 0
        kernel.maps["targets"].update(os.getpid().to_bytes(4, "little"), bytes(8))
        thread = threading.Thread(target=library.add, args=(2, 0))
        thread.start()
        thread.join()
        assert kernel.records()["a"].tolist() == [2]
        assert kernel.counts() | {"orphans": 0} == {"hits": 1, "emitted": 1, "orphans": 0}
