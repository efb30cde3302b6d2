"""PyAV recorded in place: identity, spans, events; and nothing of the program's changed."""

from __future__ import annotations

import gc
import subprocess
import sys
import textwrap
import threading
import warnings
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.filter import Graph

from vidlab import labelsets
from vidlab.capture.frames.pyav import PyAV
from vidlab.capture.frames.refs import FrameRef, ref_of
from vidlab.capture.frames.stages import stage

LENGTH = 40

#: Encoders by codec: name, container, options. All have B-frames or alike where they can.
ENCODERS = {
    "h264": ("libx264", "mp4", {"preset": "ultrafast", "x264-params": "bframes=3:b-adapt=0"}),
    "hevc": ("libx265", "mp4", {"preset": "ultrafast", "x265-params": "log-level=error"}),
    "av1": ("libsvtav1", "mp4", {"preset": "12", "svtav1-params": "lp=1"}),
    "vp9": ("libvpx-vp9", "webm", {"deadline": "realtime", "cpu-used": "8"}),
    "mpeg4": ("mpeg4", "mp4", {"bf": "2"}),
}


def images(count: int = LENGTH) -> Iterator[np.ndarray]:
    """Images of noise, moving: decoders and encoders find nothing to skip."""
    image = np.random.default_rng(5).integers(0, 255, (96, 128, 3), np.uint8)
    for n in range(count):
        yield np.roll(image, 3 * n, axis=1)


