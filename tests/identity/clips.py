"""Clips whose every frame bears its number in its pixels, so that it can be told for sure.

The number is drawn as eight large light or dark blocks, and once more inverted
below. That survives lossy coding; and where pixels are damaged, the two halves
no longer agree, or a block is neither light nor dark, and no number is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT, BITS = 160, 96, 8
RATE = 25
LENGTH = 80
#: Frames from one key frame to the next.
GOP = 20

DARK, LIGHT = 48, 208
_COLUMN, _ROW = WIDTH // BITS, HEIGHT // 2


@dataclass(frozen=True)
class Codec:
    """An encoder that makes a test clip, with the options that bring out its reordering."""

    name: str
    encoder: str
    options: dict[str, str]


CODECS = (
    Codec(
        "h264",
        "libx264",
        {
            "preset": "veryfast",
            "x264-params": f"bframes=3:b-adapt=0:b-pyramid=normal:keyint={GOP}:min-keyint={GOP}"
            ":scenecut=0:open-gop=0",
        },
    ),
    Codec(
        "hevc",
        "libx265",
        {
            "preset": "ultrafast",
            "x265-params": f"bframes=3:b-adapt=0:keyint={GOP}:min-keyint={GOP}:scenecut=0"
            ":open-gop=0:log-level=none",
        },
    ),
    Codec(
        "av1",
        "libsvtav1",
        {"preset": "8", "crf": "20", "g": str(GOP), "svtav1-params": "enable-tf=0"},
    ),
    Codec(
        "vp9",
        "libvpx-vp9",
        {"cpu-used": "5", "deadline": "good", "auto-alt-ref": "1", "lag-in-frames": "16"}
        | {"g": str(GOP), "b": "400k"},
    ),
    Codec("mpeg2video", "mpeg2video", {"bf": "2", "g": str(GOP), "b": "2M"}),
    Codec("mpeg4", "mpeg4", {"bf": "2", "g": str(GOP), "b": "2M"}),
)


def image_of(number: int) -> NDArray[np.uint8]:
    """Return the luma plane that bears this number, (height, width) uint8."""
    bits = np.array([number >> bit & 1 for bit in range(BITS)], dtype=np.uint8)
    rows = np.stack([bits, 1 - bits])
    blocks = np.where(rows == 1, LIGHT, DARK).astype(np.uint8)
    return np.kron(blocks, np.ones((_ROW, _COLUMN), dtype=np.uint8))


def number_in(frame: av.VideoFrame) -> int | None:
    """Return the number that the frame's pixels bear, or None if they cannot be read."""
    luma = frame.to_ndarray()[:HEIGHT]
    blocks = luma.reshape(2, _ROW, BITS, _COLUMN)[:, 8:-8, :, 4:-4].mean(axis=(1, 3))
    light = blocks > (DARK + LIGHT) / 2
    unclear = np.abs(blocks - (DARK + LIGHT) / 2) < (LIGHT - DARK) / 8
    if unclear.any() or (light[0] == light[1]).any():
        return None
    return int((light[0] * (1 << np.arange(BITS))).sum())


def make_clip(path: Path, codec: Codec, length: int = LENGTH) -> None:
    """Write a clip of this codec, its frames numbered from 0."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream(codec.encoder, rate=RATE, options=codec.options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(length):
            planes = np.full((HEIGHT * 3 // 2, WIDTH), 128, dtype=np.uint8)
            planes[:HEIGHT] = image_of(number)
            frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, RATE)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))


def number_at(pts: int | None, time_base: Fraction) -> int | None:
    """Return the number of the frame that is shown at this time."""
    return None if pts is None else round(pts * time_base * RATE)
