"""The pipeline of notebook 04: what is planted in it is there to be found."""

from __future__ import annotations

import os
import socket
import statistics
from pathlib import Path

import polars as pl
import pytest

import vidlab as vl
from vidlab.analysis import connections, kernel, memory_graph, metrics, offcpu, pointers
from vidlab.errors import VidlabError
from vidlab.lab import kernel_pipeline
from vidlab.lab.camera import Cameras
from vidlab.lab.kernel_pipeline import SLOW_STAGE, STREAMS, Planted, record_kernel_run
from vidlab.runs.run import Run

needs_all = [pytest.mark.needs("ebpf"), pytest.mark.needs("hostcuda")]


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    """What is planted in a run that several tests look at.

    It is recorded again, twice at most, if what is a matter of time is not found: another
    program may have had the CPUs.
    """
    for _ in range(3):
        found = record_kernel_run(tmp_path_factory.mktemp("kernel") / "run", seconds=4.0)
        waits = waits_of(found)
        inside, outside = shares_of_waits_for_a_cpu(found, waits)
        silent = longest_reads(waits).min() > 0.5 * found.silence_ns  # type: ignore[operator]
        if inside > outside and silent and share_for_the_lock(found, waits) > 0.5:
            break
    return found


@pytest.fixture(scope="module")
def run(planted: Planted) -> Run:
    return vl.open_run(planted.path)


@pytest.fixture(scope="module")
def waits(planted: Planted) -> pl.DataFrame:
    return waits_of(planted)


def waits_of(planted: Planted) -> pl.DataFrame:
    """What threads waited for, with their stage and when they came back."""
    run = vl.open_run(planted.path)
    return (
        kernel.identified(run.scan("kernel_offcpu"), run.scan("spans"))
        .with_columns(
            pl.col("state").cast(pl.String), t_end_ns=pl.col("t_ns") + pl.col("duration_ns")
        )
        .collect()
    )


def in_slow_stage(waits: pl.DataFrame) -> pl.DataFrame:
    """The waits of the stage that needs the lock."""
    return waits.filter(pl.col("stage") == SLOW_STAGE, pl.col("state") == "sleeping")


def share_for_the_lock(planted: Planted, waits: pl.DataFrame) -> float:
    """How much of that stage's waiting was while somebody held the lock."""
    slow = in_slow_stage(waits)
    overlap = 0
    for begin, end in planted.held_ns:
        inside = slow.filter(pl.col("t_ns") < end, pl.col("t_end_ns") > begin)
        overlap += sum(
            min(end, row["t_end_ns"]) - max(begin, row["t_ns"]) for row in inside.to_dicts()
        )
    return overlap / max(int(slow["duration_ns"].sum()), 1)


def shares_of_waits_for_a_cpu(planted: Planted, waits: pl.DataFrame) -> tuple[float, float]:
    """How much of the time off the CPU was a wait for one, with the neighbour and without."""
    at_work = waits.filter(pl.col("stage").is_not_null())
    there = pl.col("t_end_ns").is_between(*planted.neighbour_ns)
    inside, outside = (
        float(rows["runqueue_ns"].sum() / rows["duration_ns"].sum())
        for rows in (at_work.filter(there), at_work.filter(~there))
    )
    return inside, outside


def longest_reads(waits: pl.DataFrame) -> pl.Series:
    """How long each stream's longest wait for data was.

    FFmpeg looks again each tenth of a second: one read waits several times.
    """
    slept = waits.filter(pl.col("stage") == "demux", pl.col("state") == "sleeping")
    by_read = slept.group_by("tid", "span").agg(pl.col("duration_ns").sum())
    return by_read.group_by("tid").agg(pl.col("duration_ns").max())["duration_ns"]


