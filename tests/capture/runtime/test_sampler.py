"""The sampler: whose turn it is, what a look may cost, and what goes wrong in one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from vidlab.capture.runtime import sampler as sampler_module
from vidlab.capture.runtime.parts import Missing
from vidlab.capture.runtime.profiles import Profile
from vidlab.capture.runtime.sampler import Sampler

MS = 1_000_000


class Looking:
    """A part that notes when it looks, and what is to happen then."""

    least_period_ns = 0

    def __init__(self, clock: Any, then: Callable[[], Any] = lambda: None) -> None:
        self.clock = clock
        self.then = then
        self.looks: list[int] = []
        self.closed = 0
        self.finished = 0

    def look(self, t_ns: int) -> Any:
        self.looks.append(t_ns - START_NS)
        return self.then()

    def finish(self, t_ns: int) -> None:
        self.finished += 1

    def close(self) -> None:
        self.closed += 1


START_NS = 1_000_000_000_000


def sampler_of(writer: Any, profile: Profile, **parts: Any) -> Sampler:
    makers = {name: lambda part=part: part for name, part in parts.items()}
    return Sampler(writer, makers, lambda: None, profile)


def run(sampler: Sampler, clock: Any, seconds: float) -> int:
    """Let the sampler's thread run for so long; return how often it woke."""
    until = clock.t_ns + seconds * 1e9
    wakes = 0
    while clock.t_ns < until:
        wakes += 1
        clock.pass_s(max(1e-9, sampler._round()))
    return wakes


def test_turns_are_at_multiples_of_the_periods_and_fall_together(writer: Any, clock: Any) -> None:
    heap, process = Looking(clock), Looking(clock)
    sampler = sampler_of(writer, Profile("p", heap=0.2, process=0.1), heap=heap, process=process)
    clock.pass_s(0.05)
    wakes = run(sampler, clock, 0.95)
    assert heap.looks[:4] == [50 * MS, 200 * MS, 400 * MS, 600 * MS]
    assert process.looks[:4] == [50 * MS, 100 * MS, 200 * MS, 300 * MS]
    assert wakes == len(process.looks) == 10


def test_a_part_that_costs_too_much_looks_less_often(
    writer: Any, recorded: Any, clock: Any
) -> None:
    def costs() -> None:
        clock.cpu_ns += 5 * MS

    dear, cheap = Looking(clock, costs), Looking(clock)
    sampler = sampler_of(
        writer, Profile("p", heap=0.1, process=0.1, most_share=0.01), heap=dear, process=cheap
    )
    run(sampler, clock, 2.05)
    assert len(cheap.looks) == 21
    # What is done once, in the first look, does not count; then 5 ms are 1 % of 500.
    assert dear.looks == [0, 100 * MS, 600 * MS, 1100 * MS, 1600 * MS]
    (finding,) = recorded.rows("findings")
    assert (finding["kind"], finding["part"]) == ("runtime_part_slowed", "heap")
    assert "5.0 ms" in finding["message"]