def write(path: Path, codec: str) -> None:
    name, _, options = ENCODERS[codec]
    with av.open(str(path), "w") as output:
        stream = output.add_stream(name, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        for pts, image in enumerate(images()):
            frame = av.VideoFrame.from_ndarray(image)
            frame.pts, frame.time_base = pts, Fraction(1, 25)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("clips")
    paths = {codec: folder / f"{codec}.{ENCODERS[codec][1]}" for codec in ENCODERS}
    for codec, path in paths.items():
        write(path, codec)
    return paths


@pytest.fixture
def pyav(recorded) -> Iterator[PyAV]:
    """PyAV as part of the recording into memory."""
    installed = PyAV(recorded.patches, recorded.recorder)
    yield installed
    gc.collect()


def sums(recorded) -> dict[int, int]:
    """The nanoseconds of each frame's top-level spans."""
    total: Counter[int] = Counter()
    for span in recorded.records("spans"):
        if span["frame"] and not span["parent"]:
            total[span["frame"]] += span["duration_ns"]
    return dict(total)


def events(recorded, name: str) -> list[dict[str, Any]]:
    return [event for event in recorded.records("frame_events") if event["event"] == name]


# --- identity ---


@pytest.mark.parametrize("codec", ENCODERS)
@pytest.mark.parametrize("threads", ["NONE", "FRAME"])
def test_every_frame_bears_its_packets_identity(recorded, pyav, clips, codec, threads) -> None:
    with av.open(str(clips[codec])) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_type = threads
        stream.codec_context.thread_count = 1 if threads == "NONE" else 4
        sent = {}
        frames = []
        for packet in container.demux(stream):
            if packet.size:
                sent[ref_of(packet).frame] = packet.pts
            frames += packet.decode()
            assert packet.opaque is None
    assert len(sent) == len(frames) == LENGTH
    assert [ref_of(frame).pts for frame in frames] == [frame.pts for frame in frames]
    assert [sent[ref_of(frame).frame] for frame in frames] == [frame.pts for frame in frames]
    seqs = [ref_of(frame).seq for frame in frames]
    assert sorted(seqs) == list(range(LENGTH))
    assert (seqs != sorted(seqs)) == (codec in ("h264", "hevc", "mpeg4"))  # B-frames
    (row,) = recorded.rows("streams")
    by_pts = threads == "FRAME" or codec == "av1"
    assert row["identity"] == ("pts" if by_pts else "opaque")
    assert (row["nominal_rate"], row["width"], row["height"]) == (25.0, 128, 96)
    assert labelsets.get(row["labels"]).values == {
        "codec": codec,
        "stream_id": f"{clips[codec].name}:0",
    }


def test_labels_of_the_program_win(recorded, pyav, clips) -> None:
    with av.open(str(clips["h264"])) as container, labelsets.labels(stream_id="cam", gpu=1):
        packet = next(container.demux(video=0))
    values = labelsets.get(ref_of(packet).labels).values
    assert values == {"codec": "h264", "gpu": 1, "stream_id": "cam"}


def test_reading_on_counts_on(recorded, pyav, clips) -> None:
    with av.open(str(clips["h264"])) as container:
        seqs = [ref_of(next(container.demux(video=0))).seq for _ in range(5)]
    assert seqs == list(range(5))


def test_identity_survives_images_filters_and_encoders(recorded, pyav, clips, tmp_path) -> None:
    graph = Graph()
    with av.open(str(clips["h264"])) as container, av.open(str(tmp_path / "o.mp4"), "w") as out:
        source = container.streams.video[0]
        graph.link_nodes(
            graph.add_buffer(template=source, time_base=source.time_base),
            graph.add("fps", "50"),
            graph.add("buffersink"),
        ).configure()
        target = out.add_stream("libx264", rate=50, options={"preset": "ultrafast"})
        target.width, target.height, target.pix_fmt = 64, 48, "yuv420p"
        seen: Counter[int] = Counter()

        def drain() -> None:
            while True:
                try:
                    filtered = graph.pull()
                except (BlockingIOError, EOFError):
                    return
                ref = ref_of(filtered)
                seen[ref.seq] += 1
                small = filtered.reformat(64, 48)
                image = small.to_ndarray(format="rgb24")
                assert ref_of(small) == ref_of(image) == ref
                made = av.VideoFrame.from_ndarray(image)
                assert ref_of(made) == ref
                made.pts, made.time_base = filtered.pts, filtered.time_base
                for packet in target.encode(made):
                    written.append(ref_of(packet).seq)
                    out.mux(packet)

        written: list[int] = []
        for frame in container.decode(source):
            graph.push(frame)
            drain()
        graph.push(None)
        drain()
        for packet in target.encode(None):
            written.append(ref_of(packet).seq)
            out.mux(packet)
    assert set(seen) == set(range(LENGTH))
    assert Counter(written) == seen  # twice the rate: frames are there twice
    assert Counter(event["seq"] for event in events(recorded, "delivered")) == seen
    assert {event["stage"] for event in events(recorded, "delivered")} == {"o.mp4:0"}
    flushed = [event["stage"] for event in events(recorded, "flushed")]
    assert {"decode", "filter", "encode"} <= set(flushed)


@pytest.mark.parametrize("encoder", ["libsvtav1", "mpeg4", "ffv1"])
def test_encoders_with_and_without_opaque(recorded, pyav, clips, tmp_path, encoder) -> None:
    written = []
    with av.open(str(clips["h264"])) as container, av.open(str(tmp_path / "o.mkv"), "w") as out:
        options = {"svtav1-params": "lp=1", "preset": "12"} if encoder == "libsvtav1" else {}
        target = out.add_stream(encoder, rate=25, options=options)
        target.width, target.height, target.pix_fmt = 128, 96, "yuv420p"
        if encoder == "ffv1":  # with threads that hold the frames
            target.codec_context.thread_type = "FRAME"
        wanted = []
        for frame in container.decode(video=0):
            wanted.append(ref_of(frame).seq)
            for packet in target.encode(frame):
                written.append(ref_of(packet).seq)
                out.mux(packet)
            assert ref_of(frame).seq == wanted[-1]
        for packet in target.encode(None):
            written.append(ref_of(packet).seq)
            out.mux(packet)
    assert sorted(written) == sorted(wanted)
    assert len(written) == LENGTH


def test_remuxed_packets_are_delivered(recorded, pyav, clips, tmp_path) -> None:
    with av.open(str(clips["h264"])) as container, av.open(str(tmp_path / "o.mp4"), "w") as out:
        stream = container.streams.video[0]
        target = out.add_stream_from_template(stream)
        for packet in container.demux(stream):
            if packet.size:
                packet.stream = target
                out.mux(packet)
    assert [event["seq"] for event in events(recorded, "delivered")] == list(range(LENGTH))


def test_a_seek_throws_frames_away(recorded, pyav, clips) -> None:
    with av.open(str(clips["h264"])) as container:
        frames = container.decode(video=0)
        next(frames)
        container.seek(0)
        next(container.decode(video=0))
    assert [event["stage"] for event in events(recorded, "flushed")] == ["seek"]


# --- the program's own opaque ---


@pytest.mark.parametrize("threads", ["NONE", "FRAME"])
@pytest.mark.parametrize("copies", [False, True])
def test_the_programs_own_opaque_is_kept_exactly(pyav, clips, threads, copies) -> None:
    with av.open(str(clips["h264"])) as container:
        stream = container.streams.video[0]
        ctx = stream.codec_context
        ctx.thread_type, ctx.copy_opaque = threads, copies
        mine = []
        frames = []
        for packet in container.demux(stream):
            assert packet.opaque is None
            if packet.size:
                packet.opaque = mark = ("mine", packet.pts)
                mine.append(mark)
                assert packet.opaque is mark
            frames += packet.decode()
            if packet.size:
                assert packet.opaque is mark
            assert ctx.copy_opaque is copies
            assert bool(ctx.flags & 1 << 7) is copies
    assert [frame.opaque for frame in frames] == [
        ("mine", frame.pts) if copies else None for frame in frames
    ]
    assert len({ref_of(frame) for frame in frames}) == LENGTH
    frames[0].opaque = "other"
    assert (frames[0].opaque, ref_of(frames[0]).pts) == ("other", frames[0].pts)
    frames[0].opaque = None
    assert frames[0].opaque is None
    assert isinstance(ref_of(frames[0]), FrameRef)


def test_flags_that_the_program_sets(pyav, clips) -> None:
    with av.open(str(clips["h264"])) as container:
        ctx = container.streams.video[0].codec_context
        next(container.decode(video=0))
        ctx.flags |= 1 << 7 | 1 << 3
        assert ctx.copy_opaque is True
        ctx.flags &= ~(1 << 7)
        assert ctx.copy_opaque is False
        assert ctx.flags & 1 << 3
        ctx.copy_opaque = True
        assert ctx.flags & 1 << 7


def test_the_same_object_on_every_packet(recorded, pyav, clips) -> None:
    with av.open(str(clips["h264"])) as container:
        stream = container.streams.video[0]
        stream.codec_context.copy_opaque = True
        frames = []
        for packet in container.demux(stream):
            packet.opaque = "shared"
            frames += packet.decode()
    assert {frame.opaque for frame in frames} == {"shared"}
    assert sorted(ref_of(frame).seq for frame in frames) == list(range(LENGTH))


# --- spans and events ---


def test_the_spans_of_a_frame_add_up(recorded, pyav, clips, tmp_path) -> None:
    with av.open(str(clips["h264"])) as container, av.open(str(tmp_path / "o.mp4"), "w") as out:
        source = container.streams.video[0]
        graph = Graph()
        graph.link_nodes(
            graph.add_buffer(template=source, time_base=source.time_base),
            graph.add("hflip"),
            graph.add("buffersink"),
        ).configure()
        target = out.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        target.width, target.height, target.pix_fmt = 128, 96, "yuv420p"
        for packet in container.demux(source):
            for frame in packet.decode():
                graph.push(frame)
                flipped = graph.pull()
                with stage("detect", flipped):
                    flipped.to_ndarray().mean()
                with stage("write", flipped):  # other frames' packets are muxed in here
                    out.mux(target.encode(flipped))
        out.mux(target.encode(None))
    begun = {event["frame"]: event["t_ns"] for event in events(recorded, "demuxed")}
    done = {event["frame"]: event["t_ns"] for event in events(recorded, "delivered")}
    covered = sums(recorded)
    assert len(done) == LENGTH
    residuals = sorted(abs(done[frame] - begun[frame] - covered[frame]) for frame in done)
    assert residuals[LENGTH * 8 // 10] < 1_000_000
    found = recorded.records("spans")
    assert {(span["stage"], span["kind"]) for span in found} >= {
        ("demux", "service"),
        ("decode", "service"),
        ("decode", "reorder"),
        ("filter", "service"),
        ("detect", "service"),
        ("to_ndarray", "service"),
        ("encode", "service"),
        ("mux", "service"),
    }
    inside = [span for span in found if span["stage"] in ("to_ndarray", "encode")]
    assert sum(bool(span["parent"]) for span in inside) >= LENGTH


def test_the_wait_in_a_returned_list_is_a_queue(recorded, pyav, clips) -> None:
    with av.open(str(clips["h264"])) as container:
        taken = []
        for packet in container.demux(video=0):
            frames = packet.decode()
            assert isinstance(frames, list)
            if len(frames) > 1:  # the last ones
                threading.Event().wait(0.005)
                taken = [ref_of(frames[0]).frame, ref_of(frames.pop()).frame]
    waits = {
        s["frame"]: s["duration_ns"] for s in recorded.records("spans") if s["kind"] == "queue"
    }
    assert all(waits[frame] >= 5_000_000 for frame in taken)


def test_events_tell_a_frames_way(recorded, pyav, clips) -> None:
    with av.open(str(clips["h264"])) as container:
        for _ in container.decode(video=0):
            pass
    by_name = {name: events(recorded, name) for name in ("demuxed", "sent", "decoded")}
    assert {name: len(found) for name, found in by_name.items()} == dict.fromkeys(by_name, LENGTH)
    first = by_name["demuxed"][0]
    assert (first["seq"], first["flags"] & 1, first["time_base_num"]) == (0, 1, 1)
    assert first["time_base_den"] > 25
    assert {event["picture_type"] for event in by_name["decoded"]} == {1, 2, 3}  # I, P, B


def test_packets_that_the_decoder_refuses(recorded, pyav, clips) -> None:
    with av.open(str(clips["h264"])) as container:
        errors = 0
        for n, packet in enumerate(container.demux(video=0)):
            if n == 10:
                broken = av.Packet(b"\x00\x00\x00\x01\xff" * 20)
                broken.stream, broken.pts, broken.dts = packet.stream, packet.pts, packet.dts
                packet = broken
            try:
                packet.decode()
            except av.error.InvalidDataError:
                errors += 1
    spans = [span for span in recorded.records("spans") if span["stage"] == "decode"]
    assert errors == sum(span["status"] == "error" for span in spans)
    assert len(events(recorded, "sent")) == LENGTH


def test_time_stamps_that_make_no_sense_are_findings(recorded, pyav, tmp_path) -> None:
    with av.open(str(tmp_path / "o.mkv"), "w") as out:
        target = out.add_stream("ffv1", rate=25)
        target.width, target.height, target.pix_fmt = 128, 96, "yuv420p"
        for pts, image in zip([0, 1, 2, 1, 1, None], images(), strict=False):
            frame = av.VideoFrame.from_ndarray(image)
            frame.pts = pts
            for packet in target.encode(frame):
                if pts == 2:
                    packet.dts = 9
                    with pytest.raises(av.error.ArgumentError):
                        out.mux(packet)
    pyav.close()
    kinds = Counter(row["kind"] for row in recorded.rows("findings"))
    # Where there was more than one, a second row says how many in all.
    assert kinds == {"pts_backwards": 2, "pts_missing": 1, "dts_after_pts": 1}


def test_audio_passes_through_untouched(recorded, pyav, tmp_path) -> None:
    path = tmp_path / "a.wav"
    with av.open(str(path), "w") as out:
        target = out.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), layout="mono")
        frame.sample_rate, frame.opaque = 8000, "mine"
        assert frame.opaque == "mine"
        out.mux(target.encode(frame))
        out.mux(target.encode(None))
    with av.open(str(path)) as container:
        frames = list(container.decode(audio=0))
    assert sum(frame.samples for frame in frames) == 8000
    assert recorded.records("spans") == []
    assert recorded.records("frame_events") == []


