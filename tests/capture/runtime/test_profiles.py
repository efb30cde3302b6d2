"""Profiles: by name, by settings, and what cannot be one."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from vidlab.capture.registry import rebuilt
from vidlab.capture.runtime.engine import Runtime
from vidlab.capture.runtime.profiles import DEBUG, PARTS, PRODUCTION, PROFILES, STAGING, profile_of
from vidlab.errors import InputError
from vidlab.runs.manifest import EngineFacts


def test_each_profile_looks_at_all_that_the_one_before_does_and_as_often() -> None:
    assert list(PROFILES) == ["production", "staging", "debug"]
    for slower, faster in ((PRODUCTION, STAGING), (STAGING, DEBUG)):
        for part in PARTS:
            if slower.period_ns(part):
                assert 0 < faster.period_ns(part) <= slower.period_ns(part), part
    assert [part for part in PARTS if not STAGING.period_ns(part)] == ["census", "tracing"]
    assert all(DEBUG.period_ns(part) for part in PARTS)


@pytest.mark.parametrize("profile", ["debug", replace(STAGING, name="mine", heap=None)])
def test_a_child_process_has_the_same_profile(recorded: Any, profile: Any) -> None:
    engine = Runtime(profile)
    kept = json.loads(json.dumps(engine.parameters()))
    (child,) = rebuilt([EngineFacts("runtime", kept)], recorded.writer)
    assert isinstance(child, Runtime)
    assert child.profile == engine.profile == profile_of(profile)


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        ("fast", "one of production, staging, debug, not 'fast'"),
        ({"name": "x", "heap": 0}, "heap is a period in seconds"),
        ({"name": "x", "heap": float("nan")}, "heap is a period in seconds"),
        ({"name": "x", "wakeups": "often"}, "wakeups is a period in seconds"),
        ({"name": "x", "most_share": 0}, "most_share is a share of a CPU"),
        ({"name": "x", "most_rows": 0}, "most_rows is 1 to 10000"),
        ({"name": "x", "wakeup": 1}, "not wakeup"),
        ({"heap": 1}, "without a name"),
    ],
)
def test_what_cannot_be_a_profile_is_refused(chosen: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        Runtime(chosen)
    engine = Runtime()
    with pytest.raises(InputError, match=said):
        engine.switch(chosen)
    assert engine.profile is PRODUCTION
