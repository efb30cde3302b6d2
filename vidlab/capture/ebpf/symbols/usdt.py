"""USDT probes: places in a program that its makers marked, with what can be read there.

They are notes in the section `.note.stapsdt`: where the marked place is, where the counter is
that switches the probe on (its semaphore), and the arguments as the compiler left them at that
place, each as an operand of the assembler's: `-4@%edi`, `8@-8(%rbp)`, `8@$5`.
"""

from __future__ import annotations

import re
import struct
from typing import Literal, NamedTuple

from .elf import MACHINES, ElfFile
from .files import ElfError

#: A probe has at most twelve arguments; more are a damaged note.
MOST_ARGUMENTS = 12
_MOST_TEXT_BYTES = 4_096

_ADDRESSES = struct.Struct("<QQQ")
_OWNER, _TYPE = b"stapsdt", 3


class UsdtArgument(NamedTuple):
    """An argument of a probe: where its value is at that place.

    The value of "constant" is `constant`; of "register" it is in `register`; of "memory" it is
    `size` bytes at `register` + `index_register` × `scale` + `displacement`, where either register
    may be empty, for 0. What
    cannot be read is "unsupported", and `why` says so in words.
    """

    kind: Literal["constant", "register", "memory", "unsupported"]
    size: int = 8  #: bytes: 1, 2, 4 or 8
    signed: bool = False
    #: As the kernel's pt_regs calls it: "di", "r8", "sp"; on aarch64 "x0" to "x30", "sp".
    register: str = ""
    shift: int = 0  #: bits that the value lies above the register's lowest: 8 for %ah
    index_register: str = ""
    scale: int = 1
    displacement: int = 0
    constant: int = 0
    text: str = ""  #: as the note has it
    why: str = ""


class UsdtProbe(NamedTuple):
    """A marked place. A probe of one name may have several, with other operands at each."""

    provider: str
    name: str
    offset: int  #: of the place in the file, in bytes
    ref_counter: int  #: of the 16-bit counter in the file that switches it on; 0 if it has none
    arguments: tuple[UsdtArgument, ...]


def probes(path: str) -> list[UsdtProbe]:
    """Return the USDT probes of a program or library, in the order of its notes.

    Raises
    ------
    ElfError
        If it is not an ELF file of this machine, or is damaged.
    InputError
        If it can't be read.
    """
    with ElfFile(path) as file:
        section = file.section(".note.stapsdt")
        if section is None:
            return []
        base = file.section(".stapsdt.base")
        return [
            _probe(file, note.content, base.address if base else None)
            for note in file.notes(section)
            if note.owner == _OWNER and note.type == _TYPE
        ]


def _probe(file: ElfFile, content: bytes, base_now: int | None) -> UsdtProbe:
    texts = content[_ADDRESSES.size :].split(b"\0")
    if len(content) < _ADDRESSES.size or len(texts) < 4 or len(content) > _MOST_TEXT_BYTES:
        raise ElfError(f"{file.path} is damaged: a USDT note of it is not whole")
    place, base, semaphore = _ADDRESSES.unpack_from(content)
    # What was moved since it was linked (by prelink) moved with this section.
    moved = 0 if base_now is None or not base else base_now - base
    provider, name, arguments = (text.decode("utf-8", "replace") for text in texts[:3])
    offset = file.code_offset((place + moved) % 2**64)
    if offset is None:
        raise ElfError(f"{file.path} is damaged: its USDT probe {provider}:{name} is no code")
    counter = file.data_offset((semaphore + moved) % 2**64) if semaphore else 0
    if counter is None:
        raise ElfError(
            f"{file.path} is damaged: the semaphore of its USDT probe {provider}:{name} is "
            "not in its data"
        )
    machine = MACHINES[file.machine]
    return UsdtProbe(provider, name, offset, counter, arguments_of(arguments, machine))


def arguments_of(text: str, machine: str) -> tuple[UsdtArgument, ...]:
    """Return the arguments that a note's text describes; "unsupported" for what can't be read.

    Parameters
    ----------
    text : str
        Such as ``"-4@%edi 8@-8(%rbp) 8@$5"``.
    machine : str
        The architecture, which has its own operands: ``"x86_64"`` or ``"aarch64"``.
    """
    # An operand in brackets may have blanks in it: [sp, 12].
    words = re.findall(r"(?:\[[^\]]*\]|\S)+", text)[: MOST_ARGUMENTS + 1]
    if len(words) > MOST_ARGUMENTS:
        return (_unsupported(text[:64], f"more than {MOST_ARGUMENTS} arguments"),)
    return tuple(_argument(word, machine) for word in words)


_SIZED = re.compile(r"(-?)([1248])(f?)@(.+)", re.DOTALL)


