"""The reader, against programs that write as fast as the kernel lets them."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from vidlab.capture.ebpf.reading import reader as module
from vidlab.capture.ebpf.reading.reader import Reader, Source
from vidlab.capture.ebpf.reading.ring import Ring, RingError

from ..conftest import open_files
from ..lab import wait_until

pytestmark = pytest.mark.needs("ebpf")

NO_WAKEUP, WAKE_EACH = 1, 0


class Kept:
    """A sink that keeps what it gets, and looks at every value of it."""

    def __init__(self) -> None:
        self.numbers: list[np.ndarray] = []

    def __call__(self, columns) -> None:
        assert 0 < len(columns) <= 15 << 10
        assert (columns["rest"] == columns["number"][:, None]).all()
        self.numbers.append(columns["number"].copy())

    def __len__(self) -> int:
        return sum(map(len, self.numbers))


def no_report(name: str) -> None:
    raise AssertionError(f"{name} failed")


def new_tasks(before: set[str]) -> set[str]:
    """Threads that were not there before. One that has been joined may take a while to go."""
    return {task.name for task in Path("/proc/self/task").iterdir()} - before


def check_exact(made, source, sink) -> None:
    """Every record that was written was read, once; every other was counted as lost."""
    assert (source.failed, source.left, source.error) == (0, 0, None)
    assert source.read == len(sink) == made.count("emitted")
    assert source.read + made.count("lost_ring") == made.count("hits")
    numbers = np.concatenate([*sink.numbers, np.empty(0, np.uint64)])
    assert len(np.unique(numbers)) == len(numbers)
    assert not len(numbers) or numbers.max() < made.count("hits")


@pytest.mark.parametrize(
    ("ring_bytes", "stride", "runs"),
    [(4096, 64, 2000), (4096, 1000, 2000), (1 << 16, 104, 6000), (1 << 20, 80, 20_000)],
)
def test_read_and_lost_are_all_that_were_written_in_20_of_20_runs(
    producer, ring_bytes, stride, runs
):
    lost = 0
    for _ in range(20):
        made, sink = producer(ring_bytes, stride), Kept()
        with made.ring() as ring:
            source = Source("kernel_test", ring, sink)
            reader = Reader([source], no_report)
            reader.start()
            threads = [made.start(runs), made.start(runs)]
            for thread in threads:
                thread.join()
            reader.stop()
        assert made.count("hits") == 2 * 16 * runs
        check_exact(made, source, sink)
        lost += made.count("lost_ring")
        made.close()
    if ring_bytes == 4096:
        assert lost, "the producers were meant to be too fast"


def test_discarded_records_are_neither_read_nor_lost(producer):
    made, sink = producer(1 << 16, 40, at_once=9, discard_every=2), Kept()
    with made.ring() as ring:
        source = Source("kernel_test", ring, sink)
        reader = Reader([source], no_report)
        reader.start()
        made.run(5000)
        reader.stop()
    assert made.count("filtered") > 0
    assert source.read == len(sink) == made.count("emitted")
    outcomes = ("filtered", "emitted", "lost_ring")
    assert sum(map(made.count, outcomes)) == made.count("hits") == 45_000


def test_programs_wake_it_when_another_eighth_has_filled(producer, monkeypatch):
    monkeypatch.setattr(module, "_WAIT_S", 3600.0)
    made, sink = producer(1 << 16, 64), Kept()
    with made.ring() as ring:
        source = Source("kernel_test", ring, sink)
        reader = Reader([source], no_report)
        reader.start()
        for _ in range(20):
            made.run(12)  # 192 records of 64 bytes: beyond an eighth, and not two
            wait_until(lambda: ring.available() < ring.ring_bytes // 8)
        assert source.read
        reader.stop()
    check_exact(made, source, sink)
    assert made.count("lost_ring") == 0


@pytest.mark.parametrize("flags", [NO_WAKEUP, WAKE_EACH])
def test_records_of_programs_that_never_wake_it_or_always_are_read_too(producer, flags):
    made, sink = producer(1 << 16, 64, flags=flags), Kept()
    with made.ring() as ring:
        source = Source("kernel_test", ring, sink)
        reader = Reader([source], no_report)
        reader.start()
        for _ in range(5):
            made.run(3)
            wait_until(lambda: source.read == made.count("hits"))
        thread = made.start(5000)
        thread.join()
        reader.stop()
    check_exact(made, source, sink)


def test_a_failing_sink_is_reported_once_and_stops_nobody_else(producer):
    good, bad = producer(1 << 16, 64), producer(1 << 16, 80)
    sink, reports, calls = Kept(), [], []

    def fail(columns) -> None:
        calls.append(len(columns))
        raise OSError(28, "No space left on device")

    def report(name: str) -> None:
        reports.append((name, sys.exc_info()[1]))
        raise RuntimeError("and so does the report")

    with good.ring() as good_ring, bad.ring() as bad_ring:
        sources = [Source("bad", bad_ring, fail), Source("good", good_ring, sink)]
        reader = Reader(sources, report)
        reader.start()
        for _ in range(4):
            threads = [good.start(500), bad.start(500)]
            for thread in threads:
                thread.join()
            wait_until(lambda: not good_ring.available() and not bad_ring.available())
        reader.stop()
    check_exact(good, sources[1], sink)
    assert [name for name, _ in reports] == ["bad"]
    assert isinstance(reports[0][1], OSError)
    assert len(calls) > 1
    assert sources[0].failed == sum(calls) == bad.count("emitted")
    assert sources[0].read == 0
    assert isinstance(sources[0].error, OSError)


def test_a_ring_with_records_of_another_length_is_read_no_more(producer):
    good, bad = producer(1 << 16, 64), producer(1 << 16, 72)
    sink, reports = Kept(), []
    with good.ring() as good_ring, Ring(bad.ring_map.fd, 1 << 16, good.dtype, 64) as bad_ring:
        sources = [Source("bad", bad_ring, Kept()), Source("good", good_ring, sink)]
        reader = Reader(sources, reports.append)
        reader.start()
        for _ in range(3):
            good.run(100)
            bad.run(100)
        reader.stop()
        assert sources[0].left == bad_ring.available() // 64 > 0
    check_exact(good, sources[1], sink)
    assert reports == ["bad"]
    assert isinstance(sources[0].error, RingError)
    assert (sources[0].read, sources[0].failed) == (0, 0)


def test_forks_while_records_come_cost_none_and_the_child_reads_none(producer):
    made, sink = producer(1 << 20, 64), Kept()
    with made.ring() as ring:
        source = Source("kernel_test", ring, sink)
        reader = Reader([source], no_report)
        reader.start()
        thread = made.start(60_000)
        codes = []
        for _ in range(20):
            child = os.fork()
            if child == 0:
                reader.stop()  # as a program that ends would: nothing to do
                os._exit(0 if ring.closed and not ring.available() else 1)
            codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        thread.join()
        reader.stop()
        assert codes == [0] * 20
    assert made.count("hits") == 16 * 60_000
    check_exact(made, source, sink)


def test_what_comes_after_the_end_stays_in_the_ring_and_is_told(producer):
    made, sink = producer(1 << 20, 64, at_once=1, dawdle=2000), Kept()
    with made.ring() as ring:
        source = Source("kernel_test", ring, sink)
        reader = Reader([source], no_report)
        reader.start()
        thread = made.start(2000)
        wait_until(lambda: ring.available() or source.read)
        reader.stop()  # while it runs
        thread.join()
        assert source.left * 64 <= ring.available()
        assert source.read + ring.available() // 64 == made.count("emitted") == 2000
        reader.stop()
        reader.start()  # and on
        reader.stop()
    assert source.read == len(sink) == 2000


def test_it_leaves_no_descriptor_and_no_thread(producer):
    made = producer(4096, 64)
    with made.ring() as ring:
        before, tasks = open_files(), new_tasks(set())
        for _ in range(5):
            reader = Reader([Source("kernel_test", ring, Kept())], no_report)
            reader.start()
            reader.start()
            assert len(new_tasks(tasks)) == 1
            reader.stop()
            wait_until(lambda: not new_tasks(tasks))
        assert not open_files().items() - before.items()
    Reader([], no_report).stop()


def test_it_reads_on_beside_a_program_that_never_lets_go_of_the_interpreter(producer):
    made, sink = producer(1 << 20, 64), Kept()
    stop = threading.Event()

    def spin() -> None:
        while not stop.is_set():
            pass

    busy = threading.Thread(target=spin)
    with made.ring() as ring:
        source = Source("kernel_test", ring, sink)
        reader = Reader([source], no_report)
        reader.start()
        busy.start()
        for _ in range(20):
            made.run(1000)
        wait_until(lambda: not ring.available())
        stop.set()
        busy.join()
        reader.stop()
    check_exact(made, source, sink)


@pytest.mark.skipif(os.getuid() != 0, reason="gives up root's capabilities")
def test_a_process_without_capabilities_reads_with_the_descriptors_it_was_given(producer):
    made = producer(1 << 16, 64)
    made.run(10)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setresuid(65534, 65534, 65534)
            sink = Kept()
            with made.ring() as ring:
                reader = Reader([Source("kernel_test", ring, sink)], no_report)
                reader.start()
                reader.stop()
            code = 0 if len(sink) == made.count("emitted") == 160 else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_ring_that_has_been_closed_is_refused_and_leaves_nothing_open(producer):
    made = producer(4096, 64)
    ring = made.ring()
    source = Source("kernel_test", ring, Kept())
    ring.close()
    before = open_files()
    with pytest.raises(RingError, match="cannot be waited for"):
        Reader([source], no_report).start()
    assert not open_files().items() - before.items()


def test_what_is_read_by_hand_goes_to_the_sink_in_this_thread(producer):
    made, threads = producer(1 << 16, 64), set()
    with made.ring() as ring:
        source = Source("kernel_test", ring, lambda columns: threads.add(threading.get_ident()))
        reader = Reader([source], no_report)
        made.run(10)
        assert reader.read() == source.read == 160
    assert threads == {threading.get_ident()}
