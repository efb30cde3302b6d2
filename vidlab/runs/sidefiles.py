"""The side files of a process: what its records name by number, one JSON object a line.

A line is written, by one call, before any record can name what it defines.
"""

from __future__ import annotations

import itertools
import json
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import labelsets
from .derived import DerivedLabels

#: The calls of a stack, innermost first: function, file and line of each.
StackFrames = Sequence[tuple[str, str, int]]

#: Returns a text as JSON. `json.dumps` makes an encoder for each, which takes longer.
_quoted = json.encoder.encode_basestring

#: So many stacks are written at a time.
_STACKS_A_WRITE = 128

#: How many calls' texts are kept, for the stacks to come.
_MOST_CALL_TEXTS = 1 << 16


class Lines:
    """A file to which lines are appended. Every process and table of names has its own."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)
        self._unwritten: deque[bytes] = deque()
        self.error: OSError | None = None

    def append(self, values: Mapping[str, Any]) -> None:
        """Write a line; if that fails it is kept for `retry`."""
        self.write(json.dumps(values, ensure_ascii=False) + "\n")

    def write(self, lines: str) -> None:
        """Write whole lines; if that fails they are kept for `retry`."""
        self._write(lines.encode("utf-8", "replace"))

    def retry(self) -> None:
        """Write what could not be written before."""
        for _ in range(len(self._unwritten)):
            self._write(self._unwritten.popleft())

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, line: bytes) -> None:
        try:
            if self._file.write(line) == len(line):
                return
            line = b"\n" + line.lstrip(b"\n")  # what came of it is a line of nonsense
        except ValueError:  # closed: a thread outlives the recording
            return
        except OSError as error:
            self.error = error
        self._unwritten.append(line)


class Definitions:
    """The names, label sets and stacks of a process, each written down as it is first used.

    Parameters
    ----------
    derived : DerivedLabels
        Adds further labels to the sets.

    Attributes
    ----------
    names : Names
        The numbers by which records name stages, queues and sinks.
    """

    def __init__(self, derived: DerivedLabels) -> None:
        self._derived = derived
        self._names: list[tuple[int, str]] = []
        self._name_lines: Lines | None = None
        self._label_lines: Lines | None = None
        self._stacks: list[tuple[int, StackFrames]] = []
        self._stack_lines: Lines | None = None
        self._stack_numbers = itertools.count(1)
        self._call_texts: dict[Any, str] = {}
        self._stop_listening: Callable[[], None] | None = None
        self.names = labelsets.Names(self._write_name)

    def begin(self, segments: Path, index: int) -> None:
        """Write down all that is known and, from now on, all that is new."""
        self.end()
        self._name_lines = Lines(segments / f"{index:04d}-names.jsonl")
        self._label_lines = Lines(segments / f"{index:04d}-labels.jsonl")
        self._stack_lines = Lines(segments / f"{index:04d}-stacks.jsonl")
        for number, name in self._names:
            self._name_lines.append({"id": number, "name": name})
        self._write_stacks(self._stack_lines, self._stacks)
        self._stop_listening = labelsets.listen(self._write_labels)

    def end(self) -> None:
        """Write nothing more."""
        if self._stop_listening is not None:
            self._stop_listening()
            self._stop_listening = None
        self._close()

    def leave(self) -> None:
        """In a forked child: let go of the parent's files."""
        self.names.after_fork_in_child()
        # Locks of `labelsets` may not be anew yet: not to listen any more can wait.
        self._close()

    def retry(self) -> OSError | None:
        """Write what could not be written before; return what went wrong last, if anything did."""
        error = None
        for lines in self._open:
            if lines is not None:
                lines.retry()
                error = lines.error or error
        return error

    def stack(self, frames: StackFrames) -> int:
        """Write down a call stack; return its number, from 1."""
        return self.stacks([frames])[0]

    def stacks(self, many: Iterable[StackFrames]) -> list[int]:
        """Write down call stacks, all at once; return their numbers."""
        new = [(next(self._stack_numbers), frames) for frames in many]
        self._stacks += new
        if self._stack_lines is not None and new:
            self._write_stacks(self._stack_lines, new)
        return [number for number, _ in new]

    def _write_stacks(self, lines: Lines, stacks: Sequence[tuple[int, StackFrames]]) -> None:
        # Stacks have most of their calls in common, and as the same objects: the text of each
        # is made once, and found by the object's id, which takes a third as long as by what is
        # in it. Some at a time: memory of some MB would have to be had from the system.
        texts: dict[int, str] = {}
        text_of = texts.__getitem__
        for begin in range(0, len(stacks), _STACKS_A_WRITE):
            written = []
            for number, frames in stacks[begin : begin + _STACKS_A_WRITE]:
                ids = list(map(id, frames))
                try:
                    calls = ", ".join(map(text_of, ids))
                except KeyError:
                    new = (frame for frame in frames if id(frame) not in texts)
                    texts.update({id(frame): self._text_of(frame) for frame in new})
                    calls = ", ".join(map(text_of, ids))
                written.append(f'{{"id": {number}, "frames": [{calls}]}}\n')
            lines.write("".join(written))

    def _text_of(self, call: Sequence[Any]) -> str:
        known, key = self._call_texts, tuple(call)
        text = known.get(key)
        if text is None:
            if len(known) >= _MOST_CALL_TEXTS:
                known.clear()
            function, file, line = key
            text = known[key] = f"[{_quoted(function)}, {_quoted(file)}, {line:d}]"
        return text

    def _write_name(self, number: int, name: str) -> None:
        self._names.append((number, name))
        if self._name_lines is not None:
            self._name_lines.append({"id": number, "name": name})

    def _write_labels(self, labels: labelsets.LabelSet) -> None:
        if self._label_lines is not None:
            self._label_lines.append(self._derived.line(labels))

    def _close(self) -> None:
        for lines in self._open:
            if lines is not None:
                lines.close()
        self._name_lines = self._label_lines = self._stack_lines = None

    @property
    def _open(self) -> tuple[Lines | None, ...]:
        return self._name_lines, self._label_lines, self._stack_lines
