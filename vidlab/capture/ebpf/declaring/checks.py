"""Whether a declared probe can work, told without asking the kernel."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeAlias

from ....errors import InputError
from ....schema import COMMON, LABELS
from .operations import Constant, Expression, condition, depth
from .values import MOST_DEPTH, Argument, Choice, Dereference, Duration, Field, Return, Text

#: What a field can be declared as.
Value: TypeAlias = "Expression | int | str"

#: What a field is kept as: a text stands for itself.
Kept: TypeAlias = "Expression | str"

#: The columns that every table of kernel events has of itself.
OWN = frozenset(
    {
        *(column.name for column in (*COMMON, *LABELS)),
        *("cpu", "span", "frame", "symbol", "duration_ns", "probe", "sample_rate"),
    }
)

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")
SYMBOL = re.compile(r"[\w.$@]{1,512}")

#: So many arguments a USDT probe has at most.
MOST_USDT_ARGUMENTS = 12

#: The most fields of a declaration, and the most bytes of a record.
MOST_FIELDS = 40
MOST_RECORD = 1024


def kept(values: Mapping[str, Value], what: str) -> dict[str, Kept]:
    """Return declared fields with numbers as expressions."""
    if not isinstance(values, Mapping):
        raise InputError(f"the fields of {what} are a dict of names and values, not {values!r}")
    kept: dict[str, Kept] = {}
    for name, value in values.items():
        if not (isinstance(name, str) and NAME.fullmatch(name) and name == name.lower()):
            raise InputError(
                f"{name!r} of {what} is no column's name: a-z, 0-9 and _, from a letter"
            )
        if name in OWN:
            raise InputError(f"{what} cannot declare {name}: its table has this column of itself")
        if type(value) is int:
            value = Constant(value)
        if not isinstance(value, Expression | str):
            raise InputError(f"{name} of {what} is no expression, number or text: {value!r}")
        kept[name] = value
    if len(kept) > MOST_FIELDS:
        raise InputError(f"{what} has {len(kept)} fields: {MOST_FIELDS} at most")
    return kept


def check_common(known: Any, what: str) -> None:
    if known.name is not None and not (isinstance(known.name, str) and NAME.fullmatch(known.name)):
        raise InputError(f"name of {what} is no table's name: {known.name!r}")
    if not NAME.fullmatch(known.table):
        raise InputError(f"{known.table!r} is no table's name: give name= to {what}")
    if known.tid is not None and not (type(known.tid) is int and known.tid > 0):
        raise InputError(f"tid of {what} is a thread's number, not {known.tid!r}")
    sample = known.sample
    if not (isinstance(sample, int | float) and 1e-9 <= sample <= 1):
        raise InputError(f"sample of {what} is a share above 0 and at most 1, not {sample!r}")
    if abs(1 / round(1 / sample) - sample) > 1e-9 * sample:
        near = round(1 / sample)
        raise InputError(f"sample of {what} is 1/N, as 1/{near}, not {sample!r}")
    if known.when is not None:
        condition(known.when)


def check_parts(value: Kept, what: str, field_of_tracepoint: bool) -> None:
    if isinstance(value, str):
        return
    if depth(value) > MOST_DEPTH:
        raise InputError(f"{what} is nested deeper than {MOST_DEPTH}: make it simpler")
    for part in value.walk():
        if isinstance(part, Text | Choice) and part is not value:
            raise InputError(f"{what}: {part!r} can be a column only, not part of something")
        if isinstance(part, Field) and not field_of_tracepoint:
            raise InputError(f"{what}: {part!r} is of tracepoints; a function has arg(i)")
        if field_of_tracepoint and isinstance(part, Argument | Return | Duration):
            raise InputError(f"{what}: {part!r} is of functions; a tracepoint has field(name)")
        if field_of_tracepoint and isinstance(part, Dereference):
            raise InputError(f"{what}: {part!r} reads a program's memory; a tracepoint has none")


def check_at_return(value: Kept, what: str) -> None:
    """Raise InputError for what is known as the call begins only."""
    if isinstance(value, str):
        return
    for part in value.walk():
        if isinstance(part, Argument) and part.passes:
            raise InputError(
                f"{what}: {part!r} may be on the stack, and is known only as the call begins: "
                "put it into entry"
            )


def check_at_entry(value: Kept, what: str) -> None:
    if isinstance(value, str):
        return
    for part in value.walk():
        if isinstance(part, Return | Duration):
            raise InputError(f"{what}: {part!r} is not known as the call begins: put it into exit")


def check_usdt(value: Kept, what: str) -> None:
    """Raise InputError for what a USDT probe does not have: a return, or so many arguments."""
    check_at_entry(value, what)
    if isinstance(value, str):
        return
    for part in value.walk():
        if isinstance(part, Argument) and part.index >= MOST_USDT_ARGUMENTS:
            raise InputError(
                f"{what}: a USDT probe has arg(0) to arg({MOST_USDT_ARGUMENTS - 1}), no {part!r}"
            )
