"""Work that is done beside the answers, before somebody asks for its result."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

Result = TypeVar("Result")


class Later(Generic[Result]):
    """A result that is made in a thread, once somebody begins; a failure is tried again.

    Parameters
    ----------
    make : function
        Returns the result.
    """

    def __init__(self, make: Callable[[], Result]) -> None:
        self._make = make
        self._future: Future[Result] | None = None

    def begin(self) -> None:
        """Have it made, if that has not begun."""
        if self._future is None:
            pool = ThreadPoolExecutor(1, "vidlab-explorer")
            self._future = pool.submit(self._make)
            pool.shutdown(wait=False)

    @property
    def ready(self) -> bool:
        """Whether `result` will not have to wait."""
        return self._future is not None and self._future.done()

    def result(self) -> Result:
        """Return it; wait until it has been made, and raise what went wrong with it."""
        self.begin()
        assert self._future is not None
        try:
            return self._future.result()
        except BaseException:
            self._future = None
            raise
