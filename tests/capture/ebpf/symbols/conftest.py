"""ELF files to look into: made byte by byte, or compiled; and processes that have mapped them."""

from __future__ import annotations

import gc
import os
import shlex
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from vidlab.capture.ebpf.symbols import elf as elves
from vidlab.capture.ebpf.symbols import tables
from vidlab.capture.gpu import native

Compile = Callable[..., Path]
Start = Callable[..., "subprocess.Popen[bytes]"]

CODE, STRINGS, SYMBOLS, NOTES, DYNAMIC_SYMBOLS = 1, 3, 2, 7, 11


def symbol(name: int, value: int, size: int = 1, info: int = 0x12, section: int = 1) -> bytes:
    return struct.pack("<IBBHQQ", name, info, 0, section, value, size)


def stapsdt(
    provider: str, name: str, arguments: str, place: int, base: int = 0, semaphore: int = 0
) -> bytes:
    texts = b"".join(text.encode() + b"\0" for text in (provider, name, arguments))
    content = struct.pack("<QQQ", place, base, semaphore) + texts
    padded = content + bytes(-len(content) % 4)
    return struct.pack("<III8s", 8, len(content), 3, b"stapsdt") + padded


@dataclass
class Image:
    """An ELF file in the making: 4 KiB of code at 0x1000 of the file and 0x401000 of memory."""

    machine: int = field(default_factory=elves.machine_here)
    bits: int = 2
    order: int = 1
    type: int = 3
    sections: list[tuple[str, int, int, bytes, int]] = field(default_factory=list)

    def section(self, name: str, type: int, content: bytes, address: int = 0, link: int = 0) -> int:
        self.sections.append((name, type, address, content, link))
        return len(self.sections)

    def symbols(self, names: Sequence[tuple[str, int]], type: int = DYNAMIC_SYMBOLS) -> None:
        texts = b"\0" + b"".join(name.encode() + b"\0" for name, _ in names)
        strings = self.section(".strings", STRINGS, texts)
        at, entries = 1, bytes(24)
        for name, value in names:
            entries += symbol(at, value)
            at += len(name.encode()) + 1
        self.section(".symbols", type, entries, link=strings)

    def build(self) -> bytes:
        names, headers, body = b"\0", [bytes(64)], b""
        sections = [*self.sections, (".shstrtab", STRINGS, 0, b"", 0)]
        for name, *_ in sections:
            names += name.encode() + b"\0"
        at = 1
        for name, type, address, content, link in sections:
            content = names if name == ".shstrtab" else content
            place = 0x3000 + len(body)
            headers.append(
                struct.pack("<IIQQQQIIQQ", at, type, 0, address, place, len(content), link, 0, 1, 0)
            )
            at += len(name) + 1
            body += content + bytes(-len(content) % 8)
        ident = b"\x7fELF" + bytes([self.bits, self.order, 1]) + bytes(9)
        counts = (64, 56, 2, 64, len(headers), len(headers) - 1)
        table = 0x3000 + len(body)
        start = struct.pack(
            "<16sHHIQQQIHHHHHH", ident, self.type, self.machine, 1, 0, 64, table, 0, *counts
        )
        for flags, place in ((5, 0x1000), (6, 0x2000)):
            address = 0x400000 + place
            start += struct.pack(
                "<IIQQQQQQ", 1, flags, place, address, address, 0x1000, 0x1000, 0x1000
            )
        return start.ljust(0x3000, b"\x90") + body + b"".join(headers)


@pytest.fixture
def image() -> Image:
    return Image()


@pytest.fixture
def compile_library(tmp_path: Path) -> Compile:
    """Compile C into a shared library in the test's folder."""
    command = native.compiler()
    if command is None:
        pytest.skip("no C compiler: apt install gcc")

    def build(name: str, source: str, *flags: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        words = [*shlex.split(command), "-x", "c", "-", "-shared", "-fPIC", "-O1", "-o", str(path)]
        subprocess.run([*words, *flags], input=source.encode(), check=True)
        return path

    return build


_LOAD = """
import ctypes, sys
for path in sys.argv[1:]:
    ctypes.CDLL(path)
print("loaded", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a process that loads libraries and waits."""
    started: list[subprocess.Popen[bytes]] = []

    def begin(*libraries: str | Path, **environment: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-c", _LOAD, *map(str, libraries)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **environment},
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == b"loaded\n"
        return process

    yield begin
    for process in started:
        process.communicate()


@pytest.fixture(autouse=True)
def nothing_kept_open() -> Iterator[None]:
    """Every test begins with no table kept, and ends with no more files open than before."""
    tables._kept.clear()
    gc.collect()  # what others left must not be closed meanwhile
    before = sorted(Path("/proc/self/fd").iterdir())
    yield
    assert sorted(Path("/proc/self/fd").iterdir()) == before
