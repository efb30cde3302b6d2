"""What was recorded beside frames is seen as its own analyses tell it."""

from __future__ import annotations

import polars as pl
import pytest

from vidlab.analysis import flame, kernel, memory, offcpu, profiles, wakeups
from vidlab.analysis.appearance import codec_colour
from vidlab.runs.run import Run
from vidlab.workbench.explorer import profiled, signals
from vidlab.workbench.explorer.answers import Explored
from vidlab.workbench.explorer.drawn import STREAMS, drawn, legends


@pytest.fixture(scope="module")
def explored(recorded: Run) -> Explored:
    return Explored(recorded)


def view(explored: Explored, name: str, **state: object) -> pl.DataFrame:
    found = explored.answers(state, [name])[name]
    assert found.height
    return found


@pytest.mark.parametrize("labels", [{}, {"codec": "av1"}, {"stream_id": "cam-2"}], ids=str)
def test_memory_in_use(explored: Explored, recorded: Run, labels: dict[str, str]) -> None:
    found = view(explored, "memory", **labels)
    wanted = memory.at(recorded.scan("allocations"), 1 << 62, where=labels)
    last = found.filter(pl.col("t_end_s") == pl.col("t_end_s").max())
    assert last["in_use_bytes"].sum() == wanted["in_use_bytes"].item()
    middle = (found["t_s"].min() + found["t_end_s"].max()) / 2  # type: ignore[operator]
    part = view(explored, "memory", **labels, time_s=[middle, 1e6])
    assert part["t_end_s"].min() > middle - 0.01  # type: ignore[operator]
    assert part.filter(pl.col("t_end_s") == pl.col("t_end_s").max())["in_use_bytes"].sum() == (
        last["in_use_bytes"].sum()
    )
    own = recorded.scan("allocations").collect()
    for t_s, end_s in part.select("t_s", "t_end_s").unique().sort("t_s").head(20).iter_rows():
        end_ns = explored.source.start_ns + round(end_s * 1e9) - 1
        whole = memory.at(own, end_ns, where=labels)["in_use_bytes"].item()
        assert part.filter(pl.col("t_s") == t_s)["in_use_bytes"].sum() == whole


def test_memory_has_the_codecs_colours_until_streams_are_told_apart(explored: Explored) -> None:
    whole, of_av1 = (
        legends({"memory": drawn("memory", view(explored, "memory", **labels))})
        for labels in ({}, {"codec": "av1"})
    )
    assert whole["label_colours"] == [codec_colour(codec) for codec in whole["labels"]]
    assert "av1" in whole["labels"]
    assert of_av1 == {"labels": ["cam-3"], "label_colours": [STREAMS[0]]}


