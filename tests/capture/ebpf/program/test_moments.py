"""Entries of functions in the real kernel; and what every record has."""

from __future__ import annotations

import ctypes
import itertools
import os
import select
import struct
import threading
import time
from pathlib import Path

import pytest

from vidlab.capture.ebpf import (
    Probe,
    arg,
    cpu,
    deref,
    pid,
    retval,
    string,
    tid,
)
from vidlab.capture.ebpf.kernel import links
from vidlab.capture.ebpf.kernel.bpf import AttachType
from vidlab.capture.ebpf.program import calls, moments

from .lab import Kernel

pytestmark = [pytest.mark.needs("ebpf"), pytest.mark.usefixtures("nothing_left")]


def test_every_entry_is_a_record(library: ctypes.CDLL, library_path: Path) -> None:
    probe = Probe(
        "liblab.so",
        "add",
        {
            "a": arg(0, "i32"),
            "b": arg(1, "i8"),
            "less": arg(0, "i32") < arg(1, "i32"),
            "where": pid() * 1 + tid(),
            "on": cpu(),
            "always": 5,
            "word": "constant",
        },
    )
    with Kernel(library_path, {3: probe}) as kernel:
        kernel.attach_entry(3)
        before = time.monotonic_ns()
        for a in range(-200, 200):
            library.add(a, 7)
        after = time.monotonic_ns()
        records = kernel.records()
        assert records["a"].tolist() == list(range(-200, 200))
        assert set(records["b"]) == {7}
        assert records["less"].tolist() == [a < 7 for a in range(-200, 200)]
        assert set(records["where"]) == {os.getpid() + threading.get_native_id()}
        assert records["on"].tolist() == records["cpu"].tolist()
        assert set(records["probe"]) == {3}
        assert before <= records["t_ns"].min() <= records["t_ns"].max() <= after
        assert (records["t_ns"][1:] > records["t_ns"][:-1]).all()
        assert kernel.counts(3) == {"hits": 400, "emitted": 400}
        assert "always" not in records.dtype.names


def test_every_byte_of_a_record_is_written(library: ctypes.CDLL, library_path: Path) -> None:
    """The ring is filled with ones first; what a record does not say is zero."""
    members = {
        0: Probe("x", "length", {"text": string(arg(0), 64), "a": arg(1, "u8")}, name="t"),
        1: Probe("x", "add", {"b": arg(1, "u8"), "c": arg(0, "u16")}, name="t"),
        2: Probe("x", "inner", {"d": arg(0, "u8")}, {"text": string(arg(0), 64)}, name="t"),
    }
    ones = Probe("x", "widths", {f"f{i}": arg(0, "i8") * 1 for i in range(9)}, name="t")
    with Kernel(library_path, {**members, 5: ones}, ring_bytes=4096) as kernel:
        for number in (0, 1, 5):
            kernel.attach_entry(number)
        kernel.attach_call(2, links.has_sessions())
        assert kernel.ring is not None
        room = 4096 // kernel.ring.stride
        word = kernel.give_word(threading.get_native_id(), *(4 * [(1 << 64) - 1]))
        for _ in range(3 * room):
            library.widths(-1, 0, 0, 0, 0, 0)
            kernel.records()
        word[:] = [0, 0, 0, 0]
        for _ in range(3):
            library.length(b"ab")
            library.add(0x1234, 0xFF)
            library.inner(8)
        assert kernel.layout is not None
        fields = kernel.layout.dtype.fields
        common = {"t_ns", "tid", "pid", "cpu", "probe"}
        own = {0: {"text", "a"}, 1: {"b", "c"}, 2: {"d", "duration_ns"}}
        records = kernel.raw_records()
        assert len(records) == 9
        for record in records:
            (number,) = struct.unpack_from("<H", record, fields["probe"][1])
            for name in common | own[number]:
                dtype, at = fields[name][:2]
                value = record[at : at + dtype.itemsize]
                if name == "text":
                    assert value == b"ab".ljust(64, b"\0")
                record[at : at + dtype.itemsize] = bytes(dtype.itemsize)
            assert not any(record)


def test_conditions_thread_and_sample(library: ctypes.CDLL, library_path: Path) -> None:
    members = {
        0: Probe("x", "add", {"a": arg(0)}, when=(arg(0) > 5) & (arg(0) <= 10), name="t"),
        1: Probe("x", "add", {"a": arg(0)}, tid=threading.get_native_id(), name="t"),
        2: Probe("x", "add", {"a": arg(0)}, tid=1, name="t"),
        3: Probe("x", "add", {"a": arg(0)}, when=arg(0) % 2 == 1, sample=1 / 3, name="t"),
    }
    with Kernel(library_path, members) as kernel:
        for number in members:
            kernel.attach_entry(number)
        for a in range(20):
            library.add(a, 0)
        records = kernel.records()
        taken = {n: records[records["probe"] == n]["a"].tolist() for n in members}
        assert taken == {0: [6, 7, 8, 9, 10], 1: list(range(20)), 2: [], 3: [1, 7, 13, 19]}
        assert kernel.counts(0) == {"hits": 20, "filtered": 15, "emitted": 5}
        assert kernel.counts(1) == {"hits": 20, "emitted": 20}
        assert kernel.counts(2) == {"hits": 20, "filtered": 20}
        assert kernel.counts(3) == {"hits": 20, "filtered": 10, "sampled_out": 6, "emitted": 4}


