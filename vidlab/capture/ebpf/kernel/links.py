"""Links: what ties a loaded program to the places where it runs. Closing one takes it off."""

from __future__ import annotations

import ctypes
import errno as errors
import fcntl
import functools
import os
import struct
from collections.abc import Sequence
from pathlib import Path

from ....errors import InputError, RecordingError
from . import bpf, btf, privileges, tracefs
from .bpf import AttachType, Command, Descriptor, KernelError
from .programs import Program

#: The link's flag: the program runs at the return.
_AT_RETURN = 1

#: perf_event_attr: the type of a tracepoint's event, and the structure's size in its first version.
_PERF_TYPE_TRACEPOINT = 2
_PERF_ATTRIBUTES = struct.Struct("<IIQQQQQIIQ")

#: ioctl of a perf event: let it run.
_PERF_ENABLE = 0x2400

#: The functions of the kernel that a session's program calls.
SESSION_FUNCTIONS = ("bpf_session_is_return", "bpf_session_cookie")


class AttachError(RecordingError):
    """A program cannot be attached.

    Attributes
    ----------
    errno : int
        The kernel's error number.
    """

    def __init__(self, message: str, errno: int) -> None:
        super().__init__(message)
        self.errno = errno


class Link(Descriptor):
    """A program in its places. While this is open, the program runs there.

    The kernel takes it off when the last descriptor of the link closes, also at the end of the
    process, unless the link is pinned.

    Attributes
    ----------
    what : str
        Where it is, to read.
    """

    def __init__(self, fd: int, what: str = "") -> None:
        super().__init__(fd)
        self.what = what

    @property
    def id(self) -> int:
        """The kernel's number of the link, by which tools name it."""
        return int(struct.unpack_from("<I", bpf.information(self.fd, 16), 4)[0])

    @property
    def program_id(self) -> int:
        """The kernel's number of the program."""
        return int(struct.unpack_from("<I", bpf.information(self.fd, 16), 8)[0])

    def __repr__(self) -> str:
        return f"<Link {self.what!r} fd={self._fd}>"


def attach_uprobes(
    program: Program,
    path: str | os.PathLike[str],
    offsets: Sequence[int],
    cookies: Sequence[int] = (),
    ref_counters: Sequence[int] = (),
    pid: int = 0,
    returns: bool = False,
    session: bool = False,
) -> Link:
    """Attach a program to places in a file's code, all of them by one link.

    Every process that runs the file's code is meant, now and later, or one alone.

    Parameters
    ----------
    program : Program
        Loaded with the attach type UPROBE_MULTI, or UPROBE_SESSION for a session.
    path : path
        The file, as this process sees it: a library or a program.
    offsets : sequence of int
        Where in the file, in bytes: functions' first instructions.
    cookies : sequence of int
        A number for each offset, which the program reads by get_attach_cookie; none for 0.
    ref_counters : sequence of int
        For each offset where in the file its semaphore lies (of USDT), or 0; none for 0.
    pid : int
        The process whose calls are meant, as this process's pid namespace numbers it; 0 for all.
    returns : bool
        Run at the function's return in place of its entry.
    session : bool
        Run at entry and return, with a word that is kept between (Linux 6.13).

    Raises
    ------
    PrivilegeError
        If this process may not attach.
    AttachError
        With what is wrong: no such file, no such process, an offset that is no code's, a kernel
        that is too old.
    """
    count = len(offsets)
    if not count:
        raise ValueError("a link has at least one offset")
    for name, values in (("cookies", cookies), ("ref_counters", ref_counters)):
        if values and len(values) != count:
            raise ValueError(f"{count} offsets and {len(values)} {name}")
    if session and returns:
        raise ValueError("a session runs at entry and return: returns=True is for a pair")
    kind = AttachType.UPROBE_SESSION if session else AttachType.UPROBE_MULTI
    # All of these stay named until the kernel has read them.
    file = ctypes.c_char_p(os.fsencode(path))
    arrays = [_array(values) for values in (offsets, ref_counters, cookies)]
    pointers = [ctypes.addressof(array) if array is not None else 0 for array in arrays]
    attributes = struct.pack(
        "<IIIIQQQQIII4x",
        *(program.fd, 0, kind, 0),
        *(ctypes.cast(file, ctypes.c_void_p).value, *pointers),
        *(count, _AT_RETURN if returns else 0, pid),
    )
    try:
        fd = bpf.bpf(Command.LINK_CREATE, attributes)
    except KernelError as error:
        raise _uprobe_error(error, program, Path(path), offsets, pid, session) from error
    return Link(fd, f"{path} +{offsets[0]:#x}" + (f" and {count - 1} more" if count > 1 else ""))


