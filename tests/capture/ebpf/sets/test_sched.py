"""The set `sched` in the real kernel: its rows are what /proc counts of the same threads."""

from __future__ import annotations

import itertools
import json
import shutil
import statistics
import subprocess
import sys

import pytest

from vidlab.capture.ebpf.plan import Plan
from vidlab.capture.ebpf.reading.counters import COUNTS, Counts
from vidlab.capture.ebpf.session import Session
from vidlab.capture.ebpf.sets import sched

from ..lab import wait_until
from .children import Child, kept
from .conftest import Heard, Listen, Row

pytestmark = [pytest.mark.needs("ebpf"), pytest.mark.usefixtures("nothing_left")]

TABLE = "kernel_offcpu"

#: The kernel reports no event to a program that interrupts another one, or a system call on a
#: map. What has to be seen whole is done so often at most, with a process of its own each time.
TRIES = 5

#: In the child: what the kernel counts of the current thread, and a moment at which it is true.
COUNTED = """
def counted():
    def read():
        status = dict(line.split(":", 1) for line in open("/proc/thread-self/status"))
        kinds = ("voluntary_ctxt_switches", "nonvoluntary_ctxt_switches")
        waited = int(open("/proc/thread-self/schedstat").read().split()[1])
        return [int(status[kind]) for kind in kinds] + [waited]
    while True:  # until it was not switched out between the two
        before, now, after = read(), time.monotonic_ns(), read()
        if before == after:
            return [now, *before]
def spin(seconds):
    end = time.thread_time() + seconds
    while time.thread_time() < end: pass
"""

#: Sleeps, waits for a lock and for a pipe, and shares its CPU with another process.
EVERYTHING = (
    COUNTED
    + """
step()
for wait in ("sleep", "lock", "pipe", "cpu"):
    moments = [counted()]
    if wait == "sleep":
        for _ in range(40):
            time.sleep(0.001)
            moments.append(counted())
    elif wait == "lock":
        lock = threading.Lock()
        for _ in range(20):
            lock.acquire()
            threading.Timer(0.002, lock.release).start()
            lock.acquire()
            lock.release()
            moments.append(counted())
    elif wait == "pipe":
        r, w = os.pipe()
        def feed():
            for _ in range(30):
                time.sleep(0.001)
                os.write(w, b"x")
        feeding = threading.Thread(target=feed)
        feeding.start()
        for _ in range(30):
            os.read(r, 1)
            moments.append(counted())
        feeding.join()
    else:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        other = os.fork()
        if not other:
            spin(0.3)
            os._exit(0)
        for _ in range(30):
            spin(0.01)
            moments.append(counted())
        os.waitpid(other, 0)
    moments.append(counted())
    step(wait, moments)
"""
)


def between(rows: list[Row], tid: int, begin: int, end: int) -> list[Row]:
    return [row for row in rows if row["tid"] == tid and begin < row["t_ns"] < end]


def check(row: Row) -> None:
    """What is true of every wait."""
    end = row["t_ns"] + row["duration_ns"]
    if row["state"] == "preempted":
        assert row["state_code"] in (0, 0x100)
        assert row["wakeup_ns"] is None
        assert row["waker_tid"] is None
        assert row["runqueue_ns"] == row["duration_ns"] > 0
    elif row["wakeup_ns"] is None:  # the kernel did not report it
        assert row["runqueue_ns"] is None
    else:
        assert row["t_ns"] <= row["wakeup_ns"] <= end
        assert row["runqueue_ns"] == end - row["wakeup_ns"]


