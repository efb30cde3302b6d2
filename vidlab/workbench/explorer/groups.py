"""The labels of a run's rows, as small numbers: each combination that occurs is a group."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from ...analysis import appearance, tables
from .durations import Bools, Floats, Numbers
from .state import LABELS

_KEYS = (*LABELS, "sample_rate")


class Groups:
    """The groups of a run.

    Parameters
    ----------
    labels : polars.DataFrame
        The run's table `labels`.

    Attributes
    ----------
    table : polars.DataFrame
        `stream_id`, `codec` (String), `gpu` and `sample_rate`, a row a group.
    rates : ndarray of float64
        The column `sample_rate`.
    """

    def __init__(self, labels: pl.DataFrame) -> None:
        known = tables.plain(labels.select("labels", *_KEYS))
        unlabelled = pl.DataFrame({**dict.fromkeys(LABELS), "sample_rate": 1.0})
        none = unlabelled.cast({name: known.schema[name] for name in _KEYS})
        distinct = pl.concat([known.select(_KEYS), none]).unique()
        self.table = distinct.sort("codec", "gpu", "stream_id", "sample_rate")
        self.rates = self.table["sample_rate"].to_numpy()
        numbered = self.table.with_row_index("group")
        # The last place is that of label sets that the table does not know.
        size = int(known["labels"].max() or 0) + 1  # type: ignore[arg-type]
        self._of_set = np.full(size + 1, self._numbers(none, numbered)[0], self.type)
        self._of_set[known["labels"].to_numpy()] = self._numbers(known, numbered)

    def __len__(self) -> int:
        return self.table.height

    @property
    def type(self) -> type[np.unsignedinteger[Any]]:
        """The type of an array of groups."""
        return np.uint16 if len(self) < 1 << 16 else np.uint32

    def of(self, labels: pl.Series) -> Numbers:
        """Return the group of each label set."""
        last = len(self._of_set) - 1
        found: Numbers = self._of_set[np.minimum(labels.fill_null(last).to_numpy(), last)]
        return found

    def chosen(self, state: Mapping[str, Any]) -> Bools | None:
        """Return which groups a state leaves; None: all."""
        narrowed = [pl.col(name) == state[name] for name in LABELS if state[name] is not None]
        if not narrowed:
            return None
        found = self.table.select(pl.all_horizontal(narrowed).fill_null(value=False))
        return found.to_series().to_numpy()

    def weights(self, group: Numbers) -> tuple[Floats | None, float]:
        """Return how many each row stands for, and 1.

        If all rows stand for equally many: None, and how many.
        """
        if not len(group) or not self.several_rates:
            return None, 1.0 / float(self.rates[0])
        rates = self.rates[group]
        least = float(rates.min())
        return (1.0 / rates, 1.0) if least < rates.max() else (None, 1.0 / least)

    @cached_property
    def several_rates(self) -> bool:
        """Whether rows of some groups stand for more than those of others."""
        return bool((self.rates != self.rates[0]).any())

    @cached_property
    def streams(self) -> tuple[Numbers, pl.DataFrame]:
        """The stream of each group; and the streams: `stream_id` and `codec`, a row each."""
        pairs = self.table.select("stream_id", "codec")
        distinct = pairs.unique(maintain_order=True)
        number = self._numbers(pairs, distinct.with_row_index("group"))
        return number.astype(self.type), distinct

    @cached_property
    def codecs(self) -> tuple[Numbers, list[str]]:
        """The codec of each group, and the codecs' names."""
        names = self.table.select(pl.col("codec").fill_null(appearance.NO_CODEC))
        distinct = names.unique(maintain_order=True)
        number = self._numbers(names, distinct.with_row_index("group"))
        return number.astype(self.type), distinct["codec"].to_list()

    @staticmethod
    def _numbers(rows: pl.DataFrame, numbered: pl.DataFrame) -> npt.NDArray[np.uint32]:
        keys = [name for name in numbered.columns if name != "group"]
        found = rows.join(numbered, on=keys, how="left", nulls_equal=True, maintain_order="left")
        return found["group"].to_numpy()
