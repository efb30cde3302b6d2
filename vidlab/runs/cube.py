"""The cube of a run: how often each duration occurred, by stage, codec, GPU and stream.

A log-bucket histogram (see `vidlab.histogram`) of all spans, and of the frames' end-to-end
times as the pseudo-stage `END_TO_END`. A sampled span counts for as many as it
stands for. Cubes of the same gamma add up: reports slice them and fleets merge them
without the spans.
"""

from __future__ import annotations

import math
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from ..histogram import GAMMA, ZERO_BUCKET
from ..schema import TEXT
from .interning import LabelTable
from .parquet import TableFile, metadata

FILE_NAME = "cube.parquet"

#: The stage and the kind under which the cube holds whole frames.
END_TO_END, FRAME_KIND = "end to end", "frame"

#: The key of gamma in the file's metadata.
GAMMA_KEY = "vidlab.gamma"

_KEYS = ("stage", "kind", "codec", "gpu", "stream_id")

SCHEMA = pl.Schema(
    {
        "stage": pl.Categorical(),
        "kind": pl.Categorical(),
        "codec": pl.Categorical(),
        "gpu": pl.Int16(),
        "stream_id": pl.Categorical(),
        "bucket": pl.Int32(),
        "count": pl.Float64(),
        "total_ns": pl.Float64(),
    }
)

#: Rows of partial counts above which they are added up.
_PARTIAL_ROWS = 500_000


def bucket(duration: str | pl.Expr) -> pl.Expr:
    """Return the expression of a duration's bucket, an Int32; the same as `bucket_of`'s."""
    value = pl.col(duration) if isinstance(duration, str) else duration
    index = (value.cast(pl.Float64).log() / math.log(GAMMA)).ceil().cast(pl.Int32, strict=False)
    return pl.when(value > 0).then(index).when(value.is_not_null()).then(ZERO_BUCKET)


class CubeBuilder:
    """Builds a cube from blocks of spans and frames, in bounded memory."""

    def __init__(self) -> None:
        self._parts: list[pl.DataFrame] = []

    def add_spans(self, spans: pl.LazyFrame) -> None:
        """Count spans: the columns `labels`, `stage`, `kind` and `duration_ns`."""
        self._add(spans.filter(pl.col("duration_ns").is_not_null()))

    def add_frames(self, frames: pl.LazyFrame) -> None:
        """Count the frames that were delivered: `labels`, `fate`, `t_demux_ns`, `t_done_ns`."""
        delivered = frames.filter(
            pl.col("fate").cast(pl.String).is_in(["delivered", "duplicated"])
        ).select(
            "labels",
            stage=pl.lit(END_TO_END, pl.Categorical),
            kind=pl.lit(FRAME_KIND, pl.Categorical),
            duration_ns=pl.col("t_done_ns") - pl.col("t_demux_ns"),
        )
        self.add_spans(delivered)

    def finish(self, labels: LabelTable) -> pl.DataFrame:
        """Return the cube, with the labels in place of their numbers."""
        if not self._parts:
            return SCHEMA.to_frame()
        known = pl.DataFrame(
            {
                "labels": range(len(labels.sets)),
                "codec": labels.values("codec"),
                "gpu": labels.values("gpu"),
                "stream_id": labels.values("stream_id"),
                "sample_rate": [known.sample_rate for known in labels.sets],
            },
            schema_overrides={"labels": pl.UInt32, **SCHEMA, "sample_rate": pl.Float64},
        )
        stands_for = 1 / pl.col("sample_rate")
        return (
            self._summed()
            .lazy()
            .join(known.lazy(), on="labels", how="left")
            .group_by(*_KEYS, "bucket")
            .agg((pl.col("count") * stands_for).sum(), (pl.col("total_ns") * stands_for).sum())
            .select(pl.col(name).cast(type) for name, type in SCHEMA.items())
            .sort(*_KEYS, "bucket")
            .collect()
        )

    def _add(self, spans: pl.LazyFrame) -> None:
        counted = (
            spans.group_by("labels", "stage", "kind", bucket=bucket("duration_ns"))
            .agg(
                count=pl.len().cast(pl.Float64),
                total_ns=pl.col("duration_ns").cast(pl.Float64).sum(),
            )
            .collect()
        )
        self._parts.append(counted)
        if sum(part.height for part in self._parts) > _PARTIAL_ROWS:
            self._parts = [self._summed()]

    def _summed(self) -> pl.DataFrame:
        return (
            pl.concat(self._parts)
            .group_by("labels", "stage", "kind", "bucket")
            .agg(pl.col("count", "total_ns").sum())
        )


def write(path: Path, cube: pl.DataFrame) -> None:
    """Write a cube as a Parquet file."""
    texts = cube.cast({pl.Categorical: pl.String}).to_arrow()
    schema = pa.schema(
        [(f.name, TEXT if f.type == pa.large_string() else f.type) for f in texts.schema]
    )
    with TableFile(path, schema, {GAMMA_KEY: str(GAMMA)}) as file:
        file.write(texts)


def read(path: Path) -> pl.DataFrame | None:
    """Return the cube of this file; None if its gamma is another, so that it must be rebuilt."""
    if metadata(path).get(GAMMA_KEY) != str(GAMMA):
        return None
    return pl.DataFrame(pl.from_arrow(pq.ParquetFile(path).read())).cast(SCHEMA)
