"""The pool level: what the program asks of its allocators, whichever they are.

CuPy's memory classes cannot be patched, and its hooks serve one thread and one kind of
pool. But all it allocates goes through one allocator, a function from a size to a
`MemoryPointer`. While recording there is one of ours in its place, which calls the
program's own; functions that set and tell the allocator know only the program's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ....clock import now_ns
from ....schema import ASYNC, DEVICE, MANAGED, PINNED, POOL
from ...patching import Patches
from .. import faults
from ..driver import hazards
from ..driver.level import status_of
from ..driver.slots import extension
from . import leases
from .leases import Lease, lease
from .live import Block
from .memories import Memories
from .tracker import IN_ALLOCATOR, IN_POOL, Tracker

Allocator = Callable[[int], Any]

#: `cudaMemoryTypeManaged`, of what `pointerGetAttributes` returns.
_MANAGED_TYPE = 3


class PoolLevel:
    """Stands before the allocators of a program until it is stopped.

    Attributes
    ----------
    tracker : Tracker or None
        None once this has been stopped: allocators that are still somewhere only pass on.
    """

    def __init__(self, cupy: Any, tracker: Tracker) -> None:
        self.cupy = cupy
        self.tracker: Tracker | None = tracker
        self.memory = cupy.cuda.memory
        self.memories = Memories(cupy, self._free_now)
        self.device_id: Callable[[], int] = cupy.cuda.device.get_device_id
        # CuPy's own, also while the module has ours in their places.
        self.set_global: Callable[[Any], None] = self.memory.set_allocator
        self.get_here: Callable[[], Any] = self.memory.get_allocator
        self.set_local: Callable[[Any], None] = self.memory._set_thread_local_allocator
        self.get_local: Callable[[], Any] = self.memory._get_thread_local_allocator
        self.set_pinned: Callable[[Any], None] = cupy.cuda.set_pinned_memory_allocator
        self._pinned: TrackedPinnedAllocator | None = None
        #: Returns the token of a block; what does so in C, if there is a compiler.
        self.lease: Callable[[Block, Any], Any] = self._lease
        self._leases: Any = None
        if tracker.recorder is not None:
            self._leases = extension().Leases(tracker.recorder)
            self.lease = self._leases.lease

    # --- in their place ---------------------------------------------------------------

    def start(self, patches: Patches) -> None:
        """Take the allocators' places."""
        cuda, memory, pinned = self.cupy.cuda, self.memory, self.cupy.cuda.pinned_memory
        for module in (cuda, memory):
            patches.set(module, "set_allocator", self._set_allocator)
            patches.set(module, "get_allocator", self._get_allocator)
        patches.set(memory, "_set_thread_local_allocator", self._set_thread_local)
        patches.set(memory, "_get_thread_local_allocator", self._get_thread_local)
        for module in (cuda, pinned):
            patches.set(module, "set_pinned_memory_allocator", self._set_pinned_allocator)
        here = self.get_local()
        self.set_local(None)
        try:
            self.set_global(self.wrapped(self.get_here()))
        finally:
            self.set_local(self.wrapped(here))
        current = _pinned_allocator(self.cupy)
        if current is not None:
            self._set_pinned_allocator(current)
        elif self.tracker is not None:
            self.tracker.finding(
                "pinned_not_seen",
                "the program has set an allocator of pinned memory before the recording began: "
                "what it hands out is recorded as driver memory only",
                severity="info",
            )

    def stop(self) -> None:
        """Leave their places. Call it after `Patches.restore`."""
        self.tracker = None
        if self._leases is not None:
            self._leases.stop()
        here = self.get_local()
        self.set_local(None)
        try:
            self.set_global(_own(self.get_here()))
        finally:
            self.set_local(_own(here))
        if self._pinned is not None:
            self.set_pinned(self._pinned.allocator)

    def check(self) -> bool:
        """See to it that the allocator is still ours; return whether it was.

        A program that has kept CuPy's own `set_allocator` from before can set another.
        To be called in a thread without an allocator of its own.
        """
        current = self.get_here()
        if self.tracker is None or isinstance(getattr(current, "__self__", None), TrackedAllocator):
            return True
        self.set_global(self.wrapped(current))
        return False

    def wrapped(self, allocator: Any) -> Any:
        """Return what is to stand before this allocator of the program's."""
        return None if allocator is None else TrackedAllocator(self, _own(allocator)).malloc

    def left_behind(self, ours: TrackedAllocator) -> Allocator:
        """Return a thread's own allocator, which is still ours after the end, to the thread."""
        if getattr(self.get_local(), "__self__", None) is ours:
            self.set_local(ours.allocator)
        return ours.allocator

    # --- what the program calls -------------------------------------------------------

    def _set_allocator(self, allocator: Any = None) -> None:
        allocator = self.memory._malloc if allocator is None else _own(allocator)
        if allocator is self.memory.malloc_async:
            self.cupy._util.experimental("cupy.cuda.malloc_async")
        self.set_global(self.wrapped(allocator))

    def _get_allocator(self) -> Any:
        return _own(self.get_here())

    def _set_thread_local(self, allocator: Any) -> None:
        self.set_local(self.wrapped(allocator))

    def _get_thread_local(self) -> Any:
        return _own(self.get_local())

    def _set_pinned_allocator(self, allocator: Any = None) -> None:
        if allocator is None:
            allocator = self.cupy.cuda.pinned_memory._malloc
        self._pinned = TrackedPinnedAllocator(self, _own(allocator))
        self.set_pinned(self._pinned.malloc)

    # --- the end of a block -----------------------------------------------------------

    def _lease(self, block: Block, memory: Any) -> Any:
        return lease(block, memory, self._lease_ended)

    def _lease_ended(self, ended: Lease) -> None:
        """The last reference to a block has gone: retire it, let go of it, write it down."""
        leases.over(ended)
        block = ended.block
        tracker = self.tracker
        if block is None or tracker is None:
            ended.memory = None
            return
        try:
            ended.block = None
            known = tracker.retire_block(block)
            t0_ns = now_ns()
            ended.memory = None
            t1_ns = now_ns()
            if known:
                _, level, kind, device, address, size, *_ = block
                stream = tracker.current_stream()
                tracker.freed(block, level, kind, device, address, size, stream, t0_ns, t1_ns)
        except BaseException:
            ended.memory = None
            tracker.failure()

    def _free_now(self, early: Lease, free: Callable[[], None]) -> None:
        """The program frees a block by itself: `mem.free()`."""
        block = early.block
        tracker = self.tracker
        if block is None or tracker is None:
            free()
            return
        early.block = None
        known = tracker.retire_block(block)
        t0_ns = now_ns()
        status = "ok"
        try:
            free()
        except BaseException as error:
            status = status_of(error)
            if known:  # the pool has not got it back
                tracker.live.at(block.level).setdefault(block.address, block)
            raise
        finally:
            t1_ns = now_ns()
            if known:
                _write_free(tracker, block, t0_ns, t1_ns, status)


