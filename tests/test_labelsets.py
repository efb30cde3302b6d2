"""Label sets: entering and leaving them, what is remembered, and rules in force."""

from __future__ import annotations

import contextlib
import contextvars
import enum
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from vidlab import labelrules, labelsets
from vidlab.errors import InputError
from vidlab.labelrules import OTHERS, REDACTED, LabelRules, RuleCount, bucket_of
from vidlab.labelsets import labels


@pytest.fixture
def under() -> Iterator[Callable[..., Callable[[], None]]]:
    """Puts rules in force until the test's end."""
    with contextlib.ExitStack() as ends:

        def put(told: Callable[[RuleCount], None] | None = None, **rules: Any) -> Any:
            end = labelsets.under(LabelRules(**rules), told)
            ends.callback(end)
            return end

        yield put


def here() -> dict[str, Any]:
    return dict(labelsets.get(labelsets.current.get()).values)


class Colour(str, enum.Enum):  # noqa: UP042  # not a StrEnum: its str() is not its text
    RED = "RED"


# --- entering and leaving -----------------------------------------------------------


@pytest.mark.parametrize("times", [1, 2])
def test_equal_values_of_other_types_have_their_own_text(times: int) -> None:
    for _ in range(times):
        for value, text in [(1, "1"), (True, "True"), (1.0, "1.0"), ("1", "1"), (None, None)]:
            with labels(shard=value):
                assert here().get("shard") == text
        with labels(shard=Colour.RED, gpu="3"):
            assert here() == {"shard": "RED", "gpu": 3}
        with labels(shard="RED", gpu=True):
            assert here() == {"shard": "RED", "gpu": 1}
        with labels(shard=[1, 2]):
            assert here() == {"shard": "[1, 2]"}
    assert labelsets.current.get() == labelsets.EMPTY


def test_the_same_labels_are_entered_again_inside_themselves() -> None:
    mine = labels(stream_id="cam-1")
    with mine, labels(stream_id="cam-2"), mine:
        assert here() == {"stream_id": "cam-1"}
        with mine, labels(stream_id=None, codec="libx264"):
            assert here() == {"codec": "h264"}
        assert here() == {"stream_id": "cam-1"}
    assert here() == {}


def test_labels_left_in_another_context() -> None:
    mine = labels(stream_id="cam-1")
    contextvars.copy_context().run(mine.__enter__)
    mine.__exit__(None, None, None)
    assert here() == {}


def test_a_hook_is_told_what_was_entered_and_left(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, int]] = []
    with labels(stream_id="cam-1"):
        outer = labelsets.current.get()
        monkeypatch.setattr(labelsets, "entered", lambda *ids: told.append(ids))
        with labels(gpu=2):
            inner = labelsets.current.get()
        with pytest.raises(InputError), labels(gpu="none"):
            pass
    monkeypatch.setattr(labelsets, "entered", None)
    with labels(gpu=1):
        pass
    assert told == [(outer, inner), (inner, outer), (outer, labelsets.EMPTY)]


def test_what_is_remembered_is_bounded(under: Callable[..., Any]) -> None:
    under(budget=3)
    with labels(stream_id="cam"):
        base = labelsets.current.get()
        for n in range(2 * labelsets._MOST_REMEMBERED):
            with labels(session=f"s{n}"):
                labelsets.of_frame(base, labelsets.current.get())
    for results in (labelsets._merged, labelsets._frame_ids):
        assert 0 < len(results) <= labelsets._MOST_REMEMBERED


# --- rules in force -----------------------------------------------------------------


def test_ten_thousand_values_take_bounded_memory(under: Callable[..., Any]) -> None:
    def enter(first: int, last: int) -> int:
        for n in range(first, last):
            with labels(stream_id="cam", session=f"session-{n:05}"):
                pass
        return len(labelsets._sets)

    under(budgets={"session": 100})
    before = len(labelsets._sets)
    settled = enter(0, 6_000)
    assert before + 100 <= settled <= before + 100 + 64
    tracemalloc.start()
    try:
        assert enter(6_000, 10_000) == settled
        grown = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    # What is remembered is of other values; there is no more of it.
    most = 500 * labelsets._MOST_REMEMBERED
    assert grown < most
    (count,) = labelsets.rule_counts()
    assert (count.key, count.values, count.buckets) == ("session", 100, 64)
    assert 9_800 < count.folded <= 9_900


