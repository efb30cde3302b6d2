"""Records: where each field is, and the columns that they become."""

from __future__ import annotations

import ipaddress
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidlab.capture.ebpf import (
    Expression,
    Probe,
    Tracepoint,
    arg,
    choice,
    deref,
    duration,
    field,
    retval,
    string,
)
from vidlab.capture.ebpf.declaring import layout as layouts
from vidlab.capture.ebpf.declaring.layout import Layout, Source
from vidlab.capture.ebpf.declaring.record import HEADER
from vidlab.capture.ebpf.declaring.values import SIZES
from vidlab.capture.ebpf.declaring.written import Attached, Written
from vidlab.errors import InputError

OWN_FIRST = sum(np.dtype(kind).itemsize for _, kind in HEADER)


class Texts:
    """Numbers of texts, as a run gives them."""

    def __init__(self) -> None:
        self.known: list[str] = []

    def number(self, text: str) -> int:
        if text not in self.known:
            self.known.append(text)
        return 1 + self.known.index(text)

    def of(self, numbers: npt.NDArray[np.uint32]) -> list[str | None]:
        assert numbers.dtype == np.uint32
        return [self.known[number - 1] if number else None for number in numbers]


def probe(symbol: str, exit: dict[str, Any] | None = None, **entry: Any) -> Probe:
    return Probe("libx.so", symbol, entry=entry, exit=exit, name="x")


def made(*sources: Source) -> Layout:
    return Layout(dict(enumerate(sources)))


def records(layout: Layout, *rows: dict[str, Any]) -> npt.NDArray[np.void]:
    """Records with these values, and rubbish wherever nothing is told."""
    rubbish = np.frombuffer(
        np.random.default_rng(1).bytes(layout.dtype.itemsize * len(rows)), layout.dtype
    ).copy()
    for record, row in zip(rubbish, rows, strict=True):
        for name, value in row.items():
            record[name] = value
    return rubbish


def columns(layout: Layout, *rows: dict[str, Any]) -> dict[str, list[Any]]:
    texts = Texts()
    told = layout.columns(records(layout, *rows), texts.number)
    kinds = {column.name: column.type for column in layout.table.columns}
    plain = {}
    for name, column in told.items():
        if pa.types.is_dictionary(kinds.get(name, pa.int64())):
            assert isinstance(column, np.ndarray)
            plain[name] = texts.of(column)
        elif isinstance(column, pa.Array):
            assert column.type == kinds[name]
            plain[name] = column.to_pylist()
        else:
            assert column.flags.c_contiguous
            plain[name] = column.tolist()
    assert {len(column) for column in plain.values()} == {len(rows)}
    return plain


# --- the record -----------------------------------------------------------------------


def test_the_header_is_as_programs_write_it() -> None:
    layout = made(probe("f"))
    assert [(name, layout.offset(name)) for name, _ in HEADER] == [
        ("t_ns", 0),
        ("tid", 8),
        ("pid", 12),
        ("span", 16),
        ("frame", 24),
        ("labels", 32),
        ("cpu", 36),
        ("probe", 38),
    ]
    assert (layout.dtype.itemsize, layout.stride) == (40, 48)
    assert not layout.returns


def test_a_call_has_its_duration_and_fields_by_size() -> None:
    layout = made(
        probe(
            "f", {"status": retval(), "at": deref(arg(0))}, flag=arg(3, "u8"), text=string(arg(1))
        )
    )
    assert layout.returns
    assert layout.offset("duration_ns") == OWN_FIRST
    assert layout.offset("at") % 8 == layout.offset("text") % 8 == 0
    assert layout.offset("status") % 4 == 0
    assert layout.offset("flag") > layout.offset("status")
    assert layout.stored("status") == "i32"
    assert layout.stored("text") == "s64"
    assert layout.stored("nothing") is None
    assert layout.dtype.itemsize == 40 + 8 + 64 + 8 + 4 + 1 + 3


def test_what_is_the_same_for_all_hits_takes_no_room() -> None:
    layout = made(probe("f", op="alloc", one=1))
    assert layout.dtype.itemsize == OWN_FIRST
    assert layout.stored("op") is layout.stored("one") is None


