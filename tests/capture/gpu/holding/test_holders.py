"""Who holds a block of GPU memory, one test for each kind of holder."""

from __future__ import annotations

import asyncio
import collections
import contextvars
import functools
import gc
import json
import queue
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

from vidlab.capture.gpu.holding.holders import Holder, holders, store_survivors
from vidlab.capture.gpu.holding.references import reaches
from vidlab.capture.gpu.tracking.live import Block, Live
from vidlab.schema import BORROWED, DEVICE, POOL

pytestmark = pytest.mark.needs("hostcuda")

#: An odd size, to be recognised.
SIZE = 123 * 8


def new() -> Any:
    import cupy

    return cupy.empty(SIZE, "uint8")


def used() -> int:
    import cupy

    return int(cupy.get_default_memory_pool().used_bytes())


def only(address: int) -> Holder:
    """The one holder of this address, which is found without being kept."""
    before = used()
    (holder,) = holders(address, seconds=60)
    assert used() == before
    return holder


class Decoder:
    kept: list[Any] = []  # noqa: RUF012 - shared by all decoders is what is tested

    def __init__(self) -> None:
        self.items: list[Any] = []
        self.frame_cache: dict[int, Any] = {}
        self.last: Any = None

    def on_frame(self) -> None: ...


class Slotted:
    __slots__ = ("image",)
    image: Any


class Pair(NamedTuple):
    value: Any
    ref: int


class FrameCache:
    def __init__(self) -> None:
        self._data: dict[str, Any] = {}


kept: list[Any] = []
latest: Any = None
frames_cache: dict[str, Any] = {}
pending: queue.Queue[Any] = queue.Queue()
decoder = Decoder()
errors: list[BaseException] = []
callbacks: list[Any] = []
state = threading.local()
current: contextvars.ContextVar[Any] = contextvars.ContextVar("current")
anything: list[Any] = []


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """After each test, all its arrays are gone without the collector's help."""
    gc.collect()
    before = used()
    yield
    global latest
    latest = None
    for container in (kept, frames_cache, errors, callbacks, anything, Decoder.kept):
        container.clear()
    vars(decoder).update(vars(Decoder()))
    vars(state).clear()
    pending.queue.clear()
    assert used() == before


# One test for each kind.


def test_list_in_a_module() -> None:
    kept.append(new())
    kept.append(1)
    holder = only(kept[0].data.ptr)
    assert (holder.kind, holder.holder) == ("container", f"list {__name__}.kept")
    assert holder.chain == (f"module {__name__}: `kept`", "list (2 items)", holder.array)
    assert holder.array == f"cupy.ndarray ({SIZE},) uint8"
    assert holder.root_kind == "module"


def test_global_of_a_module() -> None:
    global latest
    latest = new()
    holder = only(latest.data.ptr)
    assert (holder.kind, holder.holder) == ("module", f"{__name__}.latest")


def test_local_of_this_function() -> None:
    image = new()
    holder = only(image.data.ptr)
    line = test_local_of_this_function.__code__.co_firstlineno
    name = f"local `image` of test_local_of_this_function() at test_holders.py:{line}"
    assert (holder.kind, holder.holder) == ("local", name)
    assert holder.chain[0] == f"{name}, thread MainThread"


def test_list_in_a_local() -> None:
    images = [new()]
    holder = only(images[0].data.ptr)
    assert holder.kind == "local"
    assert holder.holder.startswith("list in local `images` of test_list_in_a_local() at ")


def test_local_in_another_thread() -> None:
    addresses: queue.Queue[int] = queue.Queue()
    end = threading.Event()

    def decode() -> None:
        frame = new()
        addresses.put(frame.data.ptr)
        end.wait()

    thread = threading.Thread(target=decode, name="decoder-3")
    thread.start()
    try:
        holder = only(addresses.get())
    finally:
        end.set()
        thread.join()
    assert holder.kind == "local"
    assert holder.holder.startswith("local `frame` of decode() at test_holders.py:")
    assert holder.chain[0].endswith(", thread decoder-3")


def closure() -> Callable[[], Any]:
    buffer = [new()]

    def on_frame() -> list[Any]:
        return buffer

    return on_frame


def test_closure_cell() -> None:
    callbacks.append(closure())
    holder = only(callbacks[0]()[0].data.ptr)
    assert holder.kind == "closure"
    line = callbacks[0].__code__.co_firstlineno
    assert holder.holder == f"closure of on_frame() at test_holders.py:{line}: `buffer`"
    assert holder.chain[0] == f"module {__name__}: `callbacks`"


