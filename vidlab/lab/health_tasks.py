"""Small asyncio services, each with one of the classic faults, or mended.

They are of the same kind as those of `health_programs`.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..capture.frames.sinks import deliver
from ..capture.frames.stages import stage
from ..capture.frames.video import Video, open_video
from .health_programs import RATE

#: When nobody asks for a picture any more: far beyond the end.
EXPIRES_S = 3600.0

#: A viewer comes every so many frames, and leaves after so many.
COMES_EVERY, STAYS = 15, 10

#: The viewer whose leaving is never noticed.
LOST_VIEWER = 1

#: The picture that a request is about: whoever logs an error finds it here.
last_picture: contextvars.ContextVar[npt.NDArray[np.float32] | None] = contextvars.ContextVar(
    "last_picture", default=None
)


async def _paced(video: Video) -> AsyncIterator[Any]:
    """Yield a video's frames at its pace; meanwhile the event loop does other things."""
    loop = asyncio.get_running_loop()
    packets = video.packets()
    begin = loop.time()
    length = float(video.stream.duration * video.stream.time_base)
    for number in range(round(length * RATE)):
        await asyncio.sleep(max(0.0, begin + number / RATE - loop.time()))
        packet = next(packets, None)
        if packet is None or loop.time() - begin > length:
            return
        for frame in packet.decode():
            yield frame


def context_variable_growth(clip: Path, healthy: bool) -> None:
    """Each picture is put into a context variable, and each timer keeps a copy of the context.

    Mended, the timers get a context of their own, with nothing in it.
    """
    with open_video(clip, stream_id="tower") as video:
        asyncio.run(_publish(video, healthy))


async def _publish(video: Video, healthy: bool) -> None:
    loop = asyncio.get_running_loop()
    published: set[int] = set()
    async for frame in _paced(video):
        with stage("publish", frame):
            last_picture.set(frame.to_ndarray(format="bgr24") / np.float32(255))
            published.add(frame.pts)
            context = contextvars.Context() if healthy else None
            loop.call_later(EXPIRES_S, published.discard, frame.pts, context=context)
        deliver(frame)


def task_never_ends(clip: Path, healthy: bool) -> None:
    """Of each viewer a task waits for its leaving; one left, and nobody says so.

    Mended, all are told. In both there are tasks that rightly last: one beats, one reads.
    """
    with open_video(clip, stream_id="ramp") as video:
        asyncio.run(_show(video, healthy))


async def _show(video: Video, healthy: bool) -> None:
    viewers: dict[int, asyncio.Event] = {}
    beat = asyncio.create_task(_beat(), name="heartbeat")
    watchers: list[asyncio.Task[None]] = []
    number = 0
    async for frame in _paced(video):
        with stage("show", frame):
            if number % COMES_EVERY == 0:
                viewer = number // COMES_EVERY
                viewers[viewer] = asyncio.Event()
                watching = until_gone(viewers[viewer])
                watchers.append(asyncio.create_task(watching, name=f"viewer-{viewer}"))
            if number % COMES_EVERY == STAYS:
                viewer = number // COMES_EVERY
                if healthy or viewer != LOST_VIEWER:
                    viewers.pop(viewer).set()
        deliver(frame)
        number += 1
    for task in (beat, *watchers):
        task.cancel()
    await asyncio.gather(beat, *watchers, return_exceptions=True)


async def until_gone(gone: asyncio.Event) -> None:
    """Return when the viewer has gone."""
    await gone.wait()


async def _beat() -> None:
    while True:
        await asyncio.sleep(0.05)
