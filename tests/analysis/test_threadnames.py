"""Threads' names: Python's before the kernel's, the last one, and those without any."""

from __future__ import annotations

from collections.abc import Callable

import polars as pl

from vidlab.analysis import threadnames
from vidlab.analysis.threadnames import THREAD, UNNAMED

Build = Callable[..., pl.DataFrame]


def rows(table: Build) -> pl.DataFrame:
    seen = [
        (1, 2, "python", False), (2, 2, "reader", True), (3, 2, "sorter", True),
        (4, 2, "python", False),  # the kernel's, as it ends
        (1, 3, "swscale", False), (2, 3, "swscale:1", False),
    ]  # fmt: skip
    columns = ("t_ns", "tid", "name", "python")
    return table("threads", [dict(zip(columns, row, strict=True)) for row in seen],
                 op="began", pid=1, daemon=False)  # fmt: skip


def test_pythons_last_name_counts_before_the_kernels(table: Build) -> None:
    found = threadnames.known(rows(table)).sort("tid")
    assert found.select("tid", "name", "python").rows() == [
        (2, "sorter", True),
        (3, "swscale:1", False),
    ]


def test_rows_are_named_in_their_order(table: Build) -> None:
    of = pl.DataFrame({"pid": [1] * 4, "tid": [9, 3, 1, 2]}, schema_overrides={
        "pid": pl.Int32, "tid": pl.Int32})  # fmt: skip
    names = threadnames.known(rows(table))
    found = threadnames.named(of, names)
    assert found["name"].to_list() == ["thread 9", "swscale:1", "MainThread", "sorter"]
    assert found["python"].to_list() == [None, False, None, True]
    found = threadnames.named(of, names, THREAD, UNNAMED)
    assert found[THREAD].to_list()[0] == UNNAMED


def test_samples_name_a_thread_where_nothing_else_does(table: Build) -> None:
    spans = pl.DataFrame({"span": [5, 6], "pid": [1, 1], "tid": [2, 4]}, schema={
        "span": pl.UInt64, "pid": pl.Int32, "tid": pl.Int32})  # fmt: skip
    borne = [{"t_ns": 1, "span": span, "thread": f"by {span}"} for span in (5, 6)]
    samples = table("profile_samples", borne, pid=1)
    found = threadnames.known(rows(table), samples, spans).sort("tid")
    assert found["name"].to_list() == ["sorter", "swscale:1", "by 6"]
    assert threadnames.known(None).is_empty()


def test_our_own_are_left_out() -> None:
    named = pl.DataFrame({"name": ["vidlab", "vidlab-probe", "video"]})
    assert threadnames.without_ours(named)["name"].to_list() == ["video"]
