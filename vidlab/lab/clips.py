"""Clips made by real encoders, with moving content and the frame number in the pixels.

A clip is described by a `Clip` and made once: its file's name in the cache carries
a digest of all its parameters. The number burnt into a picture (`burn_number`,
`read_number`) is the ground truth of which frame came out where, independent of
any identity that a recording attaches.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import missing_extra
from ..progress import Advance, progress

Image = npt.NDArray[np.uint8]

#: Bits of a burnt-in number: it wraps at 65,536.
BITS = 16

#: Change this when the pictures change, so that cached clips are made anew.
_PICTURES = 1


@dataclass(frozen=True)
class Clip:
    """What a clip is to be.

    Attributes
    ----------
    name : str
        The file's base name.
    encoder : str
        FFmpeg's name of the encoder.
    options : dict[str, str]
        The encoder's own options.
    width, height : int
        In pixels, both even; at least 160 wide.
    rate : int
        Frames a second.
    seconds : float
        How long it is.
    corrupt : tuple[int, ...]
        Numbers of the packets, in decode order, whose content is overwritten.
    """

    name: str
    encoder: str
    options: dict[str, str] = field(default_factory=dict)
    width: int = 320
    height: int = 180
    rate: int = 25
    seconds: float = 8.0
    corrupt: tuple[int, ...] = ()

    @property
    def frame_count(self) -> int:
        """How many frames it has."""
        return round(self.seconds * self.rate)

    @property
    def file_name(self) -> str:
        """Its name in the cache, which differs as soon as one parameter does."""
        text = json.dumps([_PICTURES, asdict(self)], sort_keys=True)
        return f"{self.name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}.mp4"


#: One clip a codec. H.264 and HEVC have B-frames, so that their decoders reorder.
CLIPS = (
    Clip(
        "h264",
        "libx264",
        {
            "preset": "veryfast",
            "crf": "24",
            "bf": "2",
            "b-pyramid": "0",
            "g": "50",
            "sc_threshold": "0",
        },
    ),
    Clip(
        "hevc",
        "libx265",
        {
            "preset": "superfast",
            "crf": "26",
            "x265-params": "bframes=2:b-pyramid=0:keyint=50:min-keyint=50:scenecut=0"
            ":log-level=none",
        },
    ),
    Clip("av1", "libsvtav1", {"preset": "10", "g": "50", "svtav1-params": "lp=2"}),
    Clip("vp9", "libvpx-vp9", {"deadline": "realtime", "cpu-used": "8", "g": "50", "b": "400k"}),
)


def cache_folder() -> Path:
    """Return where clips are kept: `$XDG_CACHE_HOME/vidlab/clips`, or `cache/clips` here."""
    home = os.environ.get("XDG_CACHE_HOME")
    return Path(home, "vidlab", "clips") if home else Path("cache", "clips")


def make_clips(clips: Iterable[Clip] = CLIPS, folder: Path | None = None) -> list[Path]:
    """Return the files of these clips, in order; those not yet in the cache are made.

    Raises
    ------
    MissingDependencyError
        If PyAV is not installed.
    """
    folder = cache_folder() if folder is None else folder
    wanted = list(clips)
    missing = sum(clip.frame_count for clip in wanted if not (folder / clip.file_name).exists())
    with progress("making clips", missing, "frame") as advance:
        return [_make(clip, folder, advance) for clip in wanted]


def _make(clip: Clip, folder: Path, advance: Advance) -> Path:
    path = folder / clip.file_name
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    # Under a name of its own until whole: two processes may make the same clip at once.
    draft = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        if clip.corrupt:
            _copy_corrupted(_make(replace(clip, corrupt=()), folder, advance), draft, clip.corrupt)
        else:
            with same_scheduling():
                _encode(clip, draft, advance)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    return path


@contextlib.contextmanager
def same_scheduling() -> Iterator[None]:
    """Have the calling thread scheduled afterwards as it was before.

    SVT-AV1, if it may (as root), makes the thread that opens it a real-time one of the highest
    priority. All threads and processes that it starts later are too, and nothing else runs.
    """
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        if os.sched_getscheduler(0) != policy:
            os.sched_setscheduler(0, policy, parameters)


def _encode(clip: Clip, path: Path, advance: Advance) -> None:
    av = _pyav()
    os.environ.setdefault("SVT_LOG", "1")  # SVT-AV1 otherwise describes itself on stderr
    with av.open(str(path), "w", format="mp4") as output:
        stream = output.add_stream(clip.encoder, rate=clip.rate, options=dict(clip.options))
        stream.width, stream.height, stream.pix_fmt = clip.width, clip.height, "yuv420p"
        stream.codec_context.time_base = Fraction(1, clip.rate)
        for number, image in enumerate(pictures(clip)):
            frame = av.VideoFrame.from_ndarray(image, format="bgr24")
            frame.pts = number
            output.mux(stream.encode(frame))
            advance(1)
        output.mux(stream.encode(None))


def transport_stream(clip: Path) -> Path:
    """Copy a clip into an MPEG transport stream beside it, which can be sent and read in order."""
    av = _pyav()
    target = clip.with_suffix(".ts")
    with av.open(str(clip)) as input, av.open(str(target), "w", format="mpegts") as output:
        stream = input.streams.video[0]
        copy = output.add_stream_from_template(stream)
        for packet in input.demux(stream):
            if packet.dts is not None:
                packet.stream = copy
                output.mux(packet)
    return target


def _copy_corrupted(source: Path, target: Path, corrupt: tuple[int, ...]) -> None:
    """Copy a clip packet by packet; those of these numbers keep their size and time only."""
    av = _pyav()
    noise = np.random.default_rng(1)
    with av.open(str(source)) as input, av.open(str(target), "w", format="mp4") as output:
        stream = input.streams.video[0]
        copy = output.add_stream_from_template(stream)
        packets = (packet for packet in input.demux(stream) if packet.dts is not None)
        for number, packet in enumerate(packets):
            written = packet
            if number in corrupt:
                written = av.Packet(noise.bytes(packet.size))
                written.pts, written.dts, written.time_base = (
                    packet.pts,
                    packet.dts,
                    packet.time_base,
                )
                written.duration, written.is_keyframe = packet.duration, packet.is_keyframe
            written.stream = copy
            output.mux(written)


def _pyav() -> Any:
    try:
        import av
    except ImportError:
        raise missing_extra("av", "video") from None
    return av


def pictures(clip: Clip) -> Iterator[Image]:
    """Yield the clip's pictures: uint8, height × width × 3 in BGR order.

    Three boxes move over a fixed texture, so that a motion detector has a
    background to learn and something to find.
    """
    height, width = clip.height, clip.width
    rng = np.random.default_rng(len(clip.name))
    coarse = rng.integers(60, 140, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    background = coarse.repeat(8, axis=0).repeat(8, axis=1)[:height, :width]
    size = height // 5
    top = height // 4  # below the burnt-in number
    for number in range(clip.frame_count):
        image = background.copy()
        for box in range(3):
            x = (number * (3 + 2 * box) + box * width // 3) % (width - size)
            y = top + (number * (2 + box)) % (height - top - size)
            image[y : y + size, x : x + size] = (40 + 80 * box, 250 - 70 * box, 90 + 60 * box)
        yield burn_number(image, number)


def burn_number(image: Image, number: int) -> Image:
    """Write the number into the picture's top, in place, and return the picture.

    The picture is uint8, height × width or height × width × channels.

    Each bit is a black or white block, and below it its opposite, so that a
    damaged picture is told from a whole one. The blocks are large enough to
    survive any encoder at any sensible bit rate.
    """
    bits = number % (1 << BITS) >> np.arange(BITS) & 1
    block = image.shape[1] // BITS
    row = (bits * 255).astype(np.uint8).repeat(block)
    if image.ndim == 3:
        row = row[:, None]
    image[:block, : block * BITS] = row
    image[block : 2 * block, : block * BITS] = 255 - row
    return image


def read_number(image: Image) -> int | None:
    """Return the number that was burnt into this picture; None if it cannot be read.

    Parameters
    ----------
    image : numpy.ndarray
        uint8, height × width, or height × width × channels.
    """
    block = image.shape[1] // BITS
    blocks = image[: 2 * block, : block * BITS].reshape(2, block, BITS, block, -1)
    inner = slice(block // 4, block - block // 4)  # without the blocks' blurred edges
    levels = blocks[:, inner, :, inner].mean(axis=(1, 3, 4))
    if (np.abs(levels[0] - levels[1]) < 140).any():
        return None
    return int(((levels[0] > levels[1]) << np.arange(BITS)).sum())
