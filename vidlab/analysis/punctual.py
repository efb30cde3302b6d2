"""What is typical of punctual frames: samples of them, and medians of what they spent."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from . import tables

#: So many punctual frames of a group, evenly spaced, tell what is typical of it.
SAMPLE = 1_000

#: With fewer punctual frames than this, those of all groups tell what is typical.
ENOUGH = 10

#: The column of `counted`. No label, being an identifier, is called so.
FRAMES = "frames of the group"

_PLACES = "places in the sample"

# As many places as are summed up may come out a hair beyond a half.
_HALF = 0.5 * (1 - 1e-12)


def evenly(frames: pl.LazyFrame, group: Sequence[str], most: int = SAMPLE) -> pl.LazyFrame:
    """Return up to `most` frames of each group, evenly spaced among all that there were.

    A sampled frame takes the places of all that it stands for; of a group with more frames
    than `most` its weight is then the number of the places in the sample that it has.

    Parameters
    ----------
    frames : polars.LazyFrame
        With `t_demux_ns`, the group and `tables.WEIGHT`.
    group : sequence of str
    most : int
    """
    weight = pl.col(tables.WEIGHT)
    last = weight.cum_sum().over(group, order_by="t_demux_ns")
    among = weight.sum().over(group)
    places = _place(last, among, most) - _place(last - weight, among, most)
    return (
        frames.with_columns(pl.when(among > most).then(places).otherwise(weight).alias(_PLACES))
        .filter(pl.col(_PLACES) > 0)
        .with_columns(pl.col(_PLACES).alias(tables.WEIGHT))
        .drop(_PLACES)
    )


def _place(number: pl.Expr, among: pl.Expr, most: int) -> pl.Expr:
    # A hair more, for sums that come out just short of a whole number.
    return (number * most / among + 1e-9).floor()


def counted(frames: pl.LazyFrame, group: Sequence[str]) -> pl.LazyFrame:
    """Return how many frames each group has, `FRAMES`, by their weights."""
    return frames.group_by(group).agg(pl.col(tables.WEIGHT).sum().alias(FRAMES))


def medians(
    spent: pl.LazyFrame, among: pl.LazyFrame, group: Sequence[str], by: Sequence[str]
) -> pl.LazyFrame:
    """Return the median of what a frame spent, by group and cause: `typical_ns`.

    Parameters
    ----------
    spent : polars.LazyFrame
        `group`, `by`, `spent_ns` and `tables.WEIGHT`: a row for each frame that spent any.
    among : polars.LazyFrame
        `group` and `FRAMES`: how many frames there are; those without a row spent nothing.
    group, by : sequence of str
    """
    weight = pl.col(tables.WEIGHT)
    # Frames without a row take the lowest ranks.
    number = pl.col(FRAMES).first()
    before = number - weight.sum()
    below = (before + weight.cum_sum() < number * _HALF).sum()
    return (
        spent.join(among, on=list(group), nulls_equal=True)
        .sort("spent_ns")
        .group_by(*group, *by, maintain_order=True)
        .agg(
            pl.when(before < number * _HALF)
            .then(pl.col("spent_ns").get(pl.min_horizontal(below, pl.len().cast(pl.Int64) - 1)))
            .otherwise(0)
            .alias("typical_ns")
        )
    )
