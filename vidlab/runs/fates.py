"""What became of each frame: the table `frames`, derived from `frame_events` and `spans`.

A frame may be touched by several threads and processes, none of which sees the
whole of its way. So nobody decides a fate while recording: the engines only
write down steps, and the fate follows from all of them, on a finished, a killed
and a still growing run alike.

Where several fates apply, the first of these counts:

1. **corrupt**: it came out of the decoder flagged, or its packet went in to be
   decoded and never came out, even if something was delivered of it;
2. **delivered**, or **duplicated** if one sink consumed it more than once;
3. **dropped**, as a queue evicted it;
4. **cancelled**, if its last span was;
5. **dropped**, if its decoder was told to keep it to itself (a file's edit list,
   `skip_frame`) or threw it away at a seek, or if it was overtaken: its packet was not
   sent to the decoder while a later one was, or it was not delivered while a later
   frame was, or a stage that still held it was drained;
6. **delivered**, at the end of its last span, if its stream has no sink;
7. **unfinished**: it was under way when the recording ended.

A frame "never came out" of its decoder if the decoder was drained after its
packet was sent, or if a frame that must come out after it has: one with a larger
pts. Packets without pts are judged by the order of sending: frames that came
out were overtaken by so many others; one overtaken by more is lost.
"""

from __future__ import annotations

from collections.abc import Iterable

import polars as pl

from ..schema import COMMON, FATES, FLAG_CORRUPT, FLAG_KEY, FLAG_SKIP, LABELS, PICTURE_TYPES, TABLES

#: Stages with a rule of their own; the frame engine names them so. At a seek the
#: decoder throws away what it holds.
DEMUX, DECODE, ENCODE, SEEK = "demux", "decode", "encode", "seek"

_COLUMNS = [column.name for column in TABLES["frames"].columns]
_KNOWN_LABELS = [column.name for column in LABELS]
_LATEST, _EARLIEST = (1 << 63) - 1, -(1 << 63)


def frames(events: pl.LazyFrame, spans: pl.LazyFrame) -> pl.LazyFrame:
    """Return the table `frames` of these frame events and spans, one row a frame.

    Parameters
    ----------
    events, spans : polars.LazyFrame
        The tables `frame_events` and `spans` of one run, of all its processes.
        Further label columns (and `sample_rate`) are kept.

    Returns
    -------
    polars.LazyFrame
        The columns of the table `frames` in the schema's order, then the further
        label columns. In no particular order of rows.
    """
    events, spans = (table.filter(pl.col("frame") > 0) for table in (events, spans))
    further = _further_labels(events)
    births = _births(events, spans, [*_KNOWN_LABELS, *further])
    told = _with_fates(_windows(_facts(births, events, spans), events))
    # The wide columns join last: the windows hold all frames of a stream in memory.
    base = pl.format("{}/{}", "time_base_num", "time_base_den")
    return (
        births.with_columns(
            t_demux_ns=pl.col("t_ns"),
            seq=(pl.col("frame") & 0xFFFFFFFF).cast(pl.UInt32),
            time_base=pl.when(pl.col("time_base_den") > 0).then(base),
        )
        .join(told, on="frame", how="left")
        .select(*_COLUMNS, *further)
    )


