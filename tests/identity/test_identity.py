"""Identity on real codecs: what a run tells of each frame equals what its pixels tell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import vidlab as vl

from .clips import CODECS, GOP, Codec
from .pipeline import Packet, Truth, corrupt_copy, damaged_by, harmless, packets_of, transcode

CODEC = {codec.name: codec for codec in CODECS}
THREADS = ("NONE", "FRAME")

Clip = Callable[[Codec], Path]


@dataclass
class Recorded:
    """What the run tells, by the numbers of the frames."""

    table: pl.DataFrame
    fates: dict[str, set[int]]
    copies: Counter[int]
    reordered: set[int]
    lost_at: dict[int, str]


def recorded(run: Path, truth: Truth) -> Recorded:
    """Read the run's frames; a packet's place in the clip tells the number of its frame."""
    number = {seq: packet.number for seq, packet in enumerate(truth.packets)}
    table = (
        vl.open_run(run)
        .scan("frames")
        .collect()
        .with_columns(pl.col("seq").replace_strict(number).alias("number"))
    )
    assert table["frame"].n_unique() == table.height, "one row a frame"
    fates: dict[str, set[int]] = {}
    for fate, of in table.select(pl.col("fate").cast(pl.String), "number").iter_rows():
        fates.setdefault(fate, set()).add(of)
    lost = table.filter(pl.col("lost_at").is_not_null())
    return Recorded(
        table,
        fates,
        Counter({n: c for n, c in table.select("number", "copies").iter_rows() if c}),
        set(table.filter("reordered")["number"]),
        dict(lost.select("number", pl.col("lost_at").cast(pl.String)).iter_rows()),
    )


def check(run: Path, truth: Truth) -> Recorded:
    """Hold the run to the truth, frame by frame."""
    told = recorded(run, truth)
    assert told.table.height == len(truth.packets)
    assert told.fates == truth.fates
    assert told.copies == truth.written
    assert told.reordered == truth.reordered
    came_out = told.table.filter(pl.col("t_decoded_ns").is_not_null())
    assert set(came_out["number"]) == set(truth.came_out)
    return told


def record_transcode(run: Path, source: Path, truth: Truth, **options: Any) -> None:
    """Record a transcode, and learn the truth about it."""
    output = run.with_suffix(".mkv")
    with vl.record(run, engines=[vl.Frames()]):
        transcode(source, output, truth, **options)
    truth.read_output(output)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.mark.parametrize("thread_type", THREADS)
@pytest.mark.parametrize("name", CODEC)
class TestMatrix:
    """Six codecs, decoded in one thread and in four, and what may happen to a stream."""

    def test_clean(self, clip: Clip, name: str, thread_type: str, run: Path) -> None:
        source = clip(CODEC[name])
        truth = Truth(packets_of(source))
        record_transcode(run, source, truth, thread_type=thread_type)
        told = check(run, truth)
        assert set(truth.fates) == {"delivered"}
        assert told.lost_at == {}
        if name in ("h264", "hevc", "mpeg2video", "mpeg4"):
            assert truth.reordered, "a clip without B-frames proves little"

    def test_packets_dropped(self, clip: Clip, name: str, thread_type: str, run: Path) -> None:
        """By the script: frames that nobody needs, a reference, a key frame."""
        source = clip(CODEC[name])
        packets = packets_of(source)
        unneeded = harmless(source, packets, range(1, GOP))[-3:]
        needed = {28, key_of_third_gop(packets)}
        skip = needed.union(unneeded)
        truth = Truth(packets, damaged=damaged_by(packets, needed))
        record_transcode(run, source, truth, thread_type=thread_type, skip=skip)
        assert truth.fates["dropped"] == skip
        told = check(run, truth)
        assert {told.lost_at[number] for number in skip} == {"demux"}

    def test_packets_corrupted(self, clip: Clip, name: str, thread_type: str, run: Path) -> None:
        whole, source = clip(CODEC[name]), run.with_suffix(".corrupt.mp4")
        packets = packets_of(whole)
        bad = {13, 14, 28, key_of_third_gop(packets)}
        corrupt_copy(whole, source, [packet for packet in packets if packet.number in bad])
        truth = Truth(packets, damaged=damaged_by(packets, bad))
        record_transcode(run, source, truth, thread_type=thread_type)
        assert truth.fates["corrupt"] >= bad
        told = check(run, truth)
        assert {told.lost_at[number] for number in bad} == {"decode"}

    def test_rate_lowered(self, clip: Clip, name: str, thread_type: str, run: Path) -> None:
        source = clip(CODEC[name])
        truth = Truth(packets_of(source))
        record_transcode(run, source, truth, thread_type=thread_type, rate=10)
        assert len(truth.fates["dropped"]) > len(truth.fates["delivered"])
        told = check(run, truth)
        assert set(told.lost_at.values()) == {"filter"}

    def test_rate_raised(self, clip: Clip, name: str, thread_type: str, run: Path) -> None:
        source = clip(CODEC[name])
        truth = Truth(packets_of(source))
        record_transcode(run, source, truth, thread_type=thread_type, rate=40)
        assert len(truth.fates["duplicated"]) > len(truth.packets) / 2
        assert len(truth.fates["delivered"]) > len(truth.packets) / 4
        check(run, truth)


@pytest.mark.parametrize("thread_type", THREADS)
@pytest.mark.parametrize("name", ["h264", "hevc"])
def test_frames_that_come_out_flagged(clip: Clip, name: str, thread_type: str, run: Path) -> None:
    """Without its first key frame a decoder flags what it makes up, if it is let to show it."""
    source = clip(CODEC[name])
    packets = packets_of(source)
    truth = Truth(packets, damaged=damaged_by(packets, {0}))
    record_transcode(run, source, truth, thread_type=thread_type, skip={0}, output_corrupt=True)
    assert truth.flagged == set(range(1, GOP))
    told = check(run, truth)
    assert told.lost_at == {0: "demux"}, "flagged frames went all their way"


def test_a_decoder_that_gives_a_frame_twice_duplicates_it(clip: Clip, run: Path) -> None:
    """MPEG-4 without its first key frame shows the first P frame at once, and in its place."""
    source = clip(CODEC["mpeg4"])
    packets = packets_of(source)
    truth = Truth(packets, damaged=damaged_by(packets, {0}))
    record_transcode(run, source, truth, thread_type="NONE", skip={0})
    assert truth.fates["duplicated"] == {3}
    check(run, truth)


def key_of_third_gop(packets: list[Packet]) -> int:
    """Return the number of the frame that the third group of pictures begins with."""
    return [packet.number for packet in packets if packet.key][2]
