"""Every rule by which a frame's fate follows from its steps, on tables written by hand."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import polars as pl
import pytest

from vidlab import schema
from vidlab.runs import fates

PTS = "its place in decode order"  # stands for "the same number as seq"


def stream_of(number: int, process: int = 1) -> int:
    """The part of a frame's id that names its opened stream."""
    return process << 52 | number << 32


@dataclass
class Story:
    """A recording in the making: events and spans, of one stream unless told otherwise."""

    events: list[dict[str, Any]] = field(default_factory=list)
    spans: list[dict[str, Any]] = field(default_factory=list)

    def event(
        self,
        t: int,
        event: str,
        seq: int = 0,
        *,
        pts: int | str | None = PTS,
        stage: str | None = None,
        flags: int = 0,
        picture: str = "",
        stream: int = stream_of(1),
        pid: int = 100,
        **labels: Any,
    ) -> None:
        self.events.append(
            {
                "t_ns": t,
                "pid": pid,
                "tid": pid + 1,
                "frame": stream + seq,
                "seq": seq,
                "pts": seq if pts == PTS else pts,
                "dts": seq,
                "time_base_num": 1,
                "time_base_den": 25,
                "stage": stage,
                "flags": flags,
                "picture_type": schema.PICTURE_TYPES.index(picture),
                "event": event,
                "labels": 7,
                "stream_id": "cam",
                "codec": "h264",
                "gpu": None,
                "sample_rate": labels.get("sample_rate", 1.0),
                "region": labels.get("region", "north"),
            }
        )

    def span(
        self,
        t: int,
        duration: int,
        stage: str,
        seq: int = 0,
        *,
        kind: str = "service",
        status: str = "ok",
        stream: int = stream_of(1),
        pid: int = 100,
    ) -> None:
        self.spans.append(
            {
                "t_ns": t,
                "pid": pid,
                "tid": pid + 1,
                "duration_ns": duration,
                "span": len(self.spans) + 1,
                "parent": None,
                "frame": stream + seq,
                "stage": stage,
                "kind": kind,
                "status": status,
                "labels": 7,
                "stream_id": "cam",
                "codec": "h264",
                "gpu": None,
                "sample_rate": 1.0,
                "region": "north",
            }
        )

    def decoded(self, t: int, seq: int, **options: Any) -> None:
        """A frame that is read at `t` and comes out of its own decode call at t + 10."""
        pts = {name: options[name] for name in ("pts", "stream") if name in options}
        self.event(t, "demuxed", seq, **pts)
        self.span(t, 2, "demux", seq)
        self.event(t + 10, "decoded", seq, **options)
        self.event(t + 11, "sent", seq, **pts)
        self.span(t + 3, 8, "decode", seq)

    def delivered(self, t: int, seq: int, **options: Any) -> None:
        """A frame that is also written, at t + 20."""
        self.decoded(t, seq, **options)
        self.span(t + 12, 8, "mux", seq)
        self.event(t + 20, "delivered", seq, stage="mux")

    def tables(self) -> tuple[pl.LazyFrame, pl.LazyFrame]:
        extra = {"sample_rate": pl.Float64, "region": pl.Categorical}
        return tuple(
            pl.LazyFrame(
                rows,
                schema={
                    **{
                        column.name: TYPES[str(column.type)]
                        for column in schema.TABLES[name].columns
                    },
                    **extra,
                },
            )
            for name, rows in (("frame_events", self.events), ("spans", self.spans))
        )

    def frames(self) -> pl.DataFrame:
        return fates.frames(*self.tables()).collect().sort("frame")

    def fates(self) -> list[str]:
        """The fates in the order of seq, with the stage that lost the frame."""
        return [
            fate if lost_at is None else f"{fate} at {lost_at}"
            for fate, lost_at in self.frames().select("fate", "lost_at").iter_rows()
        ]


TYPES = {
    "int64": pl.Int64,
    "int32": pl.Int32,
    "int16": pl.Int16,
    "uint64": pl.UInt64,
    "uint32": pl.UInt32,
    "uint8": pl.UInt8,
    str(schema.TEXT): pl.Categorical,
}


