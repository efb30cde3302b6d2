"""The set `libav` in the real kernel: its rows are what PyAV did, packet by packet."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from vidlab.capture.ebpf.reading.counters import bounds
from vidlab.capture.ebpf.sets import libav

from .conftest import Heard, Listen, Row

pytestmark = [pytest.mark.needs("ebpf"), pytest.mark.usefixtures("nothing_left")]

FRAMES = 37
NO_PTS = -(1 << 63)
INVALID_DATA = -int.from_bytes(b"INDA", "little")


def written(path: Path, frames: int = FRAMES, codec: str = "mpeg4") -> list[tuple[int, int]]:
    """Encode noise; return pts and size of each packet that was muxed."""
    packets = []
    noise = np.random.default_rng(7)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.max_b_frames = 2  # so that pts and dts differ
        for i in range(frames + 1):
            frame = None
            if i < frames:
                image = noise.integers(0, 255, (48, 64, 3), np.uint8)
                frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="yuv420p")
                frame.pts = i
            for packet in stream.encode(frame):
                packets.append((packet.pts, packet.size))
                container.mux(packet)
    return packets


def ops(rows: list[Row], op: str) -> list[Row]:
    return [row for row in rows if row["op"] == op]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("libav") / "clip.mkv"
    written(path)
    return path


def decoded(path: Path) -> tuple[int, list[Any], list[int]]:
    """Decode a file; return when it was open, the packets and the frames' pts, each in order."""
    packets, frames = [], []
    with av.open(str(path)) as container:
        opened = time.monotonic_ns()  # FFmpeg has decoded some by itself, to know what it is
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        for packet in container.demux(stream):
            packets.append((packet.pts, packet.size))
            frames += [frame.pts for frame in packet.decode()]
    return opened, packets, frames


def since(opened: int, heard: Heard) -> list[Row]:
    return [row for row in heard.rows("kernel_libav") if row["t_ns"] >= opened]


def test_packets_in_and_frames_out_are_those_that_pyav_tells(listen: Listen, clip: Path) -> None:
    with listen("libav") as heard:
        opened, packets, frames = decoded(clip)
        rows = since(opened, heard)
    assert len({row["codec_context"] for row in rows}) == 2  # one, and none of demuxing
    assert len(frames) == FRAMES
    sent = ops(rows, "send_packet")
    assert all(row["status"] == 0 and row["symbol"] == "avcodec_send_packet" for row in sent)
    # The last packet that PyAV makes up has no data: libav is given none, or an empty one.
    assert [(row["pts"], row["packet_bytes"]) for row in sent[:-1]] == packets[:-1]
    assert packets[-1][1] == sent[-1]["packet_bytes"] == 0
    received = [row for row in ops(rows, "receive_frame") if row["status"] == 0]
    assert {row["symbol"] for row in received} <= {
        "avcodec_receive_frame",
        "avcodec_receive_frame_flags",
    }
    assert sorted({row["pts"] for row in received}) == sorted(frames)
    assert {row["status"] for row in ops(rows, "receive_frame")} == {
        0,
        libav.TRY_AGAIN,
        libav.END,
    }
    assert all(row["packet"] is None and row["packet_bytes"] is None for row in received)
    assert all(row["duration_ns"] > 0 for row in rows)


def test_a_received_frame_is_one_row(listen: Listen, clip: Path) -> None:
    with listen("libav") as heard:
        opened, _, frames = decoded(clip)
        received = ops(since(opened, heard), "receive_frame")
        assert len({row["symbol"] for row in received}) == 1
        assert [row["pts"] for row in received if row["status"] == 0] == frames
        hits = heard.hits()
    assert hits["avcodec_send_packet"] >= FRAMES + 1


