"""The sets by name: what they have in common."""

from __future__ import annotations

import pytest

from vidlab.capture.ebpf import sets
from vidlab.capture.ebpf.declaring.metrics import Metric, metric_from_json
from vidlab.capture.ebpf.declaring.probes import Declaration, Probe, declaration_from_json
from vidlab.capture.ebpf.plan import Plan
from vidlab.errors import InputError

COMMON = ["t_ns", "pid", "tid", "cpu", "span", "frame", "symbol", "duration_ns"]


def columns(table: str, *asked: str) -> dict[str, str]:
    """The own columns of a table and their types."""
    known = Plan(asked).layouts[table].table.columns
    return {
        column.name: str(column.type).partition("<")[0]
        for column in known
        if column.name not in (*COMMON, "labels", "stream_id", "codec", "gpu")
    }


def test_a_set_that_there_is_not_is_told_with_near_names() -> None:
    with pytest.raises(InputError, match="'cudda' is no probe set; did you mean cuda"):
        sets.probe_set("cudda")
    with pytest.raises(InputError, match=r"There are .*cuda.*libav.*nvcodec"):
        sets.probe_set("")
    with pytest.raises(InputError, match="no probe set"):
        sets.probe_set(["cuda"])  # type: ignore[arg-type]


@pytest.mark.parametrize("name", sets.names())
def test_every_set_can_be_planned(name: str) -> None:
    made = sets.probe_set(name)
    assert made
    plan = Plan([name])
    assert all(member.set == name for member in plan.members)
    assert all(layout.stride % 8 == 0 for layout in plan.layouts.values())


def test_all_sets_fit_into_one_plan() -> None:
    plan = Plan(sets.names())
    assert len(plan.members) == sum(len(Plan([name]).members) for name in sets.names())


@pytest.mark.parametrize("name", ["cuda", "libav", "nvcodec"])
def test_sets_travel_as_json(name: str) -> None:
    for one in sets.probe_set(name):
        if isinstance(one, Metric):
            assert metric_from_json(one.to_json()).to_json() == one.to_json()
        else:
            assert isinstance(one, Declaration)
            assert declaration_from_json(one.to_json()).to_json() == one.to_json()


def test_no_function_is_probed_twice_for_a_table() -> None:
    for name in ("cuda", "libav", "nvcodec"):
        probes = [one for one in sets.probe_set(name) if isinstance(one, Probe)]
        keys = [(probe.library, probe.symbol) for probe in probes]
        assert len(keys) == len(set(keys))
        assert {probe.returns for probe in probes} == {True}


def test_tables_of_cuda() -> None:
    text, address, number, size = "dictionary", "uint64", "int32", "int64"
    assert columns("kernel_cuda_memory", "cuda") == {
        "op": text,
        "kind": text,
        "level": text,
        "address": address,
        "size_bytes": size,
        "cuda_stream": address,
        "status": number,
    }
    assert columns("kernel_cuda_copies", "cuda") == {
        "op": text,
        "level": text,
        "direction": text,
        "direction_code": number,
        "source": address,
        "destination": address,
        "size_bytes": size,
        "cuda_stream": address,
        "asynchronous": "uint64",
        "status": number,
    }
    assert columns("kernel_cuda_launches", "cuda") == {
        "level": text,
        "function": address,
        **{f"{what}_{axis}": "uint32" for what in ("grid", "block") for axis in "xyz"},
        "shared_bytes": "uint32",
        "cuda_stream": address,
        "status": number,
    }
    assert columns("kernel_cuda_waits", "cuda") == {
        "op": text,
        "level": text,
        "handle": address,
        "status": number,
    }
    assert columns("kernel_cuda_contexts", "cuda") == {
        "op": text,
        "context": address,
        "device": number,
        "level": text,
        "status": number,
    }


def test_tables_of_video() -> None:
    text, address, number = "dictionary", "uint64", "int32"
    assert columns("kernel_nvcodec", "nvcodec") == {
        "op": text,
        "session": address,
        "picture_index": number,
        "device_pointer": address,
        "status": number,
    }
    assert columns("kernel_libav", "libav") == {
        "op": text,
        "codec_context": address,
        "packet": address,
        "packet_bytes": number,
        "pts": "int64",
        "status": number,
    }
    assert Plan(["libav"]).metrics.keys() == {
        "ebpf_video_decode_us",
        "ebpf_video_frame_dropped_total",
    }
