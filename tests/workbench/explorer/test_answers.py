"""The explorer's numbers are those of the exact analyses, whatever is chosen."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from vidlab.analysis import blame, latency, pauses, tables
from vidlab.analysis.causewords import CAUSE_WORDS
from vidlab.charts import theme
from vidlab.errors import InputError, RunError
from vidlab.lab.synthetic import write_run, write_segments
from vidlab.runs.run import Run, open_run
from vidlab.workbench.explorer import answers as module
from vidlab.workbench.explorer import state as states
from vidlab.workbench.explorer import views
from vidlab.workbench.explorer.answers import VIEWS, Explored

LABELS = ("stream_id", "codec", "gpu")


class Exact:
    """The same numbers by the analyses alone: filtered tables, in milliseconds."""

    def __init__(self, run: Run, **state: Any) -> None:
        self.state = states.checked(state)
        self.start_ns = run.manifest.started.monotonic_ns
        own = run.manifest.parameters.get("deadline_ms")
        late, self.all_spans = _read(run, self.state["deadline_ms"] or own)
        self.labelled = self._labelled(late)
        self.frames = self._timed(self.labelled, "t_demux_ns")
        self.spans = self._timed(self._labelled(self.all_spans), "t_ns")

    @property
    def rows(self) -> pl.DataFrame:
        """The rows that durations are of: `t_ns`, `duration_ns`, the labels, `late`, `frame`."""
        if self.state["stage"] is not None:
            return self.spans.filter(pl.col("row") == self.state["stage"])
        return latency.as_spans(self.frames).collect()

    @property
    def boxed(self) -> pl.DataFrame:
        if self.state["latency_ms"] is None:
            return self.rows
        low, high = (round(ms * 1e6) for ms in self.state["latency_ms"])
        return self.rows.filter(pl.col("duration_ns").is_between(low, high))

    def stages(self) -> dict[tuple[str, str], tuple[int, ...]]:
        spans = self.spans
        if self.state["latency_ms"] is not None:
            delivered = self.boxed.join(self.labelled, on="frame", how="semi")
            spans = self.all_spans.join(delivered, on="frame", how="semi")
        q = self.state["quantile"]
        found = latency.percentiles(spans, ("stage", "kind"), list({0.5, q}))
        column = f"p{q * 100:g}_ns".replace(".", "_")
        return {
            (row["stage"], row["kind"]): (row["count"], row["p50_ns"], row[column])
            for row in found.iter_rows(named=True)
        }

    def streams(self) -> dict[str | None, tuple[int, ...]]:
        q = self.state["quantile"]
        named = self.boxed.rename({"duration_ns": "ns"}).with_columns(end_to_end_ns="ns")
        if "deadline_ns" not in named.columns:
            named = named.with_columns(deadline_ns=pl.lit(1))
        found = latency.late_summary(named, "stream_id")
        by = latency.percentiles(
            self.boxed.with_columns(stage=pl.lit("x"), kind=pl.lit("x")), "stream_id", [q]
        )
        value = dict(by.select("stream_id", by.columns[3]).iter_rows())
        return {
            row["stream_id"]: (row["delivered"], row["late"], value[row["stream_id"]])
            for row in found.iter_rows(named=True)
        }

    def heatmap(self) -> pl.DataFrame:
        rows = self.rows.with_columns(stage=pl.lit("x"), kind=pl.lit("x"))
        return latency.over_time(rows, time_bins=views._TIME_BINS, cells=views._CELLS)

    def _labelled(self, rows: pl.DataFrame) -> pl.DataFrame:
        for name in LABELS:
            if self.state[name] is not None:
                rows = rows.filter(pl.col(name) == self.state[name])
        return rows

    def _timed(self, rows: pl.DataFrame, column: str) -> pl.DataFrame:
        if self.state["time_s"] is None:
            return rows
        low, high = (self.start_ns + round(s * 1e9) for s in self.state["time_s"])
        return rows.filter(pl.col(column).is_between(low, high))


@cache
def _read(run: Run, deadline_ms: float | None) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The frames, late or not; and the spans, each with whether its frame was."""
    late = latency.late(run.scan("frames"), run.scan("streams"), deadline_ms)
    spans = run.scan("spans").collect().with_columns(theme.stage_row().alias("row"))
    judged = late.select("frame", "late")
    return late, tables.plain(spans).join(judged, on="frame", how="left")


