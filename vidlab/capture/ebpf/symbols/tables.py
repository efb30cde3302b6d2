"""The symbols of a library: from a name to where its code lies in the file.

`.dynsym` (what a library exports) and `.symtab` (all that its makers left in it, such as the
CUDA runtime inside CuPy's modules) are searched as arrays, eight letters of all names at a
time: no Python object is made of a symbol that nobody asks for. A library's tables are kept
while its file stays the same.
"""

from __future__ import annotations

import functools
import struct
import threading
from collections import OrderedDict
from typing import Any, Literal, NamedTuple

import numpy as np

from .elf import (
    DT_GNU_HASH,
    DT_HASH,
    DT_STRSZ,
    DT_STRTAB,
    DT_SYMTAB,
    MOST_NAME_BYTES,
    SHT_DYNSYM,
    SHT_STRTAB,
    SHT_SYMTAB,
    ElfFile,
    Section,
)
from .files import ElfError, file_status, identity

Kind = Literal["function", "indirect", "untyped", "data"]
Binding = Literal["local", "global", "weak"]

#: The most bytes of tables that are kept, all libraries together.
MOST_KEPT = 128 * 2**20

#: The most names that are listed of a table, and the longest one listed.
MOST_LISTED = 50_000
_LONGEST_LISTED = 256

_SYMBOL = np.dtype(
    [
        ("name", "<u4"),
        ("info", "u1"),
        ("other", "u1"),
        ("section", "<u2"),
        ("value", "<u8"),
        ("size", "<u8"),
    ]
)
_WORD = 8
#: Up to so many bytes of names, to look through them is quicker than to set up the arrays.
_SMALL_BYTES = 32_768
_HASH = struct.Struct("<II")  #: buckets, symbols
_GNU_HASH = struct.Struct("<IIII")  #: buckets, first symbol, words of the filter, its shift
_CHAIN_BYTES = 65_536
#: Section numbers that are none: from here on (absolute values, common blocks).
_RESERVED = 0xFF00
_KINDS: dict[int, Kind] = {0: "untyped", 1: "data", 2: "function", 5: "data", 6: "data"}
_INDIRECT = 10
_BINDINGS: dict[int, Binding] = {0: "local", 2: "weak"}


class Symbol(NamedTuple):
    """A symbol that a file defines."""

    name: str
    value: int  #: the file's own address of it
    offset: int | None  #: where its code lies in the file, in bytes; None if it is no code
    size: int  #: bytes; 0 if unknown
    binding: Binding
    kind: Kind
    exported: bool  #: whether it is in `.dynsym`

    @property
    def is_function(self) -> bool:
        """Whether a probe on it sees calls: it is code, and not what chooses the code."""
        return self.offset is not None and self.kind in ("function", "untyped")

    @property
    def indirect(self) -> bool:
        """Whether it is an IFUNC: called once, to choose the function that will be used."""
        return self.kind == "indirect"


