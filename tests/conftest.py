"""Shared by all tests: what CI requires must not be skipped."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from vidlab.capture.ebpf.kernel import privileges
from vidlab.capture.gpu import hostcuda
from vidlab.errors import VidlabError

# Examples may take as long as they do: how long says more of the machine than of vidlab.
hypothesis.settings.register_profile(
    "vidlab", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("vidlab")

#: How the process was scheduled when it began.
_SCHEDULED = os.sched_getscheduler(0), os.sched_getparam(0)


def _hostcuda() -> bool:
    """Whether CuPy works here on host memory. Installed once, before anybody imports CuPy."""
    with contextlib.suppress(VidlabError):
        hostcuda.install(devices=2)
    return hostcuda.installed()


def _gpu() -> bool:
    """Whether a real GPU works."""
    import cupy

    return bool(cupy.cuda.is_available()) and not hostcuda.installed()


#: Abilities that a test may lack on a user's machine: how to see whether they are here.
ABILITIES = {
    "ebpf": privileges.can_trace,
    "browser": lambda: shutil.which("chromium") or shutil.which("chromium-browser"),
    "ffmpeg": lambda: shutil.which("ffmpeg"),
    "go": lambda: shutil.which("go"),
    "hostcuda": _hostcuda,
}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs(ability): skipped where it is missing")


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep a file's tests in one process; and in one, all that look at the whole kernel."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return "kernel" if _looks_at_kernel(config.rootpath / file) else file

    return Scheduling(config, log)


@functools.cache
def _looks_at_kernel(file: Path) -> bool:
    return 'needs("ebpf")' in file.read_text()


def pytest_sessionstart() -> None:
    _hostcuda()


def _schedule_as_before() -> None:
    """Undo what encoding AV1 as root does to the process: see `lab.clips.same_scheduling`."""
    if os.sched_getscheduler(0) != _SCHEDULED[0]:
        os.sched_setscheduler(0, *_SCHEDULED)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call() -> None:
    _schedule_as_before()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown() -> None:
    _schedule_as_before()


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not _gpu():
        pytest.skip("no real GPU works here")
    for marker in item.iter_markers("needs"):
        (ability,) = marker.args
        if ABILITIES[ability]():
            continue
        reason = f"{ability} is not installed: 'make system', or see 'vidlab doctor'"
        if ability in os.environ.get("VIDLAB_REQUIRE", "").split(","):
            pytest.fail(f"VIDLAB_REQUIRE names {ability}, but {reason}")
        pytest.skip(reason)