def test_an_image_without_identity_is_the_threads_frame_once(recorded, pyav, clips) -> None:
    with av.open(str(clips["h264"])) as container:
        frame = next(container.decode(video=0))
        image = frame.to_ndarray(format="rgb24") // 2  # NumPy makes a new array
        assert ref_of(image) is None
        assert ref_of(av.VideoFrame.from_ndarray(image)) == ref_of(frame)
        assert ref_of(av.VideoFrame.from_ndarray(image.copy())) is None


# --- the program is left as it was ---


def classes() -> list[type]:
    return [
        *(av.container.InputContainer, av.container.OutputContainer, av.packet.Packet),
        *(av.frame.Frame, av.VideoFrame, av.codec.context.CodecContext),
        *(av.video.codeccontext.VideoCodecContext, av.filter.context.FilterContext),
        *(av.video.stream.VideoStream, av.filter.Graph),
    ]


def test_everything_is_restored(recorded, clips) -> None:
    before = [dict(vars(cls)) for cls in classes()]
    PyAV(recorded.patches, recorded.recorder)
    assert [dict(vars(cls)) for cls in classes()] != before
    with av.open(str(clips["h264"])) as container:
        frames = container.decode(video=0)
        next(frames)
        recorded.stop()
        for cls, entries in zip(classes(), before, strict=True):
            assert vars(cls).keys() == entries.keys()
            assert all(vars(cls)[name] is entry for name, entry in entries.items())
        written = len(recorded.records("spans"))
        assert len(list(frames)) == LENGTH - 1  # the generator goes on, unrecorded
        assert len(recorded.records("spans")) == written


