"""USDT notes: places, counters and operands; Debian's Python as the real one."""

from __future__ import annotations

import ctypes
import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from vidlab.capture.ebpf.symbols import ElfError, UsdtArgument, probes
from vidlab.capture.ebpf.symbols.usdt import arguments_of

from .conftest import CODE, NOTES, stapsdt

DEBIAN = Path("/usr/bin/python3.11")
x86_64 = pytest.mark.skipif(platform.machine() != "x86_64", reason="operands of x86_64")


def one(text: str, machine: str = "x86_64") -> UsdtArgument:
    (argument,) = arguments_of(text, machine)
    return argument


@pytest.mark.parametrize(
    ("text", "kind", "values"),
    [
        ("-4@%edi", "register", {"size": 4, "signed": True, "register": "di"}),
        ("8@%rbx", "register", {"size": 8, "signed": False, "register": "bx"}),
        ("1@%r10b", "register", {"size": 1, "register": "r10"}),
        ("2@%r8w", "register", {"size": 2, "register": "r8"}),
        ("1@%sil", "register", {"size": 1, "register": "si", "shift": 0}),
        ("-1@%ah", "register", {"size": 1, "register": "ax", "shift": 8}),
        ("8@-8(%rbp)", "memory", {"register": "bp", "displacement": -8}),
        ("-4@112(%rsp)", "memory", {"register": "sp", "displacement": 112, "signed": True}),
        ("8@(%rax)", "memory", {"register": "ax", "displacement": 0}),
        ("8@0x10(%rax)", "memory", {"register": "ax", "displacement": 16}),
        (
            "4@8(%rdi,%rcx,4)",
            "memory",
            {"register": "di", "index_register": "cx", "scale": 4, "displacement": 8},
        ),
        (
            "4@(,%rcx,8)",
            "memory",
            {"register": "", "index_register": "cx", "scale": 8, "displacement": 0},
        ),
        ("8@$5", "constant", {"constant": 5}),
        ("-4@$-1", "constant", {"constant": -1, "signed": True}),
        ("8@$0xff", "constant", {"constant": 255}),
    ],
)
def test_operands_of_x86_64(text, kind, values):
    argument = one(text)
    assert argument.kind == kind
    assert argument.text == text
    assert {name: getattr(argument, name) for name in values} == values


@pytest.mark.parametrize(
    ("text", "kind", "values"),
    [
        ("8@x0", "register", {"register": "x0", "size": 8}),
        ("-4@w21", "register", {"register": "x21", "signed": True}),
        ("8@[sp]", "memory", {"register": "sp", "displacement": 0}),
        ("-4@[sp, 12]", "memory", {"register": "sp", "displacement": 12}),
        ("8@[x29, -16]", "memory", {"register": "x29", "displacement": -16}),
        ("4@5", "constant", {"constant": 5}),
    ],
)
def test_operands_of_aarch64(text, kind, values):
    argument = one(text, "aarch64")
    assert argument.kind == kind
    assert {name: getattr(argument, name) for name in values} == values


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("4@counter(%rip)", "an address that only the linker knew"),
        ("4@counter+8(%rip)", "an address that only the linker knew"),
        ("4@counter", "an address that only the linker knew"),
        ("8@%fs:0(%rax)", "thread-local"),
        ("8f@%xmm0", "floating-point"),
        ("%rax", "how large"),
        ("3@%rax", "how large"),
        ("8@%xmm0", "no operand of x86_64"),
        ("8@8(%ah)", "no operand of x86_64"),
        ("8@8()", "no operand of x86_64"),
        ("8@$99999999999999999999", "no operand of x86_64"),
        ("8@99999999999(%rax)", "no operand of x86_64"),
        ("8@(%rax,%rbx,3)", "no operand of x86_64"),
    ],
)
def test_what_cannot_be_read_says_why_and_leaves_the_others(text, why):
    first, second = arguments_of(f"{text} -4@%edi", "x86_64")
    assert first.kind == "unsupported"
    assert why in first.why
    assert second.kind == "register"


def test_more_arguments_than_a_probe_can_have():
    (argument,) = arguments_of("8@%rax " * 13, "x86_64")
    assert argument.kind == "unsupported"
    assert len(arguments_of("8@%rax " * 12, "x86_64")) == 12


def write(image, tmp_path, note: bytes, base: int | None = None) -> str:
    if base is not None:
        image.section(".stapsdt.base", CODE, b"\0", address=base)
    image.section(".note.stapsdt", NOTES, note)
    path = tmp_path / "library.so"
    path.write_bytes(image.build())
    return str(path)


def test_the_place_and_the_counter_are_in_the_file(image, tmp_path):
    note = stapsdt("app", "started", "", 0x401010, base=0x400800, semaphore=0x402004)
    (probe,) = probes(write(image, tmp_path, note, base=0x400800))
    assert (probe.provider, probe.name) == ("app", "started")
    assert (probe.offset, probe.ref_counter) == (0x1010, 0x2004)


