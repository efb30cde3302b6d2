"""Expressions as a user writes them: their types, their JSON, and what is refused in words."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidlab.capture.ebpf.declaring.expressions import (
    arg,
    choice,
    const,
    cpu,
    deref,
    duration,
    field,
    from_json,
    pid,
    retval,
    string,
    tid,
)
from vidlab.capture.ebpf.declaring.operations import (
    BY_NAME,
    Arithmetic,
    Expression,
    condition,
    depth,
)
from vidlab.capture.ebpf.declaring.values import SIZES
from vidlab.errors import InputError, VidlabError

TYPES = sorted(SIZES)

leaves = st.one_of(
    st.builds(arg, st.integers(0, 15), st.sampled_from(TYPES)),
    st.builds(retval, st.sampled_from(TYPES)),
    st.builds(const, st.integers(-(1 << 63), (1 << 64) - 1)),
    st.just(duration()),
    st.sampled_from([pid(), tid(), cpu()]),
    st.builds(field, st.sampled_from(["prev_pid", "next_comm"])),
)
SIGNS = ["+", "-", "*", "//", "%", "&", "|", "^", "<<", ">>"]
numbers = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.builds(Arithmetic, st.sampled_from(SIGNS), inner, inner),
        st.builds(deref, inner, st.sampled_from(TYPES), st.integers(-(1 << 31), (1 << 31) - 1)),
    ),
    max_leaves=8,
)
comparisons = st.builds(
    lambda sign, left, right: {
        "==": lambda: left == right,
        "!=": lambda: left != right,
        "<": lambda: left < right,
        "<=": lambda: left <= right,
        ">": lambda: left > right,
        ">=": lambda: left >= right,
    }[sign](),
    st.sampled_from(["==", "!=", "<", "<=", ">", ">="]),
    numbers,
    numbers,
)
conditions = st.recursive(
    comparisons,
    lambda inner: st.one_of(
        st.builds(lambda a, b: a & b, inner, inner),
        st.builds(lambda a, b: a | b, inner, inner),
        inner.map(lambda a: ~a),
    ),
    max_leaves=5,
)
texts = st.one_of(
    st.builds(string, numbers, st.sampled_from([8, 64, 256])),
    st.builds(choice, numbers, st.dictionaries(st.integers(-9, 1 << 40), st.text(), max_size=4)),
)
expressions = st.one_of(numbers, conditions, texts)


@given(expressions)
def test_json_is_the_same_expression(expression: Expression) -> None:
    told = json.loads(json.dumps(expression.to_json()))
    again = from_json(told)
    assert again.to_json() == told
    assert repr(again) == repr(expression)
    assert (again.dtype, again.signed, again.most) == (
        expression.dtype,
        expression.signed,
        expression.most,
    )
    assert depth(again) == depth(expression) >= 1


#: Anything that JSON can say, with the words of expressions among its texts.
anything = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(allow_nan=False),
        st.text(max_size=8),
        st.sampled_from([*BY_NAME, *TYPES, *SIGNS, "==", "and", "pid"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(anything)
def test_other_json_is_refused_in_words(values: Any) -> None:
    with contextlib.suppress(InputError):
        expression = from_json(values)
        assert json.loads(json.dumps(expression.to_json())) == expression.to_json()


@given(expressions, st.data())
def test_damaged_json_is_refused_or_another_expression(
    expression: Expression, data: st.DataObject
) -> None:
    values = expression.to_json()
    place: Any = values
    while True:
        at = data.draw(st.integers(0, len(place) - 1))
        if isinstance(place[at], list) and place[at] and data.draw(st.booleans()):
            place = place[at]
            continue
        place[at] = data.draw(anything)
        break
    with contextlib.suppress(InputError):
        assert from_json(values).to_json() == values


def test_json_that_is_nested_without_end_is_refused() -> None:
    values: Any = ["arg", 0, "u64"]
    for _ in range(3000):
        values = ["deref", values, "u64", 0]
    with pytest.raises(InputError, match="nested too deeply"):
        from_json(values)


# --- types ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "dtype"),
    [
        (arg(0), "u64"),
        (arg(0, "i16"), "i16"),
        (retval(), "i32"),
        (retval("u64"), "u64"),
        (deref(arg(0), "u8", 5), "u8"),
        (duration(), "i64"),
        (tid(), "u32"),
        (field("prev_state"), "i64"),
        (string(arg(0), 32), "s32"),
        (arg(0) > 1, "u8"),
        ((arg(0) > 1) & ~(arg(1) == 2), "u8"),
        (arg(0) + 1, "u64"),
        (arg(0, "i32") + 1, "i64"),
        (arg(0) - 1, "u64"),
        (-arg(0), "u64"),
        (arg(0) - const(-1), "i64"),
        (choice(retval(), {0: "well"}), "i32"),
        # What cannot be large takes little room.
        (arg(0) & 0xFF, "u8"),
        (arg(0) & 0x100, "u16"),
        (arg(0) >> 32, "u32"),
        (arg(0) >> 31, "u64"),
        (arg(0) >> 60, "u8"),
        (arg(0) >> arg(1), "u64"),
        (arg(0, "u32") >> arg(1), "u32"),
        (arg(0) % 1000, "u16"),
        (arg(0) // (1 << 40), "u32"),
        (arg(0, "u32") + arg(1, "u32"), "u64"),
        (arg(0, "u16") + arg(1, "u16"), "u32"),
        (arg(0, "u32") * 4, "u64"),
        (arg(0, "u8") * arg(1, "u8"), "u16"),
        ((arg(0, "u8") << 4) | arg(1, "u8"), "u16"),
        (arg(0, "u8") << arg(1), "u64"),
        (arg(0, "u8") << 60, "u64"),
        (arg(0, "u8") % arg(1), "u8"),
        (arg(0, "u8") // 0, "u8"),
        (arg(0, "u8") ^ 0x1FF, "u16"),
        (arg(0, "u8") - arg(1, "u8"), "u64"),
        (arg(0, "i64") >> 60, "i64"),
    ],
    ids=repr,
)
def test_the_type_of_a_column(expression: Expression, dtype: str) -> None:
    assert expression.dtype == dtype


def wrapped(value: int) -> int:
    return value & ((1 << 64) - 1)


def calculated(expression: Expression, known: dict[int, int]) -> int:
    """What the kernel calculates of unsigned arguments and constants."""
    if not isinstance(expression, Arithmetic):
        kept = getattr(expression, "value", None)
        if kept is not None:
            return int(kept)
        bits = 8 * SIZES[expression.dtype]
        return known[expression.index] & ((1 << bits) - 1)  # type: ignore[attr-defined]
    left, right = calculated(expression.left, known), calculated(expression.right, known)
    return wrapped(
        {
            "+": lambda: left + right,
            "-": lambda: left - right,
            "*": lambda: left * right,
            "//": lambda: left // right if right else 0,
            "%": lambda: left % right if right else left,
            "&": lambda: left & right,
            "|": lambda: left | right,
            "^": lambda: left ^ right,
            "<<": lambda: left << (right & 63),
            ">>": lambda: left >> (right & 63),
        }[expression.sign]()
    )


unsigned = st.recursive(
    st.one_of(
        st.builds(arg, st.integers(0, 3), st.sampled_from(["u8", "u16", "u32", "u64"])),
        st.builds(const, st.one_of(st.integers(0, 70), st.integers(0, (1 << 64) - 1))),
    ),
    lambda inner: st.builds(Arithmetic, st.sampled_from(SIGNS), inner, inner),
    max_leaves=6,
)


@given(unsigned, st.lists(st.integers(0, (1 << 64) - 1), min_size=4, max_size=4))
def test_a_value_fits_its_type(expression: Expression, values: list[int]) -> None:
    value = calculated(expression, dict(enumerate(values)))
    assert value <= expression.most
    if not hasattr(expression, "value"):  # of a constant, a declaration's own column is made
        assert value < 1 << (8 * SIZES[expression.dtype])


def test_integers_on_either_side() -> None:
    assert repr(1 + arg(0)) == "(1 + arg(0))"
    assert repr(arg(0) * 2) == repr(2 * arg(0)) == "(arg(0) * 2)"
    assert repr(100 - arg(0)) == "(100 - arg(0))"
    assert repr(100 // arg(0)) == "(100 // arg(0))"
    assert repr(100 % arg(0)) == "(100 % arg(0))"
    assert repr(1 << arg(0)) == "(1 << arg(0))"
    assert repr(1 >> arg(0)) == "(1 >> arg(0))"
    assert repr(0xFF & arg(0)) == "(arg(0) & 255)"
    assert repr(1 | arg(0)) == "(arg(0) | 1)"
    assert repr(1 ^ arg(0)) == "(arg(0) ^ 1)"
    assert repr(3 < arg(0)) == "(arg(0) > 3)"  # noqa: SIM300
    assert repr(3 == arg(0)) == "(arg(0) == 3)"  # noqa: SIM300
    assert repr(~arg(0)) == "(arg(0) ^ -1)"
    assert repr(~(arg(0) > 1)) == "~(arg(0) > 1)"
    assert repr((arg(0) > 1) | (arg(1) != 0)) == "((arg(0) > 1) | (arg(1) != 0))"


# --- refusals -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: arg(16), "arguments 0 to 15"),
        (lambda: arg(-1), "arguments 0 to 15"),
        (lambda: arg(True), "arguments 0 to 15"),
        (lambda: arg(0, "f64"), "no type of a value: give one of u8"),
        (lambda: arg(0, "size_t"), "no type of a value"),
        (lambda: retval("void"), "no type of a value"),
        (lambda: deref(arg(0), "char"), "no type of a value"),
        (lambda: deref(0x1000), "give an address"),  # type: ignore[arg-type]
        (lambda: deref(string(arg(0))), "give an address"),
        (lambda: deref(arg(0) > 1), "give an address"),
        (lambda: deref(arg(0), offset=1 << 31), "an offset of 32 bit"),
        (lambda: string(arg(0), 100), "a multiple of 8 from 8 to 256"),
        (lambda: string(arg(0), 264), "a multiple of 8 from 8 to 256"),
        (lambda: string("text"), "give an address"),  # type: ignore[arg-type]
        (lambda: field("not a name"), "name of a tracepoint's field"),
        (lambda: field(1), "name of a tracepoint's field"),  # type: ignore[arg-type]
        (lambda: const(1 << 64), "not an integer of 64 bit"),
        (lambda: const(1.5), "not an integer of 64 bit"),  # type: ignore[arg-type]
        (lambda: arg(0) + "1", "cannot be calculated with"),  # type: ignore[operator]
        (lambda: arg(0) + 1.5, "cannot be calculated with"),  # type: ignore[operator]
        (lambda: arg(0) == None, "cannot be calculated with"),  # noqa: E711
        (lambda: arg(0) / 2, "divide with //"),
        (lambda: 2 / arg(0), "divide with //"),
        (lambda: string(arg(0)) + 1, "is a string"),
        (lambda: string(arg(0)) == 1, "is a string"),
        (lambda: (arg(0) > 1) + 1, "is a condition"),
        (lambda: arg(0) & (arg(1) > 1), "is a condition: & needs numbers"),
        (lambda: (arg(1) > 1) & arg(0), "is not a condition"),
        (lambda: (arg(1) > 1) & 1, "is not a condition"),
        (lambda: (arg(1) > 1) | True, "is not a condition"),
        (lambda: choice(arg(0) > 1, {1: "yes"}), "is a condition"),
        (lambda: choice(arg(0), {"1": "yes"}), "a text for each number"),
        (lambda: choice(arg(0), {1: 2}), "a text for each number"),
        (lambda: condition(arg(0)), "compare it with something"),
        (lambda: bool(arg(0) > 1), "only while the probe runs"),
        (lambda: arg(0) > 1 and arg(1) > 2, "not with and, or"),
        (lambda: 1 < arg(0) < 5, "chained comparisons"),
        (lambda: not arg(0), "only while the probe runs"),
        (lambda: arg(0) in [arg(1)], "only while the probe runs"),
    ],
)
def test_what_cannot_be_says_so(make: Any, words: str) -> None:
    with pytest.raises(VidlabError) as refused:
        make()
    assert words in str(refused.value)


def test_expressions_do_not_change() -> None:
    with pytest.raises(AttributeError):
        arg(0).index = 1  # type: ignore[attr-defined]
    texts = {1: "one"}
    chosen = choice(arg(0), texts)
    texts[2] = "two"
    assert chosen.texts == {1: "one"}  # type: ignore[attr-defined]
