"""OpenCV in an unmodified program: real small videos, images and a small network."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vidlab import labelsets
from vidlab.capture.frames import opencv
from vidlab.capture.frames.refs import attach, ref_of
from vidlab.labelsets import labels

cv2 = pytest.importorskip("cv2")

SIZE = (64, 48)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Ten frames, each of one grey that tells its number."""
    path = str(tmp_path_factory.mktemp("clips") / "clip.mp4")
    writer = cv2.VideoWriter(path, cv2.VideoWriter_fourcc(*"mp4v"), 25, SIZE)
    for number in range(10):
        writer.write(np.full((48, 64, 3), 20 * number, np.uint8))
    writer.release()
    return path


@pytest.fixture
def watched(recorded: Any) -> Any:
    opencv.install(recorded.patches, recorded.recorder)
    return recorded


def stages_of(watched: Any, frame: int) -> list[str]:
    return [span["stage"] for span in watched.records("spans") if span["frame"] == frame]


def test_a_frames_way_from_the_file_to_the_file(watched: Any, clip: str, tmp_path: Path) -> None:
    target = str(tmp_path / "out.mp4")
    capture = cv2.VideoCapture(clip)
    writer = cv2.VideoWriter(target, cv2.VideoWriter_fourcc(*"mp4v"), 25, (32, 24), True)
    numbers = []
    while True:
        ok, image = capture.read()
        if not ok:
            break
        ref = ref_of(image)
        assert ref is not None
        numbers.append((round(image.mean() / 20), ref.seq))
        small = cv2.resize(image, (32, 24))
        small = cv2.GaussianBlur(small, (3, 3), 0)
        small[:2] = 0
        cv2.rectangle(small, (0, 0), (4, 4), (255, 255, 255))
        writer.write(image=small)
    capture.release()
    writer.release()
    assert numbers == [(number, number) for number in range(10)]
    events = watched.records("frame_events")
    frames = sorted({event["frame"] for event in events})
    assert len(frames) == 10
    for seq, frame in enumerate(frames):
        own = [event for event in events if event["frame"] == frame]
        assert [event["event"] for event in own] == ["demuxed", "decoded", "delivered"]
        assert own[0]["seq"] == own[0]["pts"] == seq
        assert (own[0]["time_base_num"], own[0]["time_base_den"]) == (1, 25)
        assert own[2]["stage"] == "out.mp4"
        assert stages_of(watched, frame) == ["read", "resize", "GaussianBlur", "write"]
        spans = [span for span in watched.records("spans") if span["frame"] == frame]
        assert own[0]["t_ns"] <= spans[0]["t_ns"]
        assert own[1]["t_ns"] >= spans[0]["t_ns"] + spans[0]["duration_ns"]
        values = labelsets.get(own[0]["labels"]).values
        assert values == {"stream_id": "clip.mp4", "codec": "mpeg4"}
        assert len({row["labels"] for row in own + spans}) == 1
    assert stages_of(watched, 0) == ["read"]  # at the end there was no frame
    assert {span["frame"] for span in watched.records("spans")} == {0, *frames}
    source, sink = watched.rows("streams")
    assert (source["direction"], source["url"], source["nominal_rate"]) == ("input", clip, 25.0)
    assert (source["width"], source["height"], source["identity"]) == (64, 48, "count")
    assert (sink["direction"], sink["url"], sink["time_base"]) == ("output", target, "1/25")
    assert (sink["width"], sink["height"]) == (32, 24)


def test_grab_and_retrieve_are_one_frame(watched: Any, clip: str) -> None:
    with labels(stream_id="door", gpu=1):
        capture = cv2.VideoCapture()
        assert capture.open(clip)
        assert capture.grab()
        assert capture.grab()
        ok, image = capture.retrieve()
    assert ok
    ref = ref_of(image)
    assert ref is not None
    assert (ref.seq, round(image.mean() / 20)) == (1, 1)
    assert labelsets.get(ref.labels).values == {"stream_id": "door", "gpu": 1, "codec": "mpeg4"}
    events = [(event["seq"], event["event"]) for event in watched.records("frame_events")]
    assert events == [(0, "demuxed"), (1, "demuxed"), (1, "decoded")]
    assert stages_of(watched, ref.frame) == ["grab", "retrieve"]


