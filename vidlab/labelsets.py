"""Label sets: what an event is about (`stream_id`, `codec`, `gpu`, any other key).

A set is interned once and is then one small integer, so that an event on the
hot path carries four bytes. The current set follows the thread and the asyncio
task (a `ContextVar`); a video frame carries the set that it was born with.

Ids are local to a process: what crosses to another process crosses as text.

Rules (`labelrules`) bound how many sets there are and keep values out of what is written.
They apply to every set: to those made while they are in force as they are made, and to
those known before as well, but for budgets, from the moment they come into force.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from contextvars import ContextVar
from functools import wraps
from types import MappingProxyType
from typing import Any, ParamSpec, TypeVar

from .codecnames import normalise_codec as normalise_codec
from .errors import InputError
from .labelrules import LabelRules, RuleCount, RulesAtWork
from .names import Names as Names

P = ParamSpec("P")
R = TypeVar("R")

#: Text, but for `gpu`, which is a device index.
LabelValue = str | int

#: The id of the set without labels.
EMPTY = 0

#: A frame's own for its whole life: no set that is entered later changes them.
FRAME_KEYS = ("stream_id", "codec")

#: The current label set of this thread or task.
current: ContextVar[int] = ContextVar("vidlab_labels", default=EMPTY)

#: Called with (before, after), two ids, in the thread that has entered or left a set.
#: It must not raise.
entered: Callable[[int, int], None] | None = None

#: The rules while nothing is recorded: no label is lost early, and no program fills its memory.
AT_REST = LabelRules(budget=10_000)

#: How many results of a kind are remembered.
_MOST_REMEMBERED = 4096


class LabelSet:
    """An interned label set.

    Attributes
    ----------
    id : int
        Its number in this process.
    values : Mapping[str, str | int]
        The labels, read-only and sorted by key.
    sample_rate : float
        The share of frames that is recorded under these labels, in (0, 1].
    """

    __slots__ = ("id", "sample_rate", "values")

    def __init__(self, id: int, values: Mapping[str, LabelValue], sample_rate: float) -> None:
        self.id = id
        self.values = MappingProxyType(dict(sorted(values.items())))
        self.sample_rate = sample_rate

    def __repr__(self) -> str:
        inside = ", ".join(f"{key}={value!r}" for key, value in self.values.items())
        return f"<LabelSet {self.id}: {inside}>"


_lock = threading.RLock()
_listeners: list[Callable[[LabelSet], None]] = []

_Key = tuple[tuple[tuple[str, LabelValue], ...], float]

#: All sets by their ids, and their ids. A signal handler, or a garbage collection, may make
#: a set while one is being made: each takes the next number.
_sets: dict[int, LabelSet] = {EMPTY: LabelSet(EMPTY, {}, 1.0)}
_next_id = itertools.count(EMPTY + 1)
_numbers: dict[_Key, int] = {((), 1.0): EMPTY}

# Under the rules in force: the ids of sets that were asked for, of merged sets, and of a
# frame's set with the current one. They are read without the lock, so other rules come with
# other dictionaries.
_work = RulesAtWork(AT_REST)
_ids: dict[_Key, int] = {}
_merged: dict[tuple[object, ...], int] = {}
_frame_ids: dict[tuple[object, ...], int] = {}
#: What the rules have changed of the sets known before.
_originals: list[tuple[LabelSet, MappingProxyType[str, LabelValue]]] = []
_told: Callable[[RuleCount], None] | None = None


def intern(values: Mapping[str, Any], sample_rate: float = 1.0) -> int:
    """Return the id of this label set, as the rules leave it, new or known.

    Values are kept as text, `gpu` as a device index; a value of None leaves its
    key out.

    Raises
    ------
    InputError
        If a key is not an identifier, or `gpu` is not a device index.
    """
    clean = {key: _clean(key, value) for key, value in values.items() if value is not None}
    known = _ids.get(_key(clean, sample_rate))
    if known is not None:
        return known
    with _lock:
        added = _number(_work.apply(clean), sample_rate)
    _tell()
    return added


def _key(values: Mapping[str, LabelValue], sample_rate: float) -> _Key:
    return tuple(sorted(values.items())), sample_rate


def _number(values: dict[str, LabelValue], sample_rate: float) -> int:
    """Return the id of the set with these values, which the rules have passed."""
    key = _key(values, sample_rate)
    known = _numbers.get(key)
    if known is None:
        fewer = _work.crowd(values)
        if fewer is not None:
            return _number(fewer, sample_rate)
        added = LabelSet(next(_next_id), values, sample_rate)
        # The listeners write the set down before any event can name it.
        for listener in _listeners:
            listener(added)
        _sets[added.id] = added
        _work.count_set()
        known = _numbers[key] = added.id
    _ids[key] = known
    return known


def _clean(key: str, value: Any) -> LabelValue:
    if not key.isidentifier():
        raise InputError(f"a label's key must be an identifier such as 'stream_id', not {key!r}")
    if key != "gpu":
        # Of a text that is more, such as a member of an enumeration, the text.
        return str.__str__(value) if isinstance(value, str) else str(value)
    try:
        index = int(value)
        if not 0 <= index < 1 << 15:
            raise ValueError
    except (TypeError, ValueError):
        raise InputError(
            f"the label gpu is a device index such as 0, not {value!r}; leave it out for no GPU"
        ) from None
    return index


def get(id: int) -> LabelSet:
    """Return the label set of this id."""
    return _sets[id]


def _after_fork_in_child() -> None:
    # Another thread may have held it, and that thread is not here to let go of it.
    global _lock
    _lock = threading.RLock()


os.register_at_fork(after_in_child=_after_fork_in_child)


def under(rules: LabelRules, told: Callable[[RuleCount], None] | None = None) -> Callable[[], None]:
    """Put these rules in force in place of others; return what ends that.

    Sets known before lose what the rules redact, drop or do not keep, until then.

    Parameters
    ----------
    rules : LabelRules
    told : callable, optional
        Called with what a rule has done to a key when it has changed one distinct value,
        two, four, and so on, in the thread that gave the last.
    """
    work = RulesAtWork(rules, heard=told is not None)
    with _lock:
        _put_in_force(work, told)
        for known in list(_sets.values()):
            ruled = work.apply_to_known(known.values)
            if ruled != known.values:
                _originals.append((known, known.values))
                known.values = MappingProxyType(ruled)
        _number_anew()
    _tell()

    def end() -> None:
        with _lock:
            if _work is work:
                _put_in_force(RulesAtWork(AT_REST), None)

    return end


def _put_in_force(work: RulesAtWork, told: Callable[[RuleCount], None] | None) -> None:
    global _work, _told, _ids, _merged, _frame_ids
    _work, _told = work, told
    _ids, _merged, _frame_ids = {}, {}, {}
    for changed, values in _originals:
        changed.values = values
    if _originals:
        _originals.clear()
        _number_anew()


def _number_anew() -> None:
    """Have each set found by its values as they are now; of equal ones, the first."""
    _numbers.clear()
    for known in list(_sets.values()):
        _numbers.setdefault(_key(known.values, known.sample_rate), known.id)


def _tell() -> None:
    """Tell what the rules have come to, outside of the lock."""
    news, told = _work.news, _told
    while news and told is not None:
        with suppress(IndexError):  # another thread tells it
            told(news.popleft())


def rule_counts() -> list[RuleCount]:
    """Return what the rules in force have done so far."""
    with _lock:
        return _work.counts()


def ruled(values: Mapping[str, LabelValue]) -> dict[str, LabelValue]:
    """Return labels as the rules in force leave them, for what is written beside a set."""
    with _lock:
        return _work.apply(values)


def listen(listener: Callable[[LabelSet], None]) -> Callable[[], None]:
    """Call `listener` with every set known so far and every new one; return what ends that."""
    with _lock:
        for known in list(_sets.values()):
            listener(known)
        _listeners.append(listener)
    _tell()

    def stop() -> None:
        with _lock:
            _listeners.remove(listener)

    return stop


def extended(base: int, values: Mapping[str, Any]) -> int:
    """Return the set `base` with these labels added; a value of None takes its key away."""
    known = _sets[base]
    return intern({**known.values, **values}, known.sample_rate)


def sampled(base: int, sample_rate: float) -> int:
    """Return the set `base` as one of which this share of frames is recorded."""
    return intern(_sets[base].values, sample_rate)


def of_frame(born_with: int, here: int) -> int:
    """Return the labels of an event on a frame: what the frame was born with, and the
    current set `here`.

    `stream_id`, `codec` and the sample rate are the frame's for its whole life;
    of the other keys the current set's value counts, since it is the nearer one.
    """
    if here in (EMPTY, born_with):
        return born_with
    merged = _frame_ids
    known = merged.get((born_with, here))
    if known is None:
        frame, near = _sets[born_with], _sets[here].values
        own = {key: frame.values[key] for key in FRAME_KEYS if key in frame.values}
        known = intern({**frame.values, **near, **own}, frame.sample_rate)
        _remember(merged, (born_with, here), known)
    return known


def labels(*, stream_id: Any = ..., codec: Any = ..., gpu: Any = ..., **others: Any) -> LabelBlock:
    """Put labels on all that happens inside: a context manager and a decorator.

    The labels are merged into the current set; leaving restores exactly what was
    current before. A value of None takes a key away.

    Examples
    --------
    >>> with labels(stream_id="cam-7", codec="h264", gpu=0):
    ...     with labels(gpu=None, region="north"):
    ...         dict(get(current.get()).values)
    {'codec': 'h264', 'region': 'north', 'stream_id': 'cam-7'}
    >>> current.get()
    0
    """
    # A function, since to call a class takes longer; and what can be is done without a loop.
    block = LabelBlock()
    if not others:
        block._values = stream_id, codec, gpu
    elif len(others) == 1:
        block._values = stream_id, codec, gpu, others.popitem()
    else:
        block._values = stream_id, codec, gpu, *others.items()
    block._open = None
    return block


class LabelBlock:
    """Labels for all that happens inside; see `labels`."""

    __slots__ = ("_open", "_values")

    #: Of `_NAMED`, each the value or `...`; then (key, value) of the others.
    _values: tuple[Any, ...]
    #: What restores the set before, that and this set, and the same of the times before.
    _open: Any

    def __enter__(self) -> LabelBlock:
        before = _get()
        try:
            after = _merged[before, self._values]
        except (KeyError, TypeError):  # TypeError: a value that cannot be hashed
            after = _merge(before, self._values)
        self._open = _set(after), before, after, self._open
        if entered is not None:
            entered(before, after)
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        token, before, after, self._open = self._open
        try:
            _reset(token)
        except ValueError:  # left in another context: a generator closed by another task
            _set(before)
        if entered is not None:
            entered(after, before)

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def labelled(*args: P.args, **kwargs: P.kwargs) -> R:
            block = LabelBlock()
            block._values, block._open = self._values, None
            with block:
                return function(*args, **kwargs)

        return labelled


_get, _set, _reset = current.get, current.set, current.reset

#: The labels that are parameters of `labels`.
_NAMED = ("stream_id", "codec", "gpu")


def _merge(base: int, values: tuple[Any, ...]) -> int:
    """Return the set `base` with these labels, and remember it for both forms of the values."""
    merged, named = _merged, len(_NAMED)
    given = {key: value for key, value in zip(_NAMED, values, strict=False) if value is not ...}
    given.update(values[named:])
    plain = {key: _clean(key, value) if value is not None else None for key, value in given.items()}
    if plain.get("codec") is not None:
        plain["codec"] = normalise_codec(str(plain["codec"]))
    others = [(key, value) for key, value in plain.items() if key not in _NAMED]
    key = base, (*(plain.get(key, ...) for key in _NAMED), *others)
    found = merged.get(key)
    if found is None:
        found = extended(base, plain)
        _remember(merged, key, found)
    # Only what is equal to nothing of another text: 1, 1.0 and True are one key.
    exact = all(type(value) in _EXACT or key == "gpu" for key, value in given.items())
    if exact and given != plain:
        _remember(merged, (base, values), found)
    return found


#: Types of which equal values have one text.
_EXACT = (str, type(None))


def _remember(results: dict[tuple[object, ...], int], key: tuple[object, ...], id: int) -> None:
    """Keep a result; where too many are kept, those of before go."""
    if len(results) >= _MOST_REMEMBERED:
        results.clear()
    with suppress(TypeError):  # cannot be hashed: a device index of a strange kind
        results[key] = id
