"""Maps of the real kernel: what is put in comes out, one by one and in batches."""

from __future__ import annotations

import errno
import mmap
import os
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vidlab.capture.ebpf.kernel import bpf, maps, programs
from vidlab.capture.ebpf.kernel.bpf import KernelError, MapType, ProgramType
from vidlab.capture.ebpf.kernel.maps import Map, possible_cpus

from .test_bpf import RETURN_0

pytestmark = [pytest.mark.needs("ebpf"), pytest.mark.usefixtures("nothing_left")]


def key(number: int) -> bytes:
    return struct.pack("<I", number)


def word(number: int) -> bytes:
    return struct.pack("<Q", number)


def test_the_possible_cpus_are_counted(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    assert possible_cpus() >= len(os.sched_getaffinity(0))
    for text, count in [("0", 1), ("0-3", 4), ("0-1,4-7,9", 7), ("0-127", 128)]:
        with monkeypatch.context() as patched:
            patched.setattr(maps.Path, "read_text", lambda *_, text=text, **__: f"{text}\n")
            assert possible_cpus.__wrapped__() == count


def test_entries_come_and_go() -> None:
    with Map.create(MapType.HASH, 4, 8, 16, name="kernel_test_hash") as table:
        assert table.name == "kernel_test_has"
        assert table.lookup(key(1)) is None
        table.update(key(1), word(10))
        table.update(key(1), word(11), bpf.EXIST)
        assert table.lookup(key(1)) == word(11)
        with pytest.raises(KernelError) as told:
            table.update(key(1), word(12), bpf.NOEXIST)
        assert told.value.errno == errno.EEXIST
        assert table.delete(key(1))
        assert not table.delete(key(1))
        assert table.lookup(key(1)) is None


def test_a_full_map_says_so() -> None:
    with Map.create(MapType.HASH, 4, 8, 2) as table:
        table.update(key(1), word(1))
        table.update(key(2), word(2))
        with pytest.raises(KernelError) as told:
            table.update(key(3), word(3))
        assert told.value.errno == errno.E2BIG


def test_sizes_are_checked_before_the_kernel_reads_beyond_them() -> None:
    with Map.create(MapType.HASH, 4, 8, 2) as table:
        for call in (table.lookup, table.delete):
            with pytest.raises(ValueError, match="has 4 bytes, not 8"):
                call(bytes(8))
        with pytest.raises(ValueError, match="has 8 bytes, not 4"):
            table.update(key(1), bytes(4))


@pytest.mark.parametrize("size", [4, 8, 12, 64])
def test_a_map_per_cpu_holds_a_value_for_each(size: int) -> None:
    with Map.create(MapType.PERCPU_ARRAY, 4, size, 3) as table:
        padded = (size + 7) // 8 * 8
        assert table.stride == padded * possible_cpus()
        values = [bytes([cpu + 1]) * size for cpu in range(possible_cpus())]
        table.update(key(1), b"".join(value.ljust(padded, b"\0") for value in values))
        assert table.lookup_percpu(key(1)) == values
        assert table.lookup_percpu(key(0)) == [bytes(size)] * possible_cpus()
        assert dict(table.items())[key(1)] == table.lookup(key(1))
    with Map.create(MapType.PERCPU_HASH, 4, size, 3) as table:
        assert table.lookup_percpu(key(1)) is None


@pytest.mark.parametrize("type", [MapType.HASH, MapType.PERCPU_HASH, MapType.LRU_HASH])
@pytest.mark.parametrize("entries", [0, 1, 1023, 1024, 1025, 5000])
def test_batches_give_every_entry_once(type: MapType, entries: int) -> None:
    with Map.create(type, 4, 8, 20_000) as table:
        expected = {}
        for number in range(entries):
            value = word(number * number) * (table.stride // 8)
            table.update(key(number), value)
            expected[key(number)] = value
        found = list(table.items())
        assert len(found) == entries
        assert dict(found) == expected
        taken = table.take()
        assert taken.count == entries
        assert len(taken.keys) == 4 * entries
        assert len(taken.values) == table.stride * entries
        assert list(table.items()) == []


def test_arrays_come_in_batches() -> None:
    with Map.create(MapType.ARRAY, 4, 8, 3000) as table:
        for number in range(3000):
            table.update(key(number), word(number))
        whole = table.read()
        assert struct.unpack("<3000I", whole.keys) == tuple(range(3000))
        assert struct.unpack("<3000Q", whole.values) == tuple(range(3000))


def test_a_batch_smaller_than_a_bucket_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    # With room for one entry, every bucket with two is too much at first.
    monkeypatch.setattr(maps, "_BATCH", 1)
    with Map.create(MapType.HASH, 4, 8, 512) as table:
        for number in range(512):
            table.update(key(number), word(number))
        assert dict(table.items()) == {key(number): word(number) for number in range(512)}


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(st.booleans(), st.binary(min_size=3, max_size=3), st.integers(0, 2**64 - 1)),
        max_size=60,
    )
)
def test_a_hash_is_a_dictionary(steps: list[tuple[bool, bytes, int]]) -> None:
    model: dict[bytes, bytes] = {}
    with Map.create(MapType.HASH, 3, 8, 64) as table:
        for put, at, value in steps:
            if put:
                table.update(at, word(value))
                model[at] = word(value)
            else:
                assert table.delete(at) == (model.pop(at, None) is not None)
        assert dict(table.items()) == model
        assert {at: table.lookup(at) for at in table.keys()} == model  # noqa: SIM118


