"""The receiver under bad input: a refusal, and it goes on receiving."""

from __future__ import annotations

import gzip
import itertools
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.capture.profiles.conftest import Writer, profile, push
from vidlab.capture.profiles import receiver as receiving
from vidlab.capture.profiles.pushes import MOST_BYTES, PushError, read_push
from vidlab.capture.profiles.requests import KEY_HEADER, PATH
from vidlab.capture.profiles.session import Session

GOOD = push(profile([((("f", "f.py", 1),), (10_000_000,), {})]))


class Running:
    """A session that receives, without an agent."""

    def __init__(self) -> None:
        self.writer = Writer()
        self.session = Session(self.writer, None)  # type: ignore[arg-type]
        self.receiver = self.session._receiver
        self.receiver.start()

    def send(self, data: bytes) -> tuple[int, str]:
        """Send these bytes; return the status and the reason of the answer."""
        with socket.create_connection(("127.0.0.1", self.receiver.port), timeout=60) as peer:
            peer.sendall(data)
            got = b""
            while piece := peer.recv(4096):
                got += piece
        head, _, body = got.partition(b"\r\n\r\n")
        return int(head.split()[1]), body.decode()

    def request(self, body: bytes, first: str = f"POST {PATH} HTTP/1.1", **headers: Any) -> bytes:
        """A whole request; a header that is None is left out."""
        known = {
            KEY_HEADER: self.receiver.key,
            "Content-Length": len(body),
            "Content-Encoding": "gzip",
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        lines = [first, *(f"{n}: {v}" for n, v in known.items() if v is not None), "", ""]
        return "\r\n".join(lines).encode("latin-1") + body

    def push(self, body: bytes, **headers: Any) -> tuple[int, str]:
        return self.send(self.request(body, **headers))

    @property
    def stored(self) -> int:
        return len(self.writer.samples())

    @property
    def statuses(self) -> list[str]:
        return [row["status"] for name, row in self.writer.all_rows if name == "profile_pushes"]


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    running = Running()
    with pytest.MonkeyPatch.context() as patch:
        # Whoever has no CPU for a while is not taken for one who says nothing.
        patch.setattr(receiving, "_PATIENCE_S", 60.0)
        patch.setattr(receiving, "_LINGER_S", 60.0)
        yield running
    running.receiver.stop(60)


@pytest.fixture(autouse=True)
def _still_receives(running: Running) -> Iterator[None]:
    """After whatever a test has sent, a good push is stored."""
    yield
    before = running.stored
    assert running.push(GOOD) == (200, "")
    assert running.stored == before + 1


def test_a_push_is_stored_as_gzip_or_plain(running: Running) -> None:
    before = running.stored
    assert running.push(GOOD)[0] == 200
    assert running.push(gzip.decompress(GOOD), Content_Encoding=None)[0] == 200
    assert running.stored == before + 2
    assert running.statuses[-1] == "stored"


@pytest.mark.parametrize(
    ("status", "reason", "first", "headers"),
    [
        (404, "posted to", "POST /ingest HTTP/1.1", {}),
        (404, "posted to", f"POST {PATH}/../x HTTP/1.1", {}),
        (405, "posted", f"GET {PATH} HTTP/1.1", {}),
        (400, "not HTTP", "hello", {}),
        (400, "not HTTP", f"POST {PATH} SPDY/3", {}),
        (403, "key", None, {KEY_HEADER: None}),
        (403, "key", None, {KEY_HEADER: "0" * 32}),
        (403, "key", None, {KEY_HEADER: "ü"}),
        (411, "Content-Length", None, {"Content_Length": None}),
        (411, "Content-Length", None, {"Transfer_Encoding": "chunked"}),
        (400, "no number", None, {"Content_Length": "-1"}),
        (400, "no number", None, {"Content_Length": "²"}),
        (413, "bytes", None, {"Content_Length": MOST_BYTES + 1}),
        (413, "bytes", None, {"Content_Length": "9" * 5000}),
        (415, "gzip", None, {"Content_Encoding": "br"}),
        (400, "malformed", None, {"bad header": "x"}),
        (400, "twice", None, {"content_length": "7"}),
        (431, "head", None, {"X": "y" * 20_000}),
        (431, "head", "POST /" + "a" * 1_000_000, {}),
    ],
)
def test_what_is_no_push_is_refused(
    running: Running, status: int, reason: str, first: str | None, headers: dict[str, Any]
) -> None:
    line = f"POST {PATH} HTTP/1.1" if first is None else first
    before = running.stored
    found, said = running.send(running.request(GOOD, line, **headers))
    assert (found, reason in said) == (status, True), said
    assert running.stored == before


def bomb() -> bytes:
    return gzip.compress(bytes(100 << 20), 9)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (GOOD[:-9], "cut off"),
        (GOOD[:40], "cut off"),
        (b"", "cut off"),
        (b"no gzip at all", "damaged"),
        (bomb(), "decompressed"),
        (gzip.compress(b"\x0a\xff\xff\xff\xff\x0f", mtime=0), "cut off"),
        (push(b"\x0a\x03abc"), "not a push"),
        (push(b"\x1f\x8b"), "not a push"),
        (push(bomb()), "not a push"),
        (gzip.compress(gzip.decompress(GOOD) * 65, mtime=0), "64 profiles"),
    ],
    ids=itertools.count(),
)
def test_a_damaged_body_is_a_bad_request(running: Running, body: bytes, reason: str) -> None:
    before = running.stored
    status, said = running.push(body)
    assert (status, reason in said) == (400, True), said
    assert running.stored == before
    assert reason in running.statuses[-1]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_malformed_messages_are_refused_or_read(data: st.DataObject) -> None:
    good = gzip.decompress(GOOD)
    changed = bytearray(good)
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.integers(0, len(changed) - 1))
        changed[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(changed)))
    try:
        profiles = read_push(bytes(changed[:cut] if cut % 2 else changed), compressed=False)
    except PushError:
        return
    writer = Writer()
    Session(writer, None)._store.store(profiles)  # type: ignore[arg-type]


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300))
@example(b"")
def test_any_bytes_are_refused_or_read(data: bytes) -> None:
    for compressed in (False, True):
        try:
            read_push(data, compressed)
        except PushError:
            continue


