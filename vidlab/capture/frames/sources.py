"""Input streams: their numbers, the labels of their frames, and which frames are recorded."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

from ... import labelsets
from ...hashing import fnv1a
from ...labelsets import normalise_codec
from .recorder import SpanRecorder
from .refs import FrameRef, frame_ref
from .sampling import is_sampled

_numbers = itertools.count()


class Source:
    """One input stream of a recording; it names the frames in the order of their packets.

    Parameters
    ----------
    recorder : SpanRecorder
    stream_id : str
        The stream's name where the current labels have none.
    codec : str or None
        What the input calls its codec.
    given : Mapping[str, str], optional
        Labels that the program gave to this input: they win over the current ones.
    nominal_rate : float, optional
        Frames a second that it should have, if that is known.
    """

    def __init__(
        self,
        recorder: SpanRecorder,
        stream_id: str,
        codec: str | None,
        given: Mapping[str, str] | None = None,
        nominal_rate: float | None = None,
    ) -> None:
        self._recorder = recorder
        self._defaults = {
            "stream_id": stream_id,
            "codec": None if codec is None else normalise_codec(codec),
        }
        self._given = dict(given or {})
        self._nominal_rate = nominal_rate
        self._process = 0
        self._first_frame = 0
        self._seq = 0
        # From the current label set to a frame's, the share that is recorded and the stream's hash.
        self._known: dict[int, tuple[int, float, int]] = {}
        recorder.sampling.tell(self.forget_rates)

    @property
    def first_frame(self) -> int:
        """The number of its first frame, the same as of any other but for the low 32 bits."""
        process = self._recorder.writer.index
        if process != self._process:  # a forked child goes on with streams of its own
            self._process = process
            self._first_frame = process << 52 | (next(_numbers) & 0xFFFFF) << 32
            self._recorder.stream_began(self._first_frame >> 32, self._nominal_rate)
        return self._first_frame

    def labels(self) -> int:
        """Return the labels that a frame would be born with here and now.

        The current ones and those given to the input; the default name and codec where
        there is neither.
        """
        return self._born_here()[0]

    def _born_here(self) -> tuple[int, float, int]:
        here = labelsets.current.get()
        all_known = self._known
        known = all_known.get(here)
        if known is None:
            values = {**self._defaults, **labelsets.get(here).values, **self._given}
            sampling = self._recorder.sampling
            rate = sampling.rate(values) * labelsets.get(here).sample_rate
            labels = labelsets.intern(values, rate)
            share = 1.0 if sampling.chooses_later else rate
            known = labels, share, fnv1a(str(values["stream_id"]).encode())
            all_known[here] = known
        return known

    def forget_rates(self) -> None:
        """Ask for the rates anew: they have changed."""
        self._known = {}  # another one: a thread may be about to fill in a rate of before

    def coming(self, t_demux_ns: int) -> FrameRef:
        """Return the identity of the frame whose read begins at this time, counted as its pts.

        It is the same frame again until `advance` says that it has come.
        """
        return self._named(t_demux_ns, self._seq, None)

    def advance(self) -> None:
        """Note that the coming frame has come."""
        self._seq += 1

    def born(self, t_demux_ns: int, pts: int | None, dts: int | None) -> FrameRef:
        """Return the identity of the frame whose packet's read began at this time."""
        ref = self._named(t_demux_ns, pts, dts)
        self._seq += 1
        return ref

    def _named(self, t_demux_ns: int, pts: int | None, dts: int | None) -> FrameRef:
        seq = self._seq
        labels, rate, stream_hash = self._born_here()
        return frame_ref(
            self.first_frame | seq & 0xFFFFFFFF,
            seq,
            pts,
            dts,
            labels,
            t_demux_ns,
            is_sampled(stream_hash, seq & 0xFFFFFFFF, rate),
        )
