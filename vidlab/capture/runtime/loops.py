"""How late event loops run their timers, each measured from within.

A loop that is found to run is given a timer that notes how late it was and sets itself
again. A loop of asyncio is found as it begins to run; one that ran before, or that is of
uvloop or its like, by the tasks that it runs.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import weakref
from asyncio import AbstractEventLoop, Handle, events
from contextvars import Context
from types import ModuleType
from typing import Any

from ...clock import now_ns
from ...runs.writer import RunWriter
from ...schema import TABLES
from ..patching import Patches
from . import tasks
from .threads import number_of

_RECORD = TABLES["loop_delays"].record
assert _RECORD is not None
_SIZE = _RECORD.size
_pack_into = _RECORD.struct.pack_into

#: With more loops than this, each is measured less often: together they cost no more.
_MOST_AT_FULL_RATE = 8

#: A timer that is run so much before it is due, so often, is not of this world's time.
_EARLY_SHARE, _MOST_EARLY = 0.5, 3

#: Loops whose start cannot be seen from asyncio, by module: their class can be patched.
_FOREIGN = ("uvloop", "rloop")


class Loop:
    """What is known of one event loop. All but `begin` and `end` is called in its thread."""

    def __init__(self, loops: Loops, loop: AbstractEventLoop, number: int) -> None:
        self._loops = loops
        self._loop = weakref.ref(loop)
        self.number = number
        #: The thread that runs it, as the kernel numbers it; 0 if that is not known.
        self.tid = 0
        self.ticking = False
        self._handle: Handle | None = None
        #: Which beginning a timer is of: those of earlier ones do nothing.
        self._turn = 0
        self._due_ns = self._period_ns = 0
        self._early = 0

    def begin(self, here: bool) -> None:
        """Give the loop its timer, from its own thread or from another one."""
        loop = self._loop()
        if loop is None or self._early >= _MOST_EARLY:
            return
        self._turn += 1
        self.ticking = True
        if here:
            self._set(loop)
        else:
            turn = self._turn
            _call(loop.call_soon_threadsafe, self._asked, turn)

    def end(self, here: bool) -> None:
        """Take the timer away, from the loop's own thread or from another one."""
        self._turn += 1
        self.ticking = False
        handle, self._handle = self._handle, None
        loop = self._loop()
        if handle is None or loop is None or loop.is_closed():
            return
        if here or not loop.is_running():
            handle.cancel()
        else:
            with contextlib.suppress(RuntimeError):  # it is closed meanwhile
                _call(loop.call_soon_threadsafe, handle.cancel)

    def _asked(self, turn: int) -> None:
        loop = self._loop()
        if turn == self._turn and loop is not None:
            self._set(loop)

    def _set(self, loop: AbstractEventLoop) -> None:
        period_ns = self._loops.period_ns
        if not period_ns:
            self.ticking = False
            return
        self.tid = threading.get_native_id()
        self._period_ns = period_ns
        self._due_ns = now_ns() + period_ns
        self._handle = _call(loop.call_later, period_ns / 1e9, self._tick, self._turn)

    def _tick(self, turn: int) -> None:
        t_ns = now_ns()
        self._handle = None
        loop = self._loop()
        if turn != self._turn or loop is None:
            return
        try:
            late_ns = t_ns - self._due_ns
            if late_ns < -self._period_ns * _EARLY_SHARE:
                self._early += 1
                if self._early >= _MOST_EARLY:  # a test's clock: it is not measured any more
                    self.ticking = False
                    return
            else:
                self._loops.write(self, self._due_ns, max(0, late_ns), self._period_ns)
            self._set(loop)
        except Exception:  # the program's loop goes on
            self.ticking = False
            self._loops.failed()


