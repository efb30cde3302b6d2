"""Device memory by its address: what the driver handed out, and what CuPy's tracker saw of it.

Two engines look at the same calls. The kernel's probes see every allocation of the process,
by whichever library; the tracker sees those that go through CuPy, with their stack. Where
both saw one, it is the same pointer, and the one call lies within the other in time. What
only the probes saw, another library took.
"""

from __future__ import annotations

import polars as pl

from . import kernel, tables
from .tables import AnyTable

#: Who saw an allocation.
BOTH, DRIVER_ONLY, CUPY_ONLY = "both", "driver only", "cupy only"

_KERNEL = (
    *("t_ns", "duration_ns", "pid", "tid", "op", "kind", "address", "size_bytes", "status"),
    "symbol",
)
_TRACKED = (
    *("t_ns", "duration_ns", "pid", "op", "level", "kind", "status", "address", "size_bytes"),
    *("stack", "stream_id", "codec"),
)


def seen_by(kernel_memory: AnyTable, allocations: AnyTable) -> pl.DataFrame:
    """Return every allocation of driver memory with who saw it.

    Parameters
    ----------
    kernel_memory : polars.LazyFrame or polars.DataFrame
        The table `kernel_cuda_memory`.
    allocations : polars.LazyFrame or polars.DataFrame
        The table `allocations`.

    Returns
    -------
    polars.DataFrame
        One row an allocation, in time: `t_ns`, `pid`, `seen_by` (both, driver only, cupy
        only), `address`, `size_bytes`, `kind`, `symbol` (the function that the probes
        saw), `stack`, `stream_id`, `codec` (of the tracker), `t_freed_ns` (at the latest,
        if the free was not seen and the address was handed out again) and `freed`; both say
        nothing of what only the tracker saw, and are null. A runtime call that goes on to
        the driver is one allocation, not two.
    """
    taken = _taken(kernel_memory)
    tracked = _tracked(allocations)
    # The same pointer is handed out again and again, each time by a call of the tracker's. The
    # last of them that began before the probe's call was done is around it, or within it where
    # the probe is on the very function that CuPy calls; if it is neither, it was another time.
    nearest = taken.join_asof(
        tracked,
        left_on="t_end_ns",
        right_on="tracked begin",
        by=["pid", "address"],
        coalesce=False,
        check_sortedness=False,
    ).with_columns(matches=pl.col("t_ns") <= pl.col("tracked end"))
    seen = nearest.with_columns(
        pl.when(pl.col("matches").fill_null(False)).then(f"tracked {name}").alias(name)
        for name in ("row", "stack", "stream_id", "codec")
    )
    both = seen.with_columns(
        seen_by=pl.when(pl.col("row").is_not_null())
        .then(pl.lit(BOTH))
        .otherwise(pl.lit(DRIVER_ONLY))
    )
    unseen = tracked.join(both.select("row"), left_on="tracked row", right_on="row", how="anti")
    missing = unseen.select(
        pl.col("tracked begin").alias("t_ns"),
        "pid",
        pl.lit(CUPY_ONLY).alias("seen_by"),
        "address",
        pl.col("tracked size").alias("size_bytes"),
        pl.col("tracked kind").alias("kind"),
        pl.lit(None, pl.String).alias("symbol"),
        pl.col("tracked stack").alias("stack"),
        pl.col("tracked stream_id").alias("stream_id"),
        pl.col("tracked codec").alias("codec"),
        pl.lit(None, pl.Int64).alias("t_freed_ns"),
    )
    columns = missing.collect_schema().names()
    return (
        pl.concat([both.select(columns), missing])
        .with_columns(
            freed=pl.when(pl.col("seen_by") != CUPY_ONLY).then(pl.col("t_freed_ns").is_not_null())
        )
        .sort("t_ns", "pid", "address")
        .collect()
    )


def summary(seen: pl.DataFrame) -> pl.DataFrame:
    """Return what each of the three is in numbers.

    Returns
    -------
    polars.DataFrame
        `seen_by`, `symbol`, `allocations`, `size_bytes`, `still_there`,
        `still_there_bytes` (neither counts what only the tracker saw); most bytes first.
    """
    kept = pl.col("freed").not_().fill_null(False)
    return (
        seen.group_by("seen_by", "symbol")
        .agg(
            pl.len().cast(pl.Int64).alias("allocations"),
            pl.col("size_bytes").sum(),
            kept.sum().cast(pl.Int64).alias("still_there"),
            pl.col("size_bytes").filter(kept).sum().alias("still_there_bytes"),
        )
        .sort("size_bytes", "seen_by", "symbol", descending=[True, False, False])
    )


def _taken(kernel_memory: AnyTable) -> pl.LazyFrame:
    """Return the allocations that the probes saw, each with the free that ended it."""
    known = tables.as_text(
        tables.lazy(kernel_memory, "kernel_cuda_memory", _KERNEL),
        ["op", "kind", "symbol"],
    ).filter((pl.col("status") == 0) & (pl.col("address") != 0))
    known = kernel.outermost(known, ["address", "op"])
    handed_out_again = pl.col("t_ns").shift(-1).over("pid", "address", order_by="t_end_ns")
    allocs = (
        known.filter(pl.col("op") == "alloc")
        .sort("t_end_ns")
        .with_columns(pl.col("size_bytes").cast(pl.Int64), again=handed_out_again)
    )
    frees = (
        known.filter(pl.col("op") == "free")
        .select("pid", "address", pl.col("t_ns").alias("t_freed_ns"))
        .sort("t_freed_ns")
    )
    return allocs.join_asof(
        frees,
        left_on="t_end_ns",
        right_on="t_freed_ns",
        by=["pid", "address"],
        strategy="forward",
        check_sortedness=False,
    ).with_columns(t_freed_ns=pl.min_horizontal("t_freed_ns", "again"))


def _tracked(allocations: AnyTable) -> pl.LazyFrame:
    known = tables.as_text(
        tables.lazy(allocations, "allocations", _TRACKED),
        ["op", "level", "kind", "status", "stream_id", "codec"],
    ).filter(
        (pl.col("op") == "alloc")
        & (pl.col("level") == "driver")
        & (pl.col("status") == "ok")
        & (pl.col("address") != 0)  # what pools had before the recording has no address
    )
    return known.select(
        "pid",
        "address",
        pl.col("t_ns").alias("tracked begin"),
        (pl.col("t_ns") + pl.col("duration_ns")).alias("tracked end"),
        pl.col("size_bytes").alias("tracked size"),
        pl.col("kind").alias("tracked kind"),
        pl.col("stack", "stream_id", "codec").name.prefix("tracked "),
        pl.int_range(pl.len()).alias("tracked row"),
    ).sort("tracked begin")
