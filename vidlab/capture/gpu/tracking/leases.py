"""Leases: how the end of a block is seen, without changing when it comes.

CuPy frees a block as the last reference to its memory object goes. What the program
gets while recording is another memory object, which holds a **token**; a **lease**, a
weak reference to the token, is called when the token dies, and then lets go of
CuPy's own memory object. The token is an empty ndarray, since that is of no interest
to the garbage collector: a weak reference to anything else, or a `__del__`, would be
called for garbage in a cycle before other objects' finalizers, which may still use
the block, have run.

With a compiler, the token is an object of records.c instead: also of no interest to the
garbage collector, a lease itself, and its end is seen by its own deallocator.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from .live import Block

#: Makes a token.
new_token = np.empty(0).view


class Lease(weakref.ref[Any]):
    """Knows a block from the outside.

    Attributes
    ----------
    block : Block or None
        What the tracker knows of it; None once it has been freed.
    memory : object
        CuPy's own memory object, if it is kept alive from here.
    """

    __slots__ = ("block", "memory")

    block: Block | None
    memory: Any


#: The leases that run, by the block's generation: nothing else keeps them. What is in
#: here when a recording ends lives on.
_running: dict[int, Lease] = {}


def lease(block: Block, memory: Any, ended: Callable[[Lease], None]) -> Any:
    """Return a token for a block: as it dies, `ended` is called with its lease."""
    token = new_token()
    made = Lease(token, ended)
    made.block = block
    made.memory = memory
    _running[id(made)] = made
    return token


def over(ended: Lease) -> None:
    """Forget a lease whose token has died."""
    _running.pop(id(ended), None)


def of(token: Any) -> Lease:
    """Return the lease of a token: what has its `block` and `memory`."""
    found: list[Any] = weakref.getweakrefs(token)
    lease: Lease = found[0] if found else token  # the token of records.c is both
    return lease
