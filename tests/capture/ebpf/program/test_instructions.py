"""The assembler: encodings, labels, the stack; and that a disassembly is the kernel's own."""

from __future__ import annotations

import ctypes
import os
import re
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidlab.capture.ebpf import Counter, Probe, arg, deref, duration, retval, string
from vidlab.capture.ebpf.declaring.layout import Layout
from vidlab.capture.ebpf.kernel import bpf
from vidlab.capture.ebpf.kernel.bpf import AttachType, Command, ProgramType
from vidlab.capture.ebpf.program import calls, dispatching, helpers, moments
from vidlab.capture.ebpf.program.context import ProgramContext
from vidlab.capture.ebpf.program.disassembly import disassemble, text
from vidlab.capture.ebpf.program.encoding import (
    CONDITIONS,
    OPERATIONS,
    R0,
    R1,
    R2,
    R6,
    R10,
    Instruction,
    Register,
    decode,
)
from vidlab.capture.ebpf.program.instructions import Builder, Code

from .lab import Kernel, function_id


def bytes_of(write) -> str:
    b = Builder()
    write(b)
    b.exit()
    return b.assemble().encode({"m": 7}, lambda _: 99)[:-8].hex(" ", 8)


@pytest.mark.parametrize(
    ("write", "expected"),
    [
        # From the instruction set's specification, and what llvm-mc makes of the same text.
        (lambda b: b.move(R1, R2), "bf21000000000000"),
        (lambda b: b.move(R1, -1), "b7010000ffffffff"),
        (lambda b: b.move(R1, 0x80000000), "1801000000000080 0000000000000000"),
        (lambda b: b.move(R1, (1 << 64) - 1), "18010000ffffffff 00000000ffffffff"),
        (lambda b: b.truncate(R1), "bc11000000000000"),
        (lambda b: b.alu(R1, "+", 8), "0701000008000000"),
        (lambda b: b.alu(R1, "s>>", R2), "cf21000000000000"),
        (lambda b: b.alu(R1, "/", R2, bits=32), "3c21000000000000"),
        (lambda b: b.negate(R6), "8706000000000000"),
        (lambda b: b.load(R1, 4, R10, -8), "61a1f8ff00000000"),
        (lambda b: b.store(1, R10, -1, R2), "732affff00000000"),
        (lambda b: b.store(8, R10, -16, -5), "7a0af0fffbffffff"),
        (lambda b: b.atomic_add(R1, 16, R2), "db21100000000000"),
        (lambda b: b.atomic_add(R1, 0, R2, size=4, fetch=True), "c321000001000000"),
        (lambda b: b.load_map(R1, "m"), "1811000007000000 0000000000000000"),
        (lambda b: b.call(helpers.RING_RESERVE), "8500000083000000"),
        (lambda b: b.call_kernel("some_function"), "8520000063000000"),
    ],
)
def test_encodings(write, expected: str) -> None:
    assert bytes_of(write) == expected


def test_jumps_are_counted_in_slots() -> None:
    b = Builder()
    begin, end = b.label("begin"), b.label("end")
    b.place(begin)
    b.jump_if(R0, "==", 0, end)
    b.move(R1, 1 << 40)
    b.jump_if(R0, "s>", R1, begin, bits=32)
    b.place(end)
    b.exit()
    code = b.assemble()
    assert code.size == 5
    first, _, second, _ = code.instructions
    assert (first.offset, second.offset) == (3, -4)
    assert code.labels == {0: ("begin",), 3: ("end",)}


def test_what_cannot_be_reached_is_left_out() -> None:
    b = Builder()
    used, unused = b.label("used"), b.label("unused")
    b.jump(used)
    b.place(unused)
    b.comment("never")
    b.move(R0, 1 << 40)
    b.place(used)
    b.comment("always")
    b.exit()
    code = b.assemble()
    assert code.size == 2
    assert code.instructions[0].offset == 0
    assert code.labels == {1: ("used",)}
    assert code.comments == {1: ("always",)}