def test_every_switch_is_a_row_and_the_waits_for_a_cpu_add_up(listen: Listen) -> None:
    told: dict[str, list[list[int]]] = {}
    with Child(EVERYTHING) as child, listen("sched", target=child.pid) as heard:
        for _ in range(4):
            wait, moments = child.go()
            told[wait] = moments
        child.end()
        rows, lost = all_rows(heard)
    for row in rows:
        check(row)
    # It may not report every wake-up either: those that interrupt another program it does not.
    assert sum(row["runqueue_ns"] is None for row in rows) < len(rows) / 10
    assert {row["pid"] for row in rows} == {child.pid}
    exact = 0
    for wait, moments in told.items():
        begin, end = moments[0], moments[-1]
        during = between(rows, child.pid, begin[0], end[0])
        kinds = {row["state"] for row in during}
        assert ("preempted" if wait == "cpu" else "sleeping") in kinds
        preempted = sum(row["state"] == "preempted" for row in during)
        missing = (end[1] - begin[1]) - (len(during) - preempted), end[2] - begin[2] - preempted
        # The kernel may not report all switches to this thread; then that many are lost.
        assert min(missing) >= 0, wait
        assert sum(missing) <= lost, wait
        if any(missing) or any(row["runqueue_ns"] is None for row in during):
            continue
        exact += 1
        # The kernel takes its times as it locks the run queue, and we take ours a moment after:
        # some µs for each wait. A CPU of a virtual machine may be taken away in between, for any
        # time: not so in most of the waits.
        off = []
        for before, after in itertools.pairwise(moments):
            part = between(rows, child.pid, before[0], after[0])
            waited = sum(row["runqueue_ns"] for row in part)
            off.append(abs(waited - (after[3] - before[3])) / max(len(part), 1))
        assert statistics.median(off) < 100_000, wait
    assert exact
    begin, end = told["cpu"][0], told["cpu"][-1]
    assert (
        sum(
            row["runqueue_ns"]
            for row in between(rows, child.pid, begin[0], end[0])
            if row["state"] == "preempted"
        )
        > 0.1e9
    )


def test_who_woke_it_and_when(listen: Listen) -> None:
    code = """
r, w = os.pipe()
tids = []
def wait():
    tids.append(threading.get_native_id())
    os.read(r, 1)
thread = threading.Thread(target=wait)
thread.start()
while not tids: time.sleep(0.001)
until_reading(tids[0], r)
step(tids[0], threading.get_native_id())
first_until = time.monotonic_ns()
os.write(w, b"x")
thread.join()
def release():
    until_reading(tids[0], r)
    before = time.monotonic_ns()
    os.write(w, b"x")
    step(threading.get_native_id(), before, first_until)
tids.clear()
waiting, releasing = threading.Thread(target=wait), threading.Thread(target=release)
waiting.start()
while not tids: time.sleep(0.001)
releasing.start()
releasing.join()
"""
    for _ in range(TRIES):
        with Child(code) as child, listen("sched", target=child.pid) as heard:
            first, main = child.told
            by, before, first_until = child.go()
            child.end()
            rows, lost = all_rows(heard)
        # The first wait had begun before anybody looked.
        assert not [row for row in rows if row["tid"] == first and row["t_ns"] < first_until]
        ended = [row for row in rows if before < (row["wakeup_ns"] or 0)]
        woken = [row for row in ended if row["waker_tid"] == by and row["tid"] != main]
        if woken and not lost:
            break
    (row,) = [row for row in woken if row["t_ns"] < before]
    assert row["state"] == "sleeping"
    new = [row for row in rows if row["state"] == "new"]
    assert {row["waker_tid"] for row in new} == {main}
    assert len(new) == 2


def test_new_threads_are_told_from_their_creation(listen: Listen) -> None:
    code = """
step()
times, tids = [], []
for _ in range(20):
    before = time.monotonic_ns()
    thread = threading.Thread(target=lambda: tids.append(threading.get_native_id()))
    thread.start()
    times.append([before, time.monotonic_ns()])
    thread.join()
if not os.fork():
    os._exit(0)
os.wait()
step(times, tids)
"""
    with Child(code) as child, listen("sched", target=child.pid) as heard:
        times, tids = child.go()
        child.end()
        every, lost = all_rows(heard)
    rows = {row["tid"]: row for row in every if row["state"] == "new"}
    assert rows.keys() <= set(tids)
    assert len(rows) >= len(tids) - lost > 0
    for tid, (before, after) in zip(tids, times, strict=True):
        row = rows.get(tid)
        if row is None:
            continue
        assert before < row["t_ns"] < after
        assert row["waker_tid"] == row["pid"] == child.pid
        assert row["state_code"] == -1


