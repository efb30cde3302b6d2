"""Whose a socket is: two maps that the programs of the set `tcp` keep.

`SOCKETS` has the owner of each socket that a recorded process has; `LISTENERS` who listens at
which address, for the connections that come in there: they are opened by packets, while any
process may run.
"""

from __future__ import annotations

from ..program import helpers
from ..program.blocks import Blocks
from ..program.encoding import R0, R1, R2, R3, R4, R9, R10, Label
from ..program.words import WORD_BYTES
from .sockets import INET6, Socket

#: HASH, address of a socket u64 -> its owner.
SOCKETS = "tcp_sockets"
SOCKET_BYTES, MOST_SOCKETS = 8, 1 << 16

#: HASH, where one listens -> the owner: address, 16 bytes | network namespace u64 | port u16, as
#: the network has it | family u16 | 0 u32.
LISTENERS = "tcp_listeners"
WHERE_BYTES, MOST_LISTENERS = 32, 1 << 12
_NET, _PORT, _FAMILY = 16, 24, 26

# An owner: tid u32 and pid u32, as they are told | labels u64 | when it was sampled u64; of who
# listens, instead of that, the socket's address.
IDENTITY, LABELS, SAMPLED = 0, 8, 16
_LISTENING = 16
OWNER_BYTES = 24


class Owners:
    """Adds to a program what finds and keeps a socket's owner.

    Parameters
    ----------
    blocks : Blocks
        The program has to identify the current thread before anything of this.
    socket, now : int
        Where on the stack the socket's address and the time are.

    Attributes
    ----------
    owner : int
        Where on the stack an owner is put.
    word : int
        Where on the stack the span word of a thread is that does something to the socket
        now; else zeros, see `clear_word`.
    """

    def __init__(self, blocks: Blocks, socket: int, now: int) -> None:
        self._b = b = blocks.b
        self._blocks = blocks
        self._socket = socket
        self._now = now
        self._kernel = Socket(blocks, socket)
        self.owner = b.allocate(OWNER_BYTES)
        self.word = b.allocate(WORD_BYTES)
        self._where = b.allocate(WHERE_BYTES)

    def clear_word(self) -> None:
        """Have no span, frame and labels yet."""
        for at in range(self.word, self.word + WORD_BYTES, 8):
            self._b.store(8, R10, at, 0)

    def find_owner(self, unknown: Label) -> None:
        """Set R9 to the socket's owner in `SOCKETS`; go to the label if it has none."""
        self._blocks.lookup(SOCKETS, self._socket)
        self._b.jump_if(R0, "==", 0, unknown)
        self._b.move(R9, R0)

    def copy_owner(self) -> None:
        """Put the owner at R9 on the stack."""
        for at in (IDENTITY, LABELS):
            self._b.load(R1, 8, R9, at)
            self._b.store(8, R10, self.owner + at, R1)

    def own(self, lost: Label) -> None:
        """Make the current thread the socket's owner, on the stack and in `SOCKETS`.

        Reads its span word. If that has no labels the socket keeps those that it has.
        """
        b = self._b
        self._blocks.read_word(R10, self.word)
        b.load(R1, 8, R10, self._blocks.identity)
        b.store(8, R10, self.owner + IDENTITY, R1)
        b.load(R1, 8, R10, self.word + 16)
        b.store(8, R10, self.owner + LABELS, R1)
        b.load(R1, 8, R10, self._now)
        b.store(8, R10, self.owner + SAMPLED, R1)
        first, labelled = b.label("first"), b.label("labelled")
        self.find_owner(first)
        b.load(R1, 8, R10, self.owner + LABELS)
        b.jump_if(R1, "!=", 0, labelled)
        b.load(R1, 8, R9, LABELS)
        b.store(8, R10, self.owner + LABELS, R1)
        b.place(labelled)
        b.place(first)
        self._keep(lost)

    def _keep(self, lost: Label) -> None:
        """Put the owner on the stack into `SOCKETS`; go to the label if it has no room."""
        self._update(SOCKETS, self._socket, self.owner)
        self._b.jump_if(R0, "!=", 0, lost)

    def listen(self) -> None:
        """Note the owner on the stack as that of who will connect to this address."""
        self._locate()
        with self._b.slot(OWNER_BYTES) as listener:
            for at, source in (
                (IDENTITY, self.owner + IDENTITY),
                (LABELS, self.owner + LABELS),
                (_LISTENING, self._socket),
            ):
                self._b.load(R1, 8, R10, source)
                self._b.store(8, R10, listener + at, R1)
            self._update(LISTENERS, self._where, listener)

    def inherit(self, unknown: Label, lost: Label) -> None:
        """Make who listens where this new connection came in its owner, as `own` does.

        One may listen at the connection's own address, or at all of the machine's. Goes to
        `unknown` if nobody known does.
        """
        b = self._b
        found = b.label("listener")
        self._locate()
        self._blocks.lookup(LISTENERS, self._where)
        b.jump_if(R0, "!=", 0, found)
        b.store(8, R10, self._where, 0)
        b.store(8, R10, self._where + 8, 0)
        self._blocks.lookup(LISTENERS, self._where)
        b.jump_if(R0, "==", 0, unknown)
        b.place(found)
        b.move(R9, R0)
        self.copy_owner()
        b.store(8, R10, self.owner + SAMPLED, 0)
        self._keep(lost)

    def _locate(self) -> None:
        """Put the socket's own address on the stack, as the key of `LISTENERS`."""
        b, read = self._b, self._kernel.read
        old, done = b.label("inet"), b.label("located")
        for at in range(self._where, self._where + WHERE_BYTES, 8):
            b.store(8, R10, at, 0)
        read("sock", "__sk_common.skc_net", 8, R10, self._where + _NET)
        read("inet_sock", "inet_sport", 2, R10, self._where + _PORT)
        read("sock", "__sk_common.skc_family", 2, R10, self._where + _FAMILY)
        b.load(R1, 2, R10, self._where + _FAMILY)
        b.jump_if(R1, "!=", INET6, old)
        read("sock", "__sk_common.skc_v6_rcv_saddr", 16, R10, self._where)
        b.jump(done)
        b.place(old)
        read("sock", "__sk_common.skc_rcv_saddr", 4, R10, self._where + 12)
        b.place(done)

    def forget(self) -> None:
        """Forget the socket."""
        self._delete(SOCKETS, self._socket)

    def stop_listening(self) -> None:
        """Forget who listens at the socket's address, if it is this socket that did."""
        b, kept = self._b, self._b.label("kept")
        self._locate()
        self._blocks.lookup(LISTENERS, self._where)
        b.jump_if(R0, "==", 0, kept)
        b.load(R1, 8, R0, _LISTENING)
        b.load(R2, 8, R10, self._socket)
        b.jump_if(R1, "!=", R2, kept)
        self._delete(LISTENERS, self._where)
        b.place(kept)

    def _delete(self, map: str, key: int) -> None:
        self._b.load_map(R1, map)
        self._blocks.address(R2, R10, key)
        self._b.call(helpers.MAP_DELETE)

    def _update(self, map: str, key: int, value: int) -> None:
        b = self._b
        b.load_map(R1, map)
        self._blocks.address(R2, R10, key)
        self._blocks.address(R3, R10, value)
        b.move(R4, helpers.ANY)
        b.call(helpers.MAP_UPDATE)
