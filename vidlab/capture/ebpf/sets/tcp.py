"""The set `tcp`: the TCP connections of a program, and how they fare.

Rows of `kernel_tcp`, by `op`:

state
    A connection goes from one state to another. A server's connections come to be in the
    state `syn_recv`. `time_wait` is not seen: the kernel then has no socket any more, and
    what goes there goes to `close`.
retransmit
    A segment was sent again; also the first one, when nobody answers.
sample
    How the connection fares, as its owner sends or receives: at most one each `SAMPLE_NS`.
closed
    The socket is gone; the bytes are final.

Bytes and round-trip times are the kernel's own: `bytes_sent` counts what was retransmitted each
time, and `bytes_received` the end of the stream (FIN) as one byte. `srtt_us` is the smoothed
round-trip time, null until there is one. Ports and addresses are null where there are none: of
who listens the remote ones (and the local address, if that is any), the local ones until the
kernel has chosen them.

Whose a connection is
    What happens to a packet happens, as a rule, while some other process runs. So a socket has an
    owner: the process that connected or listened, for a server's connection the one that
    listened at its address, and from then on each recorded process that sends, receives or closes.
    `pid`, `tid` and `owner_pid` name the owner and its thread that last did something; `span`
    and `frame` are given where that thread does it now, `labels` are kept for the connection.
    Only sockets whose owner is recorded are. One that was connected before the recording
    began is known from the first time that it is used.
"""

from __future__ import annotations

from collections.abc import Callable

from ..declaring.written import Attached, MapShape, Written
from ..kernel.bpf import MapType
from ..program.blocks import Blocks
from ..program.context import ProgramContext
from ..program.encoding import R1, R2, R8, R9, R10
from ..program.instructions import Builder
from ..program.values import TracepointValues
from ..program.words import PLACES
from .owners import (
    IDENTITY,
    LABELS,
    LISTENERS,
    MOST_LISTENERS,
    MOST_SOCKETS,
    OWNER_BYTES,
    SAMPLED,
    SOCKET_BYTES,
    SOCKETS,
    WHERE_BYTES,
    Owners,
)
from .sockets import INET, INET6, Socket

#: A connection in use is sampled once in so long, in ns.
SAMPLE_NS = 100_000_000

OPS = {1: "state", 2: "retransmit", 3: "closed", 4: "sample"}
STATE, RETRANSMIT, CLOSED, SAMPLE = OPS

STATES = {
    1: "established",
    2: "syn_sent",
    3: "syn_recv",
    4: "fin_wait1",
    5: "fin_wait2",
    6: "time_wait",
    7: "close",
    8: "close_wait",
    9: "last_ack",
    10: "listen",
    11: "closing",
    12: "new_syn_recv",
}
_SYN_SENT, _SYN_RECV, _FIN_WAIT1, _CLOSE, _LAST_ACK, _LISTEN = 2, 3, 4, 7, 9, 10

_TCP = 6


def declarations() -> list[Written]:
    """Return the set."""
    return [
        Written(
            set="tcp",
            name="tcp",
            meaning="an event of a TCP connection",
            fields={
                "op": "u8",
                "socket": "u64",
                "old_state": "u8",
                "new_state": "u8",
                "local_port": "u16",
                "remote_port": "u16",
                "family": "u16",
                "local_address": "ip",
                "remote_address": "ip",
                "bytes_sent": "u64",
                "bytes_received": "u64",
                "srtt_us": "u32",
                "owner_pid": "u32",
            },
            texts={"op": OPS, "old_state": STATES, "new_state": STATES},
            zero_is_null=frozenset({"local_port", "remote_port", "srtt_us"}),
            maps={
                SOCKETS: MapShape(MapType.HASH, SOCKET_BYTES, OWNER_BYTES, MOST_SOCKETS),
                LISTENERS: MapShape(MapType.HASH, WHERE_BYTES, OWNER_BYTES, MOST_LISTENERS),
            },
            # In the order of attaching: sockets are noted when their ends can be seen.
            attached=(
                Attached("tcp", "tcp_destroy_sock", _destroy_program),
                Attached("sock", "inet_sock_set_state", _state_program),
                Attached("tcp", "tcp_retransmit_skb", _retransmit_program),
                Attached("sock", "sock_send_length", _use_program, optional=True, rows=False),
                Attached("sock", "sock_recv_length", _use_program, optional=True, rows=False),
            ),
        )
    ]


