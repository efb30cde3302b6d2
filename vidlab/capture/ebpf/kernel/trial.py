"""A function of our own to try probes on, and a program that counts how often it is run."""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import struct

from . import bpf, programs
from .bpf import AttachType, Descriptor, Helper, MapType, ProgramType
from .maps import Map

#: Machine code of a function that returns its first argument, by machine. On x86_64 its first
#: instruction is a push, which the kernel need not step through.
_CODE = {
    "x86_64": bytes.fromhex("55 5d 48 89 f8 c3"),
    "aarch64": bytes.fromhex("1f2003d5 c0035fd6"),
}

#: Where in its file the function lies.
OFFSET = 64

#: memfd_create: the memory may be executed. Kernels before 6.3 don't know it and allow it.
_EXECUTABLE = 0x10

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


class TrialFunction(Descriptor):
    """A function in a file that lies only in memory and that nobody else calls.

    Attributes
    ----------
    path : str
        The file, as this process names it while this is open.

    Raises
    ------
    OSError
        If this machine does not let memory be executed, or is of another kind.
    """

    def __init__(self) -> None:
        code = _CODE.get(platform.machine())
        if code is None:
            raise OSError(f"no machine code for {platform.machine()} is known here")
        super().__init__(_memory_file())
        self._address = 0
        try:
            os.write(self.fd, bytes(OFFSET) + code + bytes(mmap.PAGESIZE - OFFSET - len(code)))
            protection = mmap.PROT_READ | mmap.PROT_EXEC
            self._address = _libc.mmap(
                None, mmap.PAGESIZE, protection, mmap.MAP_PRIVATE, self.fd, 0
            )
            if self._address == ctypes.c_void_p(-1).value:
                self._address = 0
                errno = ctypes.get_errno()
                raise OSError(errno, os.strerror(errno))
        except BaseException:
            self.close()
            raise
        self.path = f"/proc/self/fd/{self.fd}"
        self._call = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_uint64)(self.address)

    @property
    def address(self) -> int:
        """Where its first instruction lies in this process's memory."""
        return self._address + OFFSET

    def call(self, argument: int = 0) -> int:
        """Call the function, and return what it returned: its argument (64 bits)."""
        if not self._address:
            raise ValueError("the function has been closed")
        return int(self._call(argument))

    def close(self) -> None:
        """Unmap the function and close its file."""
        address, self._address = self._address, 0
        if address:
            _libc.munmap(address, mmap.PAGESIZE)
        super().close()


def _memory_file() -> int:
    try:
        return os.memfd_create("vidlab-trial", os.MFD_CLOEXEC | _EXECUTABLE)
    except OSError:
        return os.memfd_create("vidlab-trial", os.MFD_CLOEXEC)


class CountingProgram:
    """A program that adds 1 to a number each time that it is run.

    Parameters
    ----------
    type : ProgramType
    attach_type : AttachType

    Raises
    ------
    PrivilegeError, VerifierError
        If it cannot be loaded.
    """

    def __init__(self, type: ProgramType, attach_type: AttachType = AttachType.NONE) -> None:
        self._count = Map.create(MapType.ARRAY, 4, 8, 1, name="vidlab_trial")
        try:
            self.program = programs.load(
                counting_code(self._count.fd), type, attach_type, "vidlab_trial"
            )
        except BaseException:
            self._count.close()
            raise

    @property
    def count(self) -> int:
        """How often it was run."""
        value = self._count.lookup(bytes(4))
        return int.from_bytes(value or b"", "little")

    def close(self) -> None:
        """Let go of the program and its number."""
        self.program.close()
        self._count.close()

    def __enter__(self) -> CountingProgram:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def counting_code(map_fd: int) -> bytes:
    """Return the instructions of a program that adds 1 to an array's first value, atomically."""

    def one(operation: int, registers: int = 0, offset: int = 0, immediate: int = 0) -> bytes:
        return struct.pack("<BBhi", operation, registers, offset, immediate)

    return b"".join(
        [
            one(0x62, 10, -4, 0),  # *(u32 *)(r10 - 4) = 0
            one(0xBF, 10 << 4 | 2),  # r2 = r10
            one(0x07, 2, 0, -4),  # r2 += -4
            one(0x18, bpf.PSEUDO_MAP_FD << 4 | 1, 0, map_fd),  # r1 = the map
            one(0),
            one(0x85, 0, 0, Helper.MAP_LOOKUP_ELEM),  # r0 = lookup(r1, r2)
            one(0x15, 0, 2, 0),  # if r0 == 0, skip two
            one(0xB7, 1, 0, 1),  # r1 = 1
            one(0xDB, 1 << 4 | 0, 0, 0),  # lock *(u64 *)(r0 + 0) += r1
            one(0xB7, 0, 0, 0),  # r0 = 0
            one(0x95),  # exit
        ]
    )
