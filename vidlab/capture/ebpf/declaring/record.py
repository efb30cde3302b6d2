"""What every record of kernel events begins with."""

from __future__ import annotations

#: The bytes that the kernel puts before each record of a ring.
RING_HEADER = 8

#: The fields that every record begins with.
HEADER: tuple[tuple[str, str], ...] = (
    ("t_ns", "<i8"),
    ("tid", "<u4"),
    ("pid", "<u4"),
    ("span", "<u8"),
    ("frame", "<u8"),
    ("labels", "<u4"),
    ("cpu", "<u2"),
    ("probe", "<u2"),
)
