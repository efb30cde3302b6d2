"""A pipeline as a user would write it: demux → decode → filter → motion → encode, threaded.

Each step is a thread of its own and hands on by a bounded queue. Streams are paced at
their nominal rate, as live sources would be. PyAV, OpenCV and the queues are recorded by
themselves; only `vl.stage` and the names of streams and queues are vidlab's.
"""

from __future__ import annotations

import contextlib
import importlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from ..capture.frames.stages import stage
from ..capture.frames.traced_queue import TracedQueue
from ..capture.frames.video import Video, open_output, open_video
from ..errors import InputError, missing_extra
from ..labelsets import normalise_codec
from ..progress import Advance
from .faults import Saboteur
from .uploads import Uploads

#: Frames that wait between two steps at most.
QUEUE_SIZE = 8

#: The share of a picture that has to move for it to be marked.
MOVING = 0.03

#: Clips that do not say their frame rate are paced at this one.
USUAL_RATE = 25


@dataclass(frozen=True)
class Source:
    """A stream to process: its name, its file, and how much of it."""

    stream_id: str
    path: Path
    codec: str
    rate: Fraction
    frame_count: int


def probe(path: Path, stream_id: str, seconds: float | None = None) -> Source:
    """Return a clip's first video stream as a source; at most so many seconds of it.

    Raises
    ------
    InputError
        If there is no such file, or no video in it that can be decoded.
    """
    av = _package("av")
    if not path.is_file():
        raise InputError(f"there is no file {path}: give clips that are there")
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise InputError(f"{path} has no video stream: give a clip that has one")
            stream = container.streams.video[0]
            codec = normalise_codec(stream.codec_context.name)
            rate = Fraction(stream.average_rate or USUAL_RATE)
            length = container.duration / av.time_base if container.duration else 10.0
            next(container.decode(stream))
    except (av.FFmpegError, OSError, StopIteration) as error:
        raise InputError(
            f"{path} cannot be decoded as video ({error or 'it has no frame'}): "
            "give a clip that PyAV plays"
        ) from error
    return Source(stream_id, path, codec, rate, round(rate * min(seconds or length, length)))


def run_pipeline(
    sources: Sequence[Source],
    folder: Path,
    saboteur: Saboteur,
    advance: Advance,
    on_gpu: bool = False,
    gpu: int = 0,
) -> list[Stream]:
    """Process all sources at once, each into a file of `folder`, until they end.

    As cameras are, they are out of phase: their frames come one after the other. With
    `on_gpu` each picture is copied to the GPU of index `gpu` by CuPy. Returned are the streams,
    with what they still hold.
    """
    streams = [
        Stream(
            source,
            folder / f"{source.stream_id}.mp4",
            saboteur,
            advance,
            float(number / len(sources) / source.rate),
            Uploads(saboteur.leak(source.codec), gpu) if on_gpu else None,
        )
        for number, source in enumerate(sources)
    ]
    threads = [threading.Thread(target=stream.run) for stream in streams]
    with _in_one_thread(), saboteur.at_large():
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for failure in (failure for stream in streams for failure in stream.failures):
        raise failure
    return streams


