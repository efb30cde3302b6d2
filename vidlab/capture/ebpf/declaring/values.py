"""The values that a probe can see of a call or event."""

from __future__ import annotations

from typing import Any

from ....errors import InputError
from .operations import Expression, check_number, node

#: The integer types that a value may have in memory, and their sizes in bytes.
SIZES = {"u8": 1, "u16": 2, "u32": 4, "u64": 8, "i8": 1, "i16": 2, "i32": 4, "i64": 8}

#: Arguments that arrive in registers, on every machine; those after them may be on the stack.
IN_REGISTERS = 6

#: So many arguments of a function can be read at most.
MOST_ARGUMENTS = 16

#: How long a string may be, with its end, in bytes.
MOST_STRING = 256

#: How deep expressions may be nested: the program's stack holds what is in between.
MOST_DEPTH = 8

#: Where a value is there to be read: as a call begins, as it returns, in a tracepoint.
ENTRY, RETURN, TRACEPOINT = "entry", "return", "tracepoint"


class _Loaded(Expression):
    """A value of a type in a register or in memory."""

    type: str

    @property
    def signed(self) -> bool:
        return self.type.startswith("i")

    @property
    def dtype(self) -> str:
        return self.type


@node
class Argument(_Loaded, name="arg"):
    """An argument, as it was when the call began."""

    index: int
    type: str

    def __post_init__(self) -> None:
        check_type(self.type)
        if type(self.index) is not int or not 0 <= self.index < MOST_ARGUMENTS:
            raise InputError(
                f"arg({self.index!r}): arguments 0 to {MOST_ARGUMENTS - 1} can be read, counted "
                "without floating-point ones, which cannot"
            )

    @property
    def passes(self) -> bool:
        """Whether it may be on the stack, where the function may write over it."""
        return self.index >= IN_REGISTERS

    def __repr__(self) -> str:
        return f"arg({self.index})" if self.type == "u64" else f"arg({self.index}, {self.type!r})"


@node
class Return(_Loaded, name="retval"):
    """What the call returned."""

    type: str

    def __post_init__(self) -> None:
        check_type(self.type)

    def __repr__(self) -> str:
        return "retval()" if self.type == "i32" else f"retval({self.type!r})"


@node
class Field(_Loaded, name="field"):
    """A field of a tracepoint, extended by the sign that the kernel gives it, then as the type."""

    field: str
    type: str

    def __post_init__(self) -> None:
        check_type(self.type)
        if not (isinstance(self.field, str) and self.field.isidentifier()):
            raise InputError(f"field({self.field!r}): give the name of a tracepoint's field")

    def __repr__(self) -> str:
        return f"field({self.field!r}{'' if self.type == 'i64' else f', {self.type!r}'})"


@node
class Dereference(_Loaded, name="deref"):
    """What is in the program's memory at an address; 0 if that cannot be read."""

    pointer: Expression
    type: str
    offset: int

    def __post_init__(self) -> None:
        check_type(self.type)
        check_pointer(self.pointer, "deref")
        if type(self.offset) is not int or not -(1 << 31) <= self.offset < 1 << 31:
            raise InputError(f"deref(offset={self.offset!r}): give an offset of 32 bit, in bytes")

    def __repr__(self) -> str:
        further = "" if self.type == "u64" else f", {self.type!r}"
        return f"deref({self.pointer!r}{further}{f', offset={self.offset}' if self.offset else ''})"


@node
class Text(Expression, name="string"):
    """The string in the program's memory at an address, cut to a size."""

    pointer: Expression
    size: int

    def __post_init__(self) -> None:
        check_pointer(self.pointer, "string")
        if type(self.size) is not int or not 8 <= self.size <= MOST_STRING or self.size % 8:
            raise InputError(
                f"string(size={self.size!r}): the size is a multiple of 8 from 8 to {MOST_STRING} "
                "bytes, and counts the string's end"
            )

    @property
    def is_text(self) -> bool:
        return True

    @property
    def dtype(self) -> str:
        return f"s{self.size}"

    def __repr__(self) -> str:
        return f"string({self.pointer!r}, size={self.size})"


@node
class Duration(Expression, name="duration"):
    """How long the call took."""

    @property
    def signed(self) -> bool:
        return True

    def __repr__(self) -> str:
        return "duration()"


@node
class Here(_Loaded, name="here"):
    """Where the event happens: the process, thread or CPU."""

    what: str

    def __post_init__(self) -> None:
        if self.what not in ("pid", "tid", "cpu"):
            raise InputError(f"{self.what!r} is none of pid, tid and cpu")

    @property
    def type(self) -> str:  # type: ignore[override]
        return "u32"

    def __repr__(self) -> str:
        return f"{self.what}()"


@node
class Choice(Expression, name="choice"):
    """A number that stands for a text; as a field of its own, not within other expressions."""

    value: Expression
    texts: dict[int, str]

    def __post_init__(self) -> None:
        check_number(self.value, "choice")
        pairs = dict(self.texts)  # JSON has pairs, as its keys are text
        if not all(type(code) is int and isinstance(text, str) for code, text in pairs.items()):
            raise InputError("choice(texts): give a text for each number, as in {1: 'read'}")
        object.__setattr__(self, "texts", pairs)

    @property
    def signed(self) -> bool:
        return self.value.signed

    @property
    def dtype(self) -> str:
        return self.value.dtype

    def to_json(self) -> list[Any]:
        return [
            self.name,
            self.value.to_json(),
            [[code, text] for code, text in self.texts.items()],
        ]

    def __repr__(self) -> str:
        return f"choice({self.value!r}, {self.texts!r})"


def check_type(dtype: str) -> None:
    """Raise InputError unless this names an integer type."""
    if dtype not in SIZES:
        raise InputError(f"{dtype!r} is no type of a value: give one of {', '.join(SIZES)}")


def check_pointer(value: Expression, what: str) -> None:
    """Raise InputError unless this can be an address."""
    if not isinstance(value, Expression) or value.is_text or value.is_condition:
        raise InputError(f"{what}({value!r}): give an address, such as arg(0)")