def test_queue() -> None:
    pending.put(new())
    holder = only(pending.queue[0].data.ptr)
    assert (holder.kind, holder.holder) == ("queue", f"queue.Queue {__name__}.pending")
    assert "queue.Queue with 1 items" in holder.chain


@pytest.mark.parametrize("make", [queue.SimpleQueue, queue.LifoQueue, queue.PriorityQueue])
def test_other_queues(make: Callable[[], Any]) -> None:
    other = make()
    address = put_a_new_one(other)
    holder = only(address)
    assert holder.kind == "queue"
    assert holder.holder.startswith(f"queue.{make.__name__}, local `other` of test_other_queues()")


def put_a_new_one(where: Any) -> int:
    image = new()
    where.put(image)
    return int(image.data.ptr)


def test_asyncio_queue() -> None:
    async def main() -> Holder:
        frames: asyncio.Queue[Any] = asyncio.Queue()
        await frames.put(new())
        return only(frames._queue[0].data.ptr)  # type: ignore[attr-defined]

    holder = asyncio.run(main())
    assert holder.kind == "queue"
    assert holder.holder.startswith("asyncio.Queue, local `frames` of main() at ")


def test_deque() -> None:
    anything.append(collections.deque([new()]))
    holder = only(anything[0][0].data.ptr)
    assert holder.kind == "container"
    assert "collections.deque (1 item)" in holder.chain


@pytest.mark.parametrize("maxsize", [None, 8])
def test_lru_cache(maxsize: int | None) -> None:
    @functools.lru_cache(maxsize)
    def decode(number: int) -> Any:
        return new()

    address = decode(3).data.ptr
    holder = only(address)
    line = decode.__wrapped__.__code__.co_firstlineno
    assert holder.kind == "cache"
    assert holder.holder == f"functools.lru_cache of decode() at test_holders.py:{line}"


def test_dict_that_is_called_a_cache() -> None:
    frames_cache["first"] = new()
    holder = only(frames_cache["first"].data.ptr)
    assert (holder.kind, holder.holder) == ("cache", f"dict {__name__}.frames_cache")
    assert holder.chain[1] == "dict (1 item), ['first']"


def test_attribute_that_is_called_a_cache() -> None:
    decoder.frame_cache[1] = new()
    holder = only(decoder.frame_cache[1].data.ptr)
    assert (holder.kind, holder.holder) == ("cache", "dict Decoder.frame_cache")


def test_object_that_is_a_cache() -> None:
    anything.append(FrameCache())
    anything[0]._data["first"] = new()
    holder = only(anything[0]._data["first"].data.ptr)
    assert (holder.kind, holder.holder) == ("cache", f"FrameCache {__name__}.anything")


def test_context_variable_of_a_context() -> None:
    context = contextvars.copy_context()
    context.run(lambda: current.set(new()))
    holder = only(context[current].data.ptr)
    assert (holder.kind, holder.holder) == ("context variable", "context variable `current`")
    assert holder.root_kind == "function"


def test_context_variable_of_this_thread() -> None:
    token = current.set(new())
    try:
        holder = only(current.get().data.ptr)
    finally:
        current.reset(token)
    assert (holder.kind, holder.holder) == ("context variable", "context variable `current`")


def test_context_variable_of_a_task() -> None:
    async def work(ready: asyncio.Event) -> None:
        current.set(new())
        ready.set()
        await asyncio.Event().wait()

    async def main() -> Holder:
        ready = asyncio.Event()
        task = asyncio.create_task(work(ready))
        await ready.wait()
        holder = only(_in(task))
        task.cancel()
        return holder

    holder = asyncio.run(main())
    assert (holder.kind, holder.holder) == ("context variable", "context variable `current`")


def _in(task: Any) -> int:
    """The address in a task's context, which a task of 3.11 does not tell."""
    (context,) = (x for x in gc.get_referents(task) if type(x) is contextvars.Context)
    return int(context[current].data.ptr)


def fail(*_: Any) -> None:
    frame = new()
    anything.append(frame.data.ptr)
    raise ValueError


def test_traceback_of_a_stored_error() -> None:
    try:
        fail()
    except ValueError as error:
        errors.append(error)
    holder = only(anything[0])
    line = fail.__code__.co_firstlineno
    assert holder.kind == "traceback"
    assert holder.holder == f"traceback of ValueError in fail() at test_holders.py:{line}: `frame`"
    assert holder.chain[:2] == (f"module {__name__}: `errors`", "list (1 item)")


