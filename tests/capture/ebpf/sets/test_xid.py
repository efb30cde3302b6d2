"""The set `xid`: in the real kernel, on an event that stands in for the driver's."""

from __future__ import annotations

import dataclasses
import subprocess
from pathlib import Path

import pytest

from vidlab.capture.ebpf.kernel import links, tracefs
from vidlab.capture.ebpf.kernel.links import Link
from vidlab.capture.ebpf.kernel.programs import Program
from vidlab.capture.ebpf.kernel.tracefs import TracepointFormat

from ..lab import wait_until
from .conftest import Listen, Row

pytestmark = [pytest.mark.needs("ebpf"), pytest.mark.usefixtures("nothing_left")]

TABLE = "kernel_gpu_errors"
EVENT = ("nvidia", "nvidia_dev_xid")


def test_without_the_driver_the_rest_is_recorded(listen: Listen) -> None:
    if tracefs.has_tracepoint(*EVENT):
        pytest.skip("the driver is here")
    with listen("xid", "faults") as heard:
        assert heard.attached() == {"page_fault_user"}
        (problem,) = heard.session.problems
        assert "nvidia:nvidia_dev_xid" in problem
        assert heard.rows(TABLE) == []


def test_an_error_is_a_row_whichever_process_runs(
    listen: Listen, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The event of an exec has the same kinds of fields: a text, a number, another process."""
    known = tracefs.tracepoint_format("sched", "sched_process_exec")
    fields = {
        "dev": known.fields["filename"],
        "error_code": known.fields["pid"],
        "msg": known.fields["filename"],
    }
    stand_in = dataclasses.replace(known, category=EVENT[0], event=EVENT[1], fields=fields)

    format_of_others = tracefs.tracepoint_format

    def format_of(category: str, event: str) -> TracepointFormat:
        return stand_in if (category, event) == EVENT else format_of_others(category, event)

    attach_tracepoint = links.attach_tracepoint

    def attach(program: Program, category: str, event: str) -> Link:
        assert (category, event) == EVENT
        return attach_tracepoint(program, "sched", "sched_process_exec")

    monkeypatch.setattr(tracefs, "tracepoint_format", format_of)
    monkeypatch.setattr(links, "attach_tracepoint", attach)
    script = tmp_path / "a-name-of-more-than-24-bytes"
    script.write_text("#!/bin/true\n")
    script.chmod(0o700)
    with listen("xid") as heard:
        process = subprocess.Popen([script])
        process.wait()
        rows: list[Row] = []

        def told() -> list[Row]:
            # Other processes write into the same ring at any time, in order.
            rows.extend(row for row in heard.rows(TABLE) if row["code"] == process.pid)
            return rows

        wait_until(told)
    assert rows[-1]["symbol"] == "nvidia_dev_xid"
    assert rows[-1]["message"] == str(script)
    assert rows[-1]["device"] == str(script)[:23]
