"""The witness itself, without vidlab: what the pixels say, and what PyAV says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from .clips import BITS, CODECS, GOP, LENGTH, Codec, image_of, number_at, number_in
from .pipeline import Truth, corrupt_copy, damaged_by, harmless, packets_of, transcode

Clip = Callable[[Codec], Path]


def frame_of(luma: np.ndarray) -> av.VideoFrame:
    chroma = np.full((luma.shape[0] // 2, luma.shape[1]), 128, dtype=np.uint8)
    return av.VideoFrame.from_ndarray(np.vstack([luma, chroma]), format="yuv420p")


def test_every_number_can_be_read() -> None:
    numbers = range(1 << BITS)
    assert [number_in(frame_of(image_of(number))) for number in numbers] == list(numbers)


def test_a_number_in_damaged_pixels_is_not_read() -> None:
    assert number_in(frame_of(np.full_like(image_of(0), 128))) is None
    half_old = image_of(5)
    half_old[: half_old.shape[0] // 2] = image_of(4)[: half_old.shape[0] // 2]
    assert number_in(frame_of(half_old)) is None


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
def test_pixels_and_pts_agree_where_nothing_is_lost(clip: Clip, codec: Codec) -> None:
    with av.open(str(clip(codec))) as container:
        frames = list(container.decode(video=0))
    assert [number_in(frame) for frame in frames] == list(range(LENGTH))
    assert [number_at(frame.pts, frame.time_base) for frame in frames] == list(range(LENGTH))


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
def test_damage_stays_where_it_is_expected(clip: Clip, codec: Codec, tmp_path: Path) -> None:
    packets = packets_of(clip(codec))
    damaged = damaged_by(packets, {28})
    assert 28 in damaged
    assert damaged.isdisjoint(range(GOP - 1))
    source = tmp_path / "corrupt.mp4"
    corrupt_copy(clip(codec), source, [packet for packet in packets if packet.number == 28])
    truth = Truth(packets, damaged=damaged)  # it asserts that all others are readable
    transcode(source, tmp_path / "out.mkv", truth, thread_type="FRAME")
    truth.read_output(tmp_path / "out.mkv")
    assert 28 in truth.fates["corrupt"]
    assert truth.fates["corrupt"] <= damaged


def test_damage_reaches_the_frames_shown_before_the_next_key_frame(clip: Clip) -> None:
    """MPEG-2's groups are open: the B frames before a key frame refer to the group before."""
    (mpeg2,) = (codec for codec in CODECS if codec.name == "mpeg2video")
    packets = packets_of(clip(mpeg2))
    assert [packet.number for packet in packets if packet.key][:3] == [0, 21, 39]
    assert damaged_by(packets, {27}) == set(range(25, 39))
    assert damaged_by(packets, {38}) == {38}
    assert damaged_by(packets, set()) == set()


def test_frames_that_nobody_needs(clip: Clip) -> None:
    """Of MPEG-4 these are the B frames."""
    (mpeg4,) = (codec for codec in CODECS if codec.name == "mpeg4")
    source = clip(mpeg4)
    assert harmless(source, packets_of(source), range(7)) == [1, 2, 4, 5]
