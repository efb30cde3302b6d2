"""Expressions as instructions: what a declaration calculates, calculated by the kernel.

A value is left in R0; R1 to R5 are lost on the way. What the instructions find where (an
argument in a register or in the stash, a field of a tracepoint) is told by `Values`.
"""

from __future__ import annotations

from ....errors import InputError
from ..declaring.operations import Arithmetic, Comparison, Constant, Expression, Logic, Not
from ..declaring.values import (
    SIZES,
    Argument,
    Choice,
    Dereference,
    Duration,
    Field,
    Here,
    Return,
    Text,
)
from . import helpers
from .encoding import R0, R1, R2, R3, R10, Label, Register
from .instructions import Builder

#: The opposite of each comparison.
_OPPOSITE = {"==": "!=", "!=": "==", "<": ">=", ">=": "<", ">": "<=", "<=": ">"}

#: The instruction's operation for each operator that is the same for all signs.
_SAME = {"+": "+", "-": "-", "*": "*", "&": "&", "|": "|", "^": "^", "<<": "<<"}

_LEAVES = (Argument, Constant, Duration, Field, Return)


class Values:
    """Where a program finds the values that expressions name.

    Each method sets one register, 64 bit wide by the value's own sign, and changes no other
    (`here` may change R1 to R5 as well). What a program has not is refused.
    """

    def argument(self, b: Builder, index: int, type: str, to: Register) -> None:
        """Load an argument of the call."""
        raise _missing(f"arg({index})")

    def on_stack(self, b: Builder, index: int, to: Register) -> bool:
        """Load the address of an argument that is on the stack; False if it is none such."""
        return False

    def result(self, b: Builder, type: str, to: Register) -> None:
        """Load what the call returned."""
        raise _missing("retval()")

    def duration(self, b: Builder, to: Register) -> None:
        """Load how long the call took."""
        raise _missing("duration()")

    def field(self, b: Builder, name: str, to: Register) -> None:
        """Load a field of the tracepoint."""
        raise _missing(f"field({name!r})")

    def here(self, b: Builder, what: str, to: Register) -> None:
        """Load the pid, tid or CPU."""
        raise _missing(f"{what}()")

    def text(self, b: Builder, name: str) -> bool:
        """Load the kernel's address of a tracepoint's text into R0; False if it is no text."""
        return False


def _is_leaf(expression: Expression) -> bool:
    """Whether loading it changes one register only."""
    return isinstance(expression, _LEAVES) and not (
        isinstance(expression, Argument) and expression.passes
    )


def _missing(what: str) -> InputError:
    return InputError(f"{what} is not known here: a probe of this kind, or at this time, lacks it")


