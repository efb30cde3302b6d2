"""Bytes that are no profile, by accident or on purpose: an error that says so, and no more."""

from __future__ import annotations

import gzip
import random
import tracemalloc

import pytest

from vidlab.errors import InputError
from vidlab.formats import pprof
from vidlab.formats.pprof import Limits, PprofError

from .profiles import large, message

PLAIN = pprof.write(large(samples=40), compress=False)
STRINGS = b"".join(message(f6=text) for text in (b"", b"a", b"b"))
PLACE = message(f4=message(f1=1))
TYPE = message(f1=message(f1=1, f2=2))

READERS = [pprof.read, pprof.samples]


@pytest.mark.parametrize("read", READERS)
def test_a_damaged_profile_is_read_or_refused(read: object) -> None:
    pick = random.Random(7)
    refused = 0
    for _ in range(250):
        data = bytearray(PLAIN)
        for _ in range(pick.choice((1, 1, 3, 30))):
            data[pick.randrange(len(data))] = pick.choice(
                (0, 1, 0x7F, 0x80, 0xFF, pick.randrange(256))
            )
        if pick.random() < 0.2:
            del data[pick.randrange(len(data)) :]
        if pick.random() < 0.2:
            at = pick.randrange(len(data))
            data[at:at] = pick.randbytes(pick.randrange(20))
        try:
            read(bytes(data))
        except PprofError:
            refused += 1
    assert 50 < refused < 250


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "it is empty"),
        (b"<html>no such page</html>", "not a pprof profile"),
        (PLAIN[:-3], "cut off"),
        (STRINGS.removeprefix(message(f6=b"")), "first string is not empty"),
        (TYPE, "string that is not in it"),
        (STRINGS + message(f1=message(f1=3)), "string that is not in it"),
        (STRINGS + message(f1=message(f1=(1 << 64) - 1)), "string that is not in it"),
        (STRINGS + message(f13=9), "comments refer to a string"),
        (STRINGS + message(f2=message(f2=1)), "another number of values than 0"),
        (STRINGS + TYPE + message(f2=message(f1=1)) + PLACE, "another number of values than 1"),
        (STRINGS + message(f2=message(f1=5)) + PLACE, "location 5, which is not in it"),
        (STRINGS + message(f2=message(f1=5)), "location 5, which is not in it"),
        (STRINGS + message(f2=message(f1=0)) + PLACE, "refers to the location 0"),
        (STRINGS + message(f4=message(f1=1, f4=message(f1=3))), "function 3, which is not"),
        (STRINGS + message(f4=message(f1=1, f2=3)), "mapping 3, which is not in it"),
        (STRINGS + PLACE + PLACE, "two messages have one id"),
        (STRINGS + message(f4=message(f3=1)), "or one has none"),
        (STRINGS + message(f2=7), "samples are of another type"),
        (STRINGS + message(f9=b"soon"), "time_nanos are of another type"),
    ],
)
def test_what_is_no_profile_is_refused(read: object, data: bytes, what: str) -> None:
    with pytest.raises(InputError, match=what) as caught:
        read(data)
    assert isinstance(caught.value, PprofError)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (gzip.compress(PLAIN, mtime=0)[:-9], "its gzip data has no end"),
        (gzip.compress(PLAIN, mtime=0) + b"more", "something follows"),
        (gzip.compress(PLAIN, mtime=0)[:10] + b"\xff" * 40, "damaged gzip data"),
        (b"\x1f\x8b", "no end"),
        (gzip.compress(b"", mtime=0), "it is empty"),
    ],
)
def test_damaged_gzip_is_refused(data: bytes, what: str) -> None:
    with pytest.raises(PprofError, match=what):
        pprof.read(data)


def test_a_bomb_is_refused_before_it_takes_memory() -> None:
    bomb = gzip.compress(bytes(32 << 20))
    tracemalloc.start()
    try:
        with pytest.raises(PprofError, match="more than 1,048,576 bytes"):
            pprof.samples(bomb, Limits(plain_bytes=1 << 20))
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "data",
    [
        message(f2=b"") * 6_000,
        message(f2=b"\x08\x01" * 6_000),
        message(f2=message(f1=b"\1" * 6_000)),
    ],
)
def test_a_profile_of_very_many_small_parts_is_refused(data: bytes) -> None:
    limits = Limits(fields=5_000)
    for read in READERS:
        with pytest.raises(PprofError, match="more fields than are read"):
            read(STRINGS + data, limits)


def test_a_profile_beyond_the_limits_of_size_is_refused() -> None:
    data = pprof.write(large())
    size, plain = len(data), len(gzip.decompress(data))
    assert pprof.read(data, Limits(compressed_bytes=size, plain_bytes=plain)) == large()
    for limits in (Limits(compressed_bytes=size - 1), Limits(plain_bytes=plain - 1)):
        with pytest.raises(PprofError, match=r"[\d,]+ bytes"):
            pprof.read(data, limits)
    with pytest.raises(PprofError, match=r"[\d,]+ bytes"):
        pprof.read(gzip.decompress(data), Limits(plain_bytes=plain - 1))
