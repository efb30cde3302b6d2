"""What every analysis does first: check its tables and bring them into one shape.

An analysis takes a polars LazyFrame or DataFrame with the columns of
`vidlab.schema.TABLES`, as `Run.scan` returns it, and returns a DataFrame. Text
columns may be Categorical, Enum or String on the way in; they are String on the way
out, so that results of different tables join.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import polars as pl
import pyarrow as pa

from .. import schema
from ..errors import InputError

#: What an analysis accepts as a table.
AnyTable = pl.LazyFrame | pl.DataFrame

#: The column that says how many frames, or spans, a recorded one stands for: 1 where nothing
#: is sampled. No label, being an identifier, is called so.
WEIGHT = "stands for"

#: The fates of frames that reached a sink.
DELIVERED = ("delivered", "duplicated")

_TEXT = (pl.String, pl.Categorical, pl.Enum)

# Columns of our own: no label, being an identifier, is called so.
_STREAM, _RATE, _SOME = "the stream", "rate of the span", "some spans stand for others"


@cache
def _types(table: str) -> dict[str, Any]:
    if table not in schema.TABLES:  # a table of kernel events: its probes have declared it
        return {}
    # Not `empty_table()`: pyarrow makes its dictionaries with pandas, which takes long to import.
    own = pl.from_arrow(pa.Table.from_batches([], schema.TABLES[table].arrow_schema))
    assert isinstance(own, pl.DataFrame)
    return dict(own.schema)


def lazy(table: AnyTable, name: str, columns: Iterable[str]) -> pl.LazyFrame:
    """Return the table as a LazyFrame of which these columns have the types of the schema.

    Parameters
    ----------
    table : polars.LazyFrame or polars.DataFrame
    name : str
        Which table of `vidlab.schema.TABLES` it should be.
    columns : iterable of str
        The columns that the analysis reads; others are left as they are.

    Raises
    ------
    InputError
        If it is no polars table, or a column is missing.
    """
    if not isinstance(table, AnyTable):
        raise InputError(
            f"the table {name!r} must be a polars LazyFrame or DataFrame, not a "
            f"{type(table).__name__}: pass run.scan({name!r}), or polars.from_pandas(…)"
        )
    found = table.lazy().collect_schema()
    wanted = list(dict.fromkeys(columns))
    missing = [column for column in wanted if column not in found]
    if missing:
        raise InputError(
            f"the table {name!r} has no column {', '.join(map(repr, missing))} "
            f"(it has {', '.join(found)}): pass run.scan({name!r}) with all its columns, "
            "or choose among these"
        )
    own = _types(name)
    casts = []
    for column in wanted:
        dtype = own.get(column, found[column])
        if dtype in _TEXT:
            dtype = found[column] if found[column] in _TEXT else pl.String
        if found[column] != dtype:
            casts.append(pl.col(column).cast(dtype))
    return table.lazy().with_columns(casts) if casts else table.lazy()


def names(by: str | Sequence[str]) -> list[str]:
    """Return the column names given as one name or as several, each once."""
    return [by] if isinstance(by, str) else list(dict.fromkeys(by))


def as_text(table: pl.LazyFrame, columns: Iterable[str]) -> pl.LazyFrame:
    """Return the table with those of these columns that are text as String."""
    dtypes = table.collect_schema()
    return table.with_columns(
        pl.col(column).cast(pl.String) for column in columns if dtypes[column] in _TEXT
    )


def plain(result: pl.DataFrame) -> pl.DataFrame:
    """Return the result with all text as String."""
    return result.with_columns(pl.col(pl.Categorical, pl.Enum).cast(pl.String))


def has(table: pl.LazyFrame, column: str) -> bool:
    """Return whether the table has this column."""
    return column in table.collect_schema()


def weighted(table: pl.LazyFrame) -> pl.LazyFrame:
    """Return the table with the column `WEIGHT`, 1 / sample_rate."""
    weight = 1.0 / pl.col("sample_rate") if has(table, "sample_rate") else pl.lit(1.0)
    return table.with_columns(weight.alias(WEIGHT))


def recorded_whole(
    frames: pl.LazyFrame, stream: pl.Expr, kept_frames: AnyTable | None = None
) -> pl.LazyFrame:
    """Return only the frames of streams of which every frame was recorded.

    Of others, what came between two recorded frames is unknown. A stream is one of these if
    any of its frames stands for more than itself, or was kept for what became of it.

    Parameters
    ----------
    frames : polars.LazyFrame
        Of the table `frames`, with all frames of each stream.
    stream : polars.Expr
        What names a frame's stream: a column or more that `kept_frames` has too.
    kept_frames : polars.LazyFrame or polars.DataFrame, optional
        The table `kept_frames`: needed only for streams so short that no frame was recorded
        but those kept for what became of them.
    """
    if kept_frames is not None:
        kept = lazy(kept_frames, "kept_frames", ("frame",)).select(stream.alias(_STREAM))
        told = frames.with_columns(stream.alias(_STREAM))
        both = as_text(told, [_STREAM]).join(as_text(kept, [_STREAM]), on=_STREAM, how="anti")
        frames = both.drop(_STREAM)
    if has(frames, "sample_rate"):
        frames = frames.filter(pl.col("sample_rate").eq(1.0).all().over(stream))
    return frames


def with_rates(
    rows: pl.LazyFrame, spans: pl.LazyFrame, on: str, columns: Sequence[str | pl.Expr] = ()
) -> pl.LazyFrame:
    """Return rows that name spans with the `sample_rate` of those, and with columns of them.

    A row that names no span keeps its own rate, 1 if it has none. Where only a sample of
    spans was recorded, those of rows whose span was not recorded are null: others stand for
    them, and `weighted` gives them no weight.

    Parameters
    ----------
    rows : polars.LazyFrame
        With the column `on`, the number of a span; 0 or null for none.
    spans : polars.LazyFrame
        The table `spans`, all of it.
    on : str
    columns : sequence of str or polars.Expr
        What to take from spans.
    """
    rate = pl.col("sample_rate") if has(spans, "sample_rate") else pl.lit(1.0)
    own = pl.col("sample_rate") if has(rows, "sample_rate") else pl.lit(1.0)
    known = spans.select(pl.col("span").alias(on), *columns, rate.alias(_RATE))
    some = spans.select((rate < 1.0).any().alias(_SOME)) if has(spans, "sample_rate") else None
    is_sampled = pl.col(_SOME).fill_null(value=False) if some is not None else pl.lit(False)
    joined = rows.join(known, on=on, how="left", maintain_order="left")
    stood_for = is_sampled & (pl.col(on).fill_null(0) > 0)
    return (
        (joined if some is None else joined.join(some, how="cross", maintain_order="left"))
        .with_columns(sample_rate=pl.coalesce(_RATE, pl.when(~stood_for).then(own)))
        .drop(_RATE, *([] if some is None else [_SOME]))
    )


def opened() -> pl.Expr:
    """Return what names the stream of a frame as it was opened: its number's upper half.

    A file that is opened twice is two of these.
    """
    return pl.col("frame") // (1 << 32)


def whole_number(weight: pl.Expr) -> pl.Expr:
    """Return a sum of weights as the number of events that it stands for."""
    return weight.round().cast(pl.Int64)


def delivered(frames: AnyTable, columns: Iterable[str] = ()) -> pl.LazyFrame:
    """Return the frames that reached a sink, with their `end_to_end_ns`.

    A frame's end-to-end latency is t_done_ns - t_demux_ns: from the start of the read
    of its packet to the moment at which a sink had consumed it.
    """
    table = lazy(frames, "frames", ("fate", "t_demux_ns", "t_done_ns", *columns))
    return table.filter(pl.col("fate").cast(pl.String).is_in(DELIVERED)).with_columns(
        end_to_end_ns=pl.col("t_done_ns") - pl.col("t_demux_ns")
    )


def top_level(spans: AnyTable, columns: Iterable[str] = ()) -> pl.LazyFrame:
    """Return the spans that have no other around them: only these add up."""
    table = lazy(spans, "spans", ("frame", "parent", "duration_ns", *columns))
    return table.filter(pl.col("parent").fill_null(0) == 0)


def nominal_rates(streams: AnyTable) -> pl.LazyFrame:
    """Return `stream_id` (String) and the `nominal_rate` at which it was last opened, in 1/s."""
    table = lazy(streams, "streams", ("t_ns", "stream_id", "nominal_rate", "direction"))
    known = (pl.col("direction").cast(pl.String) == "input") & (pl.col("nominal_rate") > 0)
    return (
        as_text(table.filter(known), ["stream_id"])
        .sort("t_ns")
        .group_by("stream_id")
        .agg(pl.col("nominal_rate").last())
    )