fields = st.dictionaries(
    st.text("abcdefgh", min_size=1, max_size=3),
    st.one_of(
        st.sampled_from(sorted(SIZES)).map(lambda kind: arg(0, kind)),
        st.sampled_from([8, 24, 64]).map(lambda size: string(arg(0), size)),
        st.sampled_from(["text", 5, -5]),
    ),
    max_size=12,
)


@given(fields, st.booleans())
def test_fields_are_aligned_and_do_not_overlap(entry: dict[str, Any], returns: bool) -> None:
    layout = made(Probe("l", "f", entry=entry, exit={} if returns else None))
    assert layout.dtype.itemsize % 8 == 0
    assert layout.stride == layout.dtype.itemsize + 8
    taken = bytearray(layout.dtype.itemsize)
    taken[:OWN_FIRST] = b"x" * OWN_FIRST
    if returns:
        taken[OWN_FIRST : OWN_FIRST + 8] = b"x" * 8
    for name, value in entry.items():
        if not isinstance(value, Expression):
            continue
        kind = value.dtype
        size = SIZES.get(kind) or int(kind[1:])
        at = layout.offset(name)
        assert at % min(size, 8) == 0
        assert not any(taken[at : at + size])
        taken[at : at + size] = b"x" * size
    assert taken.count(0) < 8


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        ("u8", "u8", "u8"),
        ("u8", "u32", "u32"),
        ("u64", "u16", "u64"),
        ("u8", "i8", "i16"),
        ("i32", "u16", "i64"),
        ("u32", "i32", "i64"),
        ("u32", "i64", "i64"),
        ("u64", "i32", "i64"),
        ("i16", "i64", "i64"),
    ],
)
def test_of_two_types_one_that_holds_both(one: str, other: str, both: str) -> None:
    first, second = probe("f", a=arg(0, one)), probe("g", a=arg(0, other))
    assert made(first, second).stored("a") == made(second, first).stored("a") == both


def test_a_record_that_is_too_large_says_so() -> None:
    large = {f"text_{i}": string(arg(0), 256) for i in range(4)}
    with pytest.raises(InputError, match="would take 1064 bytes, and may 1024"):
        made(probe("f", **large))


@pytest.mark.parametrize(
    ("one", "other", "words"),
    [
        (arg(0), "text", "a text for one probe, a number for another"),
        ("text", 5, "a text for one probe, a number for another"),
        (arg(0), choice(arg(0), {1: "a"}), "a text for one probe, a number for another"),
        (5, choice(arg(0), {1: "a"}), "a text for one probe, a number for another"),
        (arg(0), string(arg(0)), "a text for one probe, a number for another"),
        (string(arg(0), 8), string(arg(0), 16), "is s8 for one probe, s16 for another"),
        (choice(arg(0), {}), string(arg(0)), "is u64 for one probe, s64 for another"),
        (
            choice(arg(0), {1: "a", 2: "b"}),
            choice(arg(1), {2: "c"}),
            "2 stands for 'b' in a of kernel_x for one probe, for 'c' for another",
        ),
        (-1, (1 << 64) - 1, "cannot hold 18446744073709551615 and be negative"),
        (arg(0, "i32"), 1 << 63, "cannot hold 9223372036854775808 and be negative"),
    ],
)
def test_probes_that_disagree_about_a_column(one: Any, other: Any, words: str) -> None:
    with pytest.raises(InputError) as refused:
        made(probe("f", a=one), probe("g", a=other))
    assert words in str(refused.value)
    with pytest.raises(InputError, match=r"a of kernel_x|in a of"):
        made(probe("f", a=other), probe("g", a=one))


# --- columns --------------------------------------------------------------------------


