"""Links in the real kernel: every call of a function of ours, no more and no fewer."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import platform
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from vidlab.capture.ebpf.kernel import bpf, links, programs, trial
from vidlab.capture.ebpf.kernel.bpf import AttachType, Helper, MapType, ProgramType
from vidlab.capture.ebpf.kernel.links import AttachError, attach_uprobes
from vidlab.capture.ebpf.kernel.maps import Map
from vidlab.capture.ebpf.kernel.trial import OFFSET, CountingProgram, TrialFunction
from vidlab.errors import InputError

from .test_bpf import RETURN_0

pytestmark = [pytest.mark.needs("ebpf"), pytest.mark.usefixtures("nothing_left")]

CALLS = 1000


@pytest.fixture
def function(nothing_left: object) -> Iterator[TrialFunction]:
    with TrialFunction() as function:
        yield function


@pytest.fixture
def counting(nothing_left: object) -> Iterator[CountingProgram]:
    with CountingProgram(ProgramType.KPROBE, AttachType.UPROBE_MULTI) as counting:
        yield counting


def counting_by_cookie(map_fd: int) -> bytes:
    """The instructions of a program that adds 1 to the array's value at its link's cookie."""
    cookie = struct.pack("<BBhi", 0x85, 0, 0, Helper.GET_ATTACH_COOKIE)
    store = struct.pack("<BBhi", 0x63, 10, -4, 0)  # *(u32 *)(r10 - 4) = r0
    return cookie + store + trial.counting_code(map_fd)[8:]


def test_every_call_is_seen_while_the_link_is_open(
    function: TrialFunction, counting: CountingProgram
) -> None:
    function.call()
    with attach_uprobes(counting.program, function.path, [OFFSET]) as link:
        assert link.program_id == counting.program.info().id
        assert f"link_id:\t{link.id}\n" in Path(f"/proc/self/fdinfo/{link.fd}").read_text()
        assert [function.call(number) for number in range(CALLS)] == list(range(CALLS))
        assert counting.count == CALLS
    function.call()
    assert counting.count == CALLS


def test_returns_and_sessions(function: TrialFunction, counting: CountingProgram) -> None:
    with attach_uprobes(counting.program, function.path, [OFFSET], returns=True):
        for number in range(CALLS):
            function.call(number)
    assert counting.count == CALLS
    if not links.has_sessions():
        pytest.skip("this kernel has no sessions")
    with CountingProgram(ProgramType.KPROBE, AttachType.UPROBE_SESSION) as both:
        with attach_uprobes(both.program, function.path, [OFFSET], session=True):
            for number in range(CALLS):
                function.call(number)
        assert both.count == 2 * CALLS


#: Where the registers of a program's context keep the instruction pointer, by machine.
POINTER = {"x86_64": 128, "aarch64": 256}


@pytest.mark.parametrize("returns", [False, True])
def test_the_return_is_not_the_entry(function: TrialFunction, returns: bool) -> None:
    with Map.create(MapType.ARRAY, 4, 8, 1) as where:
        code = trial.counting_code(where.fd)
        # r6 = the context's instruction pointer; at the end it is stored in place of adding 1.
        code = struct.pack("<BBhi", 0x79, 1 << 4 | 6, POINTER[platform.machine()], 0) + code[:56]
        code += struct.pack("<BBhi", 0xBF, 6 << 4 | 1, 0, 0)  # r1 = r6
        code += struct.pack("<BBhi", 0x7B, 1 << 4, 0, 0) + RETURN_0  # *(u64 *)r0 = r1
        with (
            programs.load(code, ProgramType.KPROBE, AttachType.UPROBE_MULTI) as program,
            attach_uprobes(program, function.path, [OFFSET], returns=returns),
        ):
            function.call()
        pointer = int.from_bytes(where.lookup(bytes(4)) or b"", "little")
    assert pointer != 0
    assert (pointer == function.address) is not returns


def test_each_offset_has_its_cookie(function: TrialFunction) -> None:
    offsets = [OFFSET, OFFSET + 1, OFFSET + 5]  # push, pop, ret
    with Map.create(MapType.ARRAY, 4, 8, 8) as counts:
        code = counting_by_cookie(counts.fd)
        with (
            programs.load(code, ProgramType.KPROBE, AttachType.UPROBE_MULTI) as program,
            attach_uprobes(program, function.path, offsets, cookies=[6, 1, 3]),
        ):
            for _ in range(CALLS):
                function.call()
        told = struct.unpack("<8Q", counts.read().values)
    assert told == (0, CALLS, 0, CALLS, 0, 0, CALLS, 0)


def test_many_offsets_in_one_link(counting: CountingProgram, tmp_path: Path) -> None:
    file = tmp_path / "code"
    file.write_bytes(b"\x90" * 8192)
    with attach_uprobes(counting.program, file, range(4096), cookies=range(4096)) as link:
        assert link.what == f"{file} +0x0 and 4095 more"


def test_a_semaphore_counts_the_links(function: TrialFunction, counting: CountingProgram) -> None:
    # The semaphore is a number in the file's writable mapping, as USDT has it.
    os.ftruncate(function.fd, 2 * mmap.PAGESIZE)
    at = mmap.PAGESIZE + 16
    with mmap.mmap(
        function.fd,
        mmap.PAGESIZE,
        mmap.MAP_PRIVATE,
        mmap.PROT_READ | mmap.PROT_WRITE,
        offset=mmap.PAGESIZE,
    ) as data:

        def semaphore() -> int:
            return int(struct.unpack_from("<H", data, 16)[0])

        assert semaphore() == 0
        with attach_uprobes(counting.program, function.path, [OFFSET], ref_counters=[at]):
            assert semaphore() == 1
            function.call()
        assert semaphore() == 0
    assert counting.count == 1


def test_one_process_or_all(function: TrialFunction, counting: CountingProgram) -> None:
    with subprocess.Popen(["sleep", "60"]) as other:
        try:
            with attach_uprobes(counting.program, function.path, [OFFSET], pid=other.pid):
                function.call()
            assert counting.count == 0
        finally:
            other.kill()
    with attach_uprobes(counting.program, function.path, [OFFSET], pid=os.getpid()):
        thread = threading.Thread(target=function.call)
        thread.start()
        thread.join()
        function.call()
    assert counting.count == 2


def test_a_link_taken_off_while_it_fires(
    function: TrialFunction, counting: CountingProgram
) -> None:
    over, calls = threading.Event(), [0]

    def work() -> None:
        while not over.is_set():
            function.call()
            calls[0] += 1

    thread = threading.Thread(target=work)
    thread.start()
    try:
        for _ in range(5):
            seen = counting.count
            with attach_uprobes(counting.program, function.path, [OFFSET]):
                while counting.count == seen:
                    pass
    finally:
        over.set()
        thread.join()
    assert 0 < counting.count <= calls[0]


def gone() -> int:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


@pytest.mark.parametrize(
    ("path", "offset", "pid", "errno_", "words"),
    [
        ("/no/such/file.so", 0, 0, errno.ENOENT, "there is no such file"),
        ("/proc/self/status/x", 0, 0, errno.ENOTDIR, "there is no such file"),
        ("/usr", 0, 0, errno.EBADF, "not a regular file"),
        (None, 1 << 40, 0, errno.EINVAL, "the offset 0x10000000000 is not in the file"),
        (None, OFFSET, -1, errno.ESRCH, "there is no process"),
    ],
)
def test_what_cannot_be_attached_says_why(
    function: TrialFunction,
    counting: CountingProgram,
    path: str | None,
    offset: int,
    pid: int,
    errno_: int,
    words: str,
) -> None:
    with pytest.raises(AttachError, match=words) as told:
        attach_uprobes(
            counting.program, path or function.path, [offset], pid=gone() if pid else 0
        ).close()
    assert told.value.errno == errno_


def test_no_instruction_no_breakpoint(function: TrialFunction, counting: CountingProgram) -> None:
    os.pwrite(function.fd, b"\x06\x06\x06\x06", 1024)  # no instruction of any 64-bit machine
    with pytest.raises(AttachError, match="at an offset is no instruction"):
        attach_uprobes(counting.program, function.path, [1024]).close()


def test_a_program_loaded_for_something_else(
    function: TrialFunction, counting: CountingProgram
) -> None:
    with pytest.raises(AttachError, match="not loaded for UPROBE_SESSION"):
        attach_uprobes(counting.program, function.path, [OFFSET], session=True).close()


def test_an_older_kernel_is_told_so(
    function: TrialFunction, counting: CountingProgram, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(command: bpf.Command, attributes: bytes) -> int:
        if command is bpf.Command.LINK_CREATE:
            raise bpf.KernelError(errno.EINVAL, "bpf(LINK_CREATE)", command)
        return real(command, attributes)

    real = bpf.bpf
    links._answers.cache_clear()
    monkeypatch.setattr(bpf, "bpf", refuse)
    try:
        assert not links.has_uprobes()
        assert not links.has_sessions()
        with pytest.raises(
            AttachError, match=r"no uprobe_multi links \(they came with Linux 6.6\)"
        ):
            attach_uprobes(counting.program, function.path, [OFFSET])
        with pytest.raises(AttachError, match=r"no session links \(they came with Linux 6.13\)"):
            attach_uprobes(counting.program, function.path, [OFFSET], session=True)
    finally:
        links._answers.cache_clear()
    monkeypatch.undo()
    assert links.has_uprobes()


def test_arguments_that_do_not_fit(function: TrialFunction, counting: CountingProgram) -> None:
    for arguments, words in [
        ({"offsets": []}, "at least one offset"),
        ({"offsets": [1, 2], "cookies": [1]}, "2 offsets and 1 cookies"),
        ({"offsets": [1], "ref_counters": [1, 2]}, "1 offsets and 2 ref_counters"),
        ({"offsets": [1], "session": True, "returns": True}, "a session runs at entry"),
    ]:
        with pytest.raises(ValueError, match=words):
            attach_uprobes(counting.program, function.path, **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("raw", [False, True])
def test_a_tracepoint_is_seen_on_every_cpu(raw: bool) -> None:
    type = ProgramType.RAW_TRACEPOINT if raw else ProgramType.TRACEPOINT
    with (
        Map.create(MapType.PERCPU_ARRAY, 4, 8, 1) as counts,
        programs.load(trial.counting_code(counts.fd), type) as program,
    ):
        if raw:
            link = links.attach_raw_tracepoint(program, "sched_switch")
        else:
            link = links.attach_tracepoint(program, "sched", "sched_switch")
        allowed = os.sched_getaffinity(0)

        def told() -> list[int]:
            values = counts.lookup_percpu(bytes(4))
            assert values is not None
            return [int.from_bytes(value, "little") for value in values]

        pause = threading.Event()
        until = time.monotonic() + 60
        with link:
            try:
                for cpu in allowed:
                    os.sched_setaffinity(0, {cpu})
                    # A pause that is over before it begins gives no CPU away.
                    while told()[cpu] < 20:
                        assert time.monotonic() < until
                        pause.wait(0.001)
            finally:
                os.sched_setaffinity(0, allowed)
        # A program that runs on another CPU at this moment is yet to count itself.
        before, last = [], told()
        while last != before:
            assert time.monotonic() < until
            pause.wait(0.001)
            before, last = last, told()


def test_events_that_are_not_there() -> None:
    with programs.load(RETURN_0, ProgramType.TRACEPOINT) as program:
        with pytest.raises(InputError, match="did you mean sched:sched_switch"):
            links.attach_tracepoint(program, "sched", "sched_swich")
        with pytest.raises(AttachError, match="does not open the event x:y"):
            links.attach_tracepoint_id(program, 1 << 30, "x:y")
    with (
        programs.load(RETURN_0, ProgramType.RAW_TRACEPOINT) as program,
        pytest.raises(AttachError, match="no tracepoint 'nothing_like_it'"),
    ):
        links.attach_raw_tracepoint(program, "nothing_like_it")


def test_a_program_that_reads_beyond_the_event() -> None:
    # r0 = *(u64 *)(r1 + 4000)
    code = struct.pack("<BBhi", 0x79, 1 << 4, 4000, 0) + RETURN_0
    with (
        programs.load(code, ProgramType.TRACEPOINT, name="beyond") as program,
        pytest.raises(AttachError, match=r"'beyond' .* reads beyond the event's fields"),
    ):
        links.attach_tracepoint(program, "sched", "sched_switch")


def test_a_killed_process_leaves_nothing(function: TrialFunction) -> None:
    """The links of a process end with it, however it ends."""
    code = f"""
import os, signal
from vidlab.capture.ebpf.kernel import bpf, links, trial
counting = trial.CountingProgram(bpf.ProgramType.KPROBE, bpf.AttachType.UPROBE_MULTI)
link = links.attach_uprobes(counting.program, "/proc/{os.getpid()}/fd/{function.fd}", [{OFFSET}])
tracing = trial.CountingProgram(bpf.ProgramType.TRACEPOINT)
other = links.attach_tracepoint(tracing.program, "sched", "sched_switch")
os.kill(os.getpid(), signal.SIGKILL)
"""
    ended = subprocess.run([sys.executable, "-c", code], check=False)
    assert ended.returncode == -9
    assert function.call(5) == 5


def test_trial_functions_are_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial.platform, "machine", lambda: "riscv64")
    with pytest.raises(OSError, match="riscv64"):
        TrialFunction()


def test_a_closed_trial_function_is_not_called() -> None:
    with TrialFunction() as function:
        assert function.call(2**64 - 1) == 2**64 - 1
    with pytest.raises(ValueError, match="closed"):
        function.call()
    assert ctypes.sizeof(ctypes.c_void_p) == 8
