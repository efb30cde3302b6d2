"""Expressions as the kernel calculates them, against the same arithmetic in Python."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import struct
import threading
from collections.abc import Iterator

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vidlab.capture.ebpf.declaring.expressions import (
    arg,
    choice,
    const,
    deref,
    duration,
    field,
    pid,
    retval,
    string,
    tid,
)
from vidlab.capture.ebpf.declaring.operations import (
    Arithmetic,
    Comparison,
    Constant,
    Expression,
    Logic,
    Not,
)
from vidlab.capture.ebpf.declaring.values import SIZES, Argument, Dereference, Return
from vidlab.capture.ebpf.kernel import programs
from vidlab.capture.ebpf.kernel.bpf import MapType, ProgramType
from vidlab.capture.ebpf.kernel.maps import Map
from vidlab.capture.ebpf.program import helpers
from vidlab.capture.ebpf.program.blocks import Blocks
from vidlab.capture.ebpf.program.context import ProgramContext
from vidlab.capture.ebpf.program.counting import BUCKETS, bounds, bucket_of, write_bucket
from vidlab.capture.ebpf.program.encoding import R0, R1, R6, R9, R10, Register
from vidlab.capture.ebpf.program.expressions import Compiler, load_typed
from vidlab.capture.ebpf.program.instructions import Builder
from vidlab.capture.ebpf.program.registers import X86_64, Architecture
from vidlab.capture.ebpf.program.values import EntryValues
from vidlab.errors import InputError

pytestmark = pytest.mark.needs("ebpf")

MASK = (1 << 64) - 1
ARGUMENTS = 6

#: Registers as the arguments of a raw tracepoint: such programs can be run without a hit.
TEST = Architecture("test", tuple(range(0, 8 * ARGUMENTS, 8)), 8 * ARGUMENTS, 0, 0, {})


class _Values(EntryValues):
    """What an entry has, and what a call returned, all from a raw tracepoint's arguments."""

    def result(self, b: Builder, type: str, to: Register) -> None:
        load_typed(b, to, R6, self._machine.result, type)


class Machine:
    """Runs expressions in the kernel, on registers of our choice."""

    def __init__(self, undo: contextlib.ExitStack) -> None:
        self.result = undo.enter_context(Map.create(MapType.ARRAY, 4, 8, 1, name="result"))

    def registers(self, arguments: list[int], returned: int) -> bytes:
        return struct.pack(f"<{ARGUMENTS + 1}Q", *arguments, returned)

    def run(self, write, registers: bytes) -> int:
        """Return R0 as the code that `write` adds leaves it."""
        b = Builder()
        blocks = Blocks(b, ProgramContext(index=0, architecture=TEST))
        blocks.start()
        blocks.identify()
        write(b, Compiler(b, _Values(blocks)))
        b.move(R9, R0)
        blocks.lookup_number("result", 0, blocks.end)
        b.store(8, R0, 0, R9)
        blocks.finish()
        code = b.assemble().encode({"result": self.result.fd})
        with programs.load(code, ProgramType.RAW_TRACEPOINT, name="expression") as program:
            program.test_run(registers)
        value = self.result.lookup(bytes(4))
        assert value is not None
        return int.from_bytes(value, "little")

    def value(self, expression: Expression, arguments: list[int], returned: int = 0) -> int:
        """The value of an expression, 64 bit without a sign."""
        registers = self.registers(arguments, returned)
        return self.run(lambda b, compiler: compiler.value(expression), registers)


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    with contextlib.ExitStack() as undo:
        yield Machine(undo)


# --- the same in Python ----------------------------------------------------------------


def signed64(value: int) -> int:
    value &= MASK
    return value - (1 << 64) if value >> 63 else value


def typed(value: int, type: str) -> int:
    bits = 8 * SIZES[type]
    value &= (1 << bits) - 1
    return value - (1 << bits) if type.startswith("i") and value >> bits - 1 else value


def towards_zero(left: int, right: int) -> int:
    quotient = abs(left) // abs(right)
    return -quotient if (left < 0) != (right < 0) else quotient


