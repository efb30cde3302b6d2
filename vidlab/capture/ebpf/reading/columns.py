"""Records of a ring as columns: one contiguous array a field, used again for each batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

#: Bytes of records that are best copied at a time: they pass through the processor's second
#: cache once for each field, and should still be there.
_PART_BYTES = 320 << 10


class Columns:
    """The next records of a ring, a contiguous array a field.

    The arrays are filled again for the next batch: who keeps a column copies it. Fresh
    memory for each batch would cost as much as the copying, since the kernel zeroes it page
    by page.

    Parameters
    ----------
    dtype : numpy.dtype
        Of the records. Fields that begin with an underscore are left out.
    most : int
        For so many records at most.

    Attributes
    ----------
    part : int
        How many records are best appended at a time.

    Examples
    --------
    >>> record = np.dtype([("t_ns", "<i8"), ("tid", "<u4"), ("_pad", "V4")])
    >>> columns = Columns(record, 100)
    >>> columns.append(np.array([(5, 1, b""), (7, 2, b"")], record))
    >>> len(columns), columns["tid"].tolist()
    (2, [1, 2])
    """

    def __init__(self, dtype: np.dtype[Any], most: int) -> None:
        self.most = most
        self.part = max(_PART_BYTES // dtype.itemsize, 1)
        self._rows = 0
        # Memory that is never written to is never there: a quiet table costs some pages.
        self._fields: dict[str, npt.NDArray[Any]] = {
            name: np.empty(most, dtype[name])
            for name in dtype.names or ()
            if not name.startswith("_")
        }

    @property
    def names(self) -> tuple[str, ...]:
        """The fields, in the order of the record."""
        return tuple(self._fields)

    def __len__(self) -> int:
        return self._rows

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        return self._fields[name][: self._rows]

    def append(self, records: npt.NDArray[np.void]) -> None:
        """Copy records, one operation a field. There must be room for them."""
        begin, end = self._rows, self._rows + len(records)
        if end > self.most:
            raise ValueError(f"there is no room for {len(records)} records")
        for name, field in self._fields.items():
            field[begin:end] = records[name]
        self._rows = end

    def clear(self) -> None:
        """Be empty again."""
        self._rows = 0
