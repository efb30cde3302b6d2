"""Rings: made up in memory for each state a record can be in, and the kernel's own."""

from __future__ import annotations

import gc
import mmap
import os
import struct
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidlab.capture.ebpf.reading.ring import BUSY, DISCARDED, Ring, RingError

PAGE = mmap.PAGESIZE
RECORD = np.dtype([("number", "<u8"), ("small", "<u2"), ("_pad", "V6")])
STRIDE = RECORD.itemsize + 8


class Memory:
    """A ring in ordinary memory, laid out as the kernel maps one."""

    def __init__(self, size: int = PAGE) -> None:
        self.size = size
        self.fd = os.memfd_create("ring", os.MFD_CLOEXEC)
        os.ftruncate(self.fd, 2 * PAGE + 2 * size)

    def put(self, position: int, length: int, number: int) -> None:
        record = struct.pack("<IIQH6x", length, 0, number, number % 7)
        for index, byte in enumerate(record):
            place = (position + index) % self.size
            for copy in (0, self.size):
                os.pwrite(self.fd, bytes([byte]), 2 * PAGE + copy + place)

    def put_all(self, position: int, lengths: list[int]) -> None:
        for number, length in enumerate(lengths):
            self.put(position + number * STRIDE, length, number)
        self.set(position, position + len(lengths) * STRIDE)

    def set(self, consumer: int, producer: int) -> None:
        os.pwrite(self.fd, struct.pack("<Q", consumer), 0)
        os.pwrite(self.fd, struct.pack("<Q", producer), PAGE)

    @property
    def consumer(self) -> int:
        return struct.unpack("<Q", os.pread(self.fd, 8, 0))[0]

    def __enter__(self) -> Memory:
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self.fd)


LENGTH = RECORD.itemsize


def open_files() -> int:
    gc.collect()  # else what earlier tests have left is closed at any time
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture
def memory():
    with Memory() as made:
        yield made


@pytest.fixture
def ring(memory):
    with Ring(memory.fd, memory.size, RECORD, STRIDE) as made:
        yield made


def test_an_empty_ring_has_no_records(ring):
    records, extent = ring.view(100)
    assert (len(records), extent, ring.available()) == (0, 0, 0)


def test_records_are_seen_where_they_lie_until_they_are_advanced_over(memory, ring):
    memory.put_all(0, [LENGTH] * 5)
    records, extent = ring.view(100)
    assert records["number"].tolist() == [0, 1, 2, 3, 4]
    assert records["small"].tolist() == [0, 1, 2, 3, 4]
    assert "_pad" not in records.dtype.names
    assert extent == 5
    memory.put(STRIDE, LENGTH, 77)
    assert records["number"][1] == 77, "a copy"
    ring.advance(2)
    assert memory.consumer == 2 * STRIDE
    assert ring.available() == 3 * STRIDE
    assert ring.view(2)[0]["number"].tolist() == [2, 3]


