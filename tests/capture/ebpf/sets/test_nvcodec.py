"""The set `nvcodec` on libraries that stand for NVIDIA's, with the names that they export."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

import pytest

from vidlab.capture.ebpf import sets
from vidlab.capture.ebpf.declaring.probes import Probe

from .conftest import Listen

pytestmark = [pytest.mark.needs("ebpf"), pytest.mark.usefixtures("nothing_left")]

DECODER = r"""
#define E __attribute__((visibility("default"), noinline))
struct picture { int width, height, current, field, bottom, second; };
E int cuvidCreateVideoParser(void **parser, void *params) { *parser = (void *)0x11; return 0; }
E int cuvidParseVideoData(void *parser, void *packet) { return 0; }
E int cuvidDestroyVideoParser(void *parser) { return 0; }
E int cuvidCreateDecoder(void **decoder, void *info) { *decoder = (void *)0x22; return 0; }
E int cuvidReconfigureDecoder(void *decoder, void *info) { return 1; }
E int cuvidDecodePicture(void *decoder, struct picture *p) { return p->current == 3 ? 700 : 0; }
E int cuvidGetDecodeStatus(void *decoder, int index, void *status) { return 0; }
E int cuvidMapVideoFrame64(void *decoder, int index, unsigned long long *at, unsigned *pitch,
                           void *params)
{ *at = 0x7f0000000000 + index; return 0; }
E int cuvidUnmapVideoFrame64(void *decoder, unsigned long long at) { return 0; }
E int cuvidDestroyDecoder(void *decoder) { return 0; }
E void play(void)
{
    void *made;
    unsigned long long at;
    unsigned pitch;
    cuvidCreateVideoParser(&made, 0);
    cuvidCreateDecoder(&made, 0);
    cuvidParseVideoData((void *)0x11, 0);
    for (int i = 2; i < 4; i++) {
        struct picture p = {120, 68, i};
        cuvidDecodePicture((void *)0x22, &p);
    }
    cuvidGetDecodeStatus((void *)0x22, 2, 0);
    cuvidMapVideoFrame64((void *)0x22, 2, &at, &pitch, 0);
    cuvidUnmapVideoFrame64((void *)0x22, at);
    cuvidReconfigureDecoder((void *)0x22, 0);
    cuvidDestroyDecoder((void *)0x22);
    cuvidDestroyVideoParser((void *)0x11);
}
"""

ENCODER = r"""
#define E __attribute__((visibility("default"), noinline))
E int NvEncodeAPIGetMaxSupportedVersion(unsigned *version) { *version = 0xd1; return 0; }
E int NvEncodeAPICreateInstance(void *functions) { return 15; }
"""

SURFACE = 0x7F0000000002


def test_decoders_pictures_and_surfaces(
    listen: Listen, compile_library: Callable[[str, str], Path]
) -> None:
    stub = ctypes.CDLL(str(compile_library("libnvcuvid.so.1", DECODER)))
    with listen("nvcodec") as heard:
        stub.play()
        rows = heard.rows("kernel_nvcodec")
    columns = ("op", "session", "picture_index", "device_pointer", "status")
    assert [tuple(row[name] for name in columns) for row in rows] == [
        ("create_parser", 0x11, None, None, 0),
        ("create_decoder", 0x22, None, None, 0),
        ("parse", 0x11, None, None, 0),
        ("decode", 0x22, 2, None, 0),
        ("decode", 0x22, 3, None, 700),
        ("decode_status", 0x22, 2, None, 0),
        ("map", 0x22, 2, SURFACE, 0),
        ("unmap", 0x22, None, SURFACE, 0),
        ("reconfigure_decoder", 0x22, None, None, 1),
        ("destroy_decoder", 0x22, None, None, 0),
        ("destroy_parser", 0x11, None, None, 0),
    ]
    ctypes.CDLL(None).dlclose(ctypes.c_void_p(stub._handle))


def test_of_the_encoder_it_is_seen_that_it_is_taken_into_use(
    listen: Listen, compile_library: Callable[[str, str], Path]
) -> None:
    stub = ctypes.CDLL(str(compile_library("libnvidia-encode.so.1", ENCODER)))
    with listen("nvcodec") as heard:
        stub.NvEncodeAPIGetMaxSupportedVersion(ctypes.byref(ctypes.c_uint()))
        stub.NvEncodeAPICreateInstance(None)
        rows = heard.rows("kernel_nvcodec")
    assert [(row["op"], row["session"], row["status"]) for row in rows] == [
        ("version", None, 0),
        ("create_instance", None, 15),
    ]
    ctypes.CDLL(None).dlclose(ctypes.c_void_p(stub._handle))


def test_without_the_libraries_the_set_waits_for_them(
    listen: Listen, compile_library: Callable[[str, str], Path]
) -> None:
    probes = [probe for probe in sets.probe_set("nvcodec") if isinstance(probe, Probe)]
    with listen("nvcodec") as heard:
        assert not heard.attached()
        assert len(heard.session.pending) == len(probes)
        stub = ctypes.CDLL(str(compile_library("libnvcuvid.so.1", DECODER)))
        assert {one.symbol for one in heard.session.attach_pending()} == {
            probe.symbol for probe in probes if f" {probe.symbol}(" in DECODER
        }
        stub.play()
        assert len(heard.rows("kernel_nvcodec")) == 11
    ctypes.CDLL(None).dlclose(ctypes.c_void_p(stub._handle))
