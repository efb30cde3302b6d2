"""The set `tcp` in the real kernel: connections over the loopback, where packets arrive at once.

A packet over the loopback is received while its sender runs: so whatever happens to a server's
connection happens in the client's process, and the other way round.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator

import pytest

from vidlab.capture.ebpf.plan import Plan
from vidlab.capture.ebpf.reading.counters import Counts
from vidlab.capture.ebpf.sets import owners

from ..lab import wait_until
from .children import Child, kept
from .conftest import Heard, Listen, Row

pytestmark = [pytest.mark.needs("ebpf"), pytest.mark.usefixtures("nothing_left")]

TABLE = "kernel_tcp"

ADDRESSES = {"4": "127.0.0.1", "6": "::1"}

#: Odd sizes, by which one knows one's own bytes.
SENT, ANSWERED = 123 * 457, 89 * 13

#: In the child: accepts a connection at sys.argv[1], reads it to its end, answers.
SERVER = f"""
step()
six = ":" in sys.argv[1]
listening = socket.create_server(
    (sys.argv[1], 0),
    family=socket.AF_INET6 if six else socket.AF_INET,
    dualstack_ipv6=sys.argv[1] == "::",
)
step(listening.getsockname()[1])
connection, _ = listening.accept()
got = 0
while data := connection.recv(1 << 20): got += len(data)
connection.sendall(bytes({ANSWERED}))
connection.close()
step(got)
listening.close()
step()
"""

#: In the child: connects to where it is told, sends, and reads the answer to its end.
CLIENT = f"""
step()
connection = socket.create_connection((sys.argv[1], int(sys.argv[2])))
step(connection.getsockname()[1])
connection.sendall(bytes({SENT}))
connection.shutdown(socket.SHUT_WR)
got = 0
while data := connection.recv(1 << 20): got += len(data)
rtt = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 72)[68:]
connection.close()
step(got, int.from_bytes(rtt, "little"))
"""


def of(rows: list[Row], op: str) -> list[Row]:
    return [row for row in rows if row["op"] == op]


def states(rows: list[Row]) -> list[tuple[str, str]]:
    return [(row["old_state"], row["new_state"]) for row in of(rows, "state")]


def by_socket(rows: list[Row]) -> list[list[Row]]:
    """The rows of each socket, by the time of its first."""
    return [
        [row for row in rows if row["socket"] == address]
        for address in dict.fromkeys(row["socket"] for row in rows)
    ]


@contextlib.contextmanager
def connected(address: str, port: int) -> Iterator[socket.socket]:
    with socket.create_connection((address, port), timeout=30) as made:
        yield made


def answer(peer: socket.socket) -> int:
    """Read to the end; return how many bytes that were."""
    got = 0
    while data := peer.recv(1 << 20):
        got += len(data)
    return got


@pytest.mark.parametrize(("listens_at", "connects_to"), [("4", "4"), ("6", "6"), ("both", "4")])
def test_a_server_and_its_connection(listen: Listen, listens_at: str, connects_to: str) -> None:
    at = {**ADDRESSES, "both": "::"}[listens_at]
    to = ADDRESSES[connects_to]
    with Child(SERVER, at) as child, listen("tcp", target=child.pid) as heard:
        (port,) = child.go()
        begin = time.monotonic()
        with connected(to, port) as peer:
            own_port = peer.getsockname()[1]
            child.start()
            peer.sendall(bytes(SENT))
            peer.shutdown(socket.SHUT_WR)
            assert answer(peer) == ANSWERED
            assert child.wait() == [SENT]
        child.go()
        rows = until_closed(heard, 2)
        took_us = (time.monotonic() - begin) * 1e6
        check_counts(heard, len(rows))
        # A socket is forgotten after its last row is written, by whoever handles the last packet.
        wait_until(lambda: kept(owners.SOCKETS) == kept(owners.LISTENERS) == {})
    listening, connection = by_socket(rows)
    assert states(listening) == [("close", "listen"), ("listen", "close")]
    assert states(connection) == [
        ("listen", "syn_recv"),
        ("syn_recv", "established"),
        ("established", "close_wait"),
        ("close_wait", "last_ack"),
        ("last_ack", "close"),
    ]
    for row in rows:
        # Not the client's, in whose process most of this happened.
        assert row["pid"] == row["owner_pid"] == row["tid"] == child.pid
        assert row["local_port"] == port
        assert row["family"] == (2 if listens_at == "4" else 10)
    for row in of(connection, "state")[1:] + of(connection, "closed"):
        assert row["local_address"] == row["remote_address"] == to
        assert row["remote_port"] == own_port
    last = connection[-1]
    assert last["op"] == "closed"
    check_sent(rows, last, ANSWERED)
    assert last["bytes_received"] == SENT + 1  # and its end
    assert 0 < last["srtt_us"] < took_us
    for row in listening:
        assert row["srtt_us"] is row["remote_port"] is row["remote_address"] is None
        assert row["local_address"] == (None if listens_at == "both" else at)
    assert of(connection, "sample")


@pytest.mark.parametrize("family", ["4", "6"])
def test_a_client_that_closes_first(listen: Listen, family: str) -> None:
    address = ADDRESSES[family]
    kind = socket.AF_INET6 if family == "6" else socket.AF_INET
    with socket.create_server((address, 0), family=kind) as listening:
        port = listening.getsockname()[1]
        child = Child(CLIENT, address, str(port))
        with child, listen("tcp", target=child.pid) as heard:
            (own_port,) = child.go()
            peer, _ = listening.accept()
            with peer:
                child.start()
                assert answer(peer) == SENT
                peer.sendall(bytes(ANSWERED))
            got, rtt = child.wait()
            assert got == ANSWERED
            rows = until_closed(heard, 1)
            check_counts(heard, len(rows))
    # The server's socket is of this process, which is not recorded.
    (connection,) = by_socket(rows)
    assert states(connection) == [
        ("close", "syn_sent"),
        ("syn_sent", "established"),
        ("established", "fin_wait1"),
        ("fin_wait1", "fin_wait2"),
        ("fin_wait2", "close"),
    ]
    # It has no port of its own as it begins to connect.
    assert connection[0]["local_port"] is None
    assert {row["owner_pid"] for row in rows} == {child.pid}
    for row in of(connection, "state")[1:]:
        assert (row["local_port"], row["remote_port"]) == (own_port, port)
        assert row["local_address"] == row["remote_address"] == address
    last = connection[-1]
    check_sent(rows, last, SENT)
    assert last["bytes_received"] == ANSWERED + 1
    assert last["srtt_us"] == rtt


def test_nobody_listens(listen: Listen) -> None:
    code = """
