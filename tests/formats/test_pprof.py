"""Profiles: what is read is written back equal, and the samples are the same by both ways."""

from __future__ import annotations

import dataclasses
import gzip
from collections import Counter

import pytest
from hypothesis import given, settings

from vidlab.formats import pprof
from vidlab.formats.pprof import Function, Label, Line, Location, Mapping, Profile, Sample

from .profiles import large, message, profiles

CPU = pprof.ValueType("cpu", "nanoseconds")


def one(*locations: Location, **changes: object) -> Profile:
    """A profile of one sample at these locations."""
    functions = {line.function for place in locations for line in place.lines if line.function}
    profile = Profile(
        sample_types=(CPU,),
        samples=(Sample(locations, (1,)),),
        mappings=tuple({place.mapping for place in locations if place.mapping}),
        locations=locations,
        functions=tuple(functions),
    )
    return dataclasses.replace(profile, **changes)


def expected_samples(profile: Profile) -> Counter[tuple[object, ...]]:
    """The samples as `samples` is to return them, worked out from the objects."""
    found: Counter[tuple[object, ...]] = Counter()
    for sample in profile.samples:
        stack: list[tuple[str, str, int]] = []
        for place in sample.locations:
            for line in place.lines:
                known = line.function or Function(1)
                stack.append((known.name, known.filename, line.line))
            if not place.lines:
                file = place.mapping.filename if place.mapping else ""
                stack.append((hex(place.address), file, 0))
        labels = tuple((label.key, label.value) for label in sample.labels)
        found[tuple(stack), labels, sample.values] += 1
    return found


def check_samples(profile: Profile, data: bytes) -> None:
    found = pprof.samples(data)
    assert len(set(found.stacks)) == len(found.stacks)
    assert len(set(found.label_sets)) == len(found.label_sets)
    seen = zip(found.stack, found.label_set, found.values.tolist(), strict=True)
    taken = Counter((found.stacks[s], found.label_sets[n], tuple(v)) for s, n, v in seen)
    assert taken == expected_samples(profile)
    assert found.types == profile.sample_types
    assert (found.time_nanos, found.duration_nanos) == (profile.time_nanos, profile.duration_nanos)
    assert (found.period_type, found.period) == (profile.period_type, profile.period)
    assert found.comments == profile.comments


# --- there and back ---------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(profiles())
def test_any_profile_is_read_as_it_was_written(profile: Profile) -> None:
    data = pprof.write(profile)
    assert pprof.read(data) == profile
    check_samples(profile, data)


def test_a_profile_of_hundreds_of_samples_is_read_as_it_was_written() -> None:
    profile = large()
    data = pprof.write(profile)
    assert pprof.read(data) == profile
    check_samples(profile, data)
    assert pprof.write(profile) == data  # nothing of the time of writing is in it
    plain = pprof.write(profile, compress=False)
    assert plain == gzip.decompress(data)
    assert pprof.read(plain) == profile


def test_inlined_calls_come_innermost_first() -> None:
    inner, outer = Function(1, "copy", filename="a.py"), Function(2, "resize", filename="a.py")
    main = Function(3, "main", filename="b.py")
    profile = one(Location(4, lines=(Line(inner, 3), Line(outer, 8))), Location(9, None, 0, ()))
    profile = dataclasses.replace(
        profile,
        functions=(inner, outer, main),
        locations=(*profile.locations, Location(7, lines=(Line(main, 1),))),
    )
    stack = (("copy", "a.py", 3), ("resize", "a.py", 8), ("0x0", "", 0))
    assert pprof.samples(pprof.write(profile)).stacks == [stack]


def test_a_place_that_nobody_named_is_its_address_in_its_file() -> None:
    codec = Mapping(5, filename="/usr/lib/libavcodec.so")
    data = pprof.write(one(Location(1, codec, (1 << 64) - 1)))
    assert pprof.samples(data).stacks == [(("0xffffffffffffffff", "/usr/lib/libavcodec.so", 0),)]


def test_stacks_that_differ_by_addresses_alone_are_one() -> None:
    call = (Line(Function(1, "decode", filename="a.py"), 3),)
    places = (Location(1, address=16, lines=call), Location(2, address=32, lines=call))
    taken = tuple(Sample((place,), (1,)) for place in places)
    found = pprof.samples(pprof.write(one(*places, samples=taken)))
    assert found.stacks == [(("decode", "a.py", 3),)]
    assert found.stack.tolist() == [0, 0]


def test_a_key_that_a_sample_has_twice_stays_twice() -> None:
    labels = (Label("stage", "inner"), Label("stage", "outer"), Label("size", number=4))
    data = pprof.write(one(samples=(Sample((), (1,), labels),)))
    assert pprof.samples(data).label_sets == [
        (("stage", "inner"), ("stage", "outer"), ("size", 4)),
    ]


