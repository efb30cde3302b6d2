"""How values of each kind lie in a record, and what they are out of it.

Kinds are the integer types ("u8" to "i64"), "s64" for a text of at most 64 bytes with its
end, and "ip" for an address of the Internet.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping

import numpy as np

from .values import SIZES

#: An address of the Internet: IPv6, or IPv4 mapped into it.
ADDRESS = "ip"

#: How such addresses are sorted: as two numbers, in no order that means anything.
HALVES = np.dtype([("first", "<u8"), ("last", "<u8")])


def aligned(fields: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return names and kinds in an order in which each is at a multiple of its alignment."""
    return sorted(fields.items(), key=lambda item: -SIZES.get(item[1], 8))


def size_of(kind: str) -> int:
    """Return how many bytes a value takes."""
    if kind == ADDRESS:
        return 16
    return int(kind[1:]) if kind.startswith("s") else SIZES[kind]


def numpy_type(kind: str) -> str:
    """Return NumPy's name for it."""
    if kind == ADDRESS:
        return "V16"
    return f"S{size_of(kind)}" if kind.startswith("s") else f"<{kind[0]}{SIZES[kind]}"


def text_of(value: bytes) -> str:
    """Return a C string as text."""
    return value.split(b"\0", 1)[0].decode("utf-8", "replace")


def address_of(value: np.void) -> str:
    """Return an address of the Internet as text."""
    address = ipaddress.IPv6Address(value.tobytes())
    return str(address.ipv4_mapped or address)
