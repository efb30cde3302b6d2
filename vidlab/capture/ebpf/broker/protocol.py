"""What a broker and its clients say to each other: JSON, one message after the other.

A message is its length in bytes (u32, little-endian) and a JSON object in UTF-8. A client
asks ``{"do": …}`` and is answered ``{"ok": …}`` or ``{"error": …}``; the answer to "open"
brings descriptors along. Programs never cross: a client sends declarations, and the broker
itself makes programs of them.

====================  =======================================  ============================
asked                 with                                     answered
====================  =======================================  ============================
open                  protocol, plan, target, ring_bytes,      what is attached, rings,
                      sessions                                 metrics; their descriptors
attach_pending                                                 what is attached
replace               number, declaration                      nothing
misses                                                         misses by program
detach                                                         nothing
====================  =======================================  ============================

A session ends as its connection closes, however that comes about.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Sequence
from typing import Any

from ....errors import InputError, RecordingError, VidlabError
from ..kernel.privileges import PrivilegeError

#: The version of all this.
PROTOCOL = 1

#: What a request and an answer may be long, in bytes.
MOST_REQUEST = 256 << 10
MOST_ANSWER = 4 << 20

#: How many descriptors an answer may bring: the kernel's own bound is 253.
MOST_DESCRIPTORS = 250

_LENGTH = struct.Struct("<I")
_AT_A_TIME = 1 << 16

#: Received descriptors are closed in programs that this process starts.
_CLOSE_ON_EXEC = 0x40000000


class ProtocolError(RecordingError):
    """The other side says what is no message of this protocol."""


class EndedError(RecordingError):
    """The other side has closed the connection."""


def encode(values: dict[str, Any]) -> bytes:
    """Return a message as bytes."""
    text = json.dumps(values, separators=(",", ":")).encode()
    return _LENGTH.pack(len(text)) + text


def decode(text: bytes) -> dict[str, Any]:
    """Return what a message says, without its length, or raise ProtocolError."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"a message is no JSON: {type(error).__name__}") from None
    if not isinstance(values, dict):
        raise ProtocolError("a message is a JSON object")
    return values


