"""The engine `Runtime`: what the interpreter, its threads and its heap do to a pipeline."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from typing import Any

from ...runs import processes
from ...runs.writer import RunWriter
from .census import Census
from .collector import Collector
from .heap import Heap
from .interpreter import Blocks, Interpreter
from .loops import Loops
from .parts import Metrics, Missing, Part, Pen, Reading, Source
from .pools import Pools
from .process import Process
from .profiles import PROFILES, Profile, profile_of
from .sampler import Sampler
from .scheduler import Scheduler
from .tasks import Tasks
from .threads import Threads
from .tracing import Tracing
from .wakeups import Probe

#: How long the end of a recording waits for a look that is going on, and a fork does.
_PATIENCE_S, _FORK_PATIENCE_S = 2.0, 0.25

#: A forked child that ends sooner is not looked at.
_CHILD_AFTER_S = 0.25


class Runtime:
    """Records runtime health: pauses, waits, delays, heaps and pools, threads and tasks.

    Tables: `gc_pauses`, `thread_waits`, `wakeups`, `loop_delays`, `threads`, `tasks` and
    `runtime_metrics` (`schema.metrics` lists them); with the profile `debug` also `objects`
    and `host_allocations`. Every switch of the profile is in `runtime_profiles`.

    Two threads of its own look at the process; they are not in `threading.enumerate()`.
    What a system does not tell is left out, and a finding says so once.

    Parameters
    ----------
    profile : {"production", "staging", "debug"}, Profile or Mapping
        What is looked at, and how often: at most a hundredth of a CPU in all; at full rate;
        also what costs much, such as tracemalloc. A mapping has a `Profile`'s settings.

    Raises
    ------
    InputError
        If there is no such profile, or a setting cannot be used.

    Examples
    --------
    >>> Runtime("staging").parameters()
    {'profile': 'staging'}
    """

    name = "runtime"

    def __init__(self, profile: str | Profile | Mapping[str, Any] = "production") -> None:
        self._profile = profile_of(profile)
        self._first = self._profile
        self._lock = threading.RLock()  # a signal handler may switch while a thread does
        self._writer: RunWriter | None = None
        self._collector: Collector | None = None
        self._sampler: Sampler | None = None
        self._probe: Probe | None = None
        self._loops: Loops | None = None
        self._sources: list[Source] | None = None

    @property
    def profile(self) -> Profile:
        """What is looked at now, and how often."""
        return self._profile

    def parameters(self) -> dict[str, Any]:
        """Return the keyword arguments that make another one like it was at the start."""
        first = self._first
        if PROFILES.get(first.name) == first:
            return {"profile": first.name}
        return {"profile": {"name": first.name, **first.settings()}}

    def start(self, writer: RunWriter) -> None:
        """Begin to record into this run."""
        if self._collector is not None:
            return
        self._writer = writer
        self._first = self._profile
        collector = self._collector = Collector(writer)
        self._loops = Loops(writer)
        self._probe = Probe(writer)
        pen = Pen(writer)
        self._sampler = Sampler(
            writer, self._makers(writer, pen), self._begun, self._profile, pen.took
        )
        collector.start()
        try:
            self._loops.start()
            self._follow()
            if not self._sampler.start():
                writer.finding(
                    "runtime_not_sampled",
                    "the system has no thread to give, so of the runtime only the garbage "
                    "collector's pauses are recorded: allow the process more threads",
                    labels=0,
                )
            processes.watch_forks(self)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Leave the program without threads, callbacks and timers of vidlab's."""
        with self._lock:
            collector, sampler = self._collector, self._sampler
            probe, loops = self._probe, self._loops
            self._collector = self._sampler = self._probe = self._loops = None
        if probe is not None:
            probe.stop(_PATIENCE_S)
        if sampler is not None:
            sampler.stop(_PATIENCE_S)
        if loops is not None:
            loops.stop()
        if collector is not None:
            collector.stop()
        for source in self._sources or ():
            source.close()
        self._sources = self._writer = None

    def switch(self, profile: str | Profile | Mapping[str, Any], reason: str = "") -> None:
        """Go on with another profile from now on: in any thread, at any time.

        Nothing that is being recorded is lost by it. Before a recording it sets the
        profile to start with. Children that are forked later have it too; those that
        start afresh have the one of the start.

        Parameters
        ----------
        profile : {"production", "staging", "debug"}, Profile or Mapping
            As for the engine itself.
        reason : str
            Why, for whoever reads `runtime_profiles`.

        Raises
        ------
        InputError
            If there is no such profile, or a setting cannot be used.
        """
        chosen = profile_of(profile)
        with self._lock:
            before, self._profile = self._profile, chosen
            if self._writer is None or self._sampler is None:
                self._first = chosen
                return
            if before == chosen:
                return
            self._note(before.name, reason)
            self._sampler.profile = chosen
            self._follow()
            self._sampler.wake()

    def read_once(self) -> list[Reading]:
        """Read one set of all metrics now, and return it: nothing is written.

        Returns
        -------
        list of (str, str, float)
            A metric's name, its attribute (see `schema.metrics`) and its value.
        """
        if self._sources is None:
            self._sources = list(self._readable())
        return [reading for source in self._sources for reading in source.read()]

    # --- inside -----------------------------------------------------------------------

    def _makers(self, writer: RunWriter, pen: Pen) -> dict[str, Callable[[], Part]]:
        """Return what makes each part, in the order in which they look, and end."""
        loops = self._loops
        assert loops is not None

        def most_rows() -> int:
            return self._profile.most_rows

        return {
            "scheduler": lambda: Scheduler(writer, pen),
            "process": lambda: Metrics(pen, Process(self._own_cpu)),
            "pools": lambda: Metrics(pen, Pools()),
            "interpreter": lambda: Metrics(pen, Interpreter()),
            "heap": lambda: Metrics(pen, Heap()),
            "blocks": lambda: Metrics(pen, Blocks()),
            "threads": lambda: Threads(writer),
            "loops": lambda: loops,
            "tasks": lambda: Tasks(writer, pen, loops.identify, most_rows),
            # Ends before the census, whose own objects it would make dearer.
            "tracing": lambda: Tracing(writer, pen, most_rows),
            "census": lambda: Census(writer, most_rows),
        }

    def _readable(self) -> list[Source]:
        """Return where metrics can be read here."""
        found: list[Source] = []
        for make in (
            lambda: Process(self._own_cpu),
            Scheduler,
            Interpreter,
            Blocks,
            Heap,
            Pools,
        ):
            try:
                found.append(make())
            except Missing:
                continue
        return found

    def _own_cpu(self) -> dict[str, int]:
        """Return the CPU time of the engine's threads, in nanoseconds."""
        sampler, probe = self._sampler, self._probe
        if sampler is None or probe is None:
            return {}
        return {"sampler": sampler.cpu_ns, "probe": probe.cpu_ns}

    def _begun(self) -> None:
        """In the sampler's thread, as it first looks: in a forked child, too."""
        with self._lock:
            self._note(None, "")
            self._follow()

    def _note(self, before: str | None, reason: str) -> None:
        """Write down which profile is followed from now on."""
        if self._writer is not None:
            settings = self._profile.settings()
            self._writer.row(
                "runtime_profiles",
                labels=0,
                profile=self._profile.name,
                profile_before=before,
                reason=reason or None,
                settings=json.dumps(settings),
            )

    def _follow(self) -> None:
        """Have the probe and the loops follow the profile."""
        profile, probe, loops = self._profile, self._probe, self._loops
        if probe is not None and loops is not None:
            probe.follow(profile.period_ns("wakeups"))
            loops.follow(profile.period_ns("loops"))

    # --- forks ------------------------------------------------------------------------

    def before_fork(self) -> None:
        """Have no threads while the process forks."""
        if self._probe is not None and self._sampler is not None:
            self._probe.stop(_FORK_PATIENCE_S)
            self._sampler.pause(_FORK_PATIENCE_S)

    def after_fork_in_parent(self) -> None:
        """Go on."""
        if self._sampler is not None:
            self._follow()
            self._sampler.start()

    def after_fork_in_child(self) -> None:
        """Look at the child, if it lives for a while: looking makes it a process of the run."""
        self._lock = threading.RLock()
        self._sources = None
        if self._probe is None or self._sampler is None or self._loops is None:
            return
        self._probe.leave()
        self._sampler.leave()
        self._loops.forget()
        self._sampler.start(_CHILD_AFTER_S)
