"""Run a broker where its user's processes look for it: `vidlab ebpf-broker`."""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable
from pathlib import Path

from ..capture.ebpf.broker.paths import default_audit_log, default_socket
from ..capture.ebpf.broker.server import serve, user_to_serve
from ..capture.ebpf.engine import BROKER_VARIABLE
from ..errors import InputError


def run_broker(
    socket: str | os.PathLike[str] | None = None,
    audit_log: str | os.PathLike[str] | None = None,
    uid: int | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Be the broker of a user until a signal ends it.

    Parameters
    ----------
    socket : path, optional
        Where it listens; by default in a folder of the user's, which is made if need be.
    audit_log : path, optional
        Where it writes down what it does.
    uid : int, optional
        The user; by default the one who called `sudo`, else the one who runs this.
    say : callable, optional
        Is told, when clients can connect, how they do that.

    Raises
    ------
    PrivilegeError
        If this process may not load kernel programs.
    InputError
        If there is no such user, or the socket or the log cannot be where they should.
    """
    uid = user_to_serve() if uid is None else uid
    try:
        user = pwd.getpwuid(uid)
    except (KeyError, OverflowError):
        raise InputError(f"there is no user {uid}: give --uid, a number as 'id -u' says") from None
    if socket is None:
        path = default_socket(uid)
        _make_folder(path.parent, user)
    else:
        path = Path(socket).absolute()
    log = default_audit_log(uid) if audit_log is None else Path(audit_log).absolute()
    serve(path, log, uid=uid, ready=lambda: say(_how_to(path, log, user)))


def _how_to(path: Path, log: Path, user: pwd.struct_passwd) -> str:
    return (
        f"serving processes of user {user.pw_uid} ({user.pw_name}); Ctrl-C ends it\n"
        f"  for all of them:  export {BROKER_VARIABLE}={path}\n"
        f"  for one:          vl.KernelEvents(broker={str(path)!r})\n"
        f"                    vidlab attach PID --broker {path}\n"
        f"  what it does:     {log}"
    )


def _make_folder(folder: Path, user: pwd.struct_passwd) -> None:
    """Make a folder as its user would: in the user's own, root could be led astray by links."""
    uid, gid = os.geteuid(), os.getegid()
    if folder.is_dir() or uid not in (0, user.pw_uid):
        return
    if uid == 0:
        os.setegid(user.pw_gid)
        os.seteuid(user.pw_uid)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"the folder {folder} cannot be made ({error.strerror}): name another --socket"
        ) from error
    finally:
        if uid == 0:
            os.seteuid(uid)
            os.setegid(gid)