def test_a_part_that_fails_does_not_stop_the_others(
    recorded: Any, clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[tuple[str, str]] = []
    monkeypatch.setattr(
        recorded.writer, "finding", lambda kind, text, **_: found.append((kind, text))
    )

    def fails() -> None:
        raise OSError("gone")

    bad, good = Looking(clock, fails), Looking(clock)
    sampler = sampler_of(recorded.writer, Profile("p", heap=1, process=1), heap=bad, process=good)
    run(sampler, clock, 3.5)
    assert len(bad.looks) == len(good.looks) == 4
    assert [kind for kind, _ in found] == ["recorder_failed"]
    assert "heap" in found[0][1]


def test_what_is_missing_is_said_once_and_not_asked_again(
    recorded: Any, writer: Any, clock: Any
) -> None:
    def missing() -> None:
        raise Missing("no such thing here")

    part = Looking(clock, missing)
    sampler = sampler_of(writer, Profile("p", heap=1), heap=part)
    run(sampler, clock, 3)
    sampler.profile = Profile("q", heap=1)
    run(sampler, clock, 3)
    assert len(part.looks) == 1
    (finding,) = recorded.rows("findings")
    assert finding["kind"] == "runtime_part_missing"
    assert finding["severity"] == "info"
    assert finding["message"] == "no such thing here"


def test_others_have_their_turns_between_the_steps_of_a_long_look(writer: Any, clock: Any) -> None:
    def steps() -> Iterator[None]:
        for _ in range(10):
            clock.pass_s(0.1)
            yield

    slow, quick = Looking(clock, steps), Looking(clock)
    sampler = sampler_of(writer, Profile("p", census=10, process=0.1), census=slow, process=quick)
    sampler._round()
    assert len(quick.looks) >= 10
    assert slow.looks == [0]


def test_a_long_look_is_noted_in_stretches_and_a_short_one_not(
    writer: Any, clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call of C keeps the GIL while it waits for a CPU."""
    noted: list[tuple[str, int, int]] = []

    def steps() -> Iterator[None]:
        for cpu_ms in (1, 1, 6, 1):
            clock.cpu_ns += cpu_ms * MS
            clock.pass_s(0.01)
            yield
        clock.cpu_ns += MS // 2

    waited = iter((0, 3 * MS, 5 * MS, 9 * MS))
    monkeypatch.setattr(sampler_module._Waits, "_read", lambda self: next(waited))
    profile = Profile("p", census=10, process=10)
    parts = {"census": Looking(clock, steps), "process": Looking(clock)}
    makers = {name: lambda part=part: part for name, part in parts.items()}
    sampler = Sampler(writer, makers, lambda: None, profile, lambda *what: noted.append(what))
    sampler._round()
    at = START_NS
    assert noted == [
        ("census", at + 20 * MS - 2 * MS, 2 * MS),
        ("census", at + 30 * MS - 8 * MS, 8 * MS),
        ("census", at + 40 * MS - MS - MS // 2, MS + MS // 2),
    ]


@pytest.mark.parametrize(("after_s", "looks"), [(4, 1), (6, 2)])
def test_the_last_of_long_looks_is_spared_within_its_period(
    writer: Any, clock: Any, after_s: int, looks: int
) -> None:
    taken: list[int] = []

    def steps() -> Iterator[None]:
        taken.append(1)
        yield

    part = Looking(clock, steps)
    part.finish = lambda t_ns: steps()  # type: ignore[assignment]
    sampler = sampler_of(writer, Profile("p", census=5, most_share=1), census=part)
    sampler._round()
    clock.pass_s(after_s)
    sampler.stop(1)
    assert len(taken) == looks
    assert part.closed == 1


def test_a_long_look_that_the_end_cuts_short_is_finished(writer: Any, clock: Any) -> None:
    taken: list[int] = []

    def steps() -> Iterator[None]:
        for number in range(4):
            taken.append(number)
            if number == 1:
                sampler.pause(0)
            yield

    part = Looking(clock, steps)
    sampler = sampler_of(writer, Profile("p", census=5), census=part)
    sampler._round()
    assert taken == [0, 1]
    sampler.stop(1)
    assert taken == [0, 1, 2, 3]
    assert (part.finished, part.closed) == (0, 1)


def test_a_long_look_is_given_up_for_a_switch(writer: Any, clock: Any) -> None:
    taken: list[int] = []

    def steps() -> Iterator[None]:
        for number in range(10):
            taken.append(number)
            if number == 3:
                sampler.profile = Profile("q", process=1)
            yield

    part = Looking(clock, steps)
    sampler = sampler_of(writer, Profile("p", census=10), census=part)
    assert sampler._round() == 0
    sampler._round()
    assert taken == [0, 1, 2, 3]
    assert part.closed == 1


def test_a_switch_closes_the_parts_that_are_not_wanted(writer: Any, clock: Any) -> None:
    heap, process = Looking(clock), Looking(clock)
    sampler = sampler_of(writer, Profile("p", heap=1), heap=heap, process=process)
    run(sampler, clock, 1)
    sampler.profile = Profile("q", process=1)
    run(sampler, clock, 1)
    assert (heap.closed, process.closed) == (1, 0)
    assert process.looks
    sampler.stop(1)
    assert (heap.closed, process.closed) == (1, 1)
    assert (heap.finished, process.finished) == (0, 1)


def test_the_end_does_not_wait_for_a_look_that_hangs(writer: Any) -> None:
    hangs, go_on = threading.Event(), threading.Event()

    def hang() -> None:
        hangs.set()
        go_on.wait(60)

    part = Looking(None, hang)
    sampler = sampler_of(writer, Profile("p", heap=1), heap=part)
    assert sampler.start()
    assert hangs.wait(60)
    sampler.stop(0.01)
    assert (part.finished, part.closed) == (0, 0)
    go_on.set()
    assert sampler._looking.acquire(timeout=60)  # no thread of this test's outlives it