def test_a_hundred_pushes_at_once_are_all_taken(running: Running) -> None:
    before = running.stored
    bodies = [GOOD if n % 3 else GOOD[:-9] for n in range(100)]
    with ThreadPoolExecutor(100) as pool:
        answers = [status for status, _ in pool.map(running.push, bodies)]
    assert answers == [200 if n % 3 else 400 for n in range(100)]
    assert running.stored == before + answers.count(200)


def test_who_says_nothing_is_let_go_and_keeps_nobody_waiting(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver, at_a_time = running.receiver, []
    accept = receiver._accept

    def accepted() -> None:
        accept()
        at_a_time.append(len(receiver._connections))

    monkeypatch.setattr(receiver, "_accept", accepted)
    monkeypatch.setattr(receiving, "_PATIENCE_S", 0.5)
    silent = [
        socket.create_connection(("127.0.0.1", receiver.port), timeout=60)
        for _ in range(receiving._MOST_CONNECTIONS + 4)
    ]
    silent[0].sendall(running.request(GOOD)[:-5])
    until = time.monotonic() + 60
    while len(at_a_time) < receiving._MOST_CONNECTIONS:  # all that can be are let in
        assert time.monotonic() < until
        time.sleep(0.001)
    monkeypatch.setattr(receiving, "_PATIENCE_S", 60.0)
    assert running.push(GOOD)[0] == 200
    assert max(at_a_time) <= receiving._MOST_CONNECTIONS
    assert silent[0].recv(100).startswith(b"HTTP/1.1 408 ")
    for peer in silent:
        peer.close()


def test_a_piece_at_a_time_will_do(running: Running) -> None:
    data = running.request(GOOD)
    with socket.create_connection(("127.0.0.1", running.receiver.port), timeout=60) as peer:
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for place in range(0, len(data), 7):
            peer.send(data[place : place + 7])
        assert peer.recv(100).startswith(b"HTTP/1.1 200 ")


def test_a_failure_of_ours_is_an_answer_and_a_finding(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Any) -> int:
        raise MemoryError("none left")

    monkeypatch.setattr(running.session._store, "store", fail)
    finding: list[str] = []
    monkeypatch.setattr(running.writer, "finding", lambda kind, *_, **__: finding.append(kind))
    assert running.push(GOOD) == (500, "MemoryError: none left\n")
    assert finding == ["recorder_failed"]


def test_it_is_out_of_the_programs_sight_and_ends() -> None:
    before = set(threading.enumerate())
    other = Running()
    assert set(threading.enumerate()) <= before
    assert other.push(GOOD)[0] == 200
    other.receiver.stop(60)
    assert other.receiver._server.fileno() == -1  # another program may have the port by now
    other.receiver.stop(60)
