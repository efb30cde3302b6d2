"""The census: each kind of holder is found by name, and nothing of the program's is called."""

from __future__ import annotations

import asyncio
import collections
import contextvars
import functools
import gc
import queue
import sys
import threading
import types
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from vidlab.capture.runtime import census
from vidlab.capture.runtime.census import Census
from vidlab.capture.runtime.sizing import Estimate, some_of

KIB = 1 << 10

#: More holders than any process has that has imported all tests: none is left out.
ALL = 1_000_000


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> Iterator[types.ModuleType]:
    """A module of the program's own."""
    module = types.ModuleType("program")
    module.__file__ = "/home/someone/program.py"
    monkeypatch.setitem(sys.modules, "program", module)
    yield module
    vars(module).clear()


def define(module: types.ModuleType, source: str) -> None:
    exec(source, vars(module))  # as an import does


def holders(recorded: Any, writer: Any) -> dict[str, dict[str, Any]]:
    before = len(recorded.rows("objects"))
    for _ in Census(writer, lambda: ALL).look(7):
        pass
    return {row["name"]: row for row in recorded.rows("objects")[before:]}


def test_each_kind_of_holder_is_found_by_name(
    recorded: Any, writer: Any, program: types.ModuleType
) -> None:
    define(
        program,
        """
import functools
frames = {n: bytes(1024) for n in range(500)}
class Decoder:
    seen = [bytes(2048) for _ in range(100)]
    @functools.lru_cache(maxsize=None)
    def table(self, n): return bytes(1024)
    @staticmethod
    @functools.cache
    def other(n): return bytes(10)
class App:
    def __init__(self): self.sessions = set(range(1000))
app = App()
for n in range(300): Decoder.table(None, n)
Decoder.other(1)
def remember():
    memo = {}
    def call(n): memo[n] = bytes(100)
    return call
call = remember()
for n in range(50): call(n)
def collect(into=[]): into.append(bytes(5000))
for n in range(10): collect()
""",
    )
    found = holders(recorded, writer)

    def row(name: str) -> tuple[str, str, int]:
        return found[name]["holder"], found[name]["type"], found[name]["items"]

    assert row("program.frames") == ("global", "dict", 500)
    assert 500 * KIB < found["program.frames"]["size_bytes"] < 600 * KIB
    assert row("program.Decoder.seen") == ("attribute", "list", 100)
    assert 200 * KIB < found["program.Decoder.seen"]["size_bytes"] < 230 * KIB
    assert row("program.Decoder.table") == ("cache", "functools.lru_cache(maxsize=None)", 300)
    assert 300 * KIB < found["program.Decoder.table"]["size_bytes"] < 450 * KIB
    assert row("program.Decoder.other") == ("cache", "functools.lru_cache(maxsize=None)", 1)
    assert row("program.app.sessions") == ("attribute", "set", 1000)
    assert row("program.call.memo") == ("attribute", "dict", 50)
    assert row("program.collect.into") == ("attribute", "list", 10)
    assert 50_000 < found["program.collect.into"]["size_bytes"] < 60_000


def test_queues_without_bound_are_found_wherever_they_are(
    recorded: Any, writer: Any, program: types.ModuleType
) -> None:
    class Own(queue.Queue[int]):
        def qsize(self) -> int:
            raise AssertionError

    part = Census(writer, lambda: ALL)
    for _ in part.look(1):  # those that other tests, or Python itself, have left in the process
        pass
    of_others = {row["name"] for row in recorded.rows("objects")}
    program.jobs = queue.Queue()
    nowhere, bounded, simple = Own(), queue.Queue(5), queue.SimpleQueue[bytes]()
    for n in range(5):
        program.jobs.put(n)
        nowhere.put(n)
        bounded.put(n)
        simple.put(bytes(10_000))
    waiting: asyncio.Queue[int] = asyncio.Queue()
    program.state = types.SimpleNamespace(waiting=waiting)
    waiting.put_nowait(1)
    for _ in part.look(2):
        pass
    rows = [row for row in recorded.rows("objects") if row["t_ns"] == 2]
    queues = {
        row["name"]: row
        for row in rows
        if row["holder"] == "queue" and row["name"] not in of_others
    }
    assert queues["program.jobs"]["items"] == 5
    assert queues["program.state.waiting"]["items"] == 1
    names = {row["type"]: name for name, row in queues.items() if not name.startswith("program")}
    own = next(kind for kind in names if kind.endswith("Own"))
    assert queues[names[own]]["items"] == 5
    assert queues[names["_queue.SimpleQueue"]]["size_bytes"] > 50_000
    assert bounded.qsize() == 5
    mine = {name for name, row in queues.items() if row["type"] == "queue.Queue"}
    assert mine == {"program.jobs"}


