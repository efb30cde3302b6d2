"""Memory that CuPy has from somebody else: through `UnownedMemory`, or DLPack.

It counts in no bill, for it is its owner's. But an array over it keeps it alive.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from ....clock import now_ns
from ....schema import BORROWED, DEVICE
from ...patching import Patches
from . import leases
from .leases import Lease, lease
from .tracker import NOT_INSIDE, Tracker


class Borrowing:
    """Records borrowed memory until it is stopped.

    Attributes
    ----------
    tracker : Tracker or None
        None once this has been stopped.
    """

    def __init__(self, cupy: Any, tracker: Tracker) -> None:
        self.cupy = cupy
        self.tracker: Tracker | None = tracker
        self._ended = self._lease_ended

    def start(self, patches: Patches) -> None:
        """Record from now on, until the patches are restored."""
        cupy = self.cupy
        memory = cupy.cuda.memory
        borrowed = _borrowed_memory(self, memory.UnownedMemory)
        patches.set(memory, "UnownedMemory", borrowed)
        patches.set(cupy.cuda, "UnownedMemory", borrowed)
        for name in ("from_dlpack", "fromDlpack"):
            function = getattr(cupy, name, None)
            if function is not None:
                patches.set(cupy, name, self._lending(function, borrowed))

    def stop(self) -> None:
        """Record nothing more."""
        self.tracker = None

    def taken(self, address: int, size: int, device: int, t0_ns: int) -> Any:
        """Write down that memory was lent; return what to keep for as long as it is."""
        tracker = self.tracker
        if tracker is None or not address:
            return None
        try:
            if tracker.local.state.inside != NOT_INSIDE:
                return None  # an allocator that makes its blocks in this way
            stream = tracker.current_stream()
            block = tracker.take(
                BORROWED, DEVICE, device, address, size, size, stream, t0_ns, now_ns()
            )
            return lease(block, None, self._ended)
        except BaseException:
            tracker.failure()
            return None

    def _lease_ended(self, ended: Lease) -> None:
        leases.over(ended)
        block, tracker = ended.block, self.tracker
        if block is None or tracker is None:
            return
        try:
            if tracker.retire_block(block):
                now, stream = now_ns(), tracker.current_stream()
                _, level, kind, device, address, size, *_ = block
                tracker.freed(block, level, kind, device, address, size, stream, now, now)
        except BaseException:
            tracker.failure()

    def _lending(self, function: Callable[..., Any], borrowed: Any) -> Callable[..., Any]:
        """Return a function from DLPack to an array, with a recorder around it."""
        memory_pointer = self.cupy.cuda.memory.MemoryPointer

        @wraps(function)
        def recorded(*args: Any, **kwargs: Any) -> Any:
            if self.tracker is None:
                return function(*args, **kwargs)
            t0_ns = now_ns()
            array = function(*args, **kwargs)
            try:
                pointer = array.data
                memory = pointer.mem
                # A CuPy array that comes this way is a view of memory that is known.
                if self.tracker.live.at(0).get(pointer.ptr) is None and pointer.ptr:
                    size = memory.size or array.nbytes
                    held = borrowed(memory.ptr, size, memory, memory.device_id, _t0_ns=t0_ns)
                    # Nobody else has this pointer yet: it is made to hold the memory by way
                    # of what sees its end.
                    memory_pointer.__init__(pointer, held, pointer.ptr - memory.ptr)
            except Exception:
                if self.tracker is not None:
                    self.tracker.failure()
            return array

        return recorded


class _StandIn(type):
    """Lets what is an `UnownedMemory` of CuPy's be one of ours, while ours is in its place."""

    def __instancecheck__(cls, instance: object) -> bool:
        if "_vidlab_stands_for" in vars(cls):
            return isinstance(instance, vars(cls)["_vidlab_stands_for"])
        return super().__instancecheck__(instance)

    def __subclasscheck__(cls, other: type) -> bool:
        if "_vidlab_stands_for" in vars(cls):
            return issubclass(other, vars(cls)["_vidlab_stands_for"])
        return super().__subclasscheck__(other)


def _borrowed_memory(borrowing: Borrowing, unowned: Any) -> Any:
    """Return a class for the place of `UnownedMemory`, which records its instances."""

    class UnownedMemory(unowned, metaclass=_StandIn):  # type: ignore[misc]
        # A slot is cleared before what the class below holds.
        __slots__ = ("_vidlab_held",)
        __doc__ = unowned.__doc__
        _vidlab_stands_for = unowned

        def __init__(
            self,
            ptr: int,
            size: int,
            owner: Any,
            device_id: int = -1,
            _t0_ns: int | None = None,
        ) -> None:
            t0_ns = now_ns() if _t0_ns is None else _t0_ns
            unowned.__init__(self, ptr, size, owner, device_id)
            self._vidlab_held = borrowing.taken(self.ptr, self.size, self.device_id, t0_ns)

    UnownedMemory.__module__ = unowned.__module__
    UnownedMemory.__qualname__ = unowned.__qualname__
    return UnownedMemory