@pytest.fixture
def story() -> Story:
    return Story()


# The null case, and the table's shape ------------------------------------------------------


def test_no_events_no_frames(story: Story) -> None:
    frames = story.frames()
    assert frames.height == 0
    assert fates.findings(frames.lazy()).height == 0


def test_the_columns_are_the_schemas_and_the_further_labels(story: Story) -> None:
    story.delivered(1000, 0)
    own = [column.name for column in schema.TABLES["frames"].columns]
    assert story.frames().columns == [*own, "sample_rate", "region"]


def test_a_healthy_stream_is_delivered(story: Story) -> None:
    for seq in range(3):
        story.delivered(1000 * seq, seq)
    story.event(5000, "flushed", stage="decode")
    assert story.fates() == ["delivered"] * 3
    assert story.frames()["copies"].to_list() == [1, 1, 1]
    assert not story.frames()["reordered"].any()


def test_a_row_holds_what_the_events_tell(story: Story) -> None:
    story.event(1000, "demuxed", 5, pts=7, flags=schema.FLAG_KEY)
    story.event(1010, "sent", 5, pts=7)
    story.event(1020, "decoded", 5, pts=7, picture="I")
    story.span(1030, 30, "encode", 5)
    story.span(1060, 10, "mux", 5)
    story.event(1070, "delivered", 5, pts=7, stage="mux")
    (row,) = story.frames().iter_rows(named=True)
    assert row == {
        "t_ns": 1000,
        "pid": 100,
        "tid": 101,
        "frame": stream_of(1) + 5,
        "seq": 5,
        "pts": 7,
        "dts": 5,
        "time_base": "1/25",
        "picture_type": "I",
        "key": True,
        "t_demux_ns": 1000,
        "t_decoded_ns": 1020,
        "t_done_ns": 1070,
        "fate": "delivered",
        "lost_at": None,
        "copies": 1,
        "reordered": False,
        "labels": 7,
        "stream_id": "cam",
        "codec": "h264",
        "gpu": None,
        "sample_rate": 1.0,
        "region": "north",
    }


def test_an_unknown_time_base_is_null(story: Story) -> None:
    story.delivered(0, 0)
    for event in story.events:
        event["time_base_num"] = event["time_base_den"] = 0
    assert story.frames()["time_base"].to_list() == [None]


# Delivered and duplicated ------------------------------------------------------------------


def test_a_sink_that_takes_a_frame_twice_duplicates_it(story: Story) -> None:
    story.delivered(0, 0)
    story.event(40, "delivered", 0, stage="mux")
    assert story.fates() == ["duplicated"]
    assert story.frames()["copies"].to_list() == [2]
    assert story.frames()["t_done_ns"].to_list() == [20], "done when it was first delivered"


def test_two_sinks_that_take_a_frame_once_do_not(story: Story) -> None:
    story.delivered(0, 0)
    story.event(40, "delivered", 0, stage="preview")
    assert story.fates() == ["delivered"]
    assert story.frames()["copies"].to_list() == [1]


def test_without_any_sink_a_frame_is_delivered_at_the_end_of_its_last_span(story: Story) -> None:
    story.decoded(0, 0)
    story.span(100, 50, "detect", 0)
    story.span(110, 20, "inner", 0)
    assert story.fates() == ["delivered"]
    assert story.frames()["t_done_ns"].to_list() == [150]
    assert story.frames()["copies"].to_list() == [0]


def test_a_frame_read_by_opencv_needs_no_decoder(story: Story) -> None:
    """Of a program that reads frames, not packets, there is nothing that was "sent"."""
    for seq in range(3):
        story.event(100 * seq, "demuxed", seq, pts=None)
        story.event(100 * seq, "decoded", seq, pts=None)
        story.span(100 * seq, 10, "VideoCapture.read", seq)
    story.event(50, "delivered", 0, pts=None, stage="VideoWriter.write")
    story.event(250, "delivered", 2, pts=None, stage="VideoWriter.write")
    assert story.fates() == ["delivered", "dropped at VideoCapture.read", "delivered"]


