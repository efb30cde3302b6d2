"""A program whose frames are sampled adaptively: `sampled.py RUN killed|child`.

`killed`: it kills itself when some records are written, and others are not.
`child`: frames whose end a forked child sees, which finds that they are late.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time

import vidlab as vl
from vidlab.capture.frames import stages
from vidlab.capture.frames.adaptive import Adaptive
from vidlab.capture.frames.refs import FrameRef
from vidlab.capture.frames.sources import Source
from vidlab.capture.frames.traced_queue import TracedProcessQueue
from vidlab.clock import now_ns
from vidlab.schema import DEMUXED, OK, SERVICE

COUNT = 24_000
LATE = 60  # every so many-th frame
DEADLINE_MS = 30_000  # longer than any pause of this program


def frames(count: int) -> None:
    """Record frames of which some are late from the start."""
    recorder = stages.active
    decode = recorder.kind("decode").number
    source = Source(recorder, "cam", "h264")
    for n in range(count):
        t_ns = now_ns()
        ref = source.born(t_ns - (2 * DEADLINE_MS * 10**6 if n % LATE == 0 else 0), n, n)
        recorder.event(ref, DEMUXED)
        recorder.emit(decode, SERVICE, OK, ref, t_ns, t_ns + 1000 + n)
        with vl.stage("filter", ref):
            pass


def child(work: TracedProcessQueue[FrameRef | None]) -> None:
    """See frames end too late."""
    while (ref := work.get()) is not None:
        with vl.stage("send", ref):
            time.sleep(0.002)  # longer than the deadline


def with_child(count: int) -> None:
    """Record frames that are in time here, and hand some to a child, which is slow."""
    context = multiprocessing.get_context("fork")
    work: TracedProcessQueue[FrameRef | None] = TracedProcessQueue(context=context)
    process = context.Process(target=child, args=(work,))
    process.start()
    recorder = stages.active
    source = Source(recorder, "cam", "h264")
    for n in range(count):
        ref = source.born(now_ns(), n, n)
        recorder.event(ref, DEMUXED)
        with vl.stage("filter", ref):
            pass
        if n < LATE:
            work.put(ref)
    work.put(None)
    process.join()


def main() -> None:
    """Record."""
    path, what = sys.argv[1:]
    share = Adaptive(base=0.05, busy=0.05)
    deadline_ms = DEADLINE_MS if what == "killed" else 1
    engines = [vl.Frames(share, clocks="never")]
    with vl.record(path, engines=engines, parameters={"deadline_ms": deadline_ms}) as recording:
        lookback = recording.writer.lookback
        if what == "killed":
            lookback.seconds = 0.05
            frames(COUNT)
            while not all(lookback.left_out.values()):
                time.sleep(0.01)
            frames(1000)
            os.kill(os.getpid(), signal.SIGKILL)
        lookback.seconds = 600.0
        with_child(9000)
        lookback.seconds = 0.05  # now that the child has said what it has to
        while not all(lookback.left_out.values()):
            time.sleep(0.01)


main()
