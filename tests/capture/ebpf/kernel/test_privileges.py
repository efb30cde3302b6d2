"""What a process is told that may not: which capability it lacks, and the two ways to get it."""

from __future__ import annotations

import errno
import shutil

import pytest

from vidlab.capture.ebpf.kernel import bpf, privileges
from vidlab.capture.ebpf.kernel.bpf import KernelError
from vidlab.capture.ebpf.kernel.privileges import PrivilegeError
from vidlab.errors import RecordingError

from ..conftest import child

pytestmark = [pytest.mark.needs("ebpf"), pytest.mark.usefixtures("nothing_left")]

PERFMON, BPF, SYS_ADMIN = 38, 39, 21

CHECK = """
from vidlab.capture.ebpf.kernel import privileges
error = privileges.check()
print(sorted(privileges.effective()), privileges.can_trace())
print(error and error.missing)
print(error)
"""


def check(*command: str, keep: tuple[int, ...] | None = None, before: str = "") -> list[str]:
    return child(before + CHECK, *command, keep=keep).splitlines()


@pytest.mark.parametrize(
    ("keep", "missing", "refused"),
    [
        ((), ("cap_bpf", "cap_perfmon"), "create a map"),
        ((PERFMON,), ("cap_bpf",), "create a map"),
        ((BPF,), ("cap_perfmon",), "load a program"),
    ],
)
def test_each_missing_capability_is_named(
    keep: tuple[int, ...], missing: tuple[str, ...], refused: str
) -> None:
    held, names, message = check(keep=keep)
    assert held.endswith(" False")
    assert names == str(missing)
    assert message.startswith(f"kernel events need {' and '.join(missing)}, which this process")
    assert f"refused to {refused}: Operation not permitted (EPERM)" in message
    assert f"effective capabilities 0x{sum(1 << bit for bit in keep):x}" in message
    assert "kernel.unprivileged_bpf_disabled=" in message
    assert "'sudo vidlab ebpf-broker'" in message
    assert "--cap-add BPF --cap-add PERFMON" in message
    assert "setcap cap_bpf,cap_perfmon+ep" in message


@pytest.mark.parametrize("keep", [(BPF, PERFMON), (SYS_ADMIN,)])
def test_enough_is_enough(keep: tuple[int, ...]) -> None:
    held, names, message = check(keep=keep)
    assert held.endswith(" True")
    assert names == message == "None"


def test_bpf_and_perfmon_are_enough_for_everything_but_tracefs() -> None:
    told = child(
        """
import os
from vidlab.capture.ebpf.kernel import bpf, links, trial, tracefs
tracing = tracefs.tracepoint_format("sched", "sched_switch").id
"""
        + _dropped((BPF, PERFMON))
        + """
kinds = [(bpf.AttachType.UPROBE_MULTI, False)]
if links.has_sessions():
    kinds.append((bpf.AttachType.UPROBE_SESSION, True))
for kind, session in kinds:
    with (
        trial.TrialFunction() as function,
        trial.CountingProgram(bpf.ProgramType.KPROBE, kind) as counting,
        links.attach_uprobes(
            counting.program, function.path, [trial.OFFSET], pid=os.getpid(), session=session
        ),
    ):
        function.call()
        assert counting.count == 1 + session
with (
    trial.CountingProgram(bpf.ProgramType.TRACEPOINT) as counting,
    links.attach_tracepoint_id(counting.program, tracing, "sched:sched_switch"),
):
    while not counting.count:
        os.sched_yield()
with (
    trial.CountingProgram(bpf.ProgramType.RAW_TRACEPOINT) as counting,
    links.attach_raw_tracepoint(counting.program, "sched_switch"),
):
    while not counting.count:
        os.sched_yield()
print("all")
"""
    )
    assert told == "all"


def _dropped(keep: tuple[int, ...]) -> str:
    from ..conftest import DROP

    return DROP.format(keep=keep)


def test_maps_and_programs_say_it_too() -> None:
    told = child(
        """
from vidlab.capture.ebpf.kernel import bpf, maps, privileges, programs
for attempt in (
    lambda: maps.Map.create(bpf.MapType.HASH, 4, 4, 1, name="counts"),
    lambda: programs.load(privileges._RETURN_0, bpf.ProgramType.KPROBE, name="probe"),
    programs.enable_statistics,
):
    try:
        attempt()
    except privileges.PrivilegeError as error:
        print(error.missing, error)
""",
        keep=(),
    ).splitlines()
    assert len(told) == 3
    assert told[0].startswith("('cap_bpf', 'cap_perfmon')")
    assert "create the map 'counts'" in told[0]
    assert "load the program 'probe'" in told[1]
    assert told[2].startswith("('cap_sys_admin',)")


@pytest.mark.skipif(not shutil.which("unshare"), reason="unshare is not installed")
def test_capabilities_inside_a_user_namespace_are_not_enough() -> None:
    held, names, message = check("unshare", "--user", "--map-root-user")
    assert "cap_bpf" in held
    assert held.endswith(" False")
    assert names == "()"
    assert "is inside one, as in a rootless container" in message
    assert "outside the namespace" in message


SECCOMP = """
import ctypes, struct
from vidlab.capture.ebpf.kernel import bpf
_filter = [(0x20, 0, 0, 0), (0x15, 0, 1, bpf._number(bpf._NUMBERS)),
           (0x06, 0, 0, 0x50000 | {errno}), (0x06, 0, 0, 0x7FFF0000)]
_code = ctypes.create_string_buffer(b"".join(struct.pack("<HBBI", *one) for one in _filter))
_program = ctypes.create_string_buffer(struct.pack("<H6xQ", len(_filter), ctypes.addressof(_code)))
assert ctypes.CDLL(None).prctl(22, 2, _program, 0, 0) == 0  # PR_SET_SECCOMP
"""


@pytest.mark.parametrize("said", [errno.EPERM, errno.EACCES, errno.ENOSYS])
def test_a_seccomp_filter_is_suspected(said: int) -> None:
    held, names, message = check(before=SECCOMP.format(errno=said))
    assert "cap_bpf" in held
    assert names == "()"
    assert errno.errorcode[said] in message
    assert "so a seccomp filter forbids it, as Docker's does by default" in message
    assert "--cap-add BPF" in message


def test_what_else_may_be_in_the_way() -> None:
    assert not privileges._in_user_namespace()
    told = privileges.refusal(errno.EPERM, "do it", ("cap_bpf",))
    assert isinstance(told, RecordingError)
    assert told.missing == ()
    if privileges._status()["Seccomp"] == "0":
        assert "a security module or a kernel that is locked down" in str(told)
        told = privileges.refusal(errno.ENOSYS, "do it", ("cap_bpf",))
        assert "CONFIG_BPF_SYSCALL" in str(told)


def test_a_lack_of_memory_is_no_lack_of_rights(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(command: bpf.Command, attributes: bytes) -> int:
        raise KernelError(errno.ENOMEM, "bpf(MAP_CREATE)", command)

    monkeypatch.setattr(bpf, "bpf", refuse)
    with pytest.raises(KernelError, match="ENOMEM"):
        privileges.check()
    assert not privileges.can_trace()


def test_here_everything_is_allowed() -> None:
    assert privileges.check() is None
    assert privileges.can_trace()


def test_the_error_has_its_parts() -> None:
    error = PrivilegeError("this is missing", "Do that.", ["cap_bpf"])
    assert str(error) == "this is missing. Do that."
    assert (error.why, error.remedy, error.missing) == ("this is missing", "Do that.", ("cap_bpf",))