def test_packets_that_are_copied_need_no_decoder(story: Story) -> None:
    for seq in range(3):
        story.event(100 * seq, "demuxed", seq)
        story.span(100 * seq, 10, "demux", seq)
    story.event(20, "delivered", 0, stage="mux")
    story.event(220, "delivered", 2, stage="mux")
    assert story.fates() == ["delivered", "dropped at demux", "delivered"]


def test_packets_that_are_only_read_are_delivered(story: Story) -> None:
    story.event(0, "demuxed", 0)
    story.span(0, 10, "demux", 0)
    assert story.fates() == ["delivered"]


def test_sinks_of_another_stream_do_not_count(story: Story) -> None:
    story.delivered(0, 0)
    story.decoded(0, 0, stream=stream_of(2))
    story.decoded(0, 0, stream=stream_of(1, process=2))
    assert story.fates() == ["delivered"] * 3


# Dropped -----------------------------------------------------------------------------------


def test_a_frame_that_a_queue_evicted_is_dropped_there(story: Story) -> None:
    story.decoded(0, 0)
    story.event(30, "evicted", 0, stage="raw frames")
    assert story.fates() == ["dropped at raw frames"], "though the stream has no sink"


def test_a_frame_evicted_from_one_queue_and_delivered_by_another_way(story: Story) -> None:
    story.delivered(0, 0)
    story.event(15, "evicted", 0, stage="preview")
    assert story.fates() == ["delivered"]


def test_a_packet_that_a_queue_evicted_is_dropped_there(story: Story) -> None:
    story.event(0, "demuxed", 0)
    story.event(5, "evicted", 0, stage="packets")
    story.delivered(10, 1)
    assert story.fates() == ["dropped at packets", "delivered"]


def test_a_packet_that_was_passed_over_is_dropped_at_demux(story: Story) -> None:
    story.event(0, "demuxed", 0)
    story.span(0, 2, "demux", 0)
    story.event(10, "demuxed", 1)
    story.delivered(20, 2)
    assert story.fates() == ["dropped at demux", "dropped at demux", "delivered"]


def test_a_packet_lost_after_another_stage_is_dropped_there(story: Story) -> None:
    story.event(0, "demuxed", 0)
    story.span(0, 2, "demux", 0)
    story.span(3, 2, "parse", 0)
    story.delivered(20, 1)
    assert story.fates() == ["dropped at parse", "delivered"]


def test_a_packet_at_the_very_end_that_was_not_sent_yet_is_unfinished(story: Story) -> None:
    story.delivered(0, 0)
    story.event(100, "demuxed", 1)
    story.span(100, 2, "demux", 1)
    assert story.fates() == ["delivered", "unfinished"]
    assert story.frames()["t_done_ns"].to_list() == [20, None]


def test_a_frame_that_a_filter_ate_is_dropped_at_the_filter(story: Story) -> None:
    for seq in range(3):
        story.decoded(100 * seq, seq)
        story.span(100 * seq + 20, 5, "filter", seq)
    story.event(50, "delivered", 0, stage="mux")
    story.event(250, "delivered", 2, stage="mux")
    assert story.fates() == ["delivered", "dropped at filter", "delivered"]
    assert story.frames()["t_done_ns"].to_list() == [50, 125, 250]


def test_a_last_frame_that_a_filter_ate_needs_its_end_to_be_known(story: Story) -> None:
    """Only the drained filter tells it from one that the filter still holds."""
    story.delivered(0, 0)
    story.decoded(100, 1)
    story.span(120, 5, "filter", 1)
    assert story.fates() == ["delivered", "unfinished"]
    story.event(200, "flushed", stage="filter")
    assert story.fates() == ["delivered", "dropped at filter"]


