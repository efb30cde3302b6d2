"""The stages of a run: a brick of spans for each, and their percentiles."""

from __future__ import annotations

from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from ... import histogram
from ...analysis import appearance, latency, quantiles
from ...histogram import Histogram
from .bricks import Brick
from .durations import Bools, Durations, Ints, Times
from .framed import parts
from .later import Later
from .source import Source, told

#: Up to so many spans percentiles of stages are exact; beyond, by histogram.
EXACT = 1_000_000

#: Stages whose durations are kept in order, at most.
_KEPT = 10

_FOUND: dict[str, Any] = {
    "n": pl.Int64, "count": pl.Int64, "median_ns": pl.Int64, "quantile_ns": pl.Int64,
    "total_ns": pl.Float64,
}  # fmt: skip
_COLUMNS = ("stage", "kind", "row", "median_ns", "quantile_ns", "count")


class Stages:
    """The spans of a run, by stage.

    Parameters
    ----------
    source : Source
    exact : bool
        Whether percentiles are exact, or by histogram.

    Attributes
    ----------
    table : polars.DataFrame
        `stage`, `kind` and `row` (what that is called: "decode · reorder"), each that occurs.

    Raises
    ------
    RunError
        If the run is no longer there, or cannot be read.
    """

    def __init__(self, source: Source, exact: bool = True) -> None:
        self._source, self._exact = source, exact
        groups, columns = source.groups, _Columns(source)
        self.table, stage = _numbered(columns.take("stage", "kind"))
        group = groups.of(columns.take("labels")["labels"])
        place = stage.astype(np.uint32) * np.uint32(len(groups)) + group
        if self.table.height * len(groups) < 1 << 16:
            place = place.astype(np.uint16)  # which NumPy sorts by counting
        t_ns = columns.take("t_ns")["t_ns"].to_numpy()
        order = _by_place_and_time(place, t_ns)
        # Each column is put in order and let go before the next one is read.
        t_ns, group = t_ns[order], group[order]
        ns = columns.take("duration_ns")["duration_ns"].to_numpy()[order]
        frame = source.rows_of(columns.take("frame")["frame"])[order]
        ends = np.cumsum(np.bincount(stage, minlength=self.table.height))
        self._bricks = [
            Brick(groups, source.frames, t_ns[rows], ns[rows], group[rows], frame[rows])
            for rows in map(slice, [0, *ends[:-1]], ends)
        ]
        if not exact:
            for brick in self._bricks:
                brick.sum_up()
        self._ordered: dict[str, Durations] = {}
        self._lock, self._locks = Lock(), {row: Lock() for row in self.table["row"]}
        if not exact:  # before they are asked for
            Later(self._order).begin()

    def of(self, row: str) -> Durations:
        """Return the durations of a stage, by what it is called."""
        with self._locks[row]:  # nobody waits until another stage is in order
            known = self._ordered.get(row)
            if known is None:
                known = self._bricks[self.table["row"].to_list().index(row)].durations()
            with self._lock:
                self._ordered.pop(row, None)
                self._ordered[row] = known  # the last one asked for is the last to go
                if len(self._ordered) > _KEPT:
                    del self._ordered[next(iter(self._ordered))]
        return known

    def _order(self) -> None:
        """Put the durations of as many stages as are kept in order."""
        for row in self.table["row"].head(_KEPT):
            self.of(row)

    def percentiles(
        self,
        quantile: float,
        groups: Bools | None = None,
        times: Times | None = None,
        frames: Bools | None = None,
    ) -> pl.DataFrame:
        """Return the median and a quantile of the durations of each stage.

        Parameters
        ----------
        quantile : float
        groups, times, frames
            Which spans count: see `Brick.exact`.

        Returns
        -------
        polars.DataFrame
            `stage`, `kind`, `row`, `median_ns`, `quantile_ns` and `count`; what took most time
            in all comes first.
        """
        found, every = [], self._source.frames
        chosen = [] if self._exact else parts(self._source.groups, groups, frames, every)
        for number, brick in enumerate(self._bricks):
            if self._exact:
                read = brick.exact(groups, times, frames, quantile)
            else:
                read = _read(brick.histogram(chosen, times), quantile)
            if read is not None:
                found.append((number, *read))
        named = self.table.with_row_index("n").cast({"n": pl.Int64})
        return (
            pl.DataFrame(found, schema=_FOUND, orient="row")
            .sort("total_ns", "n", descending=[True, False])
            .join(named, on="n", maintain_order="left")
            .select(_COLUMNS)
        )


