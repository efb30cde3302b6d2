"""What a report and a notebook say about late frames: each answer in one call, of a slice."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import polars as pl

from ...analysis import tables
from ...analysis.causewords import CAUSE_WORDS
from ...charts import blame as blame_charts
from ..slices import Slice
from ..tables import Table
from . import frameids
from .frame import Explanation
from .lateness import LateExplanation

#: Frames whose waterfalls a report shows, and the stages of each.
FRAMES = 3

#: Rows of the table of late frames.
_ROWS = 20


class ExplainSection:
    """Why the frames of a slice were late. Without late or corrupt frames charts are None.

    Parameters
    ----------
    part : Slice
        Of which streams, codecs and GPUs, and when their frames are late.
    """

    def __init__(self, part: Slice) -> None:
        self.part = part

    @cached_property
    def late(self) -> LateExplanation:
        """Why frames were late, over all of them."""
        return LateExplanation(self.part)

    def headline(self) -> LateExplanation:
        """Return what made frames late, in sentences."""
        return self.late

    def by_stream(self) -> Any:
        """Return what made each stream's frames late: stacked bars, a colour a cause."""
        return self.late.chart() if self.late.ranked.height else None

    def ranking(self) -> Any:
        """Return the causes by stream, codec, GPU and stage, the worst first."""
        if not self.late.ranked.height:
            return None
        return blame_charts.ranking(self.late.ranked, lost=self._lost)

    @cached_property
    def worst(self) -> list[Explanation]:
        """Where the time of the latest frames went: of each stream the latest, of few streams."""
        late = self.late.frames.filter(pl.col("late").fill_null(value=False))
        beyond = pl.col("end_to_end_ns") - pl.col("deadline_ns")
        ranked = late.sort(beyond, "frame", descending=[True, False])
        first = ranked.unique("stream_id", keep="first", maintain_order=True)
        rest = ranked.join(first.select("frame"), on="frame", how="anti", maintain_order="left")
        chosen = pl.concat([first, rest]).head(FRAMES)
        own = pl.col("frame").is_in(chosen["frame"].implode())
        rows = tables.plain(self.part.scan("frames").filter(own).collect())
        ordered = chosen.select("frame").join(rows, on="frame", maintain_order="left")
        return [Explanation(self.part, row) for row in ordered.select(rows.columns).iter_slices(1)]

    def waterfalls(self) -> Any:
        """Return the waterfalls of the latest frames, one below the other."""
        import altair as alt

        charts = [explained.chart() for explained in self.worst]
        return alt.vconcat(*charts, spacing=30) if charts else None

    def table(self) -> Table | None:
        """Return the latest frames, and what each was most held up by."""
        blamed = self.late.blamed.filter(pl.col("rank") == 1, pl.col("blamed_ns") > 0)
        if not blamed.height:
            return None
        most = blamed.sort("blamed_ns", "frame", descending=[True, False]).head(_ROWS)
        names = frameids.called(self.part.run, most["frame"])
        shown = most.select(
            pl.col("frame").replace_strict(names, return_dtype=pl.String).alias("frame"),
            "codec", "gpu", "stage", pl.col("cause").replace(CAUSE_WORDS),
            "total_ns", "typical_ns",
        )  # fmt: skip
        return Table(
            shown,
            f"Frames that one cause held up longest: {shown.height:,} of {blamed.height:,}",
            {"cause": "first to blame", "total_ns": "spent on it, ms", "typical_ns": "usually, ms"},
        )

    @property
    def _lost(self) -> int:
        return self.part.lost("spans", "frames")
