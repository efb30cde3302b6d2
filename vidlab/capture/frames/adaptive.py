"""Adaptive sampling: a share of the frames that follows the machine, and all that went wrong.

All frames are recorded for now, under labels that bear the share of the moment at which they
are born. What is kept of them is chosen seconds later (`runs.lookback`): those whose turn
it is, and those that were late, failed, corrupt or lost (`exceptional`).
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ...clock import now_ns
from ...errors import InputError
from ...runs import processes
from ...runs.background import Background
from ...runs.thinning import ADAPTIVE
from .. import failures
from .sampling import Sampling
from .threadstate import Writer

#: Everything: the share while too many frames fail.
ALL = 1.0

#: How often the machine and the errors are looked at.
PERIOD_S = 1.0

_PATIENCE_S = 1.0

#: Of this many frames more than this share kept for what became of them is worth a finding.
_MANY_FRAMES, _MOST = 1000, 0.5


@dataclass(frozen=True)
class Adaptive:
    """Which share of frames is recorded, as it follows the machine and the program.

    A frame that is late, failed, corrupt or lost is recorded whole whatever the share, and
    counts for itself alone. It is late if it is not delivered within the recording's
    `deadline_ms`; without one, within three nominal frame intervals of its stream.

    Parameters
    ----------
    base : float
        The share of frames, in (0, 1].
    busy : float
        The share while the machine is busy, at most `base`.
    cpu : float
        The machine is busy while more than this share of its CPU time has been in use …
    cpu_seconds : float
        … for so long, in seconds.
    error_rate : float
        All frames are recorded while more than this share of them has failed or come out
        corrupt …
    error_seconds : float
        … for so long, in seconds.
    lookback_seconds : float
        How long after a frame it may turn out that it is to be kept, in seconds, 0.5 to 60.
        For a stream whose frames are late after more than half of that it is raised.

    Raises
    ------
    InputError
        If a value cannot be used.

    Examples
    --------
    >>> Adaptive(base=0.01, busy=0.01).parameters()["adaptive"]["base"]
    0.01
    """

    base: float = 0.1
    busy: float = 0.02
    cpu: float = 0.85
    cpu_seconds: float = 30.0
    error_rate: float = 0.05
    error_seconds: float = 10.0
    lookback_seconds: float = 5.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise InputError(f"{field.name} of adaptive sampling is a number, not {value!r}")
            least, most = _BOUNDS[field.name]
            if not least <= value <= most:
                raise InputError(
                    f"{field.name} of adaptive sampling is {least:g} to {most:g}, not {value!r}"
                )
        if self.base <= 0 or self.busy <= 0:
            raise InputError("the shares base and busy are above 0: nothing recorded tells nothing")
        if self.busy > self.base:
            raise InputError(
                f"busy, the share while the machine is busy, is at most base: not {self.busy!r} "
                f"with a base of {self.base!r}"
            )

    @classmethod
    def from_parameters(cls, values: Mapping[str, Any]) -> Adaptive:
        """Return the one whose `parameters` these are."""
        known = values[ADAPTIVE]
        unknown = set(known) - {field.name for field in fields(cls)}
        if unknown:
            raise InputError(f"adaptive sampling has no setting {', '.join(sorted(unknown))}")
        return cls(**known)

    def parameters(self) -> dict[str, Any]:
        """Return what makes another one like it, as JSON values."""
        return {ADAPTIVE: asdict(self)}


_BOUNDS = {
    "base": (0.0, 1.0),
    "busy": (0.0, 1.0),
    "cpu": (0.0, 1.0),
    "cpu_seconds": (0.0, 3600.0),
    "error_rate": (0.0, 1.0),
    "error_seconds": (0.0, 3600.0),
    "lookback_seconds": (0.5, 60.0),
}


@dataclass(frozen=True)
class Decision:
    """A share, from now on, and what it follows from."""

    rate: float
    reason: str


class Controller:
    """Decides about the share, reading by reading.

    "Has stayed above for 30 seconds" is meant to the letter: one reading that is not above
    ends it. Errors come before the machine's load.
    """

    def __init__(self, settings: Adaptive) -> None:
        self._settings = settings
        self._busy = _Streak(settings.cpu, settings.cpu_seconds)
        self._failing = _Streak(settings.error_rate, settings.error_seconds)
        self.rate = settings.base

    def read(self, t_ns: int, cpu: float | None, error_rate: float | None) -> Decision | None:
        """Take a reading; return a decision if there is a new share.

        Parameters
        ----------
        t_ns : int
            When it was taken.
        cpu : float or None
            The share of the machine's CPU time in use since the last one; None if unknown.
        error_rate : float or None
            The share of frames that failed since; None if there were no frames, which
            leaves it as it was.
        """
        settings = self._settings
        busy = self._busy.holds(t_ns, 0.0 if cpu is None else cpu)
        failing = self._failing.holds(t_ns, error_rate)
        if failing:
            decision = Decision(ALL, "errors")
        elif busy:
            decision = Decision(settings.busy, "cpu")
        else:
            decision = Decision(settings.base, "calm")
        if decision.rate == self.rate:
            return None
        self.rate = decision.rate
        return decision


class _Streak:
    """Since when a value has been above a threshold."""

    def __init__(self, threshold: float, seconds: float) -> None:
        self._threshold = threshold
        self._least_ns = int(seconds * 1e9)
        self._since_ns: int | None = None
        self._told_ns = 0

    def holds(self, t_ns: int, value: float | None) -> bool:
        """Whether it has been above for long enough. Without a value it stays as it was,
        for that long at most."""
        if value is not None:
            self._told_ns = t_ns
            if value <= self._threshold:
                self._since_ns = None
            elif self._since_ns is None:
                self._since_ns = t_ns
        elif t_ns - self._told_ns > self._least_ns:
            self._since_ns = None
        return self._since_ns is not None and t_ns - self._since_ns >= self._least_ns


class AdaptiveSampling(Sampling):
    """The share of the moment, the same for all operations."""

    chooses_later = True

    def __init__(self, share: float) -> None:
        super().__init__({})
        self._share = share
        self._told: list[weakref.WeakMethod[Callable[[], None]]] = []

    def rate(self, labels: Mapping[str, object]) -> float:
        return self._share

    def tell(self, forget: Callable[[], None]) -> None:
        self._told = [*(each for each in self._told if each() is not None)]
        self._told.append(weakref.WeakMethod(forget))

    def change(self, share: float) -> None:
        """Have frames be born with another share from now on."""
        self._share = share
        for each in list(self._told):
            forget = each()
            if forget is not None:
                forget()


class Governor:
    """Looks at the machine and at the errors, once a second, and sets the share.

    Attributes
    ----------
    births, errors, kept : int
        Counted by whoever records: frames that were born here, those of any process that
        failed or came out corrupt here, and those noted to be kept. Threads may count at the
        same time: now and then one is not counted.
    """

    def __init__(self, writer: Writer, settings: Adaptive, sampling: AdaptiveSampling) -> None:
        self.births = self.errors = self.kept = 0
        self._writer = writer
        self._sampling = sampling
        self._controller = Controller(settings)
        self._background = Background(self.round, PERIOD_S)
        self._asleep = False
        self._stopped = True
        self._failed = self._kept_most = False
        self._counted = (0, 0)
        self._cpu = machine_cpu()

    def start(self) -> None:
        """Begin: with the base share."""
        self._stopped = False
        self._write(None, Decision(self._controller.rate, "start"), None, None)
        with contextlib.suppress(RuntimeError):  # no thread is to be had
            self._background.start()
        processes.watch_forks(self)

    def stop(self) -> None:
        """End the thread."""
        self._stopped = True
        self._background.stop(_PATIENCE_S)

    def born(self) -> None:
        """Count a frame that is born."""
        self.births += 1
        if self._asleep:
            self._wake()

    def round(self) -> None:
        """Take a reading, and follow it."""
        if self._stopped:
            return
        try:
            before = self._controller.rate
            cpu, error_rate = self._cpu_share(), self._error_rate()
            decision = self._controller.read(now_ns(), cpu, error_rate)
            if decision is not None:
                self._sampling.change(decision.rate)
                self._write(before, decision, cpu, error_rate)
            self._look_at_share()
        except Exception:
            if not self._failed:
                self._failed = True
                failures.report(self._writer, "changes of the share of frames that is recorded")

    def _write(
        self,
        before: float | None,
        decision: Decision,
        cpu: float | None,
        error_rate: float | None,
    ) -> None:
        self._writer.row(
            "sampling_decisions",
            labels=0,
            rate=decision.rate,
            rate_before=before,
            reason=decision.reason,
            cpu=cpu,
            error_rate=error_rate,
        )

    def _cpu_share(self) -> float | None:
        before, self._cpu = self._cpu, machine_cpu()
        if before is None or self._cpu is None or self._cpu[1] <= before[1]:
            return None
        return (self._cpu[0] - before[0]) / (self._cpu[1] - before[1])

    def _error_rate(self) -> float | None:
        births, errors = self.births, self.errors
        new, failed = births - self._counted[0], errors - self._counted[1]
        if not new and not failed:
            return None
        self._counted = births, errors
        return failed / max(new, failed)

    def _look_at_share(self) -> None:
        """Say once that sampling saves little."""
        kept, births = self.kept, self.births
        if not self._kept_most and births >= _MANY_FRAMES and kept > _MOST * births:
            self._kept_most = True
            self._writer.finding(
                "sampling_keeps_most",
                f"{kept} of {births} frames were kept for what became of them, so that sampling "
                "saves little: if most are late, record with parameters={'deadline_ms': …}",
                severity="info",
                labels=0,
                kept=kept,
                frames=births,
            )

    # --- forks ------------------------------------------------------------------------

    def before_fork(self) -> None:
        """Have no thread while the process forks."""
        if not self._stopped:
            self._background.stop(patience_s=0.25)

    def after_fork_in_parent(self) -> None:
        """Go on."""
        if not self._stopped and not self._asleep:
            with contextlib.suppress(RuntimeError):
                self._background.start()

    def after_fork_in_child(self) -> None:
        """Wait for a frame to be born: a child that only takes frames over decides nothing."""
        self._background.leave()
        self._asleep = not self._stopped

    def _wake(self) -> None:
        self._asleep = False
        self._counted, self._cpu = (self.births, self.errors), machine_cpu()
        with contextlib.suppress(RuntimeError):
            self._background.start()


_STAT = Path("/proc/stat")


def machine_cpu() -> tuple[int, int] | None:
    """Return the machine's CPU time so far, in use and in all; None if it is not told.

    The first line of /proc/stat: user, nice, system, idle, iowait, irq, softirq and steal,
    in ticks (proc(5)). What waits for input or output uses no CPU.
    """
    try:
        with _STAT.open("rb") as file:
            ticks = [int(each) for each in file.readline().split()[1:9]]
        return sum(ticks) - ticks[3] - ticks[4], sum(ticks)
    except (OSError, ValueError, IndexError):
        return None
