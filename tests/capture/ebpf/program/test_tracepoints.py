"""Tracepoints in the real kernel: their fields, texts and processes."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from pathlib import Path

import pytest

from vidlab.capture.ebpf import (
    Counter,
    Histogram,
    Tracepoint,
    field,
    string,
)
from vidlab.capture.ebpf.declaring.layout import Layout
from vidlab.capture.ebpf.kernel import links, tracefs
from vidlab.capture.ebpf.kernel.bpf import AttachType, ProgramType
from vidlab.capture.ebpf.program import moments
from vidlab.capture.ebpf.program.context import ProgramContext
from vidlab.capture.ebpf.program.counting import bucket_of
from vidlab.errors import InputError

from .lab import Kernel

pytestmark = [pytest.mark.needs("ebpf"), pytest.mark.usefixtures("nothing_left")]


def attach_tracepoint(kernel: Kernel, number: int) -> None:
    source = kernel.members[number]
    of = getattr(source, "of", source)
    context = kernel.context(number, format=tracefs.tracepoint_format(of.category, of.event))
    code = moments.tracepoint(context, source)
    program = kernel.load(code, AttachType.NONE, ProgramType.TRACEPOINT)
    link = links.attach_tracepoint(program, of.category, of.event)
    kernel.links.append(kernel._undo.enter_context(link))


def target_us(kernel: Kernel) -> None:
    kernel.maps["targets"].update(os.getpid().to_bytes(4, "little"), bytes(8))


def test_a_tracepoints_fields_and_texts() -> None:
    members = {
        0: Tracepoint(
            "task",
            "task_rename",
            {
                "who": field("pid"),
                "old": string(field("oldcomm"), 16),
                "new": string(field("newcomm"), 24),
                "adj": field("oom_score_adj"),
            },
            name="t",
        ),
        1: Tracepoint("task", "task_rename", when=field("pid") == 1, name="t"),
        2: Tracepoint("task", "task_rename", tid=threading.get_native_id(), name="t"),
    }
    comm = Path(f"/proc/self/task/{threading.get_native_id()}/comm")
    old = comm.read_text().strip()
    with Kernel(None, members, targets=True) as kernel:
        for number in members:
            attach_tracepoint(kernel, number)
        comm.write_text("ignored")
        target_us(kernel)
        try:
            comm.write_text("renamed")
            comm.write_text("again")
        finally:
            comm.write_text(old)
        records = kernel.records()
        first = records[records["probe"] == 0]
        assert first["old"].tolist() == [b"ignored", b"renamed", b"again"]
        assert first["new"].tolist() == [b"renamed", b"again", old.encode()]
        assert set(first["who"]) == {threading.get_native_id()}
        assert set(first["adj"]) == {int(Path("/proc/self/oom_score_adj").read_text())}
        assert not (records["probe"] == 1).any()
        assert (records["probe"] == 2).sum() == 3
        # Where nobody is meant, nothing is a hit: other processes rename themselves too.
        assert kernel.counts(0) == {"hits": 3, "emitted": 3}
        assert kernel.counts(1) == {"hits": 3, "filtered": 3}


def test_a_text_whose_length_varies(tmp_path: Path) -> None:
    source = Tracepoint(
        "sched",
        "sched_process_exec",
        {"file": string(field("filename"), 64), "who": field("pid")},
        everywhere=True,
    )
    program = tmp_path / "a_program_of_ours"
    program.symlink_to("/bin/true")
    with Kernel(None, {0: source}) as kernel:
        attach_tracepoint(kernel, 0)
        with subprocess.Popen([str(program)]) as process:
            process.wait()
        records = kernel.records()
        (ours,) = records[records["who"] == process.pid]
        assert ours["file"] == str(program).encode()[:63]
        assert ours["pid"] == process.pid


def test_a_text_that_the_kernel_or_the_program_has(tmp_path: Path) -> None:
    if not tracefs.has_tracepoint("syscalls", "sys_enter_openat"):
        pytest.skip("this kernel has no tracepoints of system calls")
    source = Tracepoint(
        "syscalls",
        "sys_enter_openat",
        {"file": string(field("filename"), 128), "flags": field("flags")},
        tid=threading.get_native_id(),
    )
    path = str(tmp_path / "not there")
    with Kernel(None, {0: source}, targets=True) as kernel:
        target_us(kernel)
        attach_tracepoint(kernel, 0)
        for _ in range(3):
            with pytest.raises(FileNotFoundError):
                os.open(path, os.O_RDWR)
        records = kernel.records()
        ours = records[records["file"] == path.encode()]
        assert set(ours["flags"] & os.O_ACCMODE) == {os.O_RDWR}
        assert len(ours) == 3


def test_a_tracepoints_metric() -> None:
    members = {
        0: Counter("renamed_total", Tracepoint("task", "task_rename")),
        1: Histogram("renamed", Tracepoint("task", "task_rename"), field("pid")),
    }
    tid = threading.get_native_id()
    comm = Path(f"/proc/self/task/{tid}/comm")
    for number in members:
        with Kernel(None, members, targets=True) as kernel:
            target_us(kernel)
            attach_tracepoint(kernel, number)
            for _ in range(3):
                comm.write_text(comm.read_text().strip())
            assert kernel.values() == {(0, 0 if number == 0 else bucket_of(tid)): 3}


def test_fields_that_are_not_there_or_no_numbers_are_refused() -> None:
    format = tracefs.tracepoint_format("task", "task_rename")

    def refuse(source: Tracepoint, words: str) -> None:
        context = ProgramContext(index=0, layout=Layout({0: source}), format=format)
        with pytest.raises(InputError, match=words):
            moments.tracepoint(context, source)

    refuse(
        Tracepoint("task", "task_rename", ["size"]),
        r"task:task_rename has no field 'size'; it has pid, oldcomm, newcomm, oom_score_adj",
    )
    refuse(
        Tracepoint("task", "task_rename", ["oldcomm"]),
        r"char\[\] and no number: record string\(field\('oldcomm'\)\)",
    )
    refuse(Tracepoint("task", "task_rename", ["common_pid"]), "lies where programs cannot read it")


def test_numbers_keep_their_sign() -> None:
    source = Tracepoint(
        "signal",
        "signal_generate",
        {"sig": field("sig"), "code": field("code")},
        when=(field("sig") == int(signal.SIGURG)) & (field("code") < 0),
    )
    with Kernel(None, {0: source}, targets=True) as kernel:
        target_us(kernel)
        attach_tracepoint(kernel, 0)
        os.kill(os.getpid(), signal.SIGURG)  # which is ignored; its code is SI_USER, 0
        signal.pthread_kill(threading.get_ident(), signal.SIGURG)
        si_tkill = -6
        assert kernel.records()[["sig", "code"]].tolist() == [(signal.SIGURG, si_tkill)]