def test_what_was_moved_after_linking_is_found_where_it_went(image, tmp_path):
    note = stapsdt("app", "started", "", 0x1010, base=0x800, semaphore=0x2004)
    (probe,) = probes(write(image, tmp_path, note, base=0x400800))
    assert (probe.offset, probe.ref_counter) == (0x1010, 0x2004)


def test_without_a_counter_it_is_always_on(image, tmp_path):
    note = stapsdt("app", "started", "", 0x401010)
    (probe,) = probes(write(image, tmp_path, note))
    assert probe.ref_counter == 0


def test_a_probe_of_one_name_has_as_many_places_as_it_was_compiled_into(image, tmp_path):
    note = stapsdt("app", "started", "", 0x401010) + stapsdt("app", "started", "8@$1", 0x401020)
    places = probes(write(image, tmp_path, note))
    assert [(place.offset, len(place.arguments)) for place in places] == [(0x1010, 0), (0x1020, 1)]


@pytest.mark.parametrize(
    ("place", "semaphore", "message"),
    [(0x402010, 0, "is no code"), (0x401010, 0x401000, "not in its data")],
)
def test_a_note_that_points_elsewhere_is_a_damaged_file(place, semaphore, message, image, tmp_path):
    path = write(image, tmp_path, stapsdt("app", "started", "", place, semaphore=semaphore))
    with pytest.raises(ElfError, match=f"app:started .*{message}|{message}"):
        probes(path)


def test_a_note_that_is_cut_off_is_a_damaged_file(image, tmp_path):
    note = stapsdt("app", "started", "", 0x401010)
    with pytest.raises(ElfError, match="not whole"):
        probes(write(image, tmp_path, note[:-8]))


def test_a_library_without_probes_has_none(compile_library):
    assert probes(str(compile_library("libwork.so", "int work;"))) == []


@x86_64
@pytest.mark.skipif(not DEBIAN.exists(), reason="Debian's python3.11 is not installed")
def test_debians_python_has_the_probes_that_binutils_finds():
    found = probes(str(DEBIAN))
    assert {"gc__start", "gc__done", "function__entry"} <= {probe.name for probe in found}
    if not shutil.which("readelf"):
        pytest.skip("readelf is not installed: apt install binutils")
    command = ["readelf", "-n", str(DEBIAN)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert [probe.name for probe in found] == re.findall(r"^ +Name: (\w+)", text, re.MULTILINE)
    operands = re.findall(r"^ +Arguments: ?(.*)$", text, re.MULTILINE)
    assert [" ".join(argument.text for argument in probe.arguments) for probe in found] == operands
    data = DEBIAN.read_bytes()
    for probe in found:
        assert data[probe.offset] == 0x90  # the nop that was left for it
        assert data[probe.ref_counter :][:2] == b"\0\0"
        assert all(argument.kind != "unsupported" for argument in probe.arguments)


SOURCE = """
unsigned short counter __attribute__((section(".probes"), visibility("hidden"))) = 0;
int work(int x) {
  __asm__ volatile ("990: nop\\n"
    ".pushsection .note.stapsdt,\\"\\",\\"note\\"\\n"
    ".balign 4\\n .4byte 992f-991f, 994f-993f, 3\\n"
    "991: .asciz \\"stapsdt\\"\\n 992: .balign 4\\n"
    "993: .8byte 990b\\n .8byte _.stapsdt.base\\n .8byte counter\\n"
    ".asciz \\"app\\"\\n .asciz \\"work\\"\\n .asciz \\"-4@%0 8@$7\\"\\n"
    "994: .balign 4\\n .popsection\\n"
    ".ifndef _.stapsdt.base\\n .pushsection .stapsdt.base,\\"aG\\",\\"progbits\\","
    ".stapsdt.base,comdat\\n .weak _.stapsdt.base\\n .hidden _.stapsdt.base\\n"
    "_.stapsdt.base: .space 1\\n .popsection\\n .endif\\n" :: "r"(x));
  return x;
}
unsigned short *where(void) {return &counter;}
"""


@x86_64
def test_a_compiled_probe_is_where_the_loaded_library_has_it(compile_library):
    path = compile_library("libwork.so", SOURCE)
    (probe,) = probes(str(path))
    data = path.read_bytes()
    assert data[probe.offset] == 0x90
    assert [argument.kind for argument in probe.arguments] == ["register", "constant"]
    library = ctypes.CDLL(str(path))
    library.where.restype = ctypes.POINTER(ctypes.c_uint16)
    address = ctypes.addressof(library.where().contents)
    from vidlab.capture.ebpf.symbols.mappings import mappings

    (held,) = [
        mapping.start - mapping.offset
        for mapping in mappings()
        if mapping.path == str(path) and mapping.start <= address < mapping.end
    ]
    assert address - held == probe.ref_counter
