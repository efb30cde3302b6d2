"""The broker's socket: who may connect, how many at a time, and for how long."""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ....errors import InputError
from ..kernel import privileges
from .audit import Audit
from .peers import RefusedError
from .serving import Serving

#: Clients that wait to be let in.
_BACKLOG = 64

#: Descriptors that a broker may have open.
_MOST_OPEN = 1 << 16

#: How long a request waits for a place.
_PATIENCE_S = 2.0


@dataclass(frozen=True)
class Limits:
    """What clients can have of a broker.

    Attributes
    ----------
    sessions : int
        At a time.
    sessions_each : int
        Of one process.
    connections : int
        At a time; more than sessions, so that there is always a place for a request.
    ring_bytes : int
        Of all rings together.
    patience_s : float
        For a connection without a session to ask, and for any message to be whole.
    """

    sessions: int = 16
    sessions_each: int = 4
    connections: int = 48
    ring_bytes: int = 512 << 20
    patience_s: float = 10.0


class Broker:
    """Serves one user's processes.

    Parameters
    ----------
    path : path
        Of its socket, in a folder of that user's.
    audit : Audit
        Whoever opened it closes it.
    uid : int
        The user.
    limits : Limits, optional

    Attributes
    ----------
    bell : int
        A descriptor that becomes readable when all is to end.

    Raises
    ------
    InputError
        If the socket cannot be made there, or a broker listens there already.
    """

    def __init__(
        self, path: str | os.PathLike[str], audit: Audit, uid: int, limits: Limits | None = None
    ) -> None:
        self.path = Path(path)
        self.audit = audit
        self.uid = uid
        self.limits = limits or Limits()
        self._lock = threading.Lock()
        self._freed = threading.Condition(self._lock)
        self._serving: dict[Serving, threading.Thread] = {}
        self._places: dict[Serving, int] = {}
        with contextlib.ExitStack() as undo:
            self.bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            undo.callback(os.close, self.bell)
            with _as_user(uid):
                self._listener = undo.enter_context(_bound(self.path, uid))
                self._own = self.path.lstat().st_ino
            # As ourselves: clients are told whose process it was that began to listen.
            self._listener.listen(_BACKLOG)
            self._undo = undo.pop_all()

    def run(self) -> None:
        """Serve until `stop` is called, by a signal's handler or another thread."""
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        poll.register(self.bell, select.POLLIN)
        while True:
            ready = dict(poll.poll())
            if self.bell in ready:
                return
            try:
                connection, _ = self._listener.accept()
            except BlockingIOError:
                continue  # it has gone again
            except OSError:  # no descriptors, no memory: those that there are go on
                time.sleep(0.1)
                continue
            self._begin(connection)

    def stop(self) -> None:
        """Have `run` return."""
        os.eventfd_write(self.bell, 1)

    def close(self) -> None:
        """End all sessions and take the socket away."""
        with contextlib.suppress(OSError):
            self.stop()
        with self._lock:
            threads = list(self._serving.values())
        for thread in threads:
            thread.join()
        with contextlib.suppress(OSError), _as_user(self.uid):
            if self.path.lstat().st_ino == self._own:
                self.path.unlink()
        self._undo.close()

    def take_place(self, serving: Serving, ring_bytes: int) -> None:
        """Count a session in, or raise RefusedError if that is too many.

        It waits a little, as a session that its client has closed takes a moment to end.
        """
        with self._freed:
            until = time.monotonic() + _PATIENCE_S
            while (lacking := self._lacking(serving, ring_bytes)) is not None:
                if not self._freed.wait(until - time.monotonic()):
                    raise lacking
            self._places[serving] = ring_bytes
            serving.opened = True

    def _lacking(self, serving: Serving, ring_bytes: int) -> RefusedError | None:
        """Return why there is no place for a session; None if there is one."""
        limits, peer = self.limits, serving.peer
        assert peer is not None
        others = [one.peer for one in self._places]
        if len(others) >= limits.sessions:
            return RefusedError(
                f"the broker has {len(others)} sessions, as many as it takes",
                "End a recording with kernel events first.",
            )
        if sum(one is not None and one.pid == peer.pid for one in others) >= limits.sessions_each:
            return RefusedError(
                f"process {peer.pid} has {limits.sessions_each} sessions, as many as one may",
                "End a recording of its with kernel events first.",
            )
        if sum(self._places.values()) + ring_bytes > limits.ring_bytes:
            return RefusedError(
                f"rings of {ring_bytes} bytes more are too large for the broker, whose "
                f"sessions have {limits.ring_bytes} together",
                "Give a smaller ring_bytes=.",
            )
        return None

    def give_place_back(self, serving: Serving) -> None:
        """Count a session out."""
        with self._freed:
            self._places.pop(serving, None)
            serving.opened = False
            self._freed.notify_all()

    def _begin(self, connection: socket.socket) -> None:
        serving = Serving(self, connection)
        with self._lock:
            full = len(self._serving) >= self.limits.connections
            idle = [one for one in self._serving if not one.opened]
            if full and idle:  # who has asked for nothing so far makes room: a client asks at once
                min(idle, key=lambda one: one.began).evict()
        if full:
            with contextlib.suppress(OSError):
                connection.close()
            return
        thread = threading.Thread(
            target=self._serve, args=(serving,), name="vidlab-broker", daemon=True
        )
        with self._lock:
            self._serving[serving] = thread
        try:
            thread.start()
        except RuntimeError:  # no thread is to be had
            connection.close()
            with self._lock:
                del self._serving[serving]

    def _serve(self, serving: Serving) -> None:
        try:
            serving.run()
        finally:
            with self._lock:
                del self._serving[serving]


