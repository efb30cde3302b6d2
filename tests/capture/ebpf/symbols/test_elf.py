"""What is read of an ELF file, and which files are refused and why."""

from __future__ import annotations

import os
import platform
import struct
from pathlib import Path

import pytest

from vidlab.capture.ebpf.symbols import elf as elves
from vidlab.capture.ebpf.symbols.elf import ElfFile, parse_notes
from vidlab.capture.ebpf.symbols.files import ElfError
from vidlab.errors import InputError

HERE = platform.machine()
FOREIGN = 40 if HERE == "x86_64" else 62


@pytest.fixture
def written(tmp_path: Path):
    def write(data: bytes) -> str:
        path = tmp_path / "library.so"
        path.write_bytes(data)
        return str(path)

    return write


def test_segments_give_the_place_in_the_file_of_an_address(image, written):
    with ElfFile(written(image.build())) as file:
        assert file.code_offset(0x401010) == 0x1010
        assert file.code_offset(0x402010) is None  # data, not code
        assert file.data_offset(0x402010) == 0x2010
        assert file.offset_of(0x400FFF) is None
        assert file.code_offset(0x402000) is None


def test_a_32_bit_file_is_named_as_what_it_is(image, written):
    image.bits, image.machine = 1, 3
    with pytest.raises(ElfError, match=rf"a 32-bit ELF file for i386: .* machine, {HERE}"):
        ElfFile(written(image.build()))


def test_a_foreign_architecture_is_named(image, written):
    image.machine = FOREIGN
    name = elves.MACHINES[FOREIGN]
    with pytest.raises(ElfError, match=rf"64-bit ELF file for {name}: .* machine, {HERE}"):
        ElfFile(written(image.build()))


def test_a_big_endian_file_is_named_in_its_own_byte_order(image, written):
    image.order, image.machine = 2, 22 << 8
    with pytest.raises(ElfError, match="64-bit big-endian ELF file for S/390"):
        ElfFile(written(image.build()))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not an ELF file"),
        (b"#!/bin/sh\n", "not an ELF file"),
        (b"\x7fELF\2\1\1", "cut off"),
    ],
)
def test_what_is_no_elf_file_is_refused(data, message, written):
    with pytest.raises(ElfError, match=message):
        ElfFile(written(data))


def test_an_object_file_is_no_library(image, written):
    image.type = 1
    with pytest.raises(ElfError, match="an object file that is not linked yet: name a library"):
        ElfFile(written(image.build()))


def test_a_library_that_is_cut_off_says_so(image, written):
    image.symbols([("work", 0x401000)])
    with pytest.raises(ElfError, match="sections lie outside the file"):
        ElfFile(written(image.build()[:-64]))


def test_neither_a_pipe_nor_a_device_nor_a_folder_is_opened(tmp_path, monkeypatch):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    monkeypatch.setattr(os, "open", None)
    for path in (pipe, Path("/dev/null"), tmp_path):
        with pytest.raises(ElfError, match="not a regular file"):
            ElfFile(str(path))


def test_a_pipe_that_takes_the_librarys_place_is_not_waited_for(image, tmp_path, monkeypatch):
    path = tmp_path / "library.so"
    path.write_bytes(image.build())
    regular = path.stat()
    path.unlink()
    os.mkfifo(path)
    monkeypatch.setattr("vidlab.capture.ebpf.symbols.files.file_status", lambda path: regular)
    with pytest.raises(ElfError, match="not a regular file"):
        ElfFile(str(path))


def test_what_is_not_there_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        ElfFile(str(tmp_path / "nothing.so"))
    with pytest.raises(InputError, match="null"):
        ElfFile("a\0b")


def test_more_than_the_limit_is_never_read(image, written, tmp_path):
    image.symbols([("work", 0x401000)])
    data = bytearray(image.build())
    sections = struct.unpack_from("<Q", data, 40)[0]
    # The second section, the symbols, is said to be 65 MiB, in a file that has that much.
    struct.pack_into("<Q", data, sections + 2 * 64 + 32, 65 * 2**20)
    path = written(bytes(data))
    os.truncate(path, 2**30)
    with ElfFile(path) as file:
        symbols = file.section(".symbols")
        with pytest.raises(ElfError, match="more than 64 MiB of tables"):
            file.content(symbols)


def test_sections_beyond_what_the_header_can_count_are_counted_by_the_first(image, written):
    image.symbols([("work", 0x401000)])
    data = bytearray(image.build())
    sections, count = struct.unpack_from("<Q", data, 40)[0], struct.unpack_from("<H", data, 60)[0]
    struct.pack_into("<QI", data, sections + 32, count, count - 1)
    struct.pack_into("<HH", data, 60, 0, 0xFFFF)
    with ElfFile(written(bytes(data))) as file:
        assert file.section(".symbols") is not None


def test_the_soname_and_the_build_id(compile_library):
    path = compile_library(
        "libwork.so.1.2", "int work;", "-Wl,-soname,libwork.so.1", "-Wl,--build-id=0xC0FFEE"
    )
    with ElfFile(str(path)) as file:
        assert file.soname() == "libwork.so.1"
        assert file.build_id() == "c0ffee"


def test_a_library_without_either_has_none(compile_library):
    path = compile_library("libwork.so", "int work;", "-Wl,--build-id=none")
    with ElfFile(str(path)) as file:
        assert file.soname() is None
        assert file.build_id() is None


def test_notes_are_aligned_to_four_bytes():
    data = struct.pack("<III8s5s3x", 5, 5, 7, b"abcd", b"12345")
    data += struct.pack("<III4s", 4, 0, 9, b"xyz")
    notes = parse_notes(data, "file")
    assert [(note.owner, note.type, note.content) for note in notes] == [
        (b"abcd", 7, b"12345"),
        (b"xyz", 9, b""),
    ]


def test_a_note_that_is_not_whole_is_an_error():
    with pytest.raises(ElfError, match="a note of it is not whole"):
        parse_notes(struct.pack("<III4s", 4, 2**32 - 1, 9, b"xyz"), "file")


def test_a_file_that_becomes_shorter_is_an_error_and_no_crash(image, written):
    image.symbols([("work", 0x401000)])
    path = written(image.build())
    with ElfFile(path) as file:
        os.truncate(path, 4096)
        with pytest.raises(ElfError, match="became shorter"):
            file.content(file.section(".symbols"))


def test_closing_twice_closes_once(image, written):
    file = ElfFile(written(image.build()))
    file.close()
    other = os.open("/dev/null", os.O_RDONLY)  # which has the number that was freed
    file.close()
    os.close(other)
