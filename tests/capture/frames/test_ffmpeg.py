"""FFmpeg children: the parsers on recorded output of FFmpeg 5.1, and real children."""

from __future__ import annotations

import gc
import io
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from vidlab.capture.frames import ffmpeg
from vidlab.capture.frames import ffmpeg_reports as reports
from vidlab.errors import InputError, MissingDependencyError, VidlabError

FIRST = """frame=1
fps=0.00
stream_0_0_q=0.0
stream_0_1_q=31.0
bitrate=N/A
total_size=N/A
out_time_us=N/A
out_time_ms=N/A
out_time=N/A
dup_frames=0
drop_frames=0
speed=N/A
progress=continue""".splitlines()

LAST = """frame=50
fps=12.50
stream_0_0_q=-1.0
bitrate= 245.5kbits/s
total_size=57697
out_time_us=1880078
out_time_ms=1880078
out_time=00:00:01.880078
dup_frames=3
drop_frames=7
speed=18.1x
progress=end""".splitlines()

VSTATS = {
    # version 2, as FFmpeg 5 writes it by itself
    "out=  0 st=  1 frame=    23 q= -1.0 f_size=    431 s_size=       25kB time= 0.800"
    " br=    34.5kbits/s avg_br=   254.3kbits/s type= B": reports.EncodedFrame(
        "0_1", 23, -1.0, 431, 800_000_000, 34_500.0, "B"
    ),
    # version 1, with a quality measure in between
    "frame=     2 q=28.0 PSNR= 41.20 f_size=    997 s_size=        6kB time= 0.010"
    " br=   199.4kbits/s avg_br=  5024.0kbits/s type= P": reports.EncodedFrame(
        "0_0", 2, 28.0, 997, 10_000_000, 199_400.0, "P"
    ),
    # an encoder that knows no picture types
    "out=  0 st=  0 frame=     0 q= -0.0 f_size=  86400 s_size=        0kB time= 0.010"
    " br= 17280.0kbits/s avg_br=     0.0kbits/s type= ?": reports.EncodedFrame(
        "0_0", 0, -0.0, 86_400, 10_000_000, 17_280_000.0, None
    ),
}


def test_a_report_is_parsed_and_what_is_not_available_is_none() -> None:
    first = reports.parse_progress(FIRST)
    assert first.q == {"0_0": 0.0, "0_1": 31.0}
    assert (first.bitrate, first.total_size_bytes, first.out_time_ns, first.speed) == (None,) * 4
    assert not first.ended
    assert reports.parse_progress(LAST) == reports.Progress(
        frame_count=50,
        fps=12.5,
        q={"0_0": -1.0},
        bitrate=245_500.0,
        total_size_bytes=57_697,
        out_time_ns=1_880_078_000,  # out_time_ms says the same number, and means microseconds
        dup_frames=3,
        drop_frames=7,
        speed=18.1,
        ended=True,
    )


def test_a_frame_line_of_either_version_is_parsed() -> None:
    for line, frame in VSTATS.items():
        assert reports.parse_vstats(line) == frame
    assert reports.parse_vstats("no frame at all") is None
    assert reports.parse_vstats("") is None


def made(count: int, *output: str, rate: str = "25") -> list[str]:
    """Arguments that encode `count` seconds of a test picture."""
    source = f"testsrc2=size=160x90:rate={rate}"
    return ["-y", "-v", "error", "-f", "lavfi", "-i", source, "-t", str(count), *output]


def descriptors() -> int:
    gc.collect()  # what earlier tests left is not to be closed in between
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.needs("ffmpeg")
def test_a_child_is_followed_into_the_tables(tmp_path: Path, recorded: Any) -> None:
    before = descriptors()
    target = tmp_path / "out.mkv"
    args = made(2, "-c:v", "mpeg4", "-bf", "2", "-r", "10", str(target))
    with ffmpeg.run_ffmpeg(["ffmpeg", *args]) as child:
        pass
    assert child.returncode == 0
    assert child.progress is not None
    assert child.progress.ended
    progress, frames = recorded.rows("ffmpeg_progress"), recorded.rows("ffmpeg_frames")
    assert {row["child"] for row in progress + frames} == {"out.mkv"}
    assert {row["pid"] for row in progress + frames} == {child.pid}
    assert progress[-1]["ended"]
    assert progress[-1]["output"] == "0_0"
    assert progress[-1]["drop_frames"] == child.progress.drop_frames > 20
    assert [row["frame_number"] for row in frames] == list(range(len(frames)))
    assert len(frames) == progress[-1]["frame_count"] == 20
    assert {row["picture_type"] for row in frames} == {"I", "P", "B"}
    assert 0 < sum(row["size_bytes"] for row in frames) < target.stat().st_size
    assert descriptors() == before


