"""Forwarding: what the agent pushed goes on, as it is, to a Pyroscope server.

That happens in a thread of its own: the agent has its answer already, and never waits for
a server. What a slow server leaves behind is bounded, and told.
"""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

from ...errors import InputError
from ...runs.background import Background
from .requests import PATH

#: How long a server has for an answer.
_TIMEOUT_S = 3.0

#: How long the end of a recording waits for what is still to be sent.
_PATIENCE_S = 5.0

#: How long a fork waits for the thread that sends.
_PAUSE_S = 0.25

#: What may wait to be sent: pushes, and their bytes.
_MOST_WAITING = 64
_MOST_WAITING_BYTES = 32 << 20

#: The headers of the agent that go along.
_HEADERS = ("content-type", "content-encoding", "user-agent")

#: Is told how it went: the server's status and words, or what was wrong.
Done = Callable[[str, bool], None]


class Forwarder:
    """Sends pushes on to a server, one after the other.

    Parameters
    ----------
    server : str
        The server's address: what `checked_server` has returned.
    """

    def __init__(self, server: str) -> None:
        self._url = server + PATH
        self._waiting: deque[tuple[bytes, Mapping[str, str], Done]] = deque()
        self._waiting_bytes = 0
        self._paused = False
        self._background = Background(self._send_all, 60.0)

    def start(self) -> None:
        """Begin to send. RuntimeError if there is no thread to be had."""
        self._paused = False
        self._background.start()
        self._background.wake()

    def send(self, body: bytes, headers: Mapping[str, str], done: Done) -> None:
        """Have the body of a push sent, and `done` called, in whatever thread."""
        size = len(body)
        full = len(self._waiting) >= _MOST_WAITING
        if full or self._waiting_bytes + size > _MOST_WAITING_BYTES:
            done("not sent: the server is too slow", False)
            return
        self._waiting_bytes += size
        self._waiting.append((body, headers, done))
        self._background.wake()

    def pause(self) -> None:
        """Have no thread until `start` is called again: what comes waits."""
        self._paused = True
        self._background.stop(_PAUSE_S)

    def stop(self) -> None:
        """Send what waits, within a few seconds, and end."""
        until = time.monotonic() + _PATIENCE_S
        self._paused = True
        self._background.stop(_PATIENCE_S)
        while self._waiting and time.monotonic() < until:
            self._send_next()
        while self._waiting:
            _, _, done = self._waiting.popleft()
            done("not sent: the recording has ended", False)

    def _send_all(self) -> None:
        while self._waiting and not self._paused:
            self._send_next()

    def _send_next(self) -> None:
        body, headers, done = self._waiting.popleft()
        self._waiting_bytes -= len(body)
        done(*self._post(body, headers))

    def _post(self, body: bytes, headers: Mapping[str, str]) -> tuple[str, bool]:
        known = {name: headers[name] for name in _HEADERS if name in headers}
        request = urllib.request.Request(self._url, body, known, method="POST")
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:
                return f"{response.status} {response.reason}", True
        except urllib.error.HTTPError as error:
            error.close()
            return f"{error.code} {error.reason}", False
        except Exception as error:  # of the network, whatever it is
            return f"{type(error).__name__}: {error}"[:200], False


def checked_server(server: str) -> str:
    """Return a server's address without a slash at its end.

    Raises
    ------
    InputError
        If it is none, or holds a password: it would be in the run's manifest.
    """
    try:
        parts = urlsplit(server)
        port = parts.port
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(
            f"server is an address such as http://host:4040, not {server!r}"
        ) from error
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise InputError(f"server is an address such as http://host:4040, not {server!r}")
    if parts.username is not None or parts.password is not None:
        raise InputError(
            "server must not hold a user and password, as the run's manifest keeps it: "
            "name a server, or a proxy of your own, that needs none"
        )
    if parts.query or parts.fragment:
        raise InputError(f"server is an address without ? and #, not {server!r}")
    return server.rstrip("/")
