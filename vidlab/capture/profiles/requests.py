"""The requests that the receiver takes: as much of HTTP/1.1 as an agent's push needs."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass

#: What the agent posts to.
PATH = "/push.v1.PusherService/Push"

#: The header by which the agent of this process is known: other users of the machine, or a
#: web page in a browser on it, can reach the port too.
KEY_HEADER = "x-vidlab-key"

#: The longest head of a request: its first line and headers.
MOST_HEAD_BYTES = 16 << 10


class RefusedError(Exception):
    """A request that is not taken: the HTTP status, and what is wrong with it."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True, slots=True)
class Head:
    """What a request's head says: the body's size in bytes, and whether it is gzip data.

    `headers` have names in lower case.
    """

    length: int
    compressed: bool
    headers: Mapping[str, str]


def read_head(data: bytes, key: str, most_bytes: int) -> Head:
    """Return what the head of a request says.

    Parameters
    ----------
    data : bytes
        All before the empty line.
    key : str
        What `KEY_HEADER` must say.
    most_bytes : int
        The greatest body.

    Raises
    ------
    RefusedError
        If it is not a push, or not from who has the key.
    """
    first, *lines = data.decode("latin-1").split("\r\n")
    parts = first.split(" ")
    if len(parts) != 3 or not parts[2].startswith("HTTP/1."):
        raise RefusedError(400, "this is not HTTP/1.1")
    method, path, _ = parts
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        name = name.lower()
        if not colon or name.split() != [name] or name in headers:
            raise RefusedError(400, "a header is malformed, or there twice")
        headers[name] = value.strip()
    if path != PATH:
        raise RefusedError(404, f"profiles are posted to {PATH}")
    if method != "POST":
        raise RefusedError(405, "profiles are posted")
    if not hmac.compare_digest(headers.get(KEY_HEADER, "").encode(), key.encode()):
        raise RefusedError(403, f"only the agent of this recording has the key ({KEY_HEADER})")
    encoding = headers.get("content-encoding", "identity").lower()
    if encoding not in ("gzip", "identity"):
        raise RefusedError(415, "profiles are sent as they are, or as gzip data")
    length = headers.get("content-length", "")
    if "transfer-encoding" in headers or not length:
        raise RefusedError(411, "the length of the body must be told (Content-Length)")
    if not (length.isascii() and length.isdecimal()):
        raise RefusedError(400, "Content-Length is no number")
    if len(length) > 18 or int(length) > most_bytes:
        raise RefusedError(413, f"a push may have {most_bytes:,} bytes")
    return Head(int(length), encoding == "gzip", headers)


def answer(status: int, reason: str = "") -> bytes:
    """Return the response of this status, with a reason for a person as its body."""
    body = f"{reason}\n".encode("utf-8", "replace") if reason else b""
    return (
        f"HTTP/1.1 {status} {_WORDS.get(status, 'Error')}\r\n"
        f"Content-Length: {len(body)}\r\nContent-Type: text/plain; charset=utf-8\r\n"
        "Connection: close\r\n\r\n"
    ).encode() + body


_WORDS = {
    200: "OK",
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    411: "Length Required",
    413: "Content Too Large",
    415: "Unsupported Media Type",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
}
