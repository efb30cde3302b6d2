"""Reads an ELF file: its header, segments, sections, dynamic entries and notes.

The file is anybody's: a library that a traced process has mapped may be damaged, cut off or made
to do harm. So every count, size and offset is checked against the file and against a limit
before anything is read or made; a file that breaks a rule is an `ElfError`, and nothing else.
It is read by `pread` and never mapped: a mapped file that somebody shortens is a SIGBUS.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterator
from types import TracebackType
from typing import NamedTuple, Self

from .files import ElfError, identity, open_file

#: The most bytes that are read of one file, all its tables together.
MOST_BYTES = 64 * 2**20

#: The most program headers, sections, dynamic entries and notes that are taken.
MOST_SEGMENTS = 4_096
MOST_SECTIONS = 65_536
MOST_DYNAMIC = 4_096
MOST_NOTES = 65_536

#: The longest name (of a section, a library, a symbol) in bytes.
MOST_NAME_BYTES = 4_096
_MOST_SECTION_NAME_BYTES = 64

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_DYNAMIC = struct.Struct("<qQ")
_NOTE = struct.Struct("<III")

#: The machines that have a name here; `os.uname().machine` knows the two that are traced.
MACHINES = {
    3: "i386",
    8: "MIPS",
    20: "PowerPC",
    21: "PowerPC 64",
    22: "S/390",
    40: "ARM",
    62: "x86_64",
    183: "aarch64",
    243: "RISC-V",
    258: "LoongArch",
}

PT_LOAD, PT_DYNAMIC = 1, 2
SHT_SYMTAB, SHT_STRTAB, SHT_NOBITS, SHT_DYNSYM = 2, 3, 8, 11
DT_HASH, DT_STRTAB, DT_SYMTAB, DT_STRSZ, DT_SONAME = 4, 5, 6, 10, 14
DT_GNU_HASH = 0x6FFFFEF5
_TYPES = {0: "no type", 1: "an object file that is not linked yet", 4: "a core dump"}
_EXECUTABLE = 1
_WRITABLE = 2
_BUILD_ID = 3


class Segment(NamedTuple):
    """A program header. Addresses are the file's own, before it is loaded; sizes are bytes."""

    type: int
    flags: int
    offset: int
    address: int
    file_size: int  #: what of it is in the file; the rest is zeros


class Section(NamedTuple):
    """A section header, as `Segment`: the fields that it has in the file."""

    name: int  #: where its name is in the section names
    type: int
    flags: int
    address: int
    offset: int
    size: int
    link: int  #: the section that belongs to it: for symbols, their strings
    info: int
    alignment: int
    entry_size: int


class Note(NamedTuple):
    """A note: who defined it, its type there, and its content."""

    owner: bytes
    type: int
    content: bytes


def machine_here() -> int:
    """Return the ELF number of this machine's architecture; 0 if vidlab can't trace it."""
    name = os.uname().machine
    return next((number for number, known in MACHINES.items() if known == name), 0)