def test_threads_are_sampled_together(library: ctypes.CDLL, library_path: Path) -> None:
    probe = Probe("x", "add", {"a": arg(0)}, sample=1 / 10)
    with Kernel(library_path, {0: probe}) as kernel:
        kernel.attach_entry(0)
        add = ctypes.cast(library.add, ctypes.c_void_p)
        threads = [threading.Thread(target=library.many, args=(add, 1003)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(kernel.records()) == 402  # the first of each ten, of 4,012
        assert kernel.counts() == {"hits": 4012, "sampled_out": 3610, "emitted": 402}


def test_the_reader_is_woken_as_the_ring_fills(library: ctypes.CDLL, library_path: Path) -> None:
    with Kernel(library_path, {0: Probe("x", "add")}, ring_bytes=1 << 14) as kernel:
        kernel.attach_entry(0)
        assert kernel.ring is not None
        with select.epoll() as poll:
            poll.register(kernel.ring, select.EPOLLIN | select.EPOLLET)
            poll.poll(0)
            woken = []
            for number in range((1 << 14) // kernel.ring.stride):
                library.add(0, 0)
                if poll.poll(0):
                    woken.append(number)
        assert len(woken) in (7, 8)
        step = (1 << 14) / 8 / kernel.ring.stride
        assert all(abs(b - a - step) <= 1 for a, b in itertools.pairwise(woken))


# --- numbers from cookies ---------------------------------------------------------------


@pytest.mark.parametrize("kind", ["entry", "session", "pair"])
def test_one_program_serves_several_probes(
    library: ctypes.CDLL, library_path: Path, kind: str
) -> None:
    if kind == "session" and not links.has_sessions():
        pytest.skip("sessions came with Linux 6.13")
    exit = None if kind == "entry" else {"result": retval()}
    every = {"when": arg(0) > 0, "sample": 1 / 2}
    members = {
        number: Probe("x", symbol, {"a": arg(0)}, exit, name="t", **every)
        for number, symbol in {3: "add", 4: "inner", 5: "outer"}.items()
    }
    with Kernel(library_path, members) as kernel:
        context = kernel.context(3, index=None)
        if kind == "entry":
            programs = [(kernel.load(moments.entry(context, members[3])), {})]
        elif kind == "session":
            code = calls.call_session(context, members[3])
            programs = [(kernel.load(code, AttachType.UPROBE_SESSION), {"session": True})]
        else:
            begin, end = calls.call_pair(context, members[3])
            programs = [(kernel.load(end), {"returns": True}), (kernel.load(begin), {})]
        for number, probe in members.items():
            for program, options in programs:
                kernel.attach(program, probe.symbol, 9 << 32 | number, **options)
        for a in range(5):
            library.add(a, 1)
            library.outer(a)
        records = kernel.records()
        assert {n: records[records["probe"] == n]["a"].tolist() for n in members} == {
            3: [1, 3],
            4: [1, 3, 5],
            5: [1, 3],
        }
        for number, (filtered, out) in {3: (1, 2), 4: (0, 2), 5: (1, 2)}.items():
            counts = kernel.counts(number)
            counts.pop("orphans", None)
            assert counts.pop("filtered", 0) == filtered
            assert counts == {"hits": 5, "sampled_out": out, "emitted": 5 - filtered - out}


# --- PID namespaces --------------------------------------------------------------------


def test_processes_are_numbered_as_their_namespace_does(
    library: ctypes.CDLL, library_path: Path
) -> None:
    status = Path("/proc/self/ns/pid").stat()
    probe = Probe("x", "add", {"a": arg(0), "process": pid(), "thread": tid()})
    ours = status.st_dev, status.st_ino
    with Kernel(library_path, {0: probe}, namespace=ours) as kernel:
        kernel.attach_entry(0)
        kernel.give_word(threading.get_native_id(), 4, 5, 6, 4)
        word = kernel.give_word(threading.get_native_id(), 4, 5, 6, 4)
        library.add(1, 2)
        (record,) = kernel.records()
        assert (record["pid"], record["tid"]) == (os.getpid(), threading.get_native_id())
        assert (record["process"], record["thread"]) == (record["pid"], record["tid"])
        assert record["span"] == word[0]
    other = status.st_dev, status.st_ino + 1
    with Kernel(library_path, {0: probe}, namespace=other) as kernel:
        kernel.attach_entry(0)
        kernel.give_word(0, 4, 5, 6, 4)
        library.add(1, 2)
        (record,) = kernel.records()
        assert (record["pid"], record["tid"]) == (0, 0)
    with Kernel(
        library_path,
        {0: Probe("x", "add", {}, {"v": deref(arg(0))})},
        namespace=other,
        targets=True,
    ) as kernel:
        kernel.attach_call(0, session=False)
        kernel.maps["targets"].update(os.getpid().to_bytes(4, "little"), bytes(8))
        library.add(1, 2)
        assert len(kernel.records()) == 0
