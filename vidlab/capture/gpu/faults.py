"""Allocations that are made to fail, with the error that CuPy itself would raise.

`fail_allocation` arms one fault for the process. The recorders before CuPy's allocators
(`pool`) and before its calls of the CUDA runtime (`driver`) ask the armed fault before
each allocation. Where nothing is recorded, such a fault puts them there itself.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Literal, Protocol

from ... import labelsets
from ...errors import InputError
from ...schema import DRIVER, LEVELS, POOL

#: CUDA's errors that an allocation can be made to fail with, by their numbers.
ERRORS = {
    "out of memory": 2,  # cudaErrorMemoryAllocation
    "invalid value": 1,  # cudaErrorInvalidValue
    "launch out of resources": 701,  # cudaErrorLaunchOutOfResources
}
OUT_OF_MEMORY = "out of memory"

#: How often CuPy's pool asks the driver for one block before it gives up: it releases what
#: it keeps in between, then collects garbage.
_TRIES = 3


class Armed(Protocol):
    """Decides which allocation fails."""

    def check(self, level: int, kind: int, size: int) -> None:
        """Raise CuPy's own error if this allocation is to fail."""


#: What decides, while something is to fail.
armed: Armed | None = None


class fail_allocation:
    """Let an allocation of GPU memory fail, while a ``with`` block runs.

    Parameters
    ----------
    nth : int, optional
        Only the nth of the allocations that the rest describes, from 1, on all threads
        together; by default each of them.
    larger_than : int
        Only those of more bytes than this are counted.
    level : {"pool", "driver"}
        What is counted: what the program asks of its allocator, or what that asks of the
        CUDA runtime. CuPy's pool asks the runtime again after it has released what it
        keeps: for an "out of memory" these tries fail too, and count as one.
    labels : Mapping[str, str or int], optional
        Only those taken under these labels are counted.
    error : {"out of memory", "invalid value", "launch out of resources"}
        What CUDA is to say. Out of memory is `cupy.cuda.memory.OutOfMemoryError` at
        the level of the pool, as from CuPy; all else is `CUDARuntimeError`.

    Attributes
    ----------
    counted, failed : int
        How many allocations were of the described sort, and how many have failed.

    Raises
    ------
    InputError
        If an argument cannot be used, or another allocation is made to fail already.

    Examples
    --------
    >>> import cupy
    >>> with fail_allocation(nth=2) as fault:
    ...     picture = cupy.empty(1000)
    ...     try:
    ...         tensor = cupy.empty(1000)
    ...     except cupy.cuda.memory.OutOfMemoryError:
    ...         print("the second allocation failed")
    the second allocation failed
    >>> fault.failed
    1
    """

    def __init__(
        self,
        nth: int | None = None,
        *,
        larger_than: int = 0,
        level: Literal["pool", "driver"] = "pool",
        labels: Mapping[str, labelsets.LabelValue] | None = None,
        error: str = OUT_OF_MEMORY,
    ) -> None:
        if nth is not None and nth < 1:
            raise InputError(f"nth is {nth}: allocations are counted from 1")
        if level not in LEVELS[: DRIVER + 1]:
            raise InputError(f"there is no level {level!r}: an allocation is at pool or driver")
        if error not in ERRORS:
            raise InputError(f"there is no error {error!r}; there is {', '.join(ERRORS)}")
        self.counted = self.failed = 0
        self._nth = nth
        self._larger_than = larger_than
        self._level = LEVELS.index(level)
        self._labels = dict(labels or {})
        self._error = error
        self._numbers = itertools.count(1)
        self._local = threading.local()
        self._interposed = ExitStack()

    def __repr__(self) -> str:
        which = "every" if self._nth is None else f"number {self._nth} of the"
        return f"<{which} allocation at the {LEVELS[self._level]} fails: {self._error}>"

    def __enter__(self) -> fail_allocation:
        global armed
        if armed is not None:
            raise InputError(f"an allocation is made to fail already: {armed!r}")
        self._interposed.enter_context(_interposed())
        armed = self
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        global armed
        armed = None
        self._interposed.close()

    def check(self, level: int, kind: int, size: int) -> None:
        """Raise the error if this allocation is the one."""
        if level != self._level:
            self._local.tries = 0  # the program asks anew
            return
        if size <= self._larger_than or not self._is_under_labels():
            return
        tries = getattr(self._local, "tries", 0)
        if tries and level == DRIVER and size == self._local.size:
            self._local.tries = tries - 1
            raise self._raised(level, size)
        number = self.counted = next(self._numbers)
        if self._nth in (None, number):
            self.failed += 1
            if self._error == OUT_OF_MEMORY:
                self._local.tries, self._local.size = _TRIES - 1, size
            raise self._raised(level, size)

    def _is_under_labels(self) -> bool:
        if not self._labels:
            return True
        from ..frames import stages

        values = labelsets.get(stages.here()[2]).values
        return all(values.get(key) == value for key, value in self._labels.items())

    def _raised(self, level: int, size: int) -> Any:
        """What CuPy raises for this error at this level."""
        import cupy

        if level == POOL and self._error == OUT_OF_MEMORY:
            total = cupy.get_default_memory_pool().total_bytes()
            return cupy.cuda.memory.OutOfMemoryError(size, total)
        return cupy.cuda.runtime.CUDARuntimeError(ERRORS[self._error])


def _interposed() -> ExitStack:
    """Have the armed fault asked, until the stack is closed."""
    from ..patching import Patches
    from .driver import level as driver
    from .tracking import tracker

    undo = ExitStack()
    if tracker.active is not None:  # the recorders are there
        return undo
    import cupy

    memory = cupy.cuda.memory
    patches = Patches()
    undo.callback(patches.restore)
    undo.callback(driver.uninstall, driver.install(None, patches))
    allocator = memory.get_allocator()
    memory.set_allocator(_Asking(allocator).malloc)
    undo.callback(_give_back, memory, allocator)
    return undo


def _give_back(memory: Any, allocator: Any) -> None:
    """Put the program's allocator back, unless the program has set another."""
    if isinstance(getattr(memory.get_allocator(), "__self__", None), _Asking):
        memory.set_allocator(allocator)


class _Asking:
    """An allocator that asks the armed fault before it calls the program's."""

    def __init__(self, allocator: Any) -> None:
        self._allocator = allocator

    def malloc(self, size: int) -> Any:
        fault = armed
        if fault is not None:
            fault.check(POOL, 0, size)
        return self._allocator(size)
