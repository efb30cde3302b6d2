"""`vidlab import-pprof`: any pprof file becomes a run of its own."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

import vidlab as vl
from vidlab.errors import InputError, RecordingError
from vidlab.formats import pprof
from vidlab.formats.pprof import Function, Label, Line, Location, Profile, Sample, ValueType
from vidlab.runs.run import Run, open_run
from vidlab.runs.verification import verify
from vidlab.workbench import importing

WHEN_NS = 1_780_000_000_123_456_789
DECODE = Location(1, lines=(Line(Function(1, "decode", filename="video.py"), 12),))
MAIN = Location(2, lines=(Line(Function(2, "main", filename="app.py"), 40),))
CODEC = Location(3, address=0x7F10)


def sample(stack: tuple[Location, ...], seen: int, **labels: str | int) -> Sample:
    kept = [
        Label(key.replace("__", "."), text=value)
        if isinstance(value, str)
        else Label(key, number=value, unit="bytes")
        for key, value in labels.items()
    ]
    return Sample(stack, (seen, seen * 10_000_000), tuple(kept))


def profile(*samples: Sample) -> Profile:
    return Profile(
        sample_types=(ValueType("samples", "count"), ValueType("cpu", "nanoseconds")),
        samples=samples,
        locations=(DECODE, MAIN, CODEC),
        functions=(DECODE.lines[0].function, MAIN.lines[0].function),
        time_nanos=WHEN_NS,
        duration_nanos=2_500_000_000,
        period_type=ValueType("cpu", "nanoseconds"),
        period=10_000_000,
        comments=("taken by hand",),
    )


PROFILE = profile(
    sample((DECODE, MAIN), 3, stream_id="cam-1", codec="h264", thread_name="worker", span="77"),
    sample((CODEC, DECODE, MAIN), 2, stream_id="cam-1", codec="h264", size=4096),
    sample((MAIN,), 1, stream_id="cam-2", gpu="A100", http__route="/live", thread="main"),
    sample((MAIN,), 1, gpu="0", vidlab_labels="9", span="none", **{"2nd": "yes"}),
    sample((), 4),
    sample((MAIN,), 0),
)


def saved(folder: Path, profile: Profile, name: str = "cpu.pprof") -> Path:
    path = folder / name
    path.write_bytes(pprof.write(profile))
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("import")
    return importing.import_pprof(saved(folder, PROFILE), folder / "run")


def test_every_value_that_is_not_zero_has_a_row(run: Run) -> None:
    rows = run.scan("profile_samples").collect()
    assert (rows["pid"] != 0).all()
    assert set(rows["profile"]) == {"process_cpu"}
    assert rows.select("type", "unit").unique().sort("type").rows() == [
        ("cpu", "nanoseconds"),
        ("samples", "count"),
    ]
    cpu = rows.filter(pl.col("type") == "cpu")
    assert sorted(cpu["value"]) == [10_000_000, 10_000_000, 20_000_000, 30_000_000, 40_000_000]
    assert (cpu["value"] == cpu["samples"] * 10_000_000).all()
    counted = rows.filter(pl.col("type") == "samples")
    assert (counted["value"] == counted["samples"]).all()
    assert counted.height == 5


def test_stacks_are_those_of_the_file(run: Run) -> None:
    rows = run.scan("profile_samples").filter(pl.col("type") == "samples").collect()
    stacks = {None: ()} | {
        stack: tuple(tuple(call.values()) for call in calls)
        for stack, calls in run.scan("stacks").collect().rows()
    }
    decode, main = ("decode", "video.py", 12), ("main", "app.py", 40)
    by_stack = rows.group_by("stack").agg(pl.col("value").sum())
    sums = {stacks[stack]: value for stack, value in by_stack.rows()}
    assert sums == {
        (decode, main): 3,
        (("0x7f10", "", 0), decode, main): 2,
        (main,): 2,
        (): 4,
    }


def test_labels_threads_and_spans_are_columns(run: Run) -> None:
    rows = run.scan("profile_samples").filter(pl.col("type") == "samples").collect()
    keys = (
        "value",
        "stream_id",
        "codec",
        "gpu",
        "thread",
        "span",
        "gpu_name",
        "http_route",
        "_2nd",
    )
    found = set(rows.select(pl.col(keys)).rows())
    assert found == {
        (3, "cam-1", "h264", None, "worker", 77, None, None, None),
        (2, "cam-1", "h264", None, None, None, None, None, None),
        (1, "cam-2", None, None, "main", None, "A100", "/live", None),
        (1, None, None, 0, None, None, None, None, "yes"),
        (4, None, None, None, None, None, None, None, None),
    }
    assert not {"size", "vidlab_labels", "thread_name"} & set(rows.columns)


def test_the_run_begins_when_the_profile_did(run: Run) -> None:
    started, ended = run.manifest.started, run.manifest.ended
    assert started.wall_ns == WHEN_NS
    assert ended.wall_ns - started.wall_ns == 2_500_000_000
    rows = run.scan("profile_samples").collect()
    assert set(rows["t_ns"]) == {started.monotonic_ns}
    assert set(rows["duration_ns"]) == {2_500_000_000}
    assert datetime.fromtimestamp(started.wall_ns / 1e9, UTC).year == 2026
    assert "it was taken" not in run.notes[0]


def test_the_run_is_a_sound_one_and_says_where_it_is_from(run: Run) -> None:
    assert run.state == "complete"
    assert verify(run.path) == []
    assert run.notes == [
        "imported from cpu.pprof: host and versions are of the machine that imported it"
    ]
    assert importing.summary(run) == (
        f"imported {run.path.parent / 'cpu.pprof'}, 6 samples of samples (count), cpu "
        "(nanoseconds) in 2.5 s, labels _2nd, codec, gpu, http_route, stream_id: "
        f"vidlab report {run.path}"
    )
    (engine,) = run.manifest.engines
    assert engine.parameters["comments"] == ["taken by hand"]


@pytest.mark.parametrize(
    ("types", "period", "name"),
    [
        (["alloc_space", "inuse_space"], "space", "memory"),
        (["contentions", "delay"], "contentions", "contentions"),
        (["wall"], None, "wall"),
        (["cpu"], "cpu", "process_cpu"),
    ],
)
def test_a_profile_has_the_name_that_others_call_it(
    types: list[str], period: str | None, name: str
) -> None:
    given = Profile(
        sample_types=tuple(ValueType(type, "count") for type in types),
        period_type=None if period is None else ValueType(period, "count"),
    )
    assert importing.profile_name(pprof.samples(pprof.write(given))) == name


def test_a_profile_without_a_time_is_of_now(tmp_path: Path) -> None:
    given = dataclasses.replace(PROFILE, time_nanos=0, duration_nanos=0)
    run = importing.import_pprof(saved(tmp_path, given), tmp_path / "run")
    assert abs(run.manifest.started.wall_ns / 1e9 - datetime.now(UTC).timestamp()) < 600
    assert "does not tell when it was taken" in run.notes[0]
    assert " in 0" not in importing.summary(run)


def test_a_recording_that_runs_meanwhile_is_not_disturbed(tmp_path: Path) -> None:
    source = saved(tmp_path, PROFILE)
    with (
        vl.record(tmp_path / "recorded", engines=[vl.Frames()]),
        vl.labels(stream_id="own"),
        vl.stage("filter"),
    ):
        imported = importing.import_pprof(source, tmp_path / "imported")
    recorded = open_run(tmp_path / "recorded")
    assert recorded.scan("spans").collect()["stage"].to_list() == ["filter"]
    assert recorded.scan("profile_samples").collect().is_empty()
    assert imported.scan("profile_samples").collect().height == 10
    assert imported.scan("spans").collect().is_empty()


# --- what cannot be imported --------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "data", "what"),
    [
        ("none.pprof", None, "does not exist: give a pprof file"),
        (".", None, "is a folder"),
        ("page.html", b"<html></html>", "page.html: not a pprof profile"),
        ("cut.pprof", pprof.write(PROFILE)[:-20], r"cut.pprof: the profile is cut off"),
        ("empty.pprof", pprof.write(profile()), "without samples"),
    ],
)
def test_what_is_no_profile_makes_no_run(
    tmp_path: Path, name: str, data: bytes | None, what: str
) -> None:
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=what):
        importing.import_pprof(tmp_path / name, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_is_replaced_only_if_that_is_asked_for(tmp_path: Path) -> None:
    source, path = saved(tmp_path, PROFILE), tmp_path / "run"
    first = importing.import_pprof(source, path).manifest.run_id
    with pytest.raises(RecordingError, match="overwrite=True"):
        importing.import_pprof(source, path)
    assert open_run(path).manifest.run_id == first
    assert importing.import_pprof(source, path, overwrite=True).manifest.run_id != first


def test_an_import_that_fails_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(importing, "compact", fails)
    with pytest.raises(RecordingError, match="No space left on device"):
        importing.import_pprof(saved(tmp_path, PROFILE), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_recorded_run_is_no_imported_one(run: Run, tmp_path: Path) -> None:
    with vl.record(tmp_path / "own", engines=[]):
        pass
    with pytest.raises(InputError, match="not imported"):
        importing.summary(open_run(tmp_path / "own"))
