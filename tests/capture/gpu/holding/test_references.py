"""The search for what refers to an object: on any objects, as it knows nothing of CuPy."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import types
import weakref
from typing import Any

import pytest

from vidlab.capture.gpu.holding import links, variables
from vidlab.capture.gpu.holding.references import Reach, reaches
from vidlab.capture.gpu.holding.roots import Garbage, Globals, Handled, Running, Unfinished, Unseen


class Thing:
    """Something that can be referred to, strongly and weakly."""


kept: list[Any] = []
named: Any = None


@pytest.fixture(autouse=True)
def empty() -> Any:
    yield
    kept.clear()


def told(target: Any) -> list[str]:
    """The chain of each reach but that of this function, as texts."""
    (found,) = reaches([[target]], seconds=60)
    return [
        " > ".join(link.text for link in links.of(reach))
        for reach in found
        if "told()" not in links.of(reach)[0].text
    ]


def root(target: Any) -> Any:
    """What the first reach of a list's item begins with."""
    (found,) = reaches([target[:1]], seconds=60)
    return found[0].root


def test_module_function_and_error_are_roots() -> None:
    kept.append(Thing())
    assert isinstance(root(kept), Globals)
    things = [Thing()]
    assert isinstance(root(things), Running)
    with pytest.raises(ValueError, match="x") as caught:
        raise ValueError("x")
    errors = [caught.value]
    del caught
    (found,) = reaches([errors[:1]], seconds=60)
    assert {type(reach.root) for reach in found} == {Running}
    try:
        errors.clear()
        raise ValueError
    except ValueError:
        (found,) = reaches([[sys.exc_info()[1]]], seconds=60)
    assert {type(reach.root) for reach in found} >= {Handled}


def test_path_leads_from_the_root_to_the_object() -> None:
    thing = Thing()
    kept.append({"a": (thing,)})
    (found,) = reaches([[thing]], seconds=60)
    (reach,) = [reach for reach in found if isinstance(reach.root, Globals)]
    assert reach.objects[0] is kept
    assert [type(each) for each in reach.objects] == [list, dict, tuple, Thing]
    for owner, referent in zip(reach.objects, reach.objects[1:], strict=False):
        assert any(each is referent for each in gc.get_referents(owner))


def test_one_reach_for_each_referrer_and_at_most_so_many() -> None:
    thing = Thing()
    kept.extend([thing] for _ in range(10))
    (found,) = reaches([[thing]], seconds=60, most=5)
    assert len(found) == 5
    (found,) = reaches([[thing]], seconds=60, most=100)
    assert sum(isinstance(reach.root, Globals) for reach in found) == 10


def test_module_before_function_at_the_same_distance() -> None:
    items = [Thing()]
    kept.append(1)
    globals()["named"] = items
    try:
        (found,) = reaches([items[:1]], seconds=60)
    finally:
        globals()["named"] = None
    assert isinstance(found[0].root, Globals)


def test_references_within_a_group_do_not_count() -> None:
    first: Any = Thing()
    first.other = Thing()
    first.other.other = first
    kept.append(first)
    del first
    ((reach,),) = reaches([[kept[0], kept[0].other]], seconds=60)
    assert reach.objects == (kept, kept[0])
    kept[0].other = None


def test_groups_are_answered_in_their_order() -> None:
    kept.append(Thing())
    lone = [Thing()]
    answers = reaches([kept[:1], lone[:1], []], seconds=60)
    assert [type(found[0].root) for found in answers[:2]] == [Globals, Running]
    assert answers[2] == []


def cycle() -> int:
    thing = Thing()
    thing.me = thing  # type: ignore[attr-defined]
    return id(thing)


def test_cycle_of_garbage() -> None:
    gc.collect()
    gc.disable()
    try:
        number = cycle()
        heap = gc.get_objects()
        place = next(n for n, each in enumerate(heap) if id(each) == number)
        (found,) = reaches([[heap[place]]], heap, seconds=60)
        assert isinstance(found[0].root, Garbage)
    finally:
        gc.enable()


def test_reference_from_c() -> None:
    import ctypes

    thing = Thing()
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))
    number = id(thing)
    try:
        group = [thing]
        del thing
        heap = gc.get_objects()
        (found,) = reaches([[group.pop()]], heap, seconds=60)
        assert found[0].root == Unseen(1)
    finally:
        ctypes.pythonapi.Py_DecRef(ctypes.cast(number, ctypes.py_object))


