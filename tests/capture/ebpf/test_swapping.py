"""Programs that are replaced while they run: no event is lost, none is told twice."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from vidlab.capture.ebpf import Probe, Tracepoint, arg, duration, retval
from vidlab.capture.ebpf.kernel import links
from vidlab.capture.ebpf.kernel.programs import VerifierError
from vidlab.errors import InputError

from .lab import Watch, accounted, build, load, wait_until

pytestmark = [pytest.mark.needs("ebpf"), pytest.mark.usefixtures("nothing_left")]

LIBRARY = "libswapped.so"
SWAPS = 1000


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return load(build(tmp_path_factory.mktemp("calls"), LIBRARY))


@pytest.fixture(params=["session", "pair"])
def sessions(request: pytest.FixtureRequest) -> bool:
    if request.param == "session" and not links.has_sessions():
        pytest.skip("sessions came with Linux 6.13")
    return bool(request.param == "session")


class Load:
    """Threads that call a function without a pause, and count their calls."""

    def __init__(self, library: ctypes.CDLL, threads: int = 2) -> None:
        self._library = library
        self._stop = ctypes.c_int(0)
        self._made: list[int] = []
        self._threads = [threading.Thread(target=self._call) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def _call(self) -> None:
        self._made.append(self._library.until(ctypes.byref(self._stop)))

    def end(self) -> int:
        """End them and return how many calls they made."""
        self._stop.value = 1
        for thread in self._threads:
            thread.join()
        return sum(self._made)


@pytest.fixture
def calling(library: ctypes.CDLL) -> Iterator[Callable[[], Load]]:
    loads: list[Load] = []

    def begin() -> Load:
        loads.append(Load(library))
        return loads[-1]

    yield begin
    for each in loads:
        each.end()


def probe(what: int, name: str = "swapped") -> Probe:
    """One of the versions that take each other's place: they write `what` beside the argument."""
    return Probe(
        LIBRARY,
        "twice",
        {"x": arg(0, "i32")},
        {"version": retval() * 0 + what},
        name=name,
    )


def files() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


def test_a_thousand_swaps_under_load_lose_nothing_and_double_nothing(
    library: ctypes.CDLL, calling: Callable[[], Load], sessions: bool
) -> None:
    # With the ring so large that nothing is lost there.
    with Watch([probe(0)], sessions=sessions, ring_bytes=1 << 26) as watch:
        load = calling()
        before = 0
        for number in range(1, SWAPS + 1):
            watch.session.replace(0, probe(number))
            if number == 10:
                before = files()
            if number % 20 == 0:  # those that call may have been waiting for the CPU
                seen = watch.counts()["emitted"]
                wait_until(lambda seen=seen: watch.counts()["emitted"] > seen)
        assert files() <= before
        calls = load.end()
        watch.stop()
        counts, read = watch.counts(), watch.read("kernel_swapped")
    assert counts["hits"] == accounted(counts) == calls
    assert counts["lost_stash"] == counts["orphans"] == 0
    assert len(read["x"]) + counts["lost_ring"] == calls
    versions = np.unique(read["version"])
    assert len(versions) > 20
    for tid in np.unique(read["tid"]):
        of_thread = read["tid"] == tid
        assert (np.diff(read["x"][of_thread]) > 0).all()  # none twice
        assert (np.diff(read["version"][of_thread].astype(np.int64)) >= 0).all()
        if not counts["lost_ring"]:
            assert (np.diff(read["x"][of_thread]) == 1).all()


def test_a_call_under_way_is_finished_by_the_new_program(
    library: ctypes.CDLL, sessions: bool
) -> None:
    flag = ctypes.c_int(0)
    old = Probe(LIBRARY, "wait_for", {"flag": arg(0)}, {"version": retval() * 0 + 1})
    new = Probe(LIBRARY, "wait_for", {"flag": arg(0)}, {"version": retval() * 0 + 2})
    with Watch([old], sessions=sessions) as watch:
        thread = threading.Thread(target=library.wait_for, args=(ctypes.byref(flag),))
        thread.start()
        wait_until(lambda: watch.counts()["hits"])
        watch.session.replace(0, new)
        flag.value = 1
        thread.join()
        watch.stop()
        [row] = watch.rows("kernel_wait_for")
        assert row["version"] == 2
        assert row["flag"] == ctypes.addressof(flag)