def test_one_probes_records() -> None:
    layout = made(probe("f", {"status": retval()}, size_bytes=arg(1)))
    told = columns(
        layout,
        {
            "t_ns": 5,
            "tid": 6,
            "pid": 7,
            "span": 8,
            "frame": 9,
            "labels": 10,
            "cpu": 11,
            "probe": 0,
            "duration_ns": 12,
            "status": -2,
            "size_bytes": (1 << 64) - 1,
        },
    )
    assert told == {
        "t_ns": [5],
        "tid": [6],
        "pid": [7],
        "span": [8],
        "frame": [9],
        "labels": [10],
        "cpu": [11],
        "symbol": ["f"],
        "duration_ns": [12],
        "status": [-2],
        "size_bytes": [(1 << 64) - 1],
    }


def test_no_records() -> None:
    layout = made(
        probe("f", text=string(arg(0)), op=choice(arg(1), {1: "a"}), one=1, a="b"),
        probe("g", {}, other=arg(2)),
    )
    assert set(map(tuple, columns(layout).values())) == {()}


def test_a_column_that_a_probe_lacks_is_null_in_its_rows() -> None:
    layout = Layout(
        {
            3: probe("alloc", {"address": deref(arg(0))}, op="alloc", size_bytes=arg(1)),
            5: probe("free", op="free", address=arg(0), level=2),
            9: probe("fill", text=string(arg(0), 8), kind=choice(arg(1), {0: "zero"})),
        }
    )
    rows = [
        {"probe": 5, "address": 1},
        {"probe": 3, "address": 2, "size_bytes": 3, "duration_ns": 4},
        {"probe": 9, "text": b"hello", "kind": 0},
    ]
    told = columns(layout, *rows)
    assert told["symbol"] == ["free", "alloc", "fill"]
    assert told["op"] == ["free", "alloc", None]
    assert told["address"] == [1, 2, None]
    assert told["size_bytes"] == [None, 3, None]
    assert told["duration_ns"] == [None, 4, None]
    assert told["level"] == [2, None, None]
    assert told["text"] == [None, None, "hello"]
    assert told["kind"] == [None, None, "zero"]  # not what is by chance where others have nothing


def test_a_constant_beside_values_that_are_stored() -> None:
    layout = made(
        probe("f", a=arg(0, "u16"), d=choice(arg(1), {0: "up", 1: "down"}), n=arg(2, "i32")),
        probe("g", a=70000, d="sideways", n=-(1 << 40)),
        probe("h", a=0),
    )
    told = columns(
        layout,
        {"probe": 0, "a": 5, "d": 1, "n": -7},
        {"probe": 1, "a": 6, "d": 0, "n": 9},
        {"probe": 2, "a": 7, "d": 0, "n": 9},
        {"probe": 0, "a": 0, "d": 2, "n": 0},
    )
    assert told["a"] == [5, 70000, 0, 0]
    assert told["d"] == ["down", "sideways", None, None]
    assert told["n"] == [-7, -(1 << 40), None, 0]


def test_constants_alone_and_their_signs() -> None:
    layout = made(probe("f", up=1, down=-1, op="x"), probe("g", up=(1 << 64) - 1, down=2))
    told = columns(layout, {"probe": 1}, {"probe": 0})
    assert told["up"] == [(1 << 64) - 1, 1]
    assert told["down"] == [2, -1]
    assert told["op"] == [None, "x"]


def test_one_probe_with_constants_only() -> None:
    told = columns(made(probe("f", op="x", one=1)), {"probe": 0}, {"probe": 0})
    assert (told["op"], told["one"], told["symbol"]) == (["x"] * 2, [1] * 2, ["f"] * 2)


def test_numbers_that_stand_for_texts() -> None:
    layout = made(probe("f", {"s": choice(retval(), {-1: "failed", 0: "done", 1 << 40: "never"})}))
    told = columns(layout, *({"probe": 0, "s": code} for code in (0, -1, 5, 0)))
    assert told["s"] == ["done", "failed", None, "done"]


def test_a_text_that_no_row_has_is_not_made_known() -> None:
    texts = Texts()
    layout = made(probe("f", op=choice(arg(0), {1: "read", 2: "write"})))
    layout.columns(records(layout, {"probe": 0, "op": 2}), texts.number)
    assert texts.known == ["f", "write"]