def test_images_that_were_given_another_array_are_still_attributed(watched: Any) -> None:
    first, second = watched.new_ref(), watched.new_ref()
    older, newer = np.zeros((8, 8), np.uint8), np.ones((8, 8), np.uint8)
    attach(older, first)
    attach(newer, second)
    assert first.t_demux_ns < second.t_demux_ns
    assert ref_of(cv2.absdiff(older, newer)) == second  # the frame, not the one before it
    into = np.empty((8, 8), np.uint8)
    assert cv2.blur(newer, (3, 3), dst=into) is into
    assert ref_of(into) == second
    assert ref_of(cv2.blur(src=older, ksize=(3, 3))) == first
    assert ref_of(cv2.threshold(newer, 1, 255, cv2.THRESH_BINARY)[1]) == second
    planes = cv2.split(cv2.merge([older, older, older]))
    assert [ref_of(plane) for plane in planes] == [first] * 3
    assert ref_of(cv2.imencode(".png", newer)[1]) == second
    assert ref_of(cv2.createBackgroundSubtractorMOG2().apply(newer)) == second
    assert stages_of(watched, second.frame)[-1] == "BackgroundSubtractorMOG2"
    # Arithmetic loses identity: then it is the frame that the thread works on.
    watched.recorder.set_current_frame(second)
    assert ref_of(cv2.flip(newer + 1, 0)) == second
    watched.recorder.set_current_frame(None)
    assert ref_of(cv2.flip(np.zeros((4, 4)), 0)) is None
    assert stages_of(watched, 0) == ["flip"]


def test_a_network_works_on_the_frame_of_its_input(watched: Any, tmp_path: Path) -> None:
    network = cv2.dnn.readNetFromONNX(np.frombuffer(identity_onnx(), np.uint8))
    image = np.full((4, 4, 3), 7, np.uint8)
    ref = watched.new_ref()
    attach(image, ref)
    network.setInput(cv2.dnn.blobFromImage(image))
    output = network.forward()
    assert output.shape == (1, 3, 4, 4)
    assert float(output.max()) == 7.0
    assert ref_of(output) == ref
    assert stages_of(watched, ref.frame) == ["blobFromImage", "forward"]


def identity_onnx() -> bytes:
    """An ONNX model of one Relu, 1x3x4x4, written by hand in protobuf's wire format."""

    def field(number: int, value: bytes | int) -> bytes:
        if isinstance(value, int):
            return bytes([number << 3, value])
        return bytes([number << 3 | 2, len(value)]) + value

    dims = b"".join(field(1, field(1, size)) for size in (1, 3, 4, 4))
    tensor = field(1, field(1, 1) + field(2, dims))

    def value(name: bytes) -> bytes:
        return field(1, name) + field(2, tensor)

    node = field(1, b"x") + field(2, b"y") + field(3, b"relu") + field(4, b"Relu")
    graph = field(1, node) + field(2, b"g") + field(11, value(b"x")) + field(12, value(b"y"))
    opset = field(2, 11)
    return field(1, 7) + field(7, graph) + field(8, opset)


def test_the_program_sees_opencv_unchanged(watched: Any, clip: str, tmp_path: Path) -> None:
    with pytest.raises(cv2.error, match="resize"):
        cv2.resize(np.zeros((0, 0), np.uint8), (4, 4))
    with pytest.raises(cv2.error):
        cv2.resize()
    (failed, _) = watched.records("spans")
    assert (failed["stage"], failed["status"]) == ("resize", "error")
    assert cv2.resize.__name__ == "resize"
    assert "dsize" in cv2.resize.__doc__
    missing = cv2.VideoCapture(str(tmp_path / "missing.mp4"))
    assert not missing.isOpened()
    assert missing.read() == (False, None)
    assert not missing.grab()
    assert missing.retrieve()[0] is False
    closed = cv2.VideoWriter()
    closed.write(np.zeros((4, 4, 3), np.uint8))
    assert watched.records("frame_events") == []

    into = np.empty((48, 64, 3), np.uint8)
    ok, image = cv2.VideoCapture(clip).read(into)
    assert ok
    assert image is into
    assert ref_of(into) is not None


def test_what_was_opened_before_is_recorded_and_all_is_put_back(recorded: Any, clip: str) -> None:
    owners = (cv2, cv2.dnn, cv2.dnn.Net, cv2.VideoCapture, cv2.VideoWriter)
    before = [dict(vars(owner)) for owner in owners]
    capture = cv2.VideoCapture(clip)
    capture.read()
    opencv.install(recorded.patches, recorded.recorder)
    assert vars(cv2.VideoCapture)["read"] is not before[3]["read"]
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(ref_of(capture.read()[1])))
    thread.start()
    thread.join()
    assert found[0].seq == 0  # the first that is known of
    recorded.stop()
    after = [dict(vars(owner)) for owner in owners]
    for old, new in zip(before, after, strict=True):
        assert old.keys() == new.keys()
        assert all(new[name] is value for name, value in old.items() if callable(value))
    ok, image = capture.read()
    assert ok
    assert ref_of(image) is None


def test_a_share_of_the_frames_is_recorded_whole_or_not_at_all(watched: Any, clip: str) -> None:
    token = labelsets.current.set(labelsets.sampled(labelsets.EMPTY, 0.5))
    capture = cv2.VideoCapture(clip)
    while capture.grab():
        cv2.flip(capture.retrieve()[1], 0)
    labelsets.current.reset(token)
    events, spans = watched.records("frame_events"), watched.records("spans")
    chosen = {event["frame"] for event in events}
    assert 1 <= len(chosen) <= 9
    assert {span["frame"] for span in spans} - {0} == chosen
    for frame in chosen:
        assert stages_of(watched, frame) == ["grab", "retrieve", "flip"]
