"""The engine `Profiles`: stacks of what uses the CPU, and of what allocates."""

from __future__ import annotations

import contextlib
import sys
from typing import Any

from ...errors import InputError
from ...runs import processes
from ...runs.background import Background
from ...runs.writer import RunWriter
from .. import failures
from .forwarding import checked_server
from .session import Session

_LEAST_RATE, _MOST_RATE = 1, 1000
_LEAST_INTERVAL_S, _MOST_INTERVAL_S = 1, 60

#: How long the end of a recording, or a fork, waits for the agent that is just beginning.
_PATIENCE_S = 5.0

#: How long after a fork the agent goes on, and when one begins in the child: one that ends
#: sooner is not profiled.
_AFTER_FORK_S, _IN_CHILD_AFTER_S = 0.1, 0.25


class Profiles:
    """Records profiles by pyroscope-io, under vidlab's labels: `profile_samples`.

    Sampled is every thread that is on a CPU, in native code too. The agent pushes to
    a receiver in this process, on the loopback interface; nothing leaves the machine unless
    a server is named. Every push is a row of `profile_pushes`.

    A child process, spawned or forked, is profiled by an agent of its own. The agent
    does not survive a fork: it is ended before (20 ms or so), and begins again a tenth of a
    second after; a child has one from a quarter of a second on. Until a thread next enters
    or leaves labels, or a stage, its samples are without labels then.

    Parameters
    ----------
    sample_rate : int
        Samples a second of each thread: 1 to 1000. At each the agent reads the stacks of all
        threads, also of those that wait: at 100 some 3 % of a core for a thread that is twenty
        calls deep. For programs of many threads 20 is better.
    memory : bool
        Whether to sample what Python allocates too: `alloc_objects`, `alloc_space`,
        `inuse_objects`, `inuse_space`. Such samples have neither labels nor threads.
    server : str, optional
        A Pyroscope server to pass the pushes on to: "http://host:4040". It gets the labels
        as tags of their own, too.
    upload_interval_s : int
        Seconds from one push to the next, 1 to 60: as much is lost if the process is killed.

    Raises
    ------
    InputError
        If an option cannot be used.

    Examples
    --------
    >>> Profiles(sample_rate=50).parameters()
    {'sample_rate': 50, 'memory': False, 'server': None, 'upload_interval_s': 1}
    """

    name = "profiles"

    def __init__(
        self,
        sample_rate: int = 100,
        memory: bool = False,
        server: str | None = None,
        upload_interval_s: int = 1,
    ) -> None:
        self._sample_rate = _whole("sample_rate", sample_rate, _LEAST_RATE, _MOST_RATE)
        self._interval_s = _whole(
            "upload_interval_s", upload_interval_s, _LEAST_INTERVAL_S, _MOST_INTERVAL_S
        )
        self._memory = bool(memory)
        self._server = None if server is None else checked_server(server)
        self._writer: RunWriter | None = None
        self._session: Session | None = None
        #: Begins, or goes on, in a moment; and whether it must not.
        self._later: Background | None = None
        self._quiet = False

    def parameters(self) -> dict[str, Any]:
        """Return the keyword arguments that make another one like it."""
        return {
            "sample_rate": self._sample_rate,
            "memory": self._memory,
            "server": self._server,
            "upload_interval_s": self._interval_s,
        }

    def start(self, writer: RunWriter) -> None:
        """Begin to sample. RecordingError if pyroscope-io is missing, or in use already."""
        if self._writer is not None:
            return
        session = self._new_session(writer)
        session.start()
        self._session, self._writer, self._quiet = session, writer, False
        processes.watch_forks(self)

    def stop(self) -> None:
        """Have the last samples pushed and stored, and end the agent."""
        self._writer, self._quiet = None, True
        later, self._later = self._later, None
        if later is not None:
            later.stop(_PATIENCE_S)
        session, self._session = self._session, None
        if session is not None:
            session.stop()

    def _new_session(self, writer: RunWriter) -> Session:
        options = (self._server, self._sample_rate, self._memory, self._interval_s)
        return Session(writer, *options)

    # --- forks ------------------------------------------------------------------------

    def before_fork(self) -> None:
        """Have no agent while the process forks: it could not be used in the child."""
        self._quiet = True
        if self._later is not None:
            self._later.stop(_PATIENCE_S)
            self._later = None
        if self._session is not None:
            try:
                self._session.pause()
            except Exception:
                self._report()

    def after_fork_in_parent(self) -> None:
        """Go on in a moment: programs that fork once often do so again at once."""
        if self._session is not None:
            self._go_on_later(_AFTER_FORK_S)

    def after_fork_in_child(self) -> None:
        """Begin anew, with an agent of the child's own, if it lives on for a moment."""
        session, self._session = self._session, None
        self._later = None
        if session is not None:
            session.leave()
            self._go_on_later(_IN_CHILD_AFTER_S)

    def _go_on_later(self, seconds: float) -> None:
        self._quiet = False
        later = self._later = Background(self._go_on, seconds)
        with contextlib.suppress(RuntimeError):  # no thread is to be had
            later.start()

    def _go_on(self) -> None:
        """What the thread calls, once."""
        writer, later = self._writer, self._later
        if self._quiet or writer is None or later is None:
            return
        later.leave()
        try:
            if self._session is not None:
                self._session.go_on()
                return
            session = self._new_session(writer)
            session.start()
            self._session = session
        except Exception:
            self._report()
            return
        util = sys.modules.get("multiprocessing.util")
        if util is not None:  # its children run no atexit functions; the writer ends after this
            util.Finalize(None, self.stop, exitpriority=-10)

    def _report(self) -> None:
        if self._writer is not None:
            failures.report(self._writer, "profiles after a fork")


def _whole(name: str, value: int, least: int, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise InputError(f"{name} is a whole number from {least} to {most}, not {value!r}")
    return value
