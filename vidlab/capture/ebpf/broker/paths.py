"""Where a user's broker is, unless it is told otherwise."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

_SOCKET = "vidlab-ebpf.sock"

_LOG = "vidlab-ebpf-broker.jsonl"


def default_socket(uid: int | None = None) -> Path:
    """Return where the broker of a user, by default this one, listens: in a folder of the user's.

    Raises
    ------
    KeyError
        If there is no such user.
    """
    uid = os.getuid() if uid is None else uid
    runtime = Path(f"/run/user/{uid}")
    if runtime.is_dir():
        return runtime / _SOCKET
    return Path(pwd.getpwuid(uid).pw_dir, ".cache", "vidlab", _SOCKET)


def default_audit_log(uid: int) -> Path:
    """Return where the broker of a user writes down what it does: out of the user's reach."""
    if os.getuid() == 0 and uid != 0:
        return Path("/var/log", _LOG)
    return default_socket(uid).with_name(_LOG)