def stages_of(explored: Explored, **state: Any) -> dict[tuple[str, str], tuple[int, ...]]:
    found = explored.answers(state, ["stages"])["stages"]
    columns = ("stage", "kind", "count", "median_ms", "quantile_ms")
    return {
        (stage, kind): (count, *(round(ms * 1e6) for ms in values))
        for stage, kind, count, *values in found.select(columns).iter_rows()
    }


def streams_of(explored: Explored, **state: Any) -> dict[str, tuple[int, ...]]:
    found = explored.answers(state, ["streams"])["streams"]
    columns = ("stream_id", "frames", "late", "quantile_ms")
    rows = found.select(columns).iter_rows()
    return {stream: (frames, late, round(ms * 1e6)) for stream, frames, late, ms in rows}


def combinations(run: Run) -> Iterator[dict[str, Any]]:
    """Every combination of values that occur, and of all; also those that hold nothing."""
    known = tables.plain(run.scan("frames").select(LABELS).unique().collect())
    values = [[None, *known[name].drop_nulls().unique().sort()] for name in LABELS]
    for chosen in itertools.product(*values):
        yield dict(zip(LABELS, chosen, strict=True))


@pytest.fixture(scope="module", params=["whole", "sampled", "recorded"])
def both(request: pytest.FixtureRequest) -> tuple[Run, Explored]:
    run = request.getfixturevalue(request.param)
    return run, Explored(run)


def test_every_combination_of_labels(both: tuple[Run, Explored]) -> None:
    run, explored = both
    some = 0
    every = 4 if (explored.source.groups.rates < 1).any() else 1
    for labels in itertools.islice(combinations(run), 0, None, every):
        exact = Exact(run, **labels, quantile=0.9)
        assert stages_of(explored, **labels, quantile=0.9) == exact.stages(), labels
        assert streams_of(explored, **labels, quantile=0.9) == exact.streams(), labels
        some += bool(exact.frames.height)
    assert some > 5


STATES: list[dict[str, Any]] = [
    {"time_s": [0.7, 2.9]},
    {"time_s": [0.7, 2.9], "codec": "av1"},
    {"time_s": [1.0, 1.0001]},
    {"latency_ms": [30, 70]},
    {"time_s": [0.5, 3.0], "latency_ms": [20, 60], "stream_id": "cam-05"},
    {"stage": "encode"},
    {"stage": "decoded · queue", "time_s": [0.3, 2.0]},
    {"stage": "encode", "latency_ms": [5, 12], "gpu": 0},
    {"deadline_ms": 45.0, "quantile": 0.5},
    {"quantile": 1.0},
    {"quantile": 0.001, "codec": "hevc"},
    {"deadline_ms": 1e9},
]


