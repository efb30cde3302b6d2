"""The pipeline that causes of lateness are planted in: read → decode → filter → encode.

Each step is a thread, and hands on by a bounded queue. What is done to a frame is decided by
its pts, and how long that took is measured here, by this module's own clocks.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from ..analysis.blame.causes import (
    ALLOCATOR,
    ASLEEP,
    CORRUPT_INPUT,
    QUEUE_WAIT,
    REORDERING,
    WORK,
)
from ..capture.frames.stages import stage
from ..capture.frames.traced_queue import TracedQueue
from ..capture.frames.video import Video, open_output, open_video
from ..clock import now_ns
from .planted_means import HELD_S, waited_ns
from .planted_plan import FILTER, QUEUE, UPLOAD, Plant, Walk

#: Frames that wait between two steps at most.
QUEUE_SIZE = 32

#: What the source does about a damaged packet, and for how long.
REPAIR, REPAIR_S = "repair", 0.02

#: So many packets before a planted one the source waits until what is behind the planted frame
#: before it has been worked off; and for how long at most.
PAUSE_BEFORE, _PATIENCE_S = 4, 3.0

#: Causes in whose time a wait for a CPU is none of theirs, and the most of that, as a share of
#: what was planted, with which a frame still is a planted one.
EXPOSED, MOST_DISTURBED = (ASLEEP, WORK, ALLOCATOR), 0.5

#: What a step hands on at the end.
_END = None


class PlantedStream:
    """One stream, in which some frames are made late.

    Parameters
    ----------
    stream_id : str
        Its name.
    clip : Path
        What it shows; its corrupt packets are in it already.
    walk : Walk
        Through this clip.
    plants : sequence of Plant
        What is done to which frames.
    means : mapping of str to callable
        For a cause, what holds up the thread that calls it, and returns for how long.
    cupy : module or None
        Copies each picture to the GPU, unless it is None.

    Attributes
    ----------
    planted_ns : dict of int to int
        By how much each frame was held up, by its pts.
    disturbed : int
        Frames left out there because the machine had no CPU for them meanwhile.
    """

    def __init__(
        self,
        stream_id: str,
        clip: Path,
        rate: Fraction,
        walk: Walk,
        plants: Sequence[Plant],
        means: Mapping[str, Callable[[], int]],
        cupy: Any,
    ) -> None:
        self.planted_ns: dict[int, int] = {}
        self.disturbed = 0
        self._stream_id, self._clip, self._rate, self._walk = stream_id, clip, rate, walk
        self._means, self._cupy = means, cupy
        self._plants = {plant.pts: plant for plant in plants}
        self._held_back = {plant.packet: plant.pts for plant in plants if plant.cause == REORDERING}
        self._pauses = {plant.packet - PAUSE_BEFORE for plant in plants}
        self._read_at: dict[int, int] = {}  # corrupt packets: when their read began
        self._sent_at: dict[int, float] = {}  # packets: when the decoder had them
        self._put_at: dict[int, int] = {}  # frames that wait in the queue: since when
        self._put = threading.Condition()
        self._encoded = 0
        self._failures: list[BaseException] = []

    def run(self, target: Path) -> None:
        """Process the stream to its end, into a file; raise what a step has raised."""
        packets: TracedQueue[Any] = TracedQueue(QUEUE_SIZE, name="before decode")
        decoded: TracedQueue[Any] = TracedQueue(QUEUE_SIZE, name=QUEUE)
        filtered: TracedQueue[Any] = TracedQueue(QUEUE_SIZE, name="before encode")
        with open_video(self._clip, stream_id=self._stream_id) as video:
            steps: list[tuple[str, Callable[[], None], TracedQueue[Any] | None]] = [
                ("reader", lambda: self._hand_on(self._read(video), packets), None),
                ("decoder", lambda: self._hand_on(self._decode(video, packets), decoded), packets),
                ("worker", lambda: self._hand_on(self._work(decoded), filtered), decoded),
                ("encoder", lambda: self._encode(video, filtered, target), filtered),
            ]
            threads = [
                threading.Thread(target=self._watched, args=(step, source), name=name)
                for name, step, source in steps
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        for failure in self._failures:
            raise failure

    def _watched(self, step: Callable[[], None], source: TracedQueue[Any] | None) -> None:
        """Do a step. If it fails, take what comes and do nothing with it, to the end."""
        try:
            step()
        except BaseException as failure:
            self._failures.append(failure)
            if source is not None:
                for _ in iter(source.get, _END):
                    pass

    @staticmethod
    def _hand_on(items: Iterator[Any], target: TracedQueue[Any]) -> None:
        try:
            for item in items:
                target.put(item)
        finally:
            target.put(_END)

    # --- the steps ------------------------------------------------------------------------

    def _read(self, video: Video) -> Iterator[Any]:
        packets = video.packets()
        begin = time.monotonic()
        for number, pts in enumerate(self._walk.packets):
            if number in self._pauses:
                begin += self._worked_off(number)
            due = begin + float(number / self._rate)
            held_back = self._held_back.get(number)
            # A live source has the next packet when it is time: not before the read begins.
            time.sleep(max(0.0, due + (HELD_S if held_back is not None else 0) - time.monotonic()))
            if held_back is not None:
                self._held_since(held_back, due)
            plant = self._plants.get(pts)
            corrupt = plant is not None and plant.cause == CORRUPT_INPUT
            if corrupt:
                self._read_at[pts] = now_ns()
            packet = next(packets)
            if corrupt:
                with stage(REPAIR, packet):  # it is asked for again, and comes no better
                    time.sleep(REPAIR_S)
            yield packet

    def _held_since(self, pts: int, due: float) -> None:
        """Note for how long a frame has been in the decoder beyond when it would have come out."""
        since = max(due, self._sent_at.get(pts, time.monotonic()))
        held_s = time.monotonic() - since
        if held_s < (1 - MOST_DISTURBED) * HELD_S:
            self.disturbed += 1  # it was not even in the decoder, for want of a CPU
        else:
            self.planted_ns[pts] = round(held_s * 1e9)

    def _worked_off(self, number: int) -> float:
        """Wait until no frame is behind that should have come out by now; return how long."""
        since = time.monotonic()
        while (
            number
            and self._encoded < self._walk.out_after[number - 1]
            and not self._failures
            and time.monotonic() - since < _PATIENCE_S
        ):
            time.sleep(0.005)
        return time.monotonic() - since

    def _decode(self, video: Video, packets: TracedQueue[Any]) -> Iterator[Any]:
        import av

        for packet in iter(packets.get, _END):
            pts, frames = packet.pts, []
            try:
                frames = packet.decode()
            except av.FFmpegError:  # a damaged packet is no reason to stop
                if pts in self._read_at:
                    self.planted_ns[pts] = now_ns() - self._read_at[pts]
            self._sent_at[pts] = time.monotonic()
            yield from self._noted(frames)
        with contextlib.suppress(av.FFmpegError):
            yield from self._noted(video.stream.decode(None))

    def _noted(self, frames: Sequence[Any]) -> Iterator[Any]:
        for frame in frames:
            yield frame
            with self._put:  # it has been put, as the next is asked for
                self._put_at[frame.pts] = now_ns()
                self._put.notify_all()

    def _work(self, decoded: TracedQueue[Any]) -> Iterator[Any]:
        number = 0
        while True:
            if number < len(self._walk.shown):
                self._stay_away(self._walk.shown[number])
            frame = decoded.get()
            if frame is _END:
                return
            number += 1
            with stage(FILTER, frame):
                image = frame.to_ndarray(format="bgr24")
                image = np.clip(image, 16, 235)
                self._strike(frame.pts, FILTER)
            if self._cupy is not None:
                with stage(UPLOAD, frame):
                    picture = self._cupy.empty(image.shape, image.dtype)
                    picture.set(image)
                    self._strike(frame.pts, UPLOAD)
            yield frame, image

    def _stay_away(self, pts: int) -> None:
        """Let a frame wait in the queue, once it is there, if that is planned."""
        plant = self._plants.get(pts)
        if plant is None or plant.cause != QUEUE_WAIT:
            return
        with self._put:
            there = self._put.wait_for(lambda: pts in self._put_at or self._failures, _PATIENCE_S)
        if there and pts in self._put_at:
            time.sleep(HELD_S)
            self.planted_ns[pts] = now_ns() - self._put_at[pts]

    def _strike(self, pts: int, place: str) -> None:
        """Hold up the frame if that is planned for it, here."""
        plant = self._plants.get(pts)
        if plant is None or plant.stage != place:
            return
        before_ns = waited_ns()
        planted_ns = self._means[plant.cause]()
        disturbed_ns = waited_ns() - before_ns
        if plant.cause in EXPOSED and disturbed_ns > MOST_DISTURBED * planted_ns:
            self.disturbed += 1  # the machine has made the frame late, more than we have
        else:
            self.planted_ns[pts] = planted_ns

    def _encode(self, video: Video, filtered: TracedQueue[Any], target: Path) -> None:
        import av

        with open_output(target) as output:
            for frame, image in iter(filtered.get, _END):
                if output.stream is None:
                    output.add_stream(
                        "libx264",
                        self._rate,
                        options={"preset": "ultrafast", "tune": "zerolatency", "threads": "1"},
                        width=frame.width,
                        height=frame.height,
                        pix_fmt="yuv420p",
                    )
                picture = av.VideoFrame.from_ndarray(image, format="bgr24")
                picture.pts, picture.time_base = frame.pts, video.stream.time_base
                output.encode(picture)
                self._encoded += 1
