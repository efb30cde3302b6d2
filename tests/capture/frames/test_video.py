"""open_video and open_output: with and without a recording."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from vidlab import labelsets
from vidlab.capture.frames import video as video_module
from vidlab.capture.frames.pyav import PyAV
from vidlab.capture.frames.refs import Traced, ref_of
from vidlab.capture.frames.sinks import deliver
from vidlab.capture.frames.stages import stage
from vidlab.capture.frames.video import open_output, open_video
from vidlab.errors import InputError

LENGTH = 12


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "clip.mp4"
    with open_output(path) as output:
        stream = output.add_stream("libx264", 25, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for pts in range(LENGTH):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), pts * 20, np.uint8))
            frame.pts = pts
            output.encode(frame)
    return path


@pytest.fixture
def pyav(recorded) -> PyAV:
    pyav = PyAV(recorded.patches, recorded.recorder)
    recorded.patches.set(video_module, "recorded", pyav)
    return pyav


def test_what_was_written_is_read(clip: Path) -> None:
    with open_video(clip) as video:
        assert len(list(video.frames())) == LENGTH  # closing has drained the encoder
    with open_video(str(clip)) as video:
        assert sum(packet.size > 0 for packet in video.packets()) == LENGTH


def test_labels_that_are_given_win(clip, recorded, pyav) -> None:
    with (
        labelsets.labels(stream_id="current", region="north"),
        open_video(clip, stream_id="cam-7", codec="H.264", operation="transcode") as video,
    ):
        refs = {ref_of(frame).labels for frame in video.frames()}
    (labels,) = refs
    assert labelsets.get(labels).values == {
        "codec": "h264",
        "operation": "transcode",
        "region": "north",
        "stream_id": "cam-7",
    }


def test_a_sampled_operation(clip, recorded, pyav) -> None:
    recorded.recorder.sampling.rates["playback"] = 0.3
    with open_video(clip, operation="playback") as video:
        sampled = {ref_of(frame).frame for frame in video.frames() if ref_of(frame).sampled}
    assert 0 < len(sampled) < LENGTH
    assert {span["frame"] for span in recorded.records("spans")} == sampled
    # A stream's decoder was drained, whichever of its frames are recorded.
    assert {
        event["frame"] for event in recorded.records("frame_events") if event["event"] != "flushed"
    } == sampled


def test_from_demux_to_mux_is_one_line_of_spans(clip, recorded, pyav, tmp_path) -> None:
    with open_video(clip) as video, open_output(tmp_path / "out.mp4") as output:
        stream = output.add_stream("libx264", 25, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for frame in video.frames():
            with stage("filter", frame):
                pass
            output.encode(frame)
    found = recorded.records("spans")
    for frame in {span["frame"] for span in found if span["frame"]}:
        line = [span["stage"] for span in found if span["frame"] == frame]
        assert line[0] == "demux"
        assert [name for name in line if name in ("filter", "encode", "mux")][0::1][0] == "filter"
        assert line[-1] == "mux"
    assert {row["direction"] for row in recorded.rows("streams")} == {"input", "output"}


def test_hardware_that_is_not_there_is_a_warning(clip: Path) -> None:
    with (
        pytest.warns(RuntimeWarning, match=r"cannot decode .*clip.mp4 with cuda .*the CPU does it"),
        open_video(clip, hardware="cuda") as video,
    ):
        assert len(list(video.frames())) == LENGTH


def test_an_encoder_that_is_not_there_is_a_warning(tmp_path: Path) -> None:
    with open_output(tmp_path / "out.mp4") as output:
        with pytest.warns(
            RuntimeWarning, match="cannot encode h264_nvenc with cuda .*the CPU does it"
        ):
            stream = output.add_stream("h264_nvenc", 25, hardware="cuda")
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        output.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8)))
    with open_video(tmp_path / "out.mp4") as video:
        assert len(list(video.frames())) == 1


def test_errors_say_what_was_wrong(tmp_path: Path, clip: Path) -> None:
    with pytest.raises(InputError, match=r"cannot open .*missing.mp4: .*No such file"):
        open_video(tmp_path / "missing.mp4")
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(InputError, match="Invalid data"):
        open_video(tmp_path / "text.mp4", hardware="cuda")
    with pytest.raises(InputError, match="for writing"):
        open_output(tmp_path / "out.unknown")
    with open_output(tmp_path / "out.mp4") as output, pytest.raises(InputError, match="add_stream"):
        output.encode(None)


def test_an_exception_closes_the_output(tmp_path: Path) -> None:
    def fails() -> None:
        with open_output(tmp_path / "out.mkv") as output:
            stream = output.add_stream("ffv1", 25)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            output.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8)))
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    with open_video(tmp_path / "out.mkv") as video:
        assert len(list(video.frames())) == 1


def test_deliver(recorded) -> None:
    ref = recorded.new_ref()
    deliver(Traced("image", ref))
    with stage("show", ref):
        deliver("something of the frame around it")
    deliver(None)
    found = [(event["frame"], event["stage"]) for event in recorded.records("frame_events")]
    assert found == [(ref.frame, "deliver")] * 2
    recorded.stop()
    deliver(ref)
    assert len(recorded.records("frame_events")) == 2
