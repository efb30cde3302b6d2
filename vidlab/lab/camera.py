"""Cameras for pipelines to read from: clips that are sent over TCP on the loopback interface.

Each clip is served on a port of its own to one reader, at a pace, with one pause. It runs as
a process of its own: `python -m vidlab.lab.camera SECONDS PAUSE_S CLIP …` prints the ports.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

#: Bytes that are sent at a time.
_CHUNK = 1024


class Cameras:
    """Cameras in a process of their own, one for each clip.

    Parameters
    ----------
    clips : sequence of Path
    seconds : float
        In how much time each clip is sent.
    pause_s : float
        For so long each camera is silent, when it has sent three quarters.

    Attributes
    ----------
    urls : list of str
        Where to read each: "tcp://127.0.0.1:PORT".
    """

    def __init__(self, clips: Sequence[Path], seconds: float, pause_s: float) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", __file__, str(seconds), str(pause_s), *map(str, clips)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        ports = self._process.stdout.readline().split()
        if len(ports) != len(clips):  # it has said why on stderr
            from ..errors import VidlabError  # not in the process that serves, run by its path

            self.__exit__(None, None, None)
            raise VidlabError("the cameras could not be started: see above")
        self.urls = [f"tcp://127.0.0.1:{port}" for port in ports]

    def __enter__(self) -> Cameras:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.terminate()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


def serve(clips: Sequence[str], seconds: float, pause_s: float) -> None:
    """Serve clips until each was sent, or its reader has gone."""
    listening = [socket.create_server(("127.0.0.1", 0)) for _ in clips]
    print(*(one.getsockname()[1] for one in listening), flush=True)  # noqa: T201
    threads = [
        threading.Thread(target=_send, args=(one, clip, seconds, pause_s))
        for one, clip in zip(listening, clips, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _send(listening: socket.socket, clip: str, seconds: float, pause_s: float) -> None:
    data = Path(clip).read_bytes()
    parts = [data[at : at + _CHUNK] for at in range(0, len(data), _CHUNK)]
    with listening, listening.accept()[0] as reader:
        begin = time.monotonic()
        for number, part in enumerate(parts):
            late = pause_s if number > 3 * len(parts) // 4 else 0.0
            due = begin + late + seconds * number / len(parts)
            time.sleep(max(0.0, due - time.monotonic()))
            try:
                reader.sendall(part)
            except OSError:  # whoever read it has seen enough
                return


if __name__ == "__main__":
    serve(sys.argv[3:], float(sys.argv[1]), float(sys.argv[2]))
