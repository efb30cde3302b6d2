"""Does an analysis name the cause that was planted, and how much of its time does it find?"""

from __future__ import annotations

import polars as pl

from ..errors import InputError

_PLACE = ["frame", "cause", "stage"]


def score(blamed: pl.DataFrame, truth: pl.DataFrame) -> pl.DataFrame:
    """Compare what is blamed for late frames with what was planted on them.

    Only planted frames count: that others wait behind them is no fault of an analysis.

    Parameters
    ----------
    blamed : polars.DataFrame
        What `analysis.blame.per_frame` returned: of it `frame`, `cause`, `stage`, `blamed_ns`
        and `rank`.
    truth : polars.DataFrame
        `planted.Truth.truth`.

    Returns
    -------
    polars.DataFrame
        One row a planted cause: `cause`, `frames` (planted ones), `first_share` (of them, those
        whose first cause is the planted one), `placed_share` (and at the stage where it was
        planted), `planted_s`, `blamed_s` (for the planted cause at its stage) and `ratio` of the
        two. By cause.

    Raises
    ------
    InputError
        If nothing was planted.
    """
    if truth.is_empty():
        raise InputError("no frame was planted: there is nothing to compare with")
    matched = _matched(blamed, truth)
    first = pl.col("first_cause") == pl.col("cause")
    placed = first & (pl.col("first_stage") == pl.col("stage"))
    return (
        matched.group_by("cause")
        .agg(
            pl.len().cast(pl.Int64).alias("frames"),
            first.fill_null(value=False).mean().alias("first_share"),
            placed.fill_null(value=False).mean().alias("placed_share"),
            (pl.col("planted_ns").sum() / 1e9).alias("planted_s"),
            (pl.col("blamed_ns").sum() / 1e9).alias("blamed_s"),
        )
        .with_columns(ratio=pl.col("blamed_s") / pl.col("planted_s"))
        .sort("cause")
    )


def missed(blamed: pl.DataFrame, truth: pl.DataFrame) -> pl.DataFrame:
    """Return the planted frames whose first cause is another than the planted one.

    Returns
    -------
    polars.DataFrame
        The columns of `truth`; `blamed_ns`, for the planted cause; and `first_cause`,
        `first_stage` and `first_ns`, null where the frame is not among the late ones.
    """
    return _matched(blamed, truth).filter(
        pl.col("first_cause").ne_missing(pl.col("cause"))
        | pl.col("first_stage").ne_missing(pl.col("stage"))
    )


def _matched(blamed: pl.DataFrame, truth: pl.DataFrame) -> pl.DataFrame:
    """Each planted frame, with what it is blamed for."""
    known = blamed.with_columns(pl.col("cause", "stage").cast(pl.String))
    first = known.filter(pl.col("rank") == 1).select(
        "frame", first_cause="cause", first_stage="stage", first_ns="blamed_ns"
    )
    own = known.group_by(_PLACE).agg(pl.col("blamed_ns").sum())
    return (
        truth.join(own, on=_PLACE, how="left")
        .join(first.unique("frame", keep="first"), on="frame", how="left")
        .with_columns(pl.col("blamed_ns").fill_null(0))
        .sort("frame")
    )
