"""Hostile files: whatever is in them, the worst that happens is an InputError."""

from __future__ import annotations

import os
import struct
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vidlab.capture.ebpf.symbols import probes, symbols, tables
from vidlab.capture.ebpf.symbols.disk import parse_cache
from vidlab.capture.ebpf.symbols.elf import ElfFile, parse_notes
from vidlab.capture.ebpf.symbols.files import ElfError
from vidlab.capture.ebpf.symbols.usdt import arguments_of
from vidlab.errors import InputError

from .conftest import CODE, NOTES, SYMBOLS, Image, stapsdt

#: Numbers that go wrong in a reader: edges, signs, and the sizes of the file's own parts.
POWERS = (2**15, 2**16 - 1, 2**24, 2**31 - 1, 2**32 - 1, 2**33, 2**63 - 1, 2**63, 2**64 - 1)
EDGES = st.sampled_from(
    (0, 1, 7, 8, 23, 24, 56, 63, 64, 0x1000, 0x3000, 0x401000, *POWERS)
) | st.integers(0, 2**64 - 1)

GENTLY = settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def seed() -> bytes:
    image = Image()
    image.section(".stapsdt.base", CODE, b"\0", address=0x400800)
    note = stapsdt("app", "started", "-4@%edi 8@-8(%rbp)", 0x401010, 0x400800, 0x402004)
    image.section(".note.stapsdt", NOTES, note + stapsdt("app", "ended", "", 0x401020))
    image.section(".note.gnu.build-id", NOTES, struct.pack("<III4s8s", 4, 8, 3, b"GNU", b"x" * 8))
    image.symbols([("work", 0x401010), ("more", 0x401020)])
    image.symbols([("inside", 0x401030), ("work@V1", 0x401040)], SYMBOLS)
    return image.build()


SEED = seed()
#: Where the numbers are that a reader goes by: the headers and everything after the code.
PARTS = [*range(256), *range(0x3000, len(SEED))]


