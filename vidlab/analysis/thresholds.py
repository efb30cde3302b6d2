"""From when on something about the runtime is worth a word, and what is said then."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from ..errors import InputError

_MIB = 1 << 20


@dataclass(frozen=True)
class Thresholds:
    """The limits of `health.verdicts`. `dataclasses.replace` changes some of them.

    Attributes
    ----------
    pause_growth_ms, pauses_in_a_row
        Collections get longer: so many in a row, each by more than this than the one before.
    generation_2_ms
        Half of the full collections take longer than this; at 60 frames a second one takes
        17 ms.
    delay_p99_ms
        One in a hundred times that a thread could run it waited longer for a CPU.
    gil_median_ms, gil_p99_ms
        Python waited longer than this for the GIL half of the time, or one time in a hundred.
        A thread of pure Python gives it up every 5 ms; a call of native code that holds it
        does not.
    loop_delay_ms
        One in a hundred timers of an event loop ran later than this.
    fragmentation, fragmentation_bytes
        Of what malloc has taken a larger share is free, and no less than so many bytes.
    queue_growth
        A queue without a limit got longer and longer, by so many at least.
    item_growth, byte_growth
        A cache or context variable got larger and larger, by so many items, or bytes.
    context_bytes
        A context variable keeps so many bytes all the time.
    task_age_seconds
        An asyncio task has waited in one place for so long since it was first seen.
    """

    pause_growth_ms: float = 50.0
    pauses_in_a_row: int = 3
    generation_2_ms: float = 25.0
    delay_p99_ms: float = 10.0
    gil_median_ms: float = 2.0
    gil_p99_ms: float = 20.0
    loop_delay_ms: float = 50.0
    fragmentation: float = 0.35
    fragmentation_bytes: int = 32 * _MIB
    queue_growth: int = 30
    item_growth: int = 100
    byte_growth: int = 4 * _MIB
    context_bytes: int = 32 * _MIB
    task_age_seconds: float = 10.0

    def __post_init__(self) -> None:
        for known in fields(self):
            value = getattr(self, known.name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
                raise InputError(
                    f"the threshold {known.name} is a number above zero, such as "
                    f"{known.default}, not {value!r}"
                )


@dataclass(frozen=True)
class Verdict:
    """Something about the runtime that should not be.

    Attributes
    ----------
    kind : str
        What it is.
    subject : str
        Which thread, task, holder, queue or process, by its name.
    message : str
        What was seen, and what to do about it.
    value, threshold : float
        What was measured, and from which value on it is said; both in `unit`.
    pid : int or None
        The process.
    t_ns : int or None
        Since when, if that is known.
    evidence : dict
        The numbers behind it.
    """

    kind: str
    subject: str
    message: str
    value: float
    threshold: float
    unit: str
    pid: int | None = None
    t_ns: int | None = None
    evidence: dict[str, Any] = field(default_factory=dict)
