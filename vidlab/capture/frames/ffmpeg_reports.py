"""What FFmpeg reports while it runs: its texts, parsed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """A progress report of FFmpeg; what it says as N/A is None.

    Attributes
    ----------
    frame_count : int or None
        Frames written; None without a video stream.
    fps : float or None
        Frames written a second.
    q : dict of str to float
        The quantiser by output stream, such as ``{"0_0": 28.0}``; -1 once it has ended.
    bitrate : float or None
        Of the output, bit/s.
    total_size_bytes, out_time_ns : int or None
        What was written, and how far the output has come.
    dup_frames, drop_frames : int or None
        Frames that FFmpeg duplicated and dropped to keep the frame rate.
    speed : float or None
        Media seconds a second.
    ended : bool
        Whether this is its last report.
    """

    frame_count: int | None
    fps: float | None
    q: Mapping[str, float]
    bitrate: float | None
    total_size_bytes: int | None
    out_time_ns: int | None
    dup_frames: int | None
    drop_frames: int | None
    speed: float | None
    ended: bool


@dataclass(frozen=True)
class EncodedFrame:
    """A line of FFmpeg's vstats file: one frame that came out of an encoder."""

    output: str
    frame_number: int
    q: float
    size_bytes: int
    out_time_ns: int | None
    bitrate: float | None
    picture_type: str | None


def parse_progress(lines: Sequence[str]) -> Progress:
    """Return the report of one block of ``key=value`` lines, up to its ``progress=`` line."""
    said = {key: value.strip() for key, _, value in (line.partition("=") for line in lines)}
    # The key out_time_ms holds microseconds too, and always has: it is not read.
    microseconds = _whole(said.get("out_time_us"))
    quantisers = {
        key.removeprefix("stream_").removesuffix("_q"): q
        for key, value in said.items()
        if key.startswith("stream_") and (q := _decimal(value)) is not None
    }
    return Progress(
        frame_count=_whole(said.get("frame")),
        fps=_decimal(said.get("fps")),
        q=quantisers,
        bitrate=_bits_per_second(said.get("bitrate")),
        total_size_bytes=_whole(said.get("total_size")),
        out_time_ns=None if microseconds is None else microseconds * 1000,
        dup_frames=_whole(said.get("dup_frames")),
        drop_frames=_whole(said.get("drop_frames")),
        speed=_decimal(said.get("speed", "").removesuffix("x")),
        ended=said.get("progress") == "end",
    )


_VSTATS_FIELD = re.compile(r"(\w+)=\s*(\S+)")


def parse_vstats(line: str) -> EncodedFrame | None:
    """Return the frame of one line of a vstats file of either version; None if it is none."""
    said = dict(_VSTATS_FIELD.findall(line))
    number, q, size = (_whole(said.get("frame")), _decimal(said.get("q")), said.get("f_size"))
    if number is None or q is None or size is None or not size.isdigit():
        return None
    seconds = _decimal(said.get("time"))
    kind = said.get("type")
    return EncodedFrame(
        output=f"{said.get('out', '0')}_{said.get('st', '0')}",
        frame_number=number,
        q=q,
        size_bytes=int(size),
        out_time_ns=None if seconds is None else round(seconds * 1e9),
        bitrate=_bits_per_second(said.get("br")),
        picture_type=None if kind in (None, "?") else kind,
    )


def _whole(text: str | None) -> int | None:
    try:
        return int(text or "")
    except ValueError:
        return None


def _decimal(text: str | None) -> float | None:
    try:
        return float(text or "")
    except ValueError:
        return None


def _bits_per_second(text: str | None) -> float | None:
    kilobits = _decimal((text or "").removesuffix("kbits/s"))
    return None if kilobits is None else kilobits * 1000
