"""What the runtime engine costs: its threads' CPU in `production`, and one reading.

The program that it watches is a service of sixteen threads and an event loop, which do a
little now and then. Beside it runs its twin, which nobody watches: what the program itself
uses more is in the second figure.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import threading
import time
from pathlib import Path

import vidlab as vl

from .figure import Figure, report

THREADS, PERIOD_S = 16, 0.02

#: So often, and for so long, each of the twins runs.
ROUNDS, SECONDS = 4, 5.0

#: Readings that are measured, and how many are a lot.
READINGS, LOT = 500, 50


class Service:
    """A program for a while: threads that come and do a little, and an event loop."""

    def __init__(self) -> None:
        self._over = threading.Event()
        targets = [self._work] * THREADS + [self._loop]
        self.threads = [threading.Thread(target=target) for target in targets]

    def __enter__(self) -> Service:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self.threads:
            thread.join()

    def _work(self) -> None:
        while not self._over.wait(PERIOD_S):
            sum(range(1000))

    def _loop(self) -> None:
        async def serve() -> None:
            while not self._over.is_set():
                await asyncio.gather(*(asyncio.sleep(PERIOD_S) for _ in range(10)))

        asyncio.run(serve())


def cpu_ns(tids: set[str]) -> int:
    """Return the CPU time of these threads of this process."""
    clocks = (Path("/proc/self/task", tid, "schedstat").read_text() for tid in tids)
    return sum(int(clock.split()[0]) for clock in clocks)


def tids() -> set[str]:
    return {path.name for path in Path("/proc/self/task").iterdir()}


def twin() -> float:
    """Return the process's CPU of a round that is not recorded, as a share of a core."""
    with Service():
        time.sleep(0.5)
        begin, cpu = time.perf_counter(), time.process_time()
        time.sleep(SECONDS)
        return (time.process_time() - cpu) / (time.perf_counter() - begin)


def recorded(folder: Path) -> tuple[float, float]:
    """Return vidlab's threads' CPU and the process's, of a round that is recorded."""
    before = tids()
    with vl.record(folder, engines=[vl.Runtime(profile="production")]), Service() as service:
        time.sleep(0.5)  # what comes once, as it begins, is no part of what it costs
        theirs = {str(thread.native_id) for thread in service.threads}
        ours = tids() - before - theirs
        begin, cpu, own = time.perf_counter(), time.process_time(), cpu_ns(ours)
        time.sleep(SECONDS)
        seconds = time.perf_counter() - begin
        return (cpu_ns(ours) - own) / 1e9 / seconds, (time.process_time() - cpu) / seconds


def cost(folder: Path) -> list[Figure]:
    alone, threads, whole = [], [], []
    for number in range(ROUNDS):
        alone.append(twin())
        own, process = recorded(folder / str(number))
        threads.append(own)
        whole.append(process)
    return [
        Figure(
            "runtime engine, production: its threads, share of a core",
            100 * statistics.median(threads),
            "%",
            None,
            1.0,
        ),
        Figure(
            "the same service, recorded / not recorded: share of a core",
            100 * statistics.median(whole),
            "%",
            100 * statistics.median(alone),
        ),
    ]


def readings() -> list[Figure]:
    """Read all metrics of the service's process, again and again; the thread's CPU time.

    Of the lots' medians it is the least: neighbours on the machine can only add to it.
    """
    engine = vl.Runtime()
    took = []
    with Service():
        engine.read_once()  # opens what it reads
        for _ in range(READINGS):
            time.sleep(0.002)  # as in a recording, what it reads is not fresh in the caches
            begin = time.thread_time_ns()
            engine.read_once()
            took.append((time.thread_time_ns() - begin) / 1e3)
    median = min(statistics.median(took[at : at + LOT]) for at in range(0, READINGS, LOT))
    return [Figure(f"reading all runtime metrics once, {THREADS} threads", median, "µs", None, 200)]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        report([*cost(Path(folder)), *readings()])


if __name__ == "__main__":
    main()