def evaluate(expression: Expression, arguments: list[int], returned: int) -> int:
    """The value as Python calculates it: 64 bit without a sign."""

    def value(of: Expression) -> int:
        return evaluate(of, arguments, returned)

    match expression:
        case Constant():
            return expression.value & MASK
        case Argument():
            return typed(arguments[expression.index], expression.type) & MASK
        case Return():
            return typed(returned, expression.type) & MASK
        case Dereference():
            address = value(expression.pointer) + expression.offset
            try:
                start = ADDRESS <= address & MASK <= ADDRESS + len(MEMORY) - 8
                memory = bytes(MEMORY)[address - ADDRESS :] if start else bytes(8)
            except IndexError:
                memory = bytes(8)
            size = SIZES[expression.type]
            return typed(int.from_bytes(memory[:size], "little"), expression.type) & MASK
        case Not():
            return int(not value(expression.condition))
        case Logic():
            left, right = value(expression.left), value(expression.right)
            return (left & right) if expression.word == "and" else (left | right)
        case Comparison():
            left, right = value(expression.left), value(expression.right)
            if expression.left.signed or expression.right.signed:
                left, right = signed64(left), signed64(right)
            return int(
                {
                    "==": left == right,
                    "!=": left != right,
                    "<": left < right,
                    "<=": left <= right,
                    ">": left > right,
                    ">=": left >= right,
                }[expression.sign]
            )
    assert isinstance(expression, Arithmetic)
    left, right = value(expression.left), value(expression.right)
    if expression.sign in ("//", "%", ">>") and expression.signed:
        left = signed64(left)
        right = signed64(right)
    match expression.sign:
        case "+":
            result = left + right
        case "-":
            result = left - right
        case "*":
            result = left * right
        case "&":
            result = left & right
        case "|":
            result = left | right
        case "^":
            result = left ^ right
        case "<<":
            result = left << (right & 63)
        case ">>":
            result = left >> (right & 63)
        case "//":
            result = towards_zero(left, right) if right else 0
        case "%":
            result = left - right * towards_zero(left, right) if right else left
    return result & MASK


#: What pointers in expressions can point to.
MEMORY = (ctypes.c_uint8 * 64)(*(range(97, 161)))
ADDRESS = ctypes.addressof(MEMORY)

EDGES = [0, 1, 2, 7, 63, 64, 127, 128, 255, 256, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32]
EDGES += [(1 << 63) - 1, 1 << 63, MASK, MASK - 1, MASK - (1 << 31), MASK - (1 << 31) + 1]

words = st.one_of(st.sampled_from(EDGES), st.integers(0, MASK))
types = st.sampled_from(sorted(SIZES))
constants = st.one_of(
    st.sampled_from(EDGES), st.integers(-(1 << 63), MASK), st.integers(-100, 100)
).map(Constant)
leaves = st.one_of(
    constants,
    st.builds(Argument, st.integers(0, ARGUMENTS - 1), types),
    st.builds(Return, types),
    st.builds(
        Dereference,
        st.just(Argument(0, "u64")),
        types,
        st.sampled_from([0, 1, 8, 40]),
    ),
)
SIGNS = ["+", "-", "*", "//", "%", "&", "|", "^", "<<", ">>"]
COMPARISONS = ["==", "!=", "<", "<=", ">", ">="]
numbers = st.recursive(
    leaves,
    lambda inner: st.builds(Arithmetic, st.sampled_from(SIGNS), inner, inner),
    max_leaves=12,
)
conditions = st.recursive(
    st.builds(Comparison, st.sampled_from(COMPARISONS), numbers, numbers),
    lambda inner: st.one_of(
        st.builds(Logic, st.sampled_from(["and", "or"]), inner, inner), st.builds(Not, inner)
    ),
    max_leaves=5,
)
MOST_NEGATIVE = Constant(-(1 << 63))


