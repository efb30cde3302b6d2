"""Small video services, each with one of the classic faults of a Python program, or mended.

They are written as a user would write them: only `vl.stage` and the names of streams are
vidlab's. Each reads a clip at its pace, works on the pictures, and delivers the frames. With
`healthy` it does the same without the fault, by the smallest change that mends it.

What a program keeps lies in this module's caches, until `forget` is called.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import hashlib
import queue
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..capture.frames.sinks import deliver
from ..capture.frames.stages import stage
from ..capture.frames.video import Video, open_video
from .clips import Image

#: Frames a second of the clip.
RATE = 50

#: Frames that wait between two steps at most, and pictures that a cache keeps, if healthy.
QUEUE_SIZE, CACHE_SIZE = 8, 32

#: A detector needs so many frame intervals for a frame where it is too slow.
SLOWNESS = 4

#: Texts of eight bytes that the native sort is given: some 50 ms. Then it rests.
SORTED, SORT_EVERY_S = 200_000, 0.05

#: Entries of the index that the garbage collector goes through: some 60 ms, and 70 MB.
INDEX_SIZE = 400_000

#: How often a thread tidies up by collecting garbage.
TIDY_EVERY_S = 0.2

#: A dict that grows is the oldest cache of all.
THUMBNAILS: dict[tuple[str, int], Image] = {}


def paced(video: Video) -> Iterator[Any]:
    """Yield a video's frames at its pace, as a camera sends them.

    It ends when the camera would: whoever is slow misses what comes last.
    """
    packets = video.packets()
    begin = time.monotonic()
    length = float(video.stream.duration * video.stream.time_base)
    for number in range(round(length * RATE)):
        late = time.monotonic() - begin - number / RATE
        time.sleep(max(0.0, -late))
        packet = next(packets, None)
        if packet is None or late + number / RATE > length:
            return
        yield from packet.decode()


def _seen_by(stream_id: str, clip: Path) -> Iterator[Any]:
    with open_video(clip, stream_id=stream_id) as video:
        yield from paced(video)


def unbounded_queue(clip: Path, healthy: bool) -> None:
    """The detector is slower than the camera, and the queue between them has no bound.

    Mended, it has one, and a picture that finds the queue full is dropped.
    """
    waiting: queue.Queue[Any] = queue.Queue(QUEUE_SIZE if healthy else 0)
    over = threading.Event()

    def detect() -> None:
        while (frame := waiting.get()) is not None:
            if over.is_set():
                continue  # what still waits is of no use to anybody
            with stage("detect", frame):
                time.sleep(SLOWNESS / RATE)
            deliver(frame)

    detector = threading.Thread(target=detect, name="detector")
    detector.start()
    for frame in _seen_by("gate", clip):
        with contextlib.suppress(queue.Full):
            waiting.put_nowait(frame)
    over.set()
    waiting.put(None)
    detector.join()


def cache_growth(clip: Path, healthy: bool) -> None:
    """Thumbnails are kept in a dict, and captions by `functools.lru_cache`, without bound.

    A caption has the time in it: no two frames have the same. Mended, both keep some.
    """
    caption = recent_caption if healthy else every_caption
    for frame in _seen_by("yard", clip):
        with stage("annotate", frame):
            image = frame.to_ndarray(format="bgr24")
            THUMBNAILS["yard", frame.pts] = np.repeat(image[::2, ::2], 2, axis=2)
            if healthy and len(THUMBNAILS) > CACHE_SIZE:
                del THUMBNAILS[next(iter(THUMBNAILS))]
            image[:20, :160] = caption(f"yard {float(frame.pts * frame.time_base):.3f} s")
        deliver(frame)


def _drawn(text: str) -> Image:
    picture = np.zeros((20, 160, 3), np.uint8)
    for column, letter in enumerate(text.encode()[:40]):
        picture[4:16, 4 * column : 4 * column + 3] = letter
    return picture


@functools.cache
def every_caption(text: str) -> Image:
    """Return a picture of the text; each that was ever made is kept."""
    return _drawn(text)


@functools.lru_cache(maxsize=CACHE_SIZE)
def recent_caption(text: str) -> Image:
    """Return a picture of the text; the latest are kept."""
    return _drawn(text)


def native_gil_hog(clip: Path, healthy: bool) -> None:
    """A native library sorts without letting go of the GIL: `ctypes.PyDLL` never does.

    Mended, it is called by `ctypes.CDLL`, which lets go of it.
    """
    library = (ctypes.CDLL if healthy else ctypes.PyDLL)(None)
    compare = ctypes.cast(library.strcmp, ctypes.c_void_p)
    texts = bytearray(random.Random(1).randbytes(8 * SORTED))
    texts[7::8] = bytes(SORTED)  # each ends as a text of C does

    def sort() -> None:
        copy = (ctypes.c_char * len(texts)).from_buffer_copy(texts)
        library.qsort(copy, ctypes.c_size_t(SORTED), ctypes.c_size_t(8), compare)

    with _beside("native-sorter", sort, rest_s=SORT_EVERY_S):
        _watch(clip, "dock")


def python_gil_hog(clip: Path, healthy: bool) -> None:
    """A thread evaluates rules in pure Python, all the time.

    Mended, it is the same load on the machine, but in C that lets go of the GIL.
    """
    large = bytes(4 << 20)

    def evaluate() -> None:
        if healthy:
            hashlib.sha256(large).digest()
        else:
            sum(number % 7 == 3 for number in range(20_000))

    with _beside("rule-engine", evaluate):
        _watch(clip, "lane")


def slow_generation_2(clip: Path, healthy: bool) -> None:
    """A thread collects garbage every now and then, and there is a large index to go through.

    Mended, the index is frozen: the collector knows that it stays.
    """
    gc.disable()  # or it would look at the entries many times while they are made
    try:
        index: list[object] = [(number, {}) for number in range(INDEX_SIZE)]
    finally:
        gc.enable()
    if healthy:
        gc.collect()
        gc.freeze()
    try:
        with _beside("tidy", gc.collect, rest_s=TIDY_EVERY_S):
            _watch(clip, "hall")
    finally:
        if healthy:
            gc.unfreeze()
        index.clear()


def _watch(clip: Path, stream_id: str) -> None:
    for frame in _seen_by(stream_id, clip):
        with stage("brightness", frame):
            frame.to_ndarray(format="gray").mean()
        deliver(frame)


@contextlib.contextmanager
def _beside(name: str, work: Callable[[], object], rest_s: float = 0.0) -> Iterator[None]:
    """Do the work again and again in a thread of this name while the block runs."""
    over = threading.Event()

    def run() -> None:
        while not over.wait(rest_s):
            work()

    thread = threading.Thread(target=run, name=name)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def forget() -> None:
    """Empty this module's caches."""
    THUMBNAILS.clear()
    every_caption.cache_clear()
    recent_caption.cache_clear()