def test_strings_end_at_their_end() -> None:
    layout = made(probe("f", text=string(arg(0), 16)))
    told = columns(
        layout,
        *(
            {"probe": 0, "text": text}
            for text in (b"", b"plain", b"sixteen bytes 16", b"cut\0rest", "mü".encode(), b"\xff!")
        ),
    )
    assert told["text"] == [None, "plain", "sixteen bytes 16", "cut", "mü", "\ufffd!"]


@given(st.lists(st.binary(max_size=24), max_size=20))
def test_any_bytes_are_some_text(values: list[bytes]) -> None:
    layout = made(probe("f", text=string(arg(0), 24)), probe("g", a=arg(0)))
    told = columns(layout, *({"probe": 0, "text": value} for value in values))
    for text, value in zip(told["text"], values, strict=True):
        if not value.rstrip(b"\0"):
            assert text is None
        else:
            assert text == value.split(b"\0", 1)[0].decode("utf-8", "replace")


def test_after_too_many_texts_the_rest_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layouts, "MOST_TEXTS", 3)
    layout = made(probe("f", text=string(arg(0), 8)))
    first = [b"one", b"two", b"one"]
    told = columns(layout, *({"probe": 0, "text": text} for text in first))
    assert told["text"] == ["one", "two", "one"]
    later = [b"two", b"three", b"one"]
    told = columns(layout, *({"probe": 0, "text": text} for text in later))
    assert told["text"] == ["two", "three", "one"]
    later = [b"two", b"four", b"three", b"five"]
    told = columns(layout, *({"probe": 0, "text": text} for text in later))
    assert told["text"] == ["two", layouts.TOO_MANY, "three", layouts.TOO_MANY]


def test_columns_come_from_arrays_as_well_as_from_records() -> None:
    layout = made(probe("f", a=arg(0), op="x"), probe("g", {}, text=string(arg(1), 8)))
    rows = records(
        layout, {"probe": 0, "a": 1, "text": b""}, {"probe": 1, "duration_ns": 5, "text": b"t"}
    )

    class Arrays(dict[str, Any]):
        def __len__(self) -> int:
            return len(rows)

    names = layout.dtype.names or ()
    one, other = Texts(), Texts()
    from_records = layout.columns(rows, one.number)
    arrays = Arrays({name: np.ascontiguousarray(rows[name]) for name in names})
    from_arrays = layout.columns(arrays, other.number)  # type: ignore[arg-type]
    assert from_records.keys() == from_arrays.keys()
    for name, column in from_records.items():
        assert pa.array(column).equals(pa.array(from_arrays[name]))


def test_records_may_lie_apart() -> None:
    layout = made(probe("f", a=arg(0, "u32")))
    apart = records(layout, *({"probe": 0, "a": i} for i in range(10)))[::3]
    told = layout.columns(apart, Texts().number)
    assert np.asarray(told["a"]).tolist() == [0, 3, 6, 9]


# --- the table ------------------------------------------------------------------------


