"""What the engines that were asked for have brought in, of a run that was just recorded."""

from __future__ import annotations

from pathlib import Path

from ..capture.ebpf.engine import KernelEvents
from ..capture.profiles.engine import Profiles
from ..runs.manifest import Manifest


def engine_lines(path: Path, manifest: Manifest) -> list[str]:
    """Return a line each on the kernel events and the profiles of a compacted run.

    One that was not asked for has no line; one that could not record says why.
    """
    engines = {engine.name for engine in manifest.engines}
    lines = [_kernel_events(path)] if KernelEvents.name in engines else []
    return [*lines, _profiles(path)] if Profiles.name in engines else lines


def _kernel_events(path: Path) -> str:
    """Return how many kernel events there are, or why none."""
    from ..runs.run import open_run  # it is compacted, so that polars is here
    from .kernel_summary import events, refusal

    run = open_run(path)
    return refusal(run) or f"{events(run):,} kernel events: the notebook 04_kernel_events"


def _profiles(path: Path) -> str:
    """Return how often the profiler looked, or why it did not."""
    import polars as pl

    from ..runs.run import open_run

    run = open_run(path)
    samples = run.scan("profile_samples").filter(pl.col("type").cast(pl.String) == "cpu")
    count = samples.select(pl.col("samples").sum()).collect().item()
    if count:
        return f"{count:,} samples of the CPU: the notebook 05_profiles"
    of_ours = pl.col("evidence").cast(pl.String).str.json_path_match("$.engine") == Profiles.name
    failed = run.scan("findings").filter(of_ours).select(pl.col("message").cast(pl.String))
    why = failed.unique(maintain_order=True).collect()["message"].to_list()
    told = "; ".join(why) or "the program was not on a CPU for long enough"
    return f"no profiles were recorded: {told}"