def test_pyav_is_patched_when_it_is_imported() -> None:
    code = f"""
        import sys
        sys.path.insert(0, {str(Path(__file__).parents[1])!r})
        from conftest import Recorded
        from vidlab.capture.frames.pyav import PyAV
        recording = Recorded()
        assert "av" not in sys.modules and "cv2" not in sys.modules
        PyAV(recording.patches, recording.recorder)
        import av
        from av.container import InputContainer
        assert InputContainer.demux.__code__.co_name == "recorded_demux"
        recording.stop()
        assert not hasattr(InputContainer.demux, "__code__")
    """
    subprocess.run([sys.executable, "-W", "error", "-c", textwrap.dedent(code)], check=True)


def test_written_files_are_the_same_to_the_byte(recorded, clips, tmp_path) -> None:
    def transcode(path: Path) -> bytes:
        with av.open(str(clips["h264"])) as container, av.open(str(path), "w") as out:
            target = out.add_stream("libx264", rate=25, options={"threads": "1"})
            target.width, target.height, target.pix_fmt = 128, 96, "yuv420p"
            for frame in container.decode(video=0):
                image = frame.to_ndarray(format="rgb24")
                made = av.VideoFrame.from_ndarray(255 - image)
                made.pts, made.time_base = frame.pts, frame.time_base
                out.mux(target.encode(made))
            out.mux(target.encode(None))
        return path.read_bytes()

    plain = transcode(tmp_path / "one.mp4")
    PyAV(recorded.patches, recorded.recorder)
    assert transcode(tmp_path / "two.mp4") == plain
    assert len(events(recorded, "delivered")) == LENGTH