def findings(frames: pl.LazyFrame, sampled: Iterable[int] = ()) -> pl.DataFrame:
    """Return what the table `frames` shows that should not be, as rows of `findings`.

    `gop_loss`: a key frame's packet was lost (dropped on its way to the decoder,
    or corrupt), and with it perhaps frames up to the next key frame. Streams of
    which only a sample was recorded are left out: their next key frame is unknown. Those
    are the streams with frames that stand for others, and those that `sampled` names by the
    high bits of their frames' numbers.
    """
    schema = frames.collect_schema()
    labels = [name for name in schema if name not in _COLUMNS or name in _KNOWN_LABELS]
    stream = pl.col("frame") // (1 << 32)
    frames = frames.filter(~stream.is_in(list(sampled)))
    if "sample_rate" in schema:
        frames = frames.filter((pl.col("sample_rate") == 1.0).all().over(stream))
    key = pl.col("key").fill_null(value=False)
    fate = pl.col("fate").cast(pl.String)
    # What a decoder was told to skip or throw away, no other frame has missed.
    untold = ~pl.col("lost_at").cast(pl.String).is_in([DECODE, SEEK])
    unsent = pl.col("t_decoded_ns").is_null() & untold
    lost = (fate == "corrupt") | ((fate == "dropped") & unsent)
    groups = (
        frames.with_columns(key=key, lost=lost, fate=fate, stream=stream)
        .with_columns(gop=key.cum_sum().over("stream", order_by="seq"))
        .group_by("stream", "gop")
        .agg(
            pl.col("t_ns", "pid", "tid", "frame", "fate", "lost_at", "lost", *labels)
            .filter(key)
            .first(),
            key_seq=pl.col("seq").filter(key).first(),
            length=pl.len(),
            lost_with_it=(lost & ~key).sum(),
            dropped=(lost & (fate == "dropped")).sum(),
            corrupt=(lost & (fate == "corrupt")).sum(),
            last_lost_seq=pl.col("seq").filter(lost).max(),
        )
        .filter("lost", pl.col("length") > 1)  # where every frame is a key frame, none takes others
        .with_columns(others=pl.col("length") - 1, where=pl.col("lost_at").cast(pl.String))
    )
    evidence = ("key_seq", "length", "lost_with_it", "dropped", "corrupt", "last_lost_seq")
    return (
        groups.select(
            "t_ns",
            "pid",
            "tid",
            pl.lit("gop_loss").alias("kind"),
            pl.lit("warning").alias("severity"),
            "frame",
            pl.format(
                "key frame {} was {} at {}; of the {} frames up to the next key frame {} were lost",
                "key_seq",
                pl.when(fate == "corrupt").then(pl.lit("corrupt")).otherwise(pl.lit("dropped")),
                pl.col("where").fill_null("an unknown stage"),
                "others",
                "lost_with_it",
            ).alias("message"),
            pl.struct(*evidence).struct.json_encode().alias("evidence"),
            *labels,
        )
        .sort("t_ns", "frame")
        .collect()
    )


def _further_labels(events: pl.LazyFrame) -> list[str]:
    own = {column.name for column in TABLES["frame_events"].columns}
    return [name for name in events.collect_schema().names() if name not in own]


def _births(events: pl.LazyFrame, spans: pl.LazyFrame, labels: list[str]) -> pl.LazyFrame:
    """One row a frame: what it is, where and when it was first seen."""
    seen = ["frame", *(column.name for column in COMMON), *labels]
    stamps = ["pts", "dts", "time_base_num", "time_base_den"]
    event = pl.col("event").cast(pl.String)
    demuxed = events.filter(event == "demuxed").select(*seen, *stamps)
    # The read of a packet may be missing: bounded recordings let the oldest events go,
    # and of a process that was killed the spans may be here without the events.
    traces = [events.filter(event != "flushed").select(*seen, *stamps), spans.select(*seen)]
    missing = (
        pl.concat([table.select("frame") for table in traces])
        .unique()
        .join(demuxed.select("frame"), on="frame", how="anti")
    )
    others = (
        pl.concat(traces, how="diagonal_relaxed")
        .join(missing, on="frame", how="semi")
        .group_by("frame")
        .agg(
            pl.col(*seen[1:]).min_by("t_ns"),
            *(pl.col(stamp).drop_nulls().first() for stamp in stamps),
        )
    )
    return pl.concat([demuxed, others], how="diagonal_relaxed")


