"""The bill of the device's memory, and what nobody explains: what `analysis.bill` found."""

from __future__ import annotations

from typing import Any

import altair as alt
import polars as pl

from ..analysis.bill import HOST_DEVICE
from . import sizes, theme
from .theme import AnyChart

#: Devices that a chart shows at most, and moments of each. A moment takes six marks at most.
MAX_PANELS, MAX_MOMENTS = 4, 200

#: Alarms that are written out on a panel: the greatest.
MAX_ALARMS = 6

_TERMS = {
    "pool_in_use_bytes": "pool in use",
    "pool_cached_bytes": "pool cached",
    "other_driver_bytes": "other driver",
    "context_and_modules_bytes": "context and modules",
    "other_processes_bytes": "other processes",
    "unexplained_bytes": "unexplained",
}


def stack(
    df: pl.DataFrame,
    *,
    alarms: pl.DataFrame | None = None,
    start_ns: int | None = None,
    lost: int = 0,
) -> AnyChart:
    """Draw what each device's memory is used for over time, a panel a device.

    Parameters
    ----------
    df : DataFrame
        What `analysis.bill.bill` returned.
    alarms : DataFrame, optional
        What `analysis.bill.alarms` returned: each is marked, with how much appeared.
    start_ns : int
        The moment from which time is counted; by default the first in the table.
    lost : int
        Rows of `allocations` and `gpu_samples` lost while recording.
    """
    title = "What the GPU's memory is used for, and what nobody explains"
    if not df.height:
        return theme.nothing(title, lost)
    start = int(df["t_ns"].min()) if start_ns is None else start_ns  # type: ignore[arg-type]
    several = df["pid"].n_unique() > 1
    panels = df.partition_by("pid", "device", maintain_order=True)
    drawn: list[Any] = [
        theme.titled(
            _panel(part, _of(alarms, part), start),
            _name(part, several),
            _facts(part),
        )
        for part in panels[:MAX_PANELS]
    ]
    host = set(df["device_name"]) == {HOST_DEVICE}
    line = "what the device's own books say" if host else "what NVML says"
    more = len(panels) - MAX_PANELS
    return theme.titled(
        alt.vconcat(*drawn, spacing=26).resolve_scale(color="shared"),
        f"{title}: {HOST_DEVICE}" if host else title,
        [
            f"black line: {line} is in use; the areas add up to it",
            "red rules: memory appeared that nobody explains"
            if alarms is not None and alarms.height
            else "",
            f"{more} more devices are left out" if more > 0 else "",
        ],
        lost,
    )


def _of(alarms: pl.DataFrame | None, part: pl.DataFrame) -> pl.DataFrame | None:
    """Return the alarms of a panel's process and device."""
    if alarms is None:
        return None
    pid, device = part.select("pid", "device").row(0)
    mine = pl.col("pid").eq_missing(pl.lit(pid)) & (pl.col("device") == device)
    return alarms.filter(mine).top_k(MAX_ALARMS, by="grew_bytes")


def _name(part: pl.DataFrame, several: bool) -> str:
    row = part.row(-1, named=True)
    process = f"process {row['pid']} · " if several else ""
    return f"{process}device {row['device']}: {row['device_name'] or 'unknown device'}"


def _facts(part: pl.DataFrame) -> str:
    row = part.row(-1, named=True)
    unexplained = int(part["unexplained_bytes"].max() or 0)  # type: ignore[arg-type]
    facts = [
        f"of {sizes.say(row['total_bytes'])}" if row["total_bytes"] else "",
        f"unexplained at most {sizes.say(unexplained)}",
        "what other processes use is not told apart"
        if part["other_processes_bytes"].null_count() == part.height
        else "",
    ]
    return " · ".join(fact for fact in facts if fact)


def _panel(part: pl.DataFrame, alarms: pl.DataFrame | None, start_ns: int) -> AnyChart:
    fewer = part.gather_every(-(-part.height // MAX_MOMENTS))
    unit = sizes.unit(part["used_bytes"].max())
    order = {term: number for number, term in enumerate(_TERMS.values())}
    rows = sizes.counted_in(
        theme.seconds(fewer.select("t_ns", *_TERMS), start_ns)
        .unpivot(list(_TERMS), index="t_s", value_name="size_bytes")
        .drop_nulls("size_bytes")
        .with_columns(pl.col("variable").replace_strict(_TERMS).alias("term"))
        .with_columns(pl.col("term").replace_strict(order).alias("order"))
        .drop("variable")
        # A term that is nowhere does not need its zeros.
        .filter((pl.col("size_bytes") != 0).any().over("term")),
        unit,
    )
    used = sizes.counted_in(theme.seconds(fewer.select("t_ns", "used_bytes"), start_ns), unit)
    x = alt.X("t_s:Q", axis=theme.time_axis(), scale=alt.Scale(nice=False, zero=False))
    areas = (
        alt.Chart(theme.data(rows))
        .mark_area(interpolate="step-after")
        .encode(
            x=x,
            y=alt.Y("size:Q", title=f"used ({unit.name})", stack="zero"),
            color=alt.Color(
                "term:N",
                title="used for",
                scale=alt.Scale(domain=list(theme.MEMORY), range=list(theme.MEMORY.values())),
            ),
            order=alt.Order("order:Q"),
            tooltip=[
                alt.Tooltip("term:N", title="used for"),
                alt.Tooltip("t_s:Q", title="at, s", format=",.3~f"),
                alt.Tooltip("size:Q", title=unit.name, format=",.4~r"),
            ],
        )
    )
    line = (
        alt.Chart(theme.data(used))
        .mark_line(interpolate="step-after", color=theme.INK, strokeWidth=1.4)
        .encode(x=x, y="used:Q")
    )
    layers = [areas, line, *_rules(alarms, start_ns)]
    return alt.layer(*layers).properties(width=theme.WIDTH, height=theme.HEIGHT * 3 // 4)


def _rules(alarms: pl.DataFrame | None, start_ns: int) -> list[alt.Chart]:
    """Return the alarms, each where it was raised, with how much appeared until it was over."""
    if alarms is None or not alarms.height:
        return []
    rows = theme.seconds(
        alarms.sort("t_ns").select(
            "t_ns",
            pl.format("+{} unexplained", sizes.text(pl.col("grew_bytes"))).alias("text"),
            pl.int_range(pl.len()).alias("line"),
        ),
        start_ns,
    ).with_columns((-8 - pl.col("line") * 14).alias("top"))
    base = alt.Chart(theme.data(rows)).encode(x="t_s:Q")
    return [
        base.mark_rule(color=theme.ALARM, strokeWidth=1.6, strokeDash=[6, 3]),
        # Above the plot, where no area makes it hard to read.
        base.mark_text(align="left", dx=-4, color=theme.ALARM, fontWeight=600).encode(
            y=alt.Y("top:Q", scale=None), text="text:N"
        ),
    ]