@given(numbers, st.lists(words, min_size=ARGUMENTS, max_size=ARGUMENTS), words)
@example(arg(1, "i64") // const(-1), [0, 1 << 63, 0, 0, 0, 0], 0)
@example(arg(1, "i64") % const(-1), [0, 1 << 63, 0, 0, 0, 0], 0)
@example(arg(1, "i64") // const(0), [0, 5, 0, 0, 0, 0], 0)
@example(arg(1, "u64") % const(0), [0, 5, 0, 0, 0, 0], 0)
@example(arg(1, "i64") % arg(2), [0, MASK - 4, 0, 0, 0, 0], 0)
@example(MOST_NEGATIVE // arg(1), [0, MASK, 0, 0, 0, 0], 0)
@example(arg(1) << const(64), [0, 5, 0, 0, 0, 0], 0)
@example(arg(1) >> const(-1), [0, MASK, 0, 0, 0, 0], 0)
@example(arg(1) >> const(1 << 40), [0, MASK, 0, 0, 0, 0], 0)
@settings(max_examples=400, deadline=None)
def test_numbers(
    machine: Machine, expression: Expression, arguments: list[int], returned: int
) -> None:
    arguments[0] = ADDRESS
    assert machine.value(expression, arguments, returned) == evaluate(
        expression, arguments, returned
    )


@given(conditions, st.lists(words, min_size=ARGUMENTS, max_size=ARGUMENTS), words)
@settings(max_examples=300, deadline=None)
def test_conditions(
    machine: Machine, expression: Expression, arguments: list[int], returned: int
) -> None:
    arguments[0] = ADDRESS
    assert machine.value(expression, arguments, returned) == evaluate(
        expression, arguments, returned
    )


@given(words, st.sampled_from(COMPARISONS), words, st.sampled_from(["u64", "i64"]))
@settings(max_examples=200, deadline=None)
def test_a_comparison_is_signed_if_a_side_is(
    machine: Machine, left: int, sign: str, right: int, type: str
) -> None:
    expression = Comparison(sign, arg(0), arg(1, type))
    arguments = [left, right, 0, 0, 0, 0]
    assert machine.value(expression, arguments) == evaluate(expression, arguments, 0)


def test_a_pointer_to_nowhere_is_zero(machine: Machine) -> None:
    for address in (0, 8, 0xDEAD0000, 1 << 63, MASK):
        assert machine.value(deref(arg(0), "i32"), [address] * 6) == 0
    pointer = ctypes.c_uint64(ADDRESS)
    chain = deref(deref(arg(0)), "u16", offset=3)
    assert machine.value(chain, [ctypes.addressof(pointer)] * 6) == 100 | 101 << 8


@given(st.binary(max_size=80), st.sampled_from([8, 16, 64]), st.sampled_from([0, 8, 64]))
@settings(max_examples=100, deadline=None)
def test_strings_end_and_the_rest_is_zero(
    machine: Machine, text: bytes, size: int, more: int
) -> None:
    source = ctypes.create_string_buffer(text)
    room = size + more
    read = []
    for at in range(0, room, 8):

        def write(b: Builder, compiler: Compiler, at: int = at) -> None:
            with b.slot(room) as place:
                compiler.text(string(arg(0), size), R10, place, room)
                b.load(R0, 8, R10, place + at)

        registers = machine.registers([ctypes.addressof(source)] * 6, 0)
        read.append(machine.run(write, registers).to_bytes(8, "little"))
    expected = text.split(b"\0")[0][: size - 1]
    assert b"".join(read) == expected.ljust(room, b"\0")


@given(words, st.booleans())
@example(0, True)
@example(MASK, True)
@example(MASK, False)
@settings(max_examples=200, deadline=None)
def test_buckets(machine: Machine, value: int, signed: bool) -> None:
    def write(b: Builder, compiler: Compiler) -> None:
        compiler.value(arg(0))
        write_bucket(b, signed)

    expected = bucket_of(signed64(value) if signed else value)
    assert machine.run(write, machine.registers([value] * 6, 0)) == expected


def test_buckets_are_without_gaps() -> None:
    edges = [bounds(bucket) for bucket in range(BUCKETS)]
    assert edges[0][0] == 0
    assert edges[-1][1] == 1 << 64
    for number, ((low, high), (following, _)) in enumerate(itertools.pairwise(edges)):
        assert high == following
        assert bucket_of(low) == bucket_of(high - 1) == number
        assert high - low == 1 or (high - low) * 8 <= low


def test_where_it_happens(machine: Machine) -> None:
    assert machine.value(pid(), [0] * 6) == os.getpid()
    assert machine.value(tid(), [0] * 6) == threading.get_native_id()
    assert machine.value(choice(arg(0, "i8"), {-1: "none"}), [255] * 6) == MASK


def test_the_deepest_expression_fits_the_stack(machine: Machine) -> None:
    expression = arg(1)
    for _ in range(7):
        expression = deref(expression * 0 + arg(0), "u8") * 1 + expression
    assert machine.value(expression, [ADDRESS, 3] + [0] * 4) == 7 * 97 + 3


@pytest.mark.parametrize("expression", [duration(), field("prev_pid")], ids=["duration", "field"])
def test_what_is_not_there_is_refused(machine: Machine, expression: Expression) -> None:
    with pytest.raises(InputError, match="is not known here"):
        machine.value(expression, [0] * 6)


def test_registers_of_x86_64() -> None:
    # From the kernel's arch/x86/include/asm/ptrace.h.
    assert X86_64.arguments == (112, 104, 96, 88, 72, 64)
    assert (X86_64.result, X86_64.stack_pointer) == (80, 152)
    assert X86_64.registers["bx"] == 40
    assert X86_64.registers["ip"] == 128


def test_helpers_have_their_names() -> None:
    numbers = {
        value for name, value in vars(helpers).items() if name.isupper() and isinstance(value, int)
    }
    assert numbers >= helpers.NAMES.keys()
    assert R1 == 1
    assert retval().signed
