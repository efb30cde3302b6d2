"""A slice holds the rows of its stream, codec and GPU, and no others."""

from __future__ import annotations

import dataclasses

import polars as pl
import pytest

from vidlab.runs.run import Run
from vidlab.workbench.slices import Slice


@pytest.mark.parametrize(
    ("label", "value"), [("stream_id", "cam-01"), ("codec", "av1"), ("gpu", 0)]
)
def test_only_its_rows(run: Run, label: str, value: str | int) -> None:
    part = Slice(run, **{label: value})  # type: ignore[arg-type]
    for table in ("frames", "spans"):
        found = part.scan(table).collect()
        whole = run.scan(table).collect()
        own = whole.filter(pl.col(label).cast(pl.String) == str(value))
        assert 0 < found.height == own.height < whole.height


def test_no_choice_is_the_whole_run(run: Run) -> None:
    part = Slice(run)
    for table in ("frames", "spans", "streams", "gc_pauses"):
        assert part.scan(table).collect().height == run.scan(table).collect().height


def test_pauses_of_the_process_belong_to_every_slice(run: Run) -> None:
    part = Slice(run, stream_id="cam-01", codec="hevc", gpu=0)
    assert part.scan("gc_pauses").collect().height == run.scan("gc_pauses").collect().height > 0


def test_the_deadline_is_the_callers_then_the_runs(run: Run) -> None:
    assert Slice(run).deadline is None
    strict = Slice(run, deadline_ms=1)
    assert strict.late_frames()["late"].all()
    own = _Recorded(run, {"deadline_ms": 70.0}, {})
    assert Slice(own).deadline == 70.0  # type: ignore[arg-type]
    assert Slice(own, deadline_ms=5).deadline == 5  # type: ignore[arg-type]


def test_losses_of_a_derived_table_are_those_of_its_source(run: Run) -> None:
    losses = {"frame_events": {"lost": 3, "let_go": 9}, "spans": {"lost": 40, "let_go": 0}}
    part = Slice(_Recorded(run, {}, losses))  # type: ignore[arg-type]
    assert part.lost("frames") == 3
    assert part.lost("spans", "frames") == 43
    assert part.lost("queue_depths") == 0


def test_windows_cover_the_run(run: Run) -> None:
    ended = run.manifest.ended
    assert ended
    seconds = (ended.monotonic_ns - run.manifest.started.monotonic_ns) / 1e9
    assert Slice(run).window_s(bins=2) == pytest.approx(max(1.0, seconds / 2))
    assert Slice(run).window_s(bins=10_000) == 1.0


class _Recorded:
    """A run with other parameters and losses."""

    def __init__(
        self, run: Run, parameters: dict[str, float], losses: dict[str, dict[str, int]]
    ) -> None:
        self.manifest = dataclasses.replace(run.manifest, parameters=parameters)
        self.losses, self.scan = losses, run.scan