def _write_free(tracker: Tracker, block: Block, t0_ns: int, t1_ns: int, status: str) -> None:
    try:
        _, level, kind, device, address, size, *_ = block
        stream = tracker.current_stream()
        tracker.freed(block, level, kind, device, address, size, stream, t0_ns, t1_ns, status)
    except BaseException:
        tracker.failure()


class TrackedAllocator:
    """An allocator of the program's, with a recorder before it.

    Attributes
    ----------
    allocator : callable
        The program's own.
    """

    __slots__ = ("_inside", "_kind", "_level", "_like", "allocator")

    def __init__(self, level: PoolLevel, allocator: Allocator) -> None:
        self.allocator = allocator
        self._level = level
        self._inside = IN_POOL if _may_be_pool(level.memory, allocator) else IN_ALLOCATOR
        self._kind = DEVICE
        self._like: Any = None  # the type of memory that `_kind` is of

    def malloc(self, size: int) -> Any:
        """Return a `MemoryPointer` to that many bytes."""
        level = self._level
        tracker = level.tracker
        if tracker is None:
            return level.left_behind(self)(size)
        state = tracker.local.state
        around = state.inside
        state.inside = self._inside
        state.driver_kind = -1
        fault = faults.armed
        t0_ns = now_ns()
        try:
            if fault is not None:
                fault.check(POOL, self._kind, size)
            pointer = self.allocator(size)
        except BaseException as error:
            state.inside = around
            _refused(level, tracker, self._kind, size, t0_ns, error)
            raise
        t1_ns = now_ns()
        state.inside = around
        try:
            memory = pointer.mem
            made = type(memory)
            address = pointer.ptr
            if made is not self._like:
                if made is level.memories.Leased or made is level.memories.Visible:
                    return pointer  # it comes from a recorded allocator within this one
                self._learn(made, address, state.driver_kind)
            if not address:
                return pointer
            given = memory.size
            if address != memory.ptr:  # a part of a larger block
                given = size
            device = memory.device_id
            stream = tracker.current_stream()
            block = tracker.take(
                POOL, self._kind, device, address, given, size, stream, t0_ns, t1_ns
            )
            watched = hazards.active
            if watched is not None:
                watched.handed_out(address, given, stream)
            if made in level.memories.plain:
                token = level.lease(block, memory)
                leased = level.memories.Leased(address, given, token, device)
            else:
                leased = level.memories.Visible(address, given, memory, device)
                leased._vidlab_held = level.lease(block, None)
            return level.memory.MemoryPointer(leased, 0)
        except BaseException:
            tracker.failure()
            return pointer

    def _learn(self, made: Any, address: int, driver_kind: int) -> None:
        """Learn what sort of memory this is from the first block of its type."""
        memory = self._level.memory
        self._like = made
        if made is memory.PooledMemory:
            self._inside = IN_POOL
        elif self._inside == IN_POOL:
            self._inside = IN_ALLOCATOR
        if made is memory.MemoryAsync:
            self._kind = ASYNC
        elif made is memory.ManagedMemory:
            self._kind = MANAGED
        elif made is memory.Memory or not address:
            self._kind = DEVICE
        elif driver_kind >= 0 and made is memory.PooledMemory:
            self._kind = driver_kind
        else:
            attributes = self._level.cupy.cuda.runtime.pointerGetAttributes(address)
            self._kind = MANAGED if attributes.type == _MANAGED_TYPE else DEVICE


