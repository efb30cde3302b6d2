"""The bill adds up: by hand, and where calls and readings overlap in ways nobody can tell."""

from __future__ import annotations

import random

import polars as pl
import pytest

from vidlab.analysis import bill
from vidlab.errors import InputError
from vidlab.lab.simulated_memory import Leak, simulated_allocations

MIB = 1 << 20
TERMS = (
    "pool_in_use_bytes", "pool_cached_bytes", "other_driver_bytes", "context_and_modules_bytes",
    "other_processes_bytes", "unexplained_bytes",
)  # fmt: skip
COMMON = {
    "pid": 1, "tid": 7, "duration_ns": 0, "status": "ok", "kind": "device", "device": 0,
    "labels": 0, "pooled": False,
}  # fmt: skip
GPU, HOST = "NVIDIA H200", "host memory (no GPU)"


def event(op, number, level, size, t_ns, **more):
    row = {"op": op, "generation": number, "level": level, "size_bytes": size, "t_ns": t_ns}
    return {**row, "address": number << 20, **more}


def samples(table, readings, **columns):
    """Samples from (t_ns, used, of this process)."""
    rows = [{"t_ns": t, "used_bytes": used, "process_used_bytes": own} for t, used, own in readings]
    common = {"duration_ns": 0, "pid": 1, "device": 0, "device_name": GPU, "total_bytes": 9_999}
    return table("gpu_samples", rows, **{**common, **columns})


EVENTS = [
    event("alloc", 1, "driver", 100, 10, pooled=True),
    event("alloc", 2, "pool", 30, 10),
    event("alloc", 3, "driver", 7, 20),
    event("alloc", 4, "driver", 500, 20, kind="pinned"),
    event("alloc", 5, "pool", 500, 20, kind="pinned"),
    event("free", 2, "pool", 30, 30),
    event("alloc", 6, "borrowed", 12, 30),
    event("alloc", 7, "driver", 0, 30, status="OutOfMemoryError", generation=0),
]


def test_the_parts_of_a_bill(table):
    readings = [(5, 40, 0), (15, 140 + 60, 60 + 100), (25, 250, 167), (35, 250, 167 + 11)]
    result = bill.bill(samples(table, readings), table("allocations", EVENTS, **COMMON))
    assert result.select("t_ns", "used_bytes", *TERMS).rows() == [
        (5, 40, 0, 0, 0, 0, 40, 0),
        (15, 200, 30, 70, 0, 60, 40, 0),
        (25, 250, 30, 70, 7, 60, 83, 0),
        (35, 250, 0, 100, 7, 60, 72, 11),
    ]
    assert result["pinned_bytes"].to_list() == [0, 0, 500, 500]
    assert result["coverage"].to_list() == [1.0, 1.0, 1.0, pytest.approx(1 - 11 / 250)]


def test_the_host_device_has_no_context(table):
    readings = [(15, 107, 107), (25, 107, 107)]
    allocations = table("allocations", EVENTS, **COMMON)
    result = bill.bill(samples(table, readings, device_name=HOST), allocations)
    assert result["context_and_modules_bytes"].to_list() == [0, 0]
    assert result["unexplained_bytes"].to_list() == [7, 0]


def test_a_context_is_measured_when_it_stands(table):
    """While it is being made the device uses ever more; and it is never negative."""
    allocations = table("allocations", EVENTS, **COMMON)
    readings = [(1, 20, 20), (5, 50, 50), (15, 160, 160), (25, 167, 167)]
    result = bill.bill(samples(table, readings), allocations)
    assert result["context_and_modules_bytes"].to_list() == [20, 50, 60, 60]
    assert result["unexplained_bytes"].to_list() == [0, 0, 0, 0]
    less = bill.bill(samples(table, [(15, 90, 90)]), allocations)
    assert less.select("context_and_modules_bytes", "unexplained_bytes").rows() == [(0, -10)]


def test_without_a_process_s_share_others_are_unexplained_as_they_grow(table):
    readings = [(15, 1_160, None), (25, 1_177, None)]
    result = bill.bill(samples(table, readings), table("allocations", EVENTS, **COMMON))
    assert result["other_processes_bytes"].to_list() == [None, None]
    assert result["context_and_modules_bytes"].to_list() == [1_060, 1_060]
    assert result["unexplained_bytes"].to_list() == [0, 10]


def test_what_cuda_s_own_pool_has_reserved(table):
    events = [
        event("alloc", 1, "driver", 40, 10, kind="async", pooled=True),
        event("alloc", 2, "pool", 40, 10, kind="async"),
    ]
    allocations = table("allocations", events, **COMMON)
    known = samples(table, [(15, 64, 64)], async_reserved_bytes=64, device_name=HOST)
    result = bill.bill(known, allocations)
    assert result.select(*TERMS).rows() == [(40, 24, 0, 0, 0, 0)]
    assert result["async_in_use_bytes"].to_list() == [40]
    unknown = samples(table, [(15, 64, 64)], device_name=HOST)
    assert bill.bill(unknown, allocations).select(*TERMS).rows() == [(40, 0, 0, 0, 0, 24)]


