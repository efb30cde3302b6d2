"""A video stream's way through a pipeline of three threads, computed rather than run.

    thread 1: demux, decode → queue "decoded" → thread 2: filter (with resize inside)
    → queue "filtered" → thread 3: encode, mux

Frames arrive paced at the stream's rate; work takes log-normal times; queues and late
frames come about as they do in a real pipeline: each thread takes a frame when it is
there and the one before is done. Now and then the filter stalls for several frame
intervals. A few frames are evicted by the first queue, a few never come out of the
decoder.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from ..schema import ENCODER_LAG, PICTURE_TYPES, QUEUE, REORDER, SERVICE

Ints = npt.NDArray[np.int64]

CODECS = ("h264", "hevc", "av1", "vp9")
RATES = (25.0, 30.0, 50.0, 60.0)

#: The stages of each thread, in the order in which their spans begin: (stage, kind).
THREADS = (
    (("demux", SERVICE), ("decode", SERVICE), ("decode", REORDER)),
    (("decoded", QUEUE), ("filter", SERVICE), ("resize", SERVICE)),
    (("filtered", QUEUE), ("encode", SERVICE), ("encode", ENCODER_LAG), ("mux", SERVICE)),
)

#: How many spans a frame has on average: some don't wait in a decoder or encoder.
SPANS_PER_FRAME = 9.25

#: What a stage typically takes, as a share of the frame interval.
_SHARES = {"demux": 0.01, "decode": 0.12, "filter": 0.12, "encode": 0.16, "mux": 0.01}

#: How much longer codecs take to decode and encode than H.264.
_COSTS = {"h264": 1.0, "hevc": 1.3, "av1": 1.6, "vp9": 1.2}
_SIGMA = 0.3  # of the logarithm of a stage's time

#: Codecs with B-frames: each comes out before the frame that it follows.
_WITH_B_FRAMES = ("h264", "hevc")
_GROUP = 2

#: Key frames: one in so many.
_GOP = 48

#: Frames of delay in the other codecs' decoders and encoders, which work on several at a time.
_DELAY = 1

#: How many frames stall the filter, are evicted, or are lost in the decoder.
_STALLED, _EVICTED, _CORRUPT = 1 / 1_500, 1 / 1_000, 1 / 2_000

#: Time between one span's end and the next one's begin: what no span covers.
_GAP_NS = 3_000

#: How long an idle thread takes to wake up for a frame: so much, and on average as much again.
_WAKE_NS = 10_000


@dataclass(frozen=True)
class Stream:
    """A stream: what it is called, and how it is paced."""

    index: int

    @property
    def stream_id(self) -> str:
        """Its name: cam-00, cam-01, …"""
        return f"cam-{self.index:02d}"

    @property
    def codec(self) -> str:
        """Its codec; one in four each."""
        return CODECS[self.index % len(CODECS)]

    @property
    def gpu(self) -> int | None:
        """The device that works on it: 0, 1 or, for every third stream, none."""
        return (0, 1, None)[self.index % 3]

    @property
    def rate(self) -> float:
        """Frames a second."""
        return RATES[self.index // len(CODECS) % len(RATES)]


class Journey:
    """The way of all frames of a stream, in arrays.

    Arrays of thread 1 are by `seq`: frames in decode order. Those of threads 2 and 3 are
    by place among `alive`: the frames that got there, in presentation order.

    Attributes
    ----------
    spans : tuple of three arrays, int64, (frames, stages, 2)
        Begin and duration of each thread's spans, as in `THREADS`.
    alive : ndarray of int64
        The `seq` of the frames that were delivered.
    evicted, corrupt : ndarray of int64
        The `seq` of those that were not.
    """

    def __init__(self, stream: Stream, frames: int, open_ns: int, seed: int) -> None:
        self.stream = stream
        self.frames = frames
        self._random = np.random.default_rng([seed, stream.index])
        self._interval = 1e9 / stream.rate
        place = np.argsort(self.pts, kind="stable")  # seq by presentation order
        fate = self._random.random(frames)
        self.evicted = np.flatnonzero(fate < _EVICTED)
        self.corrupt = np.flatnonzero((fate >= _EVICTED) & (fate < _EVICTED + _CORRUPT))
        self.alive = place[fate[place] >= _EVICTED + _CORRUPT]
        decoded = self._decode(open_ns)
        filtered, done = self._filter(decoded)
        self.spans = (decoded, filtered, self._encode(done))

    @cached_property
    def pts(self) -> Ints:
        """Presentation time stamps, in frames."""
        seq = np.arange(self.frames)
        if not self._has_b_frames:
            return seq
        first = seq // _GROUP * _GROUP
        last = np.minimum(first + _GROUP, self.frames) - 1
        return np.where(seq == first, last, seq - 1)

    @cached_property
    def key(self) -> npt.NDArray[np.bool_]:
        """Which frames are key frames."""
        key: npt.NDArray[np.bool_] = np.arange(self.frames) % _GOP == 0
        return key

    @cached_property
    def picture_types(self) -> npt.NDArray[np.uint8]:
        """Indices into PICTURE_TYPES."""
        seq = np.arange(self.frames)
        b_frame = self._has_b_frames & (seq % _GROUP > 0)
        intra, predicted, between = (PICTURE_TYPES.index(name) for name in "IPB")
        return np.where(self.key, intra, np.where(b_frame, between, predicted)).astype(np.uint8)

    @property
    def out_ns(self) -> Ints:
        """When each frame came out of the decoder, by `seq` (also those that did not)."""
        out: Ints = self.spans[0][:, 2].sum(axis=1)
        return out

    @property
    def _has_b_frames(self) -> bool:
        return self.stream.codec in _WITH_B_FRAMES

    def _took(self, stage: str, count: int) -> Ints:
        cost = _COSTS[self.stream.codec] if stage in ("decode", "encode") else 1.0
        median = _SHARES[stage] * self._interval * cost
        return (median * self._random.lognormal(0, _SIGMA, count)).astype(np.int64)

    def _wake(self, count: int) -> Ints:
        return (_WAKE_NS * (1 + self._random.exponential(size=count))).astype(np.int64)

    def _decode(self, open_ns: int) -> Ints:
        seq = np.arange(self.frames)
        jitter = self._random.exponential(self._interval / 50, self.frames)
        arrival = open_ns + (seq * self._interval + jitter).astype(np.int64)
        demux, decode = self._took("demux", self.frames), self._took("decode", self.frames)
        end = _ends(arrival, demux + _GAP_NS + decode)
        sent = end - decode
        # One frame comes out of each call: of a B-frame's own call that one, so that the frame
        # before it comes out of the call after that. The last ones come out with the last call.
        behind = (self.pts > seq) * 2 if self._has_b_frames else _DELAY
        out = end[np.minimum(seq + behind, self.frames - 1)]
        return _spans((sent - _GAP_NS - demux, demux), (sent, decode), (end, out - end))

    def _filter(self, decoded: Ints) -> tuple[Ints, Ints]:
        put = decoded[self.alive, 2].sum(axis=1) + _GAP_NS
        work = self._took("filter", len(self.alive))
        stalled = self._random.random(len(work)) < _STALLED
        work[stalled] += (self._random.uniform(4, 12, stalled.sum()) * self._interval).astype(
            np.int64
        )
        end = _ends(put + self._wake(len(put)), work)
        begin = end - work
        resize = (work * self._random.uniform(0.2, 0.4, len(work))).astype(np.int64)
        waited = begin - _GAP_NS - put
        return _spans((put, waited), (begin, work), (begin + work // 2, resize)), end

    def _encode(self, filtered: Ints) -> Ints:
        put = filtered + _GAP_NS
        count = len(put)
        encode, mux = self._took("encode", count), self._took("mux", count)
        # After an encode call the thread writes the packet that came out, of this frame or the
        # one before.
        delay = 0 if self._has_b_frames else _DELAY
        written = np.concatenate([np.zeros(delay, np.int64), mux])[:count]
        end = _ends(put + self._wake(count), encode + written + _GAP_NS) - written - _GAP_NS
        out = end[np.minimum(np.arange(count) + delay, max(count - 1, 0))]
        begin = end - encode
        return _spans(
            (put, begin - _GAP_NS - put), (begin, encode), (end, out - end), (out + _GAP_NS, mux)
        )

    def touches(self, queue: str) -> tuple[Ints, Ints, Ints]:
        """Return the touches of a queue in time: `t_ns`, +1 for put and -1 for get, depth."""
        waits = self.spans[1 if queue == "decoded" else 2][:, 0]
        times = np.concatenate([waits[:, 0], waits.sum(axis=1)])
        steps = np.repeat([1, -1], len(waits))
        order = np.argsort(times, kind="stable")
        return times[order], steps[order], np.cumsum(steps[order])


def _ends(arrival: Ints, work: Ints) -> Ints:
    """When a thread is done with each frame: end[n] = max(arrival[n], end[n - 1]) + work[n]."""
    before = np.cumsum(work) - work
    ends: Ints = np.maximum.accumulate(arrival - before) + before + work
    return ends


def _spans(*stages: tuple[Ints, Ints]) -> Ints:
    return np.stack([np.stack(stage, axis=-1) for stage in stages], axis=1)
