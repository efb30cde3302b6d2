"""The chart of what labels cost."""

from __future__ import annotations

import polars as pl

from vidlab.charts import labelcosts

ROW = {
    "key": "session",
    "values": 510,
    "sets": 600,
    "sets_added": 598,
    "rows": 9_000,
    "bytes": 1 << 20,
    "memory_bytes": 1 << 19,
    "rules": "budget",
    "folded": 9_500,
}


def test_values_sets_and_rows_are_shown() -> None:
    plain = {"rules": None, "folded": 0, "bytes": None, "values": 4}
    chart = labelcosts.costs(pl.DataFrame([ROW, {**ROW, "key": "stream_id", **plain}]), lost=3)
    text = chart.to_json()
    assert "510 + at least 9500 changed (budget)" in text
    assert "598 (512 KiB)" in text
    assert "9000, 1 MiB" in text
    assert "3 rows lost while recording" in text
    for panel in ("distinct values", "label sets that it adds", "recorded rows that bear it"):
        assert panel in text


def test_only_the_costliest_are_shown() -> None:
    many = pl.DataFrame([{**ROW, "key": f"key{n}"} for n in range(25)])
    text = labelcosts.costs(many).to_json()
    assert "5 keys that add less are left out" in text
    assert "key19" in text
    assert "key20" not in text


def test_no_label() -> None:
    assert "no label was recorded" in labelcosts.costs(pl.DataFrame([ROW]).clear()).to_json()