def test_of_probes_that_share_a_program_one_is_replaced(library: ctypes.CDLL) -> None:
    def on(symbol: str, factor: int = 1) -> Probe:
        return Probe(LIBRARY, symbol, {"n": arg(0, "i32") * factor}, {}, name="shared")

    with Watch([on("twice"), on("recurse")]) as watch:
        programs = watch.session._programs
        assert len({program.fd for program in programs._loaded.values()}) == 1
        library.twice(3)
        library.recurse(1)
        watch.session.replace(0, on("twice", 100))
        library.twice(3)
        library.recurse(1)
        watch.session.replace(1, on("recurse", 1000))
        library.twice(3)
        library.recurse(1)
        watch.session.replace(0, on("twice"))
        library.twice(3)
        watch.stop()
        rows = [(row["symbol"], row["n"]) for row in watch.rows("kernel_shared")]
        assert rows == [
            ("twice", 3),
            ("recurse", 1),
            ("twice", 300),
            ("recurse", 1),
            ("twice", 300),
            ("recurse", 1000),
            ("twice", 3),
        ]


def test_a_filter_is_exchanged(library: ctypes.CDLL, calling: Callable[[], Load]) -> None:
    def only(rest: int | None) -> Probe:
        when = None if rest is None else arg(0, "i32") % 2 == rest
        return Probe(LIBRARY, "twice", {"x": arg(0, "i32")}, {}, when)

    with Watch([only(None)], ring_bytes=1 << 24) as watch:
        load = calling()
        for number in range(200):
            watch.session.replace(0, only((None, 0, 1)[number % 3]))
        wait_until(lambda: watch.counts()["filtered"])
        calls = load.end()
        watch.stop()
        counts = watch.counts()
        assert counts["hits"] == accounted(counts) == calls
        assert counts["filtered"] > 0
        assert len(watch.read("kernel_twice")["x"]) == counts["emitted"]


def test_a_tracepoint_is_replaced() -> None:
    def switch(sign: int) -> Tracepoint:
        from vidlab.capture.ebpf import field

        return Tracepoint("sched", "sched_switch", {"n": field("prev_pid") * 0 + sign})

    with Watch([switch(1)]) as watch:
        wait_until(lambda: watch.counts()["emitted"])
        watch.session.replace(0, switch(2))
        before = watch.counts()["emitted"]
        wait_until(lambda: watch.counts()["emitted"] >= before + 3)
        watch.stop()
        assert {1, 2} == {row["n"] for row in watch.rows("kernel_sched_switch")}


@pytest.mark.parametrize(
    "other",
    [
        Probe(LIBRARY, "recurse", {"x": arg(0, "i32")}, {"version": retval()}, name="swapped"),
        Probe(LIBRARY, "twice", {"x": arg(0, "i32")}, {"version": retval()}, name="other"),
        Probe(LIBRARY, "twice", {"x": arg(0, "i32"), "version": arg(0)}, name="swapped"),
        Probe(LIBRARY, "twice", {"x": arg(0, "i64")}, {"version": retval()}, name="swapped"),
        Probe(LIBRARY, "twice", {"x": arg(0, "i32")}, {}, name="swapped"),
        Tracepoint("sched", "sched_switch", name="swapped"),
    ],
)
def test_what_does_not_fit_is_refused_and_the_old_goes_on(
    library: ctypes.CDLL, other: Probe
) -> None:
    with Watch([probe(7)]) as watch:
        with pytest.raises(InputError):
            watch.session.replace(0, other)
        for number in (-1, 1):
            with pytest.raises(InputError):
                watch.session.replace(number, probe(8))
        library.twice(1)
        watch.stop()
        assert [row["version"] for row in watch.rows("kernel_swapped")] == [7]


def test_one_that_the_kernel_refuses_leaves_the_old(
    library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch, sessions: bool
) -> None:
    from vidlab.capture.ebpf import programs

    with Watch([probe(7)], sessions=sessions) as watch:
        known = programs.load
        count = 0

        def refuse(*args: object) -> object:
            nonlocal count
            count += 1
            if count > (0 if sessions else 1):  # of a pair the second
                raise VerifierError("twice", 22, "")
            return known(*args)  # type: ignore[arg-type]

        monkeypatch.setattr(programs, "load", refuse)
        with pytest.raises(VerifierError):
            watch.session.replace(0, probe(8))
        monkeypatch.undo()
        library.twice(1)
        watch.session.replace(0, probe(9))
        library.twice(1)
        watch.stop()
        assert [row["version"] for row in watch.rows("kernel_swapped")] == [7, 9]


def test_a_probe_that_waits_for_its_library_cannot_be_replaced_yet() -> None:
    def on(value: int) -> Probe:
        return Probe("libnowhere.so", "f", {"x": arg(0) * 0 + value}, when=duration() >= 0, exit={})

    with Watch([on(1)]) as watch, pytest.raises(InputError, match="not attached yet"):
        watch.session.replace(0, on(2))