class TestWhatIsPlanted:
    pytestmark = needs_all

    def test_all_frames_are_delivered_and_no_probe_is_missing(self, run: Run) -> None:
        frames = run.scan("frames").collect()
        assert set(frames["stream_id"].cast(pl.String)) == set(STREAMS)
        assert frames["fate"].cast(pl.String).value_counts().height == 1
        kinds = set(run.scan("findings").collect()["kind"].cast(pl.String))
        assert "no_kernel_events" not in kinds

    def test_the_wait_for_the_lock_is_in_its_stage(
        self, planted: Planted, waits: pl.DataFrame
    ) -> None:
        # The stage waits when somebody has the lock, and hardly at any other time.
        assert share_for_the_lock(planted, waits) > 0.5
        slow = in_slow_stage(waits)
        held = statistics.median(end - begin for begin, end in planted.held_ns)
        assert slow["duration_ns"].max() > 0.5 * held
        # Only what waits as a stage begins or ends has not said so, or no longer.
        assert (slow["by"] == "word").sum() > 0.5 * slow.height

    def test_the_neighbour_makes_threads_wait_for_a_cpu(
        self, planted: Planted, waits: pl.DataFrame
    ) -> None:
        inside, outside = shares_of_waits_for_a_cpu(planted, waits)
        assert inside > outside

    def test_what_was_taken_past_cupy_is_seen_by_the_driver_only(
        self, planted: Planted, run: Run
    ) -> None:
        seen = pointers.seen_by(run.scan("kernel_cuda_memory"), run.scan("allocations"))
        past = seen.filter(pl.col("seen_by") == pointers.DRIVER_ONLY)
        assert past["size_bytes"].to_list() == [planted.taken_bytes]
        assert past["freed"].all()
        both = seen.filter(pl.col("seen_by") == pointers.BOTH)
        assert both.height
        assert both["stack"].null_count() == 0
        assert seen.height == both.height + 1

    def test_the_silence_of_the_cameras_is_seen_in_demux(
        self, planted: Planted, waits: pl.DataFrame
    ) -> None:
        longest = longest_reads(waits)
        assert longest.len() == len(STREAMS)
        assert longest.min() > 0.5 * planted.silence_ns  # type: ignore[operator]

    def test_three_connections_are_ours_and_named_by_their_stream(self, run: Run) -> None:
        found = connections.connections(run.scan("kernel_tcp"), run.scan("spans"))
        assert set(found["stream_id"]) == set(STREAMS)
        assert found.height == len(STREAMS)
        assert set(found["owner_pid"]) == {os.getpid()}
        assert found["handshake_ns"].min() > 0  # type: ignore[operator]
        assert found["bytes_received"].min() > 10_000  # type: ignore[operator]
        assert found["t_closed_ns"].null_count() == 0

    def test_copies_and_decode_times_are_there(self, run: Run) -> None:
        graph = memory_graph.MemoryGraph()
        graph.add(run.scan(memory_graph.MEMORY), run.scan(memory_graph.COPIES), end=True)
        ends = graph.edges()
        frames = run.scan("frames").collect().height
        up = ends.filter(pl.col("source") == memory_graph.HOST)
        down = ends.filter(pl.col("destination") == memory_graph.HOST)
        assert up["copies"].sum() == 2 * frames  # the picture and the tensor
        assert down["copies"].sum() == frames
        assert ends["copies"].sum() == 4 * frames
        counted = metrics.percentiles(run.scan("kernel_metrics"))
        assert set(STREAMS) <= set(counted["stream_id"])
        assert offcpu.by_stage(run.scan("kernel_offcpu"), run.scan("spans")).height


@pytest.mark.needs("hostcuda")
def test_a_stream_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_pipeline, "NEIGHBOUR_S", 0.01)

    def refused(*_: object, **__: object) -> None:
        raise VidlabError("no such stream")

    monkeypatch.setattr(kernel_pipeline, "open_video", refused)
    with pytest.raises(VidlabError, match="no such stream"):
        record_kernel_run(tmp_path / "run", seconds=0.2)
    assert vl.open_run(tmp_path / "run").state == "complete"


def test_cameras_send_each_clip_at_its_pace(tmp_path: Path) -> None:
    clips = [tmp_path / "one", tmp_path / "two"]
    for number, clip in enumerate(clips):
        clip.write_bytes(os.urandom(10_000 + number))
    with Cameras(clips, seconds=0.05, pause_s=0.01) as cameras:
        for clip, url in zip(clips, cameras.urls, strict=True):
            host, port = url.removeprefix("tcp://").split(":")
            with socket.create_connection((host, int(port)), timeout=60) as reader:
                assert b"".join(iter(lambda: reader.recv(1 << 16), b"")) == clip.read_bytes()
