"""Profiles to write and read: any that hypothesis thinks of, and a large one."""

from __future__ import annotations

import random

from hypothesis import strategies as st

from vidlab.formats import pprof, protobuf
from vidlab.formats.pprof import Function, Label, Line, Location, Mapping, Profile, Sample

WORDS = st.integers(0, (1 << 64) - 1)
INTS = st.integers(-(1 << 63), (1 << 63) - 1)
IDS = st.one_of(st.integers(1, 300), st.integers(1, (1 << 64) - 1))
TEXTS = st.one_of(st.sampled_from(["", "cpu", "h264", "cam-1"]), st.text(max_size=8))
TYPES = st.builds(pprof.ValueType, TEXTS, TEXTS)
LABELS = st.builds(Label, TEXTS, TEXTS, INTS, TEXTS)


@st.composite
def profiles(draw: st.DrawFn, parts: int = 12) -> Profile:
    """Any profile that can be written, with up to so many messages of a kind."""

    def ids() -> list[int]:
        ordinary = st.integers(0, parts).map(lambda count: list(range(1, count + 1)))
        return draw(st.one_of(ordinary, st.lists(IDS, unique=True, max_size=parts)))

    def some(values: list[object]) -> st.SearchStrategy[object]:
        return st.sampled_from([None, *values])

    mappings = [
        Mapping(id, *draw(st.tuples(WORDS, WORDS, WORDS, TEXTS, TEXTS, *[st.booleans()] * 4)))
        for id in ids()
    ]
    functions = [Function(id, *draw(st.tuples(TEXTS, TEXTS, TEXTS, INTS))) for id in ids()]
    lines = st.builds(Line, some(functions), INTS, INTS)
    locations = [
        Location(
            id,
            draw(some(mappings)),
            draw(WORDS),
            tuple(draw(st.lists(lines, max_size=3))),
            draw(st.booleans()),
        )
        for id in ids()
    ]
    types = draw(st.lists(TYPES, max_size=4))
    stacks = st.lists(st.sampled_from(locations), max_size=5) if locations else st.just([])
    samples = [
        Sample(
            tuple(draw(stacks)),
            tuple(draw(st.lists(INTS, min_size=len(types), max_size=len(types)))),
            tuple(draw(st.lists(LABELS, max_size=3))),
        )
        for _ in range(draw(st.integers(0, parts)))
    ]
    return Profile(
        sample_types=tuple(types),
        samples=tuple(samples),
        mappings=tuple(mappings),
        locations=tuple(locations),
        functions=tuple(functions),
        drop_frames=draw(TEXTS),
        keep_frames=draw(TEXTS),
        time_nanos=draw(INTS),
        duration_nanos=draw(INTS),
        period_type=draw(st.none() | TYPES),
        period=draw(INTS),
        comments=tuple(draw(st.lists(TEXTS, max_size=3))),
        default_sample_type=draw(TEXTS),
        doc_url=draw(TEXTS),
    )


def large(samples: int = 300, seed: int = 1) -> Profile:
    """A CPU profile of a video pipeline's size: labels, inlined calls, and unnamed places."""
    pick = random.Random(seed)
    python = Mapping(1, 0x1000, 0x9000, 0, "/usr/bin/python3", "abc", True, True, True, False)
    codec = Mapping(2, 0x10000, 0x90000, 0x40, "/usr/lib/libavcodec.so.61")
    functions = [
        Function(number, f"work_{number}", f"lib.work_{number}", f"lib_{number % 7}.py", number)
        for number in range(1, 60)
    ]
    locations = [
        Location(
            number,
            codec if number % 10 == 0 else python,
            0x1000 + 16 * number,
            tuple(
                Line(pick.choice(functions), pick.randrange(1, 200))
                for _ in range(0 if number % 10 == 0 else pick.choice((1, 1, 2)))
            ),
        )
        for number in range(1, 160)
    ]
    streams = [f"cam-{number}" for number in range(5)]
    taken = [
        Sample(
            tuple(pick.choices(locations, k=pick.randrange(1, 20))),
            (pick.randrange(1, 9), 10_000_000 * pick.randrange(1, 9)),
            (
                Label("stream_id", pick.choice(streams)),
                Label("codec", pick.choice(("h264", "av1"))),
                Label("size", number=pick.randrange(1, 4) << 10, unit="bytes"),
            )[: pick.randrange(4)],
        )
        for _ in range(samples)
    ]
    cpu = pprof.ValueType("cpu", "nanoseconds")
    return Profile(
        sample_types=(pprof.ValueType("samples", "count"), cpu),
        samples=tuple(taken),
        mappings=(python, codec),
        locations=tuple(locations),
        functions=tuple(functions),
        time_nanos=1_780_000_000_000_000_000,
        duration_nanos=10_000_000_000,
        period_type=cpu,
        period=10_000_000,
        default_sample_type="cpu",
    )


def message(**numbers: int | bytes) -> bytes:
    """A message of these fields: `f3=7` is field 3 with the number 7, bytes a part of it."""
    out = bytearray()
    for name, value in numbers.items():
        if isinstance(value, bytes):
            protobuf.put_bytes(out, int(name[1:]), value)
        else:
            out += protobuf.varint(int(name[1:]) << 3) + protobuf.varint(value)
    return bytes(out)
