"""What is said of kernel events: each answer where its table is there, None where it is not."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from contextvars import Context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import vidlab as vl
from vidlab.capture.ebpf import engine as ebpf_engine
from vidlab.capture.ebpf.kernel.privileges import PrivilegeError
from vidlab.capture.ebpf.plan import Plan
from vidlab.clock import now_ns
from vidlab.runs.run import Run
from vidlab.runs.writer import RunWriter
from vidlab.workbench.kernel_section import NOTHING, KernelSection, Section
from vidlab.workbench.slices import Slice
from vidlab.workbench.tables import Table

Row = dict[str, Any]

#: What each answer is made of.
TABLES = {
    "offcpu": ["kernel_offcpu"],
    "offcpu_over_time": ["kernel_offcpu"],
    "wakeups": ["kernel_offcpu"],
    "decode": ["kernel_libav"],
    "decode_counted": ["kernel_metrics"],
    "counters": ["kernel_metrics"],
    "memory": ["kernel_cuda_memory"],
    "copies": ["kernel_cuda_memory", "kernel_cuda_copies"],
    "connections": ["kernel_tcp"],
    "by_connection": ["kernel_tcp"],
    "probes": ["kernel_probes"],
}

every_answer = pytest.mark.parametrize("answer", TABLES)

MS = 1_000_000


def append(writer: RunWriter, name: str, rows: Iterable[Row]) -> None:
    """Write rows of a table that the probe sets declare."""
    layouts = Plan(["cuda", "libav", "sched", "tcp"]).layouts
    table = layouts[name].table
    writer.declare(table)
    rows = [{"pid": os.getpid(), "tid": threading.get_native_id(), **row} for row in rows]
    types = {column.name: column.type for column in table.columns}
    columns: dict[str, Any] = {}
    for key in {key for row in rows for key in row}:
        values = [row.get(key) for row in rows]
        if pa.types.is_dictionary(types[key]):
            numbers = [0 if value is None else writer.names.number(value) for value in values]
            columns[key] = np.array(numbers, np.uint32)
        else:
            columns[key] = pa.array(values, types[key])
    writer.append(table, columns)


def offcpu_rows(t: int) -> list[Row]:
    return [
        {"t_ns": t, "duration_ns": 3 * MS, "state": "sleeping", "runqueue_ns": MS, "cpu": 0},
        {"t_ns": t, "duration_ns": MS, "state": "preempted", "runqueue_ns": MS, "cpu": 0},
    ]


def libav_rows(t: int) -> list[Row]:
    return [{"t_ns": t, "duration_ns": 1_000, "op": "send_packet", "symbol": "avcodec_send_packet"}]


def memory_rows(t: int) -> list[Row]:
    known = {"level": "driver", "status": 0, "symbol": "cuMemAlloc_v2", "kind": "device"}
    return [{"t_ns": t, "duration_ns": 9, "op": "alloc", "address": t, "size_bytes": 1 << 20,
             **known}]  # fmt: skip


def copy_rows(t: int) -> list[Row]:
    known = {"level": "driver", "status": 0, "direction": "host_to_device"}
    return [{"t_ns": t + 20, "duration_ns": 9, "op": "copy", "source": 5, "destination": t,
             "size_bytes": 1 << 20, **known}]  # fmt: skip


def tcp_rows(t: int) -> list[Row]:
    known = {"local_address": "10.0.0.1", "remote_address": "10.0.0.9", "remote_port": 554}
    known |= {"socket": t, "owner_pid": 1, "bytes_received": 1 << 20, "bytes_sent": 0}
    return [
        {"t_ns": t, "op": "state", "old_state": "close", "new_state": "syn_sent", **known},
        {"t_ns": t + 5, "op": "sample", "srtt_us": 40, **known},
    ]


EVENTS: dict[str, Callable[[int], list[Row]]] = {
    "kernel_offcpu": offcpu_rows,
    "kernel_libav": libav_rows,
    "kernel_cuda_memory": memory_rows,
    "kernel_cuda_copies": copy_rows,
    "kernel_tcp": tcp_rows,
}


def decode(stream: str) -> int:
    """Be in a stage of this stream for a while; return since when."""
    with vl.labels(stream_id=stream, codec="h264", gpu=0), vl.stage("decode"):
        begun = now_ns()
        while now_ns() < begun + MS:
            pass
    return begun


def record(path: Path, *tables: str) -> Run:
    """Record two streams that decode, and events in these tables."""
    with vl.record(path, engines=[vl.Frames()]) as recording:
        writer = recording.writer
        # In a context of its own: a stage is else of the frame that this thread took last.
        moments = [Context().run(decode, stream) for stream in ("cam-1", "cam-2")]
        for name in set(tables) & EVENTS.keys():
            append(writer, name, [row for t in moments for row in EVENTS[name](t)])
        if "kernel_metrics" in tables:
            bucket = {"kind": "histogram", "low": 64.0, "high": 72.0, "unit": "µs"}
            writer.row("kernel_metrics", metric="ebpf_video_decode_us", count=7, labels=0, **bucket)
            writer.row("kernel_metrics", metric="ebpf_dropped_total", kind="counter", count=2,
                       labels=0, low=None, high=None, unit="")  # fmt: skip
        if "kernel_probes" in tables:
            known = {"into": "kernel_offcpu", "probe": "sched", "library": "sched", "labels": 0}
            known |= {"how": "tracepoint", "emitted": 4, "filtered": 0, "sampled_out": 0}
            for symbol, hits in (("sched_switch", 4), ("never_called", 0)):
                writer.row("kernel_probes", symbol=symbol, hits=hits, lost=0, misses=0, **known)
    return vl.open_run(path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    names = {name for tables in TABLES.values() for name in tables}
    return record(tmp_path_factory.mktemp("kernel") / "run", *names)


def text_of(answer: Any) -> str:
    return str(answer.df) if isinstance(answer, Table) else str(answer.to_json())


@every_answer
def test_each_answer_of_a_run_that_has_all(whole: Run, answer: str) -> None:
    found = getattr(KernelSection(Slice(whole)), answer)()
    assert found is not None
    text = text_of(found)
    assert "nothing recorded" not in text
    if answer in ("decode", "connections", "by_connection"):
        assert "cam-1" in text
        assert "cam-2" in text


@every_answer
def test_without_its_table_an_answer_is_none(tmp_path: Path, answer: str) -> None:
    others = {name for tables in TABLES.values() for name in tables} - set(TABLES[answer])
    section = KernelSection(Slice(record(tmp_path, *others)))
    assert getattr(section, answer)() is None
    assert "events of" in section.headline().text


def test_the_headline_counts_and_names_the_longest_waits(whole: Run) -> None:
    headline = KernelSection(Slice(whole)).headline()
    assert repr(headline).startswith(
        "14 events of 5 kinds. Stages were off the CPU most in decode "
    )
    assert "(sleeping, 0.0 s)" in repr(headline)


def test_a_slice_is_of_its_stream(whole: Run) -> None:
    section = KernelSection(Slice(whole, stream_id="cam-2"))
    assert section._waits is not None
    assert section._waits["count"].sum() == 2
    assert set(section._waits["stage"]) == {"decode"}
    for answer in (section.decode(), section.connections(), section.by_connection()):
        assert "cam-2" in text_of(answer)
        assert "cam-1" not in text_of(answer)
    other_gpu = KernelSection(Slice(whole, gpu=3))
    assert "nothing recorded" in text_of(other_gpu.offcpu())
    assert "most in" not in other_gpu.headline().text


def test_probes_that_were_never_hit_are_counted(whole: Run) -> None:
    table = KernelSection(Slice(whole)).probes()
    assert table is not None
    assert table.df["symbol"].to_list() == ["sched_switch"]
    assert table.caption == "Probes that were hit, of 2 attached (1 never were)"


def test_a_report_has_the_section_only_where_there_are_events(whole: Run, run: Run) -> None:
    section = KernelSection(Slice(whole)).section()
    assert isinstance(section, Section)
    assert "<h2>Kernel events</h2><p>14 events" in section._repr_html_()
    assert KernelSection(Slice(run)).section() is None


def test_a_run_without_kernel_events_says_so(run: Run) -> None:
    section = KernelSection(Slice(run))
    assert section.headline().text == NOTHING
    assert "vidlab doctor" in NOTHING
    for answer in TABLES:
        assert getattr(section, answer)() is None


def test_where_privileges_were_missing_it_says_which(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PrivilegeError("CAP_BPF is <missing>", "Get it so", missing=["cap_bpf"])

    monkeypatch.setattr(ebpf_engine, "Session", refused)
    monkeypatch.delenv(ebpf_engine.BROKER_VARIABLE, raising=False)
    with vl.record(tmp_path, engines=[vl.Frames(), vl.KernelEvents(["sched"])]):
        pass
    section = KernelSection(Slice(vl.open_run(tmp_path)))
    assert section.headline().text == "CAP_BPF is &lt;missing&gt;. Get it so"
    assert section.section() is None
    for answer in TABLES:
        assert getattr(section, answer)() is None


def test_a_run_that_goes_on_has_answers(tmp_path: Path) -> None:
    with vl.record(tmp_path, engines=[]) as recording:
        append(recording.writer, "kernel_offcpu", offcpu_rows(now_ns()))
        section = KernelSection(Slice(vl.open_run(tmp_path)))
        assert repr(section.headline()) == "2 events of 1 kind."
        # It has no stages, as a process that is watched from outside.
        for answer in (section.offcpu(), section.offcpu_over_time()):
            assert "preempted" in text_of(answer)
            assert "nothing recorded" not in text_of(answer)
        assert "outside stages" in text_of(section.offcpu())
