"""The pytest marker that fails a test whose GPU memory grows.

    @pytest.mark.gpu_leak_limit("1 MB", frames=500, warmup=50)
    def test_scaling(decoder):
        scale(decoder.next())

The body of a marked test is called `warmup` + `frames` times, with its fixtures set up once.
What is in use on the GPU after the last call may exceed what was in use after the warm-up by no
more than the limit; the garbage collector has run both times. If it does, the test fails and
says where the memory was taken and what holds it. All threads count.

Without a GPU, `pytest --hostcuda` (or `vidlab_hostcuda = true` in pytest's configuration) makes
CuPy work on host memory; else the test is skipped.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import inspect
import os
import tempfile
import unittest
from collections import defaultdict
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from .. import sizes

if TYPE_CHECKING:
    from ..capture.gpu.tracking.live import Block
    from ..capture.gpu.tracking.tracker import Tracker

MARKER = "gpu_leak_limit"

#: How many sites a failure names.
MAX_SITES = 10


@dataclass(frozen=True)
class Limit:
    """What a marker asks for.

    Attributes
    ----------
    bytes : int
        By how much what is in use may grow.
    frames, warmup : int
        How often the test is called, and how often before that.
    """

    bytes: int
    frames: int
    warmup: int


def parse(limit: int | str, *, frames: int = 100, warmup: int = 10) -> Limit:
    """Return the limit that the marker's arguments stand for.

    Raises
    ------
    ValueError
        If an argument makes no sense.

    Examples
    --------
    >>> parse("512 KiB", frames=500)
    Limit(bytes=524288, frames=500, warmup=10)
    """
    for name, value, least in (("frames", frames, 1), ("warmup", warmup, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name} is a whole number from {least}, not {value!r}")
    return Limit(sizes.parse(limit), frames, warmup)


# --- what pytest calls ------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("vidlab").addoption(
        "--hostcuda",
        action="store_true",
        help="make CuPy work on host memory, where there is no GPU",
    )
    parser.addini("vidlab_hostcuda", "make CuPy work on host memory", type="bool", default=False)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        f"{MARKER}(limit, frames=100, warmup=10): call the test so many times; it fails if the "
        "GPU memory in use grows by more than the limit",
    )
    if config.getoption("--hostcuda") or config.getini("vidlab_hostcuda"):
        from ..capture.gpu import hostcuda
        from ..errors import VidlabError

        try:
            hostcuda.install()
        except VidlabError as error:
            raise pytest.UsageError(f"--hostcuda: {error}") from error


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        marker = item.get_closest_marker(MARKER)
        if marker is None:
            continue
        try:
            parse(*marker.args, **marker.kwargs)
        except (TypeError, ValueError) as error:
            raise pytest.UsageError(f"{item.nodeid}: {MARKER}: {error}") from error
        if why := _unsupported(item):
            raise pytest.UsageError(f"{item.nodeid}: {MARKER} works on {why}")


def _unsupported(item: pytest.Item) -> str | None:
    if not isinstance(item, pytest.Function):
        return f"test functions, not on a {type(item).__name__}"
    if item.cls is not None and issubclass(item.cls, unittest.TestCase):
        return "test functions, not on methods of a unittest.TestCase"
    if inspect.iscoroutinefunction(item.obj) or inspect.isasyncgenfunction(item.obj):
        return "functions that are not async: call asyncio.run in the test"
    return None


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker(MARKER) is None:
        return
    reason = _missing()
    if reason is None:
        return
    if {"hostcuda", "gpu"} & set(os.environ.get("VIDLAB_REQUIRE", "").split(",")):
        pytest.fail(f"VIDLAB_REQUIRE says that CuPy must work here, but {reason}", pytrace=False)
    pytest.skip(reason)


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    marker = pyfuncitem.get_closest_marker(MARKER)
    if marker is None:
        return (yield)
    body = pyfuncitem.obj
    pyfuncitem.obj = _looped(body, parse(*marker.args, **marker.kwargs))
    try:
        return (yield)
    finally:
        pyfuncitem.obj = body


# --- what it does -----------------------------------------------------------------


def _missing() -> str | None:
    """Return why no GPU memory can be had here; None if it can."""
    try:
        import cupy

        if cupy.cuda.is_available():
            return None
    except ImportError as error:
        return f"CuPy can't be imported ({error}): pip install 'vidlab[gpu]'"
    return "no GPU works here: run pytest --hostcuda to have CuPy work on host memory"


def _looped(body: Any, limit: Limit) -> Any:
    """Return what calls a test's body as often as it is to be, and fails if memory grows."""

    @functools.wraps(body)
    def calls(**fixtures: Any) -> None:
        __tracebackhide__ = True
        with _tracking() as tracker:
            for _ in range(limit.warmup):
                body(**fixtures)
            before = _in_use(tracker)
            for _ in range(limit.frames):
                body(**fixtures)
            after = _in_use(tracker)
            grown = _total(after) - _total(before)
            report = _report(grown, before, after, tracker, limit) if grown > limit.bytes else None
        if report is not None:
            pytest.fail(report, pytrace=False)

    return calls


