"""What is passed on to a server: the same bytes; and what if there is none."""

from __future__ import annotations

import http.server
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.capture.profiles.conftest import Writer, profile, push
from vidlab.capture.profiles import forwarding
from vidlab.capture.profiles.engine import Profiles
from vidlab.capture.profiles.forwarding import Forwarder, checked_server
from vidlab.capture.profiles.requests import PATH, Head
from vidlab.capture.profiles.session import Session
from vidlab.errors import InputError

BODY = push(profile([((("f", "f.py", 1),), (10_000_000,), {})]))
HEADERS = {"content-type": "application/proto", "content-encoding": "gzip", "x-vidlab-key": "s"}


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has no CPU for a while is not taken for too slow."""
    monkeypatch.setattr(forwarding, "_TIMEOUT_S", 20.0)
    monkeypatch.setattr(forwarding, "_PATIENCE_S", 60.0)


class Server(http.server.ThreadingHTTPServer):
    """Keeps what it gets."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.got: list[tuple[str, dict[str, str], bytes]] = []
        self.status = 200
        self.go_on = threading.Event()
        self.go_on.set()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.go_on.wait(60)
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.got.append((self.path, headers, body))
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.go_on.set()
    server.shutdown()
    thread.join()
    server.server_close()


def take(writer: Writer, address: str, count: int = 1) -> None:
    session = Session(writer, address)  # type: ignore[arg-type]
    assert session._forwarder is not None
    session._forwarder.start()
    for _ in range(count):
        session._take(Head(len(BODY), True, HEADERS), BODY)
    session.stop()


def pushes(writer: Writer) -> list[dict[str, Any]]:
    return [row for name, row in writer.all_rows if name == "profile_pushes"]


def test_the_same_bytes_go_on(server: Server, writer: Writer) -> None:
    take(writer, server.address, 3)
    assert [path for path, _, _ in server.got] == [PATH] * 3
    for _, headers, body in server.got:
        assert body == BODY
        assert headers["content-encoding"] == "gzip"
        assert headers["content-type"] == "application/proto"
        assert "x-vidlab-key" not in headers  # nobody else's business
    assert [row["forwarded"] for row in pushes(writer)] == ["200 OK"] * 3
    assert [row["status"] for row in pushes(writer)] == ["stored"] * 3
    assert len(writer.samples()) == 3


def test_a_server_that_refuses_is_one_finding(server: Server, writer: Writer) -> None:
    server.status = 503
    take(writer, server.address, 2)
    assert all(
        "503" in row["forwarded"] or "not sent" in row["forwarded"] for row in pushes(writer)
    )
    (finding,) = [row for name, row in writer.all_rows if name == "findings"]
    assert finding["kind"] == "profiles_not_forwarded"
    assert len(writer.samples()) == 2


def test_nobody_waits_for_a_server(
    server: Server, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forwarding, "_MOST_WAITING", 4)
    monkeypatch.setattr(forwarding, "_PATIENCE_S", 0.05)
    server.go_on.clear()
    take(writer, server.address, 10)  # which returns, as nothing waits for the server
    answers = [row["forwarded"] for row in pushes(writer)]
    assert answers.count("not sent: the server is too slow") in (5, 6)
    assert answers.count("not sent: the recording has ended") in (3, 4)
    assert len(writer.samples()) == 10


def test_no_server_at_all(writer: Writer) -> None:
    with socket.socket() as silent:  # nobody else can have its port, and it does not listen
        silent.bind(("127.0.0.1", 0))
        take(writer, f"http://127.0.0.1:{silent.getsockname()[1]}")
    assert "refused" in pushes(writer)[0]["forwarded"]


def test_what_can_be_a_server() -> None:
    assert checked_server("http://host:4040/") == "http://host:4040"
    assert checked_server("https://host/pyroscope") == "https://host/pyroscope"
    for wrong, what in [
        ("host:4040", "such as"),
        ("ftp://host", "such as"),
        ("http://", "such as"),
        ("http://host:port", "such as"),
        (7, "such as"),
        ("http://me:secret@host", "manifest"),
        ("http://host/?a=b", "without"),
    ]:
        with pytest.raises(InputError, match=what):
            Profiles(server=wrong)  # type: ignore[arg-type]


def test_a_forwarder_that_was_never_used_ends() -> None:
    forwarder = Forwarder("http://127.0.0.1:9")
    forwarder.start()
    forwarder.stop()
