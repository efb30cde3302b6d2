"""The engine `KernelEvents`: what the kernel and the drivers do, under the same frames."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...clock import now_ns
from ...errors import InputError, RecordingError, VidlabError
from ...runs import processes
from ...runs.background import Background
from ...runs.writer import RunWriter
from .. import failures
from .broker.paths import default_socket
from .declaring.probes import Declaration
from .kernel.privileges import PrivilegeError
from .plan import Asked, Plan, asked_from_json
from .recorded import Recorded
from .session import RING_BYTES, Session, UnsupportedError, check_ring

#: What is recorded unless asked otherwise: the sets that a video pipeline's questions need.
DEFAULT_PROBES: tuple[Asked, ...] = ("cuda", "nvcodec", "libav", "sched", "tcp")

#: Names the socket of a broker to be asked, where this process may not load programs itself.
BROKER_VARIABLE = "VIDLAB_EBPF_BROKER"

#: How often metrics are written, and libraries looked for that were not loaded yet.
_PERIOD_S = 0.5

#: A forked child that ends sooner has no probes of its own.
_CHILD_AFTER_NS = 250_000_000

_PATIENCE_S = 5.0


class KernelEvents:
    """Records kernel and driver events by eBPF: each probe into its table, `kernel_…`.

    It needs Linux 6.6 and the capabilities CAP_BPF and CAP_PERFMON, in this process or in a
    broker (`vidlab ebpf-broker`). Without them a finding says what is missing and how to get
    it, and the recording goes on without kernel events.

    Parameters
    ----------
    probes : sequence of Probe, Tracepoint, Usdt, Counter, Histogram or str
        What to record; a text is the name of a probe set: cuda, nvcodec, libav, sched, tcp,
        cpython, faults, xid. Members of a set that this machine does not have are left out.
    pid : int, optional
        The process whose events are recorded; by default this one. A child process of a
        recorded one has an engine of its own.
    ring_bytes : int, optional
        The size of each table's ring: a power of two; by default 4 MiB. What does not fit,
        because the reader did not come to it, is lost and counted.
    broker : path, optional
        The socket of the broker to ask. By default this process loads the programs if it
        may, and else asks the broker that the environment variable VIDLAB_EBPF_BROKER names,
        or that of this user where `vidlab ebpf-broker` listens by itself.
    pin : str, optional
        Keep probes and maps in the kernel under this name after the recording; the next
        one of this name, with the same probes, goes on with them: it reads what the rings
        still hold and counts from where the one before it stopped. What happens in this
        process between two recordings is not recorded; what happens in another one (`pid`)
        is, until it ends. Needs a mounted BPF file system, and takes no USDT probes. The
        probed functions cost every process a little that uses the same files, until
        `pinning.unpin` or `vidlab probes unpin NAME`.
    required : bool
        Raise, rather than go on without, if there can be no kernel events.

    Raises
    ------
    InputError
        If the probes cannot work.

    Examples
    --------
    >>> from vidlab.capture.ebpf import Probe, arg
    >>> engine = KernelEvents(["sched", Probe("libc.so.6", "write", {"size_bytes": arg(2)})])
    >>> engine.tables
    ['kernel_offcpu', 'kernel_write']
    """

    name = "kernel_events"

    def __init__(
        self,
        probes: Sequence[Asked | dict[str, Any]] = DEFAULT_PROBES,
        *,
        pid: int | None = None,
        ring_bytes: int | None = None,
        broker: str | os.PathLike[str] | None = None,
        pin: str | None = None,
        required: bool = False,
    ) -> None:
        self._plan = Plan(asked_from_json([probes] if isinstance(probes, str) else list(probes)))
        self._ring_bytes = RING_BYTES if ring_bytes is None else ring_bytes
        check_ring(self._ring_bytes)
        if pid is not None and not (type(pid) is int and pid > 0):
            raise InputError(f"pid is a process's number, not {pid!r}")
        self._pid = pid
        self._broker = None if broker is None else os.fspath(broker)
        self._pin = pin
        self._required = required
        self._writer: RunWriter | None = None
        self._recorded: Recorded | None = None
        self._background: Background | None = None
        self._child_since_ns = 0
        self._opening = threading.Lock()

    @property
    def tables(self) -> list[str]:
        """The tables that it records into."""
        return list(self._plan.layouts)

    @property
    def plan(self) -> Plan:
        """What is recorded: numbered programs and their records."""
        return self._plan

    def parameters(self) -> dict[str, Any]:
        """Return the keyword arguments that make another one like it, for a child process.

        A child records its own events; none, if ours are those of another process.
        """
        return {
            "probes": [] if self._pid is not None else self._plan.to_json(),
            "ring_bytes": self._ring_bytes,
            "broker": self._broker,
        }

    def start(self, writer: RunWriter) -> None:
        """Attach the probes and begin to read."""
        if self._writer is not None or not self._plan.members:
            return
        self._writer = writer
        for layout in self._plan.layouts.values():
            writer.declare(layout.table)
        try:
            self._recorded = self._open(writer)
        except (PrivilegeError, UnsupportedError) as error:
            if self._required:
                self._writer = None
                raise
            missing = sorted(error.missing) if isinstance(error, PrivilegeError) else []
            writer.finding(
                "no_kernel_events", f"{error}", severity="error", labels=0, missing=missing
            )
        except BaseException as error:
            self._writer = None
            if (
                self._required
                and isinstance(error, Exception)
                and not isinstance(error, VidlabError)
            ):
                raise RecordingError(
                    f"kernel events cannot be recorded ({type(error).__name__}: {error}): "
                    "'vidlab doctor' tells what this kernel can do"
                ) from error
            raise
        self._background = Background(self._round, _PERIOD_S)
        with contextlib.suppress(RuntimeError):  # no thread is to be had
            self._background.start()
        processes.watch_forks(self)

    def stop(self) -> None:
        """Detach the probes, read what is left and leave nothing in the kernel."""
        background, self._background = self._background, None
        if background is not None:
            background.stop(_PATIENCE_S)
        recorded, self._recorded, self._writer = self._recorded, None, None
        if recorded is not None:
            recorded.close()

    def replace(self, old: Declaration, new: Declaration) -> None:
        """Replace a running probe by another on the same function or event.

        The programs are exchanged at one moment: no event is lost, none is recorded twice,
        and counts and tables go on. The columns have to be the same.

        Parameters
        ----------
        old : Probe, Tracepoint or Usdt
            One of those that the engine was given, or that has replaced it.
        new : of the same kind

        Raises
        ------
        InputError
            If `old` is not recorded, or `new` does not fit in its place.
        VerifierError
            If the kernel refuses the new program; the old one goes on.
        """
        if self._recorded is None:
            raise InputError("no kernel events are being recorded: there is nothing to replace")
        self._recorded.replace(old, new)

    def _open(self, writer: RunWriter) -> Recorded:
        target = os.getpid() if self._pid is None else self._pid
        broker = self._broker
        if broker is None:
            try:
                session = Session(self._plan, target, ring_bytes=self._ring_bytes, pin=self._pin)
                own = self._pid is None
                return Recorded(self._plan, session, writer, own, session.earlier)
            except PrivilegeError:
                broker = os.environ.get(BROKER_VARIABLE) or self._usual_broker()
                if not broker:
                    raise
        if self._pin is not None:
            raise InputError("pin= is for processes that load programs themselves, not by a broker")
        from .broker.client import RemoteSession  # most recordings do without

        remote = RemoteSession(Path(broker), self._plan, target, ring_bytes=self._ring_bytes)
        return Recorded(self._plan, remote, writer, own=self._pid is None)

    @staticmethod
    def _usual_broker() -> str | None:
        """Return the socket of this user's broker, if there is one where it is looked for."""
        with contextlib.suppress(KeyError, OSError):
            usual = default_socket()
            return str(usual) if usual.is_socket() else None
        return None

    def _round(self) -> None:
        """What the thread calls again and again."""
        writer = self._writer
        if writer is None:
            return
        try:
            if self._child_since_ns:
                self._begin_in_child(writer)
            if self._recorded is not None:
                self._recorded.refresh()
        except Exception:
            failures.report(writer, "kernel events")

    # --- forks ------------------------------------------------------------------------

    def before_fork(self) -> None:
        """Have no thread while the process forks."""
        if self._background is not None:
            self._background.stop(patience_s=0.25)

    def after_fork_in_parent(self) -> None:
        """Go on."""
        if self._background is not None:
            with contextlib.suppress(RuntimeError):
                self._background.start()

    def after_fork_in_child(self) -> None:
        """Leave the parent's probes to it; have some of our own if the child lives on."""
        if self._background is None:
            return
        self._background.leave()
        if self._recorded is not None:
            self._recorded.leave()
            self._recorded = None
        if self._pid is not None:  # of another process, which the parent goes on watching
            self._writer = self._background = None
            return
        self._pin = None  # which is the parent's
        self._child_since_ns = now_ns()
        with contextlib.suppress(RuntimeError):
            self._background.start()

    def _begin_in_child(self, writer: RunWriter) -> None:
        if now_ns() - self._child_since_ns < _CHILD_AFTER_NS:
            return
        self._child_since_ns = 0
        try:
            recorded = self._open(writer)
        except VidlabError:  # the parent has said what is missing
            return
        try:
            util = sys.modules.get("multiprocessing.util")
            if writer.index and util is not None:  # the index has it take part in the run
                # Its children run no atexit functions; the writer ends after this.
                util.Finalize(None, self.stop, exitpriority=-900)
        finally:
            self._recorded = recorded
