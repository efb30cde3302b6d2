"""Clients that mean harm, or nothing: the broker goes on to serve the others."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vidlab.capture.ebpf import Probe, arg
from vidlab.capture.ebpf.broker import protocol
from vidlab.capture.ebpf.broker.client import RemoteSession
from vidlab.capture.ebpf.broker.protocol import Channel, EndedError
from vidlab.capture.ebpf.broker.server import Limits
from vidlab.capture.ebpf.plan import Plan
from vidlab.errors import VidlabError

from .conftest import Running

pytestmark = [
    pytest.mark.needs("ebpf"),
    pytest.mark.skipif(os.geteuid() != 0, reason="a broker's folder is made for a user"),
]

PROBE = Probe("libc.so.6", "labs", {"value": arg(0, "i64")})


#: It waits for a client for longer than any test does: a client may have to wait for the CPU.
LIMITS = Limits(4, 2, 64, 1 << 22, 600.0)


@pytest.fixture
def own(folder, nothing_left):
    """A broker for this user, so that this process can be its client."""
    os.chown(folder, os.geteuid(), os.geteuid())
    running = Running(folder, os.geteuid(), LIMITS)
    yield running
    running.stop()


@contextlib.contextmanager
def limited(own: Running, **limits: float) -> Iterator[None]:
    """Let clients have less for a while."""
    own.broker.limits = dataclasses.replace(LIMITS, **limits)
    try:
        yield
    finally:
        own.broker.limits = LIMITS


def connect(own: Running) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(60)
    sock.connect(str(own.path))
    return sock


def answer(sock: socket.socket) -> dict | None:
    """What the broker says; None if it closes the connection."""
    data = b""
    try:
        while part := sock.recv(1 << 16):
            data += part
            if len(data) >= 4 and len(data) >= 4 + struct.unpack_from("<I", data)[0]:
                return json.loads(data[4:])
    except ConnectionError:
        pass
    return None


def works(own: Running) -> None:
    """It serves another client at once; those that have gone leave it their places."""
    began = time.monotonic()
    while own.broker._places:
        assert time.monotonic() - began < 60
        time.sleep(0.01)
    with RemoteSession(own.path, Plan([PROBE]), os.getpid(), ring_bytes=4096) as session:
        assert [one.symbol for one in session.attachments] == ["labs"]
    assert time.monotonic() - began < 120


def slowly(sock: socket.socket, data: bytes) -> None:
    until = time.monotonic() + 60
    for byte in data:
        assert time.monotonic() < until
        sock.sendall(bytes([byte]))
        time.sleep(0.05)


def endlessly(sock: socket.socket, data: bytes) -> None:
    while True:
        sock.sendall(data)


def frame(text: bytes) -> bytes:
    return struct.pack("<I", len(text)) + text


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\xff" * 4096,
        struct.pack("<I", 0),
        frame(b"null"),
        frame(b"[]"),
        frame(b"{"),
        frame(b"\xff\xfe"),
        frame(b'{"do": NaN'),
        frame(b"[" * 200_000),
        frame(b'{"do":' * 30_000),
        frame(b'{"a":' + b"9" * 100_000 + b"}"),
        struct.pack("<I", (256 << 10) + 1),
    ],
    ids=range(12),
)
def test_what_is_no_message_is_answered_and_ended(own, data) -> None:
    with connect(own) as sock:
        sock.sendall(data)
        assert "error" in answer(sock)
        assert answer(sock) is None
    works(own)
    assert own.events()[0] == "refused"


OPEN = {"do": "open", "protocol": 1, "plan": [PROBE.to_json()], "target": None, "ring_bytes": 4096}


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"do": None},
        {"do": ["open"]},
        {"do": "close"},
        {"do": "misses"},
        {"do": "detach"},
        {"do": "attach_pending"},
        {"do": "replace", "number": 0, "declaration": {}},
        {"do": "open"},
        OPEN | {"protocol": 2},
        OPEN | {"protocol": "1"},
        OPEN | {"plan": None},
        OPEN | {"plan": {}},
        OPEN | {"plan": "cuda"},
        OPEN | {"plan": [None]},
        OPEN | {"plan": ["nothing"]},
        OPEN | {"plan": [["sched"]]},
        OPEN | {"plan": [{"kind": "probe"}]},
        OPEN | {"plan": [PROBE.to_json() | {"library": "\0"}]},
        OPEN | {"plan": [PROBE.to_json() | {"symbol": 5}]},
        OPEN | {"plan": [PROBE.to_json() | {"sample": "x"}]},
        OPEN | {"plan": [PROBE.to_json() | {"sample": 0}]},
        OPEN | {"plan": [PROBE.to_json() | {"entry": {"a": ["arg"]}}]},
        OPEN | {"plan": [PROBE.to_json() | {"entry": {"a": ["arg", 1 << 70, "u64"]}}]},
        OPEN | {"plan": [PROBE.to_json() | {"code": "00"}]},
        OPEN | {"target": "1"},
        OPEN | {"target": 1.5},
        OPEN | {"target": True},
        OPEN | {"target": 1 << 80},
        OPEN | {"ring_bytes": 4097},
        OPEN | {"ring_bytes": 1 << 40},
        OPEN | {"ring_bytes": -4096},
        OPEN | {"ring_bytes": "4096"},
        OPEN | {"ring_bytes": 1e300},
        OPEN | {"sessions": 7},
    ],
)
def test_requests_that_no_client_of_ours_makes(own, asked) -> None:
    with connect(own) as sock:
        sock.sendall(protocol.encode(asked))
        assert answer(sock)["error"]["kind"] in ("input", "privilege", "recording")
        sock.sendall(protocol.encode({"do": "misses"}))  # it is still there
        assert "error" in answer(sock)
    works(own)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inside: (
        st.lists(inside, max_size=4)
        | st.dictionaries(
            st.sampled_from([*OPEN, "kind", "entry", "when", "arg"]), inside, max_size=4
        )
    ),
    max_leaves=20,
)


def test_requests_made_at_random(own) -> None:
    @settings(max_examples=150, deadline=None, database=None)
    @given(st.sampled_from([*OPEN]), JSON, st.sampled_from(["open", "replace", "misses"]))
    def asks(key: str, value: object, do: str) -> None:
        with connect(own) as sock:
            sock.sendall(protocol.encode({**OPEN, "do": do, key: value}))
            told = answer(sock)
            assert told is None or told.keys() <= {"ok", "error"}

    asks()
    works(own)


def test_declarations_made_at_random(own) -> None:
    @settings(max_examples=150, deadline=None, database=None)
    @given(st.sampled_from([*PROBE.to_json()]), JSON)
    def asks(key: str, value: object) -> None:
        with connect(own) as sock:
            sock.sendall(protocol.encode({**OPEN, "plan": [{**PROBE.to_json(), key: value}]}))
            told = answer(sock)
            assert told is not None

    asks()
    works(own)


def test_connections_that_ask_for_nothing_make_room(own) -> None:
    with limited(own, connections=8):
        idle = [connect(own) for _ in range(30)]
        for sock in idle[::2]:
            with contextlib.suppress(ConnectionError):  # it has been sent away already
                sock.sendall(b"\x10")
        end = time.monotonic() + 60
        while True:  # who comes is sent away, but has one of them make room
            try:
                works(own)
                break
            except VidlabError:
                assert time.monotonic() < end
                time.sleep(0.05)
        for sock in idle:
            sock.close()


def test_a_connection_that_asks_for_nothing_has_its_time(own) -> None:
    with limited(own, patience_s=1.0), connect(own) as sock:
        assert answer(sock) is None
    works(own)


def test_a_message_that_comes_byte_by_byte_has_its_time(own) -> None:
    with limited(own, patience_s=1.0), connect(own) as sock, pytest.raises(ConnectionError):
        slowly(sock, protocol.encode({"do": "x" * 100_000}))
    works(own)


def test_who_does_not_read_its_answers_is_left(own) -> None:
    with limited(own, patience_s=1.0), connect(own) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        with pytest.raises(ConnectionError):
            endlessly(sock, protocol.encode({"do": "x" * 30}) * 100)
    works(own)


def test_descriptors_that_are_sent_to_it_are_closed(own, nothing_left) -> None:
    reading, writing = os.pipe()
    with connect(own) as sock:
        for _ in range(20):
            sent = protocol.encode({"do": "misses"})
            socket.send_fds(sock, [sent], [writing] * 50)
            assert "error" in answer(sock)
        os.close(writing)
        assert os.read(reading, 1) == b""  # nobody holds the other end
    os.close(reading)
    works(own)


def test_many_at_once(own) -> None:
    outcomes: list[str] = []

    def ask() -> None:
        try:
            with RemoteSession(own.path, Plan([PROBE]), os.getpid(), ring_bytes=4096):
                outcomes.append("open")
        except VidlabError as error:
            outcomes.append(str(error))

    threads = [threading.Thread(target=ask) for _ in range(24)]
    with limited(own, connections=8):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(outcomes) == 24
    assert "open" in outcomes
    works(own)


def test_the_number_of_a_target_that_has_ended_means_nobody(own) -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as target:
        target.stdin.write(b"\n")
        target.stdin.flush()
        # Answered, it is a program that runs, no longer one that is being executed.
        assert target.stdout.readline() == b"\n"
        try:
            with RemoteSession(own.path, Plan(["sched"]), target.pid, ring_bytes=4096):
                (serving,) = own.broker._serving
                assert serving._guard.holds(target.pid)
                target.kill()
                end = time.monotonic() + 60
                while serving._guard.holds(target.pid) and time.monotonic() < end:
                    time.sleep(0.01)
                assert not serving._guard.holds(target.pid)
        finally:
            target.kill()


def test_refusals_do_not_fill_the_disk(own) -> None:
    with connect(own) as sock:
        for _ in range(300):
            sock.sendall(protocol.encode({"do": "x"}))
            assert "error" in answer(sock)
    assert own.events().count("refused") == 60
    own.audit.close()
    assert own.lines()[-1]["count"] == 240


# --- the client's side ---


@pytest.mark.parametrize(
    "says",
    [
        b"",
        b"\xff" * 100,
        frame(b"{}"),
        frame(b'{"ok": 5}'),
        frame(b'{"ok": {}}'),
        frame(b'{"error": 5}'),
        frame(b'{"error": {"kind": "privilege"}}'),
        frame(b'{"ok": {"rings": ["kernel_labs"], "metrics": []}}'),
        struct.pack("<I", 1 << 31),
    ],
    ids=range(9),
)
@pytest.mark.parametrize("count", [0, 1, 3, 4])
def test_what_only_seems_to_be_a_broker(tmp_path, nothing_left, says, count) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection, open("/dev/null") as file:  # noqa: PTH123
                connection.recv(1 << 20)
                if says:
                    socket.send_fds(connection, [says], [file.fileno()] * count)

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(VidlabError):
            RemoteSession(path, Plan([PROBE]), os.getpid(), ring_bytes=4096)
        thread.join()


def test_messages_of_all_sizes_cross() -> None:
    here, there = socket.socketpair()
    one, two = Channel(here, 1 << 22), Channel(there, 1 << 22)
    for size in (0, 1, 65_531, 1 << 20):
        values = {"text": "x" * size}
        thread = threading.Thread(target=one.send, args=(values, 60.0))
        thread.start()
        assert two.receive(60.0, 60.0) == values
        thread.join()
    one.close()
    assert one.closed
    with pytest.raises(EndedError):
        two.receive(1.0, 1.0)
    two.close()
