"""Identity on PyAV's packets and frames: in `opaque`, below what the program keeps there.

FFmpeg passes a packet's opaque on to the decoded frame, through filters and on to
the encoded packet, if the codec context's `copy_opaque` is set. While recording the
property `opaque` shows a program only what it has put there itself, and `copy_opaque`
only what it has set.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from ..patching import Patches
from . import refs
from .refs import FrameRef, with_user

S = TypeVar("S")

#: How many objects a registry knows before it looks for gone ones.
_LOOK_AT = 256


class Registry(Generic[S]):
    """What is known of PyAV's objects, which take neither attributes nor weak references.

    An object is known by its address together with one of its parts: an object of
    its own which goes with it. While a registry holds the part, no other object can
    have the same; and when nobody else holds it, the object is gone.

    Parameters
    ----------
    part : str
        The attribute that holds the part.
    """

    def __init__(self, part: str) -> None:
        self._part = part
        self._entries: dict[int, tuple[Any, S]] = {}
        self._look_at = _LOOK_AT

    def get(self, obj: Any) -> S | None:
        """Return what is known of this object."""
        entry = self._entries.get(id(obj))
        if entry is not None and entry[0] is getattr(obj, self._part):
            return entry[1]
        return None

    def add(self, obj: Any, known: S) -> S:
        """Note what is known of this object."""
        if len(self._entries) >= self._look_at:
            self._forget_gone()
        self._entries[id(obj)] = (getattr(obj, self._part), known)
        return known

    def values(self) -> list[S]:
        """Return what is known of all of them."""
        return [known for _, known in list(self._entries.values())]

    def _forget_gone(self) -> None:
        for key, entry in list(self._entries.items()):
            if sys.getrefcount(entry[0]) <= 2:  # the entry's, and the argument's
                del self._entries[key]
        self._look_at = max(_LOOK_AT, 2 * len(self._entries))


class CopyOpaque:
    """A codec context's flag `copy_opaque`: what it is, and what the program takes it for."""

    def __init__(self) -> None:
        self.contexts: Registry[list[bool]] = Registry("codec")
        self._flag: Any = None
        self._bit = 0

    def install(self, patches: Patches, context: Any, bit: int) -> None:
        """Replace the properties `copy_opaque` and `flags` of PyAV's class `context`."""
        self._flag, self._bit = vars(context)["copy_opaque"], bit
        flags, known = vars(context)["flags"], self.contexts.get

        def get_flag(ctx: Any) -> bool:
            wanted = known(ctx)
            return bool(self._flag.__get__(ctx)) if wanted is None else wanted[0]

        def set_flag(ctx: Any, value: Any) -> None:
            wanted = known(ctx)
            if wanted is None:
                self._flag.__set__(ctx, value)
            else:
                wanted[0] = bool(value)

        def get_flags(ctx: Any) -> int:
            wanted, value = known(ctx), flags.__get__(ctx)
            return value if wanted is None or wanted[0] else value & ~bit  # type: ignore[no-any-return]

        def set_flags(ctx: Any, value: int) -> None:
            flags.__set__(ctx, value)
            wanted = known(ctx)
            if wanted is not None:
                wanted[0] = bool(value & bit)
                self._flag.__set__(ctx, True)

        patches.set(context, "copy_opaque", property(get_flag, set_flag, doc=self._flag.__doc__))
        patches.set(context, "flags", property(get_flags, set_flags, doc=flags.__doc__))

    def force(self, ctx: Any) -> list[bool]:
        """Set the flag; return, in a list of one, what the program takes it for from now on."""
        known = self.contexts.get(ctx)
        if known is None:
            known = self.contexts.add(ctx, [bool(self._flag.__get__(ctx))])
            self._flag.__set__(ctx, True)
        return known


def carry(patches: Patches, *classes: type) -> None:
    """Let objects of these classes (with an `opaque` of their own) carry a `FrameRef`."""
    for cls in classes:
        raw = vars(cls)["opaque"]
        patches.set(cls, "opaque", property(*_accessors(raw), doc=raw.__doc__))


def _accessors(raw: Any) -> tuple[Callable[[Any], Any], Callable[[Any, Any], None]]:
    get, set_ = raw.__get__, raw.__set__

    def get_opaque(obj: Any) -> Any:
        value = get(obj)
        return value.user if type(value) is FrameRef else value

    def set_opaque(obj: Any, value: Any) -> None:
        before = get(obj)
        set_(obj, with_user(before, value) if type(before) is FrameRef else value)

    return get_opaque, set_opaque


class Carrier:
    """Reads and writes the identity that a packet or frame carries.

    Parameters
    ----------
    raw : descriptor
        PyAV's own property `opaque`.
    """

    def __init__(self, raw: Any) -> None:
        self._get, self._set = raw.__get__, raw.__set__

    def read(self, obj: Any) -> FrameRef | None:
        """Return its identity."""
        value = self._get(obj)
        return value if type(value) is FrameRef else None

    def write(self, obj: Any, ref: FrameRef) -> None:
        """Give it this identity, and leave what the program has there.

        Always a new object: PyAV finds an opaque by its address and forgets it as soon as
        one of the packets or frames that it was set on goes away.
        """
        value = self._get(obj)
        user = value.user if type(value) is FrameRef else value
        self._set(obj, with_user(ref, user))

    def write_for_user(self, obj: Any, ref: FrameRef, user: Any) -> None:
        """Give it this identity, and this as what the program has there."""
        self._set(obj, with_user(ref, user))

    def strip(self, obj: Any) -> None:
        """Leave on it only what the program has put there."""
        value = self._get(obj)
        if type(value) is FrameRef:
            self._set(obj, value.user)

    def register(self, *classes: type) -> None:
        """Let `ref_of` and `attach` know these classes."""
        for cls in classes:
            refs.readers[cls] = self.read
            refs.writers[cls] = self.write
