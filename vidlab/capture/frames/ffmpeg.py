"""FFmpeg as a child process: its progress and each frame that it encodes, live.

FFmpeg writes progress reports to one pipe (`-progress`) and a line per encoded
frame to another (`-vstats_file`). A thread reads both, keeps the newest report
in `FfmpegChild.progress` and, while a recording runs, writes the tables
`ffmpeg_progress` and `ffmpeg_frames`.
"""

from __future__ import annotations

import collections
import contextlib
import os
import re
import selectors
import signal
import subprocess
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from ... import labelsets
from ...clock import now_ns
from ...errors import InputError, MissingDependencyError, VidlabError
from . import stages
from .ffmpeg_reports import Progress, parse_progress, parse_vstats

#: Options that tell FFmpeg where to report to: ours.
_OWN_OPTIONS = frozenset({"-progress", "-vstats", "-vstats_file", "-vstats_version"})

#: Lines of FFmpeg's messages that are kept.
_KEPT_LINES = 50

#: How long a child may take to end, seconds, before it is told more firmly.
_PATIENCE_S = 5.0


class FfmpegChild:
    """A running FFmpeg. Made by `run_ffmpeg`; a context manager that waits for its end.

    Leaving the block by an exception ends the child first.

    Attributes
    ----------
    name : str
        What it is called in the run.
    progress : Progress or None
        Its newest report.
    pid, parent : int
        Its process id, and that of the process that started it.
    returncode : int or None
        None while it runs.
    stdin, stdout : file or None
        The pipes that were asked for.
    """

    def __init__(self, command: Sequence[str], name: str | None, options: dict[str, Any]) -> None:
        self.progress: Progress | None = None
        self.parent = os.getpid()
        self._labels = labelsets.current.get()
        self._messages: collections.deque[str] = collections.deque(maxlen=_KEPT_LINES)
        self._stop_asked = False
        options.setdefault("stderr", subprocess.PIPE)
        # A child that shared the terminal's input would eat what the user types.
        self._owns_stdin = "stdin" not in options
        options.setdefault("stdin", subprocess.PIPE)
        progress_end, progress_pipe = os.pipe()
        frames_end, frames_pipe = os.pipe()
        try:
            self._process = subprocess.Popen(
                [
                    command[0],
                    *("-progress", f"pipe:{progress_pipe}", "-nostats", "-stats_period", "0.25"),
                    *("-vstats_file", f"/proc/self/fd/{frames_pipe}"),
                    *command[1:],
                ],
                **{
                    **options,
                    "pass_fds": (*options.get("pass_fds", ()), progress_pipe, frames_pipe),
                },
            )
        except BaseException as error:
            os.close(progress_end)
            os.close(frames_end)
            if isinstance(error, FileNotFoundError) and error.filename == command[0]:
                raise MissingDependencyError(
                    f"the program {command[0]!r} is not installed: sudo apt-get install ffmpeg"
                ) from None
            raise
        finally:
            os.close(progress_pipe)
            os.close(frames_pipe)
        self.name = name or _name_of(command) or f"ffmpeg {self.pid}"
        self._reader = threading.Thread(
            target=self._read, args=(progress_end, frames_end), name="vidlab-ffmpeg", daemon=True
        )
        self._reader.start()
        if stages.active is not None:
            _children.append(self)

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """Its exit status; None while it runs."""
        return self._process.poll()

    @property
    def stdin(self) -> IO[Any] | None:
        """The pipe to its input, if one was asked for."""
        return None if self._owns_stdin else self._process.stdin

    @property
    def stdout(self) -> IO[Any] | None:
        """The pipe from its output, if one was asked for."""
        return self._process.stdout

    @property
    def stderr(self) -> str:
        """The last lines of its messages; empty if they were sent elsewhere."""
        return "\n".join(self._messages)

    def wait(self, timeout: float | None = None) -> Progress | None:
        """Wait until FFmpeg has ended and return its last report.

        Parameters
        ----------
        timeout : float or None
            Seconds.

        Raises
        ------
        VidlabError
            If FFmpeg failed; the message holds the last lines of what it said.
        subprocess.TimeoutExpired
            If it still runs after `timeout`.
        """
        status = self._process.wait(timeout)
        self._finish()
        if status != 0 and not self._stop_asked:
            end = "\n".join(list(self._messages)[-10:]) or "it said nothing"
            raise VidlabError(
                f"ffmpeg ({self.name}) ended with status {status}: {end}\n"
                "Correct what it names in the arguments of run_ffmpeg."
            )
        return self.progress

    def stop(self) -> None:
        """End FFmpeg, so that what it wrote is a whole file: as 'q' would at its terminal.

        A child that does not end within seconds gets SIGINT, then SIGTERM, then SIGKILL.
        """
        self._stop_asked = True
        for tell in (
            self._say_quit,
            lambda: self._process.send_signal(signal.SIGINT),
            self._process.terminate,
            self._process.kill,
        ):
            if self._process.poll() is not None:
                break
            tell()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_PATIENCE_S)
        self._finish()

    def _say_quit(self) -> None:
        """Write the key q where it is listened for; ask by SIGINT where the input is the user's."""
        if self._owns_stdin and self._process.stdin is not None:
            with contextlib.suppress(OSError, ValueError):
                os.write(self._process.stdin.fileno(), b"q")
        else:
            self._process.send_signal(signal.SIGINT)

    def _finish(self) -> None:
        # A grandchild that inherited the pipes could hold them open: do not wait for it.
        self._reader.join(_PATIENCE_S)
        if self._owns_stdin and self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        with contextlib.suppress(ValueError):
            _children.remove(self)

    def __enter__(self) -> FfmpegChild:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            self.stop()
        else:
            self.wait()

    def _read(self, progress_end: int, frames_end: int) -> None:
        """Take in all that the child reports, until all its pipes are closed."""
        block: list[str] = []

        def progress_line(line: str) -> None:
            block.append(line)
            if line.startswith("progress="):
                self._report(parse_progress(block))
                block.clear()

        def frame_line(line: str) -> None:
            frame = parse_vstats(line)
            if frame is not None:
                self._row("ffmpeg_frames", **vars(frame))

        sources: dict[int, Callable[[str], None]] = {
            progress_end: progress_line,
            frames_end: frame_line,
        }
        messages = self._process.stderr
        if messages is not None:
            sources[messages.fileno()] = self._messages.append
        rests = dict.fromkeys(sources, b"")
        with selectors.DefaultSelector() as selector:
            for descriptor in sources:
                selector.register(descriptor, selectors.EVENT_READ)
            while selector.get_map():
                for key, _ in selector.select():
                    data = os.read(key.fd, 1 << 16)
                    # FFmpeg redraws a line by a carriage return.
                    *lines, rest = re.split(rb"[\r\n]+", rests[key.fd] + data)
                    if not data:
                        selector.unregister(key.fd)
                        lines, rest = [rest] if rest else [], b""
                    rests[key.fd] = rest
                    for line in lines:
                        sources[key.fd](line.decode(errors="replace"))
        os.close(progress_end)
        os.close(frames_end)
        if messages is not None:
            messages.close()

    def _report(self, report: Progress) -> None:
        self.progress = report
        columns = {key: value for key, value in vars(report).items() if key != "q"}
        for output, q in report.q.items() or [(None, None)]:
            self._row("ffmpeg_progress", output=output, q=q, **columns)

    def _row(self, table: str, **columns: Any) -> None:
        recorder = stages.active
        if recorder is None:
            return
        try:
            # The reports are about the child, not about the thread that reads them.
            recorder.writer.row(
                table, t_ns=now_ns(), pid=self.pid, labels=self._labels, child=self.name, **columns
            )
        except Exception:  # what the child says must be read on, or it would stand still
            recorder.failed()


