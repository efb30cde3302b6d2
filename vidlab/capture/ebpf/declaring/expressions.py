"""What a user writes for the values of a call or event, and expressions as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from ....errors import InputError
from .operations import BY_NAME, Constant, Expression
from .values import (
    MOST_DEPTH,
    Argument,
    Choice,
    Dereference,
    Duration,
    Field,
    Here,
    Return,
    Text,
)

# --- what a user writes ---------------------------------------------------------------


def arg(index: int, dtype: str = "u64") -> Expression:
    """Return an argument as it was when the call began, counted from 0.

    A struct of up to 16 bytes is one argument or two, of 8 bytes each. Those from 6 on may be on
    the stack: they are for `entry`, and for conditions without what the call returns.

    For a USDT probe, the probe's own argument, whose type the probe tells; give "i32" or
    another signed type to compare it as one that may be negative.
    """
    return Argument(index, dtype)


def retval(dtype: str = "i32") -> Expression:
    """Return what the call returned: by default a C int, which is what a status is.

    Give "u64" for a pointer or a size, "i64" for a ``ssize_t``.
    """
    return Return(dtype)


def deref(pointer: Expression, dtype: str = "u64", offset: int = 0) -> Expression:
    """Return what the pointer, moved by `offset` bytes, points to in the program's memory.

    Among `exit` fields it is read as the call returns, so that it is what the call wrote.
    """
    return Dereference(pointer, dtype, offset)


def string(pointer: Expression, size: int = 64) -> Expression:
    """Return the C string that the pointer points to, cut to `size` bytes with its end."""
    return Text(pointer, size)


def choice(value: Expression, texts: Mapping[int, str]) -> Expression:
    """Return a number as the text that it stands for; a number without one is null."""
    return Choice(value, dict(texts))


def duration() -> Expression:
    """Return how long the call took, in ns; among exit fields and in conditions."""
    return Duration()


def field(name: str, dtype: str = "i64") -> Expression:
    """Return a field of a tracepoint, by the name that the kernel gives it.

    Its own size and sign are the kernel's to tell; `dtype` is the column's: "u64" for an
    address, say.
    """
    return Field(name, dtype)


def const(value: int) -> Expression:
    """Return a number as an expression."""
    return Constant(value)


def pid() -> Expression:
    """Return the process, as the kernel's first PID namespace numbers it."""
    return Here("pid")


def tid() -> Expression:
    """Return the thread, as the kernel's first PID namespace numbers it."""
    return Here("tid")


def cpu() -> Expression:
    """Return the CPU."""
    return Here("cpu")


# --- JSON -----------------------------------------------------------------------------


def from_json(values: object) -> Expression:
    """Return the expression that `Expression.to_json` wrote.

    Raises
    ------
    InputError
        If it did not write this.
    """
    return _from_json(values, 0)


#: What a value that is no expression is in JSON, by its type.
_JSON: dict[str, type] = {"str": str, "int": int, "dict[int, str]": list}


def _from_json(values: object, level: int) -> Expression:
    if level > 4 * MOST_DEPTH:
        raise InputError("an expression is nested too deeply")
    if not (isinstance(values, list) and values and isinstance(values[0], str)):
        raise InputError(f"{str(values)[:80]!r} is no expression")
    kind = BY_NAME.get(values[0])
    if kind is None:
        raise InputError(f"{values[0][:40]!r} is no kind of expression")
    expected = fields(kind)  # type: ignore[arg-type]
    if len(values) - 1 != len(expected):
        raise InputError(f"{values[0]} has {len(expected)} values, not {len(values) - 1}")
    known: list[Any] = []
    for value, declared in zip(values[1:], expected, strict=True):
        if declared.type == "Expression":
            known.append(_from_json(value, level + 1))
        elif isinstance(value, _JSON[str(declared.type)]):
            known.append(_pairs(value) if isinstance(value, list) else value)
        else:
            raise InputError(f"{declared.name} of {values[0]} cannot be {str(value)[:40]!r}")
    return kind(*known)


def _pairs(values: list[Any]) -> dict[Any, Any]:
    if not all(isinstance(pair, list) and len(pair) == 2 for pair in values):
        raise InputError(f"{str(values)[:80]!r} are no numbers with texts")
    if not all(type(code) is int for code, _ in values):
        raise InputError(f"{str(values)[:80]!r} are no numbers with texts")
    return dict(values)