def test_programs_in_an_array_are_told_by_id() -> None:
    with (
        Map.create(MapType.PROG_ARRAY, 4, 4, 8) as table,
        programs.load(RETURN_0, ProgramType.KPROBE) as program,
    ):
        assert table.lookup(key(3)) is None
        table.update(key(3), key(program.fd))
        id = key(program.info().id)
        assert table.lookup(key(3)) == id
        assert list(table.items()) == [(key(3), id)]  # no batches here: one by one
        assert table.delete(key(3))


def test_a_map_is_known_from_its_descriptor() -> None:
    with (
        Map.create(MapType.PERCPU_ARRAY, 4, 12, 7, name="known") as table,
        Map.from_fd(os.dup(table.fd)) as same,
    ):
        assert (same.type, same.key_size, same.value_size) == (MapType.PERCPU_ARRAY, 4, 12)
        assert (same.max_entries, same.name, same.id) == (7, "known", table.id)
        assert same.stride == table.stride
        table.update(key(6), bytes([5]) * table.stride)
        assert same.lookup(key(6)) == table.lookup(key(6))


def test_a_descriptor_that_is_no_map_stays_open() -> None:
    read, write = os.pipe()
    try:
        with pytest.raises(KernelError):
            Map.from_fd(read)
        os.fstat(read)
    finally:
        os.close(read)
        os.close(write)


def test_rings_and_arrays_can_be_mapped() -> None:
    with Map.create(MapType.RINGBUF, 0, 0, mmap.PAGESIZE) as ring:
        mmap.mmap(ring.fd, 3 * mmap.PAGESIZE, mmap.MAP_SHARED, mmap.PROT_READ, offset=4096).close()
    with Map.create(MapType.ARRAY, 4, 8, 512, flags=bpf.F_MMAPABLE) as table:
        with mmap.mmap(table.fd, mmap.PAGESIZE) as view:
            view[8:16] = word(77)
        assert table.lookup(key(1)) == word(77)


def test_a_map_that_cannot_be_says_which_and_why() -> None:
    with pytest.raises(KernelError) as told:
        Map.create(MapType.RINGBUF, 0, 0, 1000, name="odd")
    assert "'odd' (RINGBUF, keys of 0 and values of 0 bytes, 1000 entries)" in str(told.value)
    assert "sizes that this kind of map does not have" in str(told.value)
    assert told.value.errno == errno.EINVAL
