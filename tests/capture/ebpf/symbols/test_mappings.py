"""Which file a process has really mapped, whatever lies at its path by now."""

from __future__ import annotations

import ctypes
import mmap
import os
import shutil
import subprocess
import sys

import pytest

from vidlab.capture.ebpf.symbols import mapped_libraries, symbols
from vidlab.capture.ebpf.symbols.mappings import mappings
from vidlab.errors import InputError

WORK = "int work(void){return 1;}"


def library_of(pid, name):
    (found,) = [library for library in mapped_libraries(pid) if library.name == name]
    return found


def test_what_is_mapped_is_as_the_kernel_says(tmp_path):
    path = tmp_path / "a file\nwith (all)"
    path.write_bytes(bytes(3 * mmap.PAGESIZE))
    with path.open("r+b") as file:
        held = mmap.mmap(file.fileno(), mmap.PAGESIZE, offset=mmap.PAGESIZE)
    (found,) = [mapping for mapping in mappings() if mapping.path == str(path)]
    status = path.stat()
    assert (found.device, found.inode) == (status.st_dev, status.st_ino)
    assert (found.offset, found.end - found.start) == (mmap.PAGESIZE, mmap.PAGESIZE)
    assert not found.executable
    assert not found.deleted
    path.unlink()
    (found,) = [mapping for mapping in mappings() if mapping.path == str(path)]
    assert found.deleted
    held.close()


def test_what_is_no_file_has_no_inode():
    stack = next(mapping for mapping in mappings() if mapping.path == "[stack]")
    assert (stack.inode, stack.device, stack.deleted) == (0, 0, False)


def test_a_librarys_own_path_leads_to_it(compile_library, start):
    path = compile_library("libwork.so", WORK)
    library = library_of(start(path).pid, "libwork.so")
    assert (library.path, library.open_path, library.deleted) == (str(path), str(path), False)


def test_a_deleted_library_is_reached_through_the_map(compile_library, start):
    path = compile_library("libwork.so", WORK)
    expected = symbols(str(path)).lookup("work")
    process = start(path)
    path.unlink()
    library = library_of(process.pid, "libwork.so")
    assert library.deleted
    assert library.open_path.startswith(f"/proc/{process.pid}/map_files/")
    assert symbols(library.open_path).lookup("work") == expected


def test_a_replaced_library_is_the_one_that_is_mapped(compile_library, start):
    path = compile_library("libwork.so", WORK)
    process = start(path)
    compile_library("new/libwork.so", "int more(void){return 1;}").replace(path)
    library = library_of(process.pid, "libwork.so")
    assert library.deleted
    assert symbols(library.open_path).lookup("work")
    assert symbols(str(path)).lookup("more")


def test_a_name_that_ends_as_if_it_were_deleted(compile_library, start):
    path = compile_library("libwork.so (deleted)", WORK)
    process = start(path)
    (library,) = [found for found in mapped_libraries(process.pid) if "libwork" in found.path]
    assert (library.open_path, library.deleted) == (str(path), False)


def test_two_names_of_one_file_are_one_library(compile_library, start):
    path = compile_library("libwork.so", WORK)
    other = path.with_name("libother.so")
    os.link(path, other)
    process = start(path, other)
    found = [library for library in mapped_libraries(process.pid) if "tmp" in library.path]
    assert len([library for library in found if library.inode == path.stat().st_ino]) == 1


def test_a_file_that_is_mapped_twice_is_one_library(compile_library):
    path = compile_library("libtwice.so", WORK)
    library = ctypes.CDLL(str(path))
    with path.open("rb") as file:
        again = mmap.mmap(
            file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_EXEC
        )
    code = [found for found in mappings() if found.path == str(path) and found.executable]
    assert len(code) == 2
    assert library_of(None, "libtwice.so").path == str(path)
    again.close()
    del library


def test_a_library_in_memory_only_is_reached_through_the_map(compile_library):
    data = compile_library("libwork.so", WORK).read_bytes()
    fd = os.memfd_create("libmemory.so", os.MFD_CLOEXEC)
    os.write(fd, data)
    library = ctypes.CDLL(f"/proc/self/fd/{fd}")
    os.close(fd)
    found = library_of(None, "memfd:libmemory.so")
    assert found.deleted
    assert symbols(found.open_path).lookup("work")
    del library


@pytest.mark.skipif(os.getuid() != 0, reason="another root directory takes root")
def test_a_process_with_files_of_its_own(compile_library, tmp_path):
    """A process that sees another file under its library's path, as in a container."""
    if not shutil.which("unshare"):
        pytest.skip("unshare is not installed: apt install util-linux")
    inner = compile_library("inner/libwork.so", WORK)
    compile_library("outer/libwork.so", "int more(void){return 1;}")
    outer = tmp_path / "outer"
    script = f"mount --bind {inner.parent} {outer} && exec {sys.executable} -c '" + (
        f'import ctypes, sys; ctypes.CDLL("{outer}/libwork.so"); '
        "print(1, flush=True); sys.stdin.read()'"
    )
    process = subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        if process.stdout.readline() != b"1\n":
            pytest.skip("no mount namespace may be made here")
        library = library_of(process.pid, "libwork.so")
        assert library.path == f"{outer}/libwork.so"
        assert library.open_path == f"/proc/{process.pid}/root{outer}/libwork.so"
        assert not library.deleted
        assert symbols(library.open_path).lookup("work")
    finally:
        process.communicate()


def test_a_process_that_is_gone(start):
    process = start()
    process.communicate()
    with pytest.raises(InputError, match=f"there is no process {process.pid}: it may have ended"):
        mappings(process.pid)


@pytest.mark.skipif(os.getuid() != 0, reason="to become another user takes root")
def test_another_users_process_says_what_is_missing(start):
    process = start()
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.setgid(65534)
            os.setuid(65534)
            mappings(process.pid)
        except InputError as error:
            os.write(writer, str(error).encode())
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with open(reader) as answer:  # noqa: PTH123
        text = answer.read()
    assert f"process {process.pid} has mapped may not be read: it is another user's" in text