def test_search_that_ends_early_says_so() -> None:
    kept.append(Thing())
    heap = gc.get_objects()
    heap.sort(key=lambda each: each is kept)  # it comes last
    (found,) = reaches([kept[:1]], heap, seconds=0)
    assert isinstance(found[0].root, Unfinished)
    assert "of the objects" in found[0].root.limit


def test_heap_of_the_caller_is_emptied() -> None:
    heap = gc.get_objects()
    reaches([[kept]], heap, seconds=60)
    assert heap == []


def test_nothing_is_kept_alive() -> None:
    thing = Thing()
    gone = weakref.ref(thing)
    gc.disable()
    try:
        found: list[list[Reach]] = reaches([[thing]], seconds=60)
        del found
        thing = None  # type: ignore[assignment]
        assert gone() is None
    finally:
        gc.enable()


class Hostile(Thing):
    """Says no to whatever it is asked."""

    def __init__(self, held: Any) -> None:
        object.__setattr__(self, "held", held)

    def _refuse(self, *args: Any) -> Any:
        raise AssertionError("code of the program was run")

    __eq__ = __hash__ = __len__ = __repr__ = __iter__ = __getattr__ = _refuse
    __getattribute__ = __bool__ = __str__ = _refuse
    __dict__ = __class__ = property(_refuse)


class HostileDict(dict[Any, Any]):
    __getitem__ = __len__ = items = keys = values = __iter__ = Hostile._refuse


def test_code_of_the_program_is_not_run() -> None:
    thing = Thing()
    kept.append(Hostile(thing))
    assert f"module {__name__}: `kept` > list (1 item) > Hostile.held" in told(thing)
    kept[:] = [HostileDict(a=thing)]
    assert told(thing)[-1].endswith("> list (1 item) > HostileDict (1 item), ['a']")


def test_own_functions_are_no_holders() -> None:
    thing = Thing()
    (found,) = reaches([[thing]], seconds=60)
    assert [reach.root.code.co_name for reach in found if isinstance(reach.root, Running)] == [
        "test_own_functions_are_no_holders"
    ]


def test_collector_works_after_a_search_beside_asyncio() -> None:
    """Python 3.12's `_asyncio` must not be asked: the next collection would never end."""
    kept.append(Thing())

    async def wait(ready: asyncio.Event) -> None:
        ready.set()
        await asyncio.Event().wait()

    async def main() -> None:
        ready = asyncio.Event()
        task = asyncio.create_task(wait(ready))
        await ready.wait()
        reaches([kept[:1]], seconds=60)
        task.cancel()
        gc.collect()

    asyncio.run(main())
    gc.collect()


def test_global_of_a_module_that_is_not_imported_by_name() -> None:
    module = types.ModuleType("lone")
    module.thing = Thing()  # type: ignore[attr-defined]
    found = told(module.thing)
    assert found == ["module lone: `thing`"]


# The variables of frames.


def test_variables_of_a_running_function() -> None:
    def function(first: Any, *rest: Any, key: Any, **more: Any) -> list[variables.Variable]:
        inner = Thing()
        shared = Thing()

        def closure() -> Any:
            return shared, outer

        unset = 1
        del unset
        (found,) = variables.of([sys._getframe()])
        numbers = {"first": first, "rest": rest, "key": key, "more": more, "inner": inner}
        assert {name: id(value) for name, value in numbers.items()}.items() <= dict(found).items()
        assert dict(found)["shared"] in {id(shared), *map(id, closure.__closure__ or ())}
        assert "unset" not in dict(found)
        return found

    outer = Thing()
    assert "outer" in dict(function(Thing(), 2, key=Thing(), other=3))
    assert variables.readable()


def test_variables_of_another_threads_functions() -> None:
    ready, end = threading.Event(), threading.Event()
    numbers = []

    def work() -> None:
        thing = Thing()
        numbers.append(id(thing))
        ready.set()
        end.wait()

    thread = threading.Thread(target=work)
    thread.start()
    ready.wait()
    try:
        frame = sys._current_frames()[thread.ident]  # type: ignore[index]
        while frame.f_code.co_name != "work":
            frame = frame.f_back  # type: ignore[assignment]
        (found,) = variables.of([frame])
    finally:
        end.set()
        thread.join()
    assert dict(found)["thing"] == numbers[0]


def test_reading_variables_keeps_none_alive() -> None:
    thing = Thing()
    gone = weakref.ref(thing)
    variables.of([sys._getframe()])
    thing = None  # type: ignore[assignment]
    assert gone() is None


def test_collector_is_left_as_it_was() -> None:
    variables.of([sys._getframe()])
    assert gc.isenabled()
    gc.disable()
    try:
        variables.of([sys._getframe()])
        assert not gc.isenabled()
    finally:
        gc.enable()