def _argument(text: str, machine: str) -> UsdtArgument:
    sized = _SIZED.fullmatch(text)
    if sized is None:
        return _unsupported(text, "it does not say how large it is")
    if sized[3]:
        return _unsupported(text, "it is a floating-point number")
    operand = _OPERANDS[machine](sized[4]) if machine in _OPERANDS else None
    if operand is None:
        return _unsupported(text, f"it is no operand of {machine} that vidlab knows")
    if operand.why:
        return _unsupported(text, operand.why)
    return operand._replace(size=int(sized[2]), signed=bool(sized[1]), text=text)


def _unsupported(text: str, why: str) -> UsdtArgument:
    return UsdtArgument("unsupported", text=text, why=why)


#: x86_64: the register of pt_regs, and how far up in it a part with a name of its own lies.
_X86: dict[str, tuple[str, int]] = {}
for _name in ("ax", "bx", "cx", "dx"):
    _letter = _name[0]
    _X86 |= {f"r{_name}": (_name, 0), f"e{_name}": (_name, 0), _name: (_name, 0)}
    _X86 |= {f"{_letter}l": (_name, 0), f"{_letter}h": (_name, 8)}
for _name in ("si", "di", "bp", "sp"):
    _X86 |= {f"{size}{_name}": (_name, 0) for size in ("r", "e", "")} | {f"{_name}l": (_name, 0)}
for _number in range(8, 16):
    _X86 |= {f"r{_number}{size}": (f"r{_number}", 0) for size in ("", "d", "w", "b")}
_X86["rip"] = ("ip", 0)

_INTEGER = r"[+-]?(?:0[xX][0-9a-fA-F]{1,16}|\d{1,20})"
_X86_MEMORY = re.compile(
    rf"({_INTEGER})?\((?:%(\w+))?(?:\s*,\s*%(\w+)(?:\s*,\s*([1248]))?)?\)", re.ASCII
)
_ARM_MEMORY = re.compile(rf"\[\s*(\w+)\s*(?:,\s*#?({_INTEGER})\s*)?\]", re.ASCII)


def _x86(text: str) -> UsdtArgument | None:
    if text.startswith("$") and re.fullmatch(_INTEGER, text[1:]):
        return _constant(text[1:])
    if text.startswith("%") and text[1:] in _X86:
        register, shift = _X86[text[1:]]
        return UsdtArgument("register", register=register, shift=shift)
    if ":" in text:
        return _unsupported(text, "it is thread-local memory")
    found = _X86_MEMORY.fullmatch(text)
    if found is None:
        if text.endswith("(%rip)") or re.fullmatch(r"[\w.@]+([+-]\d+)?", text, re.ASCII):
            return _unsupported(text, "it is a variable at an address that only the linker knew")
        return None
    displacement, base, index, scale = found.groups()
    if base == "rip":
        return _unsupported(text, "it is a variable at an address that only the linker knew")
    registers = [_X86.get(name, ("", 1)) if name else ("", 0) for name in (base, index)]
    if any(shift for _, shift in registers) or not (base or index):
        return None
    offset = _integer(displacement or "0", 32)
    if offset is None:
        return None
    return UsdtArgument(
        "memory",
        register=registers[0][0],
        index_register=registers[1][0],
        scale=int(scale or 1),
        displacement=offset,
    )


def _aarch64(text: str) -> UsdtArgument | None:
    if re.fullmatch(_INTEGER, text.removeprefix("#")):
        return _constant(text.removeprefix("#"))
    register = _arm_register(text)
    if register:
        return UsdtArgument("register", register=register)
    found = _ARM_MEMORY.fullmatch(text)
    base = _arm_register(found[1]) if found else ""
    offset = _integer((found[2] if found else None) or "0", 32)
    if not base or offset is None:
        return None
    return UsdtArgument("memory", register=base, displacement=offset)


def _arm_register(name: str) -> str:
    """Return a register of aarch64 as `UsdtArgument.register` has it; empty if it is none."""
    if name in ("sp", "wsp"):
        return "sp"
    name = {"fp": "x29", "lr": "x30"}.get(name, name)
    found = re.fullmatch(r"[xw](\d{1,2})", name, re.ASCII)
    return f"x{int(found[1])}" if found and int(found[1]) <= 30 else ""


def _constant(text: str) -> UsdtArgument | None:
    value = _integer(text, 64)
    return None if value is None else UsdtArgument("constant", constant=value)


def _integer(text: str, bits: int) -> int | None:
    """Return a number; None if it does not fit so many bits, with a sign or without."""
    digits = text.lower().lstrip("+-")
    value = int(digits, 16) if digits.startswith("0x") else int(digits)
    value = -value if text.startswith("-") else value
    return value if -(2 ** (bits - 1)) <= value < 2**bits else None


_OPERANDS = {"x86_64": _x86, "aarch64": _aarch64}
