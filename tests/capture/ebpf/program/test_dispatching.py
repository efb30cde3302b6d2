"""Dispatchers: programs that are exchanged while they run, and places without a program."""

from __future__ import annotations

import ctypes
import os
import struct
import threading
import time
from pathlib import Path

import pytest

from vidlab.capture.ebpf import Probe, arg, retval
from vidlab.capture.ebpf.kernel.bpf import AttachType
from vidlab.capture.ebpf.program import calls, dispatching, moments

from .lab import Kernel

pytestmark = [pytest.mark.needs("ebpf"), pytest.mark.usefixtures("nothing_left")]


def put(kernel: Kernel, number: int, program) -> None:
    kernel.maps["programs"].update(struct.pack("<I", number), struct.pack("<I", program.fd))


def test_one_dispatcher_serves_many_probes(library: ctypes.CDLL, library_path: Path) -> None:
    members = {
        2: Probe("x", "add", {"a": arg(0)}, name="t"),
        5: Probe("x", "inner", {"b": arg(0)}, name="t"),
    }
    with Kernel(library_path, members) as kernel:
        program = kernel.load(dispatching.dispatcher())
        for number, probe in members.items():
            kernel.attach(program, probe.symbol, cookie=1 << 40 | number)
        library.add(1, 2)
        assert kernel.counts(2) == {"hits": 1, "lost_stash": 1}
        for number, probe in members.items():
            put(kernel, number, kernel.load(moments.entry(kernel.context(number), probe)))
        library.add(3, 4)
        library.inner(5)
        assert kernel.records()[["probe", "a", "b"]].tolist() == [(2, 3, 0), (5, 0, 5)]
        assert kernel.counts(2) == {"hits": 2, "lost_stash": 1, "emitted": 1}
        assert kernel.counts(5) == {"hits": 1, "emitted": 1}


def test_a_dispatcher_of_one_probe_needs_no_cookie(
    library: ctypes.CDLL, library_path: Path
) -> None:
    probe = Probe("x", "add", {"a": arg(0)})
    with Kernel(library_path, {3: probe}) as kernel:
        kernel.attach(kernel.load(dispatching.dispatcher(number=3)), "add")
        put(kernel, 3, kernel.load(moments.entry(kernel.context(3), probe)))
        library.add(3, 4)
        assert kernel.records()["a"].tolist() == [3]


def session_of(kernel: Kernel) -> object:
    code = calls.call_session(kernel.context(0), kernel.members[0])
    return kernel.load(code, AttachType.UPROBE_SESSION)


def test_a_call_goes_on_through_an_exchange(
    library: ctypes.CDLL, library_path: Path, session: bool
) -> None:
    probe = Probe("x", "wait_for", {"flag": arg(0)}, {"result": retval()})
    with Kernel(library_path, {0: probe}) as kernel:
        if session:
            put(kernel, 0, session_of(kernel))
            code = dispatching.dispatcher(dispatching.SESSION)
            program = kernel.load(code, AttachType.UPROBE_SESSION)
            kernel.attach(program, "wait_for", session=True)
        else:
            begin, end = calls.call_pair(kernel.context(0), probe)
            kernel.attach(kernel.load(end), "wait_for", returns=True)
            put(kernel, 0, kernel.load(begin))
            kernel.attach(kernel.load(dispatching.dispatcher()), "wait_for")
        flag = ctypes.c_int(0)
        thread = threading.Thread(target=library.wait_for, args=(ctypes.byref(flag),))
        thread.start()
        while not kernel.under_way():
            pass
        if session:
            put(kernel, 0, session_of(kernel))
        flag.value = 6
        thread.join()
        assert kernel.records()["result"].tolist() == [6]
        assert kernel.counts() == {"hits": 1, "emitted": 1}


def test_returns_without_a_program_are_counted(
    library: ctypes.CDLL, library_path: Path, session: bool
) -> None:
    probe = Probe("x", "wait_for", {}, {})
    with Kernel(library_path, {0: probe}) as kernel:
        begin, _ = calls.call_pair(kernel.context(0), probe)
        if session:
            put(kernel, 0, session_of(kernel))
            code = dispatching.dispatcher(dispatching.SESSION)
            program = kernel.load(code, AttachType.UPROBE_SESSION)
            kernel.attach(program, "wait_for", session=True)
        else:
            kernel.attach(
                kernel.load(dispatching.dispatcher(dispatching.RETURNS)), "wait_for", returns=True
            )
            kernel.attach(kernel.load(begin), "wait_for")
        flag = ctypes.c_int(0)
        thread = threading.Thread(target=library.wait_for, args=(ctypes.byref(flag),))
        thread.start()
        while not kernel.under_way():
            pass
        if session:
            kernel.maps["programs"].delete(bytes(4))
        flag.value = 1
        thread.join()
        if session:
            assert kernel.counts() == {"hits": 1, "lost_stash": 1}
            # Without a program a call's return is not looked at.
            library.wait_for(ctypes.byref(flag))
            assert kernel.counts() == {"hits": 2, "lost_stash": 2}
        else:
            assert kernel.counts() == {"hits": 1, "orphans": 1}


def test_nothing_is_lost_or_doubled_by_exchanges(
    library: ctypes.CDLL, library_path: Path, session: bool
) -> None:
    """Swaps under load: each call is in one version's records or in the ring's losses."""
    probe = Probe("x", "add", {"a": arg(0, "u32")}, {"sum": retval()})
    parts, calls_made, threads_count = 20, 1000, 2
    with Kernel(library_path, {0: probe}, ring_bytes=1 << 24) as kernel:
        if session:
            code = dispatching.dispatcher(dispatching.SESSION)
            versions = [session_of(kernel) for _ in range(2)]
            put(kernel, 0, versions[0])
            program = kernel.load(code, AttachType.UPROBE_SESSION)
            kernel.attach(program, "add", session=True)
        else:
            codes = [calls.call_pair(kernel.context(0), probe) for _ in range(2)]
            kernel.attach(kernel.load(codes[0][1]), "add", returns=True)
            versions = [kernel.load(begin) for begin, _ in codes]
            put(kernel, 0, versions[0])
            kernel.attach(kernel.load(dispatching.dispatcher()), "add")
        add = ctypes.cast(library.add, ctypes.c_void_p)
        swaps = 0

        def work() -> None:
            for _ in range(parts):
                before = swaps
                library.many(add, calls_made)
                while swaps == before:
                    time.sleep(0)

        threads = [threading.Thread(target=work) for _ in range(threads_count)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            put(kernel, 0, versions[swaps % 2])
            swaps += 1
        for thread in threads:
            thread.join()
        records = kernel.records()
        total = parts * calls_made * threads_count
        assert swaps >= parts
        assert kernel.counts() == {"hits": total, "emitted": total}
        assert len(records) == total
        expected = list(range(calls_made)) * parts
        for thread_id in set(records["tid"]):
            assert records[records["tid"] == thread_id]["a"].tolist() == expected
        assert os.getpid() in records["pid"]