def test_a_drained_filter_says_nothing_of_what_had_left_it(story: Story) -> None:
    story.delivered(0, 0)
    story.decoded(100, 1)
    story.span(120, 5, "filter", 1)
    story.span(130, 5, "detect", 1)
    story.event(200, "flushed", stage="filter")
    assert story.fates() == ["delivered", "unfinished"]


def test_a_drained_filter_of_a_stream_without_a_sink_loses_nothing(story: Story) -> None:
    story.decoded(100, 1)
    story.span(120, 5, "filter", 1)
    story.event(200, "flushed", stage="filter")
    assert story.fates() == ["delivered"]


def test_frames_in_a_queue_at_the_end_are_unfinished(story: Story) -> None:
    story.delivered(0, 0)
    for seq in (1, 2, 3):
        story.decoded(100 * seq, seq)
    story.event(500, "flushed", stage="decode")
    assert story.fates() == ["delivered", "unfinished", "unfinished", "unfinished"]


def test_an_encoder_that_reorders_does_not_drop_what_it_holds(story: Story) -> None:
    """It gives out P before B: at the end of a killed recording, B is late, not lost."""
    for seq in range(6):
        story.decoded(100 * seq, seq)
        story.span(100 * seq + 20, 10, "encode", seq)
    for t, seq in ((600, 0), (610, 3), (620, 1), (630, 2), (640, 5)):
        story.event(t, "delivered", seq, stage="mux")
    assert story.fates() == [*["delivered"] * 4, "unfinished", "delivered"]


def test_an_encoder_that_reorders_excuses_only_what_it_holds(story: Story) -> None:
    """Frames 1 and 2 were overtaken as 4 and 5 were; but 4 never reached the encoder,
    and on 5 it failed."""
    for seq in range(7):
        story.decoded(100 * seq, seq)
        if seq != 4:
            story.span(100 * seq + 20, 10, "encode", seq, status="error" if seq == 5 else "ok")
    for t, seq in ((700, 0), (710, 3), (720, 1), (730, 2), (740, 6)):
        story.event(t, "delivered", seq, stage="mux")
    assert story.fates()[4:] == ["dropped at decode", "dropped at encode", "delivered"]


# Corrupt -----------------------------------------------------------------------------------


def sent(story: Story, t: int, seq: int, pts: int | str | None = PTS) -> None:
    story.event(t, "demuxed", seq, pts=pts)
    story.event(t + 2, "sent", seq, pts=pts)
    story.span(t + 1, 1, "decode", seq)


def test_a_frame_that_came_out_flagged_is_corrupt(story: Story) -> None:
    story.decoded(0, 0, flags=schema.FLAG_CORRUPT)
    assert story.fates() == ["corrupt"]


def test_a_flagged_frame_is_corrupt_though_it_was_delivered(story: Story) -> None:
    story.delivered(0, 0, flags=schema.FLAG_CORRUPT)
    assert story.fates() == ["corrupt"]
    assert story.frames()["copies"].to_list() == [1]
    assert story.frames()["t_done_ns"].to_list() == [20]


def test_a_flagged_frame_that_was_lost_later_names_where(story: Story) -> None:
    story.decoded(0, 0, flags=schema.FLAG_CORRUPT)
    story.span(12, 5, "filter", 0)
    story.delivered(100, 1)
    assert story.fates() == ["corrupt at filter", "delivered"]


def test_a_packet_that_never_came_out_of_a_drained_decoder_is_corrupt(story: Story) -> None:
    sent(story, 0, 0)
    assert story.fates() == ["unfinished"], "it may come yet"
    story.event(50, "flushed", stage="decode")
    assert story.fates() == ["corrupt at decode"]


def test_a_packet_sent_after_the_decoder_was_drained_may_come_yet(story: Story) -> None:
    story.event(50, "flushed", stage="decode")
    sent(story, 60, 0)
    assert story.fates() == ["unfinished"]