class Channel:
    """One side of a connection. All waiting ends: at a deadline, or by a bell.

    Parameters
    ----------
    sock : socket.socket
        Owned from now on.
    most : int
        What a message from the other side may be long, in bytes.
    bells : sequence of int
        Descriptors of which any being readable ends all waiting, as the other side's end.
    """

    def __init__(self, sock: socket.socket, most: int, bells: Sequence[int] = ()) -> None:
        self.socket = sock
        self._most = most
        sock.setblocking(False)
        self._reading, self._writing = select.poll(), select.poll()
        self._reading.register(sock, select.POLLIN)
        self._writing.register(sock, select.POLLOUT)
        self._watched: dict[int, Callable[[], None]] = {}
        for bell in bells:
            self._reading.register(bell, select.POLLIN)
            self._writing.register(bell, select.POLLIN)

    def watch(self, descriptor: int, call: Callable[[], None]) -> None:
        """Call this once, in the midst of waiting, as the descriptor becomes readable."""
        self._watched[descriptor] = call
        self._reading.register(descriptor, select.POLLIN)

    def receive(
        self, begin_s: float | None, whole_s: float, descriptors: list[int] | None = None
    ) -> dict[str, Any]:
        """Return the next message.

        Parameters
        ----------
        begin_s : float or None
            How long to wait for it to begin; None for as long as it takes.
        whole_s : float
            How long it may take from then on.
        descriptors : list of int, optional
            Takes the descriptors that came with it, also if this then fails: whoever
            gives the list closes them. Without it none are taken.

        Raises
        ------
        EndedError
            If the connection was closed, or nothing came in time, or a bell rang.
        ProtocolError
            If that is no message.
        """
        self._wait(self._reading, None if begin_s is None else time.monotonic() + begin_s)
        until = time.monotonic() + whole_s
        (length,) = _LENGTH.unpack(self._bytes(_LENGTH.size, until, descriptors))
        if length > self._most:
            raise ProtocolError(f"a message of {length} bytes: {self._most} at most")
        return decode(self._bytes(length, until, descriptors))

    def send(self, values: dict[str, Any], whole_s: float, descriptors: Sequence[int] = ()) -> None:
        """Send a message; it may take so long.

        Raises
        ------
        EndedError
            If the other side is gone, or does not take it in time.
        """
        rest = memoryview(encode(values))
        until = time.monotonic() + whole_s
        carried = [
            (
                socket.SOL_SOCKET,
                socket.SCM_RIGHTS,
                struct.pack(f"{len(descriptors)}i", *descriptors),
            )
        ]
        while rest:
            try:
                sent = self.socket.sendmsg(
                    [rest[:_AT_A_TIME]], carried if descriptors else (), socket.MSG_NOSIGNAL
                )
            except BlockingIOError:
                self._wait(self._writing, until)
            except OSError as error:
                raise EndedError(f"the connection is broken: {error}") from None
            else:
                rest, descriptors = rest[sent:], ()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self.socket.fileno() < 0

    def close(self) -> None:
        """Close the connection in this process."""
        self.socket.close()

    def _bytes(self, count: int, until: float, descriptors: list[int] | None) -> bytes:
        parts = []
        while count:
            try:
                part = self._some(min(count, _AT_A_TIME), descriptors)
            except BlockingIOError:
                self._wait(self._reading, until)
                continue
            except OSError as error:
                raise EndedError(f"the connection is broken: {error}") from None
            if not part:
                raise EndedError("the connection was closed")
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    def _some(self, most: int, descriptors: list[int] | None) -> bytes:
        if descriptors is None:
            return self.socket.recv(most)  # the kernel closes descriptors that come along
        part, carried, flags, _ = self.socket.recvmsg(
            most, socket.CMSG_SPACE(4 * MOST_DESCRIPTORS), _CLOSE_ON_EXEC
        )
        for level, kind, data in carried:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                whole = len(data) // 4
                descriptors += struct.unpack_from(f"{whole}i", data)
        if flags & socket.MSG_CTRUNC:
            raise ProtocolError(f"more than {MOST_DESCRIPTORS} descriptors came at once")
        return part

    def _wait(self, poll: select.poll, until: float | None) -> None:
        while True:
            left = None if until is None else max(0.0, until - time.monotonic()) * 1000
            ready = {descriptor for descriptor, _ in poll.poll(left)}
            for descriptor in ready & self._watched.keys():
                self._reading.unregister(descriptor)
                self._watched.pop(descriptor)()
                ready.remove(descriptor)
                break
            else:
                if not ready:
                    raise EndedError("the other side takes too long")
                if ready != {self.socket.fileno()}:
                    raise EndedError("it is over")
                return


# --- errors ---------------------------------------------------------------------------

_KINDS: dict[str, type[VidlabError]] = {"input": InputError, "recording": RecordingError}


def error_message(error: VidlabError) -> dict[str, Any]:
    """Return an error as the answer that tells it."""
    if isinstance(error, PrivilegeError):
        told = {"kind": "privilege", "why": error.why, "remedy": error.remedy}
        return {"error": {**told, "missing": sorted(error.missing)}}
    kind = "input" if isinstance(error, InputError) else "recording"
    return {"error": {"kind": kind, "message": str(error)[: MOST_ANSWER // 8]}}


def error_from(told: object) -> VidlabError:
    """Return the error that an answer tells, to be raised."""
    known = told if isinstance(told, dict) else {}
    if known.get("kind") == "privilege":
        missing = known.get("missing")
        return PrivilegeError(
            str(known.get("why")),
            str(known.get("remedy")),
            map(str, missing) if isinstance(missing, list) else (),
        )
    return _KINDS.get(str(known.get("kind")), RecordingError)(str(known.get("message")))


def close_all(descriptors: Sequence[int]) -> None:
    """Close descriptors that came and that nobody owns."""
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptor)
