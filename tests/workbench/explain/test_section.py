"""The report's section shows the latest frames."""

from __future__ import annotations

from tests.workbench.made_runs import made_run, story
from vidlab.workbench.explain.section import ExplainSection
from vidlab.workbench.slices import Slice


def test_the_section_shows_the_latest_frames_of_each_stream() -> None:
    section = ExplainSection(Slice(made_run()))
    assert [told.name for told in section.worst] == ["cam-3:30", "cam-1:20", "cam-3:31"]
    charts = section.waterfalls().to_dict()["vconcat"]
    assert [chart["title"]["text"].partition(" ")[0] for chart in charts] == [
        told.name for told in section.worst
    ]
    assert section.by_stream().to_dict()
    assert section.ranking().to_dict()
    table = section.table()
    assert table is not None
    assert table.df.height == 8
    assert "waiting in a queue" in table.df["cause"].to_list()


def test_the_section_is_silent_where_nothing_was_late() -> None:
    made = story()
    made.tables["frames"] = [row for row in made.tables["frames"] if row["fate"] == "delivered"]
    section = ExplainSection(Slice(made_run(made), deadline_ms=5_000))
    assert section.waterfalls() is None
    assert section.by_stream() is None
    assert section.ranking() is None
    assert section.table() is None
    assert "None of 80" in str(section.headline())
