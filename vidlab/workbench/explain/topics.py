"""What is said together of late frames: a cause, where it struck, and whose frames."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import polars as pl

from ...analysis import tables
from ...analysis.blame import causes

#: What strikes all of a process is one cause, whichever the stages that it struck.
EVERYWHERE = (causes.GARBAGE_COLLECTION, causes.GIL, causes.RUN_QUEUE)

#: So many streams are named one by one.
_NAMED = 3

#: A stream is told of alone if it has this share of a cause, and a few together if they have this;
#: and each of them this many times as much as the next.
_ALONE, _TOGETHER, _TIMES = 0.4, 0.6, 2.0

_STREAM = ["stream_id", "codec"]


@dataclass(frozen=True)
class Topic:
    """A cause as it is told: where, whose frames, and how much of the time.

    Attributes
    ----------
    cause : str
    stage : str or None
        The stage or queue with most of it.
    streams : tuple of (str or None), or None
        The few streams that have most of it, and are told of by themselves; None: all others.
    blamed : polars.DataFrame
        Its rows of what `analysis.blame.per_frame` returned.
    seconds, share : float
        Beyond the usual, and of all that is.
    """

    cause: str
    stage: str | None
    streams: tuple[str | None, ...] | None
    blamed: pl.DataFrame
    seconds: float
    share: float


def found_in(blamed: pl.DataFrame) -> list[Topic]:
    """Return what is said together, the worst first.

    A cause is told once for each stage or queue that it struck, and of a few streams by themselves
    if those have most of it there; or once if it strikes a whole process.

    Parameters
    ----------
    blamed : polars.DataFrame
        What `analysis.blame.per_frame` returned.
    """
    struck = blamed.filter(pl.col("blamed_ns") > 0)
    total = float(_seconds(struck, [])["seconds"].sum())
    place = pl.when(~pl.col("cause").is_in(EVERYWHERE)).then("stage").alias("place")
    found = [
        Topic(cause, _most_struck(part), streams, part, seconds, seconds / total)
        for (cause, _), rows in struck.group_by("cause", place, maintain_order=True)
        for streams, part, seconds in _split(rows, cause)
    ]
    return sorted(found, key=lambda topic: (-topic.seconds, topic.cause, topic.stage or ""))


def whose(topics: Sequence[Topic], blamed: pl.DataFrame) -> str:
    """Return of whose frames some topics are, in words.

    Parameters
    ----------
    topics : sequence of Topic
    blamed : polars.DataFrame
        What `found_in` was given.
    """
    of_topics = _seconds(pl.concat([topic.blamed for topic in topics]), _STREAM)
    if of_topics.height == 1:
        stream, codec, _ = of_topics.row(0)
        said = f"stream {stream}" if stream is not None else "frames without a stream"
        return f"{said} ({codec})" if codec else said
    struck = blamed.filter(pl.col("blamed_ns") > 0)
    several = struck["codec"].n_unique() > 1
    names = of_topics["stream_id"].drop_nulls().unique(maintain_order=True)
    own = of_topics["codec"].unique()
    of_codec = f" ({own[0]})" if own.len() == 1 and own[0] and several else ""
    if names.len() <= _NAMED:
        return f"streams {', '.join(names)}{of_codec}"
    of = struck["stream_id"].drop_nulls().n_unique()
    return f"{'all' if names.len() == of else f'{names.len():,} of'} {of:,} streams{of_codec}"


def weight(frames: pl.DataFrame) -> int:
    """Return how many frames these stand for."""
    found = tables.weighted(frames.lazy()).select(pl.col(tables.WEIGHT).sum()).collect().item()
    count: int = round(found)
    return count


def _most_struck(rows: pl.DataFrame) -> str:
    """The stage or queue with most of it."""
    several = rows["stage"].n_unique() > 1
    most: str = (_seconds(rows, ["stage"]) if several else rows)["stage"][0]
    return most


def _split(
    rows: pl.DataFrame, cause: str
) -> Iterator[tuple[tuple[str | None, ...] | None, pl.DataFrame, float]]:
    """A cause at a place, as one; or as that of few streams that have most of it, and the rest.

    Each with the names of these few streams, sorted, and its seconds.
    """
    streams = _seconds(rows, _STREAM)
    count = 0 if cause in EVERYWHERE else _leading(streams["seconds"].to_list())
    if count:
        few = streams["stream_id"].head(count).unique().to_list()
        first = pl.col("stream_id").is_in(few, nulls_equal=True)
        seconds = float(streams.filter(first)["seconds"].sum())
        yield tuple(sorted(few, key=str)), rows.filter(first), seconds
        rows, streams = rows.filter(~first), streams.filter(~first)
    if rows.height:
        yield None, rows, float(streams["seconds"].sum())


def _leading(seconds: list[float]) -> int:
    """How many streams stand out, of these, the most first: those that have most of it."""
    total = sum(seconds)
    for count in range(1, min(_NAMED, len(seconds)) + 1):
        following = seconds[count] if count < len(seconds) else 0.0
        share = _ALONE if count == 1 else _TOGETHER
        if sum(seconds[:count]) >= share * total and seconds[count - 1] >= _TIMES * following:
            return count
    return 0


def _seconds(rows: pl.DataFrame, by: list[str]) -> pl.DataFrame:
    """The seconds that are blamed, the most first: `by`, and `seconds`."""
    spent = (pl.col("blamed_ns") * pl.col(tables.WEIGHT)).sum() / 1e9
    known = tables.weighted(rows.lazy())
    summed = known.group_by(by).agg(seconds=spent) if by else known.select(seconds=spent)
    return summed.sort("seconds", *by, descending=[True, *[False] * len(by)]).collect()
