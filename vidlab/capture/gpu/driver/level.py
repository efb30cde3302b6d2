"""The driver level: what CuPy takes from the CUDA runtime, and what it gives back.

CuPy's calls are led to trampolines (`slots`), which tell this module before and after each.
So everything is seen that CuPy takes itself, on all threads: for its pools and without them,
device, managed, stream-ordered and pinned memory, and the releases of a pool's memory. What
other libraries take from CUDA is not.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Hashable
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from ....clock import now_ns
from ....errors import VidlabError
from ....schema import ASYNC, BY_RELEASE, DEVICE, DRIVER, MANAGED, PINNED
from ...patching import Patches
from .. import faults
from ..tracking.live import Block
from ..tracking.tracker import IN_POOL, Tracker
from . import direct, hazards, sizes
from .slots import RUNTIME, Slots, extension

#: The kind of memory that each function takes.
_TAKES = {
    "malloc": DEVICE,
    "mallocManaged": MANAGED,
    "mallocAsync": ASYNC,
    "mallocFromPoolAsync": ASYNC,
    "hostAlloc": PINNED,
}
#: The kind that each function gives back, where the block is not known.
_GIVES = {"free": DEVICE, "freeAsync": ASYNC, "freeHost": PINNED}

#: How many addresses that were freed are remembered, with the places that freed them.
MOST_FREED = 16_384

#: Files below this folder record: what they do, the program does.
_OURS = str(Path(__file__).parents[2]) + os.sep

#: Where something was done: a code object and the position in it.
_Place = tuple[CodeType, int]


#: An allocation under way: tracker, kind, device, size, stream.
_Taking = tuple[Tracker, int, int, int, int]

#: A free under way: tracker, the block (out of the live set already), kind, device, address,
#: size, stream.
_Giving = tuple[Tracker, Block | None, int, int, int, int, int]


class _Level:
    """What is told of CuPy's calls, and what becomes of it."""

    def __init__(self, native: Any) -> None:
        self.native = native
        self.slots = Slots(native)
        self.patches = Patches()
        self.tracker: Tracker | None = None
        self._device: Callable[[], int] = int
        self._freed_at: dict[int, _Place] = {}

    def start(self, runtime: ModuleType) -> None:
        """Be told of the calls of CuPy's runtime module; what was led elsewhere since, too."""
        self.slots.install(runtime)
        self._device = runtime.getDevice
        tell = direct.Tell(self.allocating, self.allocated, self.freeing, self.freed, self.native)
        direct.replace(runtime, self.patches, tell)
        # A copy of the runtime module's names, made when somebody imports it by this name.
        self.patches.when_imported(
            "cupy.cuda.runtime", lambda module: direct.replace(module, self.patches, tell)
        )
        self.native.handlers(self.allocating, self.allocated, self.freeing, self.freed)

    def stop(self) -> None:
        """Leave CuPy's calls as they were."""
        self.slots.uninstall()
        self.native.handlers(None, None, None, None)
        self.patches.restore()

    def follow(self, tracker: Tracker | None) -> None:
        """Report to this tracker from now on."""
        if tracker is self.tracker:
            return
        hazards.stop()
        self.tracker = tracker
        self._freed_at.clear()
        if tracker is not None:
            hazards.start(self.native, tracker)

    # --- what the trampolines call: see driver.c -------------------------------------------

    def allocating(self, name: str, size: int, stream: int) -> _Taking | None:
        kind, tracker, fault = _TAKES[name], self.tracker, faults.armed
        taking = None
        if tracker is not None:
            device, current = self._where()
            taking = (tracker, kind, device, size, current if stream < 0 else stream)
        if fault is not None:
            t0 = now_ns()
            try:
                fault.check(DRIVER, kind, size)
            except Exception as error:
                if taking is not None:
                    self.allocated(taking, 0, error, t0, now_ns())
                raise
        return taking

    def allocated(
        self, taking: _Taking, address: int, error: BaseException | None, t0: int, t1: int
    ) -> None:
        tracker, kind, device, size, stream = taking
        try:
            if error is not None:
                tracker.failed(DRIVER, kind, device, size, stream, t0, t1, status_of(error))
            elif address:
                self._freed_at.pop(address, None)
                state = tracker.local.state
                state.driver_kind = kind
                pooled = state.inside == IN_POOL
                tracker.allocated(DRIVER, kind, device, address, size, size, stream, t0, t1, pooled)
        except Exception:
            tracker.failure()

    def freeing(self, name: str, address: int, stream: int) -> _Giving | None:
        tracker = self.tracker
        if tracker is None or not address:
            return None
        block = tracker.retire(DRIVER, address)
        if block is not None:
            kind, device, size = block.kind, block.device, block.size_bytes
        else:  # older than the recording, if it is one: asked while it is there
            kind, device, size = _GIVES[name], self._where()[0], sizes.of(address)
        return tracker, block, kind, device, address, size, max(stream, 0)

    def freed(self, giving: _Giving, error: BaseException | None, t0: int, t1: int) -> None:
        tracker, block, kind, device, address, size, stream = giving
        try:
            if error is None:
                by = BY_RELEASE if block is not None and block.pooled else None
                tracker.freed(block, DRIVER, kind, device, address, size, stream, t0, t1, "ok", by)
                self._remember(address)
                return
            status = status_of(error)
            if block is None:
                size = 0
                self._refused(tracker, address, status)
            tracker.freed(block, DRIVER, kind, device, address, size, stream, t0, t1, status)
            if block is not None:  # it is there still: CuPy tries another way
                tracker.live.at(DRIVER).setdefault(address, block)
        except Exception:
            tracker.failure()

    # --- frees that the runtime refuses ----------------------------------------------------

    def _remember(self, address: int) -> None:
        place = _here()
        if place is None:
            return
        freed = self._freed_at
        freed.pop(address, None)  # so that it is the newest
        freed[address] = place
        if len(freed) > MOST_FREED:
            # Not one by one with next(iter(…)): another thread may come in between.
            for oldest in list(freed)[: MOST_FREED // 8]:
                freed.pop(oldest, None)

    def _refused(self, tracker: Tracker, address: int, status: str) -> None:
        first, now = self._freed_at.get(address), _text(_here())
        if first is not None:
            tracker.finding(
                "double_free",
                f"memory at {address:#x} is freed a second time, at {now}; "
                f"it was freed at {_text(first)}",
                severity="error",
                address=address,
                freed_at=_text(first),
                freed_again_at=now,
                status=status,
            )
        else:
            tracker.finding(
                "unknown_pointer",
                f"{address:#x} is freed at {now}, and CUDA knows no memory there",
                severity="error",
                address=address,
                freed_at=now,
                status=status,
            )

    def _where(self) -> tuple[int, int]:
        """The current device, and the current stream."""
        try:
            return self._device(), self.native.current_stream()
        except Exception:  # there is none: the call itself will say so
            return 0, 0


def status_of(error: BaseException) -> str:
    """Return the name of an error: CUDA's own, ``"cudaErrorMemoryAllocation"``, or its type's."""
    if hasattr(error, "status"):
        name, colon, _ = str(error).partition(":")
        if colon and name.isidentifier():
            return name
    return type(error).__name__


def _here() -> _Place | None:
    """The innermost place that is not ours."""
    frame = sys._getframe(1)
    while frame is not None:
        if not frame.f_code.co_filename.startswith(_OURS):
            return frame.f_code, frame.f_lasti
        frame = frame.f_back  # type: ignore[assignment]
    return None


def _text(place: _Place | None) -> str:
    if place is None:
        return "an unknown place"
    code, position = place
    for start, end, line in code.co_lines():
        if start <= position < end and line is not None:
            return f"{code.co_filename}:{line} in {code.co_qualname}"
    return f"{code.co_filename} in {code.co_qualname}"


# --- who uses it -----------------------------------------------------------------------

_level: _Level | None = None
_users: dict[Hashable, Tracker | None] = {}


def install(tracker: Tracker | None, patches: Patches) -> object | None:
    """See what CuPy takes from the CUDA runtime, and let `faults.armed` refuse it.

    CuPy may be imported before or after. Several may use this at once, of which the latest
    with a tracker is told.

    Parameters
    ----------
    tracker : Tracker or None
        What is told of each allocation and free. Without one there are only the faults.
    patches : Patches
        Sees when CuPy is imported.

    Returns
    -------
    object or None
        What `uninstall` takes. None where it cannot be done (no compiler, or a CuPy whose
        functions are others); one finding says what is missing and how to get it.
    """
    global _level
    try:
        level = _level or _Level(extension())
    except VidlabError as error:
        _missing(tracker, error)
        return None
    _level = level
    user = object()
    _users[user] = tracker
    level.follow(_latest())

    def begin(_: ModuleType) -> None:
        if user not in _users:
            return
        try:
            level.start(sys.modules[RUNTIME])
        except VidlabError as error:
            _missing(tracker, error)

    patches.when_imported("cupy", begin)
    return user


def uninstall(user: object | None) -> None:
    """Undo one `install`. The last one leaves CuPy exactly as it was."""
    if _level is None or user not in _users:
        return
    del _users[user]
    _level.follow(_latest())
    if not _users:
        _level.stop()


def _latest() -> Tracker | None:
    return next((tracker for tracker in reversed(_users.values()) if tracker is not None), None)


def _missing(tracker: Tracker | None, error: VidlabError) -> None:
    if tracker is not None:
        tracker.finding(
            "driver_level_missing",
            "what CuPy takes from the CUDA runtime is not recorded, only what the program asks "
            f"of its allocators: {error}",
            reason=str(error),
        )