def test_an_allocator_whose_driver_calls_nobody_sees_explains_what_it_gave(table):
    events = [event("alloc", 1, "pool", 40, 10), event("alloc", 2, "pool", 2, 10, kind="managed")]
    result = bill.bill(
        samples(table, [(15, 50, 50)], device_name=HOST), table("allocations", events, **COMMON)
    )
    assert result.select(*TERMS).rows() == [(42, 0, 0, 0, 0, 8)]


def test_processes_and_devices_have_bills_of_their_own(table):
    events = [
        event("alloc", 1, "driver", 10, 0),
        event("alloc", 1, "driver", 20, 0, pid=2),
        event("alloc", 2, "driver", 40, 0, device=1),
    ]
    rows = [
        {"pid": 1, "device": 0, "process_used_bytes": 10},
        {"pid": 2, "device": 0, "process_used_bytes": 20},
        {"pid": 1, "device": 1, "process_used_bytes": 40},
    ]
    common = {"t_ns": 5, "duration_ns": 0, "used_bytes": 100, "device_name": HOST}
    readings = table("gpu_samples", rows, **common)
    allocations = table("allocations", events, **COMMON)
    result = bill.bill(readings, allocations)
    columns = ["pid", "device", "other_driver_bytes", "other_processes_bytes", "unexplained_bytes"]
    assert result.select(columns).rows() == [
        (1, 0, 10, 90, 0), (1, 1, 40, 60, 0), (2, 0, 20, 80, 0),
    ]  # fmt: skip
    assert bill.bill(readings, allocations, pid=2)["pid"].to_list() == [2]


@pytest.mark.parametrize(
    ("op", "begin", "took", "seen"),
    [
        ("alloc", 90, 20, True),  # under way throughout the reading
        ("alloc", 90, 20, False),
        ("alloc", 102, 3, True),  # within it
        ("alloc", 102, 3, False),
        ("free", 90, 20, False),  # not yet gone when it was read
        ("free", 90, 20, True),
        ("free", 102, 3, False),
        ("free", 102, 3, True),
    ],
)
def test_a_call_in_flight_explains_either_reading(table, op, begin, took, seen):
    before = [event("alloc", 1, "driver", 64, 1, pooled=True)]
    call = event(op, 1 if op == "free" else 2, "driver", 64, begin, duration_ns=took, pooled=True)
    change = (64 if op == "alloc" else -64) if seen else 0
    readings = [(50, 64, 64), (100, 64 + change, 64 + change)]
    result = bill.bill(
        samples(table, readings, duration_ns=8, device_name=HOST),
        table("allocations", [*before, call], **COMMON),
    )
    assert result["unexplained_bytes"].to_list() == [0, 0]
    assert result["in_flight_bytes"].to_list() == [0, 64]
    sums = result.select(pl.sum_horizontal(TERMS)).to_series()
    assert sums.to_list() == result["used_bytes"].to_list()


def test_a_call_that_is_over_explains_nothing(table):
    rows = [event("alloc", 1, "driver", 64, 10, duration_ns=30)]
    readings = samples(table, [(40, 0, 0), (50, 128, 128)], duration_ns=5, device_name=HOST)
    result = bill.bill(readings, table("allocations", rows, **COMMON))
    assert result["unexplained_bytes"].to_list() == [-64, 64]


def busy(seed, plant):
    """Eight threads at the driver, and readings: what really happened when is not recorded."""
    chance = random.Random(seed)
    events, changes, number = [], [], 0
    for thread in range(8):
        t_ns, held = chance.randint(0, 50), []
        while t_ns < 20_000:
            took = chance.randint(10, 90)
            moment = t_ns + chance.randint(0, took)
            if held and chance.random() < 0.45:
                generation, size = held.pop(chance.randrange(len(held)))
                op, change = "free", -size
            else:
                number += 1
                generation, size = number, chance.choice([512, 1_024, 4_096, 512 * number])
                op, change = "alloc", size
                held.append((generation, size))
            pooled = {"pooled": thread % 2 == 0}
            events.append(event(op, generation, "driver", size, t_ns, duration_ns=took, **pooled))
            changes.append((moment, change))
            t_ns += took + chance.randint(1, 120)
    readings, planted = [], 10_007
    for t_ns in range(100, 20_000, 250):
        took = chance.randint(5, 60)
        moment = t_ns + chance.randint(0, took)
        used = sum(change for when, change in changes if when <= moment)
        used += plant if moment >= planted else 0
        readings.append({"t_ns": t_ns, "duration_ns": took, "used_bytes": used})
    return events, readings, planted


