"""GPU memory as a video service uses it: each picture is copied up, and some are remembered.

`Uploads` is one stream's. It can be made to leak, in one of four ways that differ in what
holds the pictures that are never given back: a list, a closure, a queue, or a context
variable. They are written as a user would write them, each with its own good intention.
"""

from __future__ import annotations

import contextvars
import queue
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from ..capture.gpu import hostcuda
from ..errors import VidlabError

#: One picture in so many is remembered by a memory that leaks: enough in some seconds for the
#: analysis to be sure.
LEAK_EVERY = 2

#: Inputs of a network that a stream keeps for its background model.
BACKGROUND = 8


class Memory(Protocol):
    """Remembers pictures."""

    def remember(self, picture: Any) -> None:
        """Take note of a picture."""


class Archive:
    """Keeps pictures to be written down later: nobody does."""

    def __init__(self) -> None:
        self.pictures: list[Any] = []

    def remember(self, picture: Any) -> None:
        self.pictures.append(picture)


class Alarms:
    """Keeps what to do should an alarm be confirmed: none ever is, or is dropped."""

    def __init__(self) -> None:
        self.pending: list[Callable[[], Any]] = []

    def remember(self, picture: Any) -> None:
        def confirmed() -> Any:
            return picture

        self.pending.append(confirmed)


class Results:
    """Hands pictures to a thread that writes thumbnails: it was never started."""

    def __init__(self) -> None:
        self.thumbnails: queue.Queue[Any] = queue.Queue()

    def remember(self, picture: Any) -> None:
        self.thumbnails.put(picture)


_history: contextvars.ContextVar[tuple[Any, ...]] = contextvars.ContextVar("history", default=())


class History:
    """Keeps a stream's pictures in its context, to compare the next one with them."""

    def __init__(self) -> None:
        self.context = contextvars.copy_context()

    def remember(self, picture: Any) -> None:
        self.context.run(lambda: _history.set((*_history.get(), picture)))


#: What leaks, by the kind of holder (as the table `holders` names it).
MEMORIES: dict[str, Callable[[], Memory]] = {
    "container": Archive,
    "closure": Alarms,
    "queue": Results,
    "context variable": History,
}


class Uploads:
    """Copies the pictures of one stream to the GPU.

    Parameters
    ----------
    holder : str, optional
        What is to leak, of `MEMORIES`; by default nothing does.
    gpu : int
        The device's index.
    """

    def __init__(self, holder: str | None = None, gpu: int = 0) -> None:
        self._gpu = gpu
        self._background: deque[Any] = deque(maxlen=BACKGROUND)
        self._memory = None if holder is None else MEMORIES[holder]()
        self._count = 0

    def upload(self, image: np.ndarray[Any, Any]) -> None:
        """Copy a picture up, and make a network's input of it."""
        import cupy

        with cupy.cuda.Device(self._gpu):
            picture = cupy.empty(image.shape, image.dtype)
            picture.set(image)
            tensor = cupy.empty((3, *image.shape[:2]), "float32")
            tensor.set(np.ascontiguousarray(image.transpose(2, 0, 1), "float32"))
        self._background.append(tensor)
        if self._memory is not None and self._count % LEAK_EVERY == 0:
            self._memory.remember(picture)
        self._count += 1


def device() -> str:
    """See to it that CuPy has a device, on host memory where there is no GPU; return its name.

    Raises
    ------
    VidlabError
        If that cannot be done; it says what is missing.
    """
    try:
        hostcuda.install()
    except VidlabError:
        if not works():
            raise
    if hostcuda.installed():
        return hostcuda.DEVICE_NAME
    import cupy

    return str(cupy.cuda.runtime.getDeviceProperties(0)["name"].decode())


def works() -> bool:
    """Whether CuPy is here and has a device."""
    try:
        import cupy
    except ImportError:
        return False
    return bool(cupy.cuda.is_available())
