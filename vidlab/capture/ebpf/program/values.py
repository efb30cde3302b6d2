"""Where programs of each kind find their values: in registers, a stash, a tracepoint's record."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from ....errors import InputError
from . import helpers
from .blocks import Blocks
from .encoding import R0, R1, R2, R3, R6, R9, R10, Register
from .expressions import Values, extend, load_typed
from .instructions import Builder
from .words import STASH_ARGUMENTS

if TYPE_CHECKING:
    from ..kernel.tracefs import Field
    from ..symbols.usdt import UsdtArgument


#: What programs of tracepoints do not see of a record: where all begin alike.
_COMMON_BYTES = 8


class _Here(Values):
    """What every program knows: where it runs."""

    def __init__(self, blocks: Blocks) -> None:
        self._blocks = blocks
        self._machine = blocks.context.architecture

    def here(self, b: Builder, what: str, to: Register) -> None:
        if what == "cpu":
            b.call(helpers.CPU)
            if to != R0:
                b.move(to, R0)
        else:
            b.load(to, 4, R10, self._blocks.identity + (4 if what == "pid" else 0))


class EntryValues(_Here):
    """As a call begins: its arguments are in registers."""

    def argument(self, b: Builder, index: int, type: str, to: Register) -> None:
        load_typed(b, to, R6, self._machine.arguments[index], type)

    def on_stack(self, b: Builder, index: int, to: Register) -> bool:
        after = index - len(self._machine.arguments)
        if after < 0:
            return False
        b.load(to, 8, R6, self._machine.stack_pointer)
        b.alu(to, "+", self._machine.return_moves + 8 * after)  # above the return address
        return True


class ReturnValues(_Here):
    """As a call returns: its arguments are in the stash (R9), the result in a register.

    Parameters
    ----------
    blocks : Blocks
    duration : int
        Where on the stack the call's duration is.
    """

    def __init__(self, blocks: Blocks, duration: int) -> None:
        super().__init__(blocks)
        self._duration = duration

    def argument(self, b: Builder, index: int, type: str, to: Register) -> None:
        load_typed(b, to, R9, STASH_ARGUMENTS + 8 * index, type)

    def result(self, b: Builder, type: str, to: Register) -> None:
        load_typed(b, to, R6, self._machine.result, type)

    def duration(self, b: Builder, to: Register) -> None:
        b.load(to, 8, R10, self._duration)


class TracepointValues(_Here):
    """In a tracepoint: the fields of its record, at the places that tracefs tells."""

    def field(self, b: Builder, name: str, to: Register) -> None:
        field = self._field(name)
        if field.count is not None or field.location is not None or field.size not in (1, 2, 4, 8):
            raise InputError(
                f"field({name!r}) is {field.type}[] and no number"
                + (f": record string(field({name!r}))" if _is_text(field) else "")
            )
        if field.offset < _COMMON_BYTES or field.offset % field.size:
            raise InputError(
                f"field({name!r}) lies where programs cannot read it; pid(), tid() and cpu() "
                "tell where the event happened"
            )
        b.load(to, field.size, R6, field.offset)
        if field.signed:
            extend(b, to, field.size)

    def text(self, b: Builder, name: str) -> bool:
        field = self._field(name)
        if field.location is not None:
            b.load(R3, 4, R6, field.offset)
            b.alu(R3, "&", 0xFFFF)
            b.move(R0, R6)
            if field.location == "rel":
                b.alu(R0, "+", field.offset + field.size)
            b.alu(R0, "+", R3)
            return True
        if field.count is not None:
            b.move(R0, R6)
            b.alu(R0, "+", field.offset)
            return True
        return False  # a pointer: its value is the address

    def _field(self, name: str) -> Field:
        format = self._blocks.context.format
        assert format is not None, "the program of a tracepoint needs its format"
        try:
            return format.fields[name]
        except KeyError:
            known = ", ".join(field for field in format.fields if not field.startswith("common_"))
            raise InputError(
                f"the tracepoint {format.category}:{format.event} has no field {name!r}; "
                f"it has {known}"
            ) from None


def _is_text(field: Field) -> bool:
    return field.type.removeprefix("const ") == "char"


class UsdtValues(_Here):
    """In a USDT probe: its arguments are on the stack, where `read` put them.

    Parameters
    ----------
    blocks : Blocks
    indices : iterable of int
        The arguments that are needed.
    """

    def __init__(self, blocks: Blocks, indices: Iterable[int]) -> None:
        super().__init__(blocks)
        self._at = {index: blocks.b.allocate(8) for index in sorted(set(indices))}

    def read(self, b: Builder, arguments: Sequence[UsdtArgument]) -> None:
        """Put the arguments on the stack, from where they are at one place of the probe."""
        for index, at in self._at.items():
            if index >= len(arguments):
                raise InputError(
                    f"arg({index}): the USDT probe has {len(arguments)} arguments, from arg(0)"
                )
            argument = arguments[index]
            b.comment(f"argument {index}: {argument.text or argument.kind}")
            own = f"{'i' if argument.signed else 'u'}{8 * argument.size}"
            if argument.kind == "constant":
                b.move(R0, argument.constant)
            elif argument.kind == "register":
                start = self._machine.registers[argument.register] + argument.shift // 8
                load_typed(b, R0, R6, start, own)
            elif argument.kind == "memory":
                self._address(b, argument)
                b.move(R2, argument.size)
                b.move(R1, R10)
                b.alu(R1, "+", at)
                b.call(helpers.READ_USER)
                load_typed(b, R0, R10, at, own)
            else:
                raise InputError(
                    f"arg({index}) of the USDT probe cannot be read: {argument.why} "
                    f"({argument.text})"
                )
            b.store(8, R10, at, R0)

    def _address(self, b: Builder, argument: UsdtArgument) -> None:
        """Set R3 to the address of an argument in memory."""
        registers = self._machine.registers
        b.move(R3, argument.displacement)
        if argument.register:
            b.load(R1, 8, R6, registers[argument.register])
            b.alu(R3, "+", R1)
        if argument.index_register:
            b.load(R1, 8, R6, registers[argument.index_register])
            b.alu(R1, "*", argument.scale)
            b.alu(R3, "+", R1)

    def argument(self, b: Builder, index: int, type: str, to: Register) -> None:
        if type == "u64":  # as the probe has it
            b.load(to, 8, R10, self._at[index])
        else:
            load_typed(b, to, R10, self._at[index], type)
