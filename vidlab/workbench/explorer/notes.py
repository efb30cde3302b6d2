"""What has to be said beside a view: why it is empty, what is not exact, what was lost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ...analysis import sampling
from . import state as states
from .source import Source, told

#: The tables that each view is made of.
_TABLES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("overview", "latency", "worst", "tail", "streams", "beyond"), ("frames",)),
    "stages": ("spans",),
    "memory": ("allocations",),
    "kernel": ("kernel_offcpu",),
    "runtime": ("gc_pauses", "wakeups", "loop_delays"),
    **dict.fromkeys(("profile", "flame", "beyond_flame", "stacks"), ("profile_samples",)),
    "beyond_memory": ("allocations",),
    "frame_memory": ("allocations",),
    "waterfall": ("spans",),
}

#: What a view says if nothing of its tables was recorded.
_NOTHING = {
    "frames": "No frame was delivered: nothing reached mux, VideoWriter.write or vl.deliver.",
    "spans": "No spans were recorded: record with the engine Frames.",
    "allocations": "No GPU memory events were recorded: record with the engine GpuMemory.",
    "kernel_offcpu": "No kernel events were recorded: record with the engine KernelEvents "
    "('vidlab doctor' says what that needs).",
    "gc_pauses": "Nothing of the runtime was recorded: record with the engine Runtime.",
    "profile_samples": "No profile was recorded: record with the engine Profiles.",
}

#: Tables that are no longer there when a run is finished, and what was derived from them.
_MADE_OF = {"frames": ("frames", "frame_events")}


class Notes:
    """Says what has to be said beside the views.

    Parameters
    ----------
    source : Source
    exact : bool
        Whether percentiles of stages are exact.
    """

    def __init__(self, source: Source, exact: bool) -> None:
        self._source, self._exact = source, exact
        with told(source.run):
            self._losses = dict(source.run.losses)
            some = bool((source.groups.rates < 1.0).any())
            self._sampled = sampling.sentence(source.run.scan("frames")) if some else ""
        self._counts: dict[str, int] = {}

    def of(self, state: Mapping[str, Any], views: Iterable[str]) -> dict[str, str]:
        """Return the notes of a state, by view; views without one are left out."""
        said = {view: self._of_view(view, state) for view in views}
        return {view: note for view, note in said.items() if note}

    def _of_view(self, view: str, state: Mapping[str, Any]) -> str:
        tables = _TABLES[view]
        if not any(map(self._count, tables)):
            return _NOTHING[tables[0]]
        says = [self._about(view, state)]
        parts = [part for table in tables for part in _MADE_OF.get(table, (table,))]
        lost = sum(self._losses.get(part, {}).get("lost", 0) for part in parts)
        if lost:
            says.append(f"{lost:,} rows were lost while recording.")
        if self._sampled and {"frames", "spans"} & set(tables):
            says.append(f"{self._sampled}.".capitalize())
        return " ".join(filter(None, says))

    def _about(self, view: str, state: Mapping[str, Any]) -> str:
        """What a view is not exact in, or leaves out."""
        stage = state["stage"]
        if view == "stages" and not self._exact:
            return "≈ Percentiles are within 1 % of the exact ones; counts are exact."
        if view in ("latency", "worst", "tail", "streams", "beyond") and stage is not None:
            return f"How long {stage!r} took, not the whole frame."
        if view in ("overview", "worst", "streams") and not self._source.dated(
            state["deadline_ms"]
        ):
            return (
                "Which frames were late is not known: the streams have no nominal rate, and "
                "there is no deadline. Choose one."
            )
        if view == "beyond" and not self._exact:
            return (
                "Click a frame for what made it late: of so many frames causes are not told here."
            )
        if view in ("profile", "flame"):
            return "Shares of CPU samples" + (
                ", of all profiles that overlap the chosen time." if state["time_s"] else "."
            )
        if view == "runtime" and any(state[name] is not None for name in states.LABELS):
            return "Of the whole process, whichever stream is chosen."
        return ""

    def _count(self, table: str) -> int:
        if table == "frames":
            return len(self._source.frames)
        if table not in self._counts:
            self._counts[table] = self._source.count(table)
        return self._counts[table]
