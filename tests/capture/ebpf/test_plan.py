"""What a list of probes comes to, without the kernel."""

from __future__ import annotations

import json
from typing import Any

import pytest

from vidlab.capture.ebpf import (
    Counter,
    Histogram,
    Probe,
    Tracepoint,
    Usdt,
    arg,
    const,
    deref,
    duration,
    field,
    retval,
    string,
)
from vidlab.capture.ebpf.coding import Shapes, code_of, encoded, encoded_of
from vidlab.capture.ebpf.declaring.written import Written
from vidlab.capture.ebpf.kernel import btf, links
from vidlab.capture.ebpf.plan import MOST_PROGRAMS, Member, Plan, asked_from_json
from vidlab.capture.ebpf.program.words import COUNTS_MAP, RING
from vidlab.errors import InputError

ALLOC = Probe("libx.so", "alloc", {"size": arg(1)}, {"address": deref(arg(0)), "kind": "device"})


def options(plan: Plan, **more: Any) -> dict[str, Any]:
    known = {"number": None, "ring_bytes": 4096, "stash_room": 256, "sessions": False}
    return {**known, **more}


# --- numbers and tables ---------------------------------------------------------------


def test_members_are_numbered_in_the_order_in_which_they_are_asked_for() -> None:
    counter = Counter("calls_total", Probe("libx.so", "free"))
    plan = Plan([ALLOC, "sched", counter, Probe("libx.so", "free")])
    assert [member.number for member in plan.members] == list(range(len(plan.members)))
    assert plan.members[0].source is ALLOC
    assert plan.members[-2].source is counter
    sched = plan.members[1:-2]
    assert len(sched) > 1
    assert all(isinstance(member.source, Written) and member.set == "sched" for member in sched)
    assert [member.label for member in sched] == [one.attached.event for one in sched]
    assert set(plan.layouts) == {"kernel_alloc", "kernel_offcpu", "kernel_free"}
    assert plan.layout(plan.members[-2]) is None
    assert plan.layout(plan.members[0]) is plan.layouts["kernel_alloc"]
    assert plan.metrics == {"calls_total": counter}


def test_probes_of_one_name_share_a_table() -> None:
    one = Probe("libx.so", "alloc", {"size": arg(1)}, name="memory")
    two = Probe("libx.so", "free", {"address": arg(0)}, {}, name="memory")
    plan = Plan([one, two])
    [layout] = plan.layouts.values()
    assert {"size", "address", "duration_ns"} <= set(layout.dtype.names)
    assert [plan.layout(member) for member in plan.members] == [layout, layout]


def test_what_a_plan_can_do_without() -> None:
    plan = Plan(["cuda", "sched", ALLOC])
    assert plan.members[0].optional
    assert not plan.members[-1].optional
    assert any(not member.optional for member in plan.members if member.set == "sched")


@pytest.mark.parametrize(
    "asked",
    [
        [3],
        [None],
        [ALLOC, ["sched"]],
        ["nosuchset"],
        [Counter("n", Probe("l", "f")), Histogram("n", Probe("l", "f"), arg(0))],
        [
            Histogram("n", Probe("l", "f"), arg(0), "ns"),
            Histogram("n", Probe("l", "g"), arg(0), "us"),
        ],
        [
            Probe("l", "f", {"x": arg(0)}, name="t"),
            Probe("l", "g", {"x": string(arg(0))}, name="t"),
        ],
        [Probe("l", f"f{i}", name="t") for i in range(MOST_PROGRAMS + 1)],
    ],
)
def test_what_cannot_be_recorded_together_is_refused(asked: list[Any]) -> None:
    with pytest.raises(InputError):
        Plan(asked)


# --- JSON -----------------------------------------------------------------------------