def serve(
    path: str | os.PathLike[str],
    audit_log: str | os.PathLike[str],
    *,
    uid: int | None = None,
    limits: Limits | None = None,
    ready: Callable[[], None] | None = None,
) -> None:
    """Be a broker: load kernel programs for one user's processes, until a signal ends it.

    It ends by SIGINT or SIGTERM if this is the main thread. All that it has in the kernel
    ends with it.

    Parameters
    ----------
    path : path
        Of the socket, in a folder that belongs to the user and that nobody else may write
        to. Clients name it: `vl.KernelEvents(broker=…)`, or VIDLAB_EBPF_BROKER.
    audit_log : path
        Where each attachment, refusal and detachment is written, a JSON object a line.
    uid : int, optional
        The user whose processes may connect, and be attached to: nobody else's. By default
        the one who called `sudo`, else the one who runs this.
    limits : Limits, optional
        What clients can have at most.
    ready : callable, optional
        Called when clients can connect.

    Raises
    ------
    PrivilegeError
        If this process may not load kernel programs itself.
    InputError
        If the socket or the log cannot be where they should.
    """
    lacking = privileges.check()
    if lacking is not None:
        raise lacking
    uid = user_to_serve() if uid is None else uid
    _allow_descriptors()
    with contextlib.ExitStack() as undo:
        audit = undo.enter_context(contextlib.closing(Audit(audit_log)))
        broker = undo.enter_context(contextlib.closing(Broker(path, audit, uid, limits)))
        undo.enter_context(_ended_by_signals(broker))
        about = {"pid": os.getpid(), "socket": str(broker.path), "serves": uid}
        audit.write("started", **about)
        undo.callback(audit.write, "stopped", **about)
        if ready is not None:
            ready()
        broker.run()


def user_to_serve() -> int:
    """Return the user who has called `sudo`, else the one who runs this process."""
    given = os.environ.get("SUDO_UID", "")
    return int(given) if os.geteuid() == 0 and given.isdecimal() else os.geteuid()


def _allow_descriptors() -> None:
    """Have room for the programs and maps of all sessions: a large one has hundreds."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_OPEN if hard == resource.RLIM_INFINITY else min(hard, _MOST_OPEN)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


# --- the socket -----------------------------------------------------------------------


@contextlib.contextmanager
def _as_user(uid: int) -> Iterator[None]:
    """Handle files as this user would: in its own folder, root could be led astray by links."""
    before = os.geteuid()
    if uid == before:
        yield
        return
    try:
        os.seteuid(uid)
    except OSError as error:
        raise InputError(
            f"only root can serve another user than itself: user {before} cannot serve {uid}"
        ) from error
    try:
        yield
    finally:
        os.seteuid(before)


def _bound(path: Path, uid: int) -> socket.socket:
    try:
        folder = path.parent.stat()
    except OSError as error:
        raise InputError(f"the folder {path.parent} cannot be used: {error.strerror}") from error
    if folder.st_uid != uid or folder.st_mode & 0o022:
        raise InputError(
            f"the folder {path.parent} has to belong to user {uid}, and nobody else may write to "
            "it: name another --socket, such as one in $XDG_RUNTIME_DIR"
        )
    _remove_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        before = os.umask(0o177)
        try:
            listener.bind(os.fspath(path))
        finally:
            os.umask(before)
    except OSError as error:
        listener.close()
        raise InputError(f"a socket cannot be made at {path}: {error}") from error
    return listener


def _remove_stale(path: Path) -> None:
    """Remove the socket of a broker that was killed."""
    try:
        status = path.lstat()
    except OSError:
        return
    if not stat.S_ISSOCK(status.st_mode):
        raise InputError(f"{path} is there and no socket: name another --socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as trial:
        try:
            trial.connect(os.fspath(path))
        except OSError:
            path.unlink()
            return
    raise InputError(f"a broker listens at {path} already: use it, or end it first")


@contextlib.contextmanager
def _ended_by_signals(broker: Broker) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(*_: Any) -> None:
        broker.stop()

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
