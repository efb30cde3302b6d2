"""Shared by all tests: what CI requires must not be skipped."""

from __future__ import annotations

import os
import shutil

import pytest

#: Abilities that a test may lack on a user's machine: how to see whether they are here.
ABILITIES = {
    "browser": lambda: shutil.which("chromium") or shutil.which("chromium-browser"),
    "ffmpeg": lambda: shutil.which("ffmpeg"),
}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs(ability): skipped where it is missing")


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("needs"):
        (ability,) = marker.args
        if ABILITIES[ability]():
            continue
        reason = f"{ability} is not installed: see 'vidlab doctor'"
        if ability in os.environ.get("VIDLAB_REQUIRE", "").split(","):
            pytest.fail(f"VIDLAB_REQUIRE names {ability}, but {reason}")
        pytest.skip(reason)
