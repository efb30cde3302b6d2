"""Tables show units, set thousands apart, and never end a page's markup."""

from __future__ import annotations

import re

import polars as pl

from vidlab.runs.run import Run
from vidlab.workbench.tables import MAX_ROWS, Table, facts


def cells(table: Table) -> list[str]:
    return re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", table._repr_html_())


def test_durations_shares_and_counts_are_shown_with_units() -> None:
    df = pl.DataFrame(
        {
            "stream_id": ["cam"],
            "p99_9_ns": [12_345_678],
            "late_share": [0.125],
            "count": [1_234_567],
            "gpu": pl.Series([None], dtype=pl.Int16),
            "nominal_rate": [29.97],
        }
    )
    assert cells(Table(df)) == [
        *("stream", "p99.9, ms", "late share", "counted", "gpu", "nominal rate"),
        *("cam", "12.3", "12.5%", "1,234,567", "–", "30.0"),
    ]


def test_text_of_the_run_cannot_become_markup() -> None:
    shown = Table(pl.DataFrame({"name": ["<script>x</script>"]}), "a & <b>")._repr_html_()
    assert "<script>" not in shown
    assert "a &amp; &lt;b&gt;" in shown


def test_what_is_not_shown_is_counted() -> None:
    shown = Table(pl.DataFrame({"n": range(MAX_ROWS + 1_500)}))._repr_html_()
    assert "and 1,500 more" in shown
    assert shown.count("<tr>") == MAX_ROWS + 2


def test_an_empty_table_says_so() -> None:
    assert "Freezes: nothing recorded" in Table(pl.DataFrame({"n": []}), "Freezes")._repr_html_()


def test_the_facts_of_a_run(run: Run) -> None:
    known = dict(facts(run).df.iter_rows())
    assert known["run"] == run.manifest.run_id
    assert known["state"] == "complete"
    assert known["lasted"].endswith(" s")
    assert known["rows of frames"] == "1,200"
