"""The set `nvcodec`: what a program asks of NVIDIA's video engines: `kernel_nvcodec`.

Of the decoder (`libnvcuvid`) all functions are exported, and are probed: parsers, decoder
sessions, pictures, and surfaces that are mapped for CUDA and unmapped. FFmpeg's `cuvid` and
`nvdec` use them too, so that PyAV's are seen.

Of the encoder (`libnvidia-encode`) only two functions are exported: which version it has, and
the one that fills in a table of the others, which have no names. So an encoder's library is
seen as it is taken into use, and its sessions are not; their pictures are seen by libav's
`send_frame` and `receive_packet` where FFmpeg drives it, their memory by the set `cuda`.

Columns of its own:

op             create_parser, parse, destroy_parser, create_decoder, reconfigure_decoder,
               decode, decode_status, map, unmap, destroy_decoder; create_instance, version
               (of the encoder)
session        the decoder or parser; null for the encoder
picture_index  the surface that a picture is decoded into, or that is mapped
device_pointer where a mapped surface is on the device
status         a CUresult, or the encoder's NVENCSTATUS: 0 is success

What a call makes (session, device_pointer) is told by rows of status 0 only.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..declaring.checks import Value
from ..declaring.expressions import arg, deref, retval
from ..declaring.probes import Probe

TABLE = "nvcodec"

DECODER = "libnvcuvid.so.1"
ENCODER = "libnvidia-encode.so.1"

#: Where CUVIDPICPARAMS has CurrPicIdx: after the width and height in macroblocks.
_CURRENT_PICTURE = 8


def declarations() -> list[Probe]:
    """Return the probes of the set."""
    made, told = {"session": deref(arg(0))}, {"session": arg(0)}
    picture = {"picture_index": arg(1, "i32")}
    return [
        _call(DECODER, "cuvidCreateVideoParser", "create_parser", {}, made),
        _call(DECODER, "cuvidParseVideoData", "parse", told),
        _call(DECODER, "cuvidDestroyVideoParser", "destroy_parser", told),
        _call(DECODER, "cuvidCreateDecoder", "create_decoder", {}, made),
        _call(DECODER, "cuvidReconfigureDecoder", "reconfigure_decoder", told),
        _call(
            DECODER,
            "cuvidDecodePicture",
            "decode",
            {**told, "picture_index": deref(arg(1), "i32", _CURRENT_PICTURE)},
        ),
        _call(DECODER, "cuvidGetDecodeStatus", "decode_status", {**told, **picture}),
        _call(
            DECODER,
            "cuvidMapVideoFrame64",
            "map",
            {**told, **picture},
            {"device_pointer": deref(arg(2))},
        ),
        _call(
            DECODER,
            "cuvidMapVideoFrame",  # of 32 bit
            "map",
            {**told, **picture},
            {"device_pointer": deref(arg(2), "u32")},
        ),
        _call(DECODER, "cuvidUnmapVideoFrame64", "unmap", {**told, "device_pointer": arg(1)}),
        _call(DECODER, "cuvidUnmapVideoFrame", "unmap", {**told, "device_pointer": arg(1, "u32")}),
        _call(DECODER, "cuvidDestroyDecoder", "destroy_decoder", told),
        _call(ENCODER, "NvEncodeAPICreateInstance", "create_instance", {}),
        _call(ENCODER, "NvEncodeAPIGetMaxSupportedVersion", "version", {}),
    ]


def _call(
    library: str,
    symbol: str,
    op: str,
    entry: Mapping[str, Value],
    exit: Mapping[str, Value] | None = None,
) -> Probe:
    return Probe(
        library,
        symbol,
        entry={"op": op, **entry},
        exit={**(exit or {}), "status": retval()},
        name=TABLE,
    )