def test_sets_of_ever_new_combinations_are_bounded(
    under: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(labelrules, "MOST_SETS", 50)
    monkeypatch.setattr(labelrules, "FEW_MORE", 10)
    under(budget=10)
    before = len(labelsets._sets)
    for a in range(10):
        for b in range(10):
            with labels(a=f"a{a}", b=f"b{b}"):
                values = here()
            assert values in ({"a": f"a{a}", "b": f"b{b}"}, {"a": OTHERS, "b": OTHERS})
    for gpu in range(20):
        ids = {labelsets.intern({"a": "new", "gpu": gpu}, 0.5) for _ in range(2)}
        assert len(ids) == 1
    assert labelsets.get(ids.pop()).sample_rate == 0.5
    # One of them may be known from before.
    assert before + 50 <= len(labelsets._sets) <= before + 50 + 10 + 1


def test_rules_hold_on_every_way_in(under: Callable[..., Any]) -> None:
    under(redact=["viewer"], drop=["token"])
    given = {"viewer": "Ada", "token": "x", "codec": "vp9"}
    ids = [labelsets.intern(given), labelsets.extended(labelsets.EMPTY, given)]
    ids.append(labelsets.sampled(ids[0], 0.5))
    near = labelsets.intern({"viewer": "Bob", "site": "north"})
    ids.append(labelsets.of_frame(ids[0], near))
    with labels(**given):
        ids.append(labelsets.current.get())
    for id in ids:
        values = labelsets.get(id).values
        assert (values["viewer"], values["codec"]) == (REDACTED, "vp9")
        assert "token" not in values


def test_sets_of_before_are_ruled_until_the_end(under: Callable[..., Any]) -> None:
    with labels(viewer="Ada", token="x"):
        known = labelsets.current.get()
        end = under(redact=["viewer"], drop=["token"])
        assert here() == {"viewer": REDACTED}
        with labels(site="north"):
            inside = labelsets.current.get()
            assert here() == {"viewer": REDACTED, "site": "north"}
        with labels(viewer="Bob"):
            assert here() == {"viewer": REDACTED}
        end()
        assert here() == {"viewer": "Ada", "token": "x"}
        with labels(site="north"):
            assert here() == {"viewer": "Ada", "token": "x", "site": "north"}
            assert labelsets.current.get() != inside
    with labels(token="x", viewer="Ada"):
        assert labelsets.current.get() == known


def test_each_recording_has_the_whole_budget(under: Callable[..., Any]) -> None:
    for _ in range(2):
        end = under(budget=2)
        written = []
        for n in range(3):
            with labels(stream_id=f"cam-{n}"):
                written.append(here()["stream_id"])
        assert written == ["cam-0", "cam-1", bucket_of("cam-2")]
        end()
    # Values that are only known from before take nothing of it.
    under(budget=1)
    with labels(stream_id="cam-9"):
        assert here() == {"stream_id": "cam-9"}


def test_listeners_hear_of_no_value_that_is_redacted(under: Callable[..., Any]) -> None:
    with labels(viewer="Ada"):
        pass
    under(redact=["viewer"])
    heard: list[labelsets.LabelSet] = []
    stop = labelsets.listen(heard.append)
    with labels(viewer="Bob", site="south"):
        pass
    stop()
    viewers = {known.values["viewer"] for known in heard if "viewer" in known.values}
    assert viewers == {REDACTED}


def test_what_rules_do_is_told_outside_of_the_lock(under: Callable[..., Any]) -> None:
    told: list[tuple[str, int]] = []

    def hear(count: RuleCount) -> None:
        # Another thread gets in meanwhile.
        other = threading.Thread(target=labelsets.intern, args=({"heard": str(len(told))},))
        other.start()
        other.join(timeout=30)
        assert not other.is_alive()
        told.append((count.key, count.folded))

    under(hear, budget=5)
    for n in range(9):
        labelsets.intern({"session": f"s{n}"})
    assert told == [("session", 1), ("session", 2), ("session", 4)]


def test_a_set_is_made_while_another_is_being_made() -> None:
    """As a signal handler, or a garbage collection, may do."""
    inside: list[int] = []

    def interrupt(added: labelsets.LabelSet) -> None:
        if added.values == {"outer": "1"}:
            inside.append(labelsets.intern({"inner": "1"}))

    stop = labelsets.listen(interrupt)
    outer = labelsets.intern({"outer": "1"})
    stop()
    assert labelsets.get(outer).values == {"outer": "1"}
    assert [labelsets.get(id).values for id in inside] == [{"inner": "1"}]


def test_threads_agree_on_sets_while_rules_change(under: Callable[..., Any]) -> None:
    wrong: list[object] = []
    done = threading.Event()

    def work(number: int) -> None:
        try:
            n = 0
            while not done.is_set():
                n += 1
                with labels(stream_id=f"t{number}", session=f"s{n % 40}"):
                    values = here()
                    if values["stream_id"] != f"t{number}":
                        wrong.append(values)
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        for _ in range(20):
            end = under(budget=10, redact=["session"])
            for known in list(labelsets._sets.values()):
                assert known.values.get("session", REDACTED) == REDACTED
            end()
    finally:
        done.set()
        for thread in threads:
            thread.join()
        sys.setswitchinterval(interval)
    assert not wrong
