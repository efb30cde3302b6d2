"""From the names in a declaration to the places that are probed, in real processes."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
from pathlib import Path

import av
import cupy
import pytest

from vidlab.capture.ebpf.symbols import (
    ElfError,
    Process,
    UnknownSymbolError,
    find,
    find_usdt,
    symbols,
)
from vidlab.capture.gpu import hostcuda
from vidlab.errors import InputError

from .conftest import SYMBOLS

WORK = "int work(void){return 1;} int work_v2(void){return 2;}"
HERE = platform.machine()


def test_pyavs_library_is_found_by_its_plain_name():
    folder = Path(av.__file__).parents[1] / "av.libs"
    found = find(None, "libavcodec", "avcodec_send_packet")
    assert found is not None
    (mine,) = [target for target in found if Path(target.library).parent == folder]
    (expected,) = symbols(mine.library).lookup("avcodec_send_packet")
    assert (mine.path, mine.offset, mine.size) == (mine.library, expected.offset, expected.size)
    assert mine.mapped


def test_cupys_own_cuda_runtime_is_found_by_its_modules_path():
    assert cupy.cuda is not None
    pattern = "cupy_backends/cuda/api/runtime.*.so"
    (target,) = find(None, pattern, "cudaMalloc") or []
    assert target.library.endswith(".so")
    assert symbols(target.path).lookup("cudaMalloc")[0].offset == target.offset


@pytest.mark.needs("hostcuda")
def test_hostcuda_is_what_exports_the_cuda_runtime():
    names = ["cudaMalloc", "cudaFree", "cudaMemcpyAsync", "cudaStreamSynchronize"]
    found = Process().find_all("libhostcuda", names)
    assert found is not None
    library = hostcuda.library()
    for name in names:
        (target,) = found[name]
        code = Path(target.path).read_bytes()[target.offset :][: target.size]
        address = ctypes.cast(getattr(library, name), ctypes.c_void_p).value
        assert ctypes.string_at(address, target.size) == code
    everywhere = Process().find("*", "cudaMalloc") or []
    assert found["cudaMalloc"][0] in everywhere


def test_the_soname_is_a_name_as_well(compile_library, start):
    path = compile_library("libwork.so.535.1", WORK, "-Wl,-soname,libwork.so.1")
    process = start(path)
    assert find(process.pid, "libwork.so.1", "work")
    assert find(process.pid, "libwork.so.2", "work") is None


def test_a_link_to_the_library_is_its_path_as_well(compile_library, start):
    path = compile_library("libwork.so.1.0", WORK)
    link = path.with_name("libwork.so")
    link.symlink_to(path.name)
    (target,) = find(start(path).pid, str(link), "work") or []
    assert target.library == str(path)
    assert target.mapped


def test_a_symbol_in_two_libraries_is_probed_in_both(compile_library, start):
    first = compile_library("liba.so", WORK)
    second = compile_library("libb.so", "int before(void){return 3;}" + WORK)
    process = Process(start(first, second).pid)
    for pattern in ("lib[ab].so", "*"):
        found = process.find(pattern, "work") or []
        assert {target.library for target in found} == {str(first), str(second)}
    assert len({target.offset for target in found}) == 2
    # One that has it is enough.
    (only,) = process.find("lib[ab].so", "before") or []
    assert only.library == str(second)


def test_a_missing_symbol_comes_with_near_names(compile_library, start):
    path = compile_library("libwork.so", WORK)
    process = Process(start(path).pid)
    with pytest.raises(
        UnknownSymbolError,
        match=f"no function 'work_v3' is in {path}; did you mean work_v2 or work\\?",
    ):
        process.find("libwork", "work_v3")
    with pytest.raises(UnknownSymbolError, match="exports a function 'werk': name the library"):
        process.find("*", "werk")


def test_near_names_of_a_library_that_is_gone_are_left_out(compile_library, start):
    path = compile_library("libwork.so", WORK)
    process = Process(start().pid)
    with pytest.raises(UnknownSymbolError) as caught:
        process.find(str(path), "work_v3")
    path.unlink()
    assert str(caught.value) == f"no function 'work_v3' is in {path}"


def test_a_damaged_table_of_one_library_does_not_hide_the_other(image, start, tmp_path):
    image.section(".symtab", SYMBOLS, bytes(24), link=99)
    (tmp_path / "liba.so").write_bytes(image.build())
    image.sections.clear()
    image.symbols([("work", 0x401010)])
    (tmp_path / "libb.so").write_bytes(image.build())
    process = Process(start().pid)
    (target,) = process.find(f"{tmp_path}/lib?.so", "work") or []
    assert target.library == str(tmp_path / "libb.so")
    with pytest.raises(ElfError, match="its symbols have no names"):
        process.find(f"{tmp_path}/lib?.so", "werk")


def test_many_symbols_at_once_leave_out_those_that_are_missing(compile_library, start):
    process = Process(start(compile_library("libwork.so", WORK)).pid)
    found = process.find_all("libwork", ["work", "work_v2", "work_v3", "work"])
    assert found is not None
    assert {name: len(targets) for name, targets in found.items()} == {"work": 1, "work_v2": 1}
    assert process.find_all("libnothing_of_the_kind", ["work"]) is None
    assert process.find_all("*", ["nothing_of_the_kind"]) == {}


def test_everywhere_means_what_is_exported(compile_library, start):
    local = "static __attribute__((noinline,used)) int inside(int x){return x * 3;}"
    path = compile_library("libwork.so", local + "int work(int x){return inside(x);}")
    process = Process(start(path).pid)
    assert process.find("libwork", "inside")
    with pytest.raises(UnknownSymbolError):
        process.find("*", "inside")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("int work[3] = {1};", "is not a function: there is no code at its address"),
        (
            "static int fast(void){return 1;} static void *choose(void){return fast;}"
            'int work(void) __attribute__((ifunc("choose")));',
            r"called once to choose one \(IFUNC\)",
        ),
    ],
)
def test_what_is_no_function_is_refused_with_the_reason(source, message, compile_library, start):
    process = Process(start(compile_library("libwork.so", source)).pid)
    with pytest.raises(UnknownSymbolError, match=message):
        process.find("libwork", "work")
    assert process.find_all("libwork", ["work"]) == {}


def test_a_stripped_library_has_what_it_exports(compile_library, start):
    path = compile_library("libwork.so", WORK)
    subprocess.run(["strip", str(path)], check=True)
    assert find(start(path).pid, "libwork", "work")


def test_a_deleted_library_is_found_where_it_is_mapped(compile_library, start):
    path = compile_library("libwork.so", WORK)
    process = start(path)
    path.unlink()
    (target,) = find(process.pid, "libwork", "work") or []
    assert target.library == str(path)
    assert target.path.startswith(f"/proc/{process.pid}/map_files/")
    (same,) = find(process.pid, str(path), "work") or []
    assert same == target


def test_of_a_replaced_library_the_mapped_one_is_probed_and_later_the_new_one(
    compile_library, start
):
    path = compile_library("libwork.so", WORK)
    process = Process(start(path).pid)
    compile_library("new/libwork.so", "int before(void){return 3;}" + WORK).replace(path)
    (old,) = process.find(str(path), "work") or []
    assert old.mapped
    both = process.find(str(path), "work", later=True) or []
    assert [target.mapped for target in both] == [True, False]
    assert both[0] == old
    assert both[1].path == str(path)
    assert both[0].offset != both[1].offset


def test_later_does_not_name_a_loaded_library_twice(compile_library, start):
    path = compile_library("libwork.so.1", WORK)
    path.with_name("libwork.so").symlink_to(path.name)
    process = Process(start(path).pid)
    found = process.find(f"{path.parent}/libwork.so*", "work", later=True) or []
    assert [target.mapped for target in found] == [True]


def test_a_library_that_is_not_loaded_yet_is_found_on_disk(compile_library, start):
    path = compile_library("libwork.so", WORK)
    process = Process(start().pid)
    (target,) = process.find(str(path), "work") or []
    assert (target.path, target.mapped) == (str(path), False)


def test_a_library_that_is_nowhere_is_none_and_near_ones_are_known():
    process = Process()
    assert process.find("libavcodek.so.1", "avcodec_send_packet") is None
    assert process.find_usdt("libavcodek.so.1", "a", "b") is None
    assert "libavcodec.so" in process.near_libraries("libavcodek.so.1")
    assert "libavcodec" in process.near_libraries("libavcodek")


def test_a_library_of_another_architecture_says_so(image, tmp_path, start):
    image.machine = 40
    path = tmp_path / "libforeign.so"
    path.write_bytes(image.build())
    process = Process(start().pid)
    with pytest.raises(ElfError, match=f"64-bit ELF file for ARM: .* {HERE}, only"):
        process.find(str(path), "work")
    with pytest.raises(ElfError, match="64-bit ELF file for ARM"):
        process.find_usdt(str(path), "app", "work")


def test_a_damaged_library_beside_a_good_one_does_no_harm(compile_library, start, tmp_path):
    compile_library("good/libwork.so", WORK)
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "libwork.so").write_bytes(b"\x7fELF" + os.urandom(500))
    process = Process(start().pid)
    (target,) = process.find(f"{tmp_path}/*/libwork.so", "work") or []
    assert target.library.endswith("good/libwork.so")


def test_a_library_that_is_damaged_while_it_is_mapped(compile_library, start):
    path = compile_library("libwork.so", WORK)
    process = Process(start(path).pid)
    with path.open("r+b") as file:
        file.write(b"\x7fXLF")
    with pytest.raises(ElfError, match="not an ELF file"):
        process.find("libwork", "work")
    with pytest.raises(UnknownSymbolError):
        process.find("*", "work")


def test_a_process_that_ends_meanwhile_is_an_error_and_no_crash(compile_library, start):
    path = compile_library("libwork.so", WORK)
    started = start(path)
    process = Process(started.pid)
    path.unlink()
    started.communicate()
    with pytest.raises(InputError, match="cannot be opened: No such file"):
        process.find("libwork", "work")
    with pytest.raises(InputError, match="there is no process"):
        Process(started.pid)


@pytest.mark.skipif(not Path("/usr/bin/python3.11").exists(), reason="no Debian python3.11")
def test_usdt_probes_of_debians_python():
    program = "/usr/bin/python3.11"
    command = [program, "-c", "print(1, flush=True); input()"]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        child.stdout.readline()
        for library in ("python3.11", program, "*"):
            (target,) = find_usdt(child.pid, library, "python", "gc__done") or []
            assert (target.library, target.mapped) == (program, True)
            assert target.ref_counter > 0
            assert target.arguments[0].size == 8
        with pytest.raises(
            UnknownSymbolError,
            match=f"python:gc__dun is in {program}; did you mean python:gc__done",
        ):
            find_usdt(child.pid, "python3.11", "python", "gc__dun")
    finally:
        child.communicate(b"\n")


def test_a_library_without_usdt_probes_says_so(compile_library, start):
    path = compile_library("libwork.so", WORK)
    with pytest.raises(UnknownSymbolError, match=f"no USDT probes are built into {path}"):
        find_usdt(start(path).pid, "libwork", "app", "work")
