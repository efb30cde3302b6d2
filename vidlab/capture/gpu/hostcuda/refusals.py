"""What host memory can't do: the error that says so, and the functions that raise it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

from ....errors import VidlabError

DEVICE_NAME = "host memory (no GPU)"


class NotServedError(VidlabError, NotImplementedError, ImportError):
    """CuPy asked for something that host memory does not serve, such as a kernel.

    It is an ImportError too, because CuPy asks for its libraries by importing them, and goes on
    without those that it can do without.

    Parameters
    ----------
    what : str
        CuPy's function, class or library.
    """

    def __init__(self, what: str) -> None:
        super().__init__(
            f"CuPy asked for {what}, and there is no GPU: {DEVICE_NAME} serves memory, copies, "
            "streams and events, and runs no kernels"
        )
        self.what = what

    def __reduce__(self) -> tuple[type[NotServedError], tuple[str]]:
        return type(self), (self.what,)


def refusal(what: str) -> Callable[..., NoReturn]:
    """Return a function that raises, whatever it is called with."""

    def refused(*args: Any, **kwargs: Any) -> NoReturn:
        raise NotServedError(what)

    refused.__name__ = refused.__qualname__ = what.rpartition(".")[2]
    return refused