def test_a_nameless_queue_keeps_its_number(recorded: Any, writer: Any) -> None:
    part = Census(writer, lambda: ALL)
    first: queue.SimpleQueue[int] = queue.SimpleQueue()
    for n in range(101):  # as many as no other queue in the process has
        first.put(n)
    for _ in part.look(1):
        pass
    second: queue.SimpleQueue[int] = queue.SimpleQueue()
    for n in range(102):
        second.put(n)
    for _ in part.look(2):
        pass
    rows = [row for row in recorded.rows("objects") if row["type"] == "_queue.SimpleQueue"]
    mine = {(row["t_ns"], row["items"]): row["name"] for row in rows}
    assert mine[1, 101] == mine[2, 101] != mine[2, 102]


def test_context_variables_count_what_all_contexts_hold(recorded: Any, writer: Any) -> None:
    keeps: contextvars.ContextVar[Any] = contextvars.ContextVar("keeps_large_objects")
    contexts = []
    for _ in range(20):
        context = contextvars.copy_context()
        context.run(keeps.set, np.zeros(100_000, np.uint8))
        contexts.append(context)
    contexts.append(contexts[0].copy())  # the same object once more
    row = holders(recorded, writer)["keeps_large_objects"]
    assert (row["holder"], row["items"], row["type"]) == ("context_variable", 20, "numpy.ndarray")
    assert 2_000_000 < row["size_bytes"] < 2_100_000
    del contexts


def test_no_code_of_the_program_is_called(
    recorded: Any, writer: Any, program: types.ModuleType
) -> None:
    called: list[str] = []

    def trap(name: str) -> Any:
        def method(*_: Any) -> Any:
            called.append(name)
            raise AssertionError(name)

        return method

    class Meta(type):
        __hash__ = __eq__ = __instancecheck__ = __subclasscheck__ = trap("meta")
        __getattribute__ = trap("meta attribute")

    names = ("len", "iter", "eq", "hash", "getattribute", "getattr", "sizeof", "repr", "bool")
    traps = {f"__{name}__": trap(name) for name in (*names, "getitem", "contains", "dir")}
    kinds = [
        type.__call__(Meta, "Odd" + base.__name__, (base,), dict(traps))
        for base in (object, dict, list, set, collections.deque, collections.OrderedDict)
    ]
    for number, kind in enumerate(kinds):
        vars(program)[f"kind{number}"] = kind
        vars(program)[f"thing{number}"] = type.__call__(kind)
    dict.__setitem__(program.thing1, "x", program.thing0)
    list.append(program.thing2, program.thing1)

    class Lazy(types.ModuleType):
        def __getattribute__(self, name: str) -> Any:
            called.append("loaded")
            raise AssertionError

    sys.modules["lazy"] = Lazy("lazy")
    called.clear()
    try:
        found = holders(recorded, writer)
    finally:
        del sys.modules["lazy"]
    assert called == []
    assert (found["program.thing1"]["items"], found["program.thing2"]["items"]) == (1, 1)