step()
with socket.socket() as silent, socket.socket() as connection:
    silent.bind(("127.0.0.1", 0))  # so that nobody else listens there
    port = silent.getsockname()[1]
    refused = connection.connect_ex(("127.0.0.1", port))
step(port, refused)
"""
    with Child(code) as child, listen("tcp", target=child.pid) as heard:
        port, refused = child.go()
        rows = until_closed(heard, 1)
    assert refused
    assert states(rows) == [("close", "syn_sent"), ("syn_sent", "close")]
    assert {row["remote_port"] for row in of(rows, "state")} == {port}


def test_what_nobody_answers_is_sent_again(listen: Listen) -> None:
    code = """
step()
connection = socket.socket()
connection.setblocking(False)
connection.connect_ex(("127.0.0.1", int(sys.argv[1])))
step(connection.getsockname()[1])
"""
    with contextlib.ExitStack() as undo:
        listening = undo.enter_context(socket.socket())
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        port = listening.getsockname()[1]
        # One connection fills the queue of who listens: what else comes is dropped.
        undo.enter_context(connected("127.0.0.1", port))
        child = undo.enter_context(Child(code, str(port)))
        heard = undo.enter_context(listen("tcp", target=child.pid))
        (own_port,) = child.go()
        rows: list[Row] = []
        while len(of(rows, "retransmit")) < 2:  # after one second, and after two more
            time.sleep(0.05)
            rows += heard.rows(TABLE)
        child.end()
    assert states(rows)[:1] == [("close", "syn_sent")]
    for row in of(rows, "retransmit"):
        assert (row["local_port"], row["remote_port"]) == (own_port, port)
        assert row["new_state"] == "syn_sent"
        assert row["old_state"] is None
        assert row["pid"] == row["owner_pid"] == child.pid
        assert (row["span"], row["frame"]) == (0, 0)
        assert row["srtt_us"] is None


def test_a_connection_from_before_is_known_once_it_is_used(listen: Listen) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        with Child(CLIENT.replace("step()\n", "", 1), "127.0.0.1", str(port)) as child:
            (own_port,) = child.told
            peer, _ = listening.accept()
            with peer, listen("tcp", target=child.pid) as heard:
                child.start()
                assert answer(peer) == SENT
                peer.sendall(bytes(ANSWERED))
                peer.close()
                child.wait()
                rows = until_closed(heard, 1)
    assert rows[0]["op"] == "sample"
    assert rows[0]["new_state"] == "established"
    assert states(rows) == [
        ("established", "fin_wait1"),
        ("fin_wait1", "fin_wait2"),
        ("fin_wait2", "close"),
    ]
    assert {(row["local_port"], row["owner_pid"]) for row in rows} == {(own_port, child.pid)}
    check_sent(rows, rows[-1], SENT)


def test_who_serves_need_not_be_who_listens(listen: Listen) -> None:
    """As where a parent listens, and its children serve."""
    code = """
listening = socket.socket(fileno=int(sys.argv[1]))
step()
connection, _ = listening.accept()
connection.sendall(connection.recv(100))
connection.close()
step()
"""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        number = listening.fileno()
        child = Child(code, str(number), keep=(number,))
        with child, listen("tcp", target=child.pid) as heard:
            with connected("127.0.0.1", port) as peer:
                peer.sendall(b"echo")
                child.go()
                assert peer.recv(100) == b"echo"
            rows = until_closed(heard, 1)
    assert {row["owner_pid"] for row in rows} == {child.pid}
    assert {row["local_port"] for row in rows} == {port}
    assert rows[0]["op"] == "sample"
    assert ("established", "fin_wait1") in states(rows)


def test_labels_stay_with_a_connection_and_spans_with_what_a_thread_does(listen: Listen) -> None:
    code = """
