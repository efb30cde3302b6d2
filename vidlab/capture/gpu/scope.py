"""`gpu_scope`: a piece of work on one device that gives back what it takes."""

from __future__ import annotations

import gc
from types import TracebackType
from typing import Any

from ... import labelsets
from ...errors import VidlabError, missing_extra
from ...schema import POOL
from .tracking import tracker
from .tracking.live import Block

#: The label that what is taken inside a scope bears.
LABEL = "gpu_scope"

#: So many places are named in an error.
_MOST_PLACES = 5


class GpuScopeError(VidlabError, AssertionError):
    """A scope has ended and something that was taken inside is still in use."""


class gpu_scope:
    """Make a device current, and assert that what is taken inside is given back.

    Parameters
    ----------
    name : str
        What the work is called. While recording, what is taken inside bears it as the
        label `gpu_scope`, in threads and tasks that are started inside, too.
    device : int, optional
        The device; by default the current one stays current.

    Raises
    ------
    GpuScopeError
        At the block's end, if memory that was taken inside is still in use after a
        garbage collection. While `GpuMemory` records, it names the places, and other
        threads' work does not count; else CuPy's default pool is asked how much of
        the device is in use. Not raised where an exception leaves the block.
    MissingDependencyError
        If CuPy is not installed.

    Examples
    --------
    >>> import cupy
    >>> with gpu_scope("warm-up", device=0):
    ...     float(cupy.asnumpy(cupy.empty((3, 640, 640), "float32")).size)
    1228800.0
    """

    def __init__(self, name: str, device: int | None = None) -> None:
        self.name = name
        self.device = device

    def __enter__(self) -> gpu_scope:
        try:
            import cupy
        except ImportError:
            raise missing_extra("cupy", "gpu") from None
        runtime = cupy.cuda.runtime
        self._outer = runtime.getDevice()
        if self.device is not None:
            runtime.setDevice(self.device)
        self._tracker = tracker.active
        self._labels = labelsets.labels(**{LABEL: self.name})
        self._labels.__enter__()
        self._before = self._newest() if self._tracker else self._used(cupy)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        import cupy

        try:
            if kind is None:
                self._check(cupy)
        finally:
            self._labels.__exit__(kind, error, traceback)
            cupy.cuda.runtime.setDevice(self._outer)

    def _check(self, cupy: Any) -> None:
        if not self._kept(cupy):
            return
        gc.collect()
        kept = self._kept(cupy)
        if not kept:
            return
        message = (
            f"the scope {self.name!r} has ended, and {kept:,} bytes that were taken inside "
            "are still in use"
        )
        if self._tracker is not None:
            places = list(dict.fromkeys(self._tracker.stacks.place(b.stack) for b in self._left()))
            message += ", taken at " + ", ".join(places[:_MOST_PLACES])
            if len(places) > _MOST_PLACES:
                message += f" and {len(places) - _MOST_PLACES} more places"
        raise GpuScopeError(message)

    def _kept(self, cupy: Any) -> int:
        if self._tracker is not None:
            return sum(block.size_bytes for block in self._left())
        return max(self._used(cupy) - self._before, 0)

    def _left(self) -> list[Block]:
        assert self._tracker is not None
        return [
            block
            for block in self._tracker.live.blocks(POOL)
            if block.generation > self._before
            and labelsets.get(block.labels).values.get(LABEL) == self.name
        ]

    def _newest(self) -> int:
        assert self._tracker is not None
        return max((block.generation for block in self._tracker.live.blocks()), default=0)

    def _used(self, cupy: Any) -> int:
        return int(cupy.get_default_memory_pool().used_bytes())