def test_the_table_tells_types_units_and_meaning() -> None:
    layout = made(
        probe(
            "f",
            {"status": retval(), "wait_us": duration() // 1000},
            size_bytes=arg(1, "u32"),
            op="alloc",
            d=choice(arg(2), {1: "up"}),
        )
    )
    table = layout.table
    known = {column.name: column for column in table.columns}
    assert table.name == "kernel_x"
    assert "f" in table.meaning
    assert known["size_bytes"].type == pa.uint32()
    assert known["size_bytes"].unit == "bytes"
    assert known["wait_us"].unit == "µs"
    assert known["duration_ns"].unit == "ns"
    assert known["status"].type == pa.int32()
    assert known["status"].meaning == "retval()"
    assert known["op"].meaning == "always alloc"
    for name in ("op", "d", "symbol"):
        assert pa.types.is_dictionary(known[name].type)
    assert {"t_ns", "pid", "tid", "cpu", "span", "frame", "labels"} <= known.keys()


@pytest.mark.parametrize("kind", sorted(SIZES))
def test_a_stored_type_is_the_columns(kind: str) -> None:
    layout = made(probe("f", a=arg(0, kind)))
    (column,) = [column for column in layout.table.columns if column.name == "a"]
    assert column.type == pa.from_numpy_dtype(np.dtype(f"{kind[0]}{SIZES[kind]}"))
    assert pa.array(layout.columns(records(layout, {"probe": 0}), len)["a"]).type == column.type


# --- replacing ------------------------------------------------------------------------


def test_what_can_stand_for_a_probe() -> None:
    old = probe("f", {"status": retval()}, size_bytes=arg(1), op="alloc")
    layout = made(old, probe("g", other=arg(0)))
    assert layout.takes(0, old)
    assert layout.takes(0, probe("f", {"status": retval()}, size_bytes=arg(2) + 1, op="alloc"))
    assert not layout.takes(0, probe("f", {"status": retval()}, size_bytes=arg(1), op="free"))
    assert not layout.takes(0, probe("f", {"status": retval()}, size_bytes=arg(1)))
    assert not layout.takes(0, probe("f", {}, size_bytes=arg(1), op="alloc", status=arg(1)))
    assert not layout.takes(
        0, probe("f", {"status": retval()}, size_bytes=arg(1), op="alloc", more=arg(0))
    )


# --- sets that are written by hand ----------------------------------------------------


def never(context: object) -> Any:
    raise AssertionError("it is not loaded here")


def written(**options: Any) -> Written:
    shape: dict[str, Any] = {
        "fields": {
            "state": "u32",
            "address": "ip",
            "comm": "s16",
            "waker_tid": "u32",
            "port": "u16",
        },
        "texts": {"state": {0: "new", 1: "gone"}},
        "zero_is_null": frozenset({"waker_tid"}),
        "returns": True,
        **options,
    }
    attached = (Attached("a", "b", never), Attached("a", "c", never, optional=True))
    return Written("test", "test", "something that was seen", attached=attached, **shape)


def test_a_written_sets_records() -> None:
    layout = Layout(dict.fromkeys((4, 5), written()))
    assert layout.table.name == "kernel_test"
    assert layout.table.meaning == "something that was seen"
    assert layout.offset("address") % 8 == 0
    four = ipaddress.ip_address("::ffff:10.1.2.3").packed
    six = ipaddress.ip_address("2001:db8::7").packed
    told = columns(
        layout,
        {"probe": 4, "state": 1, "address": four, "comm": b"python", "waker_tid": 7, "port": 80},
        {"probe": 5, "state": 9, "address": six, "comm": b"", "waker_tid": 0, "port": 0},
        {"probe": 5, "state": 0, "address": bytes(16), "comm": b"x", "waker_tid": 1, "port": 1},
    )
    assert told["state"] == ["gone", None, "new"]
    assert told["address"] == ["10.1.2.3", "2001:db8::7", None]
    assert told["comm"] == ["python", None, "x"]
    assert told["waker_tid"] == [7, None, 1]
    assert told["port"] == [80, 0, 1]


def test_a_written_set_beside_a_declaration() -> None:
    event = Tracepoint("a", "d", {"other": field("x")}, name="test")
    layout = Layout({0: written(), 1: event})
    told = columns(
        layout,
        {"probe": 0, "state": 1, "address": bytes(16), "comm": b"", "waker_tid": 7, "port": 8},
        {"probe": 1, "state": 1, "waker_tid": 7, "other": 5},
    )
    assert told["waker_tid"] == [7, None]  # what is there in the other's record is nothing
    assert told["state"] == ["gone", None]
    assert told["port"] == [8, None]
    assert told["other"] == [None, 5]


def test_of_a_table_of_many_probes_only_those_that_were_hit_are_named() -> None:
    texts = Texts()
    layout = made(*(probe(f"f{i}", op=f"op {i}") for i in range(50)))
    layout.columns(records(layout, {"probe": 30}, {"probe": 7}, {"probe": 30}), texts.number)
    assert sorted(texts.known) == ["f30", "f7", "op 30", "op 7"]
