"""From the members of a plan to the code of their programs, which is kept and used again.

What a program does depends on the fields, conditions and record of its declaration, and not
on the function that it is attached to: so the versions of a function, and of a library, share
one. What was made once in this process is not made again.
"""

from __future__ import annotations

import functools
import json
import os
import struct
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from ...errors import InputError
from .declaring.layout import Layout
from .declaring.metrics import Metric
from .declaring.operations import Constant, Expression
from .declaring.probes import Probe, Tracepoint, Usdt
from .kernel import btf, tracefs
from .plan import Member, Plan
from .program import calls, moments
from .program.context import ProgramContext
from .program.instructions import Code
from .program.words import stash_bytes

# The roles of programs, each with a dispatcher and an array of its own: the kernel lets only
# programs of one type and one way of attaching call each other.
SESSION, BEGIN, RETURN, EVENT = "session", "begin", "return", "event"

#: So many members' code is kept; that of the set `cuda` is of some 40.
_MOST_KEPT = 512

#: The inode of the kernel's first PID namespace (PROC_PID_INIT_INO of its proc_ns.h).
_FIRST_NAMESPACE = 0xEFFFFFFC

#: Where an instruction's immediate is in its bytes: a map's descriptor, a function's number.
_IMMEDIATE = 4


class Encoded(NamedTuple):
    """A program's bytes, whose maps have no descriptors yet.

    Attributes
    ----------
    code : bytes
    maps : tuple of (str, int)
        The maps that it uses, and where in the bytes the descriptor of each belongs.
    """

    code: bytes
    maps: tuple[tuple[str, int], ...]

    def bound(self, maps: Mapping[str, int]) -> bytes:
        """Return the bytes to load, with these maps' descriptors."""
        code = bytearray(self.code)
        for name, at in self.maps:
            struct.pack_into("<i", code, at, maps[name])
        return bytes(code)


_kept: OrderedDict[tuple[Any, ...], dict[str, Encoded]] = OrderedDict()
_records: WeakKeyDictionary[Layout, Any] = WeakKeyDictionary()


def encoded(code: Code) -> Encoded:
    """Return a program's bytes, of which only the descriptors of maps are missing."""
    whole = bytearray()
    places: list[tuple[str, int]] = []
    for one in code.instructions:
        at = len(whole) + _IMMEDIATE
        whole += one.encode()
        if one.map is not None:
            places.append((one.map, at))
        elif one.function is not None:
            struct.pack_into("<i", whole, at, _kernel_function(one.function))
    return Encoded(bytes(whole), tuple(places))


def encoded_of(
    member: Member, shape: str | None, layout: Layout | None, **options: Any
) -> dict[str, Encoded]:
    """Return the programs of a member by their role; see `code_of` for the parameters.

    `shape` is what `Shapes.of` says of it: what does the same is made only once.
    """
    key = None
    if shape is not None:
        key = (shape, _record(layout), _namespace(), *sorted(options.items()))
        known = _kept.get(key)
        if known is not None:
            return known
    codes = code_of(member, layout, **options)
    made = {role: encoded(code) for role, code in codes.items()}
    if key is not None:
        _kept[key] = made
        if len(_kept) > _MOST_KEPT:
            _kept.popitem(last=False)
    return made


def _record(layout: Layout | None) -> Any:
    """Return what code depends on of a record: where its fields are, and of which types."""
    if layout is None:
        return None
    if layout not in _records:
        _records[layout] = layout.returns, tuple(layout.dtype.descr)
    return _records[layout]


