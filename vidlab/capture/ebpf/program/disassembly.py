"""Programs as text, each instruction as the kernel's own log writes it.

The notation is that of the kernel's kernel/bpf/disasm.c, save for jumps: they name the label
that they lead to, as in ``if r0 == 0x0 goto +5 <lost>``.
"""

from __future__ import annotations

from collections.abc import Iterator

from . import helpers
from .encoding import (
    ALU,
    ALU64,
    ALWAYS,
    ATOMIC,
    BY_REGISTER,
    CALL,
    CONDITIONS,
    EXIT,
    FETCH,
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
    STX,
    Instruction,
    decode,
)
from .instructions import Code

_TYPES = {bits: f"u{8 * size}" for size, bits in SIZE_BITS.items()}
_OPERATIONS = {MOVE: "=", **{bits: f"{sign}=" for sign, bits in OPERATIONS.items()}}
_CONDITIONS = {bits: sign for sign, bits in CONDITIONS.items()}

#: Where comments begin.
_INDENT = " " * 6


def disassemble(code: Code | bytes) -> str:
    """Return a program as text: a line for each instruction, labels and comments between.

    Bytes, such as the kernel gives back, have neither names nor comments.
    """
    if isinstance(code, bytes):
        code = Code(decode(code), {}, {})
    return "\n".join(_lines(code))


def _lines(code: Code) -> Iterator[str]:
    slot = 0
    for index, one in enumerate(code.instructions):
        for label in code.labels.get(index, ()):
            yield f"{label}:"
        for comment in code.comments.get(index, ()):
            yield f"{_INDENT}; {comment}"
        yield f"{slot:4d}: ({one.opcode:02x}) {text(one)}"
        slot += 2 if one.is_wide else 1


def text(one: Instruction) -> str:
    """Return one instruction as text."""
    kind = one.kind
    if kind in (ALU, ALU64):
        return _calculation(one)
    if kind in (JMP, JMP32):
        return _jump(one)
    size, mode = _TYPES[one.opcode & 0x18], one.opcode & 0xE0
    if kind == LD and mode == IMMEDIATE and one.is_wide:
        return f"r{one.destination} = {_wide(one)}"
    base = one.source if kind == LDX else one.destination
    place = f"*({size} *)(r{base} {one.offset:+d})"
    if kind == LDX and mode == MEMORY:
        return f"r{one.destination} = {place}"
    if kind == ST and mode == MEMORY:
        return f"{place} = {one.immediate}"
    if kind == STX and mode == MEMORY:
        return f"{place} = r{one.source}"
    if kind == STX and mode == ATOMIC and one.immediate == OPERATIONS["+"]:
        return f"lock {place} += r{one.source}"
    if kind == STX and mode == ATOMIC and one.immediate == OPERATIONS["+"] | FETCH:
        name = "atomic64_fetch_add" if size == "u64" else "atomic_fetch_add"
        return f"r{one.source} = {name}({place[1:]}, r{one.source})".replace("((", "((", 1)
    return f"BUG_{one.opcode:02x}"


def _wide(one: Instruction) -> str:
    if one.map is not None:
        return f"map[{one.map}]"
    if one.source == MAP_FD:
        return f"map[fd:{one.immediate}]"
    return f"{one.immediate:#x}"


def _calculation(one: Instruction) -> str:
    name = "r" if one.kind == ALU64 else "w"
    operation = one.opcode & 0xF0
    left = f"{name}{one.destination}"
    if operation == NEGATE:
        return f"{left} = -{left}"
    if operation not in _OPERATIONS:
        return f"BUG_{one.opcode:02x}"
    right = f"{name}{one.source}" if one.opcode & BY_REGISTER else f"{one.immediate}"
    return f"{left} {_OPERATIONS[operation]} {right}"


def _jump(one: Instruction) -> str:
    operation = one.opcode & 0xF0
    if operation == CALL:
        if one.source == KERNEL_FUNCTION:
            return f"call {one.function or 'kernel-function'}#{one.immediate or '?'}"
        return f"call {helpers.NAMES.get(one.immediate, 'unknown')}#{one.immediate}"
    if operation == EXIT:
        return "exit"
    goto = f"goto {one.offset:+d}" + (f" <{one.target.name}>" if one.target else "")
    if operation == ALWAYS:
        return goto
    if operation not in _CONDITIONS:
        return f"BUG_{one.opcode:02x}"
    name = "r" if one.kind == JMP else "w"
    right = (
        f"{name}{one.source}" if one.opcode & BY_REGISTER else f"{one.immediate & 0xFFFFFFFF:#x}"
    )
    return f"if {name}{one.destination} {_CONDITIONS[operation]} {right} {goto}"