def _facts(births: pl.LazyFrame, events: pl.LazyFrame, spans: pl.LazyFrame) -> pl.LazyFrame:
    """One row a frame: the time of each step, what was seen on the way, its last span."""
    event = pl.col("event").cast(pl.String)
    flags = pl.col("flags").fill_null(0)

    def at(step: str) -> pl.Expr:
        return pl.when(event == step).then("t_ns").min()

    steps = (
        events.filter(event != "flushed")
        .group_by("frame")
        .agg(
            t_sent=at("sent"),
            t_decoded_ns=at("decoded"),
            t_delivered=at("delivered"),
            t_evicted=at("evicted"),
            t_last_event=pl.col("t_ns").max(),
            key=((flags & FLAG_KEY) > 0).any(),
            flagged=((flags & FLAG_CORRUPT) > 0).any(),
            skipped=((flags & FLAG_SKIP) > 0).any(),
            picture=pl.when(event == "decoded").then("picture_type").max(),
        )
    )
    evicted = events.filter(event == "evicted").group_by("frame")
    taken = events.filter(event == "delivered").group_by("frame", "stage").len()
    end = pl.col("t_ns") + pl.col("duration_ns")
    last = spans.group_by("frame").agg(
        pl.col("stage", "status").max_by(end),
        t_begin=pl.col("t_ns").max_by(end),
        t_end=end.max(),
    )
    return (
        births.select("frame", "t_ns", "pts")
        .join(steps, on="frame", how="left")
        .join(last, on="frame", how="left")
        .join(evicted.agg(evicted_at=pl.col("stage").first()), on="frame", how="left")
        .join(taken.group_by("frame").agg(copies=pl.col("len").max()), on="frame", how="left")
        .with_columns(
            pl.col("stage", "evicted_at", "status").cast(pl.String),
            pl.col("copies").fill_null(0).cast(pl.UInt16),
            stream=pl.col("frame") // (1 << 32),
        )
    )


def _windows(facts: pl.LazyFrame, events: pl.LazyFrame) -> pl.LazyFrame:
    """Add what only the other frames of the same opened stream tell about a frame."""
    drained = events.filter(pl.col("event").cast(pl.String) == "flushed").select(
        stream=pl.col("frame") // (1 << 32), stage=pl.col("stage").cast(pl.String), t_drained="t_ns"
    )
    decoders = drained.filter(pl.col("stage").is_in([DECODE, SEEK])).rename({"stage": "drained_by"})
    stages = drained.group_by("stream", "stage").agg(t_stage_drained=pl.col("t_drained").max())
    out, sent, delivered = (pl.col(c) for c in ("t_decoded_ns", "t_sent", "t_delivered"))
    return (
        facts.join(stages, on=["stream", "stage"], how="left")
        .sort("t_sent")
        .join_asof(
            decoders.sort("t_drained"),
            by="stream",
            left_on="t_sent",
            right_on="t_drained",
            strategy="forward",
            allow_exact_matches=False,
            check_sortedness=False,
        )
        .with_columns(
            # Several frames come out of one call, by pts, and may bear one time.
            out_ix=pl.int_range(pl.len()).over("stream", order_by=["t_decoded_ns", "pts"]),
            way_ix=pl.int_range(pl.len()).over(
                "stream", order_by=[out.fill_null(pl.col("t_ns")), "pts", "frame"]
            ),
            send_ix=pl.int_range(pl.len()).over("stream", order_by=["t_sent", "frame"]),
            stream_decodes=sent.is_not_null().any().over("stream"),
            stream_has_sink=delivered.is_not_null().any().over("stream"),
            last_sent=pl.when(sent.is_not_null()).then("frame").max().over("stream"),
            # A seek leads to other pts: only what was sent up to the same seek compares.
            t_out_above=out.fill_null(_EARLIEST)
            .cum_max(reverse=True)
            .shift(-1)
            .over("stream", "t_drained", order_by="pts"),
        )
        .with_columns(out_ix=pl.when(out.is_not_null()).then("out_ix"))
        .with_columns(
            first_out_of_later=pl.when(sent.is_not_null())
            .then("out_ix")
            .fill_null(_LATEST)
            .cum_min(reverse=True)
            .shift(-1)
            .over("stream", order_by="send_ix"),
            **_overtaken("decoder", "send_ix", sent.is_not_null() & out.is_not_null(), "out_ix"),
            **_overtaken("sink", "way_ix", delivered.is_not_null(), "t_delivered"),
        )
    )


def _overtaken(what: str, order: str, arrived: pl.Expr, arrival: str) -> dict[str, pl.Expr]:
    """How many later frames have arrived, and the most by which an arrived one was overtaken.

    Among arrived frames, rank by arrival less rank by order is at most the number
    that overtook the frame; for the most overtaken one they are equal.
    """
    entered = arrived.cum_sum().over("stream", order_by=order)
    rank = pl.when(arrived).then(arrival).rank("ordinal").over("stream")
    late = rank.cast(pl.Int64) - entered.cast(pl.Int64)
    return {
        f"{what}_overtakers": arrived.sum().over("stream") - entered,
        f"{what}_slack": pl.when(arrived).then(late).max().over("stream"),
    }