def test_records_go_on_over_the_end_of_the_ring(memory, ring):
    assert PAGE % STRIDE  # so that one lies across
    begin = 40 * PAGE // STRIDE * STRIDE
    memory.put_all(begin, [LENGTH] * (PAGE // STRIDE))
    records, extent = ring.view(1000)
    assert records["number"].tolist() == list(range(PAGE // STRIDE))
    assert extent == PAGE // STRIDE


def test_records_after_a_busy_one_wait_for_it(memory, ring):
    memory.put_all(0, [LENGTH, LENGTH, LENGTH | BUSY, LENGTH])
    records, extent = ring.view(100)
    assert records["number"].tolist() == [0, 1]
    ring.advance(extent)
    assert ring.view(100)[1] == 0
    memory.put(2 * STRIDE, LENGTH, 2)
    assert ring.view(100)[0]["number"].tolist() == [2, 3]


def test_discarded_records_are_left_out_and_advanced_over(memory, ring):
    memory.put_all(0, [LENGTH, LENGTH | DISCARDED, LENGTH, LENGTH | DISCARDED | BUSY, LENGTH])
    records, extent = ring.view(100)
    assert records["number"].tolist() == [0, 2]
    assert extent == 3
    memory.put_all(0, [LENGTH | DISCARDED] * 3)
    records, extent = ring.view(100)
    assert (len(records), extent) == (0, 3)


def test_a_record_of_another_length_is_an_error_and_those_before_it_are_not(memory, ring):
    memory.put_all(0, [LENGTH, LENGTH - 8, LENGTH])
    records, extent = ring.view(100)
    assert records["number"].tolist() == [0]
    ring.advance(extent)
    with pytest.raises(RingError, match=f"a record of {LENGTH - 8} bytes .* records of {LENGTH}"):
        ring.view(100)


@given(
    flags=st.lists(st.sampled_from([0, 0, 0, BUSY, DISCARDED]), max_size=60),
    begin=st.integers(0, 10_000),
    most=st.integers(1, 70),
)
def test_any_mixture_is_read_as_one_by_one(flags, begin, most):
    expected = []
    extent = 0
    for number, flag in enumerate(flags[:most]):
        if flag == BUSY:
            break
        extent += 1
        if flag == 0:
            expected.append(number)
    with Memory() as memory, Ring(memory.fd, memory.size, RECORD, STRIDE) as ring:
        memory.put_all(begin * 8, [LENGTH | flag for flag in flags])
        view = ring.view(most)
        assert view.records["number"].tolist() == expected
        assert view.extent == extent
        del view


def test_one_cannot_advance_over_what_is_not_there(memory, ring):
    memory.put_all(0, [LENGTH] * 2)
    for count in (3, -1):
        with pytest.raises(ValueError, match="records to advance over"):
            ring.advance(count)
    assert memory.consumer == 0


@pytest.mark.parametrize("size", [0, PAGE - 1, PAGE // 2, 3 * PAGE])
def test_sizes_that_no_ring_has_are_refused(memory, size):
    with pytest.raises(RingError, match="power of two"):
        Ring(memory.fd, size, RECORD, STRIDE)


@pytest.mark.parametrize("stride", [STRIDE - 8, STRIDE + 4, 2 * PAGE])
def test_strides_that_no_record_has_are_refused(memory, stride):
    with pytest.raises(RingError, match="cannot lie"):
        Ring(memory.fd, PAGE, RECORD, stride)


def test_what_is_no_ring_is_refused_and_leaves_nothing_open(memory):
    before = open_files()
    with pytest.raises(RingError, match="cannot be mapped"):
        Ring(memory.fd, 64 * PAGE, RECORD, STRIDE)
    with Path(os.devnull).open() as null, pytest.raises(RingError, match="cannot be mapped"):
        Ring(null.fileno(), PAGE, RECORD, STRIDE)
    assert open_files() == before


def test_closing_leaves_nothing_open_even_while_a_view_is_held(memory):
    before = open_files()
    memory.put_all(0, [LENGTH] * 2)
    ring = Ring(memory.fd, memory.size, RECORD, STRIDE)
    records = ring.view(2).records
    ring.close()
    ring.close()
    assert ring.closed
    assert ring.available() == 0
    assert records["number"].tolist() == [0, 1]
    del records, ring
    assert open_files() == before


# --- in the kernel --------------------------------------------------------------------


@pytest.mark.needs("ebpf")
@pytest.mark.parametrize("stride", [16, 24, 80, 104, 520, 4088])
def test_every_record_of_the_smallest_ring_is_read_as_it_was_written(producer, stride):
    made = producer(PAGE, stride, at_once=5)
    seen: list[int] = []
    with made.ring() as ring:
        for _ in range(200):
            made.run(1)
            records, extent = ring.view(1000)
            numbers = records["number"].copy()
            assert (records["rest"] == numbers[:, None]).all()
            seen += numbers.tolist()
            del records
            ring.advance(extent)
        assert ring.available() == 0
    assert seen == sorted(set(seen))
    assert len(seen) == made.count("emitted")
    assert made.count("hits") == 1000 == len(seen) + made.count("lost_ring")
    if 5 * stride < PAGE:
        assert made.count("lost_ring") == 0


@pytest.mark.needs("ebpf")
def test_a_full_ring_loses_and_counts_it(producer):
    made = producer(PAGE, 64)
    made.run(100)
    with made.ring() as ring:
        records, extent = ring.view(1000)
        assert extent == len(records) == made.count("emitted") == 1600 - made.count("lost_ring")
        assert records["number"].tolist() == list(range(extent))
        del records


@pytest.mark.needs("ebpf")
def test_records_are_read_in_order_while_slow_and_quick_programs_write(producer):
    """The slow one holds a record that is begun while the other CPU goes on.

    Whether that is seen is up to the scheduler: once in a minute is enough.
    """
    end = time.monotonic() + 60
    while not _slow_and_quick(producer):
        assert time.monotonic() < end, "no record was ever seen while it was being written"


def _slow_and_quick(producer):
    """Read what both write; return how often a record was met that was being written."""
    made = producer(1 << 16, 64, at_once=8)
    slow = made.another(at_once=1, dawdle=4000)
    seen = waited = 0
    with made.ring() as ring:
        threads = [made.start(300, slow), made.start(20_000)]
        while True:
            running = any(thread.is_alive() for thread in threads)
            records, extent = ring.view(1 << 16)
            assert (records["rest"] == records["number"][:, None]).all()
            waited += extent == 0 and ring.available() > 0
            seen += len(records)
            del records
            ring.advance(extent)
            if not running and not extent:
                break
        for thread in threads:
            thread.join()
        assert ring.available() == 0
    assert seen == made.count("emitted") == 160_300 - made.count("lost_ring")
    made.close()
    return waited


@pytest.mark.needs("ebpf")
def test_the_kernels_discarded_records_are_left_out(producer):
    made = producer(1 << 16, 40, at_once=9, discard_every=3)
    with made.ring() as ring:
        made.run(50)
        records, extent = ring.view(10_000)
        assert extent == 450
        assert len(records) == 300 == made.count("emitted")
        assert (records["number"] % 9 % 3 != 2).all()
        del records


@pytest.mark.needs("ebpf")
def test_a_ring_outlives_the_map_it_came_from(producer):
    made = producer(PAGE, 64)
    with made.ring() as ring:
        made.run(1)
        made.close()
        assert len(ring.view(100).records) == 16
