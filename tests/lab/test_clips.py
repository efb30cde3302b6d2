"""Clips: what is asked for is what is made, and the burnt-in number can be trusted."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from vidlab.lab import clips
from vidlab.lab.clips import CLIPS, Clip, burn_number, make_clips, pictures, read_number

SHORT = [replace(clip, seconds=1.2) for clip in CLIPS]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("clips")
    return dict(zip([clip.name for clip in SHORT], make_clips(SHORT, folder), strict=True))


def numbers(path: Path) -> list[int | None]:
    found = []
    with av.open(str(path)) as container:
        for packet in container.demux(video=0):
            try:
                frames = packet.decode()
            except av.FFmpegError:
                continue
            found += [read_number(frame.to_ndarray(format="bgr24")) for frame in frames]
    return found


@pytest.mark.parametrize("clip", SHORT, ids=lambda clip: clip.name)
def test_each_frame_bears_its_number_through_the_encoder(
    clip: Clip, files: dict[str, Path]
) -> None:
    assert numbers(files[clip.name]) == list(range(30))


@pytest.mark.parametrize("name", ["h264", "hevc"])
def test_clips_have_b_frames(name: str, files: dict[str, Path]) -> None:
    with av.open(str(files[name])) as container:
        shown = [packet.pts for packet in container.demux(video=0) if packet.dts is not None]
    assert shown != sorted(shown)


def test_a_clip_is_made_once_and_anew_when_it_differs(tmp_path: Path) -> None:
    clip = replace(SHORT[0], seconds=0.4)
    (first,) = make_clips([clip], tmp_path)
    stamp = first.stat().st_mtime_ns
    assert make_clips([clip], tmp_path) == [first]
    assert first.stat().st_mtime_ns == stamp
    (other,) = make_clips([replace(clip, options={"preset": "medium"})], tmp_path)
    assert other != first
    assert {path.suffix for path in tmp_path.iterdir()} == {".mp4"}


def test_an_encoder_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(av.codec.codec.UnknownCodecError):
        make_clips([replace(SHORT[0], encoder="libnothing")], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_corrupt_packets_and_only_those_never_come_out(files: dict[str, Path]) -> None:
    (path,) = make_clips([replace(SHORT[0], corrupt=(12, 13))], files["h264"].parent)
    with av.open(str(path)) as bad, av.open(str(files["h264"])) as good:
        pairs = zip(bad.demux(video=0), good.demux(video=0), strict=True)
        differing = [n for n, (b, g) in enumerate(pairs) if bytes(b) != bytes(g)]
    assert differing == [12, 13]
    assert len(numbers(path)) == 30 - 2


def test_the_cache_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert clips.cache_folder() == tmp_path / "vidlab" / "clips"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert clips.cache_folder() == Path("cache", "clips")


@pytest.mark.parametrize("number", [0, 1, 4711, 65_535])
@pytest.mark.parametrize("shape", [(180, 320, 3), (360, 640), (90, 160, 3)])
def test_numbers_are_read_as_burnt(number: int, shape: tuple[int, ...]) -> None:
    image = np.full(shape, 90, np.uint8)
    assert read_number(burn_number(image, number)) == number


def test_a_picture_without_a_whole_number_has_none() -> None:
    image = burn_number(np.full((180, 320, 3), 90, np.uint8), 5)
    image[:20, 40:60] = 128
    assert read_number(image) is None
    assert read_number(np.full((180, 320, 3), 90, np.uint8)) is None


def test_pictures_move_over_a_background_that_stays() -> None:
    first, later = (list(pictures(replace(CLIPS[0], seconds=0.4)))[n] for n in (0, 9))
    below = slice(2 * 320 // clips.BITS, None)  # the burnt-in number
    moved = (first[below] != later[below]).any(axis=-1).mean()
    assert 0.02 < moved < 0.5


def test_making_a_clip_leaves_the_scheduling_as_it_was(tmp_path: Path) -> None:
    before = os.sched_getscheduler(0)
    make_clips([replace(CLIPS[2], width=128, height=128, seconds=0.2)], tmp_path)
    assert CLIPS[2].encoder == "libsvtav1"  # which as root makes its caller a real-time thread
    assert os.sched_getscheduler(0) == before