def test_traceback_of_an_error_that_is_handled() -> None:
    try:
        fail()
    except ValueError:
        holder = only(anything[0])
    assert (holder.kind, holder.root_kind) == ("traceback", "error")
    assert holder.chain[0] == "handled in thread MainThread"


def test_traceback_of_an_error_behind_another() -> None:
    try:
        try:
            fail()
        except ValueError as first:
            raise KeyError from first
    except KeyError as second:
        errors.append(second)
    holder = only(anything[0])
    assert holder.kind == "traceback"
    assert holder.holder.startswith("traceback of ValueError in fail() at ")
    assert "KeyError.__cause__" in holder.chain


def test_class_attribute() -> None:
    Decoder.kept.append(new())
    holder = only(Decoder.kept[0].data.ptr)
    assert (holder.kind, holder.holder) == ("container", "list Decoder.kept")
    assert "class Decoder: `kept`" in holder.chain


def test_instance_attribute() -> None:
    decoder.items.append(new())
    holder = only(decoder.items[0].data.ptr)
    assert (holder.kind, holder.holder) == ("container", "list Decoder.items")
    assert holder.chain[:2] == (f"module {__name__}: `decoder`", "Decoder.items")


def test_slot() -> None:
    slotted = Slotted()
    slotted.image = new()
    holder = only(slotted.image.data.ptr)
    assert (holder.kind, holder.holder) == ("container", "Slotted.image")


def test_wrapper_is_only_a_link() -> None:
    kept.append(Pair(new(), 3))
    holder = only(kept[0].value.data.ptr)
    assert (holder.kind, holder.holder) == ("container", f"list {__name__}.kept")
    assert "Pair.value" in holder.chain


def test_object_in_a_container_is_told_with_it() -> None:
    kept.append(SimpleNamespace(planes=[new()]))
    holder = only(kept[0].planes[0].data.ptr)
    assert holder.holder == f"list SimpleNamespace.planes in list {__name__}.kept"


def test_default_argument() -> None:
    def collect(number: int, into: Any = [new()]) -> Any:  # noqa: B006, B008
        return into

    callbacks.append(collect)
    address = callbacks[0](1)[0].data.ptr
    del collect
    holder = only(address)
    assert holder.kind == "container"
    assert holder.holder.startswith("list default argument `into` of collect() at ")


def test_partial() -> None:
    callbacks.append(functools.partial(fail, new()))
    holder = only(callbacks[0].args[0].data.ptr)
    assert (holder.kind, holder.holder) == ("container", f"list {__name__}.callbacks")
    line = fail.__code__.co_firstlineno
    assert f"functools.partial of fail() at test_holders.py:{line}" in holder.chain


def test_bound_method() -> None:
    callbacks.append(Decoder().on_frame)
    callbacks[0].__self__.last = new()
    holder = only(callbacks[0].__self__.last.data.ptr)
    assert (holder.kind, holder.holder) == ("container", "Decoder.last")
    assert "bound method Decoder.on_frame" in holder.chain


def frames(address: list[int]) -> Iterator[int]:
    frame = new()
    address.append(frame.data.ptr)
    yield 1
    del frame


def test_suspended_generator() -> None:
    address: list[int] = []
    anything.append(frames(address))
    next(anything[0])
    holder = only(address[0])
    line = frames.__code__.co_firstlineno
    assert holder.kind == "local"
    assert holder.holder == f"local `frame` of frames() at test_holders.py:{line}"
    assert f"{holder.holder}, suspended" in holder.chain


def test_suspended_coroutine() -> None:
    async def decode(address: list[int]) -> None:
        frame = new()
        address.append(frame.data.ptr)
        await asyncio.Event().wait()
        del frame

    async def main() -> Holder:
        address: list[int] = []
        task = asyncio.create_task(decode(address), name="decoder")
        await asyncio.sleep(0)
        holder = only(address[0])
        task.cancel()
        return holder

    holder = asyncio.run(main())
    assert holder.kind == "local"
    assert holder.holder.startswith("local `frame` of decode() at ")
    assert "task decoder" in holder.chain


def test_thread_local() -> None:
    state.buffer = [new()]
    holder = only(state.buffer[0].data.ptr)
    assert holder.kind == "container"
    assert holder.holder == "list thread-local `buffer`"
    assert holder.chain[0] == f"module {__name__}: `state`"


