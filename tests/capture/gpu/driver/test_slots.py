"""CuPy's import slots: led to us, and left byte for byte as they were."""

from __future__ import annotations

import gc
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vidlab.capture.gpu.driver import slots
from vidlab.capture.gpu.driver.slots import SlotError, Slots

pytestmark = pytest.mark.needs("hostcuda")


def writable_data() -> dict[int, bytes]:
    """The writable data of CuPy's compiled modules, by address: as their files say, and as the
    kernel has mapped them."""
    bases: dict[str, int] = {}
    for line in Path("/proc/self/maps").read_text().splitlines():
        where, _, offset, _, _, *name = line.split(maxsplit=5)
        if name and "/cupy" in name[0] and ".so" in name[0] and int(offset, 16) == 0:
            bases.setdefault(name[0], int(where.partition("-")[0], 16))
    data = {}
    with Path("/proc/self/mem").open("rb") as memory:
        for file, base in bases.items():
            for kind, flags, _, address, _, _, size, _ in program_headers(Path(file)):
                if kind == 1 and flags & 2:  # loaded, writable
                    start = -(-(base + address) // 8) * 8
                    memory.seek(start)
                    data[start] = memory.read((base + address + size - start) // 8 * 8)
    return data


def program_headers(file: Path) -> list[tuple[int, ...]]:
    with file.open("rb") as elf:
        header = elf.read(64)
        (where,) = struct.unpack_from("<Q", header, 32)
        size, count = struct.unpack_from("<HH", header, 54)
        elf.seek(where)
        return [struct.unpack("<IIQQQQQQ", elf.read(size)) for _ in range(count)]


def words(data: dict[int, bytes]) -> Iterator[int]:
    for block in data.values():
        yield from memoryview(block).cast("Q")


@pytest.fixture
def runtime() -> Any:
    import cupy  # noqa: F401

    return sys.modules[slots.RUNTIME]


@pytest.fixture
def native() -> Any:
    return slots.extension()


def test_every_slot_is_ours_while_it_lasts_and_theirs_after(runtime: Any, native: Any) -> None:
    capsules = dict(runtime.__pyx_capi__)
    addresses = {name: slots._pointer(capsules[name]) for name in native.trampolines()}
    ours = {name: address for name, (address, _) in native.trampolines().items()}
    replaced = Slots(native)
    replaced.install(runtime)  # Python notes in CuPy's types that they were looked at
    replaced.uninstall()
    gc.collect()  # not in between: a free is CuPy at work
    before = writable_data()
    held = list(words(before))
    # CuPy's modules do hold them, the pools and the arrays among them.
    assert held.count(addresses["malloc"]) >= 1
    assert held.count(addresses["memcpyAsync"]) >= 1
    assert held.count(addresses["hostAlloc"]) >= 1

    replaced.install(runtime)
    try:
        during = list(words(writable_data()))
        for name, address in addresses.items():
            assert during.count(address) == 0, name
            assert during.count(ours[name]) == held.count(address), name
            assert slots._pointer(runtime.__pyx_capi__[name]) == ours[name]
            assert slots._text(runtime.__pyx_capi__[name]) == slots._text(capsules[name])
        assert runtime.__pyx_capi__.keys() == capsules.keys()
    finally:
        replaced.uninstall()
    after = writable_data()
    differ = [
        (hex(start + 8 * at), hex(one), hex(other))
        for start in before
        for at, (one, other) in enumerate(
            zip(words({0: before[start]}), words({0: after[start]}), strict=True)
        )
        if one != other
    ]
    assert differ == []
    assert all(runtime.__pyx_capi__[name] is capsules[name] for name in capsules)


def test_nothing_of_ours_stays_after_use(runtime: Any, native: Any) -> None:
    import cupy

    replaced = Slots(native)
    for _ in range(3):
        replaced.install(runtime)
        replaced.install(runtime)  # again: nothing more to do
        array = cupy.zeros(1000, "u1")
        assert bytes(cupy.asnumpy(array)) == bytes(1000)
        replaced.uninstall()
        replaced.uninstall()
    ours = {address for address, _ in native.trampolines().values()}
    assert not ours & set(words(writable_data()))
    assert not ours & {slots._pointer(runtime.__pyx_capi__[name]) for name in native.trampolines()}


def test_another_signature_is_refused_and_changes_nothing(
    runtime: Any, native: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A capsule of another function in this one's place: what a changed CuPy would look like.
    capsules = runtime.__pyx_capi__
    monkeypatch.setitem(capsules, "freeAsync", capsules["free"])
    gc.collect()  # not in between: a free is CuPy at work
    before, table = writable_data(), dict(capsules)
    with pytest.raises(SlotError, match=r"CuPy 1\d\..* another C function freeAsync"):
        Slots(native).install(runtime)
    assert writable_data() == before
    assert capsules == table


def test_a_function_that_cupy_lacks(
    runtime: Any, native: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(runtime.__pyx_capi__, "mallocFromPoolAsync")
    replaced = Slots(native)
    replaced.install(runtime)
    replaced.uninstall()
    monkeypatch.delitem(runtime.__pyx_capi__, "malloc")
    with pytest.raises(SlotError, match="no C function malloc"):
        Slots(native).install(runtime)


def test_what_another_program_has_put_there_since_stays(
    runtime: Any, native: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    capsules = runtime.__pyx_capi__
    monkeypatch.setitem(capsules, "free", capsules["free"])  # put back at the end of the test
    replaced = Slots(native)
    replaced.install(runtime)
    theirs = slots._new_capsule(
        slots._pointer(capsules["free"]), slots._name_of(capsules["free"]), None
    )
    capsules["free"] = theirs
    replaced.uninstall()
    assert capsules["free"] is theirs


def test_the_current_stream_is_cupys(runtime: Any, native: Any) -> None:
    import cupy

    replaced = Slots(native)
    replaced.install(runtime)
    try:
        assert native.current_stream() == 0
        with cupy.cuda.Stream() as stream:
            assert native.current_stream() == stream.ptr
            with cupy.cuda.Stream(non_blocking=True) as inner:
                assert native.current_stream() == inner.ptr
        assert native.current_stream() == 0
    finally:
        replaced.uninstall()
