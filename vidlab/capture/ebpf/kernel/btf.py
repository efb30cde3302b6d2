"""The kernel's own type information: where its structures' members lie, and its functions' ids.

It is read from ``/sys/kernel/btf/vmlinux`` when first asked for: about 5 MB, of which only the
headers of the types are walked. Members are decoded for the structures that are asked for.
"""

from __future__ import annotations

import functools
import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ....errors import RecordingError

PATH = Path("/sys/kernel/btf/vmlinux")

_MAGIC = 0xEB9F

#: Kinds of types that are looked at by name or followed.
_INT, _PTR, _ARRAY, _STRUCT, _UNION, _ENUM = 1, 2, 3, 4, 5, 6
_TYPEDEF, _VOLATILE, _CONST, _RESTRICT, _FUNC, _ENUM64 = 8, 9, 10, 11, 12, 19
_THROUGH = {_TYPEDEF, _VOLATILE, _CONST, _RESTRICT, 18}

#: 32-bit words of a type by kind: so many, and so many more for each of its members.
_LENGTH = np.full(32, 3, np.int64)
_LENGTH[[1, 14, 17]], _LENGTH[3] = 4, 6
_PER_MEMBER = np.zeros(32, np.int64)
_PER_MEMBER[[4, 5, 15, 19]], _PER_MEMBER[[6, 13]] = 3, 2

#: How many walk the types at once.
_WALKERS = 512

Words = np.ndarray[tuple[int], np.dtype[np.uint32]]
Places = np.ndarray[tuple[int], np.dtype[np.int64]]


class BtfError(RecordingError):
    """The kernel does not tell its types, or they lack what was asked for."""


class Member(NamedTuple):
    """Where a structure's member lies: `offset` and `size` in bytes."""

    offset: int
    size: int


class Btf:
    """Type information, indexed by name.

    Parameters
    ----------
    data : bytes
        As the kernel gives it.
    """

    def __init__(self, data: bytes) -> None:
        try:
            magic, _, _, header, type_at, type_size, text_at, text_size = struct.unpack_from(
                "<HBBIIIII", data
            )
        except struct.error as error:
            raise BtfError("the kernel's type information is cut off") from error
        if magic != _MAGIC:
            raise BtfError(f"the kernel's type information begins with {magic:#x}, not 0xeb9f")
        self._text = data[header + text_at : header + text_at + text_size]
        types = data[header + type_at : header + type_at + type_size]
        if not types or len(types) % 4:
            raise BtfError("the kernel's type information is cut off")
        self._words = memoryview(types).cast("I")
        words: Words = np.frombuffer(types, np.uint32)
        self._starts = _starts(words)
        self._names = words[self._starts]
        self._kinds = words[self._starts + 1] >> 24 & 31

    @property
    def count(self) -> int:
        """How many types there are."""
        return len(self._starts)

    def function_id(self, name: str) -> int | None:
        """Return the id of a function of the kernel, as a call of it names it; None if unknown."""
        return self._find(name, {_FUNC})

    def has_struct(self, name: str) -> bool:
        """Return whether the kernel has a structure or union of this name."""
        return self._find(name, {_STRUCT, _UNION}) is not None

    def member(self, structure: str, path: str) -> Member:
        """Return where a member lies in a structure.

        Parameters
        ----------
        structure : str
            Such as ``"tcp_sock"``.
        path : str
            A member's name, of the structure or of what is unnamed in it; or several, joined by
            dots, through named structures: ``"__sk_common.skc_family"``.

        Raises
        ------
        BtfError
            If there is no such structure or member, or it is a bit field.
        """
        number = self._find(structure, {_STRUCT, _UNION})
        if number is None:
            raise BtfError(f"this kernel has no structure {structure!r}")
        offset, within = 0, structure
        for name in path.split("."):
            found = self._member(number, name)
            if found is None:
                raise BtfError(f"this kernel's structure {within!r} has no member {name!r}")
            bits, number, width = found
            if bits % 8 or width:
                raise BtfError(f"{name!r} of the kernel's structure {within!r} is a bit field")
            offset, within = offset + bits // 8, name
        return Member(offset, self._size(number))

    def _find(self, name: str, kinds: set[int]) -> int | None:
        needle = b"\0" + name.encode() + b"\0"
        at = self._text.find(needle)
        while at >= 0:
            for index in np.flatnonzero(self._names == at + 1):
                if int(self._kinds[index]) in kinds:
                    return int(index) + 1  # id 0 is void, which is not written
            at = self._text.find(needle, at + 1)
        return None

    def _name(self, at: int) -> str:
        return self._text[at : self._text.index(b"\0", at)].decode(errors="replace")

    def _through(self, number: int) -> int:
        """Return the type behind typedefs and qualifiers."""
        while number and int(self._kinds[number - 1]) in _THROUGH:
            number = self._words[int(self._starts[number - 1]) + 2]
        return number

    def _member(self, number: int, name: str) -> tuple[int, int, int] | None:
        """Return a member's offset in bits, its type and, for a bit field, its width."""
        number = self._through(number)
        if not number or int(self._kinds[number - 1]) not in (_STRUCT, _UNION):
            return None
        start = int(self._starts[number - 1])
        info = self._words[start + 1]
        has_bit_fields = info >> 31
        for index in range(info & 0xFFFF):
            text, type, place = self._words[start + 3 + 3 * index : start + 6 + 3 * index]
            bits, width = (place & 0xFFFFFF, place >> 24) if has_bit_fields else (place, 0)
            called = self._name(text)
            if called == name:
                return bits, type, width
            if not called:
                inner = self._member(type, name)
                if inner is not None:
                    return bits + inner[0], inner[1], inner[2]
        return None

    def _size(self, number: int) -> int:
        """Return a type's size in bytes; 0 for what has none."""
        number = self._through(number)
        if not number:
            return 0
        start, kind = int(self._starts[number - 1]), int(self._kinds[number - 1])
        if kind == _PTR:
            return 8
        if kind == _ARRAY:
            element, _, count = self._words[start + 3 : start + 6]
            return count * self._size(element)
        return self._words[start + 2] if kind in (_INT, _STRUCT, _UNION, _ENUM, _ENUM64, 16) else 0