class Stream:
    """One stream: a thread for each step, and the queues between them."""

    def __init__(
        self,
        source: Source,
        target: Path,
        saboteur: Saboteur,
        advance: Advance,
        delay_s: float,
        uploads: Uploads | None = None,
    ) -> None:
        self._source = source
        self._delay_s = delay_s
        self._target = target
        self._saboteur = saboteur
        self._advance = advance
        self._uploads = uploads
        self.failures: list[Exception] = []

    def run(self) -> None:
        """Process the stream to its end."""
        packets, decoded, filtered, examined = (
            TracedQueue[Any](QUEUE_SIZE, name=f"before {step}")
            for step in ("decode", "filter", "motion", "encode")
        )
        with open_video(self._source.path, stream_id=self._source.stream_id) as video:
            steps: list[tuple[Callable[[], Iterable[Any]], Any, Any]] = [
                (lambda: self._paced(video), None, packets),
                (lambda: self._decoded(video, packets), packets, decoded),
                (lambda: self._filtered(decoded), decoded, filtered),
                (lambda: self._examined(filtered), filtered, examined),
                (lambda: self._encoded(video, examined), examined, None),
            ]
            threads = [threading.Thread(target=self._step, args=step) for step in steps]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

    def _step(
        self,
        work: Callable[[], Iterable[Any]],
        source: TracedQueue[Any] | None,
        target: TracedQueue[Any] | None,
    ) -> None:
        """Hand on what a step yields. If it fails, take what comes and do nothing with it."""
        try:
            for item in work():
                if target is not None:
                    target.put(item)
        except Exception as error:
            self.failures.append(error)
            if source is not None:
                for _ in iter(source.get, None):
                    pass
        finally:
            if target is not None:
                target.put(None)

    def _taken(self, source: TracedQueue[Any], step: str) -> Iterator[Any]:
        while True:
            self._saboteur.before_take(step, self._source.stream_id)
            item = source.get()
            if item is None:
                return
            yield item

    def _paced(self, video: Video) -> Iterator[Any]:
        packets = video.packets()
        begin = time.monotonic() + self._delay_s
        for number in range(self._source.frame_count):
            # A live source has the next packet when it is time: not before the read begins.
            time.sleep(max(0.0, begin + float(number / self._source.rate) - time.monotonic()))
            packet = next(packets, None)
            if packet is None or packet.size == 0:  # the end of the file
                return
            yield packet

    def _decoded(self, video: Video, packets: TracedQueue[Any]) -> Iterator[Any]:
        errors = _package("av").FFmpegError
        for packet in self._taken(packets, "decode"):
            with contextlib.suppress(errors):  # a damaged packet is no reason to stop
                yield from packet.decode()
        with contextlib.suppress(errors):
            yield from video.stream.decode(None)

    def _filtered(self, decoded: TracedQueue[Any]) -> Iterator[Any]:
        cv2 = _package("cv2")
        interval_s = float(1 / self._source.rate)
        for frame in self._taken(decoded, "filter"):
            with stage("filter", frame):
                image = cv2.GaussianBlur(frame.to_ndarray(format="bgr24"), (5, 5), 0)
                self._saboteur.at_work("filter", self._source.codec, interval_s)
            if self._uploads is not None:
                with stage("upload", frame):
                    self._uploads.upload(image)
            yield frame, image

    def _examined(self, filtered: TracedQueue[Any]) -> Iterator[Any]:
        cv2 = _package("cv2")
        background = cv2.createBackgroundSubtractorMOG2()
        for frame, image in self._taken(filtered, "motion"):
            with stage("motion", frame):
                # Each second pixel of each second row tells as much of motion, at a third of the
                # cost: of the whole picture eight streams are more than two cores can do.
                mask = background.apply(image[::2, ::2])
                if cv2.countNonZero(mask) > MOVING * mask.size:
                    cv2.rectangle(image, (0, 0), (image.shape[1] - 1, image.shape[0] - 1), 255, 3)
            yield frame, image

    def _encoded(self, video: Video, examined: TracedQueue[Any]) -> Iterator[None]:
        frame_of = _package("av").VideoFrame.from_ndarray
        with open_output(self._target) as output:
            for frame, image in self._taken(examined, "encode"):
                if output.stream is None:
                    output.add_stream(
                        "libx264",
                        self._source.rate,
                        options={"preset": "ultrafast", "tune": "zerolatency", "threads": "1"},
                        width=frame.width // 2 * 2,
                        height=frame.height // 2 * 2,
                        pix_fmt="yuv420p",
                    )
                encoded = frame_of(image, format="bgr24")
                encoded.pts, encoded.time_base = frame.pts, video.stream.time_base
                output.encode(encoded)
                self._advance(1)
                yield


@contextlib.contextmanager
def _in_one_thread() -> Iterator[None]:
    """Have OpenCV work in the thread that calls it: each step has one, and all have as much to do.

    Its pool of threads is but one, which the steps of all streams would wait for.
    """
    cv2 = _package("cv2")
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise missing_extra(name, "video") from None
