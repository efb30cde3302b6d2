"""Threads: host memory holds under stress."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.needs("hostcuda")

Used = Callable[..., int]

MIB = 1 << 20
TO_HOST = 2


def test_threads_do_not_disturb_each_other(runtime: Any, used: Used) -> None:
    """Eight threads take, fill, check, hand over and give back; the books come out even."""
    errors: list[BaseException] = []
    handed_over: list[tuple[int, int, int]] = []
    start = used()
    pinned_size = 3000

    def work(seed: int) -> None:
        random = np.random.default_rng(seed)
        host = np.empty(1 << 17, np.uint8)
        mine: list[tuple[int, int, int]] = []
        try:
            for turn in range(1500):
                size = int(random.integers(1, 1 << 17))
                take = (runtime.malloc, runtime.mallocManaged, lambda n: runtime.mallocAsync(n, 0))
                address = take[turn % 3](size)
                value = int(random.integers(256))
                runtime.memsetAsync(address, value, size, 0)
                mine.append((address, size, value))
                if turn % 5 == 0:
                    handed_over.append(mine.pop())
                    pinned = runtime.hostAlloc(pinned_size, 0)
                    runtime.freeHost(pinned)
                if len(mine) > 8 or turn % 7 == 0:
                    source = handed_over if turn % 7 == 0 else mine
                    try:
                        address, size, value = source.pop()
                    except IndexError:
                        continue
                    runtime.memcpy(host.ctypes.data, address, size, TO_HOST)
                    assert (host[:size] == value).all()
                    runtime.free(address)
            for address, _, _ in mine:
                runtime.free(address)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    for address, size, value in handed_over:
        host = np.empty(size, np.uint8)
        runtime.memcpy(host.ctypes.data, address, size, TO_HOST)
        assert (host == value).all()
        runtime.free(address)
    runtime.deviceSynchronize()
    assert used() == start


def test_memory_freed_during_a_copy_is_there_until_its_end(runtime: Any) -> None:
    """The copy runs without the GIL and without the lock; a free meanwhile must not unmap."""
    host = np.zeros(32 * MIB, np.uint8)
    current: list[int] = []
    stop = threading.Event()

    def copy() -> None:
        while not stop.is_set():
            if not current:
                continue
            try:
                runtime.memcpy(host.ctypes.data, current[0], host.nbytes, TO_HOST)
            except (IndexError, runtime.CUDARuntimeError):
                continue

    thread = threading.Thread(target=copy)
    thread.start()
    for _ in range(40):
        current.append(runtime.malloc(host.nbytes))
        runtime.memset(current[0], 1, host.nbytes)
        runtime.free(current.pop())
    stop.set()
    thread.join()
    assert set(np.unique(host)) <= {0, 1}