def attach_tracepoint(program: Program, category: str, event: str, cookie: int = 0) -> Link:
    """Attach a program of type TRACEPOINT to an event of the kernel, on all CPUs.

    Parameters
    ----------
    program : Program
    category, event : str
        As in tracefs: ``"sched"``, ``"sched_switch"``.
    cookie : int
        What the program reads by get_attach_cookie.

    Raises
    ------
    UnknownTracepointError
        If there is no such event, with near names.
    PrivilegeError
        If this process may not attach, or not read tracefs.
    AttachError
        If the kernel refuses.
    """
    number = tracefs.tracepoint_format(category, event).id
    return attach_tracepoint_id(program, number, f"{category}:{event}", cookie)


def attach_tracepoint_id(program: Program, number: int, what: str, cookie: int = 0) -> Link:
    """Attach a program of type TRACEPOINT to the event with a number from tracefs.

    Parameters
    ----------
    program : Program
    number : int
        The event's ``id`` in tracefs.
    what : str
        Its name, for errors.
    cookie : int
        As for `attach_tracepoint`.

    Raises
    ------
    PrivilegeError
    AttachError
    """
    event = _PERF_ATTRIBUTES.pack(_PERF_TYPE_TRACEPOINT, _PERF_ATTRIBUTES.size, number, *(0,) * 7)
    needed = ("cap_bpf", "cap_perfmon")
    try:
        # One event is enough: the kernel runs a tracepoint's programs on every CPU.
        perf = Descriptor(bpf.perf_event_open(event, -1, _first_cpu()))
    except KernelError as error:
        if privileges.is_refusal(error.errno):
            raise privileges.refusal(error.errno, f"open the event {what}", needed) from error
        raise AttachError(
            f"the kernel does not open the event {what}: {bpf.words(error.errno)}", error.errno
        ) from error
    # The link holds the event from then on.
    with perf:
        attributes = struct.pack("<IIIIQ", program.fd, perf.fd, AttachType.PERF_EVENT, 0, cookie)
        try:
            link = Link(bpf.bpf(Command.LINK_CREATE, attributes), what)
        except KernelError as error:
            raise _attach_error(error, program, what) from error
        try:
            fcntl.ioctl(perf.fd, _PERF_ENABLE, 0)
        except BaseException:
            link.close()
            raise
    return link


def attach_raw_tracepoint(program: Program, name: str) -> Link:
    """Attach a program of type RAW_TRACEPOINT to an event by its name alone.

    Its arguments are the kernel's own objects. tracefs is not needed.

    Raises
    ------
    PrivilegeError
        If this process may not attach.
    AttachError
        If there is no such event, or the kernel refuses.
    """
    text = ctypes.c_char_p(name.encode())
    attributes = struct.pack("<QI4x", ctypes.cast(text, ctypes.c_void_p).value, program.fd)
    try:
        return Link(bpf.bpf(Command.RAW_TRACEPOINT_OPEN, attributes), name)
    except KernelError as error:
        if error.errno == errors.ENOENT:
            raise AttachError(
                f"this kernel has no tracepoint {name!r}: 'vidlab doctor' tells what it has",
                error.errno,
            ) from error
        raise _attach_error(error, program, name) from error


def has_uprobes() -> bool:
    """Return whether the kernel attaches many uprobes by one link (Linux 6.6). Asked once.

    Raises
    ------
    PrivilegeError
        If this process may not ask.
    """
    return _answers(AttachType.UPROBE_MULTI)


def has_sessions() -> bool:
    """Return whether one link can serve entry and return (Linux 6.13). Asked once.

    The functions that such a program calls must be in the kernel's BTF, too.

    Raises
    ------
    PrivilegeError
        If this process may not ask.
    """
    if not _answers(AttachType.UPROBE_SESSION):
        return False
    return btf.available() and all(btf.function_id(name) is not None for name in SESSION_FUNCTIONS)


