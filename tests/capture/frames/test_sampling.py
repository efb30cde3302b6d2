"""Sampling decides by stream and number alone, and hits its rate."""

from __future__ import annotations

import subprocess
import sys

import pytest

from vidlab import labelsets
from vidlab.capture.frames.recorder import SpanRecorder
from vidlab.capture.frames.sampling import Sampling, is_sampled
from vidlab.capture.frames.sources import Source
from vidlab.capture.frames.stages import stage
from vidlab.errors import InputError
from vidlab.hashing import fnv1a


def test_the_hash_is_fnv_1a() -> None:
    assert fnv1a(b"foobar") == 0x85944171F73967E8
    assert fnv1a(b"bar", fnv1a(b"foo")) == fnv1a(b"foobar")


@pytest.mark.parametrize("rate", [0.5, 0.1, 0.01])
def test_the_share_is_hit_at_all_scales(rate: float) -> None:
    stream, count = fnv1a(b"cam-7"), 40_000
    chosen = [seq for seq in range(count) if is_sampled(stream, seq, rate)]
    assert len(chosen) == pytest.approx(count * rate, rel=0.15)
    # Nothing periodic: even and odd numbers, and each quarter, have their share.
    assert sum(seq % 2 for seq in chosen) == pytest.approx(len(chosen) / 2, rel=0.2)
    assert sum(seq < count // 4 for seq in chosen) == pytest.approx(len(chosen) / 4, rel=0.25)


def test_streams_are_sampled_independently() -> None:
    one, two = (
        {seq for seq in range(4000) if is_sampled(fnv1a(name), seq, 0.5)} for name in (b"a", b"b")
    )
    assert len(one & two) == pytest.approx(1000, rel=0.2)


def test_the_decision_is_the_same_in_every_process() -> None:
    code = (
        "from vidlab.capture.frames.sampling import is_sampled; from vidlab.hashing import fnv1a;"
        "print([n for n in range(300) if is_sampled(fnv1a(b'cam'), n, 0.1)])"
    )
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    here = [n for n in range(300) if is_sampled(fnv1a(b"cam"), n, 0.1)]
    assert there.stdout.strip() == str(here)


@pytest.mark.parametrize("rate", [0, -1, 1.5])
def test_a_rate_is_a_share(rate: float) -> None:
    with pytest.raises(InputError, match="a share above 0 and at most 1"):
        Sampling({"playback": rate})


def test_a_frame_is_recorded_whole_or_not_at_all(recorded) -> None:
    recorder = SpanRecorder(recorded.writer, "never", Sampling({"playback": 0.25}))
    with labelsets.labels(operation="playback"):
        source = Source(recorder, "clip:0", "h264")
        refs = [source.born(0, n, n) for n in range(200)]
    assert {labelsets.get(ref.labels).sample_rate for ref in refs} == {0.25}
    chosen = {ref.frame for ref in refs if ref.sampled}
    assert 20 < len(chosen) < 80
    for ref in refs:
        with stage("filter", ref), stage("inside"):
            recorded.recorder.event(ref, 0)
    spans = recorded.records("spans")
    assert {span["frame"] for span in spans} == chosen
    assert len(spans) == 2 * len(chosen)
    assert {event["frame"] for event in recorded.records("frame_events")} == chosen


def test_other_operations_are_recorded_all(recorded) -> None:
    recorder = SpanRecorder(recorded.writer, "never", Sampling({"playback": 0.01}))
    with labelsets.labels(operation="transcode"):
        source = Source(recorder, "clip:0", "h264")
        refs = [source.born(0, n, n) for n in range(50)]
    assert all(ref.sampled for ref in refs)
    assert {labelsets.get(ref.labels).sample_rate for ref in refs} == {1.0}