def test_a_program_with_very_many_objects_is_not_gone_through(
    recorded: Any, writer: Any, program: types.ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    program.kept = [1]
    hidden = queue.Queue[int]()
    hidden.put(1)
    monkeypatch.setattr(census, "_MOST_BLOCKS", 1)
    found = holders(recorded, writer)
    assert "program.kept" in found
    assert not [name for name in found if name.startswith("queue.Queue")]
    (finding,) = recorded.rows("findings")
    assert finding["kind"] == "census_partial"


def test_what_the_program_lets_go_of_meanwhile_does_not_end_in_our_thread(
    recorded: Any, writer: Any
) -> None:
    ended: list[int] = []

    class Fragile:
        def __del__(self) -> None:
            ended.append(threading.get_ident())

    things = [Fragile() for _ in range(200)]
    part = Census(writer, lambda: 10)
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            census._instances([queue.Queue])

    thread = threading.Thread(target=look)
    thread.start()
    while things:
        things.pop()
        gc.collect(0)
    over.set()
    thread.join()
    part.close()
    assert set(ended) == {threading.get_ident()}


@pytest.mark.parametrize(
    ("thing", "size"),
    [
        (np.zeros(100_000, np.uint8), 100_000),
        (np.zeros((100, 1000), np.uint8)[::2], 100_000),
        (np.frombuffer(bytearray(50_000), np.uint8), 50_000),
        ([bytearray(1000)] * 1000, 9_000),
        ({n: bytes(1000) for n in range(5000)}, 5_200_000),
        (collections.deque(bytes(1000) for _ in range(1000)), 1_040_000),
        ([[bytes(100) for _ in range(100)] for _ in range(1000)], 14_200_000),
        (types.SimpleNamespace(a=types.SimpleNamespace(b=bytes(10_000))), 10_400),
        (len, 0),
    ],
)
def test_sizes_are_estimated_with_what_is_held(thing: Any, size: int) -> None:
    assert Estimate().of(thing) == pytest.approx(size, rel=0.1, abs=300)


def test_an_estimate_has_a_bound() -> None:
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    wide = [[[bytes(1)] for _ in range(200)] for _ in range(200)]
    estimate = Estimate(500)
    assert estimate.of(deep) > 0
    assert estimate.of(wide) > 0
    assert len(estimate._seen) < 4_000
    while deep:  # else its end would be too deep
        deep = deep.pop()


def test_elements_are_spread_over_a_list() -> None:
    assert some_of(list(range(100)), list, 10) == list(range(0, 100, 10))
    assert some_of([1, 2], list, 10) == [1, 2]
    assert len(some_of(list(range(19)), list, 10)) == 10
    assert functools.reduce(max, some_of(list(range(19)), list, 10)) < 19


def test_the_laboratorys_programs_are_programs_and_the_rest_of_vidlab_is_not(
    recorded: Any, writer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("vidlab.lab.services", "vidlab.labels_of_mine"):
        module = types.ModuleType(name)
        monkeypatch.setitem(sys.modules, name, module)
        define(
            module, "import functools\nthings = [1, 2]\n@functools.cache\ndef f(n): return n\nf(1)"
        )
        module.__file__ = functools.__file__  # as where vidlab is installed
    found = holders(recorded, writer)
    assert found["vidlab.lab.services.things"]["items"] == 2
    assert "vidlab.lab.services.f" in found
    assert not [name for name in found if name.startswith("vidlab.labels_of_mine")]


def test_what_is_installed_is_measured_again_only_when_it_has_more(
    recorded: Any, writer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = types.ModuleType("installed")
    module.__file__ = functools.__file__
    monkeypatch.setitem(sys.modules, "installed", module)
    define(module, "class Plain: x = 1\nclass Registry: known = list(range(100))\ncache = {}")
    define(module, "Plain.__module__ = Registry.__module__ = 'installed'")
    measured: list[object] = []
    size = census._size

    def sized(thing: Any, own: bool) -> int:
        measured.append(thing)
        return size(thing, own)

    monkeypatch.setattr(census, "_size", sized)
    part = Census(writer, lambda: ALL)
    sizes = []
    for look in range(3):
        if look:
            vars(module)["cache"].update({n: bytes(1000) for n in range(100 * look)})
        measured.clear()
        for _ in part.look(look):
            pass
        sizes.append(
            [thing is module.Registry.known or thing is module.cache for thing in measured].count(
                True
            )
        )
    # The registry once, the cache each time that it has grown; a plain class never again.
    assert sizes == [1, 1, 1]
    assert module.Plain in part._dull.values()
    assert module.Registry not in part._dull.values()
    rows = [row for row in recorded.rows("objects") if row["name"] == "installed.cache"]
    assert [row["items"] for row in rows] == [100, 200]
    assert rows[1]["size_bytes"] > 150_000
    part.close()
    assert part._dull == {}