def test_rows_carry_the_span_of_the_thread_that_waited(listen: Listen) -> None:
    code = """
words = [Word() for _ in range(2)]
pipes = [os.pipe() for _ in words]
tids = {}
def work(number):
    tids[number] = threading.get_native_id()
    os.read(pipes[number][0], 1)
    for i in range(1, 51):
        words[number].set(1000 * number + i, i, number)
        os.read(pipes[number][0], 1)
        words[number].set(0, 0, 0)
threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
for thread in threads: thread.start()
while len(tids) < 2: time.sleep(0.001)
step(*((tids[n], words[n].address) for n in range(2)))
for i in range(51):
    for number, word in enumerate(words):
        while i and word.last != 1000 * number + i: time.sleep(0.001)
        until_reading(tids[number], pipes[number][0])
        os.write(pipes[number][1], b"x")
for thread in threads: thread.join()
step()
"""
    with Child(code) as child, listen("sched", target=child.pid) as heard:
        tids = [tid for tid, _ in child.told]
        for tid, address in child.told:
            heard.session.shared.slots.update(
                tid.to_bytes(4, "little"), address.to_bytes(8, "little")
            )
        child.go()
        child.end()
        rows, lost = all_rows(heard)
    for number, tid in enumerate(tids):
        own = [row for row in rows if row["tid"] == tid and row["span"]]
        assert all(row["span"] == 1000 * number + row["frame"] for row in own)
        assert all(row["labels"] == number for row in own)
        spans = {row["span"] for row in own}
        every = {1000 * number + i for i in range(1, 51)}
        assert spans <= every
        assert len(spans) >= len(every) - lost
    others = [row for row in rows if row["tid"] not in tids]
    assert others
    assert {(row["span"], row["frame"], row["labels"]) for row in others} == {(0, 0, 0)}


def test_waits_under_way_are_hits_that_nothing_became_of(listen: Listen) -> None:
    code = """
step()
r, w = os.pipe()
threads = [threading.Thread(target=os.read, args=(r, 1)) for _ in range(5)]
for thread in threads: thread.start()
for thread in threads: until_reading(thread.native_id, r)
step()
os.write(w, bytes(5))
for thread in threads: thread.join()
"""
    for _ in range(TRIES):
        with Child(code) as child, listen("sched", target=child.pid) as heard:
            child.go()
            waits = under_way(heard.session)
            child.end()
            all_rows(heard)
        if waits == 6:  # the main thread's too, which waits for us
            break
    assert waits == 6


def test_threads_that_end_leave_nothing_in_the_map(listen: Listen) -> None:
    def known() -> set[int]:
        return {int.from_bytes(key, "little") for key in kept(sched.THREADS)}

    code = """
step()
for _ in range(50):
    threads = [threading.Thread(target=time.sleep, args=(0.001,)) for _ in range(4)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
step()
"""
    with Child(code) as child, listen("sched", target=child.pid) as heard:
        child.go()
        # A thread that has ended is switched out once more, whoever has waited for it.
        wait_until(lambda: known() <= child.tasks())
        child.end()
        wait_until(lambda: not known())
        assert len(heard.rows(TABLE)) > 200


def test_a_ring_that_is_full_loses_rows_and_says_how_many() -> None:
    code = """
step()
for _ in range(500): time.sleep(0.0001)
"""
    plan = Plan(["sched"])
    with Child(code) as child, Session(plan, child.pid, ring_bytes=4096) as session:
        child.start()
        child.end()
        wait_until(lambda: not under_way(session))
        _, _, _, emitted, lost_ring, *_ = counts(session)
    assert emitted == 4096 // plan.layouts[TABLE].stride
    assert lost_ring > 400