def test_the_drained_decoder_of_another_stream_says_nothing(story: Story) -> None:
    """Nor does a drained filter."""
    sent(story, 0, 0)
    story.event(50, "flushed", stage="filter")
    story.event(50, "flushed", stage="decode", stream=stream_of(2))
    assert story.fates() == ["unfinished"]


def test_a_larger_pts_that_came_out_shows_that_a_frame_is_lost(story: Story) -> None:
    sent(story, 0, 0, pts=10)
    story.decoded(100, 1, pts=20)
    assert story.fates() == ["corrupt at decode", "delivered"]


def test_a_smaller_pts_that_came_out_does_not(story: Story) -> None:
    """A P frame waits inside until its B frames, sent after it, have come out."""
    sent(story, 0, 0, pts=20)
    story.decoded(100, 1, pts=10)
    assert story.fates() == ["unfinished", "delivered"]


def test_a_larger_pts_that_came_out_before_a_seek_does_not(story: Story) -> None:
    story.decoded(0, 0, pts=90)
    sent(story, 100, 1, pts=10)
    assert story.fates() == ["delivered", "unfinished"]


def test_without_pts_the_order_of_sending_beyond_the_decoders_delay_decides(story: Story) -> None:
    """Frame 0 was overtaken by one frame and came: so 4, overtaken by one, may come yet."""
    for seq in range(7):
        sent(story, 100 * seq, seq, pts=None)
    for t, seq in ((110, 1), (120, 0), (210, 2), (310, 3), (510, 5)):
        story.event(t, "decoded", seq, pts=None)
    assert story.fates()[4:] == ["unfinished", "delivered", "unfinished"]
    story.event(610, "decoded", 6, pts=None)
    assert story.fates()[4:] == ["corrupt at decode", "delivered", "delivered"]


def test_a_packet_that_was_copied_and_yet_never_came_out_is_corrupt(story: Story) -> None:
    sent(story, 0, 0)
    story.event(5, "delivered", 0, stage="mux")
    story.event(50, "flushed", stage="decode")
    assert story.fates() == ["corrupt"]


def test_a_frame_that_the_decoder_was_told_to_skip_is_dropped_there(story: Story) -> None:
    """By a file's edit list, or because only key frames are wanted."""
    story.event(0, "demuxed", 0, flags=schema.FLAG_KEY | schema.FLAG_SKIP)
    story.event(2, "sent", 0)
    assert story.fates() == ["unfinished"]
    for seq in (1, 2):
        story.delivered(100 * seq, seq)
    assert story.fates() == ["dropped at decode", "delivered", "delivered"]
    assert gop_losses(story) == []


def test_a_frame_that_a_seek_threw_away_is_dropped_there(story: Story) -> None:
    """Frame 2 was lost before the seek, 3 is lost after it, when the decoder is drained."""
    for seq, pts in ((0, 20), (1, 30), (2, 10)):
        sent(story, 10 * seq, seq, pts=pts)
    story.event(25, "decoded", 0, pts=20)
    story.event(50, "flushed", stage="seek")
    sent(story, 60, 3, pts=70)
    story.decoded(100, 4, pts=80)
    assert story.fates() == [
        "delivered",
        "dropped at seek",
        "corrupt at decode",
        "corrupt at decode",
        "delivered",
    ]


def test_a_seek_after_the_decoder_was_drained_threw_nothing_away(story: Story) -> None:
    sent(story, 0, 0)
    story.event(50, "flushed", stage="decode")
    story.event(60, "flushed", stage="seek")
    assert story.fates() == ["corrupt at decode"]


# Cancelled and unfinished ------------------------------------------------------------------


def test_a_frame_whose_last_span_was_cancelled_is_cancelled(story: Story) -> None:
    story.decoded(0, 0)
    story.span(20, 10, "detect", 0, status="cancelled")
    assert story.fates() == ["cancelled at detect"]
    story.delivered(100, 1)
    assert story.fates() == ["cancelled at detect", "delivered"]


def test_a_frame_that_went_on_after_a_cancelled_span_is_not(story: Story) -> None:
    story.decoded(0, 0)
    story.span(20, 10, "detect", 0, status="cancelled")
    story.span(40, 10, "draw", 0)
    assert story.fates() == ["delivered"]