def from_cube(cube: pl.DataFrame, quantile: float) -> pl.DataFrame:
    """Return what `Stages.percentiles` does, from rows of a run's cube."""
    spans = cube.filter(pl.col("kind").cast(pl.String) != latency.FRAME)
    asked = list(dict.fromkeys((0.5, quantile)))
    found = latency.from_cube(spans, ("stage", "kind"), asked)
    return (
        found.with_columns(appearance.stage_row().alias("row"))
        .sort(pl.col("count") * pl.col("mean_ns"), "stage", "kind", descending=[True, False, False])
        .with_columns(
            median_ns=quantiles.column(0.5),
            quantile_ns=quantiles.column(quantile),
        )
        .select(_COLUMNS)
    )


def _read(counted: Histogram, quantile: float) -> tuple[int, int, int, float] | None:
    """The count, the median, the quantile and the sum of a histogram; None if it is empty."""
    if not len(counted.buckets):
        return None
    total = float(histogram.value_of(counted.buckets) @ counted.counts)
    median, of_quantile = (round(counted.quantile(q)) for q in (0.5, quantile))
    return round(counted.total), median, of_quantile, total


class _Columns:
    """Columns of the spans, a few at a time; of a run that goes on all at once."""

    def __init__(self, source: Source) -> None:
        self._source = source
        all_ = ("stage", "kind", "labels", "t_ns", "duration_ns", "frame")
        with told(source.run):
            scanned = source.run.scan("spans").select(all_)
            self._scanned = (
                scanned
                if source.run.compacted
                else scanned.filter(pl.col("duration_ns").is_not_null()).collect().lazy()
            )

    def take(self, *names: str) -> pl.DataFrame:
        with told(self._source.run):
            return self._scanned.select(names).collect()


def _numbered(found: pl.DataFrame) -> tuple[pl.DataFrame, npt.NDArray[np.uint32]]:
    """The stages that occur, and of each row which it is."""
    keys = ["stage", "kind"]
    # By the numbers that stand for texts: to join so many texts would take their time.
    stage, kind = (
        (found[key].cast(pl.Categorical).to_physical().cast(pl.Int64) + 1).fill_null(0).to_numpy()
        for key in keys
    )
    kinds = int(kind.max(initial=0)) + 1
    code = stage * kinds + kind
    is_used = np.bincount(code)
    first = np.full(len(is_used), -1)
    first[code[::-1]] = np.arange(len(code))[::-1]
    used = np.flatnonzero(is_used)
    texts = found[first[used].tolist()].with_columns(pl.col(keys).cast(pl.String))
    table = texts.with_columns(appearance.stage_row().alias("row"), code=used).sort(keys)
    number = np.zeros(len(is_used), np.uint32)
    number[table["code"].to_numpy()] = np.arange(table.height)
    return table.drop("code"), number[code]


def _by_place_and_time(place: npt.NDArray[Any], t_ns: Ints) -> npt.NDArray[np.intp]:
    order = np.argsort(place, kind="stable")
    ordered, moments = place[order], t_ns[order]
    if ((ordered[1:] == ordered[:-1]) & (moments[1:] < moments[:-1])).any():
        return np.lexsort((t_ns, place))  # a recording that goes on is in the order of its files
    return order
