"""The system call bpf(2), by ctypes: one function, its numbers, and who owns a descriptor.

Nothing here needs a library beyond the C library that Python itself runs on. The numbers are
those of the kernel's ``include/uapi/linux/bpf.h`` and never change.
"""

from __future__ import annotations

import ctypes
import enum
import errno as errors
import os
import platform
import re
import signal
import struct
import warnings
from types import TracebackType
from typing import Self

from ....errors import RecordingError

#: The system call's number by machine.
_NUMBERS = {"x86_64": 321, "aarch64": 280}

#: perf_event_open(2), which tracepoints are attached by.
_PERF_NUMBERS = {"x86_64": 298, "aarch64": 241}

#: The licence of our programs, by which the kernel lets them call all its helpers.
LICENSE = "Dual MIT/GPL"

#: Bytes of an instruction.
INSTRUCTION = 8

#: A name of a program or map in the kernel: 15 characters of these.
NAME_LENGTH = 15
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_.]")


class Command(enum.IntEnum):
    """What bpf(2) is asked to do."""

    MAP_CREATE = 0
    MAP_LOOKUP_ELEM = 1
    MAP_UPDATE_ELEM = 2
    MAP_DELETE_ELEM = 3
    MAP_GET_NEXT_KEY = 4
    PROG_LOAD = 5
    OBJ_PIN = 6
    OBJ_GET = 7
    PROG_TEST_RUN = 10
    PROG_GET_NEXT_ID = 11
    MAP_GET_NEXT_ID = 12
    PROG_GET_FD_BY_ID = 13
    MAP_GET_FD_BY_ID = 14
    OBJ_GET_INFO_BY_FD = 15
    RAW_TRACEPOINT_OPEN = 17
    MAP_LOOKUP_AND_DELETE_ELEM = 21
    MAP_FREEZE = 22
    MAP_LOOKUP_BATCH = 24
    MAP_LOOKUP_AND_DELETE_BATCH = 25
    MAP_UPDATE_BATCH = 26
    MAP_DELETE_BATCH = 27
    LINK_CREATE = 28
    LINK_UPDATE = 29
    LINK_GET_FD_BY_ID = 30
    LINK_GET_NEXT_ID = 31
    ENABLE_STATS = 32
    LINK_DETACH = 34


class MapType(enum.IntEnum):
    """The kinds of maps in use here."""

    HASH = 1
    ARRAY = 2
    PROG_ARRAY = 3
    PERCPU_HASH = 5
    PERCPU_ARRAY = 6
    STACK_TRACE = 7
    LRU_HASH = 9
    LRU_PERCPU_HASH = 10
    RINGBUF = 27


class ProgramType(enum.IntEnum):
    """The kinds of programs in use here. A uprobe's is `KPROBE`."""

    KPROBE = 2
    TRACEPOINT = 5
    PERF_EVENT = 7
    RAW_TRACEPOINT = 17
    SYSCALL = 31


class AttachType(enum.IntEnum):
    """How a program is going to be attached, said when it is loaded and when it is linked."""

    NONE = 0
    PERF_EVENT = 41
    UPROBE_MULTI = 48
    UPROBE_SESSION = 57


class Helper(enum.IntEnum):
    """The kernel's functions that programs call by number."""

    MAP_LOOKUP_ELEM = 1
    MAP_UPDATE_ELEM = 2
    MAP_DELETE_ELEM = 3
    KTIME_GET_NS = 5
    GET_PRANDOM_U32 = 7
    GET_SMP_PROCESSOR_ID = 8
    TAIL_CALL = 12
    GET_CURRENT_PID_TGID = 14
    GET_CURRENT_COMM = 16
    GET_CURRENT_TASK = 35
    PROBE_READ_USER = 112
    PROBE_READ_KERNEL = 113
    PROBE_READ_USER_STR = 114
    PROBE_READ_KERNEL_STR = 115
    RINGBUF_OUTPUT = 130
    RINGBUF_RESERVE = 131
    RINGBUF_SUBMIT = 132
    RINGBUF_DISCARD = 133
    RINGBUF_QUERY = 134
    GET_ATTACH_COOKIE = 174


#: Flags of map updates: whatever is there, only a new key, only a key that is there.
ANY, NOEXIST, EXIST = 0, 1, 2

#: Flags of map creation.
F_NO_PREALLOC = 0x1
F_MMAPABLE = 0x400
F_RDONLY_PROG = 0x80
F_RDONLY = 0x8  # the descriptor, for system calls; programs write all the same

#: Flags of ringbuf_submit, and what ringbuf_query tells.
RB_NO_WAKEUP, RB_FORCE_WAKEUP = 1, 2
RB_AVAIL_DATA, RB_RING_SIZE, RB_CONS_POS, RB_PROD_POS = 0, 1, 2, 3

#: src_reg of a call whose number is a kernel function's BTF id, and of a 64-bit load of a map.
PSEUDO_KFUNC_CALL = 2
PSEUDO_MAP_FD = 1


class KernelError(RecordingError):
    """The kernel refused a call.

    Attributes
    ----------
    errno : int
        Its error number, as in the module `errno`.
    command : Command or None
        What bpf(2) was asked; None for another system call.
    """

    def __init__(self, errno: int, what: str, command: Command | None = None) -> None:
        super().__init__(f"{what}: {words(errno)}")
        self.errno = errno
        self.command = command


#: ENOTSUPP, which the kernel keeps for itself and yet lets out here.
ENOTSUPP = 524


