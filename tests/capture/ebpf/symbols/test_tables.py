"""Symbols by name: exported or not, with versions, twice, indirect, and in real libraries."""

from __future__ import annotations

import ctypes
import os
import shutil
import struct
import subprocess
import sys
import sysconfig
from pathlib import Path

import av
import cupy
import pytest

from vidlab.capture.ebpf.symbols import ElfError, symbols, tables

from .conftest import SYMBOLS, symbol

SITE = Path(av.__file__).parents[1]
CUPY = Path(cupy.__file__).parents[1] / "cupy_backends" / "cuda" / "api"


def readelf(path: Path, *options: str) -> dict[str, set[tuple[int, int]]]:
    """The functions that binutils finds: (value, size) by name."""
    if not shutil.which("readelf"):
        pytest.skip("readelf is not installed: apt install binutils")
    command = ["readelf", "-W", *options, str(path)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found: dict[str, set[tuple[int, int]]] = {}
    for line in text.splitlines():
        fields = line.split()
        if len(fields) >= 8 and fields[3] == "FUNC" and fields[6] not in ("UND", "ABS"):
            size = int(fields[2], 0)
            found.setdefault(fields[7].partition("@")[0], set()).add((int(fields[1], 16), size))
    return found


@pytest.mark.parametrize("name", ["libavcodec", "libavformat", "libx265", "libgnutls"])
def test_every_function_that_a_wheels_library_exports_is_found(name):
    (path,) = (SITE / "av.libs").glob(f"{name}-*")
    table = symbols(str(path))
    known = readelf(path, "--dyn-syms")
    assert len(known) > 50
    for function, places in known.items():
        found = {(symbol.value, symbol.size) for symbol in table.lookup(function)}
        assert found <= places
        assert {value for value, _ in found} == {value for value, _ in places}


def test_cupys_own_cuda_runtime_is_found_though_nobody_exports_it():
    (path,) = CUPY.glob("runtime.*.so")
    table = symbols(str(path))
    known = readelf(path, "--syms")
    for name in ("cudaMalloc", "cudaFree", "cudaMemcpyAsync", "cudaLaunchKernel"):
        (found,) = table.lookup(name)
        assert (found.value, found.size) in known[name]
        assert (found.exported, found.binding, found.kind) == (False, "local", "function")
        assert not table.exports(name)


def test_the_place_in_the_file_is_where_the_code_is(compile_library):
    path = compile_library("libwork.so", "int first(void){return 1;} int work(void){return 7;}")
    (found,) = symbols(str(path)).lookup("work")
    library = ctypes.CDLL(str(path))
    address = ctypes.cast(library.work, ctypes.c_void_p).value
    in_memory = ctypes.string_at(address, found.size)
    assert found.size > 4
    assert path.read_bytes()[found.offset :][: found.size] == in_memory


LOCAL = "static __attribute__((noinline, used)) int inside(int x){return x * 3;}"


def test_a_function_that_is_not_exported_is_found_until_it_is_stripped(compile_library):
    path = compile_library("libwork.so", LOCAL + "int work(int x){return inside(x);}")
    (found,) = symbols(str(path)).lookup("inside")
    assert not found.exported
    subprocess.run(["strip", str(path)], check=True)
    table = symbols(str(path))
    assert not table.lookup("inside")
    assert table.lookup("work")
    assert "inside" not in table.names()
    assert "work" in table.names()


def test_an_exported_function_goes_before_a_local_one_of_its_name(image, tmp_path):
    image.symbols([("work", 0x401010)])
    image.symbols([("work", 0x401010), ("work", 0x401020), ("other", 0x401030)], SYMBOLS)
    path = tmp_path / "lib.so"
    path.write_bytes(image.build())
    table = symbols(str(path))
    assert [found.offset for found in table.lookup("work")] == [0x1010]
    assert [found.offset for found in table.lookup("other")] == [0x1030]


def test_local_functions_of_one_name_are_all_found(image, tmp_path):
    image.symbols([("work", 0x401010), ("work", 0x401020), ("work", 0x401020)], SYMBOLS)
    path = tmp_path / "lib.so"
    path.write_bytes(image.build())
    assert [found.offset for found in symbols(str(path)).lookup("work")] == [0x1010, 0x1020]


def test_versions_are_no_part_of_the_name(compile_library, tmp_path):
    script = tmp_path / "versions"
    script.write_text("V1 { global: work; }; V2 { global: work; } V1;")
    source = """
    __attribute__((symver("work@V1"))) int work_1(void) {return 1;}
    __attribute__((symver("work@@V2"))) int work_2(void) {return 2;}
    """
    path = compile_library("libwork.so", source, f"-Wl,--version-script={script}")
    table = symbols(str(path))
    both = {table.lookup("work_1")[0].offset, table.lookup("work_2")[0].offset}
    assert {found.offset for found in table.exports("work")} == both
    assert len(both) == 2
    # In .symtab the version is written into the name.
    assert len(table._others.find(b"work")) == 2


def test_what_chooses_a_function_is_not_that_function(compile_library):
    source = """
    static int fast(int x) {return x;}
    static void *choose(void) {return fast;}
    int work(int x) __attribute__((ifunc("choose")));
    """
    (found,) = symbols(str(compile_library("libwork.so", source))).lookup("work")
    assert found.indirect
    assert not found.is_function


def test_data_is_not_a_function(compile_library):
    path = compile_library("libwork.so", "int table[4] = {1}; _Thread_local int mine;")
    for name in ("table", "mine"):
        (found,) = symbols(str(path)).lookup(name)
        assert not found.is_function
        assert found.kind == "data"
        assert found.offset is None


def test_what_a_library_only_needs_is_not_found_in_it(compile_library):
    path = compile_library("libwork.so", 'int puts(const char *); int work(void){return puts("");}')
    assert not symbols(str(path)).lookup("puts")


def test_names_of_every_length_and_common_beginnings(image, tmp_path):
    names = [prefix + "x" * count for prefix in ("", "cu", "_ZN4cupy5") for count in range(1, 40)]
    image.symbols([(name, 0x401000 + at) for at, name in enumerate(names)])
    path = tmp_path / "lib.so"
    path.write_bytes(image.build())
    table = symbols(str(path))
    for at, name in enumerate(names):
        assert [found.offset for found in table.lookup(name)] == [0x1000 + at]
    assert not table.lookup("x" * 41)
    assert not table.lookup("_ZN4cupy")
    assert table.names() == names


@pytest.mark.parametrize("name", ["", "@", "work@V1", "wo\0rk", "work\0", "x" * 5_000, "\udcff"])
def test_a_name_that_no_symbol_can_have_is_not_found(name, image, tmp_path):
    image.symbols([("work", 0x401010)])
    path = tmp_path / "lib.so"
    path.write_bytes(image.build())
    assert not symbols(str(path)).lookup(name)


def test_a_name_that_is_the_end_of_another_is_found(image, tmp_path):
    # Linkers keep "work" as the tail of "homework".
    strings = image.section(".strings", 3, b"\0homework\0")
    entries = bytes(24) + symbol(1, 0x401010) + symbol(5, 0x401020)
    image.section(".symbols", 11, entries, link=strings)
    path = tmp_path / "lib.so"
    path.write_bytes(image.build())
    assert [found.offset for found in symbols(str(path)).lookup("work")] == [0x1020]


def test_the_last_name_may_end_with_the_table(image, tmp_path):
    strings = image.section(".strings", 3, b"\0homework")
    image.section(".symbols", 11, bytes(24) + symbol(5, 0x401020), link=strings)
    path = tmp_path / "lib.so"
    path.write_bytes(image.build())
    table = symbols(str(path))
    assert [found.offset for found in table.lookup("work")] == [0x1020]
    assert not table.lookup("workshop")


@pytest.mark.parametrize("style", ["gnu", "sysv", "both"])
def test_without_section_headers_the_exports_are_still_found(style, compile_library):
    path = compile_library(
        "libwork.so",
        "int work(void){return 1;} int more(void){return 2;}",
        f"-Wl,--hash-style={style}",
    )
    expected = symbols(str(path)).lookup("more")
    data = bytearray(path.read_bytes())
    struct.pack_into("<Q", data, 40, 0)
    struct.pack_into("<HH", data, 60, 0, 0)
    path.write_bytes(data)
    table = symbols(str(path))
    assert table.lookup("more") == expected
    assert set(table.names()) >= {"work", "more"}


def test_symbols_whose_names_are_nowhere_are_a_damaged_file(image, tmp_path):
    image.section(".symbols", 11, bytes(24) + symbol(5, 0x401020), link=77)
    path = tmp_path / "lib.so"
    path.write_bytes(image.build())
    with pytest.raises(ElfError, match="its symbols have no names"):
        symbols(str(path))


def test_a_table_is_kept_until_the_file_changes(compile_library):
    path = compile_library("libwork.so", "int work(void){return 1;}")
    first = symbols(str(path))
    linked = path.with_name("other.so")
    linked.symlink_to(path)
    assert symbols(str(linked)) is first
    compile_library("libnew.so", "int more(void){return 1;}").replace(path)
    assert symbols(str(path)).lookup("more")


def test_a_file_that_changes_before_its_other_symbols_are_read_is_an_error(compile_library):
    path = compile_library("libwork.so", LOCAL + "int work(int x){return inside(x);}")
    table = symbols(str(path))
    os.utime(path, ns=(1, 1))
    with pytest.raises(ElfError, match="was changed while it was read"):
        table.lookup("inside")


def test_a_table_that_is_too_large_is_left_out_and_that_is_known(image, tmp_path, monkeypatch):
    image.symbols([("work", 0x401010)])
    image.symbols([(f"inside_{count}", 0x401020) for count in range(1_000)], SYMBOLS)
    path = tmp_path / "lib.so"
    path.write_bytes(image.build())
    monkeypatch.setattr("vidlab.capture.ebpf.symbols.elf.MOST_BYTES", 4_096)
    table = symbols(str(path))
    assert table.lookup("work")
    assert table.complete
    assert not table.lookup("inside_1")
    assert not table.complete


def test_what_is_kept_is_bounded(image, tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "MOST_KEPT", 200_000)
    for count in range(40):
        image.sections.clear()
        image.symbols([(f"work_{count}_{number}", 0x401010) for number in range(1_000)])
        path = tmp_path / f"lib{count}.so"
        path.write_bytes(image.build())
        symbols(str(path))
    tables._make_room()
    assert 1 <= len(tables._kept) < 10
    assert sum(table.size_bytes for table in tables._kept.values()) <= 200_000


def test_this_very_interpreter_has_symbols():
    shared = Path(sys.base_prefix, "lib", sysconfig.get_config_var("INSTSONAME") or "")
    library = shared if shared.is_file() else Path(sys.executable).resolve()
    assert symbols(str(library)).lookup("PyDict_New")