def test_a_plan_is_made_again_from_its_json() -> None:
    plan = Plan(
        [
            ALLOC,
            "sched",
            "libav",
            Tracepoint("sched", "sched_switch", {"next": field("next_pid")}, field("prev_pid") > 0),
            Usdt("python3.11", "python", "gc__start", {"generation": arg(0, "i32")}),
            Counter("n_total", Probe("libx.so", "free")),
            Histogram("us", Probe("libx.so", "free", exit={}), duration() // 1000, "us"),
        ]
    )
    text = json.dumps(plan.to_json())
    again = Plan(asked_from_json(json.loads(text)))
    assert json.dumps(again.to_json()) == text
    assert [(m.number, m.label, m.set) for m in again.members] == [
        (m.number, m.label, m.set) for m in plan.members
    ]
    for table, layout in plan.layouts.items():
        assert again.layouts[table].dtype == layout.dtype


@pytest.mark.parametrize(
    "values",
    [
        "sched",
        {"kind": "probe"},
        [3],
        [{}],
        [{"kind": "nothing"}],
        [{"kind": "counter", "metric": "n", "of": 3}],
        [{"kind": "probe", "library": "l", "symbol": "f", "more": 1}],
    ],
)
def test_json_that_is_no_plan_is_refused(values: Any) -> None:
    with pytest.raises(InputError):
        Plan(asked_from_json(values))


# --- replacing ------------------------------------------------------------------------


def test_a_member_is_replaced_by_one_of_the_same_record() -> None:
    plan = Plan([ALLOC])
    other = Probe(
        "libx.so",
        "alloc",
        {"size": arg(1) * 2},
        {"address": deref(arg(0), offset=8), "kind": "device"},
        retval() == 0,
        sample=1 / 10,
    )
    member = plan.replaced(0, other)
    assert (member.number, member.source) == (0, other)
    assert plan.members[0].source is ALLOC


@pytest.mark.parametrize(
    "other",
    [
        Probe("liby.so", "alloc", {"size": arg(1)}, {"address": deref(arg(0)), "kind": "device"}),
        Probe("libx.so", "alloc2", {"size": arg(1)}, {"address": retval("u64"), "kind": "device"}),
        Probe("libx.so", "alloc", {"size": arg(1)}, {"address": deref(arg(0)), "kind": "host"}),
        Probe("libx.so", "alloc", {"size": arg(1)}, {"kind": "device"}),
        Probe("libx.so", "alloc", {"size": arg(1), "address": arg(0), "kind": "device"}),
        Probe(
            "libx.so",
            "alloc",
            {"size": arg(1, "u32")},
            {"address": retval("u64"), "kind": "device"},
        ),
        Tracepoint("sched", "sched_switch", name="alloc"),
    ],
)
def test_what_does_not_fit_in_its_place_is_refused(other: Any) -> None:
    with pytest.raises(InputError):
        Plan([ALLOC]).replaced(0, other)


@pytest.mark.parametrize("number", [-1, 99])
def test_only_probes_by_their_number_are_replaced(number: int) -> None:
    with pytest.raises(InputError, match="there is no probe"):
        Plan([ALLOC]).replaced(number, ALLOC)


def test_programs_of_sets_and_metrics_are_not_replaced() -> None:
    plan = Plan(["sched", Counter("n_total", Probe("libx.so", "alloc"))])
    for number in (0, len(plan.members) - 1):
        with pytest.raises(InputError, match="cannot be replaced"):
            plan.replaced(number, ALLOC)


# --- code -----------------------------------------------------------------------------


def shape(*probes: Any) -> list[str | None]:
    shapes = Shapes()
    return [shapes.of(Member(number, probe)) for number, probe in enumerate(probes)]


def test_programs_are_the_same_whatever_they_are_attached_to() -> None:
    one = Probe("libx.so", "alloc", {"n": arg(0), "op": "a", "k": 1}, {}, name="t")
    two = Probe("liby.so", "alloc_v2", {"n": arg(0), "op": "b", "k": const(2)}, {}, name="t")
    known, same = shape(one, two)
    assert known == same


@pytest.mark.parametrize(
    "other",
    [
        Probe("libx.so", "f", {"n": arg(1)}, {}, name="t"),
        Probe("libx.so", "f", {"n": arg(0, "u32")}, {}, name="t"),
        Probe("libx.so", "f", {"m": arg(0)}, {}, name="t"),
        Probe("libx.so", "f", {"n": arg(0)}, name="t"),
        Probe("libx.so", "f", {}, {"n": arg(0)}, name="t"),
        Probe("libx.so", "f", {"n": arg(0)}, {}, name="u"),
        Probe("libx.so", "f", {"n": arg(0)}, {}, arg(0) > 3, name="t"),
        Probe("libx.so", "f", {"n": arg(0)}, {}, name="t", tid=5),
        Probe("libx.so", "f", {"n": arg(0)}, {}, name="t", sample=1 / 3),
        Counter("t", Probe("libx.so", "f")),
    ],
)
def test_programs_that_differ_are_not_taken_for_the_same(other: Any) -> None:
    known, differs = shape(Probe("libx.so", "f", {"n": arg(0)}, {}, name="t"), other)
    assert known != differs


def test_metrics_are_told_apart() -> None:
    of = Probe("libx.so", "f", exit={})
    known = shape(
        Counter("a", of),
        Counter("b", of),
        Histogram("a", of, arg(0)),
        Histogram("a", of, arg(1)),
        Histogram("a", of, duration()),
    )
    assert len(set(known)) == len(known)


def test_what_is_on_an_event_is_not_shared() -> None:
    event, usdt = Tracepoint("a", "b"), Usdt("l", "a", "b")
    assert shape(event, usdt) == [None, None]


def test_maps_are_put_into_code_that_is_kept() -> None:
    plan = Plan([ALLOC])
    [member] = plan.members
    layout = plan.layout(member)
    [known] = shape(ALLOC)
    codes = encoded_of(member, known, layout, **options(plan))
    assert encoded_of(member, known, layout, **options(plan)) is codes
    assert encoded_of(member, known, layout, **options(plan, ring_bytes=8192)) is not codes
    assert encoded_of(member, known, layout, **options(plan, number=3)) is not codes
    names = {name for one in codes.values() for name, _ in one.maps}
    assert {COUNTS_MAP, RING} < names
    maps = {name: 0x01020304 + at for at, name in enumerate(sorted(names))}
    for role, code in code_of(member, layout, **options(plan)).items():
        assert codes[role].bound(maps) == code.encode(maps)
        assert RING not in code.maps or role == "return"
    assert encoded(code).code == codes["return"].code


@pytest.mark.needs("ebpf")
def test_functions_of_the_kernel_are_put_into_code() -> None:
    plan = Plan([ALLOC])
    [member] = plan.members
    if not links.has_sessions():
        pytest.skip("sessions came with Linux 6.13")
    code = code_of(member, plan.layout(member), **options(plan, sessions=True))["session"]
    assert code.functions
    maps = dict.fromkeys(code.maps, 9)
    assert encoded(code).bound(maps) == code.encode(maps, btf.function_id)