@pytest.mark.needs("ffmpeg")
def test_a_child_is_ended_with_the_recording_and_leaves_a_whole_file(
    tmp_path: Path, recorded: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ffmpeg, "_PATIENCE_S", 60.0)  # it is asked once
    target = tmp_path / "endless.mp4"  # unreadable without its trailer
    child = ffmpeg.run_ffmpeg(
        ["-y", "-re", *made(600, "-c:v", "mpeg4", str(target))[1:]], name="endless"
    )
    wait_for_frames(child)
    ffmpeg.end_children()
    assert child.returncode == 0
    said = subprocess.run(
        ["ffprobe", "-v", "error", "-show_entries", "format=duration", target],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "duration=" in said.stdout
    child.wait()  # ended because it was asked to: no error


def wait_for_frames(child: ffmpeg.FfmpegChild) -> None:
    deadline = time.monotonic() + 60
    while child.progress is None or not child.progress.frame_count:
        assert time.monotonic() < deadline, child.stderr
        time.sleep(0.05)


@pytest.mark.needs("ffmpeg")
def test_an_exception_in_the_block_ends_the_child_and_goes_on(tmp_path: Path) -> None:
    child = ffmpeg.run_ffmpeg(["-re", *made(600, "-f", "null", "-")])
    wait_for_frames(child)  # its progress is live without a recording
    with pytest.raises(ZeroDivisionError), child:
        raise ZeroDivisionError
    assert child.returncode is not None


@pytest.mark.needs("ffmpeg")
def test_frames_may_be_fed_through_the_users_own_pipe(tmp_path: Path) -> None:
    args = ["-v", "error", "-f", "rawvideo", "-pix_fmt", "gray", "-s", "32x32", "-i", "-"]
    args += ["-c:v", "mpeg4", str(tmp_path / "fed.mkv")]
    with ffmpeg.run_ffmpeg(args, stdin=subprocess.PIPE) as child:
        assert child.stdin is not None
        child.stdin.write(bytes(32 * 32 * 12))
        child.stdin.close()
    assert child.progress is not None
    assert child.progress.frame_count == 12


@pytest.mark.needs("ffmpeg")
def test_a_failure_says_what_ffmpeg_said(tmp_path: Path) -> None:
    child = ffmpeg.run_ffmpeg(["-i", str(tmp_path / "missing.mp4"), "-f", "null", "-"])
    with pytest.raises(VidlabError, match=r"missing\.mp4: No such file"):
        child.wait()
    with ffmpeg.run_ffmpeg(["-version"], stdout=subprocess.DEVNULL) as child:
        pass
    assert child.progress is None


def test_a_child_that_ignores_all_requests_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ffmpeg, "_PATIENCE_S", 0.3)
    stubborn = tmp_path / "ffmpeg-stubborn"
    stubborn.write_text(
        f"#!{sys.executable}\nimport signal, time\n"
        "for number in (signal.SIGINT, signal.SIGTERM): signal.signal(number, signal.SIG_IGN)\n"
        "print('ready', flush=True)\ntime.sleep(600)\n"
    )
    stubborn.chmod(0o755)
    child = ffmpeg.run_ffmpeg([str(stubborn), "out"], stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert isinstance(child.stdout, io.BufferedReader)
    child.stdout.readline()
    child.stop()
    child.stdout.close()
    child.wait(60)  # a process that was killed may still be about to end
    assert child.returncode == -9


def test_wrong_use_is_refused_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="a list of arguments"):
        ffmpeg.run_ffmpeg("ffmpeg -i in.mp4 out.mkv")
    with pytest.raises(InputError, match="leave out -progress"):
        ffmpeg.run_ffmpeg(["-progress", "pipe:1", "-i", "in.mp4", "out.mkv"])
    monkeypatch.setenv("PATH", "")
    before = descriptors()
    with pytest.raises(MissingDependencyError, match="apt-get install ffmpeg"):
        ffmpeg.run_ffmpeg(["-i", "in.mp4", "out.mkv"])
    assert descriptors() == before
