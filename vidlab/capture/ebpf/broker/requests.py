"""What a client may ask for: read from its request, and checked against what is its own."""

from __future__ import annotations

import ctypes
import os
import platform
from typing import Any

from ....errors import InputError
from ..declaring.probes import Probe, Tracepoint, Usdt
from ..plan import Member, Plan, asked_from_json
from ..session import check_ring
from .peers import Peer, RefusedError
from .protocol import MOST_DESCRIPTORS

#: setfsuid(2), which setfsgid(2) follows, and setgroups(2), by machine.
_SYSTEM_CALLS = {"x86_64": (122, 116), "aarch64": (151, 159)}


def read_opening(asked: dict[str, Any], peer: int) -> tuple[Plan, int, int]:
    """Return the plan, the target and the size of each ring that "open" asks for."""
    plan = Plan(asked_from_json(asked["plan"]))
    target = asked.get("target")
    if target is None:
        target = peer
    if type(target) is not int or target <= 0:
        raise RefusedError(
            "a broker attaches to one process, not to all", "Give the number of one that runs."
        )
    ring_bytes = asked["ring_bytes"]
    if type(ring_bytes) is not int:
        raise InputError(f"ring_bytes is a number of bytes, not {str(ring_bytes)[:40]!r}")
    check_ring(ring_bytes)
    if asked.get("sessions") not in (None, True, False):
        raise InputError("sessions is true, false or null")
    return plan, target, ring_bytes


def check_plan(plan: Plan, peer: Peer) -> None:
    """Raise unless a broker may load this for a user's own processes."""
    if not plan.members:
        raise InputError("there is no probe in this: name at least one")
    count = len(plan.layouts) + len(plan.metrics) + 2
    if count > MOST_DESCRIPTORS:
        raise InputError(
            f"{count - 2} tables and metrics are too many for a broker: {MOST_DESCRIPTORS - 2} at "
            "most; give several probes one name="
        )
    for member in plan.members:
        check_member(member, peer)


def check_member(member: Member, peer: Peer) -> None:
    of = member.declaration
    """Raise unless a broker may load this program for a user's own processes."""
    if peer.uid == 0:
        return
    if isinstance(of, Tracepoint) and of.everywhere:
        raise RefusedError(
            f"{of.category}:{of.event} is declared with everywhere=True, for processes of all "
            "users",
            "A broker tells of the user's own processes: leave everywhere out.",
        )
    if isinstance(of, Probe | Usdt) and "/" in of.library and os.geteuid() == 0:
        _check_readable(of.library, peer)


def _check_readable(path: str, peer: Peer) -> None:
    """Raise RefusedError if a user cannot read a file: a broker must not tell what is in it."""
    set_user, set_groups = _SYSTEM_CALLS[platform.machine()]
    libc = ctypes.CDLL(None, use_errno=True)
    # All of this is this thread's alone, which serves no other user.
    libc.syscall(set_groups, 0, None)
    libc.syscall(set_user + 1, peer.gid)
    libc.syscall(set_user, peer.uid)
    try:
        readable = libc.syscall(set_user, -1) == peer.uid and _can_read(path)
    finally:
        libc.syscall(set_user, os.geteuid())
        libc.syscall(set_user + 1, os.getegid())
    if not readable:
        raise RefusedError(
            f"{path} cannot be read by user {peer.uid}", "Name a file that it can read."
        )


def _can_read(path: str) -> bool:
    if not os.path.lexists(path):
        return "*" in path or "?" in path or "[" in path  # a pattern, of what is mapped
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY))
    except (OSError, ValueError):
        return False
    return True
