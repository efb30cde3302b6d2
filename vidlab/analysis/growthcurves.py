"""What each allocation site has in use, frame by frame: how a leak looks as it grows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from . import sites, tables
from .occupancy import STEPS, occupancy
from .tables import AnyTable


def by_site(
    allocations: AnyTable,
    frames: AnyTable | None = None,
    stacks: AnyTable | None = None,
    by: str | Sequence[str] = ("stream_id", "codec"),
    *,
    top: int = 8,
    level: str = "pool",
) -> pl.DataFrame:
    """Return the bytes in use of the sites that hold the most at the end, against frames.

    Parameters
    ----------
    allocations, frames, stacks
        The tables of a run; without `frames`, those count for which something was allocated.
    by : str or sequence of str
        The labels by which sites are told apart.
    top : int
        How many sites.
    level : str
        pool, driver or borrowed.

    Returns
    -------
    polars.DataFrame
        `site`, `by`, `stack`, `frame_count` (of the site's streams until then) and
        `in_use_bytes`, the least that was in use in that step of the run: what is taken and
        given back within a few frames does not show. The site that holds the most comes first.
    """
    labels = tables.names(by)
    found = occupancy(allocations, frames, labels, level)
    _, in_use = found.series()
    named = sites.with_sites(found.groups, stacks).with_row_index("row")
    most = named.sort("live_bytes", "site", descending=[True, False]).head(top)
    rows = most["row"].to_numpy()
    shares = np.arange(1, STEPS + 1) / STEPS
    counts = most["frames"].fill_null(0).to_numpy()[:, None] * shares
    return (
        most.select("site", *labels, "stack")
        .select(pl.all().repeat_by(STEPS).explode())
        .with_columns(
            pl.Series("frame_count", counts.round().astype(np.int64).ravel()),
            pl.Series("in_use_bytes", in_use[rows].astype(np.int64).ravel()),
        )
    )
