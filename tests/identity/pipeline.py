"""A transcode in plain PyAV, and the truth about it, read from the pixels.

Nothing here knows of vidlab: `transcode` is what a user's script would do, and
is recorded or not by whoever calls it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
from av.codec.context import Flags
from av.filter import Graph

from .clips import RATE, number_at, number_in


@dataclass(frozen=True)
class Packet:
    """A packet of a clip: the number of the frame in it, and where its bytes are."""

    number: int
    key: bool
    position: int
    size: int


def packets_of(clip: Path) -> list[Packet]:
    """Return the clip's packets in decode order."""
    with av.open(str(clip)) as container:
        stream = container.streams.video[0]
        return [
            Packet(number_at(p.pts, p.time_base), p.is_keyframe, p.pos, p.size)
            for p in container.demux(stream)
            if p.size
        ]


def corrupt_copy(clip: Path, copy: Path, packets: Collection[Packet]) -> None:
    """Write a copy of the clip in which these packets hold no coded frame any more."""
    content = bytearray(clip.read_bytes())
    for index, packet in enumerate(packets):
        garbage = bytes([0xFF if index % 2 else 0]) * packet.size
        content[packet.position : packet.position + packet.size] = garbage
    copy.write_bytes(content)


def damaged_by(packets: list[Packet], lost: Collection[int]) -> set[int]:
    """Return the frames whose pixels the loss of these may have damaged.

    Damage spreads in decode order up to the next key frame, and past it to the
    frames shown before that key frame.
    """
    damaged: set[int] = set()
    since_key = before_key = False
    last_key = 0
    for packet in packets:
        if packet.key:
            before_key, since_key, last_key = since_key, False, packet.number
        if packet.number in lost:
            leading = packet.number < last_key
            before_key, since_key = before_key or leading, since_key or not leading
        if since_key or (before_key and packet.number < last_key):
            damaged.add(packet.number)
        elif packet.number > last_key:
            before_key = False
    return damaged


def harmless(clip: Path, packets: list[Packet], candidates: Collection[int]) -> list[int]:
    """Return which of these frames no other frame refers to, found out by leaving each out."""
    everything = {packet.number for packet in packets}

    def come_out_whole_without(number: int) -> set[int | None]:
        with av.open(str(clip)) as container:
            stream = container.streams.video[0]
            frames = [
                frame
                for packet in container.demux(stream)
                if number_at(packet.pts, packet.time_base) != number
                for frame in _decoded(packet)
            ]
        return {number_in(frame) for frame in frames}

    return [n for n in candidates if come_out_whole_without(n) == everything - {n}]


def _decoded(packet: av.Packet) -> Iterator[av.VideoFrame]:
    """What comes out of the decoder for this packet; all that is left for the empty one."""
    draining = packet.size == 0
    while True:
        try:
            yield from packet.decode()
        except EOFError:
            return
        except av.error.FFmpegError:
            if draining:
                continue
        return


