"""The memory objects that a program gets from CuPy while it is recorded.

Each stands before a memory object of CuPy's own, and passes on whatever it is asked
for: `array.data.mem.free()` works, as does `isinstance`.
"""

from __future__ import annotations

from typing import Any

from . import leases

#: Asks for `free` go by this, so that an early free is recorded once.
FreeNow = Any


class Memories:
    """The classes of memory objects, made for the CuPy that is installed.

    Attributes
    ----------
    Leased : type
        Its token keeps CuPy's memory object.
    Visible : type
        Refers to CuPy's memory object itself, which the garbage collector has to see.
    LeasedPinned : type
        The same for pinned host memory.
    plain : frozenset of type
        CuPy's memory objects that refer to nothing, and so are part of no cycle.
    """

    def __init__(self, cupy: Any, free_now: FreeNow) -> None:
        memory, pinned = cupy.cuda.memory, cupy.cuda.pinned_memory
        names = "Memory MemoryAsync ManagedMemory PooledMemory CFunctionAllocatorMemory"
        # (The last is of interest to the collector. But cleared by it, it would crash as it frees.)
        names += " PythonFunctionAllocatorMemory"
        self.plain = frozenset(
            [
                *(getattr(memory, name) for name in names.split() if hasattr(memory, name)),
                pinned.PinnedMemory,
                pinned.PooledPinnedMemory,
            ]
        )
        unowned: Any = memory.UnownedMemory
        init = unowned.__init__
        owner_of = vars(unowned)["_owner"].__get__

        class Leased(_Passing, unowned):  # type: ignore[misc]
            __slots__ = ()

            def _vidlab_token(self) -> Any:
                return owner_of(self)

            def _vidlab_memory(self) -> Any:
                return leases.of(owner_of(self)).memory

            @property
            def _owner(self) -> Any:
                return self._vidlab_memory()._owner

            def _vidlab_free(self) -> None:
                free_now(leases.of(owner_of(self)), self._vidlab_memory().free)
                init(self, 0, self.size, owner_of(self), self.device_id)

        class Visible(_Passing, unowned):  # type: ignore[misc]
            # A slot is cleared before what the class below holds: the token goes first.
            __slots__ = ("_vidlab_held",)

            def _vidlab_token(self) -> Any:
                return self._vidlab_held

            def _vidlab_memory(self) -> Any:
                return owner_of(self)

            @property
            def _owner(self) -> Any:
                return owner_of(self)._owner

            def _vidlab_free(self) -> None:
                free_now(leases.of(self._vidlab_held), owner_of(self).free)

        class LeasedPinned(_Passing):
            __slots__ = ("_vidlab_held", "ptr", "size")

            def __init__(self, ptr: int, size: int, token: Any) -> None:
                self.ptr = ptr
                self.size = size
                self._vidlab_held = token

            def __int__(self) -> int:
                return int(self.ptr)

            def _vidlab_token(self) -> Any:
                return self._vidlab_held

            def _vidlab_memory(self) -> Any:
                return leases.of(self._vidlab_held).memory

            def _vidlab_free(self) -> None:
                free_now(leases.of(self._vidlab_held), self._vidlab_memory().free)
                self.ptr = self.size = 0

        self.Leased, self.Visible, self.LeasedPinned = Leased, Visible, LeasedPinned


class _Passing:
    """Passes on what it is asked for to CuPy's memory object."""

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_vidlab"):
            raise AttributeError(name)
        found = getattr(self._vidlab_memory(), name)
        return self._vidlab_free if name == "free" else found

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return type(self._vidlab_memory())

    def __repr__(self) -> str:
        return f"<recorded {self._vidlab_memory()!r}>"
