"""What the kernel keeps of a TCP connection, as a program reads it from its socket.

The places of the members in the kernel's structures are those that the running kernel tells.
"""

from __future__ import annotations

from collections.abc import Callable

from ..kernel import btf
from ..program import helpers
from ..program.blocks import Blocks
from ..program.encoding import (
    ALU,
    BY_REGISTER,
    END,
    R0,
    R1,
    R2,
    R3,
    R8,
    R10,
    Instruction,
    Register,
)

#: Families of addresses.
INET, INET6 = 2, 10

#: The beginning of an IPv4 address as an IPv6 one: eight zeros, two zeros, two times 0xff.
_MAPPED = -0x10000

#: The kernel keeps the smoothed round-trip time in eighths of a microsecond.
_EIGHTHS = 3


class Socket:
    """A kernel socket, `struct sock`, whose address is on the stack.

    Parameters
    ----------
    blocks : Blocks
    at : int
        Where on the stack its address is.

    Raises
    ------
    BtfError
        From all methods, if the kernel does not tell where its members are.
    """

    def __init__(self, blocks: Blocks, at: int) -> None:
        self._blocks = blocks
        self._at = at

    def read(self, structure: str, member: str, size: int, to: Register, offset: int) -> None:
        """Read a member to `to` + `offset`, R8 or the stack; zeros if it cannot be read."""
        b = self._blocks.b
        b.load(R3, 8, R10, self._at)
        b.alu(R3, "+", btf.member_offset(structure, member))
        self._blocks.address(R1, to, offset)
        b.move(R2, size)
        b.call(helpers.READ_KERNEL)

    def write_all(self, place: Callable[[str], int], state: str | None) -> None:
        """Write ports, addresses, bytes and round-trip time into the record, R8.

        Parameters
        ----------
        place : callable
            Gives the place of a column in the record.
        state : str or None
            The column that takes the socket's state, if one does.
        """
        b = self._blocks.b
        b.comment("ports and addresses")
        self.read("sock", "__sk_common.skc_family", 2, R8, place("family"))
        self._write_port("inet_sock", "inet_sport", place("local_port"))
        self._write_port("sock", "__sk_common.skc_dport", place("remote_port"))
        addresses = (
            ("local_address", "rcv_saddr"),
            ("remote_address", "daddr"),
        )
        old, done = b.label("inet"), b.label("addresses")
        b.load(R1, 2, R8, place("family"))
        b.jump_if(R1, "!=", INET6, old)
        for column, member in addresses:
            self.read("sock", f"__sk_common.skc_v6_{member}", 16, R8, place(column))
        b.jump(done)
        b.place(old)
        for column, member in addresses:
            b.store(8, R8, place(column), 0)
            b.store(4, R8, place(column) + 8, _MAPPED)
            self.read("sock", f"__sk_common.skc_{member}", 4, R8, place(column) + 12)
            given = b.label(column)
            b.load(R1, 4, R8, place(column) + 12)
            b.jump_if(R1, "!=", 0, given)
            b.store(4, R8, place(column) + 8, 0)  # any address: zeros, as of IPv6
            b.place(given)
        b.place(done)
        if state is not None:
            self.read("sock", "__sk_common.skc_state", 1, R8, place(state))
        b.comment("bytes and round-trip time")
        self.read("tcp_sock", "bytes_sent", 8, R8, place("bytes_sent"))
        self.read("tcp_sock", "bytes_received", 8, R8, place("bytes_received"))
        self.read("tcp_sock", "srtt_us", 4, R8, place("srtt_us"))
        b.load(R0, 4, R8, place("srtt_us"))
        b.alu(R0, ">>", _EIGHTHS)
        b.store(4, R8, place("srtt_us"), R0)

    def _write_port(self, structure: str, member: str, at: int) -> None:
        """Write a port, which the kernel keeps in the network's byte order."""
        b = self._blocks.b
        self.read(structure, member, 2, R8, at)
        b.load(R0, 2, R8, at)
        b.add(Instruction(ALU | END | BY_REGISTER, R0, immediate=16))
        b.store(2, R8, at, R0)
