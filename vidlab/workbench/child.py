"""Run a program as a child that behaves as if it had been started directly.

It inherits the standard streams, the working directory and the process group,
and gets every signal that this process is sent. A signal from the terminal goes
to the whole group, the child included, and is therefore not sent on: the kernel
says which is which (`si_pid` is 0 where no process sent it).
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
from collections.abc import Iterator, Mapping, Sequence

from ..errors import InputError

#: Signals that are sent on. SIGTSTP and SIGSTOP stop this process like any other.
_PASSED_ON = frozenset(
    {
        signal.SIGINT,
        signal.SIGTERM,
        signal.SIGHUP,
        signal.SIGQUIT,
        signal.SIGUSR1,
        signal.SIGUSR2,
        signal.SIGALRM,
        signal.SIGCONT,
        signal.SIGWINCH,
    }
)

_WAITED_FOR = _PASSED_ON | {signal.SIGCHLD}

#: How often a child is looked at whose end was not told.
_LOOK_EVERY_S = 0.5

#: Python ignores these, and a child that is no Python must not inherit that.
_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)


@contextlib.contextmanager
def signals_held_back() -> Iterator[set[int]]:
    """Hold back the signals that are meant for the child; gives those held back before.

    Threads that are started inside inherit this, so that no other thread takes a
    signal which `run_child` waits for.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _WAITED_FOR)
    try:
        yield {int(held) for held in before}
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def run_child(command: Sequence[str], environment: Mapping[str, str], mask: set[int]) -> int:
    """Run the command to its end and return its exit code, or minus the signal that killed it.

    To be called in the main thread, within `signals_held_back`, with what that gave.

    Raises
    ------
    InputError
        If there is no such program, or it may not be run.
    """
    try:
        pid = os.posix_spawnp(
            command[0],
            list(command),
            dict(environment),
            setsigmask=mask,
            setsigdef=_IGNORED_BY_PYTHON,
        )
    except OSError as error:
        raise InputError(f"cannot run {command[0]}: {error.strerror}") from error
    return _wait(pid)


def _wait(pid: int) -> int:
    while True:
        # A thread of a library that does not block SIGCHLD may take it: so look now and then.
        received = signal.sigtimedwait(_WAITED_FOR, _LOOK_EVERY_S)
        if received is None or received.si_signo == signal.SIGCHLD:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)
        elif received.si_pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, received.si_signo)


def leave_like(code: int) -> int:
    """Return this exit code, or die by the signal that it stands for, as the child did."""
    if code >= 0:
        return code
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the child's core dump is the one to see
    if -code not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(-code, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {-code})
    os.kill(os.getpid(), -code)
    return 128 - code
