"""The sampler: one thread that lets each part look when its time has come.

Periods are kept to multiples of themselves on the clock, so that the parts' turns fall
together and the thread wakes as seldom as can be. A part that takes more of a CPU than
its share looks less often.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import partial

from ...clock import now_ns, thread_cpu_ns
from ...runs.writer import RunWriter
from .. import failures
from .pacing import Paced
from .parts import Missing, Part
from .profiles import Profile

#: How long the thread waits if no part has anything to do.
_IDLE_S = 3600.0

#: How long it waits for another thread that looks.
_BUSY_S = 0.1

#: What no step of a look is.
_OVER = object()

#: How long a long look takes is noted in stretches of so much CPU time.
_STRETCH_NS = 2_000_000

#: A step of so much CPU time gives up the GIL to nobody: Python code would be asked to.
_LONG_STEP_NS = 5_000_000

#: How much less often than asked a part looks when a finding says so.
_SLOWED = 2


class _Turn:
    """A part that runs, and when it is its turn."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self.due_ns = 0
        self.cost_ns = 0
        self.looked_ns = 0
        self.looking = False
        self.failed = False
        #: What is left of a long look that the end of the recording cut short.
        self.rest: Iterator[None] | None = None

    def took(self, cost_ns: int, period_ns: int, most_share: float, t_ns: int) -> bool:
        """Set the next turn, after one that took so much CPU time; whether that is much later."""
        # Of two turns the cheaper one counts: what is done once is not done again.
        usual_ns, self.cost_ns = min(self.cost_ns, cost_ns), cost_ns
        pause_ns = max(period_ns, int(usual_ns / most_share))
        self.due_ns = t_ns + pause_ns
        if pause_ns == period_ns:
            self.due_ns -= self.due_ns % period_ns
        return pause_ns > _SLOWED * period_ns


