"""How codecs, stages and streams appear wherever they are shown: colours, names, order."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable

import polars as pl

#: What stands on a chart where the codec is not known.
NO_CODEC = "none"

# Okabe and Ito's eight, and Tol's muted ones for what is rarely seen.
_CODECS = {
    "h264": "#0072B2",
    "hevc": "#D55E00",
    "av1": "#009E73",
    "vp9": "#CC79A7",
    "mpeg2video": "#E69F00",
    "mpeg4": "#56B4E9",
    "vp8": "#882255",
    "mjpeg": "#999933",
    NO_CODEC: "#8a8f98",
}
_OTHER_CODECS = ("#332288", "#661100", "#117733", "#44AA99", "#AA4466", "#6699CC")

#: What a flame graph calls the layers of its tree.
LAYERS = {"stream_id": "stream", "cuda_stream": "CUDA stream", "gpu": "GPU", "stack": "call"}


def codec_colour(codec: str | None) -> str:
    """Return the colour of this codec, the same in every run and on every machine."""
    name = codec or NO_CODEC
    return _CODECS.get(name) or _OTHER_CODECS[zlib.crc32(name.encode()) % len(_OTHER_CODECS)]


def stage_row(stage: str = "stage", kind: str = "kind") -> pl.Expr:
    """Return the name of a stage on a chart: its waits are told apart from its work."""
    stages, kinds = pl.col(stage).cast(pl.String), pl.col(kind).cast(pl.String)
    return (
        pl.when(kinds.is_in(["service", "frame", "residual", "none"]))
        .then(stages)
        .otherwise(stages + " · " + kinds.str.replace("_", " "))
    )


def natural(names: Iterable[str]) -> list[str]:
    """Return the names sorted as people count: cam-2 before cam-10."""
    return sorted(
        set(names),
        key=lambda name: [
            (int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)
        ],
    )
