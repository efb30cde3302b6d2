"""The names of codecs: one for each, out of all that files and libraries call it."""

from __future__ import annotations

#: FFmpeg's decoder and encoder names, FourCCs and everyday names of the same codec.
_CODECS = {
    "avc": "h264",
    "avc1": "h264",
    "h265": "hevc",
    "hev1": "hevc",
    "hvc1": "hevc",
    "x264": "h264",
    "x265": "hevc",
    "dav1d": "av1",
    "av01": "av1",
    "svtav1": "av1",
    "vp09": "vp9",
    "vpx": "vp8",
    "vpx_vp9": "vp9",
    "mpeg2": "mpeg2video",
    "mp4v": "mpeg4",
    "fmp4": "mpeg4",
    "xvid": "mpeg4",
    "divx": "mpeg4",
    "vp80": "vp8",
    "vp90": "vp9",
    "mjpg": "mjpeg",
}


def normalise_codec(name: str) -> str:
    """Return FFmpeg's name of the codec for what a decoder, encoder or file calls it.

    >>> [normalise_codec(n) for n in ("libx264", "H.265", "av01", "h264_cuvid", "libvpx-vp9")]
    ['h264', 'hevc', 'av1', 'h264', 'vp9']
    """
    plain = name.strip().lower().replace(".", "").replace("-", "_").replace("/", "_")
    plain = plain.removeprefix("lib")
    for hardware in ("_cuvid", "_nvenc", "_qsv", "_vaapi", "_v4l2m2m", "_videotoolbox", "_amf"):
        plain = plain.removesuffix(hardware)
    return _CODECS.get(plain, plain)