@pytest.mark.parametrize("state", STATES, ids=str)
def test_whatever_is_chosen(both: tuple[Run, Explored], state: dict[str, Any]) -> None:
    run, explored = both
    exact = Exact(run, **state)
    assert stages_of(explored, **state) == exact.stages()
    assert streams_of(explored, **state) == exact.streams()
    found = explored.answers(state, ["latency", "worst", "tail", "overview", "beyond"])
    cells = exact.heatmap()
    times = [(t - exact.start_ns) / 1e9 for t in cells["t_ns"]]
    assert found["latency"]["t_s"].to_list() == pytest.approx(times)
    low_ms = [low_ns / 1e6 for low_ns in cells["low_ns"]]
    assert found["latency"]["low_ms"].to_list() == pytest.approx(low_ms)
    assert found["latency"]["frames"].to_list() == cells["count"].to_list()
    overview = found["overview"]
    weighted = tables.weighted(exact.labelled.lazy()).collect()
    weight = weighted[tables.WEIGHT]
    assert overview["frames"].sum() == pytest.approx(weight.sum(), abs=overview.height)
    late = weight.filter(weighted["late"].fill_null(value=False)).sum()
    assert overview["late"].sum() == pytest.approx(late, abs=overview.height)
    for codec, value_ms, longer in found["tail"].iter_rows():
        own = tables.weighted(exact.rows.filter(pl.col("codec") == codec).lazy()).collect()
        above = own.filter(pl.col("duration_ns") >= round(value_ms * 1e6))[tables.WEIGHT].sum()
        assert longer == pytest.approx(above / own[tables.WEIGHT].sum())


@pytest.mark.parametrize("state", [STATES[n] for n in (0, 3, 5, 6, 7)], ids=str)
def test_the_worst_frames_can_be_clicked(whole: Run, state: dict[str, Any]) -> None:
    explored, exact = Explored(whole), Exact(whole, **state)
    found = explored.answers(state, ["worst", "beyond"])
    worst, delivered = found["worst"], exact.boxed.join(exact.labelled, on="frame", how="semi")
    known = {row["frame"]: row for row in delivered.iter_rows(named=True)}
    assert 0 < worst.height <= min(views._WORST_BINS * views._WORST_EACH, delivered.height)
    for row in worst.iter_rows(named=True):
        own = known[int(row["frame"])]
        assert row["stream_id"] == own["stream_id"]
        assert row["late"] == bool(own["late"])
    assert worst["latency_ms"][0] == delivered["duration_ns"].max() / 1e6
    q = latency.percentiles(delivered.with_columns(stage=pl.lit("x"), kind=pl.lit("x")), (), [0.99])
    beyond = delivered.filter(pl.col("duration_ns") >= q["p99_ns"][0])
    assert found["beyond"].height == min(50, beyond.height)
    assert set(found["beyond"]["frame"]) <= set(beyond["frame"].cast(pl.String))