@dataclass
class Truth:
    """What happened to the frames of a transcode, by the numbers in their pixels.

    Where a lost reference may have damaged the pixels, the decoder's pts is the
    witness; it does not travel by the way that identity does.
    """

    packets: list[Packet]
    damaged: set[int] = field(default_factory=set)
    sent: list[int] = field(default_factory=list)
    came_out: list[int] = field(default_factory=list)
    flagged: set[int] = field(default_factory=set)
    written: Counter[int] = field(default_factory=Counter)
    _images: dict[bytes, list[int]] = field(default_factory=dict)

    def saw(self, frame: av.VideoFrame, time_base: Fraction) -> None:
        """Take down a frame that came out of the decoder."""
        number = number_at(frame.pts, time_base)
        if number not in self.damaged:
            number = number_in(frame)
        assert number is not None, "an undamaged frame must be readable"
        self._images.setdefault(frame.to_ndarray().tobytes(), []).append(number)
        self.came_out.append(number)
        if frame.is_corrupt:
            self.flagged.add(number)

    def read_output(self, output: Path) -> None:
        """Take down which frames are in the written file, and how often."""
        damaged: Counter[bytes] = Counter()
        with av.open(str(output)) as container:
            for frame in container.decode(video=0):
                image = frame.to_ndarray().tobytes()
                if self.damaged.isdisjoint(self._images[image]):
                    number = number_in(frame)
                    assert number is not None, "an undamaged frame must be readable"
                    self.written[number] += 1
                else:
                    damaged[image] += 1
        for image, times in damaged.items():
            # A decoder may conceal a loss with the image of another frame.
            alike = self._images[image]
            assert times % len(alike) == 0, "which of the damaged frames was written?"
            self.written.update({number: times // len(alike) for number in alike})

    @property
    def fates(self) -> dict[str, set[int]]:
        """The frames of each fate; fates that no frame had are left out."""
        everything, sent, out = {p.number for p in self.packets}, set(self.sent), set(self.came_out)
        fates = {
            "corrupt": (sent - out) | self.flagged,
            "dropped": (everything - sent) | (out - set(self.written)),
            "delivered": {number for number, copies in self.written.items() if copies == 1},
            "duplicated": {number for number, copies in self.written.items() if copies > 1},
        }
        for fate in ("dropped", "delivered", "duplicated"):
            fates[fate] -= self.flagged
        return {fate: numbers for fate, numbers in fates.items() if numbers}

    @property
    def reordered(self) -> set[int]:
        """The frames that came out after one that was sent later."""
        place = {number: index for index, number in enumerate(self.sent)}
        out = list(dict.fromkeys(self.came_out))
        return {
            number
            for index, number in enumerate(out)
            if any(place[earlier] > place[number] for earlier in out[:index])
        }


def transcode(
    source: Path,
    output: Path,
    truth: Truth,
    *,
    thread_type: str,
    skip: Collection[int] = (),
    rate: int | None = None,
    output_corrupt: bool = False,
) -> None:
    """Decode a clip, change its rate if told to, and write it again without loss.

    Packets of the frames in `skip` are not given to the decoder. What went in and
    came out is taken down in `truth`, but for the output, which is yet to be read.
    """
    with av.open(str(source)) as container, av.open(str(output), "w") as target:
        video = container.streams.video[0]
        video.codec_context.thread_type = thread_type
        video.codec_context.thread_count = 1 if thread_type == "NONE" else 4
        if output_corrupt:  # else some decoders keep the frames that they would flag
            video.codec_context.flags |= Flags.output_corrupt
        graph = _rate_filter(video, rate) if rate else None
        encoder = target.add_stream("ffv1", rate=rate or RATE)
        encoder.width, encoder.height, encoder.pix_fmt = video.width, video.height, "yuv420p"
        count = 0

        def write(frame: av.VideoFrame) -> None:
            nonlocal count
            # A damaged stream's time stamps go back and forth: a muxer refuses them.
            frame.pts, frame.time_base = count, Fraction(1, rate or RATE)
            count += 1
            target.mux(encoder.encode(frame))

        for packet in container.demux(video):
            number = number_at(packet.pts, video.time_base)
            if number in skip:
                continue
            if number is not None:
                truth.sent.append(number)
            for frame in _decoded(packet):
                truth.saw(frame, video.time_base)
                if graph is None:
                    write(frame)
                    continue
                graph.push(frame)
                for filtered in _pulled(graph):
                    write(filtered)
        if graph is not None:
            graph.push(None)
            for filtered in _pulled(graph):
                write(filtered)
        target.mux(encoder.encode(None))


def _rate_filter(video: av.VideoStream, rate: int) -> Graph:
    graph = Graph()
    graph.link_nodes(
        graph.add_buffer(template=video, time_base=video.time_base),
        graph.add("fps", str(rate)),
        graph.add("buffersink"),
    ).configure()
    return graph


def _pulled(graph: Graph) -> Iterator[av.VideoFrame]:
    while True:
        try:
            yield graph.pull()
        except (BlockingIOError, EOFError):
            return
