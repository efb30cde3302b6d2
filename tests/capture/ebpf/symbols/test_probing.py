"""The places that are found are where the kernel sees the calls: one hit for each call."""

from __future__ import annotations

import ctypes
import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from vidlab.capture.ebpf.kernel.bpf import AttachType, ProgramType
from vidlab.capture.ebpf.kernel.links import attach_uprobes
from vidlab.capture.ebpf.kernel.trial import CountingProgram
from vidlab.capture.ebpf.symbols import Process, Target
from vidlab.capture.gpu import hostcuda

pytestmark = [pytest.mark.needs("ebpf"), pytest.mark.usefixtures("nothing_left")]

WORK = "int before(void){return 0;} int work(int x){return x + 1;}"


@pytest.fixture
def counting(nothing_left: object) -> Iterator[CountingProgram]:
    with CountingProgram(ProgramType.KPROBE, AttachType.UPROBE_MULTI) as counting:
        yield counting


def the_target(library: str, symbol: str) -> Target:
    (target,) = Process().find(library, symbol) or []
    return target


def assert_counts(counting: CountingProgram, target: Target, library: ctypes.CDLL) -> None:
    with attach_uprobes(counting.program, target.path, [target.offset]):
        for number in range(100):
            assert library.work(number) == number + 1
    assert counting.count == 100


def test_an_exported_function(counting, compile_library):
    path = compile_library("libexported.so", WORK)
    library = ctypes.CDLL(str(path))
    assert_counts(counting, the_target("libexported", "work"), library)


def test_a_function_that_only_symtab_names(counting, compile_library):
    source = """
    static __attribute__((noinline, used)) int inside(int x){return x + 1;}
    int work(int x){return inside(x);}
    """
    library = ctypes.CDLL(str(compile_library("libinside.so", source)))
    assert_counts(counting, the_target("libinside", "inside"), library)


def test_a_library_that_was_deleted_after_it_was_loaded(counting, compile_library):
    path = compile_library("libdeleted.so", WORK)
    library = ctypes.CDLL(str(path))
    path.unlink()
    assert_counts(counting, the_target("libdeleted", "work"), library)


def test_a_library_that_was_replaced_after_it_was_loaded(counting, compile_library):
    path = compile_library("libreplaced.so", WORK)
    library = ctypes.CDLL(str(path))
    new = compile_library("new/libreplaced.so", "int other(void){return 9;}" + WORK)
    new.replace(path)
    target = the_target("libreplaced", "work")
    assert target.path != str(path)
    assert_counts(counting, target, library)


def test_a_library_that_is_loaded_later(counting, compile_library):
    path = compile_library("liblater.so", WORK)
    target = the_target(str(path), "work")
    assert not target.mapped
    with attach_uprobes(counting.program, target.path, [target.offset]):
        library = ctypes.CDLL(str(path))
        assert library.work(1) == 2
    assert counting.count == 1


def test_a_library_that_is_in_memory_only(counting, compile_library):
    path = compile_library("libmemory.so", WORK)
    fd = os.memfd_create("libcounted.so", os.MFD_CLOEXEC)
    os.write(fd, path.read_bytes())
    library = ctypes.CDLL(f"/proc/self/fd/{fd}")
    os.close(fd)
    assert_counts(counting, the_target("memfd:libcounted.so", "work"), library)


@pytest.mark.needs("hostcuda")
def test_hostcudas_functions_are_seen_through_their_names(counting):
    hostcuda.install(devices=2)
    target = the_target("libhostcuda", "cudaGetDevice")
    device = ctypes.c_int()
    gc.collect()  # CuPy's memory that nobody holds any more would be freed at any moment
    with attach_uprobes(counting.program, target.path, [target.offset], pid=os.getpid()):
        for _ in range(10):
            hostcuda.library().cudaGetDevice(ctypes.byref(device))
    assert counting.count == 10
    assert Path(target.library).name == "libhostcuda.so"