def test_mistakes_are_told() -> None:
    b = Builder()
    b.jump(b.label("nowhere"))
    with pytest.raises(ValueError, match="nowhere has no place"):
        b.assemble()
    b = Builder()
    b.move(R0, 0)
    with pytest.raises(ValueError, match=r"exit\(\) is missing"):
        b.assemble()
    with pytest.raises(ValueError, match="does not fit"):
        b.alu(R0, "+", 1 << 31)
    with pytest.raises(ValueError, match="16 bit"):
        b.load(R0, 8, R10, 1 << 15)
    label = b.label("twice")
    b.place(label)
    with pytest.raises(ValueError, match="has a place already"):
        b.place(label)
    b = Builder()
    b.load_map(R1, "numbers")
    b.call_kernel("bpf_some_function")
    b.exit()
    code = b.assemble()
    assert code.maps == ("numbers",)
    assert code.functions == ("bpf_some_function",)
    with pytest.raises(ValueError, match="'numbers', which is not given"):
        code.encode({})
    with pytest.raises(ValueError, match="bpf_some_function: give its number"):
        code.encode({"numbers": 3})


def test_the_stack_is_lent_and_bounded() -> None:
    b = Builder()
    assert b.allocate(4) == -8
    with b.slot(16) as first:
        assert first == -24
        with b.slot() as second:
            assert second == -32
    with b.slot() as again:
        assert again == -16
    with b.scope():
        assert b.allocate(496) == -504
        assert b.allocate(8) == -512
        with pytest.raises(ValueError, match="512 bytes of stack"):
            b.allocate(1)
    assert b.allocate(8) == -16


instructions = (
    st.tuples(
        st.sampled_from([0x07, 0x0F, 0x61, 0x7B, 0x85, 0x95, 0x1D, 0x05]),
        st.integers(0, 10),
        st.integers(0, 10),
        st.integers(-(1 << 15), (1 << 15) - 1),
        st.integers(-(1 << 31), (1 << 31) - 1),
    )
    | st.tuples(
        st.just(0x18),
        st.integers(0, 10),
        st.just(0),
        st.just(0),
        st.integers(0, (1 << 64) - 1),
    )
).map(lambda words: Instruction(*words))


@given(st.lists(instructions))
def test_bytes_are_decoded_as_they_were_encoded(code: list[Instruction]) -> None:
    assert decode(b"".join(one.encode() for one in code)) == code


@given(st.binary(min_size=8, max_size=8))
def test_any_bytes_can_be_shown(data: bytes) -> None:
    if data[0] != 0x18:
        assert disassemble(data).startswith("   0: (")


# --- the kernel's own log --------------------------------------------------------------


