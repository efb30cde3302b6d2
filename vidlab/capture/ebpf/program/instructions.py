"""An assembler for the kernel's BPF machine: instructions, labels, the stack.

A `Builder` collects instructions; `Builder.assemble` gives a `Code`, in which maps and kernel
functions are still named. `Code.encode` puts a kernel's own numbers in and gives the bytes to
load, so that the same code can be shown without loading it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from .encoding import (
    ALU,
    ALU64,
    ALWAYS,
    ATOMIC,
    BY_REGISTER,
    CALL,
    CONDITIONS,
    EXIT,
    IMMEDIATE,
    JMP,
    JMP32,
    KERNEL_FUNCTION,
    LD,
    LDX,
    MAP_FD,
    MEMORY,
    MOVE,
    NEGATE,
    OPERATIONS,
    SIZE_BITS,
    ST,
    STACK_BYTES,
    STX,
    Instruction,
    Label,
    Register,
)


@dataclass(frozen=True)
class Code:
    """A program whose maps and kernel functions are named, with what explains it.

    Attributes
    ----------
    instructions : sequence of Instruction
    labels, comments : mapping of int to tuple of str
        What stands before an instruction, by its index in `instructions`.
    """

    instructions: Sequence[Instruction]
    labels: Mapping[int, tuple[str, ...]]
    comments: Mapping[int, tuple[str, ...]]

    @property
    def size(self) -> int:
        """How many instructions the kernel counts; a wide load is two."""
        return sum(2 if one.is_wide else 1 for one in self.instructions)

    @property
    def maps(self) -> tuple[str, ...]:
        """The names of the maps that it uses, in the order of their first use."""
        return tuple(dict.fromkeys(one.map for one in self.instructions if one.map))

    @property
    def functions(self) -> tuple[str, ...]:
        """The names of the kernel functions that it calls, helpers excluded."""
        return tuple(dict.fromkeys(one.function for one in self.instructions if one.function))

    def encode(
        self, maps: Mapping[str, int], function_id: Callable[[str], int] | None = None
    ) -> bytes:
        """Return the bytes to load.

        Parameters
        ----------
        maps : mapping of str to int
            The file descriptor of each map in `Code.maps`; more do no harm.
        function_id : callable, optional
            Gives the BTF id of a kernel function; needed if `Code.functions` names any.

        Raises
        ------
        ValueError
            If a map or `function_id` is missing.
        """
        return b"".join(self._bound(one, maps, function_id).encode() for one in self.instructions)

    @staticmethod
    def _bound(
        one: Instruction, maps: Mapping[str, int], function_id: Callable[[str], int] | None
    ) -> Instruction:
        if one.map is not None:
            if one.map not in maps:
                raise ValueError(f"the program uses the map {one.map!r}, which is not given")
            return one._replace(immediate=maps[one.map])
        if one.function is not None:
            if function_id is None:
                raise ValueError(f"the program calls {one.function}: give its number")
            return one._replace(immediate=function_id(one.function))
        return one


class Builder:
    """Collects instructions into a program.

    Each method adds one instruction (`move` of a number beyond 32 bit a wide one). A value
    is a register or a number; numbers are extended by their sign from 32 bit, and refused
    if they do not fit.
    """

    def __init__(self) -> None:
        self._instructions: list[Instruction] = []
        self._places: dict[Label, int] = {}
        self._comments: dict[int, list[str]] = {}
        self._used = 0

    # --- labels and explanations -----------------------------------------------------

    def label(self, name: str) -> Label:
        """Return a new label; `place` says where it is."""
        return Label(name)

    def place(self, label: Label) -> None:
        """Let the label name the next instruction."""
        if label in self._places:
            raise ValueError(f"the label {label.name} has a place already")
        self._places[label] = len(self._instructions)

    def comment(self, text: str) -> None:
        """Say why the next instructions are there; a disassembly shows it before them."""
        self._comments.setdefault(len(self._instructions), []).append(text)

    # --- the stack -------------------------------------------------------------------

    def allocate(self, size: int) -> int:
        """Return the offset from R10 of `size` bytes of stack, in steps of 8.

        Raises
        ------
        ValueError
            If the stack is full.
        """
        size = (size + 7) // 8 * 8
        if self._used + size > STACK_BYTES:
            raise ValueError(
                f"the program needs more than the {STACK_BYTES} bytes of stack that it has"
            )
        self._used += size
        return -self._used

    @contextlib.contextmanager
    def scope(self) -> Iterator[None]:
        """Give back at the end of a block of code the stack that is allocated in it."""
        before = self._used
        try:
            yield
        finally:
            self._used = before

    @contextlib.contextmanager
    def slot(self, size: int = 8) -> Iterator[int]:
        """Lend `size` bytes of stack to a block of code; yield their offset from R10."""
        with self.scope():
            yield self.allocate(size)

    # --- instructions ----------------------------------------------------------------

    def add(self, instruction: Instruction) -> None:
        """Add an instruction made elsewhere."""
        self._instructions.append(instruction)

    def _operate(self, kind: int, operation: int, left: int, right: Register | int) -> Instruction:
        if isinstance(right, Register):
            return Instruction(kind | operation | BY_REGISTER, left, right)
        if not -(1 << 31) <= right < 1 << 31:
            raise ValueError(f"{right:#x} does not fit an instruction: move it to a register")
        return Instruction(kind | operation, left, immediate=right)

    def move(self, to: Register, value: Register | int) -> None:
        """Set a register; a number may have 64 bit, signed or not."""
        if not isinstance(value, Register) and not -(1 << 31) <= value < 1 << 31:
            opcode = LD | IMMEDIATE | SIZE_BITS[8]
            self.add(Instruction(opcode, to, immediate=value & 0xFFFFFFFFFFFFFFFF))
        else:
            self.add(self._operate(ALU64, MOVE, to, value))

    def truncate(self, register: Register) -> None:
        """Keep the lowest 32 bit of a register."""
        self.add(self._operate(ALU, MOVE, register, register))

    def alu(self, to: Register, operation: str, value: Register | int, bits: int = 64) -> None:
        """Calculate: `to` becomes `to` `operation` `value`; see `OPERATIONS`.

        In 32 bit the upper half of `to` becomes 0.
        """
        kind = {32: ALU, 64: ALU64}[bits]
        self.add(self._operate(kind, OPERATIONS[operation], to, value))

    def negate(self, register: Register) -> None:
        """Turn the sign of a register."""
        self.add(Instruction(ALU64 | NEGATE, register))

    def load(self, to: Register, size: int, base: Register, offset: int) -> None:
        """Load 1, 2, 4 or 8 bytes at `base` + `offset`; the rest of the register becomes 0."""
        self.add(Instruction(LDX | MEMORY | SIZE_BITS[size], to, base, _near(offset)))

    def store(self, size: int, base: Register, offset: int, value: Register | int) -> None:
        """Store the lowest 1, 2, 4 or 8 bytes of a value at `base` + `offset`."""
        if isinstance(value, Register):
            self.add(Instruction(STX | MEMORY | SIZE_BITS[size], base, value, _near(offset)))
        else:
            one = self._operate(ST, 0, base, value)
            self.add(one._replace(opcode=ST | MEMORY | SIZE_BITS[size], offset=_near(offset)))

    def atomic_add(
        self, base: Register, offset: int, value: Register, size: int = 8, fetch: bool = False
    ) -> None:
        """Add to 4 or 8 bytes in memory at once; with `fetch`, `value` becomes what was there."""
        opcode = STX | ATOMIC | SIZE_BITS[size]
        self.add(Instruction(opcode, base, value, _near(offset), OPERATIONS["+"] | fetch))

    def load_map(self, to: Register, name: str) -> None:
        """Load a map's address, which helpers take."""
        self.add(Instruction(LD | IMMEDIATE | SIZE_BITS[8], to, MAP_FD, map=name))

    def jump(self, to: Label) -> None:
        """Go on at the label."""
        self.add(Instruction(JMP | ALWAYS, target=to))

    def jump_if(
        self, left: Register, condition: str, right: Register | int, to: Label, bits: int = 64
    ) -> None:
        """Go on at the label if the two compare so; see `CONDITIONS`."""
        kind = {32: JMP32, 64: JMP}[bits]
        self.add(self._operate(kind, CONDITIONS[condition], left, right)._replace(target=to))

    def call(self, helper: int) -> None:
        """Call a helper by its number; see `helpers`. R1 to R5 are lost, R0 is the result."""
        self.add(Instruction(JMP | CALL, immediate=helper))

    def call_kernel(self, name: str) -> None:
        """Call a kernel function by its name, as `call` does."""
        self.add(Instruction(JMP | CALL, source=KERNEL_FUNCTION, function=name))

    def exit(self) -> None:
        """End the program with R0 as its result."""
        self.add(Instruction(JMP | EXIT))

    # --- the end ---------------------------------------------------------------------

    def assemble(self) -> Code:
        """Return the program, jumps resolved; what cannot be reached is left out.

        Raises
        ------
        ValueError
            If a jump leads to a label without a place, or beyond 32,767 instructions, or
            the program runs over its end.
        """
        reached = self._reached()
        slots: dict[int, int] = {}  # where each kept instruction begins, in 8-byte steps
        slot = 0
        for index in reached:
            slots[index] = slot
            slot += 2 if self._instructions[index].is_wide else 1
        new = {index: position for position, index in enumerate(reached)}
        code = []
        for index in reached:
            one = self._instructions[index]
            if one.target is not None:
                distance = slots[self._places[one.target]] - slots[index] - 1
                one = one._replace(offset=_near(distance))
            code.append(one)
        targets = {one.target for one in code}
        labels: dict[int, tuple[str, ...]] = {}
        for label, index in self._places.items():
            if label in targets:
                labels[new[index]] = (*labels.get(new[index], ()), label.name)
        comments = {
            new[index]: tuple(texts) for index, texts in self._comments.items() if index in new
        }
        return Code(tuple(code), labels, comments)

    def _reached(self) -> list[int]:
        """The indexes of the instructions that a run can come to: the kernel refuses others."""
        reached = [False] * len(self._instructions)
        waiting = [0]
        while waiting:
            index = waiting.pop()
            while index >= len(reached) or not reached[index]:
                if index >= len(reached):
                    raise ValueError("the program runs over its end: exit() is missing")
                reached[index] = True
                one = self._instructions[index]
                if one.target is not None:
                    if one.target not in self._places:
                        raise ValueError(f"the label {one.target.name} has no place")
                    waiting.append(self._places[one.target])
                if not one.falls_through:
                    break
                index += 1
        return [index for index, found in enumerate(reached) if found]


def _near(offset: int) -> int:
    if not -(1 << 15) <= offset < 1 << 15:
        raise ValueError(f"an offset of {offset} does not fit an instruction's 16 bit")
    return offset
