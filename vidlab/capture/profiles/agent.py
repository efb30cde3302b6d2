"""pyroscope-io, set up for video work.

Its defaults hide native work: only samples of the thread that holds the GIL count, and
decoders don't. Here every thread that is on a CPU counts (`gil_only=False`,
`oncpu=True`), by the sampler that reads thread tags (`PySpy`; the other one drops them).
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...errors import RecordingError
from ...runs.background import name_thread
from ..patching import Patches
from .requests import KEY_HEADER

#: The options that are needed of `pyroscope.configure`.
_NEEDED = "pyroscope-io 1.4 or newer"


class Agent:
    """The agent of this process: there is one at most.

    Raises
    ------
    RecordingError
        If pyroscope-io is not installed, or is of another kind.
    """

    def __init__(self) -> None:
        self._pyroscope = _pyroscope()
        #: Whether it is begun or ended by us, just now.
        self._by_us = False
        # Its own functions only pass on what they are given, which costs as much again.
        self._native = native = getattr(self._pyroscope, "lib", self._pyroscope)
        try:
            self.add = native.add_thread_tag
            self.remove = native.remove_thread_tag
        except AttributeError as error:
            raise _other_version(error) from error

    def start(
        self, port: int, key: str, sample_rate: int, memory: bool, upload_interval_s: int
    ) -> None:
        """Begin to sample this process, and to push to this port of the loopback interface.

        Parameters
        ----------
        port : int
        key : str
            What goes along with each push, in the header `KEY_HEADER`.
        sample_rate : int
            Samples a second.
        memory : bool
            Whether to sample allocations too.
        upload_interval_s : int
            From one push to the next, in seconds.

        Raises
        ------
        RecordingError
            If it does not start.
        """
        pyroscope = self._pyroscope
        before = _threads()
        self._by_us = True
        try:
            begun = pyroscope.configure(
                application_name=_name_of_program(),
                server_address=f"http://127.0.0.1:{port}",
                sample_rate=sample_rate,
                oncpu=True,
                gil_only=False,
                report_thread_id=True,
                http_headers={KEY_HEADER: key},
                upload_interval=upload_interval_s,
                mem_enabled=memory,
                cpu_implementation=pyroscope.ProfilerImplementation.PySpy,
            )
        except (TypeError, AttributeError) as error:
            raise _other_version(error) from error
        finally:
            self._by_us = False
        if begun is False:
            raise RecordingError(
                "pyroscope's agent runs in this process already: have the program not configure "
                "it, and name its server to Profiles(server=…), which passes the profiles on"
            )

        for tid in _threads() - before:  # else they would be called as the program is
            name_thread("vidlab-agent", tid)

    def stop(self) -> None:
        """Have the last samples pushed, and end."""
        self._by_us = True
        try:
            self._pyroscope.shutdown()
        finally:
            self._by_us = False

    def guard(self, patches: Patches, used: Callable[[], None]) -> None:
        """Until `patches` are restored, keep the program from ending this agent.

        Parameters
        ----------
        patches : Patches
        used : callable
            Called as the program begins the agent, which has no effect, or ends it. Must not
            raise.
        """
        if self._native is self._pyroscope:  # a version that has none of these functions
            return
        begin, end = self._native.initialize_agent, self._native.drop_agent

        def begin_for_program(*args: Any, **options: Any) -> Any:
            if not self._by_us:
                used()
            return begin(*args, **options)

        def end_for_program() -> Any:
            if self._by_us:
                return end()
            used()
            return False

        patches.set(self._native, "initialize_agent", begin_for_program)
        patches.set(self._native, "drop_agent", end_for_program)


def _threads() -> set[int]:
    with contextlib.suppress(OSError):
        return {int(task.name) for task in Path("/proc/self/task").iterdir()}
    return set()


def _pyroscope() -> Any:
    try:
        return importlib.import_module("pyroscope")
    except ImportError as error:
        raise RecordingError(
            "profiles need the package 'pyroscope-io', which is not installed: "
            "pip install 'vidlab[profile]'"
        ) from error


def _other_version(error: Exception) -> RecordingError:
    return RecordingError(
        f"this version of pyroscope-io is not known here ({error}): install {_NEEDED} by "
        "pip install 'vidlab[profile]'"
    )


def _name_of_program() -> str:
    """Return what a server lists the profiles under: the program's name."""
    return Path(getattr(sys, "argv", [""])[0] or "python").stem or "python"
