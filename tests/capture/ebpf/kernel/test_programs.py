"""Programs in the real kernel: loaded, refused with reasons, and asked how they fare."""

from __future__ import annotations

import errno
import os
import struct
import threading
from pathlib import Path

import pytest

from vidlab.capture.ebpf.kernel import bpf, links, programs
from vidlab.capture.ebpf.kernel.bpf import AttachType, KernelError, MapType, ProgramType
from vidlab.capture.ebpf.kernel.maps import Map
from vidlab.capture.ebpf.kernel.programs import Program, VerifierError
from vidlab.capture.ebpf.kernel.trial import CountingProgram, counting_code
from vidlab.errors import RecordingError

from .test_bpf import RETURN_0

pytestmark = [pytest.mark.needs("ebpf"), pytest.mark.usefixtures("nothing_left")]

EXIT = struct.pack("<BBhi", 0x95, 0, 0, 0)
NOTHING = struct.pack("<BBhi", 0xB7, 0, 0, 0)  # r0 = 0


def test_a_program_tells_what_it_is() -> None:
    with Map.create(MapType.ARRAY, 4, 8, 1) as table, Map.create(MapType.HASH, 4, 8, 1) as other:
        code = counting_code(table.fd)[:-16] + counting_code(other.fd)
        with programs.load(code, ProgramType.KPROBE, AttachType.UPROBE_MULTI, "told") as program:
            info = program.info()
            assert (info.type, info.name) == (ProgramType.KPROBE, "told")
            assert set(info.map_ids) == {table.id, other.id}
            lines = Path(f"/proc/self/fdinfo/{program.fd}").read_text().splitlines()
            told = {name: value.strip() for name, _, value in (x.partition(":") for x in lines)}
            assert info.id == int(told["prog_id"])
            assert info.recursion_misses == int(told["recursion_misses"])
            assert info.verified_instructions == int(told["verified_insns"])
            with Program.from_fd(os.dup(program.fd)) as same:
                assert same.info() == info
                assert same.name == "told"


def test_a_refused_program_says_why_in_the_verifiers_words() -> None:
    with pytest.raises(VerifierError) as told:
        programs.load(EXIT, ProgramType.KPROBE, name="my_probe")
    message = str(told.value)
    assert "'my_probe'" in message
    assert "(EACCES)" in message
    assert "R0 !read_ok" in message.splitlines()[-2]
    assert "R0 !read_ok" in told.value.log
    assert told.value.program == "my_probe"
    assert isinstance(told.value, RecordingError)


def test_a_long_log_is_whole_and_the_message_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "_LOG_FIRST", 256)
    code = NOTHING * 3000 + struct.pack("<BBhi", 0xBF, 9 << 4, 0, 0) + EXIT  # r0 = r9
    with pytest.raises(VerifierError) as told:
        programs.load(code, ProgramType.KPROBE)
    assert told.value.log.startswith("0: R1=ctx()")
    assert len(told.value.log) > 3000 * 10
    assert "R9 !read_ok" in told.value.log
    assert len(str(told.value).splitlines()) == 1 + programs.SHOWN_LINES
    assert "R9 !read_ok" in str(told.value)


def test_a_type_that_the_kernel_does_not_know_is_told() -> None:
    with pytest.raises(VerifierError, match="does not know the program's type") as told:
        programs.load(RETURN_0, 999)  # type: ignore[arg-type]
    assert told.value.errno == errno.EINVAL


@pytest.mark.parametrize("code", [b"", bytes(7), RETURN_0 + b"x"])
def test_code_is_whole_instructions(code: bytes) -> None:
    with pytest.raises(ValueError, match="whole instructions"):
        programs.load(code, ProgramType.KPROBE)


def test_helpers_for_the_gpl_want_the_licence() -> None:
    # r1 = r10 - 8, r2 = 8, r3 = 0, probe_read_user
    code = struct.pack("<BBhi", 0xBF, 10 << 4 | 1, 0, 0) + struct.pack("<BBhi", 0x07, 1, 0, -8)
    code += struct.pack("<BBhi", 0xB7, 2, 0, 8) + struct.pack("<BBhi", 0xB7, 3, 0, 0)
    code += struct.pack("<BBhi", 0x85, 0, 0, bpf.Helper.PROBE_READ_USER) + RETURN_0
    programs.load(code, ProgramType.KPROBE).close()
    with pytest.raises(VerifierError, match="GPL"):
        programs.load(code, ProgramType.KPROBE, license="Proprietary").close()


def test_a_raw_tracepoints_program_can_be_run_by_hand() -> None:
    with CountingProgram(ProgramType.RAW_TRACEPOINT) as counting:
        for _ in range(5):
            assert counting.program.test_run() == 0
        assert counting.count == 5
        for cpu in os.sched_getaffinity(0):
            counting.program.test_run(cpu=cpu)
    argument = struct.pack("<BBhi", 0x79, 1 << 4, 8, 0)  # r0 = the second argument
    with programs.load(argument + EXIT, ProgramType.RAW_TRACEPOINT) as program:
        assert program.test_run(struct.pack("<QQ", 1, 0x1_2345_6789)) == 0x2345_6789


def test_a_program_that_cannot_be_run_by_hand_says_so() -> None:
    with (
        programs.load(RETURN_0, ProgramType.KPROBE) as program,
        pytest.raises(KernelError) as told,
    ):
        program.test_run()
    assert told.value.errno == bpf.ENOTSUPP


def test_runs_are_counted_while_asked_for() -> None:
    with (
        CountingProgram(ProgramType.TRACEPOINT) as counting,
        links.attach_tracepoint(counting.program, "sched", "sched_switch"),
        programs.enable_statistics(),
    ):
        pause = threading.Event()
        while not counting.program.info().run_count:
            pause.wait(0.001)
        info = counting.program.info()
        assert info.run_count <= counting.count
        assert info.run_time_ns > 0