def _with_fates(facts: pl.LazyFrame) -> pl.LazyFrame:
    """Apply the rules at the head of this module, in their order."""
    out, sent, stage = pl.col("t_decoded_ns"), pl.col("t_sent"), pl.col("stage")
    went_in, came_out = sent.is_not_null(), out.is_not_null()
    passed_by = (
        pl.when(pl.col("pts").is_not_null())
        .then(pl.col("t_out_above") > sent)
        .otherwise(pl.col("decoder_overtakers") > pl.col("decoder_slack"))
    )
    drained_by = pl.col("drained_by")
    never_came_out = went_in & ~came_out & _true(drained_by.is_not_null() | passed_by)
    thrown_away = _true(drained_by == SEEK) & ~_true(passed_by)
    corrupt = pl.col("flagged") | (never_came_out & ~thrown_away & ~pl.col("skipped"))

    not_sent = pl.col("stream_decodes") & ~went_in & ~came_out
    later_sent = pl.col("frame") < pl.col("last_sent")
    # An encoder hands frames out in another order than it takes them in.
    in_encoder = (stage == ENCODE) & (pl.col("status") == "ok")
    passed_in_encoder = pl.col("sink_overtakers") > pl.col("sink_slack")
    later_delivered = (
        pl.when(_true(in_encoder)).then(passed_in_encoder).otherwise(pl.col("sink_overtakers") > 0)
    )
    drained = (stage != DECODE) & (pl.col("t_stage_drained") > pl.col("t_begin"))
    inside = went_in & ~came_out
    overtaken = (
        pl.when(never_came_out)
        .then(pl.lit(value=True))
        .when(not_sent)
        .then(later_sent)
        .when(~inside & pl.col("stream_has_sink"))
        .then(later_delivered | _true(drained))
    )
    fate = (
        pl.when(_true(corrupt))
        .then(pl.lit("corrupt"))
        .when(pl.col("copies") > 1)
        .then(pl.lit("duplicated"))
        .when(pl.col("copies") == 1)
        .then(pl.lit("delivered"))
        .when(pl.col("t_evicted").is_not_null())
        .then(pl.lit("dropped"))
        .when(_true(pl.col("status") == "cancelled"))
        .then(pl.lit("cancelled"))
        .when(_true(overtaken))
        .then(pl.lit("dropped"))
        .when(~not_sent & ~inside & ~pl.col("stream_has_sink") & pl.col("key").is_not_null())
        .then(pl.lit("delivered"))
        .otherwise(pl.lit("unfinished"))
        .cast(pl.Enum(FATES))
    )
    is_lost = pl.col("fate").is_in(["dropped", "corrupt", "cancelled"])
    # A flagged frame may go all its way: then nothing lost it.
    unsunk = (pl.col("fate") == "corrupt") & came_out & ~pl.col("stream_has_sink")
    arrived = (pl.col("copies") > 0) | unsunk
    return facts.with_columns(fate=fate).select(
        "frame",
        "t_decoded_ns",
        "key",
        "fate",
        "copies",
        t_done_ns=pl.when(pl.col("fate") != "unfinished").then(
            pl.coalesce("t_delivered", "t_end", "t_last_event")
        ),
        lost_at=pl.when(is_lost & ~arrived).then(
            pl.when(never_came_out)
            .then(pl.when(thrown_away).then(pl.lit(SEEK)).otherwise(pl.lit(DECODE)))
            .otherwise(pl.coalesce("evicted_at", "stage", pl.lit(DEMUX)))
        ),
        picture_type=pl.col("picture").replace_strict(
            dict(enumerate(PICTURE_TYPES[1:], 1)),
            default=None,
            return_dtype=pl.Enum(PICTURE_TYPES[1:]),
        ),
        reordered=_true(pl.col("first_out_of_later") < pl.col("out_ix")),
    )


def _true(condition: pl.Expr) -> pl.Expr:
    """The condition, with "unknown" read as no."""
    return condition.fill_null(value=False)