def test_two_processes_are_told_apart(listen: Listen) -> None:
    code = "step()\nfor _ in range(30): time.sleep(0.001)\nstep()"
    with Child(code) as one, Child(code) as two:
        first = listen("sched", target=one.pid)
        with first as of_one, listen("sched", target=two.pid) as of_two:
            one.go()
            two.go()
            one.end()
            two.end()
            rows = all_rows(of_one)[0], all_rows(of_two)[0]
    for child, own in zip((one, two), rows, strict=True):
        assert {row["pid"] for row in own} == {child.pid}
        assert sum(row["state"] == "sleeping" for row in own) >= 20


#: Watches itself, and tells the pids, tids and wakers of its rows.
OWN_SESSION = """
import json, os, threading, time
from vidlab.capture.ebpf.plan import Plan
from vidlab.capture.ebpf.reading.ring import Ring
from vidlab.capture.ebpf.session import Session
plan = Plan(["sched"])
(layout,) = plan.layouts.values()
with Session(plan, os.getpid()) as session:
    (ring,) = session.shared.rings.values()
    threads = [threading.Thread(target=time.sleep, args=(0.005,)) for _ in range(3)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    with Ring(ring.fd, ring.max_entries, layout.dtype, layout.stride) as reading:
        records = reading.view(1 << 20).records
        told = {name: sorted(set(records[name].tolist())) for name in ("pid", "tid")}
        told["new"] = sorted(set(records["tid"][records["state"] == -1].tolist()))
        del records
print(json.dumps([os.getpid(), [thread.native_id for thread in threads], told]))
"""


def test_in_a_pid_namespace_threads_have_its_numbers() -> None:
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("unshare is not installed")
    words = [unshare, "--pid", "--fork", "--mount-proc", sys.executable, "-c", OWN_SESSION]
    answer = subprocess.run(words, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    pid, tids, told = json.loads(answer.stdout)
    assert pid == 1
    assert told["pid"] == [1]
    assert set(told["tid"]) <= {0, 1, *tids}
    assert set(told["tid"]) & set(tids)
    assert told["new"] == [0]  # the namespace's number is not known there


def test_the_table_is_what_analyses_read() -> None:
    (layout,) = Plan(["sched"]).layouts.values()
    own = {column.name: column for column in layout.table.columns}
    assert layout.table.name == TABLE
    assert {"state", "state_code", "wakeup_ns", "runqueue_ns", "waker_tid"} < own.keys()
    assert own["duration_ns"].unit == own["wakeup_ns"].unit == own["runqueue_ns"].unit == "ns"


def counts(session: Session) -> list[int]:
    """What became of the switches, in the order of COUNTS."""
    assert COUNTS[0] == "hits"
    (number,) = [m.number for m in session.plan.members if m.label == "sched_switch"]
    return [int(count) for count in Counts(session.shared.counts).read()[number]]


def under_way(session: Session) -> int:
    """How many waits have begun and not ended."""
    hits, _, _, emitted, lost_ring, lost, *_ = counts(session)
    return hits - emitted - lost_ring - lost


def all_rows(heard: Heard) -> tuple[list[Row], int]:
    """All rows of a child that has ended, and how many waits were lost.

    Whoever waits for a process may know of its end before it leaves its CPU for the last time.
    """
    rows: list[Row] = []

    def complete() -> bool:
        rows.extend(heard.rows(TABLE))
        return not under_way(heard.session) and counts(heard.session)[3] == len(rows)

    wait_until(complete)
    known = counts(heard.session)
    assert known[4] == 0, "the ring was full"
    return sorted(rows, key=lambda row: row["t_ns"]), known[5]