class _Table:
    """The defined symbols of one of a file's two tables, and their names."""

    def __init__(self, entries: bytes, strings: bytes) -> None:
        symbols = np.frombuffer(entries, _SYMBOL, len(entries) // _SYMBOL.itemsize)
        self.size_bytes = len(entries) + len(strings)
        self._symbols = symbols
        self._size = len(strings)
        # A word can be read at the place after the last one.
        self._strings = strings + bytes(_WORD)

    @functools.cached_property
    def _numbers(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """The numbers of the symbols that are defined here and have a name."""
        symbols = self._symbols
        kinds = symbols["info"] & 15
        defined: np.ndarray[Any, np.dtype[np.int64]]
        defined = np.flatnonzero(
            (symbols["section"] != 0)
            & (symbols["section"] < _RESERVED)
            & (symbols["name"] != 0)
            & (symbols["name"] < self._size)
            & (kinds != 3)  # sections
            & (kinds != 4)  # source files
        )
        return defined

    @functools.cached_property
    def _at(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Where each symbol's name starts."""
        at: np.ndarray[Any, np.dtype[np.int64]]
        at = self._symbols["name"][self._numbers].astype(np.int64)
        return at

    @functools.cached_property
    def _words(self) -> np.ndarray[Any, np.dtype[np.uint64]]:
        """The word that starts at each byte of the names."""
        count = self._size + 1
        words: np.ndarray[Any, np.dtype[np.uint64]]
        words = np.ndarray((count,), np.dtype("<u8"), self._strings, strides=(1,))
        return words

    @functools.cached_property
    def _first_words(self) -> np.ndarray[Any, np.dtype[np.uint64]]:
        words: np.ndarray[Any, np.dtype[np.uint64]] = self._words[self._at]
        return words

    def find(self, name: bytes) -> list[int]:
        """Return the numbers of the symbols of this name, any version of it."""
        if self._size <= _SMALL_BYTES and name not in self._strings:
            return []
        found = None
        for start in range(0, len(name), _WORD):
            part = name[start : start + _WORD]
            wanted = np.uint64(int.from_bytes(part, "little"))
            words = self._first_words if found is None else self._words[self._at[found] + start]
            if len(part) < _WORD:
                words = words & np.uint64((1 << 8 * len(part)) - 1)
            same = np.flatnonzero(words == wanted)
            found = same if found is None else found[same]
            if not len(found):
                return []
        if found is None:
            return []
        # The name ends here, or its version begins: memcpy@@GLIBC_2.14.
        return [
            int(self._numbers[number])
            for number in found
            if self._strings[int(self._at[number]) + len(name)] in b"\0@"
        ]

    def entry(self, number: int) -> tuple[int, int, int]:
        """Return a symbol's info byte, value and size."""
        _, info, _, _, value, size = self._symbols[number].item()
        return info, value, size

    def listed(self) -> list[str]:
        """Return the names of what may be functions, without their versions."""
        kinds = self._symbols["info"][self._numbers] & 15
        names = []
        for at in self._at[(kinds == 2) | (kinds == 0)][:MOST_LISTED].tolist():
            end = self._strings.find(b"\0", at, at + _LONGEST_LISTED)
            name = self._strings[at : end if end >= 0 else at + _LONGEST_LISTED]
            names.append(name.partition(b"@")[0].decode("utf-8", "replace"))
        return names


class SymbolTable:
    """The symbols that a library or program defines.

    Attributes
    ----------
    path : str
        The file that they were read from.
    soname : str or None
        The name that the library calls itself by.
    complete : bool
        False if `.symtab` was too large to be read: only what is exported can be found.
    """

    def __init__(self, file: ElfFile) -> None:
        self.path = file.path
        self.soname = file.soname()
        self.complete = True
        self._identity = file.identity
        self._code_offset = file.code_offset  # which needs the file no more to be open
        section = file.section_of(SHT_DYNSYM)
        self._exports = _section_table(file, section) if section else _dynamic_table(file)

    @functools.cached_property
    def _others(self) -> _Table | None:
        """All that its makers left in, which is large, and read only if it is needed."""
        with ElfFile(self.path) as file:
            if file.identity != self._identity:
                raise ElfError(f"{self.path} was changed while it was read: try again")
            section = file.section_of(SHT_SYMTAB)
            if section is None:
                return None
            self.complete = file.can_read(section.size + _strings_of(file, section).size)
            table = _section_table(file, section) if self.complete else None
        _make_room()
        return table

    @property
    def size_bytes(self) -> int:
        """How much memory the tables take that have been read."""
        tables = (self._exports, self.__dict__.get("_others"))
        return sum(table.size_bytes for table in tables if table)

    def exports(self, name: str) -> list[Symbol]:
        """Return the functions (or else whatever it is) of this name that the file exports."""
        return self._functions(self._find(self._exports, name, exported=True))

    def lookup(self, name: str) -> list[Symbol]:
        """Return the functions of this name; if none is, whatever else has the name.

        What is exported goes before what is not: a local function of the same name is another.
        There may be several, of several versions or source files; of several names for one
        place in the file, one.
        """
        exported = self._find(self._exports, name, exported=True)
        if any(symbol.is_function or symbol.indirect for symbol in exported):
            return self._functions(exported)
        return self._functions(exported + self._find(self._others, name, exported=False))

    def names(self) -> list[str]:
        """Return the names of what may be functions, exported ones first, for near names."""
        tables = (self._exports, self._others)
        return list(dict.fromkeys(name for table in tables if table for name in table.listed()))

    def _functions(self, symbols: list[Symbol]) -> list[Symbol]:
        # Beside an IFUNC, the functions are older versions, which new programs do not call.
        symbols = [symbol for symbol in symbols if symbol.indirect] or symbols
        functions = [symbol for symbol in symbols if symbol.is_function] or symbols
        # A place that has two entries is one; the first says more of it.
        places = {symbol.value: symbol for symbol in reversed(functions)}
        return list(reversed(places.values()))

    def _find(self, table: _Table | None, name: str, exported: bool) -> list[Symbol]:
        text = name.encode("utf-8", "surrogateescape")
        if table is None or not 0 < len(text) <= MOST_NAME_BYTES or b"\0" in text or b"@" in text:
            return []
        found = []
        for number in table.find(text):
            info, value, size = table.entry(number)
            binding = _BINDINGS.get(info >> 4, "global")
            offset = self._code_offset(value)
            kind = "indirect" if info & 15 == _INDIRECT else _KINDS.get(info & 15, "data")
            found.append(Symbol(name, value, offset, size, binding, kind, exported))
        return found


_kept: OrderedDict[tuple[int, ...], SymbolTable] = OrderedDict()
_lock = threading.Lock()


def symbols(path: str) -> SymbolTable:
    """Return the symbols of a file, from what is kept of it if it has not changed since.

    Raises
    ------
    ElfError
        If it is not an ELF program or library of this machine, or is damaged.
    InputError
        If it can't be read.
    """
    known = identity(file_status(path))
    with _lock:
        table = _kept.get(known)
        if table is not None:
            _kept.move_to_end(known)
            table.path = path  # another may be a process's that has ended meanwhile
            return table
    with ElfFile(path) as file:
        table = SymbolTable(file)
        with _lock:
            _kept[file.identity] = table
        # To add up all sizes for every small table would be half of the time that it takes.
        if len(_kept) % 32 == 0 or table.size_bytes > 2**20:
            _make_room()
    return table


def _make_room() -> None:
    """Let go of the tables that were not used for longest, if they are too large together."""
    with _lock:
        size = sum(table.size_bytes for table in _kept.values())
        while len(_kept) > 1 and size > MOST_KEPT:
            size -= _kept.popitem(last=False)[1].size_bytes


def _strings_of(file: ElfFile, section: Section) -> Section:
    linked = file.linked(section)
    if linked is None or linked.type != SHT_STRTAB:
        raise ElfError(f"{file.path} is damaged: its symbols have no names")
    return linked


def _section_table(file: ElfFile, section: Section) -> _Table:
    return _Table(file.content(section), file.content(_strings_of(file, section)))


def _dynamic_table(file: ElfFile) -> _Table | None:
    """Return what a file exports whose section headers were cut away; None if it exports none."""
    entries = file.dynamic()
    at = {
        tag: file.offset_of(entries[tag])
        for tag in (DT_SYMTAB, DT_STRTAB, DT_HASH, DT_GNU_HASH)
        if tag in entries
    }
    first, strings = at.get(DT_SYMTAB), at.get(DT_STRTAB)
    if first is None or strings is None:
        return None
    # The table does not say how long it is; the tables that the loader searches it by do.
    hashes, gnu = at.get(DT_HASH), at.get(DT_GNU_HASH)
    if hashes is not None:
        count = _HASH.unpack(file.read(hashes, _HASH.size, "hash table"))[1]
    elif gnu is not None:
        count = _gnu_count(file, gnu)
    else:
        return None
    return _Table(
        file.read(first, count * _SYMBOL.itemsize, "symbols"),
        file.read(strings, entries.get(DT_STRSZ, 0), "symbol names"),
    )


def _gnu_count(file: ElfFile, at: int) -> int:
    """Return how many symbols a GNU hash table covers: up to the end of its last chain."""
    buckets, covered, bloom, _ = _GNU_HASH.unpack(file.read(at, _GNU_HASH.size, "hash table"))
    at += _GNU_HASH.size + bloom * 8
    last = max(np.frombuffer(file.read(at, buckets * 4, "hash table"), "<u4"), default=0)
    at += buckets * 4
    if last < covered:
        return int(covered)
    at += (int(last) - covered) * 4
    while True:
        size = min(_CHAIN_BYTES, max(file.size - at, 0)) & ~3
        chain = np.frombuffer(file.read(at, max(size, 4), "hash table"), "<u4")
        ends = np.flatnonzero(chain & 1)
        if len(ends):
            return int(last) + int(ends[0]) + 1
        last, at = last + len(chain), at + size