def log_of(code: bytes, type: ProgramType, attach_type: AttachType) -> dict[int, str]:
    """What the verifier writes for each instruction, by its number."""
    log = ctypes.create_string_buffer(1 << 22)
    license = ctypes.create_string_buffer(b"GPL")
    holder = ctypes.create_string_buffer(code, len(code))
    every_step = 2
    attributes = struct.pack(
        "<IIQQIIQII16sIIIIQIIQII",
        *(type, len(code) // 8, ctypes.addressof(holder), ctypes.addressof(license)),
        *(every_step, len(log), ctypes.addressof(log), 0, 0, b"log", 0, attach_type),
        *(0, 0, 0, 0, 0, 0, 0, 0),
    )
    os.close(bpf.bpf(Command.PROG_LOAD, attributes))
    lines = re.findall(r"^(?:from .*: )?(\d+): (\([0-9a-f]{2}\) [^;\n]*)", log.value.decode(), re.M)
    return {int(number): line.strip() for number, line in lines}


def ours(code: Code) -> dict[int, str]:
    """The same of our disassembly, jumps written as the kernel writes them."""
    found = {}
    for line in disassemble(code).splitlines():
        match = re.fullmatch(r" *(\d+): (\([0-9a-f]{2}\) .*)", line)
        if match:
            found[int(match[1])] = re.sub(r"goto ([+-]\d+)(?: <\w+>)?", r"goto pc\1", match[2])
    return found


def same(one: str, other: str) -> bool:
    """Whether two lines say the same: the kernel writes maps and functions by its own numbers."""
    for name in (r"(r\d = )(?:map\[|0x).*", r"(call bpf_session_\w+)#.*"):
        one, other = (re.sub(rf"^(\(..\) {name})$", r"\2", line) for line in (one, other))
    return one == other


@pytest.mark.needs("ebpf")
@pytest.mark.parametrize("kind", ["session", "begin", "return", "entry", "counter", "dispatcher"])
def test_every_instruction_reads_as_in_the_kernels_log(kind: str) -> None:
    probe = Probe(
        "x",
        "f",
        {"size_bytes": arg(1, "i32") // 3, "name": string(arg(0), 16)},
        {"address": deref(arg(0), "u16", offset=4) << 2, "status": retval()},
        when=(retval() > -5) | ~(duration() < 10) & (arg(2, "u8") != 1 << 40),
        sample=1 / 10,
    )
    moment = Probe("x", "f", {"a": arg(0, "i8") % arg(1), "b": arg(1) ^ -1}, tid=5)
    with Kernel(None, {0: probe}, targets=True) as kernel:
        context = kernel.context(0)
        attach_type = AttachType.UPROBE_MULTI
        if kind == "session":
            code, attach_type = calls.call_session(context, probe), AttachType.UPROBE_SESSION
        elif kind == "dispatcher":
            code = dispatching.dispatcher()
        elif kind == "entry":
            context = ProgramContext(index=0, layout=Layout({0: moment}), ring_bytes=1 << 20)
            code = moments.entry(context, moment)
        elif kind == "counter":
            context = ProgramContext(index=0, namespace=(4, 5 << 40))
            code = moments.entry(context, Counter("calls_total", Probe("x", "f")))
        else:
            code = calls.call_pair(context, probe)[kind == "return"]
        encoded = code.encode({name: map.fd for name, map in kernel.maps.items()}, function_id)
        known = log_of(encoded, ProgramType.KPROBE, attach_type)
    lines = ours(code)
    assert len(lines) > 10
    # The verifier looks at all that it cannot rule out.
    assert len(known) > 0.9 * len(lines)
    different = {n: (line, lines[n]) for n, line in known.items() if not same(line, lines[n])}
    assert not different


@pytest.mark.needs("ebpf")
def test_operations_and_conditions_read_as_in_the_kernels_log() -> None:
    b = Builder()
    end = b.label("end")
    with b.slot() as at:
        b.move(R0, 5)
        b.move(R1, 6)
        b.store(8, R10, at, 0)
        b.store(4, R10, at, R1)
        for operation in OPERATIONS:
            for bits in (64, 32):
                b.alu(R0, operation, R1, bits)
                b.alu(R0, operation, 3, bits)
        b.negate(R0)
        b.truncate(R0)
        for size in (1, 2, 4, 8):
            b.load(Register.R3, size, R10, at)
            b.store(size, R10, at, -1)
        b.load(R1, 8, R10, at)
        b.atomic_add(R10, at, R1)
        b.atomic_add(R10, at, R1, size=4)
        b.atomic_add(R10, at, R1, fetch=True)
        b.atomic_add(R10, at, R1, size=4, fetch=True)
    for condition in CONDITIONS:
        for bits in (64, 32):
            b.call(helpers.TIME_NS)  # of which nothing is known
            b.move(R6, R0)
            b.call(helpers.TIME_NS)
            b.jump_if(R0, condition, R6, end, bits)
            b.jump_if(R0, condition, 1234, end, bits)
    b.place(end)
    b.move(R0, 0)
    b.exit()
    code = b.assemble()
    known = log_of(code.encode({}), ProgramType.KPROBE, AttachType.NONE)
    lines = ours(code)
    assert {n: line for n, line in known.items() if line != lines[n]} == {}
    assert len(known) > 0.9 * len(lines)


def test_a_program_is_shown_with_its_reasons() -> None:
    probe = Probe("x", "f", {"size_bytes": arg(1)}, {"address": deref(arg(0))}, when=arg(1) > 10)
    context = ProgramContext(index=3, layout=Layout({3: probe}), ring_bytes=1 << 20)
    shown = disassemble(calls.call_session(context, probe))
    for line in (
        "      ; only if (arg(1) > 10)",
        "      ; address = deref(arg(0))",
        "      ; the thread's span, frame and labels",
        "filtered:",
        "lost:",
    ):
        assert line in shown.splitlines()
    assert re.search(r"\(b5\) if r0 <= 0xa goto \+\d+ <filtered>", shown)
    assert re.search(r"\(79\) r1 = \*\(u64 \*\)\(r6 \+112\)", shown)
    assert "call bpf_ringbuf_reserve#131" in shown
    assert "r1 = map[ring]" in shown
    # What the kernel gives back has no names.
    bare = disassemble(
        calls.call_session(context, probe).encode(
            dict.fromkeys(("ring", "counts", "slots", "stash"), 3), lambda _: 7
        )
    )
    assert len(bare.splitlines()) < len(shown.splitlines())
    assert "r1 = map[fd:3]" in bare
    assert "call kernel-function#7" in bare
    assert text(Instruction(0xFF)) == "BUG_ff"