#: The children that were started while recording and still run.
_children: list[FfmpegChild] = []


def end_children() -> None:
    """End the children that this process has started since the recording began."""
    for child in _children.copy():
        if child.parent == os.getpid():  # else it is that of the process that forked this one
            child.stop()


def run_ffmpeg(args: Sequence[str], *, name: str | None = None, **options: Any) -> FfmpegChild:
    """Start FFmpeg as a child process and follow what it does.

    Parameters
    ----------
    args : sequence of str
        FFmpeg's arguments, with or without the program in front. The options
        ``-progress`` and ``-vstats_file`` are added.
    name : str, optional
        What to call it in the run; by default the last output's base name.
    **options
        As for `subprocess.Popen`. Where ``stdin`` is not given, the child reads
        none of the terminal's input.

    Returns
    -------
    FfmpegChild
        It ends with the recording, if one runs, or with its ``with`` block.

    Raises
    ------
    InputError
        If `args` is one text, is empty or holds an option that vidlab adds.
    MissingDependencyError
        If FFmpeg is not installed.

    Notes
    -----
    FFmpeg reports progress four times a second, and writes the lines about
    frames in blocks of 4 KiB: their `t_ns` is when they were read.
    """
    if isinstance(args, str):
        raise InputError("give run_ffmpeg a list of arguments, such as ['-i', 'in.mp4', 'out.mkv']")
    command = [os.fspath(argument) for argument in args]
    if not command:
        raise InputError("give run_ffmpeg FFmpeg's arguments, such as ['-i', 'in.mp4', 'out.mkv']")
    if not Path(command[0]).name.startswith("ffmpeg"):
        command.insert(0, "ffmpeg")
    taken = sorted(_OWN_OPTIONS.intersection(command))
    if taken:
        raise InputError(f"leave out {', '.join(taken)}: run_ffmpeg adds and reads its own")
    return FfmpegChild(command, name, options)


def _name_of(command: Sequence[str]) -> str | None:
    last = command[-1]
    return None if last.startswith(("-", "pipe:")) or len(command) < 2 else Path(last).name
