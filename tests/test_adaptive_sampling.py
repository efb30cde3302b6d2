"""Whole recordings with adaptive sampling: what went wrong is whole, and the weights are right."""

from __future__ import annotations

import contextlib
import itertools
import queue
import subprocess
import sys
import threading
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import vidlab as vl
from vidlab.analysis import latency
from vidlab.capture.frames import sources, stages
from vidlab.capture.frames.adaptive import Adaptive
from vidlab.capture.frames.sources import Source
from vidlab.capture.frames.traced_queue import TracedQueue
from vidlab.clock import now_ns
from vidlab.runs.recovery import recover
from vidlab.runs.verification import verify
from vidlab.schema import DEMUXED, OK, SERVICE

SCRIPT = Path(__file__).parent / "scripts" / "sampled.py"
MS = 1_000_000

#: Frames of each of the threads, and how many of all are late.
EACH, THREADS, LATE = 8_000, 3, 1000


class Program:
    """A program of several threads, each with a stream, and a sink with a queue that evicts."""

    def __init__(self) -> None:
        random = np.random.default_rng(20261121)
        self.durations = (20 * MS * random.lognormal(0, 0.1, (THREADS, EACH))).astype(np.int64)
        chosen = random.choice(THREADS * EACH, LATE, replace=False)
        self.late = np.zeros(THREADS * EACH, np.bool_)
        self.late[chosen] = True
        self.late = self.late.reshape(THREADS, EACH)
        self.durations[self.late] += 300 * MS
        self.lost: set[int] = set()
        self._sink: queue.Queue[object] = TracedQueue(4, evict=True)
        self._numbers: dict[int, tuple[int, int]] = {}

    def run(self) -> None:
        threads = [threading.Thread(target=self.stream, args=(n,)) for n in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def stream(self, number: int) -> None:
        recorder = stages.active
        decode = recorder.kind("decode").number
        with vl.labels(stream_id=f"cam-{number}", codec="h264"):
            source = Source(recorder, "cam", "h264")
            for n in range(EACH):
                t1_ns = now_ns()
                t0_ns = t1_ns - int(self.durations[number, n])
                ref = source.born(t0_ns, n, n)
                self._numbers[ref.frame] = number, n
                recorder.event(ref, DEMUXED, t_ns=t0_ns)
                recorder.emit(decode, SERVICE, OK, ref, t0_ns, t1_ns)
                with vl.stage("filter", ref):
                    pass
                if n % 2000 < 5:  # one too many: the first of them is thrown out
                    self._sink.put(ref)
                vl.deliver(ref)

    def place(self, frame: int) -> tuple[int, int]:
        return self._numbers[frame]


def record(path: Path, share: float, monkeypatch: pytest.MonkeyPatch) -> tuple[Program, vl.Run]:
    monkeypatch.setattr(sources, "_numbers", itertools.count())  # whose turn it is follows
    program = Program()
    engines = [vl.Frames(Adaptive(base=share, busy=share), clocks="never")]
    with vl.record(path, engines=engines, parameters={"deadline_ms": 200}) as recording:
        recording.writer.lookback.seconds = 0.5
        program.run()
        left_out = recording.writer.lookback.left_out
        until_ns = now_ns() + 30_000 * MS
        while not left_out["spans"] and now_ns() < until_ns:
            time.sleep(0.01)
    assert left_out["spans"] > 0
    return program, vl.open_run(path)


def test_a_thousand_late_frames_of_a_thousand_are_whole(tmp_path: Path, monkeypatch) -> None:
    program, run = record(tmp_path / "run", 0.01, monkeypatch)
    assert run.losses == {}
    kept = run.scan("kept_frames").collect()
    reasons = dict(zip(kept["frame"].to_list(), kept["kept_for"].cast(str).to_list(), strict=True))
    by_place = {program.place(frame): reason for frame, reason in reasons.items()}
    planted = {tuple(place) for place in np.argwhere(program.late).tolist()}
    assert len(planted) == LATE
    assert planted <= by_place.keys()
    assert sum(reason == "lost" for reason in by_place.values()) >= THREADS
    # A machine that pauses makes further ones late: they are kept as well.
    assert all(reason in ("late", "lost") for reason in by_place.values())
    spans = run.scan("spans").filter(pl.col("kind") == "service").collect()
    whole = spans.filter(pl.col("frame").is_in(list(reasons)))
    assert whole.group_by("frame").len()["len"].unique().to_list() == [2]
    assert whole["sample_rate"].unique().to_list() == [1.0]
    assert whole["frame"].n_unique() == len(reasons)
    others = spans.filter(~pl.col("frame").is_in(list(reasons)))
    assert others["sample_rate"].unique().to_list() == [0.01]
    assert others.height / 2 == pytest.approx(0.01 * (THREADS * EACH - len(reasons)), rel=0.3)
    frames = run.scan("frames").collect()
    assert frames["frame"].n_unique() == frames.height
    assert set(frames["frame"]) == set(spans["frame"])
    late = frames.filter(pl.col("sample_rate") == 1.0, pl.col("fate") == "delivered")
    planted_frames = [f for f in reasons if program.place(f) in planted]
    assert set(planted_frames) <= set(late["frame"])
    assert run.scan("findings").filter(pl.col("kind") == "gop_loss").collect().height == 0
    assert verify(run.path) == []


def test_percentiles_with_weights_are_those_of_all_frames(tmp_path: Path, monkeypatch) -> None:
    program, run = record(tmp_path / "run", 0.1, monkeypatch)
    true = np.quantile(program.durations, [0.5, 0.9, 0.99], method="inverted_cdf")
    decode = latency.percentiles(run.scan("spans").filter(pl.col("stage") == "decode"), by=[])
    found = decode.select("p50_ns", "p90_ns", "p99_ns").row(0)
    np.testing.assert_allclose(found, true, rtol=0.02)
    assert decode["count"].item() == pytest.approx(THREADS * EACH, rel=0.02)
    cube = run.cube().filter(pl.col("stage") == "decode")
    assert cube["count"].sum() == pytest.approx(THREADS * EACH, rel=0.02)
    assert cube["total_ns"].sum() == pytest.approx(program.durations.sum(), rel=0.02)
    for number in range(THREADS):
        of_stream = cube.filter(pl.col("stream_id") == f"cam-{number}")
        assert of_stream["count"].sum() == pytest.approx(EACH, rel=0.05)
    decisions = run.scan("sampling_decisions").collect()
    assert decisions["reason"].to_list()[0] == "start"
    assert decisions["rate"].to_list()[0] == 0.1


def played(path: Path, what: str) -> vl.Run:
    subprocess.run([sys.executable, SCRIPT, path, what], check=what != "killed", timeout=200)
    return vl.open_run(path)


def test_a_run_that_was_killed_is_thinned_as_it_is_read(tmp_path: Path) -> None:
    run = played(tmp_path / "run", "killed")
    assert run.state == "killed"
    before = sampled_facts(run, count=25_000, late=-(-24_000 // 60) + -(-1000 // 60))
    recover(run.path)
    recovered = vl.open_run(run.path)
    assert sampled_facts(recovered, count=25_000, late=417) == before
    assert verify(run.path) == []


def sampled_facts(run: vl.Run, count: int, late: int) -> list[tuple[object, ...]]:
    """Check what there must be, and return it."""
    spans = run.scan("spans").collect()
    kept = run.scan("kept_frames").collect()
    assert kept.height == kept["frame"].n_unique() == late
    whole = spans.filter(pl.col("sample_rate") == 1.0)
    assert set(whole["frame"]) == set(kept["frame"])
    assert whole.height == 2 * late
    sampled = spans.filter(pl.col("sample_rate") < 1.0)
    assert sampled.height / 0.05 == pytest.approx(2 * (count - late), rel=0.15)
    columns = ("frame", "stage", "duration_ns", "sample_rate")
    return sorted(spans.select(pl.col(columns).cast(pl.String)).rows())


def test_a_child_process_has_its_parent_keep_frames_whole(tmp_path: Path) -> None:
    run = played(tmp_path / "run", "child")
    spans = run.scan("spans").filter(pl.col("kind") == "service").collect()
    assert spans["pid"].n_unique() == 2
    sent = set(spans.filter(pl.col("stage") == "send")["frame"])
    kept = set(run.scan("kept_frames").collect()["frame"])
    assert len(sent) == len(sent & kept) == 60
    # Their filter span was in a block that the parent has thinned since.
    whole = spans.filter(pl.col("frame").is_in(list(sent)))
    assert whole.group_by("frame").len()["len"].unique().to_list() == [2]
    assert whole["sample_rate"].unique().to_list() == [1.0]
    assert spans["frame"].n_unique() < 9000 / 2


def test_real_codecs_with_b_frames_and_damage(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    clip = tmp_path / "clip.mp4"
    options = {"preset": "ultrafast", "x264-params": "bframes=3:b-adapt=0:keyint=20"}
    image = np.random.default_rng(5).integers(0, 255, (48, 64, 3), np.uint8)
    with av.open(str(clip), "w") as output:
        stream = output.add_stream("libx264", rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for n in range(60):
            frame = av.VideoFrame.from_ndarray(np.roll(image, 3 * n, axis=1))
            frame.pts, frame.time_base = n, Fraction(1, 25)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))

    def decode(path: Path, engine: vl.Frames) -> pl.DataFrame:
        with vl.record(path, engines=[engine]), av.open(str(clip)) as container:
            for number, packet in enumerate(container.demux(video=0)):
                if number in (14, 37):
                    packet.update(bytes(packet.size))
                with contextlib.suppress(av.error.FFmpegError):
                    for frame in packet.decode():
                        vl.deliver(frame)
        return vl.open_run(path).scan("frames").sort("seq").collect()

    whole = decode(tmp_path / "whole", vl.Frames(clocks="never"))
    share = Adaptive(base=0.2, busy=0.2)
    sampled = decode(tmp_path / "sampled", vl.Frames(share, clocks="never"))
    facts = ("seq", "fate", "picture_type", "lost_at")
    rows = {row[0]: row for row in whole.select(facts).rows()}
    assert "B" in whole["picture_type"].cast(str).to_list()
    assert {row[0]: row for row in sampled.select(facts).rows()}.items() <= rows.items()
    broken = whole.filter(pl.col("fate") == "corrupt")["seq"].to_list()
    assert broken
    assert set(broken) <= set(sampled.filter(pl.col("sample_rate") == 1.0)["seq"])
    assert 0 < sampled.filter(pl.col("sample_rate") < 1.0).height < 30
