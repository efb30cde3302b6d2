"""Fates counted, by stage; what a lost key frame took along."""

from __future__ import annotations

from vidlab.analysis import losses


def fated(table, fates, **columns):
    """One frame for each "fate" or "fate@stage"."""
    rows = []
    for number, text in enumerate(fates.split(), 1):
        fate, _, lost_at = text.partition("@")
        rows.append({"frame": number, "seq": number - 1, "fate": fate, "lost_at": lost_at or None})
    common = {"stream_id": "cam", "codec": "h264", "reordered": False}
    return table("frames", rows, **{**common, **columns})


def test_all_delivered_nothing_lost(table):
    frames = fated(table, "delivered " * 3)
    row = losses.fates(frames).row(0, named=True)
    assert (row["frames"], row["delivered"], row["lost_share"]) == (3, 3, 0.0)
    assert losses.by_stage(frames).height == 0
    assert losses.gops(frames).height == 0


MIXED = (
    "delivered duplicated dropped@mailbox dropped@mailbox corrupt@decode cancelled@filter "
    "unfinished delivered"
)


def test_fates_are_counted_and_the_unfinished_are_not_lost(table):
    result = losses.fates(fated(table, MIXED, sample_rate=0.5, reordered=True))
    assert result.columns == [
        "stream_id", "codec", "frames", "delivered", "duplicated", "dropped", "corrupt",
        "cancelled", "unfinished", "reordered", "lost_share",
    ]  # fmt: skip
    # Which frames came out before others is unknown where the others were not recorded.
    assert result.row(0) == ("cam", "h264", 16, 4, 2, 4, 2, 2, 2, None, 4 / 7)
    whole = losses.fates(fated(table, MIXED, sample_rate=1.0, reordered=True))
    assert whole["reordered"].to_list() == [8]
    assert losses.fates(fated(table, "unfinished"))["lost_share"].to_list() == [None]
    assert losses.fates(fated(table, MIXED), by=[])["frames"].to_list() == [8]


def test_losses_by_the_stage_that_lost_them(table):
    result = losses.by_stage(fated(table, MIXED), by="codec")
    assert result.rows() == [
        ("h264", "dropped", "mailbox", 2, 2 / 8),
        ("h264", "cancelled", "filter", 1, 1 / 8),
        ("h264", "corrupt", "decode", 1, 1 / 8),
        ("h264", "duplicated", None, 1, 1 / 8),
        ("h264", "unfinished", None, 1, 1 / 8),
    ]


def gop_of(table, *streams, **columns):
    """Frames of each stream: K, p: delivered key and other frames; capital or not, `X`, `x`:
    dropped before the decoder; `C`, `c`: corrupt; `D`, `d`: dropped after it."""
    rows = []
    for opened, letters in enumerate(streams, 1):
        for n, letter in enumerate(letters):
            fate = {"x": "dropped", "d": "dropped", "c": "corrupt"}.get(letter.lower(), "delivered")
            rows.append(
                {
                    "frame": (opened << 32) + n,
                    "seq": n,
                    "key": letter.isupper(),
                    "fate": fate,
                    "t_demux_ns": 1_000 + n,
                    "t_decoded_ns": None if letter.lower() == "x" else 2_000 + n,
                    "lost_at": None if fate == "delivered" else "decode",
                }
            )
    return table("frames", rows, **{"stream_id": "cam", "codec": "h264", **columns})


def runs(frames):
    return losses.gops(frames).select("first_seq", "last_seq", "lost_frames").rows()


def test_a_lost_key_frame_takes_along_what_follows_it(table):
    assert runs(gop_of(table, "KppXcxpKpp")) == [(3, 5, 3)]
    assert runs(gop_of(table, "XccXccKp")) == [(0, 2, 3), (3, 5, 3)]
    assert runs(gop_of(table, "KpCc")) == [(2, 3, 2)]


def test_other_losses_are_not_of_a_key_frame(table):
    assert runs(gop_of(table, "KxxpKcpK")) == []  # the key frames are whole
    assert runs(gop_of(table, "KpDdpK")) == []  # dropped after decoding


def test_a_stream_opened_twice_and_sampled_streams(table):
    result = losses.gops(gop_of(table, "Kpx", "cXc"))
    assert result.row(0, named=True) == {
        "stream_id": "cam", "codec": "h264", "frame": (2 << 32) + 1, "t_demux_ns": 1_001,
        "fate": "dropped", "lost_at": "decode", "first_seq": 1, "last_seq": 2, "lost_frames": 2,
    }  # fmt: skip
    assert result.height == 1
    assert runs(gop_of(table, "KpXxp", sample_rate=0.5)) == []


def test_nothing_in_nothing_out(table):
    frames = table("frames")
    assert losses.fates(frames).schema == losses.fates(fated(table, MIXED)).schema
    assert losses.by_stage(frames).schema == losses.by_stage(fated(table, MIXED)).schema
    assert losses.gops(frames).schema == losses.gops(gop_of(table, "Xx")).schema
