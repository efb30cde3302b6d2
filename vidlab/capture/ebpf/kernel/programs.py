"""Programs: loaded into the kernel, verified by it, and asked how they fare."""

from __future__ import annotations

import ctypes
import errno as errors
import os
import struct
from dataclasses import dataclass

from ....errors import RecordingError
from . import bpf, privileges
from .bpf import AttachType, Command, Descriptor, KernelError, ProgramType

#: Room for the verifier's log at first, and at most, in bytes.
_LOG_FIRST, _LOG_MOST = 1 << 16, 1 << 24

#: How many of the log's last lines an error shows.
SHOWN_LINES = 12

#: ``bpf_prog_info``: where the fields are that we read, and its size with them.
_INFO_SIZE = 232


class VerifierError(RecordingError):
    """The kernel refused a program.

    Attributes
    ----------
    program : str
        The program's name.
    errno : int
        The kernel's error number.
    log : str
        All that the verifier wrote; the message ends with its last lines.
    """

    def __init__(self, program: str, errno: int, log: str) -> None:
        lines = [line for line in log.splitlines() if line.strip()]
        shown = "\n".join(f"    {line}" for line in lines[-SHOWN_LINES:])
        if not shown:
            shown = (
                "    (the verifier wrote nothing: this kernel does not know the program's type "
                "or how it is to be attached; uprobes need Linux 6.6, see 'vidlab doctor')"
            )
        super().__init__(
            f"the kernel refuses the program {program!r}: {bpf.words(errno)}. Its verifier's last "
            f"lines:\n{shown}"
        )
        self.program = program
        self.errno = errno
        self.log = log


@dataclass(frozen=True, slots=True)
class ProgramInfo:
    """What the kernel knows of a loaded program.

    Attributes
    ----------
    id : int
        The kernel's number of it.
    type : int
        As in `bpf.ProgramType`.
    name : str
        At most 15 characters.
    map_ids : tuple of int
        The maps that it uses. Empty where this process may not be told.
    run_count, run_time_ns : int
        How often it ran and for how long in total, while the kernel's statistics were on
        (`enable_statistics`); else 0.
    recursion_misses : int
        How often it was not run because the CPU was inside a program already. Always counted.
    verified_instructions : int
        Instructions that the verifier walked through, over all paths.
    """

    id: int
    type: int
    name: str
    map_ids: tuple[int, ...]
    run_count: int
    run_time_ns: int
    recursion_misses: int
    verified_instructions: int


class Program(Descriptor):
    """A program in the kernel. Gone when its descriptor, its links and its pins are.

    Attributes
    ----------
    type, attach_type : int
        What it was loaded as; `attach_type` is 0 where that is not known.
    name : str
        As the kernel has it.
    """

    def __init__(self, fd: int, type: int, attach_type: int = 0, name: str = "") -> None:
        super().__init__(fd)
        self.type = type
        self.attach_type = attach_type
        self.name = name

    @classmethod
    def from_fd(cls, fd: int, attach_type: int = 0) -> Program:
        """Return the program behind a descriptor, which the program then owns.

        Raises
        ------
        KernelError
            If it is not a program's; the descriptor is left open then.
        """
        told = _information(fd)
        return cls(fd, told.type, attach_type, told.name)

    def info(self) -> ProgramInfo:
        """Return what the kernel knows of it now."""
        return _information(self.fd)

    def test_run(self, context: bytes = b"", cpu: int | None = None) -> int:
        """Run the program once, here and now, and return what it returned (32 bits).

        Parameters
        ----------
        context : bytes
            What the program finds behind its first argument.
        cpu : int or None
            On which CPU. Only raw tracepoints can be told.

        Raises
        ------
        KernelError
            ENOTSUPP, if programs of this type cannot be run so: only those of raw tracepoints
            and system calls can.
        """
        address = ctypes.cast(ctypes.c_char_p(context), ctypes.c_void_p).value if context else 0
        on_cpu = 1
        attributes = ctypes.create_string_buffer(
            struct.pack(
                "<IIIIQQIIIIQQIII",
                *(self.fd, 0, 0, 0, 0, 0, 0, 0),
                *(len(context), 0, address, 0),
                *(0 if cpu is None else on_cpu, cpu or 0, 0),
            ),
            80,
        )
        bpf.bpf(Command.PROG_TEST_RUN, attributes)
        return int(struct.unpack_from("<I", attributes, 4)[0])

    def __repr__(self) -> str:
        return f"<Program {self.name!r} fd={self._fd}>"