def words(errno: int) -> str:
    """Return an error number in words, with its name: ``"Invalid argument (EINVAL)"``."""
    if errno == ENOTSUPP:
        return "Operation is not supported (ENOTSUPP)"
    return f"{os.strerror(errno)} ({errors.errorcode.get(errno, errno)})"


_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long


def bpf(command: Command, attributes: bytes | ctypes.Array[ctypes.c_char]) -> int:
    """Call bpf(2) and return its result, a descriptor for the commands that make one.

    Parameters
    ----------
    command : Command
        What to do.
    attributes : bytes or ctypes array of char
        The union ``bpf_attr``, packed. Where the kernel answers in it, give an array
        (`ctypes.create_string_buffer`), which then holds the answer.

    Raises
    ------
    KernelError
        With the error number. A call that a signal cut short is repeated without signals.
    """
    number = _number(_NUMBERS)
    errno = _errno_of(number, command, attributes)
    # The verifier gives up with EAGAIN when a signal waits. It may take longer than the time
    # between two signals of a sampling profiler, so the second try has none.
    cut_short = errno == errors.EINTR or (errno == errors.EAGAIN and command is Command.PROG_LOAD)
    if cut_short:
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            errno = _errno_of(number, command, attributes)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    if errno > 0:
        raise KernelError(errno, f"bpf({command.name})", command)
    return -errno


def _errno_of(number: int, command: int, attributes: bytes | ctypes.Array[ctypes.c_char]) -> int:
    """Make the call, and return its error number, or its result as zero or less."""
    answer = int(_syscall(number, int(command), attributes, len(attributes)))
    return ctypes.get_errno() if answer < 0 else -answer


def load_program(
    code: bytes,
    type: int,
    attach_type: int = 0,
    name: str = "",
    license: str = LICENSE,
    log: ctypes.Array[ctypes.c_char] | None = None,
) -> int:
    """Load a program and return its descriptor. `programs.load` is for all but trials.

    Parameters
    ----------
    code : bytes
        Whole instructions of 8 bytes.
    type, attach_type : int
        As in `ProgramType` and `AttachType`.
    name, license : str
    log : ctypes array of char or None
        Where the verifier writes its log.

    Raises
    ------
    KernelError
        The kernel's own error if it refuses.
    ValueError
        If `code` is not whole instructions.
    """
    if not code or len(code) % INSTRUCTION:
        raise ValueError(f"a program is whole instructions of 8 bytes, not {len(code)} bytes")
    # Named, so that they live until the call is over.
    code_text, license_text = ctypes.c_char_p(code), ctypes.c_char_p(license.encode())
    attributes = struct.pack(
        "<IIQQIIQII16sIIIIQIIQII",
        *(type, len(code) // INSTRUCTION),
        *(ctypes.cast(text, ctypes.c_void_p).value for text in (code_text, license_text)),
        *(1 if log else 0, len(log) if log else 0, ctypes.addressof(log) if log else 0),
        *(0, 0, object_name(name), 0, attach_type),
        *(0, 0, 0, 0, 0, 0, 0, 0),
    )
    return bpf(Command.PROG_LOAD, attributes)


def perf_event_open(attributes: bytes, pid: int, cpu: int) -> int:
    """Call perf_event_open(2) and return the event's descriptor, closed at exec.

    Raises
    ------
    KernelError
        With the error number; its `command` is None.
    """
    close_on_exec = 8
    answer = int(_syscall(_number(_PERF_NUMBERS), attributes, pid, cpu, -1, close_on_exec))
    if answer < 0:
        raise KernelError(ctypes.get_errno(), "perf_event_open")
    return answer


def _number(numbers: dict[str, int]) -> int:
    machine = platform.machine()
    try:
        return numbers[machine]
    except KeyError:
        known = " and ".join(numbers)
        raise KernelError(
            errors.ENOSYS, f"kernel events are known on {known}, and this machine is {machine}"
        ) from None


def object_name(name: str) -> bytes:
    """Return a name as the kernel takes it: cut to 15 characters, odd ones replaced by ``_``."""
    return _NOT_IN_NAMES.sub("_", name)[:NAME_LENGTH].encode()


def information(fd: int, size: int) -> bytes:
    """Return what the kernel knows of a map, program or link, as its ``bpf_*_info`` structure.

    Parameters
    ----------
    fd : int
        The object's descriptor.
    size : int
        How many bytes to ask for. Where the kernel knows fewer, the rest is zero.
    """
    room = ctypes.create_string_buffer(size)
    bpf(Command.OBJ_GET_INFO_BY_FD, struct.pack("<IIQ", fd, size, ctypes.addressof(room)))
    return room.raw


class Descriptor:
    """A file descriptor and who closes it. Closing twice is nothing; leaving it open is told.

    Parameters
    ----------
    fd : int
        The descriptor, owned from now on.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @property
    def fd(self) -> int:
        """The descriptor.

        Raises
        ------
        RecordingError
            If it has been closed.
        """
        if self._fd < 0:
            raise RecordingError(f"this {type(self).__name__} of the kernel has been closed")
        return self._fd

    @property
    def closed(self) -> bool:
        """Whether it has been closed."""
        return self._fd < 0

    def fileno(self) -> int:
        """Return the descriptor, as `select` and the like ask for it."""
        return self.fd

    def close(self) -> None:
        """Close the descriptor. The kernel frees what nobody else holds."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, stacklevel=2, source=self)
            self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} fd={self._fd}>"
