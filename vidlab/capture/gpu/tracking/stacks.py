"""Call stacks as numbers: a stack is written down once, and is an integer from then on.

What names a stack on the hot path are its code objects' ids and the positions in
them. The code objects are kept, so that no id is used again; a frame never is, for it
would keep its locals, the arrays among them, alive.
"""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path
from threading import get_ident
from types import CodeType
from typing import Any, Protocol

#: How many stacks have a number of their own; all others are "(more stacks)".
MOST_STACKS = 1 << 16

#: Files under this directory record: their calls are not part of a stack.
OURS = str(Path(__file__).parents[2]) + os.sep

#: So many calls of ours, at the most, are between the program and an allocation.
_MOST_OURS = 4

_getframe = sys._getframe
_PACKED = struct.Struct("=Qq")

Line = tuple[str, str, int]


class Writer(Protocol):
    """What writes stacks down: `runs.writer.RunWriter`."""

    def stack(self, frames: Sequence[Line]) -> int:
        """Give a new stack (function, file, line; innermost first) its number."""


class Stacks:
    """The call stacks of one recording.

    Parameters
    ----------
    writer : Writer
        What each new stack is written to.
    depth : int
        How many of the innermost calls make a stack; 0 for none.

    Attributes
    ----------
    here : callable
        Returns the number of the caller's stack, less its `skip` innermost calls; 0
        if there is none. `walked`, or a quicker one that gives the same numbers.
    numbers : dict
        The number of each stack that is known, by what names it.
    """

    def __init__(self, writer: Writer, depth: int = 32) -> None:
        self._write = writer.stack
        self.depth = depth
        self.numbers: dict[Hashable, int] = {}
        self._by_lines: dict[tuple[Line, ...], int] = {}
        self._codes: dict[int, CodeType] = {}
        self._more = 0
        #: The threads that are in the middle of learning a stack.
        self._learning: set[int] = set()
        self.here: Callable[..., int] = self.walked if depth else _none

    def use(self, walker: Any) -> None:
        """Walk stacks with this C extension: `walk(depth, skip) -> bytes`, `hide(prefix)`."""
        if not self.depth:
            return
        walk, numbers, depth, learn = walker.walk, self.numbers, self.depth, self.learn
        walker.hide(OURS)

        def here(skip: int = 0) -> int:
            key = walk(depth)
            known = numbers.get(key)
            return learn(key) if known is None else known

        self.here = here

    def walked(self, skip: int = 0) -> int:
        """Return the number of the caller's stack; 0 if there is none."""
        try:
            frame: Any = _getframe(1 + skip)
        except ValueError:
            return 0
        start = frame
        names: list[int] = []
        add = names.append
        left = self.depth + _MOST_OURS
        while frame is not None and left:
            add(id(frame.f_code))
            add(frame.f_lasti)
            left -= 1
            frame = frame.f_back
        key = tuple(names)
        known = self.numbers.get(key)
        if known is not None:
            return known
        codes = []
        for _ in range(len(key) // 2):
            codes.append(start.f_code)
            start = start.f_back
        return self._learn(key, zip(codes, key[1::2], strict=True))

    def place(self, number: int) -> str:
        """Return where a stack is in the program: "function file:line" of its innermost call.

        Calls in installed packages, such as CuPy's, are passed over if there are others.
        """
        known = list(self._by_lines.items())
        lines = next((lines for lines, other in known if other == number), ())
        own = [line for line in lines if "-packages" + os.sep not in line[1]]
        for function, file, line in own or lines:
            return f"{function} {file}:{line}"
        return "an unknown place"

    def learn(self, key: bytes) -> int:
        """Return the number of the caller's stack, which a walker names by an unknown key."""
        if get_ident() in self._learning:
            return 0
        codes = {}
        frame: Any = _getframe(1)
        while frame is not None:
            codes[id(frame.f_code)] = frame.f_code
            frame = frame.f_back
        return self._learn(key, ((codes[code], at) for code, at in _PACKED.iter_unpack(key)))

    def _learn(self, key: Hashable, calls: Iterable[tuple[CodeType, int]]) -> int:
        """Return the number of a stack that is not known by this key yet.

        0, if a signal handler allocates while its thread is learning another: each of its
        stacks is new, and signals that come faster than stacks are learned would never end.
        """
        if len(self.numbers) >= MOST_STACKS:
            return self._more or self._number_of_more()
        thread = get_ident()
        if thread in self._learning:
            return 0
        self._learning.add(thread)
        try:
            return self._learned(key, calls)
        finally:
            self._learning.discard(thread)

    def _learned(self, key: Hashable, calls: Iterable[tuple[CodeType, int]]) -> int:
        lines: list[Line] = []
        for code, position in calls:
            self._codes[id(code)] = code
            if not code.co_filename.startswith(OURS):
                lines.append((code.co_qualname, code.co_filename, _line(code, position)))
        theirs = tuple(lines[: self.depth])
        number = self._by_lines.get(theirs)
        if number is None:
            number = self._by_lines.setdefault(theirs, self._write(theirs) if theirs else 0)
        # Last: the code objects are kept by now.
        return self.numbers.setdefault(key, number)

    def _number_of_more(self) -> int:
        self._more = self._write((("(more stacks)", "", 0),))
        return self._more


def _none(skip: int = 0) -> int:
    return 0


def _line(code: CodeType, position: int) -> int:
    for start, end, line in code.co_lines():
        if start <= position < end and line is not None:
            return line
    return code.co_firstlineno