def test_bare_pointer() -> None:
    import cupy

    kept.append(cupy.cuda.alloc(SIZE))
    holder = only(kept[0].ptr)
    assert (holder.kind, holder.holder) == ("container", f"list {__name__}.kept")
    assert holder.array == "cupy.MemoryPointer"


# Several, and none.


def test_views_and_addresses_inside_a_block() -> None:
    kept.append(new())
    anything.append(kept[0][100:])
    for address in (kept[0].data.ptr, kept[0].data.ptr + 100, kept[0].data.ptr + SIZE - 1):
        found = {holder.holder: holder.array for holder in holders(address, seconds=60)}
        assert found == {
            f"list {__name__}.kept": f"cupy.ndarray ({SIZE},) uint8",
            f"list {__name__}.anything": f"cupy.ndarray ({SIZE - 100},) uint8 at offset 100",
        }


def test_view_alone_holds_the_block() -> None:
    anything.append(new()[100:])
    holder = only(anything[0].data.ptr)
    assert holder.holder == f"list {__name__}.anything"


def test_each_array_has_its_own_holder() -> None:
    kept.append(new())
    anything.append(new())
    first, second = kept[0].data.ptr, anything[0].data.ptr
    assert only(first).holder == f"list {__name__}.kept"
    assert only(second).holder == f"list {__name__}.anything"


def test_every_place_that_refers_to_an_array() -> None:
    kept.append(new())
    pending.put(kept[0])
    found = holders(kept[0].data.ptr, seconds=60)
    assert {holder.kind for holder in found} == {"container", "queue"}


def test_nobody_holds_what_is_gone() -> None:
    address = new().data.ptr
    assert holders(address, seconds=60) == []
    assert holders(1, seconds=60) == []


def test_weak_references_hold_nothing() -> None:
    kept.append(new())
    anything.append(weakref.ref(kept[0]))
    holder = only(kept[0].data.ptr)
    assert holder.holder == f"list {__name__}.kept"


def test_garbage_that_waits_for_the_collector() -> None:
    gc.disable()
    try:
        address = make_a_cycle()
        holder = only(address)
        assert holder.kind == "unknown"
        assert holder.holder == "reference cycle, waiting for the garbage collector"
        gc.collect()
        assert holders(address, seconds=60) == []
    finally:
        gc.enable()


def make_a_cycle() -> int:
    first: dict[str, Any] = {"array": new()}
    first["self"] = first
    return int(first["array"].data.ptr)


def test_references_that_python_cannot_see() -> None:
    import ctypes

    image = new()
    address = image.data.ptr
    raw = ctypes.py_object(image)
    ctypes.pythonapi.Py_IncRef(raw)
    del raw
    number = id(image)
    del image
    try:
        holder = only(address)
        assert (holder.kind, holder.root_kind) == ("unknown", "unseen")
        assert holder.chain[0].startswith("1 reference that Python can't see")
    finally:
        ctypes.pythonapi.Py_DecRef(ctypes.cast(number, ctypes.py_object))


# Nothing is kept alive.


def test_rebound_local_frees_its_block_at_once() -> None:
    before = used()
    image = new()
    address = image.data.ptr
    gone = weakref.ref(image)
    assert only(address).kind == "local"
    gc.disable()
    try:
        image = None
        assert gone() is None
        assert used() == before
    finally:
        gc.enable()
    assert holders(address, seconds=60) == []


def test_rebound_local_of_another_thread_frees_its_block_at_once() -> None:
    before = used()
    steps: queue.Queue[Any] = queue.Queue()
    go = [threading.Event(), threading.Event()]

    def decode() -> None:
        frame = new()
        steps.put(frame.data.ptr)
        go[0].wait()
        frame = None
        steps.put(used())
        go[1].wait()

    thread = threading.Thread(target=decode)
    thread.start()
    try:
        assert only(steps.get()).holder.startswith("local `frame` of decode()")
        go[0].set()
        assert steps.get() == before
    finally:
        for event in go:
            event.set()
        thread.join()


def test_locals_that_a_program_has_asked_for_stay_as_they_are() -> None:
    image = new()
    mine = locals()
    mine["extra"] = 1
    found = holders(image.data.ptr, seconds=60)
    assert mine["extra"] == 1
    assert "local `image`" in " ".join(holder.holder for holder in found)


