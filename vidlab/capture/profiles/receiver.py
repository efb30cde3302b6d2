"""The receiver: a small HTTP server on the loopback interface, for the agent's pushes.

A single thread serves all connections, without blocking: a request is taken as a whole,
handed on, and answered; then the connection ends. What is not a push of this process's
agent is refused, by a status and a reason. All is bounded: connections, sizes, time.
"""

from __future__ import annotations

import _thread
import contextlib
import secrets
import selectors
import socket
import time
from collections.abc import Callable
from typing import Any

from .requests import MOST_HEAD_BYTES, Head, RefusedError, answer, read_head

#: How many connections are served at a time; further ones wait to be accepted.
_MOST_CONNECTIONS = 16

#: How long a request may take to arrive, and how long its sender may take to notice the answer.
_PATIENCE_S = 5.0
_LINGER_S = 1.0

_PIECE_BYTES, _PIECES = 1 << 18, 8

#: Takes a push (head, body); what it raises of `RefusedError` is the answer.
Take = Callable[[Head, bytes], None]


class Receiver:
    """Receives pushes from `start` to `stop`.

    Parameters
    ----------
    take : callable
        Called with each push, in the receiver's thread.
    most_bytes : int
        The greatest body of a request.

    Attributes
    ----------
    port : int
        Of 127.0.0.1.
    key : str
        What requests must have in the header `requests.KEY_HEADER`.
    """

    def __init__(self, take: Take, most_bytes: int) -> None:
        self.key = secrets.token_hex(16)
        self.port = 0
        self._take = take
        self._most_bytes = most_bytes
        self._running: _thread.LockType | None = None
        self._over = False

    def start(self) -> None:
        """Listen, in a thread. OSError or RuntimeError if the system does not allow it."""
        self._server = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._server.setblocking(False)
        self.port = self._server.getsockname()[1]
        self._bell, self._hears = socket.socketpair()
        self._hears.setblocking(False)
        self._selector = selectors.PollSelector()
        self._selector.register(self._hears, selectors.EVENT_READ)
        self._connections: set[_Connection] = set()
        self._accepting = False
        self._over = False
        running = _thread.allocate_lock()
        running.acquire()
        try:
            _thread.start_new_thread(self._run, (running,))
        except RuntimeError:
            for each in (self._server, self._bell, self._hears):
                each.close()
            raise
        self._running = running

    def stop(self, patience_s: float) -> None:
        """Answer what has arrived whole, and end; wait for that at most so long."""
        running, self._running = self._running, None
        if running is None:
            return
        self._over = True
        with contextlib.suppress(OSError):
            self._bell.send(b"!")
        if running.acquire(timeout=patience_s):
            running.release()
            self._bell.close()

    def _run(self, running: _thread.LockType) -> None:
        try:
            while not (self._over and not self._connections):
                try:
                    self._round()
                except Exception:  # of the machine's: files or memory are short
                    time.sleep(0.05)
        finally:
            for connection in list(self._connections):
                self._end(connection)
            self._server.close()
            self._hears.close()
            running.release()

    def _round(self) -> None:
        """Wait for something to happen, and see to it."""
        if self._over:  # what is not in by now does not come any more
            for connection in list(self._connections):
                if not connection.answered:
                    self._serve(connection)
                self._end(connection)
            return
        free = len(self._connections) < _MOST_CONNECTIONS
        if free != self._accepting:
            change: Any = self._selector.register if free else self._selector.unregister
            change(*((self._server, selectors.EVENT_READ) if free else (self._server,)))
            self._accepting = free
        until = min((c.until for c in self._connections), default=None)
        timeout = None if until is None else max(until - time.monotonic(), 0.0)
        for key, _ in self._selector.select(timeout):
            if key.fileobj is self._server:
                self._accept()
            elif key.fileobj is not self._hears:
                self._serve(key.data)
        now = time.monotonic()
        for connection in [c for c in self._connections if c.until <= now]:
            if not connection.answered:
                connection.answer(408, "the request has not arrived whole")
            self._end(connection)

    def _accept(self) -> None:
        try:
            peer, _ = self._server.accept()
        except OSError:  # it has gone again
            return
        peer.setblocking(False)
        connection = _Connection(peer)
        self._connections.add(connection)
        self._selector.register(peer, selectors.EVENT_READ, connection)

    def _serve(self, connection: _Connection) -> None:
        """Take what has arrived; end the connection if its sender has."""
        try:
            if connection.receive(self.key, self._most_bytes):
                head = connection.head
                assert head is not None
                self._take(head, bytes(connection.data))
                connection.answer(200)
        except BlockingIOError:
            pass
        except RefusedError as error:
            connection.answer(error.status, str(error))
        except (OSError, EOFError):
            self._end(connection)
        except Exception as error:  # `take` has reported it
            connection.answer(500, f"{type(error).__name__}: {error}")

    def _end(self, connection: _Connection) -> None:
        self._connections.discard(connection)
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(connection.peer)
        connection.peer.close()


class _Connection:
    """A connection: one request, and its answer."""

    def __init__(self, peer: socket.socket) -> None:
        self.peer = peer
        self.until = time.monotonic() + _PATIENCE_S
        self.head: Head | None = None
        self.data = bytearray()
        self.answered = False

    def receive(self, key: str, most_bytes: int) -> bool:
        """Receive what there is; return whether the request is whole now.

        Raises
        ------
        RefusedError
            If it is not to be taken.
        EOFError
            If the sender has ended.
        """
        for _ in range(_PIECES):  # then it is the others' turn
            piece = self.peer.recv(_PIECE_BYTES)
            if not piece:
                raise EOFError
            if self.answered:
                continue  # so that the sender, who may still be sending, comes to the answer
            self.data += piece
            if self.head is None and not self._read_head(key, most_bytes):
                continue
            if self.head is not None and len(self.data) >= self.head.length:
                del self.data[self.head.length :]
                return True
        return False

    def _read_head(self, key: str, most_bytes: int) -> bool:
        end = self.data.find(b"\r\n\r\n", 0, MOST_HEAD_BYTES)
        if end < 0:
            if len(self.data) >= MOST_HEAD_BYTES:
                raise RefusedError(431, f"a head may have {MOST_HEAD_BYTES:,} bytes")
            return False
        self.head = read_head(bytes(self.data[:end]), key, most_bytes)
        del self.data[: end + 4]
        return True

    def answer(self, status: int, reason: str = "") -> None:
        """Answer, and wait for the sender to end."""
        self.answered = True
        self.data.clear()
        self.until = time.monotonic() + _LINGER_S
        with contextlib.suppress(OSError):
            self.peer.send(answer(status, reason))
            self.peer.shutdown(socket.SHUT_WR)