word = Word()
step(threading.get_native_id(), word.address)
word.set(71, 72, 73)
connection = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
word.set(0, 0, 0)
step()
connection.recv(1)
connection.close()
step()
"""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        with Child(code, str(port)) as child, listen("tcp", target=child.pid) as heard:
            tid, address = child.told
            heard.session.shared.slots.update(
                tid.to_bytes(4, "little"), address.to_bytes(8, "little")
            )
            child.go()
            peer, _ = listening.accept()
            with peer:
                peer.sendall(b"x")
                child.go()
            rows = until_closed(heard, 1)
    assert {row["labels"] for row in rows} == {73}
    assert {row["tid"] for row in rows} == {tid}
    first, *rest = rows
    assert first["new_state"] == "syn_sent"
    assert (first["span"], first["frame"]) == (71, 72)
    assert {(row["span"], row["frame"]) for row in rest} == {(0, 0)}


def test_a_connection_in_use_is_sampled_now_and_then(listen: Listen) -> None:
    code = """
import fcntl, struct, termios
def unanswered(): return struct.unpack("i", fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(4)))[0]
step()
with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as connection:
    for i in range(1000): connection.sendall(b"x")
    while unanswered(): time.sleep(0.001)  # else the next one may wait to be sent
    time.sleep(0.15)
    connection.sendall(b"x")
step()
"""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        with Child(code, str(port)) as child, listen("tcp", target=child.pid) as heard:
            child.start()
            peer, _ = listening.accept()
            with peer:
                assert answer(peer) == 1001
            child.wait()
            rows = until_closed(heard, 1)
            check_counts(heard, len(rows))
            hits = counts(heard)["sock_send_length"]
    samples = of(rows, "sample")
    assert hits[0] == 1001
    assert hits[0] == hits[2] + hits[3]  # sampled out and emitted
    assert 0 < len(samples) <= 1 + (rows[-1]["t_ns"] - rows[0]["t_ns"]) // 100_000_000
    check_sent(rows, samples[-1], 1001)


def test_other_sockets_and_other_processes_are_not_recorded(listen: Listen) -> None:
    code = """
step()
one, two = socket.socketpair()
one.send(b"x"), two.recv(1)
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
    datagrams.bind(("127.0.0.1", 0))
    datagrams.sendto(b"x", datagrams.getsockname())
    datagrams.recv(1)
step()
"""
    with Child(code) as child, listen("tcp", target=child.pid) as heard:
        child.go()
        listening = socket.create_server(("127.0.0.1", 0))
        with listening, connected("127.0.0.1", listening.getsockname()[1]) as peer:
            own, _ = listening.accept()
            with own:
                own.sendall(b"x")
                assert peer.recv(1) == b"x"
        child.end()
        assert heard.rows(TABLE) == []
        assert not any(any(known) for known in counts(heard).values())


def test_the_table_is_what_analyses_read() -> None:
    (layout,) = Plan(["tcp"]).layouts.values()
    own = {column.name for column in layout.table.columns}
    assert layout.table.name == TABLE
    assert own > {"op", "socket", "old_state", "new_state", "owner_pid", "family", "srtt_us"}
    assert own > {"local_address", "local_port", "remote_address", "remote_port"}
    assert own > {"bytes_sent", "bytes_received"}


# --- what came of it ------------------------------------------------------------------


def until_closed(heard: Heard, sockets: int) -> list[Row]:
    """All rows, once so many sockets are gone: the kernel may need a moment for the last packet."""
    rows: list[Row] = []

    def closed() -> bool:
        rows.extend(heard.rows(TABLE))
        return len(of(rows, "closed")) >= sockets

    wait_until(closed)
    return rows


def check_sent(rows: list[Row], row: Row, size: int) -> None:
    """As many bytes were sent by then; and what had to be sent again."""
    assert row["bytes_sent"] >= size
    assert row["bytes_sent"] == size or of(rows, "retransmit")


def counts(heard: Heard) -> dict[str, list[int]]:
    """What became of each program's hits."""
    known = Counts(heard.session.shared.counts).read()
    return {member.label: known[member.number].tolist() for member in heard.plan.members}


def check_counts(heard: Heard, rows: int) -> None:
    # A row is in the ring before it is counted.
    wait_until(lambda: sum(known[3] for known in counts(heard).values()) >= rows)
    known = counts(heard).values()
    for hits, filtered, sampled_out, emitted, lost_ring, lost_stash, *_ in known:
        assert hits == filtered + sampled_out + emitted
        assert lost_ring == lost_stash == 0
    assert sum(emitted for _, _, _, emitted, *_ in known) == rows