class ElfFile:
    """An ELF program or library that is open for reading. Close it, or use it in a `with`.

    Parameters
    ----------
    path : str
        The file; links are followed. Anything but a regular file is refused.

    Raises
    ------
    ElfError
        If it is not a 64-bit ELF program or library for this machine, or is damaged.
    InputError
        If it can't be opened.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._left = MOST_BYTES
        self._fd = open_file(path)
        try:
            status = os.fstat(self._fd)
            if not stat.S_ISREG(status.st_mode):
                raise ElfError(f"{path} is not a regular file: name a library or a program")
            self.size: int = status.st_size
            #: Changes when the file does: what is known of it is kept under this.
            self.identity = identity(status)
            self._read_headers()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; again is no error."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def read(self, offset: int, size: int, what: str) -> bytes:
        """Return `size` bytes from `offset`; `what` names them in an error.

        Raises
        ------
        ElfError
            If they are not all in the file, or are more than is read of one file.
        """
        if offset < 0 or size < 0 or offset + size > self.size:
            raise ElfError(f"{self.path} is damaged or cut off: its {what} lie outside the file")
        if size > self._left:
            raise ElfError(
                f"{self.path}: its {what} would make more than {MOST_BYTES >> 20} MiB of tables: "
                "too large to be read while recording"
            )
        self._left -= size
        parts = []
        while size:
            try:
                part = os.pread(self._fd, size, offset)
            except OSError as error:
                raise ElfError(f"{self.path} cannot be read: {error.strerror}") from error
            if not part:
                raise ElfError(f"{self.path} became shorter while it was read: try again")
            parts.append(part)
            offset += len(part)
            size -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def can_read(self, size: int) -> bool:
        """Whether so many bytes are within what may still be read of the file."""
        return size <= self._left

    def _read_headers(self) -> None:
        start = self.read(0, min(_HEADER.size, self.size), "header")
        if start[:4] != b"\x7fELF":
            raise ElfError(f"{self.path} is not an ELF file: name a library or a program")
        if len(start) < _HEADER.size:
            raise ElfError(f"{self.path} is cut off: its header is not whole")
        (ident, type, machine, _, _, segments_at, sections_at, _, _, *counts) = _HEADER.unpack(
            start
        )
        self._check_kind(ident, type, machine)
        #: The ELF number of its architecture; `MACHINES` names it.
        self.machine: int = machine
        self._dynamic: dict[int, int] | None = None
        self._sections = self._section_names = b""
        self.segments = self._read_segments(segments_at, *counts[:2])
        self._read_sections(sections_at, *counts[2:])

    def _check_kind(self, ident: bytes, type: int, machine: int) -> None:
        bits, order = ident[4], ident[5]
        # Read the machine in the file's own byte order, so that the message names it.
        if order == 2:
            machine = int.from_bytes(machine.to_bytes(2, "little"), "big")
        name = MACHINES.get(machine, f"machine {machine}")
        size = {1: "32-bit", 2: "64-bit"}.get(bits, "unknown-size")
        if bits != 2 or order != 1 or machine != machine_here():
            big = " big-endian" if order == 2 else ""
            raise ElfError(
                f"{self.path} is{' a' if size != 'unknown-size' else ' an'} {size}{big} ELF file "
                f"for {name}: vidlab traces 64-bit programs of this machine, "
                f"{os.uname().machine}, only"
            )
        if type not in (2, 3):
            what = _TYPES.get(type, f"of type {type}")
            raise ElfError(f"{self.path} is {what}: name a library or a program")

    def _read_segments(self, offset: int, entry_size: int, count: int) -> tuple[Segment, ...]:
        if not count:
            return ()
        if entry_size != _SEGMENT.size or count > MOST_SEGMENTS:
            raise ElfError(f"{self.path} is damaged: {count} segments of {entry_size} bytes")
        table = self.read(offset, count * entry_size, "segments")
        return tuple(
            Segment(type, flags, offset, address, file_size)
            for type, flags, offset, address, _, file_size, _, _ in _SEGMENT.iter_unpack(table)
        )

    def _read_sections(self, offset: int, entry_size: int, count: int, names: int) -> None:
        if not offset:
            return
        if entry_size != _SECTION.size:
            raise ElfError(f"{self.path} is damaged: sections of {entry_size} bytes")
        if not count or names == 0xFFFF:
            # More than the header has room for: the first section says how many.
            first = Section._make(_SECTION.unpack(self.read(offset, entry_size, "sections")))
            count, names = count or first.size, first.link if names == 0xFFFF else names
        if count > MOST_SECTIONS:
            raise ElfError(f"{self.path} is damaged: {count:,} sections")
        self._sections = self.read(offset, count * entry_size, "sections")
        if names < count and self._section(names).type == SHT_STRTAB:
            self._section_names = self.content(self._section(names))

    def _section(self, number: int) -> Section:
        return Section._make(_SECTION.unpack_from(self._sections, number * _SECTION.size))

    def _each_section(self) -> Iterator[Section]:
        # One at a time: thousands of tuples that stay make the garbage collector run.
        return map(Section._make, _SECTION.iter_unpack(self._sections))

    def section(self, name: str) -> Section | None:
        """Return the first section of this name; None if there is none."""
        for section in self._each_section():
            if _text(self._section_names, section.name) == name:
                return section
        return None

    def section_of(self, type: int) -> Section | None:
        """Return the first section of this type; None if there is none."""
        return next((section for section in self._each_section() if section.type == type), None)

    def linked(self, section: Section) -> Section | None:
        """Return the section that belongs to another; None if the file names none."""
        if section.link >= len(self._sections) // _SECTION.size:
            return None
        return self._section(section.link)

    def content(self, section: Section) -> bytes:
        """Return what a section holds; nothing if it takes no room in the file."""
        if section.type == SHT_NOBITS:
            return b""
        return self.read(
            section.offset,
            section.size,
            f"section {_text(self._section_names, section.name) or '(unnamed)'}",
        )

    def offset_of(self, address: int, *, flags: int = 0) -> int | None:
        """Return where in the file an address lies; None if in no segment with these flags."""
        for segment in self.segments:
            if (
                segment.type == PT_LOAD
                and segment.flags & flags == flags
                and segment.address <= address < segment.address + segment.file_size
            ):
                offset = address - segment.address + segment.offset
                return offset if offset < self.size else None
        return None

    def code_offset(self, address: int) -> int | None:
        """Return where in the file the code at an address lies; None if that is no code."""
        return self.offset_of(address, flags=_EXECUTABLE)

    def data_offset(self, address: int) -> int | None:
        """Return where in the file writable data at an address lies; None if it is none."""
        return self.offset_of(address, flags=_WRITABLE)

    def dynamic(self) -> dict[int, int]:
        """Return the dynamic section's entries by tag, the first of each."""
        if self._dynamic is None:
            found: dict[int, int] = {}
            for segment in self.segments:
                if segment.type == PT_DYNAMIC:
                    most = MOST_DYNAMIC * _DYNAMIC.size
                    size = min(segment.file_size, most) // _DYNAMIC.size * _DYNAMIC.size
                    table = self.read(segment.offset, size, "dynamic entries")
                    for tag, value in _DYNAMIC.iter_unpack(table):
                        if not tag:
                            break
                        found.setdefault(tag, value)
                    break
            self._dynamic = found
        return self._dynamic

    def soname(self) -> str | None:
        """Return the name that the library calls itself by; None if it has none."""
        entries = self.dynamic()
        strings = self.offset_of(entries.get(DT_STRTAB, -1))
        if DT_SONAME not in entries or strings is None:
            return None
        at = strings + entries[DT_SONAME]
        most = min(MOST_NAME_BYTES, max(self.size - at, 0))
        return _text(self.read(at, most, "name"), 0, most) or None

    def build_id(self) -> str | None:
        """Return the build id in hexadecimal digits; None if the linker left none."""
        section = self.section(".note.gnu.build-id")
        for note in self.notes(section) if section else ():
            if note.owner == b"GNU" and note.type == _BUILD_ID:
                return note.content.hex()
        return None

    def notes(self, section: Section) -> list[Note]:
        """Return a section's notes."""
        return parse_notes(self.content(section), self.path)


def parse_notes(data: bytes, path: str) -> list[Note]:
    """Return the notes in a note section's bytes, which are aligned to 4; `path` is for errors.

    Raises
    ------
    ElfError
        If a note is not whole, or there are more than are taken.
    """
    notes: list[Note] = []
    at = 0
    while at + _NOTE.size <= len(data):
        owner_size, content_size, type = _NOTE.unpack_from(data, at)
        owner = at + _NOTE.size
        content = owner + (owner_size + 3 & ~3)
        if content + content_size > len(data) or len(notes) == MOST_NOTES:
            raise ElfError(f"{path} is damaged: a note of it is not whole")
        notes.append(
            Note(
                data[owner : owner + owner_size].rstrip(b"\0"),
                type,
                data[content : content + content_size],
            )
        )
        at = content + (content_size + 3 & ~3)
    return notes


def _text(strings: bytes, at: int, most: int = _MOST_SECTION_NAME_BYTES) -> str:
    """Return the text that starts at a place in a string table; empty if it is outside."""
    end = strings.find(b"\0", at, at + most)
    return strings[at : end if end >= 0 else at + most].decode("utf-8", "replace")