class TrackedPinnedAllocator:
    """An allocator of pinned memory, with a recorder before it."""

    __slots__ = ("_inside", "_level", "allocator")

    def __init__(self, level: PoolLevel, allocator: Allocator) -> None:
        self.allocator = allocator
        self._level = level
        unpooled = allocator is level.cupy.cuda.pinned_memory._malloc
        self._inside = IN_ALLOCATOR if unpooled else IN_POOL

    def malloc(self, size: int) -> Any:
        """Return a `PinnedMemoryPointer` to that many bytes."""
        level = self._level
        tracker = level.tracker
        if tracker is None:
            return self.allocator(size)
        state = tracker.local.state
        around = state.inside
        state.inside = self._inside
        fault = faults.armed
        t0_ns = now_ns()
        try:
            if fault is not None:
                fault.check(POOL, PINNED, size)
            pointer = self.allocator(size)
        except BaseException as error:
            state.inside = around
            _refused(level, tracker, PINNED, size, t0_ns, error)
            raise
        t1_ns = now_ns()
        state.inside = around
        try:
            memory, address = pointer.mem, pointer.ptr
            if not address or type(memory) is level.memories.LeasedPinned:
                return pointer
            given = memory.size if address == memory.ptr else size
            block = tracker.take(
                POOL,
                PINNED,
                level.device_id(),
                address,
                given,
                size,
                tracker.current_stream(),
                t0_ns,
                t1_ns,
            )
            token = level.lease(block, memory)
            leased = level.memories.LeasedPinned(address, given, token)
            return level.cupy.cuda.PinnedMemoryPointer(leased, 0)
        except BaseException:
            tracker.failure()
            return pointer


def _refused(
    level: PoolLevel, tracker: Tracker, kind: int, size: int, t0_ns: int, error: BaseException
) -> None:
    try:
        t1_ns = now_ns()
        stream = tracker.current_stream()
        status = status_of(error)
        tracker.failed(POOL, kind, level.device_id(), size, stream, t0_ns, t1_ns, status)
    except Exception:
        tracker.failure()


def _own(allocator: Any) -> Any:
    """Return the program's own allocator for what may be one of ours before it."""
    ours = getattr(allocator, "__self__", None)
    if isinstance(ours, TrackedAllocator | TrackedPinnedAllocator):
        return ours.allocator
    return allocator


def _may_be_pool(memory: Any, allocator: Allocator) -> bool:
    """Whether the allocator may take driver memory that it keeps, for all that can be seen."""
    if allocator in (memory._malloc, memory.malloc_async, memory.malloc_managed):
        return False
    direct = (memory.MemoryAsyncPool, memory.CFunctionAllocator, memory.PythonFunctionAllocator)
    return not isinstance(getattr(allocator, "__self__", None), direct)


def _pinned_allocator(cupy: Any) -> Any:
    """Return the allocator of pinned memory if it is the one that CuPy has begun with.

    CuPy does not tell which one it is. But nothing else keeps this bound method: it is
    there as long as it is the allocator.
    """
    import gc

    pool = cupy.get_default_pinned_memory_pool()
    for found in gc.get_referrers(pool):
        if getattr(found, "__self__", None) is pool and found.__name__ == "malloc":
            return found
    return None