class _Program:
    """What the programs of this set have in common.

    Parameters
    ----------
    context : ProgramContext
    pointer : str
        The tracepoint's field that has the socket's address.

    Attributes
    ----------
    socket, now : int
        Where on the stack the socket's address and the time are.
    """

    def __init__(self, context: ProgramContext, pointer: str) -> None:
        self.b = Builder()
        self.blocks = Blocks(self.b, context)
        self.values = TracepointValues(self.blocks)
        self.socket = self.b.allocate(8)
        self.now = self.b.allocate(8)
        self.owners = Owners(self.blocks, self.socket, self.now)
        self._pointer = pointer
        assert context.layout is not None
        self.place: Callable[[str], int] = context.layout.offset

    def start(self) -> None:
        """Begin the program: who runs."""
        self.blocks.start()
        self.blocks.identify()

    def begin(self) -> None:
        """Go on with what most events are not worth: when, and which socket."""
        self.blocks.find_counts()
        self.blocks.read_time(self.now)
        self.field(self._pointer)
        self.b.store(8, R10, self.socket, R1)
        self.owners.clear_word()

    def field(self, name: str) -> None:
        """Set R1 to a field of the tracepoint."""
        self.values.field(self.b, name, R1)

    def write(self, op: int, write_states: Callable[[], None], state: str | None = None) -> None:
        """Count the hit and write its record: of the owner on the stack, with the span word."""
        b, blocks, owners, place = self.b, self.blocks, self.owners, self.place
        lost, written = b.label("lost"), b.label("written")
        blocks.count("hits")
        blocks.reserve(lost)
        b.store(8, R8, blocks.context.record_bytes - 8, 0)  # what no field takes
        blocks.write_identity()
        b.comment("the owner's, not the current thread's")
        b.load(R1, 8, R10, owners.owner + IDENTITY)
        b.store(8, R8, PLACES["tid"], R1)  # and the pid after it
        b.load(R1, 4, R10, owners.owner + IDENTITY + 4)
        b.store(4, R8, place("owner_pid"), R1)
        blocks.write_word(R10, owners.word)
        b.load(R1, 4, R10, owners.owner + LABELS)
        b.store(4, R8, PLACES["labels"], R1)
        blocks.write_time(R10, self.now)
        for column in ("old_state", "new_state"):
            b.store(1, R8, place(column), 0)
        write_states()
        b.store(1, R8, place("op"), op)
        b.load(R1, 8, R10, self.socket)
        b.store(8, R8, place("socket"), R1)
        Socket(blocks, self.socket).write_all(place, state)
        blocks.submit()
        b.jump(written)
        b.place(lost)
        blocks.count("lost_ring")
        b.place(written)


