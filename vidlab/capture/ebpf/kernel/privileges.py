"""What this process may ask of bpf(2), and the error that says what it lacks and how to get it."""

from __future__ import annotations

import errno as errors
import os
import struct
from collections.abc import Iterable
from pathlib import Path

from ....errors import RecordingError
from . import bpf
from .bpf import Command, KernelError, MapType, ProgramType

#: The capabilities that matter here, by name and bit.
CAPABILITIES = {
    "cap_sys_ptrace": 19,
    "cap_sys_admin": 21,
    "cap_sys_resource": 24,
    "cap_perfmon": 38,
    "cap_bpf": 39,
}

#: What stands in /proc/self/uid_map outside every user namespace.
_ALL_USERS = ["0", "0", "4294967295"]

#: return 0, as instructions: the smallest program.
_RETURN_0 = struct.pack("<BBhiBBhi", 0xB7, 0, 0, 0, 0x95, 0, 0, 0)

_LACKING = (
    "Either run 'sudo vidlab ebpf-broker', and the notebook stays unprivileged; or give this "
    "process CAP_BPF and CAP_PERFMON: 'sudo setcap cap_bpf,cap_perfmon+ep' on a Python of its "
    "own, or '--cap-add BPF --cap-add PERFMON' for a container."
)

_SECCOMP = (
    "Either run 'sudo vidlab ebpf-broker' outside the container, and the notebook stays "
    "unprivileged; or start the container with '--cap-add BPF --cap-add PERFMON', with which "
    "the usual seccomp profile allows bpf()."
)

_NAMESPACE = (
    "Either run 'sudo vidlab ebpf-broker' outside the namespace, and the notebook stays "
    "unprivileged; or start this process outside it, with CAP_BPF and CAP_PERFMON."
)


class PrivilegeError(RecordingError):
    """This process may not do what a kernel event needs.

    Attributes
    ----------
    why : str
        What was refused, and what is missing.
    remedy : str
        What to do about it. The message is both.
    missing : tuple of str
        The capabilities that are missing, such as ``("cap_bpf",)``. Empty if it has them and
        something else is in the way (seccomp, a user namespace).
    """

    def __init__(self, why: str, remedy: str, missing: Iterable[str] = ()) -> None:
        super().__init__(f"{why}. {remedy}")
        self.why = why
        self.remedy = remedy
        self.missing = tuple(missing)


def effective() -> frozenset[str]:
    """Return the names of the effective capabilities of this thread, of those that matter here."""
    bits = int(_status().get("CapEff", "0"), 16)
    return frozenset(name for name, bit in CAPABILITIES.items() if bits >> bit & 1)


def refusal(errno: int, doing: str, needed: Iterable[str] = ()) -> PrivilegeError:
    """Return the error for a call that the kernel refused for lack of a privilege.

    Parameters
    ----------
    errno : int
        What it said: EPERM or EACCES, or ENOSYS, which some seccomp filters say.
    doing : str
        What was asked, to read after "refused to": ``"create a map"``.
    needed : iterable of str
        The capabilities of which the call needs all; each is had by ``cap_sys_admin`` as well.
    """
    status, held = _status(), effective()
    missing = [name for name in needed if name not in held and "cap_sys_admin" not in held]
    caps = f"effective capabilities 0x{int(status.get('CapEff', '0'), 16):x}"
    said = f"the kernel refused to {doing}: {bpf.words(errno)}"
    if _in_user_namespace():
        return PrivilegeError(
            "kernel events need CAP_BPF and CAP_PERFMON outside of every user namespace, and this "
            f"process is inside one, as in a rootless container ({said}; {caps})",
            _NAMESPACE,
            missing,
        )
    if missing:
        names = " and ".join(missing)
        setting = f"kernel.unprivileged_bpf_disabled={_setting('unprivileged_bpf_disabled')}"
        return PrivilegeError(
            f"kernel events need {names}, which this process lacks ({said}; {caps}; {setting})",
            _LACKING,
            missing,
        )
    if status.get("Seccomp", "0") != "0":
        return PrivilegeError(
            f"{said}. This process has the capabilities ({caps}), so a seccomp filter forbids it, "
            "as Docker's does by default",
            _SECCOMP,
        )
    if errno == errors.ENOSYS:
        return PrivilegeError(f"{said}", "Use a kernel that was built with CONFIG_BPF_SYSCALL.")
    return PrivilegeError(
        f"{said}. This process has the capabilities ({caps}), so a security module or a kernel "
        "that is locked down forbids it",
        "See 'dmesg' and /sys/kernel/security/lockdown.",
    )


def check() -> PrivilegeError | None:
    """Try what every kernel event needs, and return the error if something is refused.

    A map is created and a program loaded, and both are let go at once. The error names the
    capability that is missing: ``cap_bpf`` if not even a map may be made, ``cap_perfmon`` if
    only programs may not.

    Returns
    -------
    PrivilegeError or None
        The error to raise or to show, not raised. None: kernel events are allowed.

    Raises
    ------
    KernelError
        If the trial failed for another reason, such as a lack of memory.
    """
    for doing, attempt in (("create a map", raw_map), ("load a program", raw_program)):
        try:
            os.close(attempt())
        except KernelError as error:
            if not is_refusal(error.errno) and error.errno != errors.ENOSYS:
                raise
            return refusal(error.errno, doing, ("cap_bpf", "cap_perfmon"))
    return None


def can_trace() -> bool:
    """Return whether this process may load kernel programs itself."""
    try:
        return check() is None
    except KernelError:
        return False


def raw_map() -> int:
    """Create the smallest map and return its descriptor, as a trial of the right to."""
    attributes = struct.pack("<IIIII", MapType.ARRAY, 4, 8, 1, 0) + bytes(8)
    name = bpf.object_name("vidlab_trial").ljust(16, b"\0")
    return bpf.bpf(Command.MAP_CREATE, attributes + name)


def raw_program(attach_type: int = 0, code: bytes = _RETURN_0) -> int:
    """Load a program as a uprobe's, by default the smallest, and return its descriptor."""
    return bpf.load_program(code, ProgramType.KPROBE, attach_type, "vidlab_trial")


def is_refusal(errno: int) -> bool:
    """Return whether an error number says that a privilege is missing."""
    return errno in (errors.EPERM, errors.EACCES)


def _status() -> dict[str, str]:
    """Return this thread's entries of /proc: capabilities are a thread's own."""
    try:
        text = Path("/proc/thread-self/status").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    pairs = (line.partition(":") for line in text.splitlines())
    return {key: value.strip() for key, _, value in pairs}


def _setting(name: str) -> str:
    try:
        return Path("/proc/sys/kernel", name).read_text(encoding="ascii").strip()
    except OSError:
        return "unknown"


def _in_user_namespace() -> bool:
    try:
        return Path("/proc/self/uid_map").read_text(encoding="ascii").split() != _ALL_USERS
    except OSError:
        return False
