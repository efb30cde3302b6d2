"""Rules for labels: what becomes of values, and how it is counted."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from typing import Any

import pytest

from vidlab import labelrules
from vidlab.errors import InputError
from vidlab.hashing import fnv1a
from vidlab.labelrules import OTHERS, REDACTED, LabelRules, RuleCount, RulesAtWork, bucket_of
from vidlab.labelrules import is_kept as kept


@pytest.mark.parametrize(
    ("data", "expected"),
    [  # from the reference's test vectors
        (b"", 0xCBF29CE484222325),
        (b"a", 0xAF63DC4C8601EC8C),
        (b"foobar", 0x85944171F73967E8),
    ],
)
def test_the_hash_is_fnv_1a(data: bytes, expected: int) -> None:
    assert fnv1a(data) == expected
    assert fnv1a(data[2:], fnv1a(data[:2])) == expected


def test_values_beyond_the_budget_are_in_the_bucket_that_their_hash_names() -> None:
    work = RulesAtWork(LabelRules(budget=2, budgets={"stream_id": 3}))
    streams = [work.apply({"stream_id": f"cam-{n}", "session": f"s{n}"}) for n in range(5)]
    assert [labels["stream_id"] for labels in streams] == [
        *("cam-0", "cam-1", "cam-2"),
        *(bucket_of("cam-3"), bucket_of("cam-4")),
    ]
    assert [labels["session"] for labels in streams[:2]] == ["s0", "s1"]
    assert streams[4]["session"] == bucket_of("s4")
    again = [work.apply({"stream_id": f"cam-{n}"})["stream_id"] for n in range(5)]
    assert again == [labels["stream_id"] for labels in streams]


def test_the_buckets_are_the_same_in_every_process_and_evenly_filled() -> None:
    values = [f"session-{n}" for n in range(6_400)]
    filled = Counter(map(bucket_of, values))
    assert len(filled) == 64
    assert min(filled.values()) > 50
    assert max(filled.values()) < 160
    program = "from vidlab.labelrules import *; print(bucket_of('session-9'), is_kept('é', 0.5))"
    there = subprocess.run(
        [sys.executable, "-c", program], env={"PYTHONHASHSEED": "7"}, capture_output=True, text=True
    )
    assert there.stdout == f"{bucket_of('session-9')} {kept('é', 0.5)}\n", there.stderr


def test_a_share_of_the_values_is_kept() -> None:
    values = [f"session-{n}" for n in range(10_000)]
    share = sum(kept(value, 0.1) for value in values)
    assert 900 < share < 1_100
    # Names that differ in their last digit only are told apart too.
    assert 30 < sum(kept(f"cam-{n}", 0.5) for n in range(100)) < 70
    assert len({kept(f"cam-{n}", 0.5) for n in range(10)}) == 2
    assert all(kept(value, 0.2) for value in values if kept(value, 0.1))

    work = RulesAtWork(LabelRules(keep={"session": 0.1}, budget=20_000))
    written = Counter(work.apply({"session": value})["session"] for value in values)
    assert written[OTHERS] == 10_000 - share
    assert len(written) == share + 1


def test_redacted_and_dropped_keys() -> None:
    work = RulesAtWork(LabelRules(redact=["viewer"], drop=["token", "gpu"]))
    given = {"viewer": "Ada", "token": "x", "gpu": 1, "codec": "vp9"}
    assert work.apply(given) == {"viewer": REDACTED, "codec": "vp9"}
    assert [(c.key, c.rule, c.folded, c.buckets) for c in work.counts()] == [
        ("viewer", "redact", 1, 1),
        ("token", "drop", 1, 0),
        ("gpu", "drop", 1, 0),
    ]


@pytest.mark.parametrize(
    "rules",
    [
        LabelRules(budget=1),
        LabelRules(budget=0),
        LabelRules(redact=["session"]),
        LabelRules(keep={"session": 0.01}),
    ],
)
def test_what_has_passed_is_not_changed_again(rules: LabelRules) -> None:
    work = RulesAtWork(rules)
    once = [work.apply({"session": f"s{n}"}) for n in range(50)]
    counted = work.counts()
    assert [work.apply(labels) for labels in once] == once
    # Nor is it in another process, to which it came as text.
    assert [RulesAtWork(rules).apply(labels) for labels in once[1:]] == once[1:]
    assert work.counts() == counted


def test_distinct_values_are_counted_and_told_at_every_doubling() -> None:
    work = RulesAtWork(LabelRules(budget=10), heard=True)
    for _ in range(2):
        for n in range(1_010):
            work.apply({"session": f"s{n}"})
    assert [count.folded for count in work.news] == [2**n for n in range(10)]
    (count,) = work.counts()
    assert 995 <= count.folded <= 1_000
    assert count == RuleCount("session", "budget", 10.0, 10, count.folded, 64)


def test_the_count_of_many_values_is_never_too_high() -> None:
    tally = labelrules._Tally()
    for n in range(50_000):
        tally.add(n)
    assert 48_000 < tally.distinct <= 50_000


def test_too_many_sets_become_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labelrules, "MOST_SETS", 3)
    monkeypatch.setattr(labelrules, "FEW_MORE", 1)
    work = RulesAtWork(LabelRules())
    labels = {"stream_id": "cam-1", "gpu": 1}
    for _ in range(3):
        assert work.crowd(labels) is None
        work.count_set()
    fewer = work.crowd(labels)
    assert fewer == {"stream_id": OTHERS, "gpu": 1}
    assert work.crowd(fewer) is None
    work.count_set()
    assert work.crowd(fewer) == {}
    assert work.crowd({}) is None
    assert [(c.key, c.limit, c.values) for c in work.counts()] == [("(all keys)", 3, 4)]


def test_further_keys_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labelrules, "MOST_KEYS", 2)
    work = RulesAtWork(LabelRules())
    assert work.apply({"a": "1", "b": "1", "c": "1", "gpu": 1}) == {"a": "1", "b": "1", "gpu": 1}
    assert [(c.key, c.rule, c.folded) for c in work.counts()] == [("(further keys)", "drop", 1)]


def test_rules_travel_as_json() -> None:
    rules = LabelRules(7, {"session": 3}, {"shard": 0.5}, ["viewer"], ["token"])  # type: ignore[arg-type]
    assert LabelRules(**json.loads(json.dumps(rules.parameters()))) == rules


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"budget": -1}, "budget"),
        ({"budget": True}, "budget"),
        ({"budgets": {"session": "many"}}, "'session'"),
        ({"budgets": ["session"]}, "each key"),
        ({"keep": {"session": 0}}, "share"),
        ({"keep": {"session": 1.5}}, "share"),
        ({"redact": "viewer"}, r"\['viewer'\]"),
        ({"drop": ["no key"]}, "identifier"),
        ({"redact": ["viewer"], "drop": ["viewer"]}, "two rules"),
        ({"redact": ["gpu"]}, "device index"),
        ({"budgets": {"gpu": 1}}, "device index"),
    ],
)
def test_rules_that_cannot_be_followed(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        LabelRules(**wrong)
