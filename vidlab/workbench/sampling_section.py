"""What a report says of a run of which not all frames were recorded."""

from __future__ import annotations

import html
from typing import Any

from ..analysis import sampling
from ..charts import sampling as sampling_charts
from .slices import Slice
from .text import Section


class SamplingSection:
    """The answers on sampling of a slice of a run. Where all was recorded they are None.

    Parameters
    ----------
    part : Slice
    """

    def __init__(self, part: Slice) -> None:
        self.part = part

    def section(self) -> Section | None:
        """Return the heading of a report's section, and how much was recorded."""
        said = self.part.sampled
        return Section("What was recorded?", f"{html.escape(said.capitalize())}.") if said else None

    def timeline(self) -> Any:
        """Return the share of frames over time, and what it followed from."""
        part = self.part
        ended = part.run.manifest.ended
        decisions = sampling.decisions(
            part.run.scan("sampling_decisions"), ended.monotonic_ns if ended else None
        )
        if not decisions.height:
            return None
        over_time = sampling.over_time(part.scan("frames"), part.scan("kept_frames"))
        lost = part.lost("frames")
        return sampling_charts.timeline(decisions, over_time, start_ns=part.start_ns, lost=lost)

    def kept(self) -> Any:
        """Return how many frames were recorded by their turn, and how many for their fate."""
        if not self.part.sampled:
            return None
        kept = sampling.kept(self.part.scan("frames"), self.part.scan("kept_frames"))
        return sampling_charts.kept(kept, lost=self.part.lost("frames"))
