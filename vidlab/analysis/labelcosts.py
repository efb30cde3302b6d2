"""What each label key costs, and what rules have done to its values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from ..runs.interning import COLUMN_KEYS
from ..runs.run import Run

#: What a label set takes in the memory of the process that makes it, about, in bytes.
SET_BYTES = 800

_COSTS = {
    "key": pl.String,
    "values": pl.Int64,
    "sets": pl.Int64,
    "sets_added": pl.Int64,
    "rows": pl.Int64,
    "bytes": pl.Int64,
    "memory_bytes": pl.Int64,
    "rules": pl.String,
    "folded": pl.Int64,
}


def costs(run: Run) -> pl.DataFrame:
    """Return what each label key of a run costs.

    Parameters
    ----------
    run : Run

    Returns
    -------
    polars.DataFrame
        `key`, `values` (distinct ones, of labels that rows have), `sets` (label sets of
        rows that bear the key), `sets_added` (so many fewer there would be without it),
        `rows` (of all tables, that bear it), `bytes` (what these rows take on the disk;
        null if the run is not compacted), `memory_bytes` (of the sets it adds, in the
        process that recorded them, estimated), `rules` (that changed values of it:
        "budget", "redact"; null if none did), `folded` (distinct values that rules changed,
        at least: of the process where they were most). Keys that a rule has dropped are
        there too. By what they add, the most first.
    """
    counts, known = _rows_of_sets(run), _sets(run)
    # What no row has may be of a recording before this one, by the same process.
    sets = [known[number] for number in sorted(set().union(*counts.values()))]
    whole = (
        _by_table(run, counts, known)
        .group_by("key")
        .agg(
            pl.col("rows").sum(),
            pl.when(pl.col("bytes").is_not_null().all()).then(pl.col("bytes").sum()),
        )
        .rows_by_key("key", named=True, unique=True)
    )
    ruled = _rules(run)
    rows = []
    for key in sorted({key for values in sets for key in values} | ruled.keys()):
        bearing = [values[key] for values in sets if key in values]
        added = _distinct(sets) - _distinct(sets, without=key)
        rows.append(
            {
                "key": key,
                "values": len(set(bearing)),
                "sets": len(bearing),
                "sets_added": added,
                "memory_bytes": added * SET_BYTES,
                **(whole.get(key) or {"rows": 0, "bytes": 0 if run.compacted else None}),
                **ruled.get(key, {"rules": None, "folded": 0}),
            }
        )
    order = ["sets_added", "rows", "key"]
    return pl.DataFrame(rows, schema=_COSTS).sort(order, descending=[True, True, False])


def by_table(run: Run) -> pl.DataFrame:
    """Return how many rows of each table bear each label key.

    Returns
    -------
    polars.DataFrame
        `key`, `table`, `rows` that bear it, `share` of the table's rows, and `bytes`, that
        share of what the table takes on the disk; null if the run is not compacted.
        The most rows first.
    """
    return _by_table(run, _rows_of_sets(run), _sets(run))


def _by_table(
    run: Run, counts: Mapping[str, Mapping[int, int]], sets: Sequence[Mapping[str, Any]]
) -> pl.DataFrame:
    found = []
    for table, rows_of in counts.items():
        every = sum(rows_of.values())
        facts = run.manifest.tables.get(table)
        bearing: Counter[str] = Counter()
        for number, rows in rows_of.items():
            bearing.update(dict.fromkeys(sets[number], rows))
        for key, rows in bearing.items():
            size = None if facts is None else round(facts.bytes * rows / every)
            found.append((key, table, rows, rows / every, size))
    schema = {
        "key": pl.String,
        "table": pl.String,
        "rows": pl.Int64,
        "share": pl.Float64,
        "bytes": pl.Int64,
    }
    return pl.DataFrame(found, schema, orient="row").sort(
        "rows", "key", "table", descending=[True, False, False]
    )


def rules(run: Run) -> pl.DataFrame:
    """Return what the rules for labels came to, in each process that they had work in.

    Returns
    -------
    polars.DataFrame
        `pid`, `key`, `rule` (budget, keep, redact, drop), `limit` (distinct values, or the
        share that is kept), `values` (distinct ones written as they are), `folded` (distinct
        ones that were changed, at least) and `buckets` (what they were changed to).
    """
    return (
        run.scan("label_rules")
        .sort("t_ns")
        .with_columns(pl.col("key", "rule").cast(pl.String))
        .group_by("pid", "key", "rule")
        .agg(pl.col("limit", "values", "folded", "buckets").last())
        .sort("key", "rule", "pid")
        .collect()
    )


def _rules(run: Run) -> dict[str, dict[str, Any]]:
    """By key: the rules that changed values of it, and how many."""
    found: dict[str, dict[str, Any]] = (
        rules(run)
        .group_by("key")
        .agg(
            pl.col("rule").unique().sort().str.join(", ").alias("rules"),
            pl.col("folded").max(),
        )
        .rows_by_key("key", named=True, unique=True)
    )
    return found


def _rows_of_sets(run: Run) -> dict[str, dict[int, int]]:
    """By table and label set: how many rows there are."""
    found = {}
    for table in run.tables():
        rows = run.scan(table)
        if table != "labels" and "labels" in rows.collect_schema():
            counted = rows.drop_nulls("labels").group_by("labels").len()
            found[table] = dict(counted.collect().iter_rows())
    return found


def _sets(run: Run) -> list[dict[str, Any]]:
    """The labels of each set, by its number."""
    rows = run.scan("labels").sort("labels").collect()
    return [_values(row) for row in rows.iter_rows(named=True)]


def _values(row: Mapping[str, Any]) -> dict[str, Any]:
    """The labels of a row of the table `labels`."""
    own = {key: row[key] for key in COLUMN_KEYS if row[key] is not None}
    other = row["other"] or {}
    if not isinstance(other, Mapping):  # polars before 2 reads a map as a list of pairs
        other = {pair["key"]: pair["value"] for pair in other}
    return {**own, **other}


def _distinct(sets: list[dict[str, Any]], without: str | None = None) -> int:
    """How many different sets there are if one key is left out."""
    return len(
        {
            tuple(sorted((key, value) for key, value in values.items() if key != without))
            for values in sets
        }
    )