# --- what others write otherwise --------------------------------------------------


def test_numbers_that_are_not_packed_are_read_the_same() -> None:
    # Go packs lists of three numbers and more.
    strings = b"".join(message(f6=text) for text in (b"", b"cpu", b"ns", b"n"))
    parts = message(f1=message(f1=1, f2=2)) * 3
    places = b"".join(message(f4=message(f1=number)) for number in (1, 2, 3))
    loose = message(f1=1) + message(f1=3) + message(f2=7) + message(f2=8) + message(f2=9)
    mixed = message(f1=b"\x01\x03", f2=b"\x07\x08") + message(f2=9)
    for samples in (message(f2=loose), message(f2=mixed), message(f2=loose) * 20):
        profile = pprof.read(strings + parts + places + samples)
        for sample in profile.samples:
            assert [place.id for place in sample.locations] == [1, 3]
            assert sample.values == (7, 8, 9)


def test_of_a_field_that_comes_twice_the_last_one_counts() -> None:
    function = message(f1=1, f2=1) + message(f2=2)
    for count in (1, 20):
        functions = b"".join(message(f5=function + message(f1=n + 1)) for n in range(count))
        data = b"".join(message(f6=text) for text in (b"", b"old", b"new")) + functions
        assert {known.name for known in pprof.read(data).functions} == {"new"}


def test_fields_of_a_later_version_are_kept_and_their_texts_stay_where_they_are() -> None:
    new = message(f99=2)
    data = b"".join(
        [
            message(f1=message(f1=1, f2=3) + new),
            message(f2=message(f1=1, f2=5, f3=message(f1=1, f2=3) + new) + new),
            message(f3=message(f1=1) + new),
            message(f4=message(f1=1, f4=message(f1=1) + new) + new),
            message(f5=message(f1=1, f2=3) + new),
            *(message(f6=text) for text in (b"", b"cpu", b"of a later version", b"ns")),
            message(f77=b"all of it"),
            b"\xa1\x06" + bytes(8),  # field 100, of a fixed size
        ]
    )
    profile = pprof.read(data)
    sample, place = profile.samples[0], profile.locations[0]
    parts = (profile.sample_types[0], sample, sample.labels[0], place, place.lines[0])
    for part in (*parts, profile.mappings[0], profile.functions[0]):
        assert part.unknown == new
    assert profile.unknown == message(f77=b"all of it") + b"\xa1\x06" + bytes(8)
    again = pprof.write(profile)
    assert pprof.read(again) == profile
    assert pprof.read(again).strings[2] == "of a later version"
    assert pprof.samples(again).stacks == [(("ns", "", 0),)]


def test_a_text_that_nothing_refers_to_is_not_written_again() -> None:
    data = pprof.write(one(), compress=False)
    more = data + message(f6=b"secret")
    assert b"secret" not in pprof.write(pprof.read(more), compress=False)


def test_a_text_that_is_not_utf_8_is_kept() -> None:
    data = pprof.write(one(comments=("cut",)), compress=False).replace(b"cut", b"c\xfft")
    profile = pprof.read(data)
    assert pprof.read(pprof.write(profile)) == profile
    assert b"c\xfft" in pprof.write(profile, compress=False)
    assert pprof.samples(data).comments == ("c\ufffdt",)


# --- what cannot be written -------------------------------------------------------

PLACE = Location(1, lines=(Line(Function(1, "f")),))


@pytest.mark.parametrize(
    ("profile", "what"),
    [
        (one(PLACE, functions=()), "function 1 is not among"),
        (one(PLACE, locations=()), "location 1 is not among"),
        (one(PLACE, locations=(dataclasses.replace(PLACE, address=4),)), "location 1 is not among"),
        (one(Location(1, Mapping(2)), mappings=(Mapping(2, 5),)), "mapping 2 is not among"),
        (one(PLACE, locations=(PLACE, PLACE)), "location 1 cannot be written"),
        (one(Location(0)), "location 0 cannot be written"),
        (one(mappings=(Mapping(1 << 64),)), "cannot be written: ids"),
        (one(sample_types=()), "1 values, and the profile 0 sample types"),
        (one(period=1 << 63), "more than 64 bits"),
        (one(Location(1, address=-1)), "or a sign"),
        (one(comments=("\ud800",)), "not Unicode"),
        (one(strings=("first",)), "the empty one"),
    ],
)
def test_what_has_no_meaning_as_a_file_is_not_written(profile: Profile, what: str) -> None:
    with pytest.raises(pprof.PprofError, match=what):
        pprof.write(profile)


def test_an_equal_object_is_as_good_as_the_profile_s_own() -> None:
    profile = one(PLACE, locations=(dataclasses.replace(PLACE),))
    assert pprof.read(pprof.write(profile)) == profile
