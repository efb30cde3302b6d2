"""What leaks in a run, for people, machines and gates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from .. import sizes
from ..analysis import leaks
from ..analysis.leaks import GROWING, LEAKING, VERDICTS
from ..errors import InputError, RunError
from ..runs.run import Run

#: What a gate may fail on, and the verdicts that then fail it.
FAIL_ON = {LEAKING: (LEAKING,), GROWING: (LEAKING, GROWING)}

#: How many steady sites are shown: the greatest.
MAX_STEADY = 5


@dataclass(frozen=True)
class LeakReport:
    """The verdicts on a run's allocation sites.

    Attributes
    ----------
    found : DataFrame
        What `analysis.leaks.verdicts` returns.
    by : tuple of str
        The labels by which sites are told apart.
    fail_on : str or None
        From which verdict on the gate fails: leaking or growing.
    warnings : tuple of str
        Why the verdicts may be wrong.
    """

    found: pl.DataFrame
    by: tuple[str, ...]
    fail_on: str | None = None
    warnings: tuple[str, ...] = ()

    @property
    def failed(self) -> bool:
        """Whether a site has a verdict that the gate is to fail on."""
        bad = FAIL_ON[self.fail_on] if self.fail_on else ()
        return bool(self.found["verdict"].is_in(bad).any())

    def facts(self) -> list[dict[str, Any]]:
        """Return each site as a machine reads it, leaking ones first."""
        return [
            {
                "verdict": row["verdict"],
                "site": row["site"],
                "labels": {name: row[name] for name in self.by if row[name] is not None},
                "bytes_per_1000_frames": row["bytes_per_1000_frames"],
                "low": row["low"],
                "high": row["high"],
                "live_bytes": row["live_bytes"],
                "live_blocks": row["live_blocks"],
                "holder": row["holder"],
            }
            for row in self.found.iter_rows(named=True)
        ]

    def __str__(self) -> str:
        counts = Counter(self.found["verdict"])
        many = ", ".join(f"{counts[name]:,} {name}" for name in VERDICTS if counts[name])
        lines = [f"{_sites(self.found.height)}: {many or 'nothing was allocated'}"]
        told = self.found.filter(pl.col("verdict") != leaks.STEADY)
        steady = self.found.filter(pl.col("verdict") == leaks.STEADY)
        most = steady.sort("live_bytes", descending=True, maintain_order=True).head(MAX_STEADY)
        for row in pl.concat([told, most]).iter_rows(named=True):
            lines += ["", *self._site(row)]
        if steady.height > MAX_STEADY:
            lines += ["", f"and {steady.height - MAX_STEADY:,} more that are steady"]
        return "\n".join([*lines, *(f"! {warning}" for warning in self.warnings)])

    def _site(self, row: dict[str, Any]) -> list[str]:
        labels = ", ".join(f"{name}={row[name]}" for name in self.by if row[name] is not None)
        lines = [f"{row['verdict']}: {row['site']}" + (f"  [{labels}]" if labels else "")]
        if row["bytes_per_1000_frames"] is not None:
            lines.append(f"    {slope(row['bytes_per_1000_frames'], row['low'], row['high'])}")
        in_use = sizes.say(row["live_bytes"])
        alive = f"    {_blocks(row['live_blocks'])} of {in_use} in use at the end"
        if row["oldest_frames"] is not None and row["frames"]:
            alive += (
                f", taken {row['newest_frames']:,} to {row['oldest_frames']:,} frames before it"
            )
        lines.append(alive)
        if row["holder"]:
            lines.append(f"    held by {row['holder']}")
        return lines


def leak_report(
    run: Run,
    *,
    fail_on: str | None = None,
    by: Sequence[str] = ("stream_id", "codec"),
    level: str = "pool",
) -> LeakReport:
    """Return the verdict on each allocation site of a run.

    Parameters
    ----------
    run : Run
    fail_on : str, optional
        From which verdict on `LeakReport.failed` is true: "leaking", or "growing", which
        includes leaking.
    by : sequence of str
        The labels by which sites are told apart.
    level : str
        Of which level: pool, driver or borrowed.

    Raises
    ------
    RunError
        If no GPU memory was recorded.
    InputError
        If the run has no such label, or there is no such verdict.

    Examples
    --------
    >>> print(leak_report(vl.datasets.load("leak_queue")))
    … sites: 1 leaking, …
    """
    if fail_on is not None and fail_on not in FAIL_ON:
        raise InputError(f"a gate fails on {' or '.join(FAIL_ON)}, not on {fail_on!r}")
    tables = run.tables()
    if "allocations" not in tables:
        _check_recorded(run)
    found = leaks.verdicts(
        run.scan("allocations"),
        run.scan("frames") if "frames" in tables else None,
        run.scan("stacks") if "stacks" in tables else None,
        run.scan("holders") if "holders" in tables else None,
        by,
        level=level,
    )
    return LeakReport(found, tuple(by), fail_on, tuple(_warnings(run, found)))


def _check_recorded(run: Run) -> None:
    """See to it that a run without allocations is one that took none: a gate may pass it."""
    if all(engine.name != "gpu_memory" for engine in run.manifest.engines):
        raise RunError(
            f"{run.path} holds no GPU memory: record it with the engine GpuMemory, "
            "vl.record(path, engines=[vl.Frames(), vl.GpuMemory()])"
        )
    findings = run.scan("findings").filter(pl.col("kind") == "gpu_memory_not_recorded")
    for message in findings.select("message").head(1).collect()["message"]:
        raise RunError(f"{run.path} holds no GPU memory. {message}")


def _warnings(run: Run, found: pl.DataFrame) -> list[str]:
    lost = run.losses.get("allocations", {})
    warnings = []
    if lost.get("lost"):
        warnings.append(
            f"{lost['lost']:,} allocations and frees were lost while recording: "
            "a block whose free was lost looks leaked"
        )
    if lost.get("let_go"):
        warnings.append(
            f"{lost['let_go']:,} allocations and frees were let go, being the oldest: "
            "blocks that were taken before are not seen"
        )
    if found.height and not found["frames"].max():
        warnings.append("no frame was recorded: growth per 1,000 frames is not known")
    return warnings


def slope(mean: float, low: float, high: float) -> str:
    """Return a slope and its interval for people: 1.9 MiB per 1,000 frames (1.6 to 2.2)."""
    unit = sizes.unit(mean, low, high)
    shown = [sizes.short(value / unit.size_bytes) for value in (mean, low, high)]
    return f"{shown[0]} {unit.name} per 1,000 frames ({shown[1]} to {shown[2]})"


def _sites(n: int) -> str:
    return f"{n:,} allocation {'site' if n == 1 else 'sites'}"


def _blocks(n: int) -> str:
    return f"{n:,} {'block' if n == 1 else 'blocks'}"
