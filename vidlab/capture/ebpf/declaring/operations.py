"""Expressions: what is calculated in the kernel, from values and by operators.

An expression is a small tree; its leaves are in `values`. It is compiled into
instructions that the kernel runs (`vidlab.capture.ebpf.program`), and travels as JSON to
other processes (`to_json`).

All arithmetic is 64 bit and wraps. A value is extended to 64 bit as it is loaded: by its
sign if its type is signed. A comparison, a division, a remainder or a shift to the
right is signed if one of its sides is. Division goes towards zero, as in C; by zero it
gives 0, and the remainder is then the left side, as in the kernel.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, ClassVar, TypeVar, dataclass_transform

from ....errors import InputError

#: The greatest number of 64 bit.
LARGEST = (1 << 64) - 1

#: The kinds of expressions, by their names in JSON.
BY_NAME: dict[str, type[Expression]] = {}


_Kind = TypeVar("_Kind")


class Expression:
    """A value of a call or event. Operators make further expressions of it.

    ``+ - * // % & | ^ << >>`` and ``-x`` give numbers, comparisons give conditions;
    on conditions ``& | ~`` are *and*, *or* and *not*.
    """

    #: Its name in JSON.
    name: ClassVar[str]

    #: The names of its values.
    names: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, name: str | None = None, **options: Any) -> None:
        super().__init_subclass__(**options)
        if name is not None:
            cls.name = name
            BY_NAME[name] = cls

    @property
    def signed(self) -> bool:
        """Whether its value may be negative."""
        return False

    @property
    def is_condition(self) -> bool:
        """Whether it is true or false."""
        return False

    @property
    def is_text(self) -> bool:
        """Whether it is a string."""
        return False

    @property
    def dtype(self) -> str:
        """The type of a column that holds it: "u64", "i32", "s64" (64 bytes of text)…"""
        return "i64" if self.signed else "u64"

    @property
    def most(self) -> int:
        """The greatest value that it can have, of one that is never negative."""
        if self.signed or self.dtype[1:] not in ("8", "16", "32"):
            return LARGEST
        return (1 << int(self.dtype[1:])) - 1

    @property
    def parts(self) -> tuple[Expression, ...]:
        """The expressions that it is made of."""
        values = (getattr(self, name) for name in self.names)
        return tuple(value for value in values if isinstance(value, Expression))

    def walk(self) -> Iterator[Expression]:
        """Yield this and all that it is made of."""
        yield self
        for part in self.parts:
            yield from part.walk()

    def to_json(self) -> list[Any]:
        """Return it as JSON values; `from_json` is the way back."""
        values = (getattr(self, name) for name in self.names)
        return [
            self.name,
            *(value.to_json() if isinstance(value, Expression) else value for value in values),
        ]

    def __repr__(self) -> str:
        raise NotImplementedError

    def __add__(self, other: Expression | int) -> Expression:
        return Arithmetic("+", self, number(other))

    def __radd__(self, other: int) -> Expression:
        return Arithmetic("+", number(other), self)

    def __sub__(self, other: Expression | int) -> Expression:
        return Arithmetic("-", self, number(other))

    def __rsub__(self, other: int) -> Expression:
        return Arithmetic("-", number(other), self)

    def __mul__(self, other: Expression | int) -> Expression:
        return Arithmetic("*", self, number(other))

    __rmul__ = __mul__

    def __floordiv__(self, other: Expression | int) -> Expression:
        return Arithmetic("//", self, number(other))

    def __rfloordiv__(self, other: int) -> Expression:
        return Arithmetic("//", number(other), self)

    def __truediv__(self, other: object) -> Expression:
        raise InputError("/ would give a fraction, and there are only integers: divide with //")

    __rtruediv__ = __truediv__

    def __mod__(self, other: Expression | int) -> Expression:
        return Arithmetic("%", self, number(other))

    def __rmod__(self, other: int) -> Expression:
        return Arithmetic("%", number(other), self)

    def __lshift__(self, other: Expression | int) -> Expression:
        return Arithmetic("<<", self, number(other))

    def __rlshift__(self, other: int) -> Expression:
        return Arithmetic("<<", number(other), self)

    def __rshift__(self, other: Expression | int) -> Expression:
        return Arithmetic(">>", self, number(other))

    def __rrshift__(self, other: int) -> Expression:
        return Arithmetic(">>", number(other), self)

    def __xor__(self, other: Expression | int) -> Expression:
        return Arithmetic("^", self, number(other))

    __rxor__ = __xor__

    def __and__(self, other: Expression | int) -> Expression:
        if self.is_condition:
            return Logic("and", self, condition(other))
        return Arithmetic("&", self, number(other))

    __rand__ = __and__

    def __or__(self, other: Expression | int) -> Expression:
        if self.is_condition:
            return Logic("or", self, condition(other))
        return Arithmetic("|", self, number(other))

    __ror__ = __or__

    def __invert__(self) -> Expression:
        return Not(condition(self)) if self.is_condition else Arithmetic("^", self, Constant(-1))

    def __neg__(self) -> Expression:
        return Arithmetic("-", Constant(0), self)

    def __eq__(self, other: object) -> Expression:  # type: ignore[override]
        return Comparison("==", self, number(other))

    def __ne__(self, other: object) -> Expression:  # type: ignore[override]
        return Comparison("!=", self, number(other))

    def __lt__(self, other: Expression | int) -> Expression:
        return Comparison("<", self, number(other))

    def __le__(self, other: Expression | int) -> Expression:
        return Comparison("<=", self, number(other))

    def __gt__(self, other: Expression | int) -> Expression:
        return Comparison(">", self, number(other))

    def __ge__(self, other: Expression | int) -> Expression:
        return Comparison(">=", self, number(other))

    __hash__ = object.__hash__

    def __bool__(self) -> bool:
        raise InputError(
            f"{self!r} has a value only while the probe runs: combine conditions with & | ~ "
            "and brackets, not with and, or, not or chained comparisons"
        )


@dataclass_transform(eq_default=False, frozen_default=True)
def node(kind: type[_Kind]) -> type[_Kind]:
    """Make a kind of expression of a class: its values are its fields, and never change."""
    made: Any = dataclass(frozen=True, eq=False, repr=False)(kind)
    made.names = tuple(field.name for field in fields(made))
    return made  # type: ignore[no-any-return]


@node
class Constant(Expression, name="const"):
    """A number."""

    value: int

    def __post_init__(self) -> None:
        if type(self.value) is not int or not -(1 << 63) <= self.value < 1 << 64:
            raise InputError(f"{self.value!r} is not an integer of 64 bit")

    @property
    def signed(self) -> bool:
        return self.value < 0

    @property
    def most(self) -> int:
        return max(self.value, 0)

    def __repr__(self) -> str:
        return str(self.value)


@node
class Arithmetic(Expression, name="arithmetic"):
    """A number made of two."""

    sign: str
    left: Expression
    right: Expression

    def __post_init__(self) -> None:
        if self.sign not in ("+", "-", "*", "//", "%", "&", "|", "^", "<<", ">>"):
            raise InputError(f"{self.sign!r} is no operator of expressions")
        check_number(self.left, self.sign)
        check_number(self.right, self.sign)

    @property
    def signed(self) -> bool:
        return self.left.signed or (self.right.signed and self.sign not in ("<<", ">>"))

    @property
    def dtype(self) -> str:
        if self.signed:
            return "i64"
        most = self.most
        return next(f"u{bits}" for bits in (8, 16, 32, 64) if most < 1 << bits)

    @property
    def most(self) -> int:
        if self.signed:
            return LARGEST
        left, right = self.left.most, self.right.most
        fixed = isinstance(self.right, Constant)
        if self.sign == "&":
            return min(left, right)
        if self.sign in ("|", "^"):
            return int((1 << max(left, right).bit_length()) - 1)
        if self.sign == ">>":
            return left >> (right & 63) if fixed else left
        if self.sign == "//":
            return left // right if fixed and right else left
        if self.sign == "%":  # by zero it is the left side
            return min(left, right - 1) if fixed and right else left
        if self.sign == "-" or (self.sign == "<<" and not fixed):
            return LARGEST
        most = {"+": left + right, "*": left * right}.get(self.sign, left << (right & 63))
        return min(most, LARGEST)

    def __repr__(self) -> str:
        return f"({self.left!r} {self.sign} {self.right!r})"


@node
class Comparison(Expression, name="comparison"):
    """Whether two numbers compare so."""

    sign: str
    left: Expression
    right: Expression

    def __post_init__(self) -> None:
        if self.sign not in ("==", "!=", "<", "<=", ">", ">="):
            raise InputError(f"{self.sign!r} is no comparison")
        check_number(self.left, self.sign)
        check_number(self.right, self.sign)

    @property
    def is_condition(self) -> bool:
        return True

    @property
    def dtype(self) -> str:
        return "u8"

    def __repr__(self) -> str:
        return f"({self.left!r} {self.sign} {self.right!r})"


@node
class Logic(Expression, name="logic"):
    """Both conditions, or at least one."""

    word: str
    left: Expression
    right: Expression

    def __post_init__(self) -> None:
        if self.word not in ("and", "or"):
            raise InputError(f"{self.word!r} is neither and nor or")
        condition(self.left)
        condition(self.right)

    @property
    def is_condition(self) -> bool:
        return True

    @property
    def dtype(self) -> str:
        return "u8"

    def __repr__(self) -> str:
        return f"({self.left!r} {'&' if self.word == 'and' else '|'} {self.right!r})"


@node
class Not(Expression, name="not"):
    """The opposite of a condition."""

    condition: Expression

    def __post_init__(self) -> None:
        condition(self.condition)

    @property
    def is_condition(self) -> bool:
        return True

    @property
    def dtype(self) -> str:
        return "u8"

    def __repr__(self) -> str:
        return f"~{self.condition!r}"


# --- checks ---------------------------------------------------------------------------


def number(value: object) -> Expression:
    """Return a side of an operation as an expression."""
    if isinstance(value, Expression):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return Constant(int(value))  # such as a member of an IntEnum
    raise InputError(f"{value!r} cannot be calculated with: give an integer or an expression")


def condition(value: object) -> Expression:
    """Return the value, which has to be a condition."""
    if isinstance(value, Expression) and value.is_condition:
        return value
    raise InputError(f"{value!r} is not a condition: compare it with something, as in arg(1) > 0")


def check_number(value: Expression, sign: str) -> None:
    """Raise InputError unless this is a number."""
    if value.is_text:
        raise InputError(f"{value!r} is a string: {sign} needs numbers")
    if value.is_condition:
        raise InputError(f"{value!r} is a condition: {sign} needs numbers")


def depth(expression: Expression) -> int:
    """Return how deep an expression is nested."""
    return 1 + max(map(depth, expression.parts), default=0)
