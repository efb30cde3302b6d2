"""Who asks, and whom it is about: processes, held by descriptors that outlast their numbers."""

from __future__ import annotations

import errno as errors
import os
import select
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self, TypeVar

from ..kernel.privileges import PrivilegeError

#: getsockopt: a descriptor of the process that connected (Linux 6.5).
_SO_PEERPIDFD = 77

_CREDENTIALS = struct.Struct("3i")

_LONGEST_NAME = 256

T = TypeVar("T")


class RefusedError(PrivilegeError):
    """The broker does not do this, for this peer or with this process."""


class HeldProcess:
    """A process, which its number goes on to mean for as long as `alive`.

    Attributes
    ----------
    pid : int
    pidfd : int
        Becomes readable as the process ends.
    """

    def __init__(self, pid: int, pidfd: int) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self._poll = select.poll()
        self._poll.register(pidfd, select.POLLIN)

    @classmethod
    def open(cls, pid: int) -> Self:
        """Return the process that now has this number.

        Raises
        ------
        RefusedError
            If there is none, or the number is a thread's.
        """
        try:
            return cls(pid, os.pidfd_open(pid))
        except (OSError, OverflowError) as error:
            raise RefusedError(
                f"there is no process {pid}", "Give the number of one that runs."
            ) from error

    @property
    def alive(self) -> bool:
        """Whether it has not ended: until now, the number was its own all the time."""
        return self.pidfd >= 0 and not self._poll.poll(0)

    def close(self) -> None:
        """Let go of it."""
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1

    def facts(self) -> dict[str, Any]:
        """Return what tells it in a log: its number and the program that it runs."""
        try:
            program = os.readlink(f"/proc/{self.pid}/exe")  # noqa: PTH115
        except OSError:
            program = ""
        return {"pid": self.pid, "program": program[:_LONGEST_NAME]}


class Peer(HeldProcess):
    """The process that connected.

    Attributes
    ----------
    uid, gid : int
        Its user and group, as it connected.
    """

    uid: int
    gid: int

    @classmethod
    def of(cls, connection: socket.socket) -> Self:
        """Return who connected here.

        Raises
        ------
        RefusedError
            If it has ended, or this process cannot see it: it is in another PID namespace.
        """
        size = _CREDENTIALS.size
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
        pid, uid, gid = _CREDENTIALS.unpack(credentials)
        try:
            pidfd = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
        except OSError as error:
            if error.errno != errors.ENOPROTOOPT:
                raise RefusedError("who has connected has ended", "Connect again.") from error
            pidfd = os.pidfd_open(pid)
        os.set_inheritable(pidfd, False)
        peer = cls(pid, pidfd)
        peer.uid, peer.gid = uid, gid
        return peer


def check_target(target: HeldProcess, uid: int) -> None:
    """Raise RefusedError unless a user could trace this process by the kernel's own rules.

    That is: it is this user's alone, holds no capability, and does not protect itself. And
    it has our numbers of processes, since threads are told by them.

    The answer holds for the moment only: a program that gives itself another user's rights
    as it is executed (sudo) changes it, see `guard`.
    """
    pid = target.pid
    status = _looked_at(pid, _status)
    users = status["Uid"]
    if {int(word) for word in users} != {uid}:
        raise RefusedError(
            f"process {pid} is not user {uid}'s alone (its users are {' '.join(users)})",
            "A broker attaches only to processes of the user that it serves.",
        )
    owner, namespace, ours = _looked_at(pid, _owner_and_namespaces)
    if uid != 0 and int(status["CapPrm"][0], 16):
        raise RefusedError(
            f"process {pid} has capabilities of its own (0x{status['CapPrm'][0]})",
            "A broker attaches only to processes that have none.",
        )
    if uid != 0 and owner != uid:
        raise RefusedError(
            f"process {pid} protects itself from being looked at",
            "A broker attaches only to processes that the user could debug (see PR_SET_DUMPABLE).",
        )
    if namespace != ours:
        raise RefusedError(
            f"process {pid} is in another PID namespace than the broker, as in a container",
            "Run the broker in the same container, or the container with '--pid=host'.",
        )
    if not target.alive:
        raise RefusedError(f"process {pid} has ended", "Give the number of one that runs.")


def _looked_at(pid: int, look: Callable[[int], T]) -> T:
    try:
        return look(pid)
    except OSError as error:
        raise RefusedError(
            f"process {pid} cannot be looked at: {error.strerror}", "It may have ended."
        ) from error


def _status(pid: int) -> dict[str, list[str]]:
    text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
    return {key: value.split() for key, _, value in (s.partition(":") for s in text.splitlines())}


def _owner_and_namespaces(pid: int) -> tuple[int, int, int]:
    """Return whose a process's memory is, and which PID namespace its and ours is."""
    spaces = [os.stat(f"/proc/{who}/ns/pid").st_ino for who in (pid, "self")]  # noqa: PTH116
    return os.stat(f"/proc/{pid}/maps").st_uid, spaces[0], spaces[1]  # noqa: PTH116
