"""What is said of profiles: answers on a real run, of slices of it, and where there are none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import vidlab as vl
from vidlab.analysis import cpu, profiles
from vidlab.lab import known_work, profile_pipeline
from vidlab.runs.run import Run
from vidlab.workbench import notebooks
from vidlab.workbench.kernel_section import Section
from vidlab.workbench.profile_section import NOTHING, ProfileSection
from vidlab.workbench.slices import Slice
from vidlab.workbench.tables import Table

ANSWERS = (
    "by_label", "by_stage", "by_thread", "table", "flame", "memory", "difference", "slow",
    "slowest", "pushes",
)  # fmt: skip

every_answer = pytest.mark.parametrize("answer", ANSWERS)


@pytest.fixture(scope="module")
def profiled(tmp_path_factory: pytest.TempPathFactory) -> Run:
    path = tmp_path_factory.mktemp("profiles") / "run"
    return vl.open_run(profile_pipeline.record_profiled_run(path, passes=2, sample_rate=400))


@pytest.fixture(scope="module")
def section(profiled: Run) -> ProfileSection:
    return ProfileSection(Slice(profiled))


def text_of(answer: Any) -> str:
    return str(answer.df) if isinstance(answer, Table) else str(answer.to_json())


@every_answer
def test_each_answer_of_a_run_that_has_all(section: ProfileSection, answer: str) -> None:
    text = text_of(getattr(section, answer)())
    assert "nothing recorded" not in text
    assert "too few for" not in text


@every_answer
def test_without_profiles_an_answer_is_none(run: Run, answer: str) -> None:
    section = ProfileSection(Slice(run))
    assert getattr(section, answer)() is None
    assert section.headline().text == NOTHING
    assert section.section() is None
    assert section.against(run) is None


def test_a_report_has_the_section_where_there_are_profiles(section: ProfileSection) -> None:
    found = section.section()
    assert isinstance(found, Section)
    assert "<h2>Profiles</h2>" in found._repr_html_()
    assert "Stages took" in found.text


def test_the_planted_search_and_the_slow_way_are_found(section: ProfileSection) -> None:
    by_stage = section._cpu("stage", "stream_id").filter(pl.col("stage") == "search")
    used = dict(by_stage.select("stream_id", "cpu_ns").iter_rows())
    searches = section.spans.filter(pl.col("stage") == "search")
    of_stream = searches.with_columns(pl.col("stream_id").cast(pl.String)).group_by("stream_id")
    assert used == dict(of_stream.agg(pl.col("cpu_ns").sum()).iter_rows())
    # By the median: where a machine's CPUs are taken away, a single span may have used much.
    middle = dict(of_stream.agg(pl.col("cpu_ns").median()).iter_rows())
    assert middle[profile_pipeline.EAGER_STREAM] > 1.5 * middle["cam-1"]
    # By CPU, not by duration: on a busy machine any span may take long.
    resized = section.spans.filter(pl.col("stage") == "resize").sort("cpu_ns")["span"].to_list()
    place = len(resized) - len(resized) // profile_pipeline.SLOW_EVERY
    before, after = (
        profiles.of_spans(section.samples, section.stacks, section.spans, chosen)
        for chosen in (resized[:place], resized[place:])
    )
    found = profiles.difference(before, after)
    there = found.filter(pl.col("name").str.contains(profile_pipeline.SLOW_FUNCTION))
    assert there["after_ns"].sum() > 2 * there["before_ns"].sum()


def test_a_slice_has_its_own_cpu_and_stacks(profiled: Run, section: ProfileSection) -> None:
    part = ProfileSection(Slice(profiled, stream_id="cam-2"))
    table = part.table("stage")
    assert isinstance(table, Table)
    whole = section._cpu("stage", "stream_id").filter(pl.col("stream_id") == "cam-2")
    assert table.df["cpu_ns"].sum() == pytest.approx(whole["cpu_ns"].sum(), rel=0.01)
    text = text_of(part.flame("codec"))
    assert "mpeg2video" in text
    assert "h264" not in text
    assert "no two values" in part.difference().text
    assert "nothing recorded" in text_of(ProfileSection(Slice(profiled, gpu=7)).by_label())


def test_from_a_frame_to_the_stacks_seen_while_it_was_worked_on(section: ProfileSection) -> None:
    seen = section.samples.filter(pl.col("frame").is_not_null())
    frame = seen.group_by("frame").agg(pl.col("samples").sum()).sort("samples")["frame"][-1]
    found = section.stacks_of_frame(frame)
    assert found.df["samples"].sum() >= 1
    assert "_Stream" in str(found.df["calls"].to_list())
    assert str(frame) in found.caption


def test_two_runs_are_compared_for_each_frame(section: ProfileSection, profiled: Run) -> None:
    text = text_of(section.against(profiled))
    assert profiled.manifest.run_id in text
    assert "for each frame" in text


def test_the_notebook_answers(profiled: Run) -> None:
    source = Path(__file__).parents[2] / "notebooks" / "05_profiles.ipynb"
    executed = notebooks.execute(source, {"run": str(profiled.path)})
    outputs = [output for cell in executed.cells for output in cell.get("outputs", [])]
    text = json.dumps(outputs)
    assert text.count("vidlab-chart") >= 9
    assert profile_pipeline.SLOW_FUNCTION in text
    assert "Stages took" in text
    assert "The slowest span of resize" in text
    assert not any(output.output_type == "error" for output in outputs)


def test_labels_have_the_cpu_that_another_clock_measured(tmp_path: Path) -> None:
    known = known_work.record_known_work(tmp_path / "run", seconds=2.0, neighbours=1)
    run = vl.open_run(known.path)
    found = cpu.by_label(
        run.scan("spans"),
        run.scan("profile_samples"),
        known_work.LABEL,
        run.scan("thread_waits"),
        run.scan("threads"),
    )
    ours = dict(found.select(known_work.LABEL, "in_stages_ns").iter_rows())
    for kind in (known_work.DECODE, known_work.NUMPY, known_work.PYTHON):
        assert ours[kind] == pytest.approx(known.cpu_ns[kind], rel=0.05), kind
    slept = known_work.SLEEP
    assert abs(ours[slept] - known.cpu_ns[slept]) < 0.05 * known.took_ns[slept]
    assert found["samples"].sum() > 0