def test_of_each_part_of_time_the_longest_are_among_the_worst(whole: Run) -> None:
    worst = Explored(whole).answers({}, ["worst"])["worst"]
    frames = Exact(whole).rows
    first, last = frames.select(pl.col("t_ns").min(), last=pl.col("t_ns").max()).row(0)
    width = -(-(last - first + 1) // views._WORST_BINS)
    longest = (
        frames.with_columns(part=(pl.col("t_ns") - first) // width)
        .group_by("part")
        .agg(pl.col("duration_ns").top_k(views._WORST_EACH))
    )
    wanted = longest.explode("duration_ns")["duration_ns"]
    assert sorted(round(ms * 1e6) for ms in worst["latency_ms"]) == sorted(wanted)


def test_many_spans_are_told_by_histogram(whole: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    exact = Explored(whole)
    monkeypatch.setattr(module, "EXACT", 1_000)
    large = Explored(whole)
    assert not large.exact
    assert large.notes({})["stages"].startswith("≈")
    for state in [{}, {"codec": "av1"}, *STATES[:11], {"gpu": 0, "quantile": 0.9}]:
        for _ in range(2):  # by the cube at first, then by the spans
            found, wanted = stages_of(large, **state), stages_of(exact, **state)
            assert found.keys() == wanted.keys()
            for stage, numbers in wanted.items():
                assert found[stage][0] == numbers[0]
                assert found[stage][1:] == pytest.approx(numbers[1:], rel=0.0101, abs=1)
            assert large.stages
    cube = latency.from_cube(whole.cube(), ("stage", "kind"), [0.5, 0.99])
    of_cube = dict(zip(cube.select("stage", "kind").rows(), cube["p99_ns"], strict=True))
    assert {stage: found[2] for stage, found in stages_of(large).items()} == {
        stage: value for stage, value in of_cube.items() if stage[1] != latency.FRAME
    }


def test_a_frame_is_taken_apart(whole: Run) -> None:
    explored = Explored(whole)
    frame = explored.answers({}, ["worst"])["worst"]["frame"][0]
    parts = explored.answers({"frame": frame}, ["waterfall"])["waterfall"]
    wanted = blame.waterfall(whole, int(frame))
    assert parts["duration_ns"].to_list() == wanted["duration_ns"].to_list()
    assert parts["from_ms"][0] == 0
    assert parts["to_ms"].max() == pytest.approx(wanted["duration_ns"].sum() / 1e6)
    unknown = explored.answers({"frame": 1}, ["waterfall", "stacks", "frame_memory"])
    assert not any(table.height for table in unknown.values())


def test_frames_beyond_the_quantile_have_their_worst_cause(whole: Run) -> None:
    state = {"quantile": 0.98}
    found = Explored(whole).answers(state, ["beyond"])["beyond"]
    frames = latency.late(whole.scan("frames"), whole.scan("streams"))
    blamed = blame.per_frame(whole, frames, blame.typical(whole, frames))
    worst = blamed.filter(pl.col("rank") == 1, pl.col("blamed_ns") > 0)
    wanted = {
        str(frame): f"{stage} · {CAUSE_WORDS[cause]}"
        for frame, cause, stage in worst.select("frame", "cause", "stage").iter_rows()
    }
    assert found["worst_cause"].drop_nulls().len() > 0
    assert found["worst_cause"].to_list() == [wanted.get(frame) for frame in found["frame"]]


def test_pauses_of_the_collector_are_seen_over_time(whole: Run) -> None:
    explored = Explored(whole)
    found = explored.answers({}, ["runtime"])["runtime"]
    pauses_seen = pauses.changes(whole.scan("gc_pauses"))
    assert found["ms"].max() == pauses_seen["duration_ns"].max() / 1e6
    middle = explored.seconds / 2
    later = explored.answers({"time_s": [middle, 1e6]}, ["runtime"])["runtime"]
    assert later["t_end_s"].min() >= middle
    assert 0 < later.height < found.height


def test_each_view_is_small_and_ready_to_draw(whole: Run) -> None:
    found = Explored(whole).answers()
    assert tuple(found) == VIEWS
    for view, table in found.items():
        assert table.height <= 4_000, view
        for column in ("t_s", "t_end_s", "low_ms", "latency_ms", "value_ms"):
            if column in table.columns:
                assert table[column].dtype == pl.Float64
                assert table[column].is_not_null().all()


def test_what_can_be_chosen(whole: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    explored = Explored(whole)
    options = explored.options()
    assert options["stream_id"] == [f"cam-0{n}" for n in range(8)]
    assert options["codec"] == ["av1", "h264", "hevc", "vp9"]
    assert options["gpu"] == [0, 1]
    assert "decode · reorder" in options["stage"]
    monkeypatch.setattr(module, "MOST_OPTIONS", 2)
    most_late = explored.answers({}, ["streams"])["streams"]["stream_id"].head(2)
    assert set(Explored(whole).options()["stream_id"]) == set(most_late)


def test_what_is_not_possible_is_said(whole: Run) -> None:
    explored = Explored(whole)
    with pytest.raises(InputError, match=r"no stage 'fly': choose among .*decode"):
        explored.answers({"stage": "fly"})
    with pytest.raises(InputError, match="no view 'x'"):
        explored.answers({}, ["x"])
    nobody = explored.answers({"stream_id": "of another run"})
    assert not nobody["latency"].height
    assert not nobody["streams"].height


def test_without_anything_recorded(tmp_path: Path) -> None:
    run = open_run(write_run(tmp_path / "run", frames=3, streams=1))
    few = Explored(run)
    found = few.answers({"quantile": 0.5})
    assert found["latency"]["frames"].sum() == 3
    assert found["worst"].height == 3
    assert found["streams"]["late"].sum() == 0
    assert "GpuMemory" in few.notes({})["memory"]
    assert "KernelEvents" in few.notes({})["kernel"]
    for table in ("frames", "spans"):
        empty = pl.read_parquet(tmp_path / f"run/{table}.parquet").clear()
        empty.write_parquet(tmp_path / f"run/{table}.parquet")
    none = Explored(open_run(tmp_path / "run"))
    assert not any(table.height for view, table in none.answers().items() if view != "runtime")
    assert "No frame was delivered" in none.notes({})["latency"]
    assert none.options()["stream_id"] == []
    assert none.seconds > 0


def test_a_run_that_is_deleted_under_it(path: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(path, copy)
    explored = Explored(open_run(copy))
    seen = explored.answers({}, ["latency"])["latency"]
    shutil.rmtree(copy)
    assert explored.answers({}, ["latency"])["latency"].equals(seen)
    for view in ("stages", "runtime", "memory"):
        with pytest.raises(RunError, match="no longer there"):
            explored.answers({}, [view])
    with pytest.raises(RunError, match="no longer there"):
        explored.answers({"frame": 5}, ["waterfall"])
    assert explored.grown
    with pytest.raises(RunError, match="no longer there"):
        explored.refresh()
    assert explored.answers({}, ["latency"])["latency"].equals(seen)


def test_a_run_that_grows(tmp_path: Path) -> None:
    path = write_segments(tmp_path / "run", frames=400, streams=2)
    events = next((path / "segments").glob("*-frame_events-*.arrows"))
    whole = events.read_bytes()
    events.write_bytes(whole[: len(whole) // 2])
    explored = Explored(open_run(path))
    before = explored.answers()["latency"]["frames"].sum()
    assert not explored.grown
    events.write_bytes(whole)
    assert explored.grown
    assert explored.answers()["latency"]["frames"].sum() == before
    said = explored.refresh()
    after = explored.answers({}, ["latency", "stages"])
    assert after["latency"]["frames"].sum() > before
    assert f"{after['latency']['frames'].sum():,} frames up to" in said
    assert stages_of(explored) == Exact(open_run(path)).stages()


def test_a_hundred_thousand_streams(path: Path, tmp_path: Path) -> None:
    count, copy = 100_000, tmp_path / "run"
    shutil.copytree(path, copy)
    for table in ("frames", "spans", "streams", "labels"):
        rows = pl.read_parquet(copy / f"{table}.parquet")
        if table == "labels":
            rows = rows.filter(pl.col("stream_id") == "cam-00").select(pl.exclude("labels"))
        elif table != "streams":
            rows = rows.filter(
                pl.col("stream_id") == "cam-00",
                pl.lit(True) if table == "frames" else pl.col("stage") == "encode",
            ).head(100)
        rows = pl.concat([rows.head(100)] * (count // rows.head(100).height))
        number = pl.int_range(pl.len())
        if table != "streams":
            rows = rows.with_columns(
                labels=number.cast(pl.UInt32), stream_id=pl.format("s-{}", number)
            )
        if table in ("frames", "spans"):
            rows = rows.with_columns(frame=number.cast(pl.UInt64))
        rows.write_parquet(copy / f"{table}.parquet")
    explored = Explored(open_run(copy))
    found = explored.answers(
        {"deadline_ms": 1.0}, ["latency", "streams", "stages", "worst", "tail"]
    )
    assert found["latency"]["frames"].sum() == len(explored.source.frames) > 18_000
    assert found["streams"].height == 40
    assert found["stages"]["count"].sum() == count
    assert len(explored.options()["stream_id"]) == 500
    one = explored.answers({"stream_id": "s-17777", "time_s": [0, 1e6]}, ["streams", "stages"])
    assert one["streams"]["frames"].to_list() == [1]
    assert one["stages"]["count"].to_list() == [1]
