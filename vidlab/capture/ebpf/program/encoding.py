"""The kernel's BPF machine: its registers, and what its instructions look like as bytes.

The machine has eleven 64-bit registers. R0 is what a call gives back, R1 to R5 are a call's
arguments and lost by it, R6 to R9 outlast calls, R10 points to the end of a stack of 512
bytes. Numbers from the kernel's Documentation/bpf/standardization/instruction-set.rst.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple


class Register(IntEnum):
    """A register of the BPF machine."""

    R0 = 0
    R1 = 1
    R2 = 2
    R3 = 3
    R4 = 4
    R5 = 5
    R6 = 6
    R7 = 7
    R8 = 8
    R9 = 9
    R10 = 10


R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, R10 = Register

#: How much stack a program has, in bytes.
STACK_BYTES = 512

# Classes of instructions: the lowest three bits of an opcode.
LD, LDX, ST, STX, ALU, JMP, JMP32, ALU64 = range(8)

#: Bit of an opcode: the second operand is a register, not the immediate number.
BY_REGISTER = 0x08

#: The operations of ALU and ALU64, by how C writes them; "s>>" keeps the sign.
OPERATIONS = {
    "+": 0x00,
    "-": 0x10,
    "*": 0x20,
    "/": 0x30,
    "|": 0x40,
    "&": 0x50,
    "<<": 0x60,
    ">>": 0x70,
    "%": 0x90,
    "^": 0xA0,
    "s>>": 0xC0,
}
NEGATE, MOVE, END = 0x80, 0xB0, 0xD0

#: The conditions of jumps; those with an s take both sides as signed, & asks for common bits.
CONDITIONS = {
    "==": 0x10,
    ">": 0x20,
    ">=": 0x30,
    "&": 0x40,
    "!=": 0x50,
    "s>": 0x60,
    "s>=": 0x70,
    "<": 0xA0,
    "<=": 0xB0,
    "s<": 0xC0,
    "s<=": 0xD0,
}
ALWAYS, CALL, EXIT = 0x00, 0x80, 0x90

#: The size bits of loads and stores, by bytes.
SIZE_BITS = {4: 0x00, 2: 0x08, 1: 0x10, 8: 0x18}

# How a load or store finds its memory.
IMMEDIATE, MEMORY, ATOMIC = 0x00, 0x60, 0xC0

#: Immediate of an atomic operation: give back what was there.
FETCH = 0x01

#: Second register of a wide load: the immediate is a map's file descriptor.
MAP_FD = 1

#: Second register of a call: the immediate is the number of a kernel function.
KERNEL_FUNCTION = 2


_pack = struct.Struct("<BBhI").pack


@dataclass(frozen=True, eq=False)
class Label:
    """A place in a program that jumps lead to."""

    name: str


class Instruction(NamedTuple):
    """One instruction of the machine.

    Attributes
    ----------
    opcode, destination, source, offset, immediate : int
        As encoded. A wide load's immediate has 64 bit.
    target : Label or None
        Where a jump leads; `offset` follows from it.
    map, function : str or None
        The map or kernel function whose number the immediate becomes.
    """

    opcode: int
    destination: int = 0
    source: int = 0
    offset: int = 0
    immediate: int = 0
    target: Label | None = None
    map: str | None = None
    function: str | None = None

    @property
    def kind(self) -> int:
        """Its class: `LD` to `ALU64`."""
        return self.opcode & 0x07

    @property
    def is_wide(self) -> bool:
        """Whether it loads a 64-bit number, and takes two instructions' room."""
        return self.opcode == LD | IMMEDIATE | SIZE_BITS[8]

    @property
    def is_jump(self) -> bool:
        """Whether it may lead elsewhere than to the next instruction or another function."""
        return self.kind in (JMP, JMP32) and self.opcode & 0xF0 not in (CALL, EXIT)

    @property
    def falls_through(self) -> bool:
        """Whether the next instruction may come after it."""
        return self.opcode not in (JMP | ALWAYS, JMP | EXIT)

    def encode(self) -> bytes:
        """Return its 8 bytes; 16 of a wide load."""
        registers = self.destination | self.source << 4
        low = self.immediate & 0xFFFFFFFF
        first = _pack(self.opcode, registers, self.offset, low)
        if not self.is_wide:
            return first
        return first + struct.pack("<4xI", self.immediate >> 32 & 0xFFFFFFFF)


def decode(code: bytes) -> list[Instruction]:
    """Return the instructions that these bytes encode, such as the kernel returns them."""
    found: list[Instruction] = []
    words = struct.iter_unpack("<BBhi", code)
    for opcode, registers, offset, immediate in words:
        one = Instruction(opcode, registers & 15, registers >> 4, offset, immediate)
        if one.is_wide:
            high = next(words)[3] & 0xFFFFFFFF
            wide = (immediate & 0xFFFFFFFF) | high << 32
            one = one._replace(immediate=wide)
        found.append(one)
    return found
