"""What a person has chosen in the explorer: one dict of plain values, that JSON takes as it is.

Who is given the dict sees the same: it can be stored, sent, and passed to `vl.explore` again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ...errors import InputError

#: The version of these names. A state without it is taken to be of this one.
VERSION = 1

#: What is chosen at first: all of the first run.
FIRST: Mapping[str, Any] = {
    "version": VERSION,
    "run": 0,
    "stream_id": None,
    "codec": None,
    "gpu": None,
    "stage": None,
    "time_s": None,
    "latency_ms": None,
    "quantile": 0.99,
    "deadline_ms": None,
    "frame": None,
}

#: Which choices narrow which frames are looked at, by their labels.
LABELS = ("stream_id", "codec", "gpu")

_SLICE = (*LABELS, "stage", "time_s")
_BOX = (*_SLICE, "latency_ms")

#: The views, in the order in which they are read, and what of a state each depends on.
DEPENDS: Mapping[str, tuple[str, ...]] = {
    "overview": (*LABELS, "deadline_ms"),
    "latency": _SLICE,
    "worst": (*_BOX, "deadline_ms"),
    "stages": (*_BOX, "quantile"),
    "tail": _SLICE,
    "streams": (*_BOX, "quantile", "deadline_ms"),
    "memory": (*LABELS, "time_s"),
    "kernel": _SLICE,
    "runtime": ("time_s",),
    "profile": _SLICE,
    "flame": _SLICE,
    "beyond": (*_BOX, "quantile"),
    "beyond_flame": (*_BOX, "quantile"),
    "beyond_memory": (*_BOX, "quantile"),
    "waterfall": ("frame",),
    "stacks": ("frame",),
    "frame_memory": ("frame",),
}

#: The greatest frame number: 64 bits.
_MOST = (1 << 64) - 1


def checked(state: Mapping[str, Any] | None, runs: int = 1) -> dict[str, Any]:
    """Return a whole state: what is given, and else what is chosen at first.

    Parameters
    ----------
    state : mapping, optional
        Any of these: `stream_id` and `codec` (str), `gpu` (int) and `stage` (str): only that
        one, or None for all; `time_s` and `latency_ms`: a pair, from and to, in seconds since
        the run's start and in milliseconds, or None; `quantile`, above 0 and up to 1;
        `deadline_ms`: from when on a frame is late, or None for the run's own; `frame`: the
        number of the one looked at (or its digits as text: JavaScript has no such large
        numbers), or None; `run`: the index of the run; `version`.
    runs : int
        How many runs there are.

    Raises
    ------
    InputError
        If there is another name, or a value is not possible.
    """
    given = {} if state is None else dict(state)
    unknown = [str(name) for name in given if name not in FIRST]
    if unknown:
        raise InputError(
            f"the state knows nothing of {', '.join(map(repr, unknown))}: it has {', '.join(FIRST)}"
        )
    whole = {**FIRST, **given}
    if whole["version"] != VERSION:
        raise InputError(
            f"this state is of version {whole['version']!r}, and this vidlab knows version "
            f"{VERSION}: choose anew, or use the vidlab that it was copied from"
        )
    for name in ("stream_id", "codec", "stage"):
        _check(whole, name, isinstance(whole[name], str), "a text such as 'cam-1'")
    _check(whole, "gpu", _is_int(whole["gpu"]), "the number of a device, such as 0")
    run = whole["run"]
    if not _is_int(run) or not 0 <= run < runs:
        raise InputError(f"run is the index of a run, from 0 to {runs - 1}, not {run!r}")
    for name in ("time_s", "latency_ms"):
        whole[name] = _pair(name, whole[name])
    quantile = whole["quantile"]
    if not _is_number(quantile) or not 0 < quantile <= 1:
        raise InputError(
            f"quantile is above 0 and at most 1, such as 0.99 for the 99th percentile, not "
            f"{quantile!r}"
        )
    deadline = whole["deadline_ms"]
    is_deadline = _is_number(deadline) and deadline > 0
    _check(whole, "deadline_ms", is_deadline, "positive milliseconds, such as 40")
    whole["frame"] = _frame(whole["frame"])
    return whole


def key(view: str, state: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what a view depends on: in states of the same key it shows the same."""
    values = (state[name] for name in DEPENDS[view])
    return tuple(tuple(value) if isinstance(value, list) else value for value in values)


def of_labels(state: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what the state narrows labels to, as a key: (stream_id, codec, gpu)."""
    return tuple(state[name] for name in LABELS)


def _check(state: Mapping[str, Any], name: str, right: bool, words: str) -> None:
    if state[name] is not None and not right:
        raise InputError(f"{name} is {words}, or None, not {state[name]!r}")


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _pair(name: str, value: object) -> list[float] | None:
    """Return a range as a list, the lesser value first."""
    if value is None:
        return None
    if not isinstance(value, list | tuple) or len(value) != 2 or not all(map(_is_number, value)):
        raise InputError(f"{name} is a pair of numbers, from and to, or None, not {value!r}")
    return sorted(map(float, value))


def _frame(value: object) -> int | None:
    number = int(value) if isinstance(value, str) and value.isdecimal() else value
    if number is None:
        return None
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number <= _MOST:
        raise InputError(
            f"frame is a frame's number, as in the column `frame` of a run's tables, or None, not "
            f"{value!r}"
        )
    return number