@pytest.mark.parametrize("seed", range(6))
def test_nothing_is_unexplained_however_calls_and_readings_overlap(table, seed):
    events, readings, _ = busy(seed, 0)
    common = {"pid": 1, "device": 0, "device_name": HOST}
    known = [{**row, "process_used_bytes": row["used_bytes"]} for row in readings]
    result = bill.bill(
        table("gpu_samples", known, **common), table("allocations", events, **COMMON)
    )
    assert result["unexplained_bytes"].to_list() == [0] * len(readings)
    assert (result["in_flight_bytes"] > 0).sum() > len(readings) / 2
    sums = result.select(pl.sum_horizontal(TERMS)).to_series()
    assert sums.to_list() == result["used_bytes"].to_list()
    assert bill.alarms(result).is_empty()


@pytest.mark.parametrize("seed", range(6))
def test_a_plant_is_found_to_the_byte_from_the_next_sample_on(table, seed):
    plant = 256 * MIB
    events, readings, planted = busy(seed, plant)
    common = {"pid": 1, "device": 0, "device_name": HOST}
    known = [{**row, "process_used_bytes": row["used_bytes"]} for row in readings]
    result = bill.bill(
        table("gpu_samples", known, **common), table("allocations", events, **COMMON)
    )
    before = result.filter(pl.col("t_ns") + 60 < planted)["unexplained_bytes"]
    after = result.filter(pl.col("t_ns") >= planted)
    assert before.to_list() == [0] * len(before)
    assert after["unexplained_bytes"].to_list() == [plant] * after.height
    (alarm,) = bill.alarms(result).iter_rows(named=True)
    assert alarm["t_ns"] == after["t_ns"][0]
    assert (alarm["grew_bytes"], alarm["until_ns"], alarm["kind"]) == (plant, None, "step")


def unexplained(values, device=0):
    return pl.DataFrame(
        {
            "pid": 1, "device": device, "t_ns": range(0, 10 * len(values), 10),
            "unexplained_bytes": values,
        }
    ).cast({"pid": pl.Int32, "device": pl.Int16})  # fmt: skip


def test_an_alarm_an_episode():
    columns = ["device", "t_ns", "since_ns", "until_ns", "grew_bytes", "unexplained_bytes", "kind"]
    steps = unexplained([5, 5, 205, 305, 255, 5, 5, 205, 205])
    assert bill.alarms(steps, 100).select(columns).rows() == [
        (0, 20, 10, 50, 300, 305, "step"),
        (0, 70, 60, None, 200, 205, "step"),
    ]
    creeping = unexplained([0, 3, 0, 30, 60, 90, 120, 121], device=1)
    assert bill.alarms(creeping, 100).select(columns).rows() == [
        (1, 60, 20, None, 121, 121, "growth")
    ]
    both = bill.alarms(pl.concat([steps, creeping]), 100)
    assert both["device"].to_list() == [0, 1, 0]
    # What was there from the beginning, shrinks or only trembles is no growth.
    for quiet in ([900, 900], [900, 500, 0], [0, 40, 0, 60, 20, 40], [-50, 0, 40]):
        assert bill.alarms(unexplained(quiet), 100).is_empty()
    # From the least that was ever unexplained on, not from the first sample.
    assert bill.alarms(unexplained([900, 0, 150]), 100)["grew_bytes"].to_list() == [150]


def test_nothing_and_bad_arguments(table):
    empty = bill.bill(table("gpu_samples"), table("allocations"))
    assert empty.is_empty()
    assert set(TERMS) < set(empty.columns)
    assert bill.alarms(empty).is_empty()
    untracked = bill.bill(samples(table, [(5, 60, 60), (6, 90, 90)]), table("allocations"))
    assert untracked.select(*TERMS[3:]).rows() == [(60, 0, 0), (60, 0, 30)]
    with pytest.raises(InputError, match="positive"):
        bill.alarms(empty, 0)


@pytest.mark.parametrize("real", [False, True])
def test_a_pipeline_s_bill(real):
    simulated = simulated_allocations(
        2_000, leaks=[Leak(every=100)], real_gpu=real, plant_bytes=256 * MIB, sample_seconds=0.02
    )
    result = bill.bill(simulated.gpu_samples, simulated.allocations)
    first = result.filter(device=0)["unexplained_bytes"].to_list()
    assert first == sorted(first)
    assert set(first) == {0, 256 * MIB}
    assert set(result.filter(device=1)["unexplained_bytes"].to_list()) == {0}
    sums = result.select(pl.sum_horizontal(TERMS)).to_series()
    assert sums.to_list() == result["used_bytes"].to_list()
    assert set(result["context_and_modules_bytes"].to_list()) <= ({301 * MIB} if real else {0})
