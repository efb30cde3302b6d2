"""All that profiles one process: agent, receiver, tags, and what stores the samples."""

from __future__ import annotations

import contextlib

from ... import labelsets
from ...clock import now_ns
from ...errors import RecordingError
from ...runs.writer import RunWriter
from .. import failures
from ..patching import Patches
from . import following
from .agent import Agent
from .forwarding import Forwarder
from .pushes import MOST_BYTES, PushError, read_push
from .receiver import Receiver
from .requests import Head, RefusedError
from .storing import Store
from .tags import Tags

#: How long the end waits for a push that is being stored.
_PATIENCE_S = 5.0


class Session:
    """Profiles this process from `start` to `stop`, but for the time that it is paused.

    Parameters
    ----------
    writer : RunWriter
    server : str or None
        Where to pass the pushes on to.
    sample_rate, upload_interval_s : int
    memory : bool
        See `Agent.start`.
    """

    def __init__(
        self,
        writer: RunWriter,
        server: str | None,
        sample_rate: int = 100,
        memory: bool = False,
        upload_interval_s: int = 1,
    ) -> None:
        self._writer = writer
        self._options = (sample_rate, memory, upload_interval_s)
        self._agent = Agent()
        self._patches = Patches()
        self._tags = Tags(self._agent, server is not None, self._failure)
        self._store = Store(writer, self._tags.spans)
        self._receiver = Receiver(self._take, MOST_BYTES)
        self._forwarder = None if server is None else Forwarder(server)
        self._runs = False
        self._failed = self._not_forwarded = self._used = False

    def start(self) -> None:
        """Begin. RecordingError says what to change."""
        self.go_on()
        try:
            following.follow(self._patches, self._tags, self._failure)
            self._agent.guard(self._patches, self._note_used)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Have the last samples pushed and stored, and end."""
        with contextlib.ExitStack() as steps:  # each is done, even if one fails
            if self._forwarder is not None:
                steps.callback(self._forwarder.stop)
            steps.callback(self._store.flush)
            steps.callback(self._end_sampling)
            steps.callback(self._tags.close)
            steps.callback(self._patches.restore)

    def pause(self) -> None:
        """Have no agent and no thread, but go on to follow the labels."""
        self._end_sampling()
        if self._forwarder is not None:
            self._forwarder.pause()

    def _end_sampling(self) -> None:
        if not self._runs:
            return
        self._runs = False
        try:
            self._agent.stop()  # which waits for its last push to be answered
        finally:
            self._receiver.stop(_PATIENCE_S)

    def go_on(self) -> None:
        """Begin, or go on after a pause. RecordingError says what to change."""
        if self._runs:
            return
        receiver = self._receiver
        try:
            receiver.start()
        except (OSError, RuntimeError) as error:
            raise RecordingError(
                f"profiles need a port of 127.0.0.1 and a thread to receive them ({error})"
            ) from error
        try:
            if self._forwarder is not None:
                self._forwarder.start()
            self._agent.start(receiver.port, receiver.key, *self._options)
        except BaseException:
            receiver.stop(_PATIENCE_S)
            raise
        self._runs = True
        self._tags.renew()

    def leave(self) -> None:
        """In a forked child, of a parent that has paused: let go of what is the parent's."""
        self._patches.restore()
        self._tags.close()

    def _take(self, head: Head, body: bytes) -> None:
        """Store a push, and pass it on."""
        began_ns = now_ns()
        name, samples, folded = None, 0, self._store.folding
        try:
            profiles = read_push(body, head.compressed)
            name = " and ".join(sorted({profile.name for profile in profiles})) or None
            samples = self._store.store(profiles)
        except PushError as error:
            self._push(began_ns, body, name, 0, folded, str(error), None)
            raise RefusedError(400, str(error)) from error
        except Exception as error:
            self._failure()
            self._push(began_ns, body, name, 0, folded, f"{type(error).__name__}: {error}", None)
            raise
        took_ns = now_ns() - began_ns

        def stored(forwarded: str | None) -> None:
            self._push(began_ns, body, name, samples, folded, "stored", forwarded, took_ns)

        if self._forwarder is None:
            stored(None)
            return

        def done(answer: str, good: bool) -> None:
            stored(answer)
            if not good:
                self._note_not_forwarded(answer)

        self._forwarder.send(body, head.headers, done)

    def _push(
        self,
        t_ns: int,
        body: bytes,
        profile: str | None,
        samples: int,
        folded: bool,
        status: str,
        forwarded: str | None,
        took_ns: int | None = None,
    ) -> None:
        self._writer.row(
            "profile_pushes",
            t_ns=t_ns,
            labels=labelsets.EMPTY,
            profile=profile,
            size_bytes=len(body),
            samples=samples,
            folded=folded,
            took_ns=now_ns() - t_ns if took_ns is None else took_ns,
            status=status,
            forwarded=forwarded,
        )

    def _note_not_forwarded(self, answer: str) -> None:
        if not self._not_forwarded:
            self._not_forwarded = True
            self._writer.finding(
                "profiles_not_forwarded",
                f"the Pyroscope server has not taken a push ({answer}); the run has all of it, "
                "and profile_pushes what became of each",
                labels=labelsets.EMPTY,
                answer=answer,
            )

    def _note_used(self) -> None:
        if not self._used:
            self._used = True
            self._writer.finding(
                "pyroscope_used_by_program",
                "the program begins or ends pyroscope's agent itself, which has no effect while "
                "vidlab's runs, as there can be one only: record with Profiles(server=…) to have "
                "the profiles on the program's server too, or without Profiles",
                labels=labelsets.EMPTY,
            )

    def _failure(self) -> None:
        """Report the first failure of ours, from within its `except`."""
        if not self._failed:
            self._failed = True
            failures.report(self._writer, "samples of profiles, or their labels,")