class Loops:
    """Finds the event loops, and writes `loop_delays`.

    Attributes
    ----------
    period_ns : int
        How often each loop is measured; 0 for not at all.
    """

    #: How often loops are looked for that were not seen as they began.
    least_period_ns = 500_000_000

    def __init__(self, writer: RunWriter) -> None:
        self._writer = writer
        self._patches = Patches()
        self._known: weakref.WeakKeyDictionary[AbstractEventLoop, Loop] = (
            weakref.WeakKeyDictionary()
        )
        #: Loops that a parent process ran as this one was forked: copies that stand still.
        self._inherited: weakref.WeakSet[AbstractEventLoop] = weakref.WeakSet()
        self._numbers = itertools.count(1)
        self._asked_period_ns = 0
        self.period_ns = 0
        self._over = False

    def start(self) -> None:
        """See loops begin to run from now on."""
        begin = events._set_running_loop

        def watched(loop: AbstractEventLoop | None) -> None:
            before = events._get_running_loop()
            begin(loop)
            self._changed(before, loop)

        self._patches.set(events, "_set_running_loop", watched)
        for name in _FOREIGN:
            self._patches.when_imported(name, self._watch_foreign)

    def follow(self, period_ns: int) -> None:
        """Measure as often as this from now on."""
        self._asked_period_ns = period_ns
        self._spread()

    def look(self, t_ns: int) -> None:
        """Find loops that run and are not measured yet; called in the sampler's thread."""
        for loop in {id(loop): loop for loop in tasks.loops_of_some()}.values():
            if self._is_inherited(loop):
                continue
            known = self._of(loop)
            if known is not None and not known.ticking and self.period_ns and loop.is_running():
                with contextlib.suppress(RuntimeError):  # it is closed meanwhile
                    known.begin(here=False)
        self._spread()

    def identify(self, loop: AbstractEventLoop) -> tuple[int, int] | None:
        """Return the loop's number within the process, and its thread; 0 for what is not known.

        None for a copy of a parent's loop, which does not run here.
        """
        if self._is_inherited(loop):
            return None
        known = self._of(loop)
        return (0, 0) if known is None else (known.number, known.tid or _thread_of(loop))

    def finish(self, t_ns: int) -> None:
        """Nothing is left to be seen."""

    def close(self) -> None:
        """Measure no more: the part is not in the profile."""
        self.follow(0)

    def stop(self) -> None:
        """Leave the program's loops without timers of ours."""
        self._over = True
        self.period_ns = 0
        self._patches.restore()
        running = events._get_running_loop()
        for loop, known in list(self._known.items()):
            with contextlib.suppress(Exception):  # a loop of a kind of its own
                known.end(here=loop is running)
        self._known.clear()

    def forget(self) -> None:
        """In a forked child: the parent's loops do not run here, whatever they say."""
        here = [*self._known, *tasks.loops_of_some()]
        self._known.clear()
        for loop in here:
            with contextlib.suppress(TypeError):
                self._inherited.add(loop)

    def write(self, loop: Loop, due_ns: int, late_ns: int, period_ns: int) -> None:
        """Write down how late a loop's timer was; called in the loop's thread."""
        buffer = self._writer.buffer("loop_delays")
        position = buffer.position
        if position == buffer.end:
            position = buffer.roll()
        buffer.position = position + _SIZE
        _pack_into(buffer.view, position, due_ns, late_ns, period_ns, 0, loop.number, 0, 0, 1)

    def failed(self) -> None:
        """Count a measurement that was lost."""
        self._writer.lost("loop_delays", 1)

    def _is_inherited(self, loop: AbstractEventLoop) -> bool:
        with contextlib.suppress(TypeError):
            return loop in self._inherited
        return False

    def _of(self, loop: AbstractEventLoop) -> Loop | None:
        with contextlib.suppress(TypeError):  # one that no weak reference can be made to
            known = self._known.get(loop)
            if known is None:
                known = self._known[loop] = Loop(self, loop, next(self._numbers))
            return known
        return None

    def _changed(self, before: AbstractEventLoop | None, loop: AbstractEventLoop | None) -> None:
        """A thread begins to run a loop, or does no more."""
        if self._over:
            return
        with contextlib.suppress(Exception):
            if before is not None and before is not loop:
                ended = self._known.get(before)
                if ended is not None:
                    ended.end(here=True)
            if loop is not None:
                self._inherited.discard(loop)
            if loop is not None and self.period_ns:
                known = self._of(loop)
                if known is not None and not known.ticking:
                    known.begin(here=True)

    def _spread(self) -> None:
        ticking = sum(known.ticking for known in list(self._known.values()))
        self.period_ns = self._asked_period_ns * max(1, -(-ticking // _MOST_AT_FULL_RATE))

    def _watch_foreign(self, module: ModuleType) -> None:
        """See a loop begin to run whose code is not Python's."""
        kind: Any = getattr(module, "Loop", None)
        run_forever = getattr(kind, "run_forever", None)
        if run_forever is None:
            return
        loops = self

        def watched(self: AbstractEventLoop) -> None:
            loops._changed(None, self)
            try:
                run_forever(self)
            finally:
                loops._changed(self, None)

        self._patches.set(kind, "run_forever", watched)


def _thread_of(loop: AbstractEventLoop) -> int:
    """Return the thread that runs a loop of asyncio's own."""
    active: dict[int, threading.Thread] = vars(threading).get("_active", {})
    return number_of(active.get(getattr(loop, "_thread_id", None) or 0))


def _call(schedule: Any, *arguments: Any) -> Any:
    """Schedule a call that has nothing of the program's context."""
    return schedule(*arguments, context=Context())