@pytest.mark.parametrize("codec", ["av1", "vp9"])
def test_a_decoder_given_up_half_way_does_not_hang(clips, codec) -> None:
    """Threads of the codec must not be left with what takes Python's lock to let go of."""
    code = f"""
        import faulthandler
        faulthandler.dump_traceback_later(200, exit=True)
        import itertools, sys, types
        import av
        sys.path.insert(0, {str(Path(__file__).parents[1])!r})
        from conftest import Recorded
        from vidlab.capture.frames.pyav import PyAV
        recording = Recorded()
        PyAV(recording.patches, recording.recorder)
        for n in range(40):
            container = av.open({str(clips[codec])!r})
            container.streams.video[0].codec_context.thread_type = "FRAME"
            container.streams.video[0].codec_context.thread_count = 4
            for packet in itertools.islice(container.demux(video=0), 3 + n % 30):
                packet.decode()
            del packet
            container.close()  # frees the decoder, and waits for its threads
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, timeout=250)


def test_what_fails_in_us_never_fails_the_program(recorded, pyav, clips, monkeypatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise RuntimeError("ours")

    assert pyav.demuxing is not None
    for name in ("_born", "before_decode", "taken"):
        monkeypatch.setattr(pyav.demuxing, name, fail)
    monkeypatch.setattr(recorded.writer, "finding", lambda *args, **kwargs: None)
    with av.open(str(clips["h264"])) as container, warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(list(container.decode(video=0))) == LENGTH
    assert recorded.recorder.failures >= 2 * LENGTH
    recorded.recorder.failures = 0
