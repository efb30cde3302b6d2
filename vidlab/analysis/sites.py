"""Where a call came from: the line of a stack that its reader wrote, as text."""

from __future__ import annotations

import re
import sysconfig

import polars as pl

from . import tables
from .tables import AnyTable

#: Files of packages and of Python itself: what a user calls, and did not write.
_OTHERS = (
    r"[/\\](site-packages|dist-packages)[/\\]|[/\\]lib[/\\]python\d|[/\\]vidlab[/\\]capture[/\\]|^<"
)

#: What stands where no stack is known.
UNKNOWN_SITE = "(no stack recorded)"


def sites(stacks: AnyTable) -> pl.DataFrame:
    """Return `stack` and `site`: "function file:line" of its innermost line of the user's own.

    A stack without any such line gives its innermost one.
    """
    table = tables.lazy(stacks, "stacks", ["stack", "frames"])
    line = pl.col("frames").struct
    lines = (
        table.select("stack", "frames")
        .with_row_index("row")
        .explode("frames")
        .with_columns(
            line.field("function").alias("function"),
            line.field("file").alias("file"),
            line.field("line").alias("line"),
        )
        .filter(pl.col("file").is_not_null())
        .with_columns(own=~_is_others(pl.col("file")))
    )
    text = pl.format("{} {}:{}", "function", "file", "line")
    chosen = pl.coalesce(text.filter("own").first(), text.first())
    return lines.group_by("stack", maintain_order=True).agg(chosen.alias("site")).collect()


def _is_others(file: pl.Expr) -> pl.Expr:
    standard = re.escape(sysconfig.get_paths()["stdlib"])
    return file.str.contains(_OTHERS) | file.str.contains("^" + standard)


def with_sites(groups: pl.DataFrame, stacks: AnyTable | None) -> pl.DataFrame:
    """Return the groups, in their order, with the `site` of their `stack`."""
    if stacks is None:
        number = pl.format("stack {}", "stack")
    else:
        groups = groups.join(sites(stacks), on="stack", how="left", maintain_order="left")
        number = pl.coalesce("site", pl.format("stack {}", "stack"))
    return groups.with_columns(number.fill_null(UNKNOWN_SITE).alias("site"))


def with_holders(
    groups: pl.DataFrame, survivors: pl.DataFrame, holders: AnyTable | None
) -> pl.DataFrame:
    """Return the groups, in their order, with what holds most of their survivors.

    Parameters
    ----------
    groups : DataFrame
        A row for each group.
    survivors : DataFrame
        `group` (a row number), `pid` and `generation` of the blocks that are alive.
    holders : polars.LazyFrame or polars.DataFrame, optional
        The table `holders`.

    Returns
    -------
    polars.DataFrame
        With `holder`, `holder_kind` and `chain`; null where nothing is known.
    """
    columns = ("holder", "holder_kind", "chain")
    if holders is None:
        return groups.with_columns(pl.lit(None, pl.String).alias(name) for name in columns)
    keys = ["pid", "generation"]
    table = tables.lazy(holders, "holders", [*keys, "kind", "holder", "chain"])
    known = tables.as_text(table, ["kind", "holder"]).select(
        *keys, "holder", pl.col("kind").alias("holder_kind"), "chain"
    )
    whose = ["group", "holder", "holder_kind"]
    most = (
        survivors.lazy()
        .join(known, on=keys, maintain_order="left")
        .group_by(whose, maintain_order=True)
        .agg(pl.len().alias("count"), pl.col("chain").first())
        .sort("count", descending=True, maintain_order=True)
        .unique("group", keep="first")
        .drop("count")
        .collect()
    )
    number = pl.Series("group", range(groups.height), dtype=most.schema["group"])
    return (
        groups.with_columns(number)
        .join(most, on="group", how="left", maintain_order="left")
        .drop("group")
    )