def test_frames_known_by_their_spans_only_are_unfinished(story: Story) -> None:
    """A process was killed before it wrote down the events; its spans are in the mapping."""
    story.delivered(0, 0)
    story.span(500, 20, "decode", 9, pid=200)
    story.span(400, 50, "demux", 9, pid=200)
    row = story.frames().row(1, named=True)
    assert (row["fate"], row["seq"], row["t_demux_ns"], row["t_done_ns"]) == (
        "unfinished",
        9,
        400,
        None,
    )
    assert (row["pid"], row["stream_id"], row["region"], row["pts"]) == (200, "cam", "north", None)


def test_a_stream_known_by_its_spans_only_is_unfinished(story: Story) -> None:
    story.span(0, 20, "decode", 0)
    assert story.fates() == ["unfinished"]


def test_spans_of_no_frame_make_no_frame(story: Story) -> None:
    story.span(0, 10, "setup")
    story.spans[0]["frame"] = None
    story.span(0, 10, "setup")
    story.spans[1]["frame"] = 0
    assert story.frames().height == 0


def test_a_frame_whose_first_event_was_let_go_begins_with_the_next(story: Story) -> None:
    story.event(30, "decoded", 4, pts=8)
    story.event(90, "delivered", 4, pts=8, stage="mux")
    (row,) = story.frames().iter_rows(named=True)
    assert (row["fate"], row["t_demux_ns"], row["pts"]) == ("delivered", 30, 8)


# Across processes, reordering --------------------------------------------------------------


def test_the_events_of_one_frame_come_from_several_processes(story: Story) -> None:
    story.decoded(0, 0)
    story.span(500, 20, "mux", 0, pid=200)
    story.event(520, "delivered", 0, stage="mux", pid=200)
    (row,) = story.frames().iter_rows(named=True)
    assert (row["pid"], row["tid"], row["fate"], row["t_done_ns"]) == (100, 101, "delivered", 520)


def test_reordered_frames_are_those_that_a_later_one_passed_in_the_decoder(story: Story) -> None:
    """Sent I P B B, out I B B P: the P frame was passed; nobody was lost."""
    for t, (seq, pts) in enumerate([(0, 0), (1, 3), (2, 1), (3, 2)]):
        sent(story, 100 * t, seq, pts=pts)
    for t, (seq, pts) in enumerate([(0, 0), (2, 1), (3, 2), (1, 3)]):
        story.event(400 + t, "decoded", seq, pts=pts)
    assert story.frames()["reordered"].to_list() == [False, True, False, False]
    assert story.fates() == ["delivered"] * 4


def test_frames_out_of_one_call_came_in_the_order_of_their_pts(story: Story) -> None:
    for seq in range(8):
        sent(story, 10 * seq, seq, pts=8 - seq)
    for seq in range(8):
        story.event(500, "decoded", seq, pts=8 - seq)
    assert story.frames()["reordered"].to_list() == [*[True] * 7, False]


def test_a_lost_packet_reorders_nothing(story: Story) -> None:
    sent(story, 0, 0)
    story.decoded(100, 1)
    story.event(300, "flushed", stage="decode")
    assert story.frames()["reordered"].to_list() == [False, False]


@pytest.mark.parametrize("text", [pl.String, pl.Categorical])
def test_text_columns_may_be_of_any_kind(story: Story, text: pl.DataType) -> None:
    story.delivered(0, 0)
    story.decoded(100, 1)
    story.delivered(200, 2)
    tables = [table.with_columns(pl.col(pl.Categorical).cast(text)) for table in story.tables()]
    assert fates.frames(*tables).collect().sort("frame")["fate"].to_list() == [
        "delivered",
        "dropped",
        "delivered",
    ]


# Findings ----------------------------------------------------------------------------------