def look(path: Path) -> None:
    """Do all that is done with a library."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    tables._kept.clear()
    try:
        table = symbols(str(path))
        for name in ("work", "inside", "more", "nothing"):
            for found in table.lookup(name):
                assert found.offset is None or 0 <= found.offset < path.stat().st_size
        assert len(table.names()) <= 2 * tables.MOST_LISTED
    except InputError:
        pass
    try:
        for probe in probes(str(path)):
            assert 0 <= probe.offset < path.stat().st_size
            assert 0 <= probe.ref_counter < path.stat().st_size
    except InputError:
        pass
    try:
        with ElfFile(str(path)) as file:
            file.soname()
            file.build_id()
    except InputError:
        pass
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_the_seed_itself_is_sound(tmp_path):
    path = tmp_path / "seed.so"
    path.write_bytes(SEED)
    assert symbols(str(path)).lookup("inside")
    assert [probe.name for probe in probes(str(path))] == ["started", "ended"]
    with ElfFile(str(path)) as file:
        assert file.build_id() == b"x".hex() * 8


@GENTLY
@given(
    changes=st.lists(
        st.tuples(st.sampled_from(PARTS), st.sampled_from("BHIQ"), EDGES), min_size=1, max_size=6
    ),
    cut=st.none() | st.integers(0, len(SEED)),
)
def test_numbers_that_lie(changes, cut, tmp_path):
    data = bytearray(SEED) + bytes(8)
    for place, size, value in changes:
        struct.pack_into(f"<{size}", data, place, value % 256 ** struct.calcsize(size))
    path = tmp_path / "lib.so"
    path.write_bytes(data[: len(SEED) if cut is None else cut])
    look(path)


@GENTLY
@given(rest=st.binary(max_size=4_096))
def test_anything_after_a_right_beginning(rest, tmp_path):
    path = tmp_path / "lib.so"
    path.write_bytes(SEED[:20] + rest)
    look(path)


@GENTLY
@given(data=st.data())
def test_a_compilers_library_with_numbers_that_lie(data, library_without_sections, tmp_path):
    """Without section headers, so that the dynamic section and the hash tables are gone by."""
    image = bytearray(library_without_sections)
    dynamic, size = 0, 0
    for number in range(struct.unpack_from("<H", image, 56)[0]):
        kind, _, offset, _, _, length = struct.unpack_from("<IIQQQQ", image, 64 + 56 * number)
        dynamic, size = (offset, length) if kind == 2 else (dynamic, size)
    places = st.integers(64, 0x800) | st.integers(dynamic, dynamic + size - 8)
    for place, value in data.draw(st.lists(st.tuples(places, EDGES), min_size=1, max_size=4)):
        struct.pack_into("<Q", image, place, value)
    path = tmp_path / "lib.so"
    path.write_bytes(image)
    look(path)


@pytest.fixture
def library_without_sections(compile_library) -> bytes:
    path = compile_library("libwork.so", "int work(void){return 1;} int more(void){return 2;}")
    data = bytearray(path.read_bytes())
    struct.pack_into("<Q", data, 40, 0)
    struct.pack_into("<HH", data, 60, 0, 0)
    return bytes(data)


@GENTLY
@given(st.binary(max_size=300))
def test_notes_of_anything(data):
    try:
        notes = parse_notes(data, "file")
    except ElfError:
        return
    assert sum(len(note.content) for note in notes) <= len(data)


@GENTLY
@given(
    st.text(max_size=200) | st.text("-+0123456789xf@%$()[], abdilprsw:", max_size=80),
    st.sampled_from(["x86_64", "aarch64"]),
)
def test_operands_of_anything(text, machine):
    for argument in arguments_of(text, machine):
        assert argument.kind != "unsupported" or argument.why
        assert -(2**63) <= argument.constant < 2**64
        assert -(2**31) <= argument.displacement < 2**32


@GENTLY
@given(st.binary(max_size=300), st.integers(0, 2**32 - 1))
def test_a_loaders_cache_of_anything(data, count):
    parse_cache(data)
    parse_cache(b"glibc-ld.so.cache1.1" + struct.pack("<I", count) + data)
    parse_cache(b"glibc-ld.so.cache1.1" + struct.pack("<I", 3) + data)


def test_symbols_that_all_have_one_endless_name(tmp_path):
    """A name of 8 MiB, without an end, that 100,000 symbols have from every place in it."""
    image = Image()
    strings = image.section(".strings", 3, b"\0" + b"w" * (8 * 2**20))
    entries = b"".join(
        struct.pack("<IBBHQQ", at, 0x12, 0, 1, 0x401000, 1) for at in range(1, 100_001)
    )
    image.section(".symbols", 11, entries, link=strings)
    path = tmp_path / "lib.so"
    path.write_bytes(image.build())
    tracemalloc.start()
    try:
        table = symbols(str(path))
        assert not table.lookup("w" * 4_000)
        assert len(table.names()) <= tables.MOST_LISTED
        assert tracemalloc.get_traced_memory()[1] < 100 * 2**20
    finally:
        tracemalloc.stop()


def test_a_hash_chain_that_never_ends(library_without_sections, tmp_path):
    data = bytearray(library_without_sections)
    tags = {}
    for number in range(struct.unpack_from("<H", data, 56)[0]):
        kind, _, offset, _, _, size = struct.unpack_from("<IIQQQQ", data, 64 + 56 * number)
        if kind == 2:
            for place in range(offset, offset + size, 16):
                tag, value = struct.unpack_from("<qQ", data, place)
                tags.setdefault(tag, value)
    gnu = tags[0x6FFFFEF5]  # whose address is its place in a library that begins at 0
    _, _, bloom, _ = struct.unpack_from("<IIII", data, gnu)
    # Its first chain begins far behind all content, where no number has the bit that ends it.
    struct.pack_into("<I", data, gnu + 16 + bloom * 8, 2**24)
    path = tmp_path / "lib.so"
    path.write_bytes(data)
    os.truncate(path, 2**40)
    with pytest.raises(ElfError, match="hash table would make more than 64 MiB"):
        symbols(str(path))


def test_a_very_large_file_of_nothing_is_read_no_further_than_needed(tmp_path):
    path = tmp_path / "lib.so"
    path.write_bytes(SEED)
    os.truncate(path, 2**40)
    look(path)
    assert symbols(str(path)).size_bytes < 1_000