@contextlib.contextmanager
def _tracking() -> Iterator[Tracker]:
    """Give the tracker of the recording that runs, or of one that is made for this."""
    from .. import recording
    from ..capture.gpu.engine import GpuMemory
    from ..capture.gpu.tracking import tracker

    if tracker.active is not None:
        yield tracker.active
        return
    with tempfile.TemporaryDirectory(prefix="vidlab-") as folder:
        path = Path(folder, "run")
        with recording.record(path, engines=[GpuMemory(holders=False)]):
            if tracker.active is None:
                pytest.fail("GPU memory could not be recorded", pytrace=False)
            yield tracker.active


def _in_use(tracker: Tracker) -> dict[int, Block]:
    """Return the blocks that are in use on GPUs, by generation."""
    from ..schema import DRIVER, PINNED, POOL

    gc.collect()
    return {
        block.generation: block
        for block in tracker.live.blocks()
        if block.kind != PINNED
        and (block.level == POOL or (block.level == DRIVER and not block.pooled))
    }


def _total(blocks: dict[int, Block]) -> int:
    return sum(block.size_bytes for block in blocks.values())


def _report(
    grown: int, before: dict[int, Block], after: dict[int, Block], tracker: Tracker, limit: Limit
) -> str:
    """Return how much memory grew, where that was taken and what holds it."""
    from ..capture.gpu.holding.holders import holders

    new: dict[int, list[Block]] = defaultdict(list)
    for block in after.values():
        new[block.stack].append(block)
    count: dict[int, int] = {}
    net: dict[int, int] = {}
    for stack, blocks in new.items():
        old = [block for block in before.values() if block.stack == stack]
        count[stack] = len(blocks) - len(old)
        net[stack] = sum(b.size_bytes for b in blocks) - sum(b.size_bytes for b in old)
    lines = [
        f"GPU memory in use grew by {sizes.say(grown)} in {limit.frames:,} calls, after "
        f"{limit.warmup:,} to warm up; allowed are {limit.bytes:,} bytes"
    ]
    worst = sorted((stack for stack in net if net[stack] > 0), key=lambda s: -net[s])
    for stack in worst[:MAX_SITES]:
        lines.append(
            f"  {sizes.say(net[stack])} in {count[stack]:+,} blocks, taken in "
            f"{tracker.stacks.place(stack)}"
        )
        newest = max(new[stack], key=lambda block: block.generation)
        held = dict.fromkeys(f"{one.kind}: {one.holder}" for one in holders(newest.address))
        lines += [f"    held by {text}" for text in held]
    if len(worst) > MAX_SITES:
        lines.append(f"  and {len(worst) - MAX_SITES:,} more places")
    return "\n".join(lines)
