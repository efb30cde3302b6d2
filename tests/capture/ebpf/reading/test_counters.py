"""Counters: exact while they are counted, by any number of readers."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from vidlab.capture.ebpf.program import counting
from vidlab.capture.ebpf.program.words import COUNTS
from vidlab.capture.ebpf.reading.counters import Counts, Histogram, bounds


def test_buckets_hold_what_the_kernel_counts_in_them():
    low, high = bounds(np.arange(counting.BUCKETS, dtype=np.uint32))
    assert [(int(a), int(b)) for a, b in zip(low, high, strict=True)] == [
        counting.bounds(bucket) for bucket in range(counting.BUCKETS)
    ]


@pytest.mark.needs("ebpf")
def test_counts_since_the_last_reading_add_up_while_they_are_counted(producer):
    made = producer(4096, 64)
    counts, other = Counts(made.counts_map), Counts(made.counts_map)
    gained = np.zeros((1, len(COUNTS)), np.uint64)
    readings = 0

    def work() -> None:
        for _ in range(60):
            made.run(1000)
        while readings < 3:  # who reads may have been waiting for the CPU until now
            made.run(1)
            more.append(1)

    more: list[int] = []
    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        gained += counts.since_last()
        readings += 1
    for thread in threads:
        thread.join()
    gained += counts.since_last()
    assert readings > 2
    assert gained[0, COUNTS.index("hits")] == (120_000 + len(more)) * 16
    assert (gained == counts.read()).all()
    assert (other.since_last() == gained).all(), "one reader took from another"
    assert not counts.since_last().any()


@pytest.mark.needs("ebpf")
def test_a_histogram_loses_nothing_while_it_is_read(tally):
    histogram = Histogram(tally.map)
    assert len(histogram.since_last().counts) == 0
    total = {}
    threads = [tally.start(300_000), tally.start(300_000)]
    while True:
        running = any(thread.is_alive() for thread in threads)
        gained = histogram.since_last()
        assert (gained.counts > 0).all()
        for labels, bucket, count in zip(*(part.tolist() for part in gained), strict=True):
            total[labels, bucket] = total.get((labels, bucket), 0) + count
        if not running:
            break
    for thread in threads:
        thread.join()
    expected = {(turn % 5, turn % 3): 40_000 for turn in range(15)}
    assert total == expected
    whole = histogram.read()
    keys = list(zip(whole.labels.tolist(), whole.bucket.tolist(), strict=True))
    assert keys == sorted(expected)
    assert whole.counts.tolist() == [40_000] * 15


@pytest.mark.needs("ebpf")
def test_a_key_that_appears_later_counts_from_nothing(tally):
    histogram = Histogram(tally.map)
    tally.run(1)
    assert [part.tolist() for part in histogram.since_last()] == [[0], [0], [1]]
    tally.run(16)
    gained = histogram.since_last()
    assert gained.counts.sum() == 16
    assert len(gained.counts) == 15
    tally.run(1)
    assert [part.tolist() for part in histogram.since_last()] == [[2], [2], [1]]
