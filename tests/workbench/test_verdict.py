"""The verdict names who was late, by how much, and where the time went."""

from __future__ import annotations

import polars as pl
import pytest

from vidlab.analysis import latency
from vidlab.runs.run import Run
from vidlab.workbench.slices import Slice
from vidlab.workbench.verdict import Verdict, verdict

MS = 1_000_000


def summary(run: Run, deadline_ms: float) -> pl.DataFrame:
    return latency.late_summary(latency.late(run.scan("frames"), deadline_ms=deadline_ms))


@pytest.mark.parametrize("deadline_ms", [30.0, 80.0])
def test_it_counts_the_late_frames_of_each_stream(run: Run, deadline_ms: float) -> None:
    said = verdict(Slice(run, deadline_ms=deadline_ms))
    known = summary(run, deadline_ms)
    late, delivered = known["late"].sum(), known["delivered"].sum()
    assert f"{late:,} of {delivered:,} delivered frames were late" in said.headline
    worst = known.row(0, named=True)
    assert said.headline.index(worst["stream_id"]) > 0
    assert said.streams[0].startswith(
        f"{worst['stream_id']} ({worst['codec']}): {worst['late']:,} "
    )
    assert len(said.streams) == known.filter(pl.col("late") > 0).height


def test_it_says_where_the_time_went() -> None:
    run = _Planted()
    said = verdict(Slice(run, deadline_ms=50))  # type: ignore[arg-type]
    [line] = said.streams
    assert "cam-slow (av1): 5 of 20 frames late (25.0%)" in line
    assert "100% waiting in the queue frames (+100 ms a frame)" in line
    assert "the worst took 115 ms, allowed are 50 ms" in line


def test_nothing_late_and_nothing_known_are_told_apart(run: Run) -> None:
    assert verdict(Slice(run, deadline_ms=1e6)).headline.startswith("None of ")
    unknown = _Planted()
    assert "not known" in verdict(Slice(unknown)).headline  # type: ignore[arg-type]


def test_losses_while_recording_are_a_warning() -> None:
    run = _Planted(losses={"spans": {"lost": 1_234, "let_go": 0}}, state="killed")
    said = verdict(Slice(run, deadline_ms=50))  # type: ignore[arg-type]
    assert any("1,234 of spans" in line for line in said.warnings)
    assert any("this run is killed" in line for line in said.warnings)


def test_a_slice_hears_of_its_own_streams_only(run: Run) -> None:
    said = str(verdict(Slice(run, stream_id="cam-02", deadline_ms=30)))
    assert "cam-02" in said
    assert "cam-00" not in said


def test_names_cannot_become_markup() -> None:
    shown = Verdict("<b>1</b>", ["<i>"], ["a & b"], ["<script>"])._repr_html_()
    assert "&lt;b&gt;1" in shown
    assert "<script>" not in shown
    assert "<i>" not in shown


class _Planted:
    """A run of one stream: a frame each 40 ms, done in 15 ms, of which five waited 100 ms more."""

    def __init__(
        self, losses: dict[str, dict[str, int]] | None = None, state: str = "complete"
    ) -> None:
        self.losses, self.state, self.notes = losses or {}, state, []
        self.manifest = type("Manifest", (), {"parameters": {}})()
        frames, spans = [], []
        for number in range(20):
            begin, waits = 1_000_000 * MS + number * 200 * MS, (110 if number >= 15 else 10) * MS
            frames.append((begin, begin, begin + 5 * MS + waits, number + 1, number, "delivered"))
            for t_ns, duration, stage, kind in (
                (begin, 5 * MS, "decode", "service"),
                (begin + 5 * MS, waits, "frames", "queue"),
            ):
                spans.append((t_ns, duration, number + 1, stage, kind))
        labels = {"pid": 1, "tid": 1, "stream_id": "cam-slow", "codec": "av1", "gpu": None}
        known = [pl.lit(value).alias(name) for name, value in labels.items()]
        columns = ["t_ns", "t_demux_ns", "t_done_ns", "frame", "seq", "fate"]
        self.known = {
            "frames": pl.DataFrame(frames, schema=columns, orient="row").with_columns(
                *known,
                t_decoded_ns="t_demux_ns",
                key=pl.lit(False),
                reordered=pl.lit(False),
                lost_at=pl.lit(None, pl.String),
            ),
            "spans": pl.DataFrame(
                spans, schema=["t_ns", "duration_ns", "frame", "stage", "kind"], orient="row"
            ).with_columns(
                *known, parent=pl.lit(None, pl.UInt64), runqueue_ns=pl.lit(None, pl.Int64)
            ),
        }

    def tables(self) -> list[str]:
        return list(self.known)

    def scan(self, table: str) -> pl.LazyFrame:
        if table in self.known:
            return self.known[table].lazy().with_columns(pl.col("frame").cast(pl.UInt64))
        return _empty(table).lazy()


def _empty(table: str) -> pl.DataFrame:
    from vidlab.schema import TABLES

    empty = pl.from_arrow(TABLES[table].arrow_schema.empty_table())
    assert isinstance(empty, pl.DataFrame)
    return empty