def test_many_labels_of_memory_are_put_together(
    recorded: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = view(Explored(recorded), "memory")
    monkeypatch.setattr(signals, "_TOLD", 1)
    few = view(Explored(recorded), "memory")
    assert set(few["codec"]) > {signals.OTHERS}
    assert few["codec"].n_unique() == 2
    total = pl.col("in_use_bytes").sum()
    times = ["t_s", "t_end_s"]
    sums = [table.group_by(times).agg(total).sort(times) for table in (every, few)]
    assert sums[0].equals(sums[1])


@pytest.mark.parametrize("state", [{}, {"codec": "hevc"}, {"stage": "filter"}], ids=str)
def test_time_off_the_cpu(explored: Explored, recorded: Run, state: dict[str, str]) -> None:
    found = view(explored, "kernel", **state)
    events = kernel.identified(recorded.scan("kernel_offcpu"), recorded.scan("spans")).collect()
    for name, value in state.items():
        events = events.filter(pl.col(name).cast(pl.String) == value)
    spent = events.group_by(pl.col("state").cast(pl.String)).agg(pl.col("duration_ns").sum())
    width = pl.col("t_end_s") - pl.col("t_s")
    seen = found.group_by("state").agg((pl.col("threads") * width).sum())
    wanted = {name: ns / 1e9 for name, ns in spent.iter_rows()}
    assert dict(seen.iter_rows()) == pytest.approx(wanted, rel=0.02)
    assert found.height <= 4_000
    assert offcpu.over_time(events).height


def test_hold_ups_of_the_interpreter(explored: Explored, recorded: Run) -> None:
    found = view(explored, "runtime", codec="av1")
    woken = wakeups.identified(
        recorded.scan("wakeups"), recorded.scan("gc_pauses"), recorded.scan("runtime_metrics")
    )
    pauses = recorded.scan("gc_pauses").collect()
    longest = dict(found.group_by("what").agg(pl.col("ms").max()).iter_rows())
    assert longest == pytest.approx(
        {
            "gc": pauses["duration_ns"].max() / 1e6,  # type: ignore[operator]
            "run queue": woken["runqueue_ns"].max() / 1e6,  # type: ignore[operator]
            "GIL": woken["gil_ns"].max() / 1e6,  # type: ignore[operator]
        }
    )
    assert "whole process" in explored.notes({"codec": "av1"})["runtime"]


def test_functions_and_stacks(explored: Explored, recorded: Run) -> None:
    found = view(explored, "profile")
    assert found["self_share"].sum() <= 1 + 1e-9
    assert (found["self_share"] <= found["total_share"] + 1e-9).all()
    assert found["total_share"].max() <= 1 + 1e-9  # type: ignore[operator]
    samples = recorded.scan("profile_samples").collect()
    own = samples.filter(pl.col("thread").cast(pl.String).fill_null("") != "(vidlab)")
    profile = profiles.of_type(own, recorded.scan("stacks"), "cpu")
    tree, wanted = view(explored, "flame"), profiles.flame(profile)
    assert tree["total_ns"].to_list() == wanted["total_ns"].to_list()
    part = view(explored, "profile", stage="filter")
    assert part["samples"].max() < found["samples"].max()  # type: ignore[operator]


def test_flame_graphs_have_few_boxes(recorded: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = view(Explored(recorded), "flame")
    monkeypatch.setattr(profiled, "MOST_BOXES", 20)
    few = view(Explored(recorded), "flame")
    assert few.height <= 20 < whole.height
    assert few["total_ns"][0] == whole["total_ns"][0]


def test_from_a_percentile_to_its_frames_and_what_they_took(
    explored: Explored, recorded: Run
) -> None:
    state = {"quantile": 0.6}
    frames = recorded.scan("frames").collect()
    beyond = explored._views.beyond({**explored_state(), **state})
    ids = explored.source.frame_ids[beyond.frame].tolist()
    assert len(ids) > frames.height / 4
    own = recorded.scan("allocations").filter(pl.col("frame").is_in(ids)).collect()
    tree = view(explored, "beyond_memory", **state)
    assert tree["total_bytes"][0] == (flame.memory(own, measure="allocated")["total_bytes"][0])
    cpu = view(explored, "beyond_flame", **state)
    samples = recorded.scan("profile_samples").filter(pl.col("frame").is_in(ids)).collect()
    assert cpu["total_ns"][0] == samples["value"].sum()


def explored_state() -> dict[str, object]:
    from vidlab.workbench.explorer import state as states

    return states.checked(None)


def test_one_frame(explored: Explored, recorded: Run) -> None:
    allocations = recorded.scan("allocations").collect()
    frame = allocations["frame"].drop_nulls().mode().sort()[0]
    found = view(explored, "frame_memory", frame=frame)
    own = allocations.filter(pl.col("frame") == frame).sort("t_ns")
    assert found["size_bytes"].to_list() == own["size_bytes"].to_list()
    assert found["site"].str.contains(":").any()
    assert (found["t_ms"] >= 0).all()
    samples = recorded.scan("profile_samples").collect()
    seen = samples.filter(pl.col("samples") > 0)["frame"].drop_nulls().mode().sort()[0]
    stacks = view(explored, "stacks", frame=str(seen))
    spans = recorded.scan("spans").filter(pl.col("frame") == seen).collect()
    assert 0 < stacks["cpu_ns"].sum() <= spans["cpu_ns"].sum() * 1.01
