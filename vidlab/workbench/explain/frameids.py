"""Which frame is meant, and what a frame is called: cam-3:117, or its number.

A frame's number is large, and no reader's. Its stream and its packet's number in it name it
too, unless a stream of that name was opened more than once.
"""

from __future__ import annotations

from collections.abc import Iterable

import polars as pl

from ...analysis import tables
from ...errors import InputError
from ...runs.run import Run
from ..slices import Slice

#: What names a frame: the stream, and the packet's number in it.
_NAME = ["stream_id", "seq"]

#: Names that a message lists at most.
LISTED = 8


def found(part: Slice, wanted: int | str) -> pl.DataFrame:
    """Return the frame of a slice that this number, or STREAM:SEQ, names.

    Returns
    -------
    polars.DataFrame
        Its row of the table `frames`, text as String.

    Raises
    ------
    InputError
        If it names no frame, or more than one; or there are no frames.
    """
    text = str(wanted).strip()
    stream, colon, number = text.rpartition(":")
    digits = number.isascii() and number.isdecimal()
    if not digits or (colon and not stream) or len(number) > 20:
        raise InputError(f"{text!r} names no frame: {_how(part)}")
    # Numbers first, which are soon compared; text only of what is left.
    key, most = ("seq", 2**32 - 1) if colon else ("frame", 2**64 - 1)
    table = part.scan("frames").filter(pl.col(key) == min(int(number), most))
    rows = tables.plain(table.collect().sort("frame"))
    if colon:
        rows = rows.filter(pl.col("stream_id") == stream)
    if not rows.height:
        raise InputError(f"there is no frame {text}{_of(part)} in {part.run.path}: {_how(part)}")
    if rows.height > 1:
        numbers = ", ".join(map(str, rows["frame"].head(LISTED)))
        raise InputError(
            f"{rows.height} frames are called {text}: the stream was opened more than once. "
            f"Name the one you mean by its number: {numbers}"
        )
    return rows


def called(run: Run, frames: Iterable[int]) -> dict[int, str]:
    """Return what each of these frames is called: what `found` finds it by.

    Parameters
    ----------
    run : Run
    frames : iterable of int
        Numbers of frames.
    """
    wanted = pl.Series("frame", list(frames), pl.UInt64).unique()
    names = {frame: str(frame) for frame in wanted}
    own = pl.col("frame").is_in(wanted.implode())
    rows = run.scan("frames").filter(own).select("frame", *_NAME).collect()
    return names | named(run, rows)


def named(run: Run, rows: pl.DataFrame) -> dict[int, str]:
    """Return what those of these frames are called that STREAM:SEQ names.

    Parameters
    ----------
    run : Run
    rows : polars.DataFrame
        Their `frame`, `stream_id` and `seq`.
    """
    # Those that could be called alike: few, as it takes the same number of a packet.
    seqs = rows["seq"].unique()
    same = pl.col("seq") == seqs[0] if seqs.len() == 1 else pl.col("seq").is_in(seqs.implode())
    alike = tables.plain(run.scan("frames").filter(same).select(_NAME).collect())
    once = alike.filter(pl.len().over(_NAME) == 1)
    mine = tables.plain(rows.select("frame", *_NAME)).join(once, on=_NAME)
    return {frame: f"{stream}:{seq}" for frame, stream, seq in mine.iter_rows()}


def _how(part: Slice) -> str:
    """Return how frames are named, by an example of the slice; or that there are none."""
    frames = part.scan("frames")
    first = frames.select("frame").head(1).collect()["frame"]
    if not first.len():
        whole = part.run.scan("frames").select(pl.len()).collect().item()
        if whole:
            return f"it has none{_of(part)}"
        return "it has no frames: record with the engine Frames, as vidlab record does"
    streams = frames.select(pl.col("stream_id").cast(pl.String).drop_nulls().unique().sort())
    names = streams.collect()["stream_id"].to_list()
    more = f" and {len(names) - LISTED:,} more" if len(names) > LISTED else ""
    known = f"; its streams are {', '.join(names[:LISTED])}{more}" if names else ""
    return f"give its number, or STREAM:SEQ, such as {called(part.run, first)[first[0]]}{known}"


def _of(part: Slice) -> str:
    """Return what a slice is narrowed to, in words."""
    labels = {"stream": part.stream_id, "codec": part.codec, "GPU": part.gpu}
    said = [f"{name} {value}" for name, value in labels.items() if value is not None]
    return f" of {', '.join(said)}" if said else ""
