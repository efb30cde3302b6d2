"""The page's own percentiles are those of the analysis, slice by slice."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import polars as pl
import pytest
import vl_convert

from vidlab.analysis import latency
from vidlab.charts import cube, theme
from vidlab.histogram import GAMMA, ZERO_BUCKET, Histogram, bucket_of, value_of
from vidlab.runs.run import Run


def shown(chart: Any) -> dict[str, tuple[float, ...]]:
    """What the chart's table says: row -> (median in ms, the quantile in ms, counted)."""
    svg = vl_convert.vegalite_to_svg(chart.to_json(), vl_version="6.4")
    table: dict[str, tuple[float, ...]] = {}
    for field in ("median_ms", "value_ms", "total"):
        for row, text in re.findall(rf'"row: ([^;"]+); {field}: ([\d.,]+)"', svg):
            table[row] = (*table.get(row, ()), float(text.replace(",", "")))
    return table


def expected(rows: pl.DataFrame, quantile: float) -> dict[str, tuple[float, ...]]:
    by = ["stage", "kind"]
    spans = latency.from_cube(rows, by, sorted({0.5, quantile}))
    frames = latency.end_to_end_from_cube(rows, by, sorted({0.5, quantile}))
    table = pl.concat([spans, frames]).with_columns(theme.stage_row().alias("row"))
    column = [name for name in table.columns if re.fullmatch(r"p[\d_]+_ns", name)][-1]
    return {
        row["row"]: (row["p50_ns"] / 1e6, row[column] / 1e6, row["count"])
        for row in table.iter_rows(named=True)
    }


@pytest.mark.parametrize(
    ("chosen", "quantile"),
    [
        ({}, 0.99),
        ({}, 0.5),
        ({"codec": "av1"}, 0.999),
        ({"stream_id": "cam-00"}, 0.9),
        ({"gpu": 0}, 0.99),
        ({"codec": "h264", "gpu": 0}, 0.95),
    ],
)
def test_the_numbers_are_those_of_the_analysis(
    run: Run, chosen: dict[str, Any], quantile: float
) -> None:
    rows = run.cube()
    part = rows.filter(
        pl.lit(True), *(pl.col(label).cast(pl.String) == str(v) for label, v in chosen.items())
    )
    want = expected(part, quantile)
    got = shown(cube.percentiles(rows, quantile=quantile, **chosen))
    assert want.keys() == got.keys()
    for name, numbers in want.items():
        # The table shows three digits.
        np.testing.assert_allclose(got[name], numbers, rtol=5.1e-3, err_msg=name)


def test_a_slice_without_rows_says_so(run: Run) -> None:
    chart = cube.percentiles(run.cube(), stream_id="cam-00", codec="vp9")
    svg = vl_convert.vegalite_to_svg(chart.to_json(), vl_version="6.4")
    assert "nothing recorded for this choice" in svg
    whole = vl_convert.vegalite_to_svg(cube.percentiles(run.cube()).to_json(), vl_version="6.4")
    assert "nothing recorded for this choice" not in whole


def test_sampled_spans_count_for_what_they_stand_for() -> None:
    rows = pl.DataFrame(
        {
            "stage": "decode",
            "kind": "service",
            "codec": "av1",
            "gpu": pl.Series([None, None], dtype=pl.Int16),
            "stream_id": "cam",
            "bucket": pl.Series([600, 700], dtype=pl.Int32),
            "count": [100.0, 2.5],
            "total_ns": [1.0, 1.0],
        }
    )
    median, high, counted = shown(cube.percentiles(rows, quantile=0.99))["decode"]
    assert median == pytest.approx(value_of(600) / 1e6, rel=5e-3)
    assert high == pytest.approx(value_of(700) / 1e6, rel=5e-3)
    assert counted == pytest.approx(102.5, abs=0.6)


def test_a_large_cube_is_coarsened_exactly() -> None:
    rng = np.random.default_rng(3)
    values = rng.lognormal(15, 2, 20_000)
    fine = Histogram.of(np.append(values, 0))
    rows = pl.DataFrame({"bucket": fine.buckets, "count": fine.counts, "total_ns": fine.counts})
    coarse, gamma = cube.coarsened(rows, rows=fine.buckets.size - 1)
    assert gamma == GAMMA**2
    assert coarse["count"].sum() == len(values) + 1
    counted = dict(coarse.select("bucket", "count").iter_rows())
    assert counted.pop(ZERO_BUCKET) == 1
    # The same buckets as if they had been counted with the coarser gamma.
    direct = np.ceil(np.log(values) / np.log(gamma) - 1e-9).astype(int)
    assert counted == {
        int(b): int(c) for b, c in zip(*np.unique(direct, return_counts=True), strict=True)
    }
    same, unchanged = cube.coarsened(rows)
    assert unchanged == GAMMA
    assert same.equals(rows)


def test_a_page_never_carries_more_rows_than_it_can_work_with() -> None:
    buckets = bucket_of(np.geomspace(1e3, 1e10, 900))
    part = pl.DataFrame({"bucket": np.unique(buckets), "count": 1.0, "total_ns": 1.0})
    streams = pl.DataFrame(
        {
            "stream_id": [f"cam-{n}" for n in range(100)],
            "stage": "decode",
            "kind": "service",
            "codec": "av1",
            "gpu": pl.Series([0] * 100, dtype=pl.Int16),
        }
    )
    rows = streams.join(part, how="cross").with_columns(pl.col("bucket").cast(pl.Int32))
    assert rows.height > cube.MAX_ROWS
    spec = cube.percentiles(rows).to_dict()
    [groups] = [values for values in spec["datasets"].values() if "bucket" in values[0]]
    assert sum(len(group["bucket"]) for group in groups) <= cube.MAX_ROWS
    assert "coarser than recorded" in " ".join(spec["vconcat"][0]["title"]["subtitle"])
    assert "within 2%" in " ".join(spec["vconcat"][0]["title"]["subtitle"])
