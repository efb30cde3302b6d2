"""Which rows count, where the choice among them is made afterwards."""

from __future__ import annotations

import numpy as np
import pytest

from vidlab.hashing import fnv1a
from vidlab.runs.manifest import EngineFacts
from vidlab.runs.thinning import chooses_later, counting, hashes, limit
from vidlab.schema import DEMUXED, FLUSHED

STREAM = 3 << 52 | 9 << 32


def frames_of(stream: int, count: int) -> np.ndarray:
    return np.uint64(stream) + np.arange(count, dtype=np.uint64)


def records(frames: list[int], events: list[int] | None = None) -> dict[str, np.ndarray]:
    known = {"frame": np.array(frames, np.uint64)}
    return known if events is None else {**known, "event": np.array(events, np.uint8) + 1}


def test_a_turn_follows_from_fnv_1a_of_the_frames_number() -> None:
    numbers = [0, 1, STREAM | 12_345, (1 << 64) - 1]
    expected = []
    for number in numbers:
        known = fnv1a(number.to_bytes(8, "little"))
        expected.append((known ^ known >> 32) * 0x100000001B3 % (1 << 64))
    assert hashes(np.array(numbers, np.uint64)).tolist() == expected


@pytest.mark.parametrize("share", [0.5, 0.1, 0.02])
def test_the_share_is_hit_at_all_scales_and_in_no_rhythm(share: float) -> None:
    for stream in (0, 7, 142, 1000):
        chosen = hashes(frames_of(1 << 52 | stream << 32, 40_000)) < limit(share)
        assert chosen.mean() == pytest.approx(share, rel=0.15)
        for period in (2, 8, 12, 25, 30, 50, 64, 250):  # key frames come in such ones
            counts = chosen[: 40_000 // period * period].reshape(-1, period).sum(0)
            spread = counts.var() / (counts.mean() * (1 - share))
            assert spread < 1 + 6 * (2 / period) ** 0.5


def test_streams_are_sampled_independently() -> None:
    one, two = (hashes(frames_of(1 << 52 | n << 32, 20_000)) < limit(0.5) for n in (1, 2))
    assert (one & two).mean() == pytest.approx(0.25, rel=0.1)


def test_what_counts() -> None:
    frames = frames_of(STREAM, 2000)
    turn = hashes(frames) < limit(0.01)
    his, other = int(frames[turn][0]), int(frames[~turn][0])
    kept = np.array(sorted([int(frames[~turn][1]), int(frames[turn][1])]), np.uint64)
    asked = [his, other, *kept.tolist(), 0]
    limits = np.array([limit(0.01)] * 5, np.uint64)
    chosen, of_kept = counting("spans", records(asked), limits, kept)
    assert chosen.tolist() == [True, False, True, True, True]
    assert of_kept.tolist() == [False, False, True, True, False]


def test_frames_that_are_all_recorded_count() -> None:
    limits = np.full(500, limit(1.0), np.uint64)
    chosen, of_kept = counting("spans", {"frame": frames_of(STREAM, 500)}, limits, limits[:0])
    assert chosen.all()
    assert not of_kept.any()


def test_a_flush_is_of_the_stream_and_not_of_its_frame() -> None:
    frames = frames_of(STREAM, 500)
    out = int(frames[hashes(frames) >= limit(0.01)][0])
    limits = np.full(2, limit(0.01), np.uint64)
    both = records([out, out], [FLUSHED, DEMUXED])
    assert counting("frame_events", both, limits, limits[:0])[0].tolist() == [True, False]


@pytest.mark.parametrize(
    ("sampling", "later"),
    [({"adaptive": {"base": 0.1}}, True), ({"playback": 0.1}, False), (None, False)],
)
def test_the_manifest_says_whether_rows_are_chosen_later(sampling: object, later: bool) -> None:
    class Known:
        engines = (EngineFacts("runtime"), EngineFacts("frames", {"sampling": sampling}))

    assert chooses_later(Known()) is later  # type: ignore[arg-type]