def _state_program(context: ProgramContext) -> Builder:
    """A connection goes from one state to another."""
    p = _Program(context, "skaddr")
    b, blocks, owners = p.b, p.blocks, p.owners
    opens, acts, inherits, known = map(b.label, ("opens", "acts", "inherits", "known"))
    tell, lost, foreign = b.label("tell"), b.label("lost_owner"), b.label("foreign")
    p.start()
    p.field("protocol")
    b.jump_if(R1, "!=", _TCP, blocks.end)
    p.begin()
    p.field("newstate")
    b.jump_if(R1, "==", _SYN_SENT, opens)
    b.jump_if(R1, "==", _LISTEN, opens)
    b.jump_if(R1, "==", _SYN_RECV, inherits)
    b.jump_if(R1, "==", _FIN_WAIT1, acts)
    b.jump_if(R1, "==", _LAST_ACK, acts)
    b.jump(known)

    b.place(opens)
    b.comment("the current thread connects or listens")
    blocks.only_targets(foreign)
    owners.own(lost)
    p.field("newstate")
    b.jump_if(R1, "!=", _LISTEN, tell)
    owners.listen()
    b.jump(tell)

    b.place(acts)
    b.comment("the current thread closes")
    blocks.only_targets(known)
    owners.own(lost)
    b.jump(tell)

    b.place(inherits)
    b.comment("a packet has opened the connection: it belongs to who listens")
    p.field("oldstate")
    b.jump_if(R1, "!=", _LISTEN, known)
    owners.inherit(foreign, lost)
    b.jump(tell)

    b.place(known)
    owners.find_owner(blocks.end)
    owners.copy_owner()

    b.place(tell)
    p.write(STATE, lambda: _write_states(p))
    p.field("oldstate")
    b.jump_if(R1, "!=", _LISTEN, blocks.end)
    p.field("newstate")
    b.jump_if(R1, "!=", _CLOSE, blocks.end)
    b.comment("nobody listens here any more, unless another socket does")
    owners.stop_listening()
    b.jump(blocks.end)

    b.place(foreign)
    b.comment("it is of a process that is not recorded")
    owners.forget()
    b.jump(blocks.end)
    b.place(lost)
    blocks.count("hits")
    blocks.count("lost_stash")
    blocks.finish()
    return b


def _write_states(p: _Program) -> None:
    for column, name in (("old_state", "oldstate"), ("new_state", "newstate")):
        p.field(name)
        p.b.store(1, R8, p.place(column), R1)


def _retransmit_program(context: ProgramContext) -> Builder:
    """A segment is sent once more."""
    p = _Program(context, "skaddr")
    b = p.b
    failed = b.label("failed")
    p.start()
    p.begin()
    p.owners.find_owner(p.blocks.end)
    p.owners.copy_owner()
    assert context.format is not None
    if "err" in context.format.fields:
        b.comment("it was not: what stands in its way is on this machine")
        p.field("err")
        b.jump_if(R1, "!=", 0, failed)
    p.write(RETRANSMIT, lambda: None, "new_state")
    b.jump(p.blocks.end)
    b.place(failed)
    p.blocks.count("hits")
    p.blocks.count("filtered")
    p.blocks.finish()
    return b


def _destroy_program(context: ProgramContext) -> Builder:
    """A socket is given back."""
    p = _Program(context, "skaddr")
    p.start()
    p.begin()
    p.owners.find_owner(p.blocks.end)
    p.owners.copy_owner()
    p.write(CLOSED, lambda: None, "new_state")
    p.owners.forget()
    p.blocks.finish()
    return p.b


def _use_program(context: ProgramContext) -> Builder:
    """The current thread sends or receives."""
    p = _Program(context, "sk")
    b, blocks = p.b, p.blocks
    inet, take, sampled, lost = map(b.label, ("inet", "take", "sampled", "lost_owner"))
    p.start()
    p.field("protocol")
    b.jump_if(R1, "!=", _TCP, blocks.end)
    p.field("family")
    b.jump_if(R1, "==", INET, inet)
    b.jump_if(R1, "!=", INET6, blocks.end)
    b.place(inet)
    blocks.only_targets(blocks.end)
    p.begin()
    p.owners.find_owner(take)
    b.load(R1, 8, R10, blocks.identity)
    b.store(8, R9, IDENTITY, R1)
    b.load(R1, 8, R10, p.now)
    b.load(R2, 8, R9, SAMPLED)
    b.alu(R1, "-", R2)
    b.jump_if(R1, "<", SAMPLE_NS, sampled)
    b.place(take)
    p.owners.own(lost)
    p.write(SAMPLE, lambda: None, "new_state")
    b.jump(blocks.end)
    b.place(sampled)
    blocks.count("hits")
    blocks.count("sampled_out")
    b.jump(blocks.end)
    b.place(lost)
    blocks.count("hits")
    blocks.count("lost_stash")
    blocks.finish()
    return b
