"""Declarations: what they come to, their JSON, and what is refused in words."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidlab.capture.ebpf import (
    Counter,
    Expression,
    Histogram,
    Probe,
    Tracepoint,
    Usdt,
    arg,
    choice,
    cpu,
    deref,
    duration,
    field,
    pid,
    retval,
    string,
    tid,
)
from vidlab.capture.ebpf.declaring.metrics import Metric, metric_from_json
from vidlab.capture.ebpf.declaring.probes import Declaration, declaration_from_json
from vidlab.errors import InputError, VidlabError

ALLOC = Probe(
    "libcuda.so.1",
    "cuMemAlloc_v2",
    entry={"size_bytes": arg(1), "level": "driver", "one": 1},
    exit={"address": deref(arg(0)), "status": retval(), "kind": choice(arg(2), {1: "a"})},
    when=(arg(1) >= 4096) & (retval() == 0),
    name="cuda_memory",
    sample=1 / 3,
    tid=77,
    unless="cuMemAlloc_v3",
)
SWITCH = Tracepoint("sched", "sched_switch", fields=["prev_pid", "next_pid"])
GC = Usdt("*", "python", "gc__start", fields={"generation": arg(0, "i32"), "file": string(arg(1))})
SOME: list[Declaration] = [
    ALLOC,
    Probe("/opt/lib/libx.so", "work"),
    Probe("libx.so", "work", exit={}, when=duration() > 1000),
    Probe("libx.so", "mangled.part.0@VERS_1", name="work"),
    SWITCH,
    Tracepoint("sched", "sched_switch", {"left": field("prev_pid") + 1}, everywhere=True),
    Tracepoint("sched", "sched_switch", when=(pid() != 1) & (tid() > 5) & (cpu() == 0)),
    GC,
]


def test_a_probe_tells_what_it_comes_to() -> None:
    assert ALLOC.table == "kernel_cuda_memory"
    assert ALLOC.label == "cuMemAlloc_v2"
    assert list(ALLOC.values) == ["size_bytes", "level", "one", "address", "status", "kind"]
    assert ALLOC.returns
    assert ALLOC.every == 3
    assert not ALLOC.when_at_entry
    assert Probe("l", "f", exit={}, when=arg(0) > 1).when_at_entry
    assert not Probe("l", "f", exit={}, when=duration() > 1).when_at_entry
    assert not Probe("l", "f").when_at_entry
    assert Probe("l", "f", exit={}, when=arg(6) > 1).when_at_entry
    assert not Probe("l", "f").returns
    assert Probe("l", "f").every == 1
    assert SWITCH.table == "kernel_sched_switch"
    assert list(SWITCH.values) == ["prev_pid", "next_pid"]
    assert GC.table == "kernel_gc__start"
    assert GC.label == "gc__start"


@pytest.mark.parametrize("declaration", SOME, ids=lambda known: f"{known.KIND} {known.label}")
def test_json_is_the_same_declaration(declaration: Declaration) -> None:
    told = json.loads(json.dumps(declaration.to_json()))
    again = declaration_from_json(told)
    assert type(again) is type(declaration)
    assert again.to_json() == told == declaration.to_json()
    for name in ("table", "label", "every", "returns", "unless", "tid", "everywhere", "library"):
        assert getattr(again, name, None) == getattr(declaration, name, None)


anything = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=6),
        st.sampled_from(["x", "probe", "usdt", "tracepoint", "t_ns", "u64"]),
        st.just(["arg", 0, "u64"]),
        st.just(["retval", "i32"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.sampled_from(SOME), st.data())
def test_damaged_json_is_refused_in_words(declaration: Declaration, data: st.DataObject) -> None:
    values = dict(declaration.to_json())
    for _ in range(data.draw(st.integers(1, 2))):
        key = data.draw(st.sampled_from([*values, "surprise"]))
        if data.draw(st.booleans()):
            values.pop(key, None)
        else:
            values[key] = data.draw(anything)
    with contextlib.suppress(InputError):
        again = declaration_from_json(values)
        assert declaration_from_json(again.to_json()).to_json() == again.to_json()


@given(anything)
def test_other_json_is_no_declaration(values: Any) -> None:
    with pytest.raises(InputError):
        declaration_from_json(values)
    with pytest.raises(InputError):
        metric_from_json(values)


def nested(levels: int) -> Expression:
    value = arg(0)
    for _ in range(levels - 1):
        value = deref(value)
    return value


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Probe("", "f"), "library is a library's name"),
        (lambda: Probe(7, "f"), "library is a library's name"),  # type: ignore[arg-type]
        (lambda: Probe("a\0b", "f"), "library is a library's name"),
        (lambda: Probe("l", ""), "symbol is the name of a function"),
        (lambda: Probe("l", "two words"), "symbol is the name of a function"),
        (lambda: Probe("l", "f", unless=""), "unless is the name of a function"),
        (lambda: Probe("l", "f", entry=["size"]), "a dict of names and values"),  # type: ignore[arg-type]
        (lambda: Probe("l", "f", entry={"Size": arg(0)}), "no column's name"),
        (lambda: Probe("l", "f", entry={"2nd": arg(0)}), "no column's name"),
        (lambda: Probe("l", "f", entry={"a b": arg(0)}), "no column's name"),
        (lambda: Probe("l", "f", entry={1: arg(0)}), "no column's name"),  # type: ignore[dict-item]
        (lambda: Probe("l", "f", entry={"t_ns": arg(0)}), "has this column of itself"),
        (lambda: Probe("l", "f", entry={"pid": pid()}), "has this column of itself"),
        (lambda: Probe("l", "f", entry={"stream_id": "a"}), "has this column of itself"),
        (lambda: Probe("l", "f", entry={"duration_ns": 1}), "has this column of itself"),
        (lambda: Probe("l", "f", entry={"a": 1.5}), "no expression, number or text"),  # type: ignore[dict-item]
        (lambda: Probe("l", "f", entry={"a": None}), "no expression, number or text"),  # type: ignore[dict-item]
        (lambda: Probe("l", "f", entry={"a": arg}), "no expression, number or text"),  # type: ignore[dict-item]
        (lambda: Probe("l", "f", entry={"a": 1 << 64}), "not an integer of 64 bit"),
        (lambda: Probe("l", "f", entry={"a": retval()}), "put it into exit"),
        (lambda: Probe("l", "f", entry={"a": duration()}), "put it into exit"),
        (lambda: Probe("l", "f", entry={"a": arg(0)}, exit={"a": arg(1)}), "at entry and at exit"),
        (lambda: Probe("l", "f", when=retval() == 0), "put it into exit"),
        (lambda: Probe("l", "f", exit={"a": arg(6)}), "put it into entry"),
        (lambda: Probe("l", "f", exit={"a": deref(arg(7) + 1)}), "put it into entry"),
        (lambda: Probe("l", "f", exit={}, when=(arg(6) > 1) & (retval() == 0)), "into entry"),
        (lambda: Usdt("*", "python", "gc__start", {"a": arg(12)}), "has arg(0) to arg(11)"),
        (lambda: Usdt("*", "python", "gc__start", when=arg(12) > 1), "has arg(0) to arg(11)"),
        (lambda: Probe("l", "f", when=arg(0)), "is not a condition"),
        (lambda: Probe("l", "f", when=True), "is not a condition"),  # type: ignore[arg-type]
        (lambda: Probe("l", "f", entry={"a": field("prev_pid")}), "is of tracepoints"),
        (lambda: Probe("l", "f", entry={"a": nested(9)}), "nested deeper than 8"),
        (lambda: Probe("l", "f", when=nested(8) == 0), "nested deeper than 8"),
        (lambda: Probe("l", "f", when=choice(arg(0), {}) == 0), "a column only"),
        (lambda: Probe("l", "f", entry={f"a{i}": i for i in range(41)}), "40 at most"),
        (lambda: Probe("l", "f", name="two words"), "no table's name"),
        (lambda: Probe("l", "f", name=""), "no table's name"),
        (lambda: Probe("l", "_ZN3fooEv.part.0"), "give name= to the probe on"),
        (lambda: Probe("l", "f" * 64), "give name= to the probe on"),
        (lambda: Probe("l", "f", tid=0), "a thread's number"),
        (lambda: Probe("l", "f", tid="7"), "a thread's number"),  # type: ignore[arg-type]
        (lambda: Probe("l", "f", sample=0), "above 0 and at most 1"),
        (lambda: Probe("l", "f", sample=2), "above 0 and at most 1"),
        (lambda: Probe("l", "f", sample=float("nan")), "above 0 and at most 1"),
        (lambda: Probe("l", "f", sample="all"), "above 0 and at most 1"),  # type: ignore[arg-type]
        (lambda: Probe("l", "f", sample=0.3), "is 1/N, as 1/3"),
        (lambda: Tracepoint("sched", "sched switch"), "is no tracepoint"),
        (lambda: Tracepoint("", "sched_switch"), "is no tracepoint"),
        (lambda: Tracepoint("a", "b", "prev_pid"), "a list of names or a dict"),  # type: ignore[arg-type]
        (lambda: Tracepoint("a", "b", 5), "a list of names or a dict"),  # type: ignore[arg-type]
        (lambda: Tracepoint("a", "b", [5]), "name of a tracepoint's field"),  # type: ignore[list-item]
        (lambda: Tracepoint("a", "b", ["pid"]), "has this column of itself"),
        (lambda: Tracepoint("a", "b", {"x": arg(0)}), "is of functions"),
        (lambda: Tracepoint("a", "b", {"x": deref(field("p"))}), "a tracepoint has none"),
        (lambda: Tracepoint("a", "b", when=retval() > 0), "is of functions"),
        (lambda: Tracepoint("a", "b", everywhere="yes"), "True or False"),  # type: ignore[arg-type]
        (lambda: Usdt("", "python", "gc__start"), "library is a library's name"),
        (lambda: Usdt("*", "py thon", "gc__start"), "is no USDT probe"),
        (lambda: Usdt("*", "python", "gc__start", {"a": retval()}), "put it into exit"),
        (lambda: Usdt("*", "python", "gc__start", when=duration() > 1), "put it into exit"),
    ],
)
def test_what_cannot_be_says_so(make: Any, words: str) -> None:
    with pytest.raises(VidlabError) as refused:
        make()
    assert words in str(refused.value)


def test_a_long_name_of_a_function_has_a_table_of_another_name() -> None:
    assert Probe("l", "_ZN3fooEv.part.0", name="foo").table == "kernel_foo"


# --- metrics --------------------------------------------------------------------------

METRICS: list[Metric] = [
    Counter("frames_total", Probe("l", "f", when=arg(0) == 1)),
    Counter("switches_total", SWITCH.__class__("sched", "sched_switch")),
    Histogram("decode_us", Probe("l", "f", exit={}), duration() // 1000, "µs"),
    Histogram("sizes", Probe("l", "f"), arg(1), "bytes"),
    Histogram("sevens", Probe("l", "f"), 7),  # type: ignore[arg-type]
    Histogram("delays", Tracepoint("sched", "sched_stat_wait"), field("delay"), "ns"),
]


@pytest.mark.parametrize("metric", METRICS, ids=lambda known: known.metric)
def test_json_is_the_same_metric(metric: Metric) -> None:
    told = json.loads(json.dumps(metric.to_json()))
    again = metric_from_json(told)
    assert type(again) is type(metric)
    assert again.to_json() == told == metric.to_json()


@given(st.sampled_from(METRICS), st.data())
def test_damaged_json_of_a_metric_is_refused_in_words(metric: Metric, data: st.DataObject) -> None:
    values = dict(metric.to_json())
    values[data.draw(st.sampled_from(sorted(values)))] = data.draw(anything)
    with contextlib.suppress(InputError):
        again = metric_from_json(values)
        assert metric_from_json(again.to_json()).to_json() == again.to_json()


CALLED = Probe("l", "f", exit={})


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Counter("Frames", CALLED), "is no metric's name"),
        (lambda: Counter("", CALLED), "is no metric's name"),
        (lambda: Counter("frames", "f"), "a Probe, Tracepoint or Usdt"),  # type: ignore[arg-type]
        (lambda: Counter("frames", ALLOC), "keeps no fields: size_bytes"),
        (lambda: Histogram("h", Probe("l", "f"), duration()), "needs a Probe with exit={}"),
        (lambda: Histogram("h", Probe("l", "f"), retval()), "needs a Probe with exit={}"),
        (lambda: Histogram("h", CALLED, arg(0) > 1), "is a condition"),
        (lambda: Histogram("h", CALLED, string(arg(0))), "is a string"),
        (lambda: Histogram("h", CALLED, "duration"), "cannot be calculated with"),  # type: ignore[arg-type]
        (lambda: Histogram("h", CALLED, field("delay")), "is of tracepoints"),
        (lambda: Histogram("h", CALLED, nested(9)), "nested deeper than 8"),
        (lambda: Histogram("h", Tracepoint("a", "b"), arg(0)), "is of functions"),
        (lambda: Histogram("h", CALLED, arg(6)), "put it into entry"),
        (lambda: Histogram("h", CALLED, duration(), 5), "the unit of h is a text"),  # type: ignore[arg-type]
    ],
)
def test_a_metric_that_cannot_be_says_so(make: Any, words: str) -> None:
    with pytest.raises(VidlabError) as refused:
        make()
    assert words in str(refused.value)


def test_the_same_probe_elsewhere() -> None:
    other = ALLOC.elsewhere("libother.so", "cuMemAlloc")
    assert other.to_json() == {
        **ALLOC.to_json(),
        "library": "libother.so",
        "symbol": "cuMemAlloc",
    }
    assert ALLOC.library == "libcuda.so.1"
    assert Probe("l", "f").elsewhere("l", "g").table == "kernel_f"
    with pytest.raises(InputError, match="symbol is the name of a function"):
        ALLOC.elsewhere("l", "two words")
    with pytest.raises(InputError, match="library is a library's name"):
        ALLOC.elsewhere("", "f")