def gop_losses(story: Story) -> list[dict[str, Any]]:
    found = fates.findings(fates.frames(*story.tables()))
    assert set(found["kind"]) <= {"gop_loss"}
    return [
        {"seq": row["frame"] & 0xFFFFFFFF, **json.loads(row["evidence"])}
        for row in found.iter_rows(named=True)
    ]


def gop(story: Story, first: int, lost: dict[int, str], length: int = 4, **labels: Any) -> None:
    """A key frame and what depends on it; `lost` says how frames are lost."""
    for seq in range(first, first + length):
        t = 100 * seq
        flags = schema.FLAG_KEY if seq == first else 0
        story.event(t, "demuxed", seq, flags=flags, **labels)
        story.span(t, 5, "demux", seq)
        if lost.get(seq) != "dropped":
            story.event(t + 10, "sent", seq, **labels)
        if seq not in lost or lost[seq] == "filtered":
            story.event(t + 15, "decoded", seq, **labels)
        if seq not in lost:
            story.event(t + 20, "delivered", seq, stage="mux", **labels)


def test_a_lost_key_frame_and_what_it_took_along_is_a_gop_loss(story: Story) -> None:
    gop(story, 0, {})
    gop(story, 4, {4: "dropped", 5: "corrupt", 7: "corrupt"})
    gop(story, 8, {})
    story.event(5000, "flushed", stage="decode")
    assert gop_losses(story) == [
        {
            "seq": 4,
            "key_seq": 4,
            "length": 4,
            "lost_with_it": 2,
            "dropped": 1,
            "corrupt": 2,
            "last_lost_seq": 7,
        }
    ]
    found = fates.findings(fates.frames(*story.tables()))
    assert found.columns[:8] == [
        "t_ns",
        "pid",
        "tid",
        "kind",
        "severity",
        "frame",
        "message",
        "evidence",
    ]
    assert found.select("t_ns", "pid", "stream_id", "region").row(0) == (400, 100, "cam", "north")
    assert found["message"][0] == (
        "key frame 4 was dropped at demux; of the 3 frames up to the next key frame 2 were lost"
    )


def test_lost_frames_between_key_frames_are_no_gop_loss(story: Story) -> None:
    gop(story, 0, {1: "corrupt", 2: "dropped"})
    gop(story, 4, {})
    assert gop_losses(story) == []


def test_a_key_frame_dropped_after_the_decoder_takes_nobody_along(story: Story) -> None:
    gop(story, 0, {0: "filtered", 2: "filtered"})
    gop(story, 4, {})
    assert [f.split()[0] for f in story.fates()[:4]] == [
        "dropped",
        "delivered",
        "dropped",
        "delivered",
    ]
    assert gop_losses(story) == []


def test_where_every_frame_is_a_key_frame_none_takes_others_along(story: Story) -> None:
    for seq in range(4):
        gop(story, seq, {1: "dropped"}, length=1)
    assert story.fates()[1] == "dropped at demux"
    assert gop_losses(story) == []


def test_a_sampled_stream_has_no_gop_losses(story: Story) -> None:
    gop(story, 0, {0: "dropped", 1: "corrupt"}, sample_rate=0.5)
    gop(story, 4, {}, sample_rate=0.5)
    assert "corrupt at decode" in story.fates()
    assert gop_losses(story) == []


def test_streams_of_which_a_part_is_recorded_have_no_gop_losses(story: Story) -> None:
    gop(story, 0, {})
    gop(story, 4, {4: "dropped", 5: "corrupt"})
    gop(story, 8, {})
    frames = fates.frames(*story.tables()).collect()
    assert fates.findings(frames.lazy()).height == 1
    # Frames kept for what became of them stand for themselves alone: what was between them?
    assert fates.findings(frames.lazy(), [stream_of(1) >> 32]).height == 0
    assert fates.findings(frames.lazy(), [stream_of(2) >> 32]).height == 1
    one_for_ten = pl.when(pl.col("seq") == 9).then(0.1).otherwise(1.0)
    assert fates.findings(frames.lazy().with_columns(sample_rate=one_for_ten)).height == 0