def code_of(
    member: Member,
    layout: Layout | None,
    *,
    number: int | None,
    ring_bytes: int,
    stash_room: int,
    sessions: bool,
    everyone: bool = False,
    places: Sequence[Any] = (),
) -> dict[str, Code]:
    """Return the programs of a member by their role, not loaded.

    Parameters
    ----------
    member : Member
    layout : Layout or None
        Its record; None if it only counts.
    number : int or None
        The member's; None to read it from the cookie.
    ring_bytes, stash_room : int
        The sizes of its ring and of what is kept of a call, in bytes.
    sessions, everyone : bool
        As of `Programs`.
    places : sequence of sequences of UsdtArgument
        The arguments of a USDT probe, at each of its places.
    """
    source, of = member.source, member.declaration
    category_event = None
    if member.attached is not None:
        category_event = member.attached.category, member.attached.event
    elif isinstance(of, Tracepoint):
        category_event = of.category, of.event
    elsewhere = isinstance(of, Tracepoint) and of.everywhere
    context = ProgramContext(
        index=number,
        layout=layout,
        ring_bytes=ring_bytes,
        targets=everyone or (isinstance(of, Tracepoint) and not elsewhere),
        namespace=_namespace(),
        format=tracefs.tracepoint_format(*category_event) if category_event else None,
        stash_room=stash_room,
    )
    if member.attached is not None:
        return {EVENT: member.attached.write(context).assemble()}
    if isinstance(of, Tracepoint):
        return {EVENT: moments.tracepoint(context, source)}  # type: ignore[arg-type]
    if isinstance(of, Usdt):
        return {BEGIN: moments.usdt(context, source, places)}  # type: ignore[arg-type]
    assert isinstance(of, Probe)
    if not of.returns:
        return {BEGIN: moments.entry(context, source)}  # type: ignore[arg-type]
    if sessions:
        return {SESSION: calls.call_session(context, source)}  # type: ignore[arg-type]
    begin, end = calls.call_pair(context, source)  # type: ignore[arg-type]
    return {BEGIN: begin, RETURN: end}


def stash_room(plan: Plan) -> int:
    """Return the size of what is kept of a call, in bytes, such that it fits every table."""
    sizes = [layout.dtype.itemsize for layout in plan.layouts.values()]
    return stash_bytes(max(sizes, default=0))


class Shapes:
    """Tells what the programs of members depend on, for one plan.

    Expressions are turned into text once each: a set uses one in many declarations.
    """

    def __init__(self) -> None:
        #: With the expression, so that its number stays its own.
        self._texts: dict[int, tuple[Expression, str]] = {}

    def of(self, member: Member) -> str | None:
        """Return what a member's programs depend on; None if on what they are attached to.

        Constants are not in the record, and the function's name is not in the program.
        """
        of, source = member.declaration, member.source
        if not isinstance(of, Probe) or member.attached is not None:
            return None
        parts = [f"{of.tid} {of.every} {self._text(of.when)}", self._fields(of.entry)]
        if of.exit is not None:
            parts.append(self._fields(of.exit))
        if isinstance(source, Metric):
            counted = source.to_json()
            counted.pop("of", None)
            parts += ["counts", json.dumps(counted)]
        else:
            parts.append(source.table)
        return "\n".join(parts)

    def _fields(self, fields: Mapping[str, Any]) -> str:
        return " ".join(
            f"{name} {self._text(value)}"
            for name, value in fields.items()
            if not isinstance(value, str | Constant)
        )

    def _text(self, value: Expression | None) -> str:
        if value is None:
            return ""
        known = self._texts.get(id(value))
        if known is None:
            known = self._texts[id(value)] = value, json.dumps(value.to_json())
        return known[1]


@functools.cache
def _kernel_function(name: str) -> int:
    number = btf.function_id(name)
    if number is None:
        raise InputError(f"this kernel does not have {name}: see 'vidlab doctor'")
    return number


def _namespace() -> tuple[int, int] | None:
    """Return device and inode of our PID namespace, if it is not the kernel's first."""
    return _namespace_of(os.getpid())


@functools.lru_cache(1)
def _namespace_of(pid: int) -> tuple[int, int] | None:
    status = Path("/proc/self/ns/pid").stat()
    return None if status.st_ino == _FIRST_NAMESPACE else (status.st_dev, status.st_ino)
