"""Label sets: what an event is about (`stream_id`, `codec`, `gpu`, any other key).

A set is interned once and is then one small integer, so that an event on the
hot path carries four bytes. The current set follows the thread and the asyncio
task (a `ContextVar`); a video frame carries the set that it was born with.

Ids are local to a process: what crosses to another process crosses as text.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Mapping
from contextvars import ContextVar, Token
from functools import wraps
from types import MappingProxyType, TracebackType
from typing import Any, ParamSpec, TypeVar

from .errors import InputError

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
_sets: list[LabelSet] = [LabelSet(EMPTY, {}, 1.0)]
_ids: dict[tuple[tuple[tuple[str, LabelValue], ...], float], int] = {((), 1.0): EMPTY}
_frame_ids: dict[tuple[int, int], int] = {}
_listeners: list[Callable[[LabelSet], None]] = []


def intern(values: Mapping[str, Any], sample_rate: float = 1.0) -> int:
    """Return the id of this label set, new or known.

    Values are kept as text, `gpu` as a device index; a value of None leaves its
    key out.

    Raises
    ------
    InputError
        If a key is not an identifier, or `gpu` is not a device index.
    """
    clean = {key: _clean(key, value) for key, value in values.items() if value is not None}
    key = (tuple(sorted(clean.items())), sample_rate)
    known = _ids.get(key)
    if known is not None:
        return known
    with _lock:
        if key in _ids:
            return _ids[key]
        added = LabelSet(len(_sets), clean, sample_rate)
        # The listeners write the set down before any event can name it.
        for listener in _listeners:
            listener(added)
        _sets.append(added)
        _ids[key] = added.id
        return added.id


def _clean(key: str, value: Any) -> LabelValue:
    if not key.isidentifier():
        raise InputError(f"a label's key must be an identifier such as 'stream_id', not {key!r}")
    if key != "gpu":
        return str(value)
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


def listen(listener: Callable[[LabelSet], None]) -> Callable[[], None]:
    """Call `listener` with every set known so far and every new one; return what ends that."""
    with _lock:
        for known in _sets:
            listener(known)
        _listeners.append(listener)

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
    known = _frame_ids.get((born_with, here))
    if known is None:
        frame, near = _sets[born_with], _sets[here].values
        own = {key: frame.values[key] for key in FRAME_KEYS if key in frame.values}
        known = intern({**frame.values, **near, **own}, frame.sample_rate)
        _frame_ids[born_with, here] = known
    return known


class labels:
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

    __slots__ = ("_tokens", "_values")

    def __init__(self, **values: Any) -> None:
        if "codec" in values and values["codec"] is not None:
            values["codec"] = normalise_codec(str(values["codec"]))
        self._values = values
        self._tokens: list[tuple[Token[int], int]] = []

    def __enter__(self) -> labels:
        before = current.get()
        self._tokens.append((current.set(extended(before, self._values)), before))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        token, before = self._tokens.pop()
        try:
            current.reset(token)
        except ValueError:  # left in another context: a generator closed by another task
            current.set(before)

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def labelled(*args: P.args, **kwargs: P.kwargs) -> R:
            with labels(**self._values):
                return function(*args, **kwargs)

        return labelled


#: FFmpeg's decoder and encoder names, FourCCs and everyday names of the same codec.
_CODECS = {
    "avc": "h264",
    "avc1": "h264",
    "h265": "hevc",
    "hev1": "hevc",
    "hvc1": "hevc",
    "x264": "h264",
    "x265": "hevc",
    "dav1d": "av1",
    "av01": "av1",
    "svtav1": "av1",
    "vp09": "vp9",
    "vpx": "vp8",
    "vpx_vp9": "vp9",
    "mpeg2": "mpeg2video",
    "mp4v": "mpeg4",
    "fmp4": "mpeg4",
    "xvid": "mpeg4",
    "divx": "mpeg4",
    "vp80": "vp8",
    "vp90": "vp9",
    "mjpg": "mjpeg",
}


def normalise_codec(name: str) -> str:
    """Return FFmpeg's name of the codec for what a decoder, encoder or file calls it.

    >>> [normalise_codec(n) for n in ("libx264", "H.265", "av01", "h264_cuvid", "libvpx-vp9")]
    ['h264', 'hevc', 'av1', 'h264', 'vp9']
    """
    plain = name.strip().lower().replace(".", "").replace("-", "_").replace("/", "_")
    plain = plain.removeprefix("lib")
    for hardware in ("_cuvid", "_nvenc", "_qsv", "_vaapi", "_v4l2m2m", "_videotoolbox", "_amf"):
        plain = plain.removesuffix(hardware)
    return _CODECS.get(plain, plain)


class Names:
    """Interned names (stages, queues, sinks) of one recording: text to a number below 65,536.

    `write` is called with each new (number, text) before the number is handed out.
    """

    #: What all names beyond the last free number are called.
    OVERFLOW = "(other)"

    def __init__(self, write: Callable[[int, str], None]) -> None:
        self._write = write
        self._lock = threading.RLock()  # a garbage collection inside may come back here
        self._numbers: dict[str, int] = {}
        self._count = itertools.count()
        self.number(self.OVERFLOW)

    def after_fork_in_child(self) -> None:
        """Forget a lock that a thread of the parent may have held."""
        self._lock = threading.RLock()

    def number(self, name: str) -> int:
        """Return the number of this name, new or known."""
        known = self._numbers.get(name)
        if known is not None:
            return known
        with self._lock:
            if name not in self._numbers:
                if len(self._numbers) >= 1 << 16:
                    return self._numbers[self.OVERFLOW]
                number = next(self._count)
                self._write(number, name)
                self._numbers[name] = number
            return self._numbers[name]
