"""Threads: as they begin, change their names and end."""

from __future__ import annotations

import _thread
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from vidlab.capture.runtime import scheduler, threads
from vidlab.capture.runtime.parts import Missing
from vidlab.capture.runtime.threads import Threads


def until_gone(*tids: int | None) -> None:
    """Wait until the kernel has no such threads: Python is done with a thread before."""
    limit = time.monotonic() + 60
    while any(Path(f"/proc/self/task/{tid}").exists() for tid in tids):
        assert time.monotonic() < limit
        time.sleep(0.001)


def test_threads_come_and_go_by_name(recorded: Any, writer: Any) -> None:
    class Odd(threading.Thread):
        """A thread whose attributes run code of the program's."""

        @property
        def native_id(self) -> int:
            raise AssertionError

    part = Threads(writer)
    part.look(1)
    rows = recorded.rows("threads")
    main = next(row for row in rows if row["tid"] == threading.get_native_id())
    assert (main["op"], main["name"], main["python"]) == ("began", "MainThread", True)

    over = threading.Event()
    worker = Odd(target=over.wait, name="decoder")
    worker.start()
    foreign: list[int] = []
    ready, done = threading.Event(), _thread.allocate_lock()
    named, renamed = threading.Event(), threading.Event()
    done.acquire()

    def unknown_to_python() -> None:
        tid = threading.get_native_id()
        Path(f"/proc/self/task/{tid}/comm").write_text("unborn")
        foreign.append(tid)
        ready.set()
        named.wait()
        Path(f"/proc/self/task/{tid}/comm").write_text("foreign")
        renamed.set()
        over.wait()
        done.release()

    _thread.start_new_thread(unknown_to_python, ())
    assert ready.wait(60)
    begun = len(recorded.rows("threads"))
    part.look(2)
    named.set()
    assert renamed.wait(60)
    part.look(3)
    worker.name = "encoder"
    tid = threading.Thread.native_id.fget(worker)  # type: ignore[attr-defined]
    part.look(4)
    over.set()
    worker.join()
    assert done.acquire(timeout=60)
    until_gone(tid, foreign[0])
    part.look(5)
    seen = [
        (row["t_ns"], row["op"], row["name"], row["python"], row["daemon"])
        for row in recorded.rows("threads")[begun:]
        if row["tid"] == tid
    ]
    assert seen == [
        (2, "began", "decoder", True, False),
        (4, "renamed", "encoder", True, False),
        (5, "ended", "encoder", True, False),
    ]
    others = [
        (row["op"], row["name"], row["python"])
        for row in recorded.rows("threads")[begun:]
        if row["tid"] == foreign[0]
    ]
    assert others == [  # a name that it was given soon after it began
        ("began", "unborn", False),
        ("renamed", "foreign", False),
        ("ended", "foreign", False),
    ]


def test_a_thread_that_ends_while_it_is_looked_at_is_left_out(
    recorded: Any, writer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "99999").mkdir()  # without a name: it has ended
    monkeypatch.setattr(scheduler, "TASKS", str(tmp_path))
    monkeypatch.setattr(threads, "TASKS", str(tmp_path))
    part = Threads(writer)
    part.look(1)
    assert recorded.rows("threads") == []
    monkeypatch.setattr(scheduler, "TASKS", "/nowhere")
    with pytest.raises(Missing, match="/proc"):
        part.look(2)


def test_a_name_of_pythons_stays_when_python_lets_go_of_it_before_the_kernel(
    recorded: Any, writer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = threading.Event()
    worker = threading.Thread(target=over.wait, name="rule-engine")
    worker.start()
    part = Threads(writer)
    part.look(1)
    active = {
        key: known for key, known in vars(threading)["_active"].items() if known is not worker
    }
    with monkeypatch.context() as patched:
        patched.setattr(threading, "_active", active)  # as at its end
        for look in range(2, 2 * threads._ASK_AGAIN):
            part.look(look)
    over.set()
    worker.join()
    until_gone(worker.native_id)
    part.look(99)
    seen = [row for row in recorded.rows("threads") if row["tid"] == worker.native_id]
    assert [(row["op"], row["name"], row["python"]) for row in seen] == [
        ("began", "rule-engine", True),
        ("ended", "rule-engine", True),
    ]
