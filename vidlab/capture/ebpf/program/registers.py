"""Where a machine's registers are in the ``pt_regs`` that a probe on a function receives."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass

from ....errors import InputError


@dataclass(frozen=True)
class Architecture:
    """A machine's calling convention, in offsets of ``pt_regs`` in bytes.

    Attributes
    ----------
    name : str
        As `platform.machine` has it.
    arguments : tuple of int
        The registers of a function's first integer arguments.
    result, stack_pointer : int
        What a function returns; where its stack ends.
    return_moves : int
        By how many bytes the stack pointer is higher after a function's return than as
        it began.
    registers : Mapping[str, int]
        All registers that can be read, by the names that the kernel gives them.
    """

    name: str
    arguments: tuple[int, ...]
    result: int
    stack_pointer: int
    return_moves: int
    registers: Mapping[str, int]


#: The registers at the beginning of x86-64's pt_regs, of 8 bytes each.
_X86_64 = "r15 r14 r13 r12 bp bx r11 r10 r9 r8 ax cx dx si di"


def _x86_64() -> Architecture:
    order = _X86_64.split()
    known = {name: 8 * index for index, name in enumerate(order)} | {"ip": 128, "sp": 152}
    arguments = tuple(known[name] for name in ("di", "si", "dx", "cx", "r8", "r9"))
    return Architecture("x86_64", arguments, known["ax"], known["sp"], 8, known)


def _aarch64() -> Architecture:
    known = {f"x{number}": 8 * number for number in range(31)} | {"sp": 248, "pc": 256}
    # The return address is in a register: a return leaves the stack pointer as it was.
    return Architecture("aarch64", tuple(range(0, 64, 8)), known["x0"], known["sp"], 0, known)


X86_64 = _x86_64()
AARCH64 = _aarch64()


def this_machine() -> Architecture:
    """Return the architecture that we run on.

    Raises
    ------
    InputError
        If probes on functions are not known for it.
    """
    for architecture in (X86_64, AARCH64):
        if platform.machine() == architecture.name:
            return architecture
    raise InputError(
        f"probes on functions are known on x86_64 and aarch64, and this machine is "
        f"{platform.machine()}; tracepoints work"
    )