def test_demuxed_packets_are_those_of_the_file(listen: Listen, clip: Path) -> None:
    with listen("libav") as heard:
        _, packets, _ = decoded(clip)
        rows = ops(heard.rows("kernel_libav"), "demux")
    good = [row for row in rows if row["status"] == 0]
    # FFmpeg reads some as it looks into the file, and those again for PyAV from its buffer.
    assert [(row["pts"], row["packet_bytes"]) for row in good[-FRAMES:]] == packets[:-1]
    assert all(row["codec_context"] is None for row in rows)
    assert rows[-1]["status"] == libav.END


def test_encoding_is_recorded_to_the_last_packet(listen: Listen, tmp_path: Path) -> None:
    with listen("libav") as heard:
        packets = written(tmp_path / "new.mkv")
        rows = heard.rows("kernel_libav")
    sent = ops(rows, "send_frame")
    assert [row["pts"] for row in sent[:-1]] == list(range(FRAMES))
    assert len(sent) == FRAMES + 1  # the last tells the encoder that there are no more
    received = [row for row in ops(rows, "receive_packet") if row["status"] == 0]
    assert [(row["pts"], row["packet_bytes"]) for row in received] == packets
    write = ops(rows, "write")
    assert {row["symbol"] for row in write} == {"av_interleaved_write_frame"}
    assert [row["packet_bytes"] for row in write] == [size for _, size in packets]
    assert {row["status"] for row in (*sent, *write)} == {0}


def test_a_packet_without_time_has_the_least_number(listen: Listen) -> None:
    decoder = av.CodecContext.create("mpeg4", "r")
    with listen("libav") as heard:
        with pytest.raises(av.error.InvalidDataError):
            decoder.decode(av.Packet(b"nothing that could be decoded"))
        (row,) = ops(heard.rows("kernel_libav"), "send_packet")
    assert (row["pts"], row["packet_bytes"]) == (NO_PTS, 29)
    assert row["status"] == INVALID_DATA


def test_the_time_of_decoding_is_counted_in_buckets(listen: Listen, clip: Path) -> None:
    with listen("libav") as heard:
        decoded(clip)
        rows = heard.rows("kernel_libav")
        counted = heard.metric("ebpf_video_decode_us")
        dropped = heard.metric("ebpf_video_frame_dropped_total")
    assert not dropped
    calls = [
        row["duration_ns"] / 1e3
        for row in rows
        if row["op"] in ("send_packet", "receive_frame") and row["status"] == 0
    ]
    assert sum(counted.values()) == len(calls)
    # The table's probe and the metric's run one after the other: their times differ by little.
    low, high = bounds(np.array(sorted(counted), np.uint32))
    assert low[0] <= max(calls)
    assert high[-1] >= np.median(calls)


def test_packets_that_cannot_be_decoded_are_counted_as_dropped(
    listen: Listen, tmp_path: Path
) -> None:
    noise = random.Random(3)
    decoder = av.CodecContext.create("mjpeg", "r")
    failed = 0
    with listen("libav") as heard:
        for _ in range(20):
            try:
                decoder.decode(av.Packet(noise.randbytes(200)))
            except av.error.InvalidDataError:
                failed += 1
        rows = heard.rows("kernel_libav")
        dropped = heard.metric("ebpf_video_frame_dropped_total")
    assert failed == 20
    bad = [row for row in rows if row["status"] not in (0, libav.TRY_AGAIN, libav.END)]
    assert sum(dropped.values()) == len(bad) == failed
    assert set(dropped) == {0}


def test_sound_is_in_the_table_and_not_in_the_metrics(listen: Listen) -> None:
    encoder = av.CodecContext.create("pcm_s16le", "r")
    encoder.sample_rate, encoder.layout = 48000, "stereo"
    with listen("libav") as heard:
        frames = encoder.decode(av.Packet(bytes(4 * 480)))
        rows = heard.rows("kernel_libav")
        assert not heard.metric("ebpf_video_decode_us")
    assert [frame.samples for frame in frames] == [480]
    assert [row["packet_bytes"] for row in ops(rows, "send_packet")] == [4 * 480]
