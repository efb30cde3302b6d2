"""bpf(2) and who owns what it returns."""

from __future__ import annotations

import errno
import os
import platform
import signal
import struct

import pytest

from vidlab.capture.ebpf.kernel import bpf, programs
from vidlab.capture.ebpf.kernel.bpf import Command, Descriptor, KernelError, ProgramType
from vidlab.errors import RecordingError

RETURN_0 = struct.pack("<BBhiBBhi", 0xB7, 0, 0, 0, 0x95, 0, 0, 0)


def test_a_refused_call_says_what_and_why() -> None:
    with pytest.raises(KernelError) as told:
        bpf.bpf(Command.MAP_FREEZE, struct.pack("<I", 1 << 30))
    assert told.value.errno == errno.EBADF
    assert told.value.command is Command.MAP_FREEZE
    assert str(told.value) == "bpf(MAP_FREEZE): Bad file descriptor (EBADF)"
    assert isinstance(told.value, RecordingError)


def test_errors_of_the_kernel_alone_have_words() -> None:
    assert bpf.words(524) == "Operation is not supported (ENOTSUPP)"
    assert "(EPERM)" in bpf.words(errno.EPERM)


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("short", b"short"),
        ("kernel_cuMemAlloc_v2", b"kernel_cuMemAll"),
        ("a b/c-d:é", b"a_b_c_d__"),
        ("dots.are.kept", b"dots.are.kept"),
        ("", b""),
    ],
)
def test_names_are_such_as_the_kernel_takes(name: str, kept: bytes) -> None:
    assert bpf.object_name(name) == kept


@pytest.mark.needs("ebpf")
def test_the_kernel_takes_any_name(nothing_left: object) -> None:
    with programs.load(RETURN_0, ProgramType.KPROBE, name="é/ x\n" * 9) as program:
        assert program.info().name == "___x____x____x_" == program.name


def test_another_machine_is_told_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    with pytest.raises(KernelError, match="x86_64 and aarch64, and this machine is riscv64"):
        bpf.bpf(Command.MAP_CREATE, bytes(72))


def test_a_descriptor_closes_once() -> None:
    read, write = os.pipe()
    os.close(write)
    with Descriptor(read) as descriptor:
        assert descriptor.fd == descriptor.fileno() == read
    assert descriptor.closed
    # The number may be another file's by now: closing again must not touch it.
    reused = os.dup(0)
    try:
        descriptor.close()
        os.fstat(reused)
    finally:
        os.close(reused)
    with pytest.raises(RecordingError, match="has been closed"):
        _ = descriptor.fd


def test_a_forgotten_descriptor_is_closed_and_told() -> None:
    read, write = os.pipe()
    os.close(write)
    descriptor = Descriptor(read)
    with pytest.warns(ResourceWarning, match="unclosed <Descriptor"):
        del descriptor
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(read)


@pytest.mark.needs("ebpf")
def test_signals_do_not_fail_a_load(nothing_left: object) -> None:
    # Long enough for a signal to fall into the verifier's work again and again.
    code = struct.pack("<BBhi", 0xB7, 0, 0, 0) * 4000 + RETURN_0
    came = []
    before = signal.signal(signal.SIGALRM, lambda *_: came.append(1))
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    try:
        while len(came) < 50:
            programs.load(code, ProgramType.KPROBE).close()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
