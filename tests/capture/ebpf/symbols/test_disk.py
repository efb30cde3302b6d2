"""Libraries that are on disk and not loaded yet."""

from __future__ import annotations

import os
import platform
import struct
import sys
from pathlib import Path

import av
import pytest

from vidlab.capture.ebpf.symbols.disk import Disk, parse_cache
from vidlab.capture.ebpf.symbols.matching import Pattern

ABI = {"x86_64": 0x0303, "aarch64": 0x0A03}.get(platform.machine(), 0)


def cache(entries: list[tuple[int, str, str]]) -> bytes:
    texts, offsets = b"", []
    start = 48 + 24 * len(entries)
    for flags, name, path in entries:
        offsets.append((flags, start + len(texts), start + len(texts) + len(name) + 1))
        texts += name.encode() + b"\0" + path.encode() + b"\0"
    head = struct.pack("<20sII20x", b"glibc-ld.so.cache1.1", len(entries), len(texts))
    table = b"".join(struct.pack("<iIIIQ", *offset, 0, 0) for offset in offsets)
    return head + table + texts


def test_the_loaders_cache_has_this_machines_libraries():
    entries = [(ABI, "libx.so.1", "/lib/libx.so.1"), (0x0003, "libx.so.1", "/lib32/libx.so.1")]
    assert parse_cache(cache(entries)) == [("libx.so.1", "/lib/libx.so.1")]
    # The form of before glibc 2.2 may lie before it.
    assert parse_cache(b"ld.so-1.7.0\0\0\0\0\0" + cache(entries)[:]) == [
        ("libx.so.1", "/lib/libx.so.1")
    ]


def test_a_damaged_cache_has_no_libraries():
    whole = cache([(ABI, "libx.so.1", "/lib/libx.so.1")])
    assert parse_cache(b"") == parse_cache(b"\0" * 99) == parse_cache(whole[:60]) == []
    for end in range(72, len(whole)):
        assert len(parse_cache(whole[:end])) == 1


@pytest.mark.skipif(not Path("/etc/ld.so.cache").exists(), reason="this system has no ld.so.cache")
def test_this_systems_libc_is_found_by_its_name():
    (found,) = Disk(None, []).find(Pattern("libc.so.6"))
    assert found.path == found.open_path
    assert Path(found.path).samefile(os.path.realpath(found.path))


def test_a_wheels_libraries_are_found_beside_the_package():
    folder = Path(av.__file__).parents[1] / "av.libs"
    found = [Path(place.path) for place in Disk(None, []).find(Pattern("libswresample"))]
    assert [path for path in found if path.parent == folder]


def test_a_packages_module_is_found_by_its_path():
    (found,) = Disk(None, []).find(Pattern("cupy_backends/cuda/api/runtime.*.so"))
    assert Path(found.path).name.startswith("runtime.")


def test_absolute_paths_and_globs(tmp_path):
    for name in ("libone.so", "libtwo.so"):
        (tmp_path / name).write_bytes(b"")
    disk = Disk(None, [])
    assert [place.path for place in disk.find(Pattern(str(tmp_path / "libone.so")))] == [
        str(tmp_path / "libone.so")
    ]
    assert len(disk.find(Pattern(f"{tmp_path}/lib*.so"))) == 2
    assert disk.find(Pattern(str(tmp_path / "libthree.so"))) == []
    assert disk.find(Pattern("*")) == []
    assert disk.find(Pattern("a\0b/c")) == []


def test_a_file_of_two_names_is_there_once(tmp_path):
    (tmp_path / "libone.so.1").write_bytes(b"")
    (tmp_path / "libone.so").symlink_to("libone.so.1")
    assert len(Disk(None, []).find(Pattern(f"{tmp_path}/libone.so*"))) == 1


def test_the_folders_that_the_loader_was_told_of(tmp_path, start):
    (tmp_path / "libvery_own.so.3").write_bytes(b"")
    process = start(LD_LIBRARY_PATH=f"relative::{tmp_path}/")
    (found,) = Disk(process.pid, []).find(Pattern("libvery_own"))
    assert found.path == str(tmp_path / "libvery_own.so.3")


def test_another_processs_packages_are_known_by_what_it_has_mapped(tmp_path, start):
    packages = tmp_path / "site-packages"
    (packages / "thing.libs").mkdir(parents=True)
    (packages / "thing.libs" / "libthing-01234567.so.2").write_bytes(b"")
    process = start()
    disk = Disk(process.pid, [f"{packages}/thing/_core.so"])
    (found,) = disk.find(Pattern("libthing.so.2"))
    assert found.path == str(packages / "thing.libs" / "libthing-01234567.so.2")
    assert "libthing-01234567.so.2" in disk.names()


@pytest.mark.skipif(os.getuid() != 0, reason="another root directory takes root")
def test_a_process_with_another_root_has_its_own_files(tmp_path):
    """Links lead where that process would go, which is not where we would."""
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "libx.so.1").write_bytes(b"inner")
    (tmp_path / "etc").mkdir()
    (tmp_path / "usr").mkdir()
    (tmp_path / "usr" / "lib").symlink_to("/real")  # as seen from inside
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "etc" / "ld.so.cache").write_bytes(
        cache(
            [(ABI, "libx.so.1", "/usr/../usr/lib/./libx.so.1"), (ABI, "libx.so.2", "/loop/libx.so")]
        )
    )
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(writer)
        os.chroot(tmp_path)
        os.read(reader, 1)
        os._exit(0)
    os.close(reader)
    try:
        root = f"/proc/{child}/root"
        while os.stat(f"{root}/").st_ino != tmp_path.stat().st_ino:  # noqa: PTH116
            os.sched_yield()
        (found,) = Disk(child, []).find(Pattern("libx"))
        assert found.open_path == f"{root}/real/libx.so.1"
        assert Path(found.open_path).read_bytes() == b"inner"
    finally:
        os.close(writer)
        os.waitpid(child, 0)


def test_a_programs_own_folder_is_not_searched_through(tmp_path, monkeypatch):
    (tmp_path / "data.libs").mkdir()
    (tmp_path / "data.libs" / "libvery_own.so").write_bytes(b"")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert Disk(None, []).find(Pattern("libvery_own")) == []
    (found,) = Disk(None, []).find(Pattern("data.libs/libvery_own.so"))
    assert found.path == str(tmp_path / "data.libs" / "libvery_own.so")