def load(
    code: bytes,
    type: ProgramType,
    attach_type: AttachType = AttachType.NONE,
    name: str = "",
    license: str = bpf.LICENSE,
) -> Program:
    """Load a program into the kernel.

    Parameters
    ----------
    code : bytes
        Its instructions, 8 bytes each, with the maps' descriptors in place.
    type : ProgramType
    attach_type : AttachType
        How it is going to be attached.
    name : str
        Shown by tools and in errors; the kernel keeps 15 characters.
    license : str
        Most helpers want one compatible with the GPL.

    Raises
    ------
    PrivilegeError
        If this process may not load programs.
    VerifierError
        If the kernel refuses this one, with its reasons.
    """
    try:
        fd = bpf.load_program(code, type, attach_type, name, license)
    except KernelError as error:
        if error.errno == errors.EPERM:
            raise privileges.refusal(
                error.errno, f"load the program {name!r}", ("cap_bpf", "cap_perfmon")
            ) from error
        # The log costs time, so only a program that was refused is loaded with it.
        raise VerifierError(
            name, error.errno, _log_of(code, type, attach_type, name, license)
        ) from error
    return Program(fd, type, attach_type, bpf.object_name(name).decode())


def enable_statistics() -> Descriptor:
    """Have the kernel count runs and run time of all programs while the result is open.

    This costs every program in the kernel some 20 ns a run.

    Raises
    ------
    PrivilegeError
        Without cap_sys_admin.
    """
    run_time = 0
    try:
        return Descriptor(bpf.bpf(Command.ENABLE_STATS, struct.pack("<I", run_time)))
    except KernelError as error:
        if error.errno == errors.EPERM:
            raise privileges.refusal(
                error.errno, "count the runs of programs", ("cap_sys_admin",)
            ) from error
        raise


def _log_of(code: bytes, type: int, attach_type: int, name: str, license: str) -> str:
    """Return what the verifier says against a program, all of it if 16 MiB hold it."""
    size = _LOG_FIRST
    while True:
        log = ctypes.create_string_buffer(size)
        try:
            # It was refused a moment ago; if not now, then that was the reason's own.
            os.close(bpf.load_program(code, type, attach_type, name, license, log))
        except KernelError as error:
            # No room: the end is missing, and with it the reason, on kernels before 6.4.
            if error.errno == errors.ENOSPC and size < _LOG_MOST:
                size *= 4
                continue
        return log.value.decode(errors="replace")


def _information(fd: int) -> ProgramInfo:
    first = bpf.information(fd, _INFO_SIZE)
    (map_count,) = struct.unpack_from("<I", first, 52)
    maps: tuple[int, ...] = ()
    if map_count:
        # Asked again with room for the maps' ids, which were counted a moment ago.
        ids = (ctypes.c_uint32 * map_count)()
        room = ctypes.create_string_buffer(_INFO_SIZE)
        struct.pack_into("<IQ", room, 52, map_count, ctypes.addressof(ids))
        attributes = struct.pack("<IIQ", fd, _INFO_SIZE, ctypes.addressof(room))
        bpf.bpf(Command.OBJ_GET_INFO_BY_FD, attributes)
        maps = tuple(ids)
    type, id = struct.unpack_from("<II", first)
    time, count, misses, verified = struct.unpack_from("<QQQI", first, 192)
    return ProgramInfo(
        id=id,
        type=type,
        name=first[64:80].rstrip(b"\0").decode(errors="replace"),
        map_ids=maps,
        run_count=count,
        run_time_ns=time,
        recursion_misses=misses,
        verified_instructions=verified,
    )
