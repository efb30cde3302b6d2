"""Call stacks as numbers: the same place is the same number, walked in Python or in C."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Sequence
from typing import Any

import pytest

from vidlab.capture.gpu.tracking import stacks
from vidlab.capture.gpu.tracking.stacks import Stacks


class Written:
    def __init__(self) -> None:
        self.stacks: list[Sequence[tuple[str, str, int]]] = []

    def stack(self, frames: Sequence[tuple[str, str, int]]) -> int:
        self.stacks.append(frames)
        return len(self.stacks)


def extension() -> Any:
    from vidlab.capture.gpu.driver.slots import extension
    from vidlab.errors import VidlabError

    try:
        return extension()
    except VidlabError as error:
        pytest.skip(str(error))


def deep(depth: int, function: Any) -> Any:
    return function() if depth == 0 else deep(depth - 1, function)


def test_a_depth_of_nothing_has_no_stacks() -> None:
    written = Written()
    assert Stacks(written, depth=0).here() == 0
    assert not written.stacks


def test_a_place_has_one_number_and_each_line_its_own() -> None:
    written = Written()
    known = Stacks(written)
    numbers = [deep(0, known.here) for _ in range(3)]
    numbers.append(deep(0, known.here))
    assert numbers == [1, 1, 1, 2]
    assert written.stacks[0][0][:2] == ("deep", __file__)
    (here,) = [frame for frame in written.stacks[1] if frame[0].startswith("test_a_place")]
    assert here[1] == __file__
    assert here[2] == written.stacks[0][1][2] + 1


@pytest.mark.parametrize("depth", [1, 5, 32])
def test_both_walkers_give_the_same_numbers(depth: int) -> None:
    native = extension()
    written = Written()
    python, quick = Stacks(written, depth), Stacks(written, depth)
    quick.use(native)
    quick._by_lines = python._by_lines
    for down in (0, 3, 50):
        for _ in range(2):
            # On one line: this is one place.
            both = [deep(down, each.here) for each in (python, quick)]
            assert both[0] == both[1] != 0
    assert all(len(frames) <= depth for frames in written.stacks)


def test_no_frame_is_kept() -> None:
    class Array:
        pass

    known = Stacks(Written())

    def work() -> weakref.ref[Array]:
        array = Array()
        assert known.here()
        return weakref.ref(array)

    gc.disable()
    try:
        assert work()() is None
    finally:
        gc.enable()


def test_code_that_is_gone_is_not_taken_for_other_code() -> None:
    written = Written()
    known = Stacks(written)
    seen = set()
    for n in range(200):
        scope: dict[str, Any] = {"here": known.here}
        exec(compile(f"def f{n}(): return here()\nnumber = f{n}()", f"file{n}", "exec"), scope)
        seen.add(scope["number"])
    assert len(seen) == 200


def test_the_number_of_stacks_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stacks, "MOST_STACKS", 3)
    written = Written()
    known = Stacks(written)
    numbers = [deep(n, known.here) for n in range(6)]
    assert numbers == [1, 2, 3, 4, 4, 4]
    assert written.stacks[-1] == (("(more stacks)", "", 0),)