class Sampler:
    """Lets parts look, in a thread of its own.

    Parameters
    ----------
    writer : RunWriter
        Takes findings.
    makers : Mapping[str, callable]
        What makes each part, by the name that profiles have for its period.
    began : callable
        Called in the thread at the first turn of all, in a forked child too.
    noted : callable
        Called for each stretch of a look that has steps with the part's name, when the
        stretch began, and how long it took in nanoseconds without its own waits for the GIL:
        others may wait for that meanwhile.

    Attributes
    ----------
    profile : Profile
        Which parts look, and how often: may be set at any time, then call `wake`.
    cpu_ns : int
        The CPU time that the thread has used.
    """

    def __init__(
        self,
        writer: RunWriter,
        makers: Mapping[str, Callable[[], Part]],
        began: Callable[[], None],
        profile: Profile,
        noted: Callable[[str, int, int], None] = lambda name, t_ns, took_ns: None,
    ) -> None:
        self.profile = profile
        self.cpu_ns = 0
        self._writer = writer
        self._makers = makers
        self._began = began
        self._noted = noted
        self._has_begun = False
        self._settled: Profile | None = None
        self._turns: dict[str, _Turn] = {}
        #: Parts that this system has nothing for, and those that a finding was written of.
        self._missing: set[str] = set()
        self._slowed: set[str] = set()
        self._looking = threading.Lock()
        self._quiet = False
        self._thread = Paced(self._round, "vidlab-sampler")

    def start(self, after_s: float = 0.0) -> bool:
        """Begin in so many seconds; False if the system has no thread to give."""
        self._quiet = False
        return self._thread.start_in(after_s)

    def wake(self) -> None:
        """Follow the profile now."""
        self._thread.wake()

    def pause(self, patience_s: float) -> None:
        """End the thread; the parts stay as they are."""
        self._quiet = True
        self._thread.stop(patience_s)

    def stop(self, patience_s: float) -> None:
        """End the thread, let each part look for the last time and close."""
        self.pause(patience_s)
        # Once more, as the whole process may have stood still for all of that time.
        if not self._looking.acquire(timeout=patience_s):
            return  # a part hangs in a system call: nothing waits for it
        try:
            t_ns = now_ns()
            for name, turn in list(self._turns.items()):
                self._try(name, turn, partial(self._finish, name, turn, t_ns))
                self._try(name, turn, turn.part.close)
            self._turns.clear()
        finally:
            self._looking.release()

    def leave(self) -> None:
        """In a forked child: have no thread, and parts that know nothing of the parent's."""
        self._thread.leave()
        self._looking = threading.Lock()
        for name, turn in self._turns.items():
            self._try(name, turn, turn.part.close)
        self._turns.clear()
        self._settled = None
        self._has_begun = False
        self.cpu_ns = 0

    def _round(self) -> float:
        """Let each part look whose turn it is; return in how many seconds the next one comes."""
        if self._quiet:
            return _IDLE_S
        if not self._looking.acquire(blocking=False):  # the thread before this one still looks
            return _BUSY_S
        try:
            if not self._has_begun:
                self._has_begun = True
                self._began()
            profile = self.profile
            if profile is not self._settled:
                self._settle(profile)
            self._let_look(profile)
            self.cpu_ns = thread_cpu_ns()
            if profile is not self.profile:
                return 0.0
            next_ns = min((turn.due_ns for turn in self._turns.values()), default=0)
            return max(0.0, (next_ns - now_ns()) / 1e9) if next_ns else _IDLE_S
        except Exception:
            failures.report(self._writer, "runtime metrics")
            return 1.0
        finally:
            self._looking.release()

    def _settle(self, profile: Profile) -> None:
        """Have those parts, and only those, that the profile has a period for."""
        self._settled = profile
        self._slowed.clear()
        for name in list(self._turns):
            if not profile.period_ns(name):
                turn = self._turns.pop(name)
                self._try(name, turn, turn.part.close)
        for name, make in self._makers.items():
            if profile.period_ns(name) and name not in self._turns and name not in self._missing:
                try:
                    self._turns[name] = _Turn(make())
                except Missing as missing:
                    self._is_missing(name, missing)
                except Exception:
                    self._missing.add(name)
                    failures.report(self._writer, f"what the runtime engine's {name} would see")
        for turn in self._turns.values():
            turn.due_ns = 0

    def _let_look(self, profile: Profile) -> None:
        """Let each part look whose turn it is."""
        for name, turn in list(self._turns.items()):
            if turn.due_ns <= now_ns() and not turn.looking:
                turn.looking = True
                self._try(name, turn, partial(self._look, name, turn, profile))
                turn.looking = False

    def _look(self, name: str, turn: _Turn, profile: Profile) -> None:
        """Let a part look, and other parts between the steps of a long look."""
        t_ns = now_ns()
        period_ns = max(profile.period_ns(name), turn.part.least_period_ns)
        turn.due_ns = t_ns + period_ns  # even if it fails
        began_ns = thread_cpu_ns()
        steps = turn.part.look(t_ns)
        cost_ns = thread_cpu_ns() - began_ns
        turn.rest = None
        if steps is not None:
            for step_ns in self._timed(name, steps):
                cost_ns += step_ns
                if self._quiet:
                    turn.rest = steps
                    return
                if profile is not self.profile:
                    return
                self._let_look(profile)
        turn.looked_ns = t_ns
        if turn.took(cost_ns, period_ns, profile.most_share, t_ns) and name not in self._slowed:
            self._slowed.add(name)
            self._writer.finding(
                "runtime_part_slowed",
                f"the runtime engine's {name} takes {cost_ns / 1e6:.1f} ms a time, which is "
                f"more than its share of a CPU at every {period_ns / 1e9:g} s: it looks less often",
                severity="info",
                labels=0,
                part=name,
                profile=profile.name,
                took_ns=cost_ns,
                period_ns=period_ns,
            )

    def _finish(self, name: str, turn: _Turn, t_ns: int) -> None:
        """Let a part look for the last time, all at once.

        One that takes long goes on with the look that was cut short; and where it has looked
        within its period, it is spared: the program waits to end.
        """
        steps = turn.rest
        if steps is None:
            period_ns = max(self.profile.period_ns(name), turn.part.least_period_ns)
            steps = turn.part.finish(t_ns)
            if steps is None or t_ns - turn.looked_ns < period_ns:
                return
        for _ in self._timed(name, steps):
            pass

    def _timed(self, name: str, steps: Iterator[None]) -> Iterator[int]:
        """Take the steps of a look, and yield the CPU time that each took."""
        waits = _Waits()
        stretch_ns = 0
        over = False
        try:
            while not over:
                began_ns = thread_cpu_ns()
                over = next(steps, _OVER) is _OVER
                step_ns = thread_cpu_ns() - began_ns
                stretch_ns += step_ns
                if over or stretch_ns >= _STRETCH_NS:
                    waited_ns = waits.passed_ns()
                    # So long a step is one call of C: it keeps the GIL while it has no CPU.
                    took_ns = stretch_ns + (waited_ns if step_ns >= _LONG_STEP_NS else 0)
                    self._noted(name, now_ns() - took_ns, took_ns)
                    stretch_ns = 0
                yield step_ns
        finally:
            waits.close()

    def _try(self, name: str, turn: _Turn, call: Callable[[], None]) -> None:
        try:
            call()
        except Missing as missing:
            self._turns.pop(name, None)
            self._is_missing(name, missing)
        except Exception:  # the next time may go better
            if not turn.failed:
                turn.failed = True
                failures.report(self._writer, f"what the runtime engine's {name} would see")

    def _is_missing(self, name: str, missing: Missing) -> None:
        self._missing.add(name)
        self._writer.finding(
            "runtime_part_missing", str(missing), severity="info", labels=0, part=name
        )


class _Waits:
    """How long the calling thread waits for a CPU (see `scheduler`)."""

    def __init__(self) -> None:
        self._file = -1
        with contextlib.suppress(OSError):
            self._file = os.open("/proc/thread-self/schedstat", os.O_RDONLY | os.O_CLOEXEC)
        self._before_ns = self._read()

    def passed_ns(self) -> int:
        """Return how long it has waited since this was last asked."""
        before_ns, self._before_ns = self._before_ns, self._read()
        return self._before_ns - before_ns

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)

    def _read(self) -> int:
        with contextlib.suppress(OSError, IndexError, ValueError):
            return int(os.pread(self._file, 96, 0).split()[1])
        return 0
