"""Sorting values within groups fast: group and value packed into one 64-bit number each.

Sorting ten million such numbers, and then picking each quantile at its place, takes a
quarter less time and half of the memory of gathering each group's values in the query
engine and picking there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

Ints = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.uint64]

#: Bits of a packed number, and those that there are at most for the group.
_BITS, _GROUP_BITS = 64, 32

_CATEGORIES = (pl.Categorical, pl.Enum)

#: Texts are looked for in every so many rows first: most occur more often.
_STRIDE = 512


@dataclass(frozen=True)
class SortedGroups:
    """Values, ascending within each group.

    Attributes
    ----------
    keys : polars.DataFrame
        One row a group: the columns that make it, text as String.
    starts, counts : ndarray of int64
        Where each group's values begin, and how many they are.
    """

    keys: pl.DataFrame
    starts: Ints
    counts: Ints
    _packed: Numbers
    _width: int

    def at(self, places: Ints) -> Ints:
        """Return the value at a place in each group; place 0 is the least value's."""
        mask = np.uint64((1 << self._width) - 1)
        values: Ints = (self._packed[self.starts + places] & mask).astype(np.int64)
        return values

    def sums(self) -> Ints:
        """Return the sum of each group's values."""
        if not len(self.starts):
            return self.counts
        width = np.uint64(self._width)
        groups = self._packed[self.starts] >> width << width
        # Overflows of both cancel out, modulo 2^64.
        sums: Numbers = np.add.reduceat(self._packed, self.starts)
        sums -= groups * self.counts.astype(np.uint64)
        return sums.view(np.int64)


def sorted_groups(rows: pl.LazyFrame, keys: Sequence[str], value: str) -> SortedGroups | None:
    """Return the values of each group in ascending order.

    Parameters
    ----------
    rows : polars.LazyFrame
    keys : sequence of str
        The columns that make a group, one at least.
    value : str
        An integer column without nulls.

    Returns
    -------
    SortedGroups or None
        None if rows can't be packed: a key is neither text nor an integer, a value is
        negative, or there could be too many groups.
    """
    dtypes = rows.collect_schema()
    texts = (*_CATEGORIES, pl.String)
    if not all(dtypes[key] in texts or dtypes[key].is_integer() for key in keys):
        return None
    strings = [pl.col(key).cast(pl.Categorical) for key in keys if dtypes[key] == pl.String]
    table = rows.with_columns(strings).select(*keys, value).collect(engine="streaming")
    least, most = _range(table[value])
    columns = [_Column.of(table[key]) for key in keys]
    width = most.bit_length()
    groups = math.prod(column.size for column in columns).bit_length()
    if least < 0 or groups > _GROUP_BITS or width + groups > _BITS:
        return None
    group = pl.lit(0, pl.UInt32)
    for column in columns:
        group = group * pl.lit(column.size, pl.UInt32) + column.code
    number = group.cast(pl.UInt64) * (1 << width) + pl.col(value).cast(pl.UInt64)
    packing = table.lazy().select(number.alias("packed")).sort("packed")
    packed = packing.collect(engine="streaming").to_series().to_numpy()
    starts, codes = _groups(packed, width)
    found = []
    for column in reversed(columns):
        found.append(column.values(table[column.name], codes % column.size))
        codes = codes // column.size
    counts = np.diff(starts, append=len(packed))
    return SortedGroups(pl.DataFrame(found[::-1]), starts, counts, packed, width)


def _groups(packed: Numbers, width: int) -> tuple[Ints, Ints]:
    """Where each group starts, and its code. Each is found by bisection: groups are few."""
    starts, codes = [], []
    start = 0
    while start < len(packed):
        code = int(packed[start]) >> width
        starts.append(start)
        codes.append(code)
        last = np.uint64((code + 1 << width) - 1)
        start = int(np.searchsorted(packed, last, side="right"))
    return np.array(starts, np.int64), np.array(codes, np.int64)


@dataclass(frozen=True)
class _Column:
    """A column as codes from 1 to below `size`, with 0 for null."""

    name: str
    text: bool
    least: int
    size: int

    @classmethod
    def of(cls, column: pl.Series) -> _Column:
        text = column.dtype in _CATEGORIES
        least, most = _range(column.to_physical() if text else column)
        return cls(column.name, text, least, most - least + 2)

    @property
    def code(self) -> pl.Expr:
        """The codes of this column of a table, UInt32."""
        column = pl.col(self.name)
        above = (
            column.to_physical().cast(pl.UInt32) - pl.lit(self.least, pl.UInt32)
            if self.text
            else (column.cast(pl.Int64) - self.least).cast(pl.UInt32)
        )
        return (above + pl.lit(1, pl.UInt32)).fill_null(pl.lit(0, pl.UInt32))

    def values(self, column: pl.Series, codes: Ints) -> pl.Series:
        """The values that these codes of the column stand for."""
        numbers = pl.Series("number", codes + (self.least - 1)).set(pl.Series(codes == 0), None)
        if not self.text:
            return numbers.alias(self.name).cast(column.dtype)
        known = _texts(column.gather_every(_STRIDE))
        if not numbers.drop_nulls().is_in(known["number"].implode()).all():
            known = _texts(column)
        wanted = numbers.to_frame().join(known, on="number", how="left", maintain_order="left")
        return wanted["text"].alias(self.name)


def _texts(column: pl.Series) -> pl.DataFrame:
    distinct = column.unique().drop_nulls()
    numbers = distinct.to_physical().cast(pl.Int64)
    return pl.DataFrame({"number": numbers, "text": distinct.cast(pl.String)})


def _range(numbers: pl.Series) -> tuple[int, int]:
    least, most = numbers.min(), numbers.max()
    return (least, most) if isinstance(least, int) and isinstance(most, int) else (0, 0)
