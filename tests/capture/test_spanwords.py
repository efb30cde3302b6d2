"""Span words: one a thread, at an address that stays; who listens is told of all of them."""

from __future__ import annotations

import ctypes
import gc
import os
import threading
from itertools import pairwise

import pytest

from vidlab.capture.spanwords import SIZE, Words


class Listener:
    """The threads that it knows of, and all that it was told."""

    def __init__(self) -> None:
        self.addresses: dict[int, int] = {}
        self.told: list[tuple[str, int]] = []

    def new(self, tid: int, address: int) -> None:
        self.told.append(("new", tid))
        self.addresses[tid] = address

    def gone(self, tid: int) -> None:
        self.told.append(("gone", tid))
        del self.addresses[tid]


@pytest.fixture
def words() -> Words:
    return Words()


@pytest.fixture
def listener(words) -> Listener:
    found = Listener()
    words.listen(found.new, found.gone)
    return found


def memory(address: int) -> bytes:
    return ctypes.string_at(address, SIZE)


def in_thread(function) -> None:
    thread = threading.Thread(target=function)
    thread.start()
    thread.join()


def test_a_word_is_what_is_in_memory_at_its_address(words) -> None:
    word = words.word_of_thread()
    assert memory(word.address) == bytes(SIZE)
    for place, number in enumerate((7, 1 << 63, 3, 7)):
        word.view[place] = number
    assert memory(word.address) == b"".join(n.to_bytes(8, "little") for n in (7, 1 << 63, 3, 7))
    assert word.read() == (7, 1 << 63, 3)
    assert word.address % 8 == 0


def test_a_word_that_is_being_written_says_nothing(words) -> None:
    word = words.word_of_thread()
    for place, number in enumerate((7, 8, 9, 7)):
        word.view[place] = number
    word.view[0] = 10
    assert word.read() == (0, 0, 0)
    word.view[0] = 0
    assert word.read() == (0, 0, 0)


def test_a_thread_has_one_word(words) -> None:
    assert words.word_of_thread() is words.word_of_thread()
    others = []
    in_thread(lambda: others.append(words.word_of_thread().address))
    assert others != [words.word_of_thread().address]


def test_words_of_many_threads_do_not_overlap(words) -> None:
    here, done = threading.Barrier(301), threading.Event()
    addresses = []

    def work() -> None:
        addresses.append(words.word_of_thread().address)
        here.wait()
        done.wait()

    threads = [threading.Thread(target=work) for _ in range(300)]
    for thread in threads:
        thread.start()
    here.wait()
    places = sorted(addresses)
    assert all(after - before >= SIZE for before, after in pairwise(places))
    done.set()
    for thread in threads:
        thread.join()


def test_who_listens_is_told_of_threads_that_are_there_come_and_go(words) -> None:
    here = words.word_of_thread()
    listener = Listener()
    words.listen(listener.new, listener.gone)
    assert listener.addresses == {threading.get_native_id(): here.address}
    tids = []

    def work() -> None:
        address = words.word_of_thread().address
        tids.append(threading.get_native_id())
        assert listener.addresses[tids[0]] == address

    in_thread(work)
    assert listener.told[1:] == [("new", tids[0]), ("gone", tids[0])]
    assert listener.addresses.keys() == {threading.get_native_id()}


def test_who_listens_no_more_is_told_nothing(words) -> None:
    listener = Listener()
    listening = words.listen(listener.new, listener.gone)
    assert words.listening
    listening.close()
    listening.close()
    assert not words.listening
    words.word_of_thread()
    assert listener.told == []


def test_two_listeners_are_both_told(words, listener) -> None:
    other = Listener()
    listening = words.listen(other.new, other.gone)
    words.word_of_thread()
    assert other.addresses == listener.addresses != {}
    listening.close()
    assert words.listening


def test_what_a_listener_raises_does_not_reach_the_thread(words) -> None:
    def fails(*args: int) -> None:
        raise OSError("no room in the map")

    words.listen(fails, fails)
    in_thread(words.word_of_thread)
    assert words.failures == 2


def test_a_word_is_used_again_and_empty_once_nothing_refers_to_it(words) -> None:
    addresses, kept = [], []

    def work(keep: bool) -> None:
        word = words.word_of_thread()
        assert word.read() == (0, 0, 0)
        assert memory(word.address) == bytes(SIZE)
        word.view[0] = word.view[3] = 5
        addresses.append(word.address)
        if keep:
            kept.append(word)

    in_thread(lambda: work(keep=True))
    for _ in range(1000):  # more than a page has
        in_thread(lambda: work(keep=False))
    assert kept[0].address not in addresses[1:]
    assert kept[0].read() == (5, 0, 0)
    assert len(set(addresses)) <= 128


def test_who_writes_is_told_when_somebody_listens(words) -> None:
    said: list[bool] = []
    words.watch(lambda: said.append(words.listening))
    one = words.listen(lambda *_: None, lambda *_: None)
    two = words.listen(lambda *_: None, lambda *_: None)
    assert said == [True]
    one.close()
    assert said == [True]
    two.close()
    assert said == [True, False]


def test_a_forked_child_has_its_own_words_and_its_listeners_are_told_anew() -> None:
    from vidlab.capture.spanwords import words

    word = words.word_of_thread()
    known, done = threading.Event(), threading.Event()

    def work() -> None:
        words.word_of_thread()
        known.set()
        done.wait()

    other = threading.Thread(target=work)
    other.start()
    known.wait()
    listener = Listener()
    listening = words.listen(listener.new, listener.gone)
    before = len(listener.told)
    for place in range(4):
        word.view[place] = 5
    try:
        if (child := os.fork()) == 0:
            try:
                gc.collect()
                me = threading.get_native_id()
                assert listener.told[before:] == [("new", me)]
                assert listener.addresses[me] == words.word_of_thread().address == word.address
                assert word.read() == (0, 0, 0)
                word.view[0] = word.view[3] = 6
                threading.Thread(target=words.word_of_thread).start()
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert word.read() == (5, 5, 5)
        assert len(listener.told) == before
    finally:
        word.clear()
        listening.close()
        done.set()
        other.join()
