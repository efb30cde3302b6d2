"""What allocation sites and groups are called on a chart."""

from __future__ import annotations

import json
from collections.abc import Sequence

import polars as pl

# What a value is called that says nothing by itself, and what a column is.
_VALUES = {"device": "device {}", "gpu": "GPU {}", "kind": "{} memory", "stack": "stack {}"}
_COLUMNS = {"stream_id": "stream", "gpu": "GPU", "cuda_stream": "CUDA stream"}


def of(columns: Sequence[str]) -> list[pl.Expr]:
    """Return the values of these columns as text that says what they are; null stays null."""
    return [
        pl.format(_VALUES.get(name, "{}"), pl.col(name).cast(pl.String)).alias(name)
        for name in columns
    ]


def group(columns: Sequence[str]) -> pl.Expr:
    """Return the name of what is grouped by these columns: "cam-1 · h264 · GPU 0"."""
    if not columns:
        return pl.lit("all").alias("name")
    return pl.concat_str([part.fill_null("?") for part in of(columns)], separator=" · ").alias(
        "name"
    )


def listed(columns: Sequence[str]) -> str:
    """Return what is grouped by, in words: "stream, codec and GPU"."""
    words = [_COLUMNS.get(name, name) for name in columns]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def site(name: str = "site", length: int = 48) -> pl.Expr:
    """Return an allocation site, a function and its line, without folders, at most this long."""
    folders = r"([ (])[^\s(]*[/\\]([^/\\]+:\d+\)?)$"
    short = pl.col(name).cast(pl.String).str.replace(folders, "${1}${2}")
    return shortened(short.fill_null("unknown site"), length)


def site_and(columns: Sequence[str]) -> pl.Expr:
    """Return the name of an allocation site under these labels; those not known are left out."""
    return pl.concat_str([site(), *of(columns)], separator=" · ", ignore_nulls=True).alias("name")


def shortened(text: pl.Expr, length: int) -> pl.Expr:
    """Return text without its end where it is longer than this many characters."""
    return (
        pl.when(text.str.len_chars() > length).then(text.str.head(length - 1) + "…").otherwise(text)
    )


def of_rows(shown: pl.Series) -> str:
    """Return the Vega expression that shows these names for the numbers of their rows.

    Rows are told apart by number where names may repeat.
    """
    return f"({json.dumps(dict(enumerate(shown.to_list())))})[datum.value]"