@functools.cache
def kernel() -> Btf:
    """Return the running kernel's type information, read once (some 20 ms).

    Raises
    ------
    BtfError
        If the kernel does not tell it.
    """
    try:
        data = PATH.read_bytes()
    except OSError as error:
        raise BtfError(
            f"{PATH} cannot be read ({error}): this kernel was built without "
            "CONFIG_DEBUG_INFO_BTF, or /sys is not mounted"
        ) from error
    return Btf(data)


def available() -> bool:
    """Return whether the running kernel tells its types."""
    try:
        kernel()
    except BtfError:
        return False
    return True


def function_id(name: str) -> int | None:
    """Return the id of a function of the running kernel; None if it has none such."""
    return kernel().function_id(name)


def has_struct(name: str) -> bool:
    """Return whether the running kernel has a structure or union of this name."""
    return kernel().has_struct(name)


def member_offset(structure: str, path: str) -> int:
    """Return where a member lies in a structure of the running kernel, in bytes.

    Raises
    ------
    BtfError
        As `Btf.member`.
    """
    return kernel().member(structure, path).offset


def member(structure: str, path: str) -> Member:
    """Return where a member lies in a structure of the running kernel, and its size.

    Raises
    ------
    BtfError
        As `Btf.member`.
    """
    return kernel().member(structure, path)


def _starts(words: Words) -> Places:
    """Return the word at which each type begins.

    A type's length stands in its header, so each is found only from the one before: a walk of
    some 130,000 steps. It is made by many walkers at once, each in a stretch of its own, who guess
    where to begin; from the first place that the true walk and a walker share, both are the same.
    """
    end = len(words)
    stretch = max(end // _WALKERS, 1)
    begins = np.arange(0, end, stretch)
    ends = np.minimum(begins + stretch, end)
    reached, leaves = np.zeros(end + 1, bool), np.zeros(len(begins), np.int64)
    walkers, places = np.arange(len(begins)), begins
    while len(walkers):
        reached[places] = True
        places = places + _lengths(words, places)
        done = places >= ends[walkers]
        if done.any():
            leaves[walkers[done]] = places[done]
            walkers, places = walkers[~done], places[~done]
    # The true walk, which takes its own steps only until it meets the stretch's walker.
    length, per_member = _LENGTH.tolist(), _PER_MEMBER.tolist()
    at = 0
    for begin, stop, leave in zip(begins.tolist(), ends.tolist(), leaves.tolist(), strict=True):
        own = []
        while at < stop and not reached[at]:
            own.append(at)
            info = int(words[at + 1])
            kind = info >> 24 & 31
            at += length[kind] + per_member[kind] * (info & 0xFFFF)
        reached[begin : min(at, stop)] = False
        reached[own] = True
        if at < stop:
            at = leave
    return np.flatnonzero(reached)


def _lengths(words: Words, places: Places) -> Places:
    """Return how many words the types have that begin at these places."""
    info = words[np.minimum(places + 1, len(words) - 1)]
    kinds = info >> 24 & 31
    lengths: Places = _LENGTH[kinds] + _PER_MEMBER[kinds] * (info & 0xFFFF)
    return lengths
