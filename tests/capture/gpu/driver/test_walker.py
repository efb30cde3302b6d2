"""The stack walker: the same stacks as a plain walk in Python, whatever is on them."""

from __future__ import annotations

import asyncio
import gc
import struct
import subprocess
import sys
import textwrap
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from vidlab.capture.gpu.driver import slots
from vidlab.errors import MissingDependencyError


@pytest.fixture(scope="module")
def walk() -> Any:
    try:
        return slots.extension().walk
    except MissingDependencyError as error:
        pytest.skip(str(error))


Pair = tuple[int, int]


def pairs(key: bytes) -> list[Pair]:
    return [(int(code), int(last)) for code, last in struct.iter_unpack("@Qq", key)]


def reference(depth: int, skip: int = 0) -> list[Pair]:
    """The caller's frames, walked in Python."""
    frame, found = sys._getframe(1 + skip), []
    while frame is not None and len(found) < depth:
        found.append((id(frame.f_code), frame.f_lasti))
        frame = frame.f_back  # type: ignore[assignment]
    return found


def agree(walk: Any, depth: int = 128) -> int:
    """Compare both at this place; return how many frames there were.

    The innermost frame is at two calls of one line, so its position is compared apart.
    """
    one, other = pairs(walk(depth)), reference(depth)
    assert one[1:] == other[1:]
    assert one[0][0] == other[0][0]
    assert 0 < one[0][1] < other[0][1]
    return len(one)


def test_here(walk: Any) -> None:
    assert agree(walk) > 5


@pytest.mark.parametrize("depth", [0, 1, 2, 16, 128])
def test_depth(walk: Any, depth: int) -> None:
    def deep(left: int) -> int:
        if left:
            return deep(left - 1)
        return len(walk(depth)) // 16

    assert deep(200) == depth


def test_skip(walk: Any) -> None:
    def inner() -> tuple[list[Pair], list[Pair]]:
        return pairs(walk(20, 3)), pairs(walk(20))

    def outer() -> tuple[list[Pair], list[Pair]]:
        return inner()

    less, whole = outer()
    assert less[:17] == whole[3:]


def test_recursion_is_told_by_its_depth_and_place(walk: Any) -> None:
    def recursive(left: int, other_line: bool) -> bytes:
        if left == 0:
            assert agree(walk) > 10
            return bytes(walk(64))
        if other_line:
            return recursive(left - 1, False)
        return recursive(left - 1, False)

    keys = [recursive(10, False) for _ in range(3)]
    assert len(set(keys)) == 1
    deeper, elsewhere = recursive(11, False), recursive(10, True)
    assert len({keys[0], deeper, elsewhere}) == 3


def test_generators(walk: Any) -> None:
    def generator() -> Iterator[int]:
        while True:
            yield agree(walk)

    def around() -> Iterator[int]:
        yield from generator()

    source = around()
    first = next(source)

    def further() -> int:
        return next(source)

    assert further() == first + 1


def test_coroutines_and_tasks(walk: Any) -> None:
    async def inner() -> int:
        await asyncio.sleep(0)
        return agree(walk)

    async def main() -> list[int]:
        return await asyncio.gather(inner(), asyncio.create_task(inner()), inner())

    assert min(asyncio.run(main())) > 1


def test_code_made_as_the_program_runs(walk: Any) -> None:
    space: dict[str, Any] = {"agree": agree, "walk": walk}
    exec(compile("def made():\n    return agree(walk)\nmade()", "<made>", "exec"), space)
    assert eval("[made() for _ in range(2)][0] + (lambda: agree(walk))()", space) > 10


def test_a_thread_a_class_body_and_a_finalizer(walk: Any) -> None:
    depths = []
    thread = threading.Thread(target=lambda: depths.append(agree(walk)))
    thread.start()
    thread.join()

    class Body:
        depths.append(agree(walk))

        def __del__(self) -> None:
            depths.append(agree(walk))

    body = Body()
    del body
    sorted([1], key=lambda _: depths.append(agree(walk)) or 0)
    assert len(depths) == 4
    assert depths[0] < depths[1]


def test_no_frame_is_kept(walk: Any) -> None:
    class Big:
        pass

    def hold() -> weakref.ref[Big]:
        big = Big()
        walk(32)
        return weakref.ref(big)

    gc.disable()
    try:
        assert hold()() is None
        for _ in range(1000):
            hold()
        before = sys.getrefcount(hold.__code__)
        for _ in range(1000):
            hold()
        after = sys.getrefcount(hold.__code__)  # (apart: an assert would hold it too)
        assert after == before
    finally:
        gc.enable()


def test_hidden_files_are_left_out_wherever_they_are() -> None:
    # In a Python of its own: what is hidden stays hidden.
    script = """
        import struct
        from vidlab.capture.gpu.driver import slots
        native = slots.extension()
        def make(name, body):
            space = {"walk": native.walk}
            exec(compile(f"def f(g=None):\\n    {body}", name, "exec"), space)
            return space["f"]
        leaf = make("/ours/leaf.py", "return walk(64)")
        middle = make("/theirs/middle.py", "return g()")
        between = make("/ours/sub/between.py", "return g()")
        top = make("/theirs/top.py", "return g()")
        def codes():
            key = top(lambda: between(lambda: middle(leaf)))
            return [code for code, _ in struct.iter_unpack("@Qq", key)]
        everything = codes()
        native.hide("/ours/")
        hidden = codes()
        theirs = [code for code in everything
                  if code not in (id(leaf.__code__), id(between.__code__))]
        assert len(everything) == len(hidden) + 2
        assert hidden[:-1] == theirs[:-1]
        assert id(top.__code__) in hidden and id(middle.__code__) in hidden
        assert len(native.walk(1, 0)) == 16
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True)


def test_wrong_arguments(walk: Any) -> None:
    calls: list[Callable[[], object]] = [
        lambda: walk(),
        lambda: walk("1"),
        lambda: walk(1, 2, 3),
    ]
    for call in calls:
        with pytest.raises(TypeError):
            call()