class Compiler:
    """Makes instructions of expressions.

    Parameters
    ----------
    b : Builder
        Where they are added.
    values : Values
        Where values are.
    """

    def __init__(self, b: Builder, values: Values) -> None:
        self._b = b
        self._values = values

    def value(self, expression: Expression) -> None:
        """Leave the value in R0; of a condition 1 or 0."""
        b = self._b
        if isinstance(expression, Choice):
            self.value(expression.value)
        elif isinstance(expression, Argument) and self._values.on_stack(b, expression.index, R3):
            self._read_user(expression.type)
        elif isinstance(expression, _LEAVES):
            self._leaf(expression, R0)
        elif isinstance(expression, Here):
            self._values.here(b, expression.what, R0)
        elif isinstance(expression, Dereference):
            self._dereference(expression)
        elif isinstance(expression, Arithmetic):
            self._arithmetic(expression)
        elif expression.is_condition:
            no, done = b.label("no"), b.label("done")
            self.unless(expression, no)
            b.move(R0, 1)
            b.jump(done)
            b.place(no)
            b.move(R0, 0)
            b.place(done)
        else:
            raise InputError(f"{expression!r} is no number")

    def unless(self, condition: Expression, to: Label) -> None:
        """Go to the label unless the condition holds."""
        self._branch(condition, to, False)

    def text(self, expression: Text, base: Register, offset: int, room: int) -> None:
        """Write a string to `base` + `offset`, and zeros up to `room`, a multiple of 8.

        `base` outlasts calls (R6 to R10). What cannot be read is all zeros.
        """
        b = self._b
        for at in range(0, room, 8):
            b.store(8, base, offset + at, 0)
        pointer, size = expression.pointer, min(expression.size, room)
        if isinstance(pointer, Field) and self._values.text(b, pointer.field):
            self._read_text(helpers.READ_KERNEL_STRING, base, offset, size)
            return
        self.value(pointer)
        if not any(isinstance(part, Field) for part in pointer.walk()):
            self._read_text(helpers.READ_USER_STRING, base, offset, size)
            return
        done = b.label("text")
        with b.slot(8) as kept:
            b.comment("the kernel's own text, or else one of the program's")
            b.store(8, R10, kept, R0)
            self._read_text(helpers.READ_KERNEL_STRING, base, offset, size)
            b.jump_if(R0, "s>=", 0, done)
            b.load(R0, 8, R10, kept)
            self._read_text(helpers.READ_USER_STRING, base, offset, size)
        b.place(done)

    def _read_text(self, helper: int, base: Register, offset: int, size: int) -> None:
        """Read the string at R0 to `base` + `offset`; R0 is below 0 if that fails."""
        b = self._b
        b.move(R3, R0)
        b.move(R2, size)
        b.move(R1, base)
        b.alu(R1, "+", offset)
        b.call(helper)

    # --- numbers ---------------------------------------------------------------------

    def _leaf(self, expression: Expression, to: Register) -> None:
        b, values = self._b, self._values
        if isinstance(expression, Constant):
            b.move(to, expression.value)
        elif isinstance(expression, Argument):
            values.argument(b, expression.index, expression.type, to)
        elif isinstance(expression, Return):
            values.result(b, expression.type, to)
        elif isinstance(expression, Duration):
            values.duration(b, to)
        else:
            assert isinstance(expression, Field)
            values.field(b, expression.field, to)

    def _dereference(self, expression: Dereference) -> None:
        b = self._b
        self.value(expression.pointer)
        b.move(R3, R0)
        if expression.offset:
            b.alu(R3, "+", expression.offset)
        self._read_user(expression.type)

    def _read_user(self, type: str) -> None:
        """Leave in R0 what is in the program's memory at R3; what cannot be read is 0."""
        b = self._b
        with b.slot(8) as room:
            b.move(R2, SIZES[type])
            b.move(R1, R10)
            b.alu(R1, "+", room)
            b.call(helpers.READ_USER)
            load_typed(b, R0, R10, room, type)

    def _arithmetic(self, expression: Arithmetic) -> None:
        b, sign = self._b, expression.sign
        signed = expression.signed
        right = self._sides(expression.left, expression.right)
        if sign in _SAME or sign == ">>":
            if sign in ("<<", ">>") and not isinstance(right, Register):
                right &= 63  # as the machine does it
            operation = _SAME.get(sign) or ("s>>" if signed else ">>")
            b.alu(R0, operation, right)
            return
        if right == 0 and not isinstance(right, Register):
            if sign == "//":
                b.move(R0, 0)  # of the remainder, the left side is what remains
            return
        operation = "/" if sign == "//" else "%"
        if not signed:
            b.alu(R0, operation, right)
            return
        if not isinstance(right, Register):
            b.move(R1, right)
        self._divide_signed(operation)

    def _divide_signed(self, operation: str) -> None:
        """R0 divided by R1, towards zero, by the quotient of what they are without signs.

        The machine's own signed division came with Linux 6.6, and stops some kernels when
        the least number is divided by -1.
        """
        b = self._b
        left, right, done = b.label("left"), b.label("right"), b.label("positive")
        b.move(R2, 0)
        b.jump_if(R0, "s>=", 0, left)
        b.negate(R0)
        b.move(R2, 1)
        b.place(left)
        b.jump_if(R1, "s>=", 0, right)
        b.negate(R1)
        if operation == "/":
            b.alu(R2, "^", 1)
        b.place(right)
        b.alu(R0, operation, R1)
        b.jump_if(R2, "==", 0, done)
        b.negate(R0)
        b.place(done)

    def _sides(self, left: Expression, right: Expression) -> Register | int:
        """Leave the left side in R0; return the right one: a number, or R1 that holds it."""
        b = self._b
        if isinstance(right, Constant) and -(1 << 31) <= right.value < 1 << 31:
            self.value(left)
            return right.value
        if _is_leaf(right):
            self.value(left)
            self._leaf(right, R1)
        elif _is_leaf(left):
            self.value(right)
            b.move(R1, R0)
            self._leaf(left, R0)
        else:
            self.value(left)
            with b.slot(8) as kept:
                b.store(8, R10, kept, R0)
                self.value(right)
                b.move(R1, R0)
                b.load(R0, 8, R10, kept)
        return R1

    # --- conditions ------------------------------------------------------------------

    def _branch(self, condition: Expression, to: Label, when: bool) -> None:
        """Go to the label if the condition is `when`, else on."""
        b = self._b
        if isinstance(condition, Not):
            self._branch(condition.condition, to, not when)
        elif isinstance(condition, Logic):
            if when == (condition.word == "or"):  # either side decides
                self._branch(condition.left, to, when)
                self._branch(condition.right, to, when)
            else:
                past = b.label("else")
                self._branch(condition.left, past, not when)
                self._branch(condition.right, to, when)
                b.place(past)
        else:
            assert isinstance(condition, Comparison)
            right = self._sides(condition.left, condition.right)
            sign = condition.sign if when else _OPPOSITE[condition.sign]
            signed = condition.left.signed or condition.right.signed
            if signed and sign not in ("==", "!="):
                sign = f"s{sign}"
            b.jump_if(R0, sign, right, to)


def load_typed(b: Builder, to: Register, base: Register, offset: int, type: str) -> None:
    """Load a value of a type ("u8" to "i64"), extended to 64 bit by its sign."""
    size = SIZES[type]
    b.load(to, size, base, offset)
    if type.startswith("i"):
        extend(b, to, size)


def extend(b: Builder, register: Register, size: int) -> None:
    """Extend the lowest `size` bytes of a register to 64 bit, by their sign."""
    if size < 8:
        b.alu(register, "<<", 64 - 8 * size)
        b.alu(register, "s>>", 64 - 8 * size)