@functools.cache
def _answers(kind: AttachType) -> bool:
    # A kernel with this kind of link looks at the path and finds that "/" is no file; one without
    # it says EINVAL before. Nothing is attached in either case.
    try:
        with Program(privileges.raw_program(kind), 0) as program:
            os.close(_probe_root(program, kind))
    except KernelError as error:
        if error.errno == errors.EPERM:
            raise privileges.refusal(
                error.errno, "load a program", ("cap_bpf", "cap_perfmon")
            ) from error
        return error.errno == errors.EBADF
    return False


def _probe_root(program: Program, kind: AttachType) -> int:
    path, offsets = ctypes.c_char_p(b"/"), (ctypes.c_uint64 * 1)(0)
    where = ctypes.cast(path, ctypes.c_void_p).value
    attributes = struct.pack(
        "<IIIIQQQQIII4x",
        *(program.fd, 0, kind, 0, where, ctypes.addressof(offsets), 0, 0, 1, 0, 0),
    )
    return bpf.bpf(Command.LINK_CREATE, attributes)


def _array(values: Sequence[int]) -> ctypes.Array[ctypes.c_uint64] | None:
    return (ctypes.c_uint64 * len(values))(*values) if values else None


def _first_cpu() -> int:
    """Return a CPU that is online and ours; CPU 0 may be neither."""
    return min(os.sched_getaffinity(0))


def _uprobe_error(
    error: KernelError,
    program: Program,
    path: Path,
    offsets: Sequence[int],
    pid: int,
    session: bool,
) -> Exception:
    """Return the error for a refused link of uprobes, in words."""
    errno = error.errno
    if privileges.is_refusal(errno):
        if errno == errors.EACCES and not os.access(path, os.R_OK):
            return InputError(f"{path} cannot be opened: {bpf.words(errno)}")
        return privileges.refusal(errno, f"attach to {path}", ("cap_bpf", "cap_perfmon"))
    why = bpf.words(errno)
    if errno in (errors.ENOENT, errors.ENOTDIR):
        why = "there is no such file (a library that was replaced is at /proc/PID/map_files)"
    elif errno == errors.ESRCH:
        why = f"there is no process {pid} (it has ended, or its number is another namespace's)"
    elif errno == errors.EBADF:
        why = "it is not a regular file"
    elif errno == errors.EINVAL:
        why = _why_invalid(program, path, offsets, session)
    elif errno in (bpf.ENOTSUPP, errors.EOPNOTSUPP, errors.ENOEXEC, errors.EIO):
        why = (
            f"the kernel cannot put a breakpoint there ({bpf.words(errno)}): at an offset is no "
            f"instruction that it knows, or the file system keeps no pages of files"
        )
    return AttachError(f"cannot attach to {path}: {why}", errno)


def _why_invalid(program: Program, path: Path, offsets: Sequence[int], session: bool) -> str:
    if session and not has_sessions():
        return "this kernel has no session links (they came with Linux 6.13)"
    if not has_uprobes():
        return "this kernel has no uprobe_multi links (they came with Linux 6.6)"
    wanted = AttachType.UPROBE_SESSION if session else AttachType.UPROBE_MULTI
    if program.attach_type != wanted:
        return f"the program was not loaded for {wanted.name}"
    size = path.stat().st_size
    beyond = [offset for offset in offsets if not 0 <= offset < size]
    if beyond:
        return f"the offset {beyond[0]:#x} is not in the file, which has {size:#x} bytes"
    return f"{bpf.words(errors.EINVAL)}: an offset is not one of code, or a semaphore's is odd"


def _attach_error(error: KernelError, program: Program, what: str) -> Exception:
    if privileges.is_refusal(error.errno):
        doing = f"attach {program.name!r} to {what}"
        # EACCES without a missing privilege: the program reads beyond the event's fields.
        if error.errno == errors.EPERM or privileges.check() is not None:
            return privileges.refusal(error.errno, doing, ("cap_bpf", "cap_perfmon"))
    why = {
        errors.EACCES: "it reads beyond the event's fields",
        errors.E2BIG: "too many programs are attached there",
    }.get(error.errno, "")
    return AttachError(
        f"cannot attach {program.name!r} to {what}: {why or bpf.words(error.errno)}", error.errno
    )
