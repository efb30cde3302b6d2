"""Profiles of the runtime engine: which of its parts run, and how often."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from ...errors import InputError

#: Periods can be between these: a tighter one would measure itself.
_LEAST_S, _MOST_S = 0.001, 3600.0


@dataclass(frozen=True)
class Profile:
    """How often each part looks, in seconds; None for a part that does not run.

    The garbage collector's pauses are always recorded: there is nothing to set.

    Attributes
    ----------
    name : str
        What the run calls it.
    wakeups : float, optional
        How long the probe thread sleeps before it measures how late it wakes.
    loops : float, optional
        How often an event loop is given a timer to run.
    scheduler : float, optional
        How often threads' run-queue waits are read, for windows of a second.
    threads : float, optional
        How often the list of threads is read.
    tasks : float, optional
        How often asyncio tasks are looked at.
    process, interpreter, heap, pools, blocks : float, optional
        How often these metrics are read: see `schema.metrics`.
    census : float, optional
        How often it is looked what holds many objects: this goes through all objects.
    tracing : float, optional
        How often the largest lines are taken from tracemalloc, which slows all
        allocations down as long as it runs.
    most_share : float
        The share of a CPU that a part may take: where it takes more, it looks less often.
    most_rows : int
        How many tasks, objects or lines of the program are written down at a time.
    """

    name: str
    wakeups: float | None = None
    loops: float | None = None
    scheduler: float | None = None
    threads: float | None = None
    tasks: float | None = None
    process: float | None = None
    interpreter: float | None = None
    heap: float | None = None
    pools: float | None = None
    blocks: float | None = None
    census: float | None = None
    tracing: float | None = None
    most_share: float = 0.001
    most_rows: int = 50

    def __post_init__(self) -> None:
        for part in PARTS:
            period = getattr(self, part)
            if period is not None and not (_is_number(period) and _LEAST_S <= period <= _MOST_S):
                raise InputError(
                    f"{part} is a period in seconds, {_LEAST_S:g} to {_MOST_S:g}, "
                    f"or None for never, not {period!r}"
                )
        if not (_is_number(self.most_share) and 0 < self.most_share <= 1):
            raise InputError(f"most_share is a share of a CPU, 0 to 1, not {self.most_share!r}")
        if not (isinstance(self.most_rows, int) and 1 <= self.most_rows <= 10_000):
            raise InputError(f"most_rows is 1 to 10000 rows, not {self.most_rows!r}")

    def period_ns(self, part: str) -> int:
        """Return the period of a part in nanoseconds; 0 if it does not run."""
        period: float | None = getattr(self, part)
        return 0 if period is None else int(period * 1e9)

    def settings(self) -> dict[str, Any]:
        """Return all but the name, as JSON values."""
        return {key: value for key, value in asdict(self).items() if key != "name"}


#: The parts that have a period.
PARTS = tuple(f.name for f in fields(Profile) if f.name not in {"name", "most_share", "most_rows"})


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


PRODUCTION = Profile(
    "production",
    wakeups=0.05,
    loops=0.1,
    scheduler=0.25,
    threads=1,
    tasks=5,
    process=1,
    interpreter=5,
    heap=5,
    pools=1,
)

STAGING = Profile(
    "staging",
    wakeups=0.01,
    loops=0.02,
    scheduler=0.05,
    threads=0.25,
    tasks=1,
    process=0.25,
    interpreter=1,
    heap=1,
    pools=0.25,
    blocks=1,
    most_share=0.01,
    most_rows=200,
)

DEBUG = Profile(
    "debug",
    wakeups=0.005,
    loops=0.01,
    scheduler=0.02,
    threads=0.1,
    tasks=0.25,
    process=0.1,
    interpreter=0.5,
    heap=0.5,
    pools=0.1,
    blocks=0.5,
    census=2,
    tracing=5,
    most_share=0.1,
    most_rows=500,
)

#: The profiles by name.
PROFILES: Mapping[str, Profile] = {p.name: p for p in (PRODUCTION, STAGING, DEBUG)}


def profile_of(chosen: str | Profile | Mapping[str, Any]) -> Profile:
    """Return the profile of this name, or with these settings.

    Raises
    ------
    InputError
        If there is no such profile or setting.
    """
    if isinstance(chosen, Profile):
        return chosen
    if isinstance(chosen, str):
        known = PROFILES.get(chosen)
        if known is None:
            raise InputError(f"a runtime profile is one of {', '.join(PROFILES)}, not {chosen!r}")
        return known
    settings = dict(chosen)
    unknown = sorted(settings.keys() - {f.name for f in fields(Profile)})
    if unknown or "name" not in settings:
        raise InputError(
            f"a runtime profile has a name and the settings {', '.join(PARTS)}, most_share, "
            f"most_rows, not {', '.join(unknown) or 'settings without a name'}"
        )
    return Profile(**settings)