def test_cyclic_garbage_of_a_search_does_not_exist() -> None:
    kept.append(new())
    gc.collect()
    gc.disable()
    try:
        gone = weakref.ref(kept[0])
        holders(kept[0].data.ptr, seconds=60)
        kept.clear()
        assert gone() is None
    finally:
        gc.enable()


def test_searching_while_other_threads_work() -> None:
    kept.append(new())
    address = kept[0].data.ptr
    end = threading.Event()

    def work() -> None:
        while not end.is_set():
            image = new()
            holder = {"image": [image, Decoder()]}
            del holder["image"]

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        found = [holders(address, seconds=60) for _ in range(3)]
    finally:
        end.set()
        for thread in threads:
            thread.join()
    assert {holder.holder for these in found for holder in these} == {f"list {__name__}.kept"}


# The survivors of a recording.


class Rows:
    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def row(self, table: str, **columns: Any) -> None:
        assert table == "holders"
        self.rows.append(columns)


def block(array: Any, generation: int, stack: int = 1, level: int = POOL) -> Block:
    address = array.data.ptr
    return Block(generation, level, DEVICE, 0, address, 1024, stack, 0, 0, 0, False)


def live(*blocks: Block) -> Any:
    known = Live()
    for each in blocks:
        known.at(each.level)[each.address] = each
    return SimpleNamespace(live=known)


def test_survivors_are_written_with_their_holders() -> None:
    before = used()
    kept.append(new())
    kept.append(kept[0][8:])
    pending.put(new())
    writer = Rows()
    first, second = block(kept[0], 7), block(pending.queue[0], 9, level=BORROWED)
    assert store_survivors(live(first, second), writer, seconds=60) == 2
    assert [row["generation"] for row in writer.rows] == [7, 9]
    row = writer.rows[0]
    assert (row["kind"], row["holder"]) == ("container", f"list {__name__}.kept")
    assert (row["address"], row["size_bytes"], row["device"]) == (first.address, 1024, 0)
    assert row["arrays"] == 2
    assert json.loads(row["chain"])[0] == f"module {__name__}: `kept`"
    assert writer.rows[1]["kind"] == "queue"
    del row
    kept.clear()
    pending.queue.clear()
    assert used() == before


def test_of_many_survivors_each_site_has_one_looked_for() -> None:
    kept.extend(new() for _ in range(10))
    blocks = [block(array, n, stack=2 if n == 9 else 1) for n, array in enumerate(kept)]
    writer = Rows()
    assert store_survivors(live(*blocks), writer, limit=3, seconds=60) == 3
    assert sorted(row["generation"] for row in writer.rows) == [0, 1, 9]


def test_survivor_without_an_array_is_written_as_such() -> None:
    writer = Rows()
    lone = Block(1, POOL, DEVICE, 0, 8, 512, 1, 0, 0, 0, False)
    store_survivors(live(lone), writer, seconds=60)
    assert [(row["kind"], row["arrays"]) for row in writer.rows] == [("unknown", 0)]


def test_no_survivors() -> None:
    writer = Rows()
    assert store_survivors(live(), writer) == 0
    assert writer.rows == []


def test_search_that_ends_early_says_so() -> None:
    kept.append(new())
    writer = Rows()
    store_survivors(live(block(kept[0], 1)), writer, seconds=0.0)
    (row,) = writer.rows
    assert row["kind"] in ("unknown", "container")
    assert reaches([], seconds=1) == []


def test_of_a_recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import vidlab as vl
    from vidlab.capture.gpu.engine import GpuMemory

    patient = functools.partial(store_survivors, seconds=60)
    monkeypatch.setattr("vidlab.capture.gpu.holding.holders.store_survivors", patient)
    with vl.record(tmp_path / "run", engines=[GpuMemory()]):
        before = used()
        image = new()
        gone = weakref.ref(image)
        holder = only(image.data.ptr)
        assert holder.kind == "local"
        gc.disable()
        try:
            image = None
            assert gone() is None
            assert used() == before
        finally:
            gc.enable()
        kept.append(new())
        callbacks.append(closure())
    rows = vl.open_run(tmp_path / "run").scan("holders").collect().sort("generation").to_dicts()
    assert [(row["kind"], row["holder"].partition(" at ")[0]) for row in rows] == [
        ("container", f"list {__name__}.kept"),
        ("closure", "closure of on_frame()"),
    ]
    assert {row["size_bytes"] for row in rows} == {1024}
