"""Run-queue waits in windows of a second, from a stand-in for /proc/self/task."""

from __future__ import annotations

import gc
import threading
from pathlib import Path
from typing import Any

import pytest

from vidlab.capture.runtime import scheduler
from vidlab.capture.runtime.parts import Missing, Pen
from vidlab.capture.runtime.scheduler import Scheduler

S = 1_000_000_000


class Tasks:
    """A folder of threads whose clocks a test sets."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def set(self, tid: int, cpu_ns: int, runqueue_ns: int, slices: int) -> None:
        (self.folder / str(tid)).mkdir(exist_ok=True)
        # Longer before than now would leave old digits: the kernel's files have no rest.
        text = f"{cpu_ns} {runqueue_ns} {slices}\n".ljust(80)
        (self.folder / str(tid) / "schedstat").write_text(text)

    def end(self, tid: int) -> None:
        (self.folder / str(tid) / "schedstat").unlink()
        (self.folder / str(tid)).rmdir()


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tasks:
    monkeypatch.setattr(scheduler, "TASKS", str(tmp_path))
    return Tasks(tmp_path)


@pytest.mark.parametrize("files", [1 << 16, 8, 0])
def test_a_window_has_what_each_thread_ran_and_waited(
    recorded: Any, writer: Any, tasks: Tasks, files: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler.resource, "getrlimit", lambda _: (files, files))
    part = Scheduler(writer, Pen(writer))
    tasks.set(7, 500 * S, 90 * S, 1000)
    tasks.set(8, 1, 1, 1)
    part.look(10 * S)
    tasks.set(7, 500 * S + 100, 90 * S + 4_000, 1002)
    part.look(10 * S + S // 4)
    tasks.set(7, 500 * S + 150, 90 * S + 4_100, 1003)
    part.look(10 * S + S // 2)
    tasks.set(7, 500 * S + 200, 90 * S + 4_110, 1004)
    part.look(11 * S)
    (row,) = recorded.rows("thread_waits")  # thread 8 did not run
    assert row == {
        "t_ns": 10 * S,
        "tid": 7,
        "labels": 0,
        "duration_ns": S,
        "cpu_ns": 200,
        "runqueue_ns": 4_110,
        "slices": 4,
        "readings": 3,
        "p50_delay_ns": 100,
        "worst_delay_ns": 2_000,
    }
    (total,) = recorded.records("runtime_metrics")
    assert total["metric"] == "vidlab.thread.runqueue.time"
    assert total["value"] == pytest.approx((90 * S + 4_110 + 1) / 1e9)
    part.look(12 * S)
    assert len(recorded.rows("thread_waits")) == 1
    part.close()


def test_threads_that_begin_and_vanish_count_in_full(
    recorded: Any, writer: Any, tasks: Tasks
) -> None:
    part = Scheduler(writer)
    tasks.set(7, 10, 10, 10)
    part.look(10 * S)
    tasks.set(9, 300, 600, 3)
    part.look(10 * S + S // 2)
    tasks.end(9)
    part.look(10 * S + 3 * S // 4)
    (row,) = recorded.rows("thread_waits")
    assert (row["tid"], row["cpu_ns"], row["runqueue_ns"], row["slices"]) == (9, 300, 600, 3)
    assert (row["p50_delay_ns"], row["duration_ns"]) == (200, 3 * S // 4)
    assert part._total()[2] == pytest.approx(610 / 1e9)
    part.close()


def test_a_thread_that_begins_as_another_one_ends_is_seen(
    recorded: Any, writer: Any, tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Read by path: unlike the kernel's, a file that is open can be read when it is gone.
    monkeypatch.setattr(scheduler.resource, "getrlimit", lambda _: (0, 0))
    part = Scheduler(writer)
    tasks.set(7, 10, 10, 10)
    tasks.set(8, 10, 10, 10)
    part.look(10 * S)
    tasks.end(8)
    tasks.set(9, 300, 600, 3)  # as many as before
    part.look(11 * S)
    assert set(part._threads) == {"7", "9"}
    assert {row["tid"]: row["cpu_ns"] for row in recorded.rows("thread_waits")} == {9: 300}
    part.close()


def test_a_window_that_is_not_over_is_written_at_the_end(
    recorded: Any, writer: Any, tasks: Tasks
) -> None:
    part = Scheduler(writer)
    tasks.set(7, 10, 10, 10)
    part.look(10 * S)
    tasks.set(7, 20, 10, 10)  # on its CPU all the time: it was never given one
    part.finish(10 * S + S // 2)
    (row,) = recorded.rows("thread_waits")
    assert (row["duration_ns"], row["cpu_ns"], row["slices"]) == (S // 2, 10, 0)
    assert row["p50_delay_ns"] is row["worst_delay_ns"] is None
    part.close()


def test_without_proc_or_the_kernels_counts_nothing_is_read(
    writer: Any, tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks.set(7, 0, 0, 0)
    part = Scheduler(writer)
    with pytest.raises(Missing, match="CONFIG_SCHED_INFO"):
        part.look(10 * S)
    part.close()
    monkeypatch.setattr(scheduler, "TASKS", "/nowhere")
    with pytest.raises(Missing, match="/proc has to be mounted"):
        Scheduler(writer).look(10 * S)


def test_the_real_threads_of_this_process_are_read_and_no_file_stays_open(writer: Any) -> None:
    gc.collect()  # files that nobody refers to any more are not to be closed meanwhile
    before = len(list(Path("/proc/self/fd").iterdir()))
    part = Scheduler(writer)
    threads = [threading.Thread(target=threading.Event().wait, args=(0.01,)) for _ in range(20)]
    part.look(S)
    for thread in threads:
        thread.start()
    part.look(S + 1)
    assert str(threading.get_native_id()) in part._threads
    for thread in threads:
        thread.join()
    part.look(S + 2)
    part.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
