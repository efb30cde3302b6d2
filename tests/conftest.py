"""Shared by all tests: what CI requires must not be skipped."""

from __future__ import annotations

import contextlib
import os
import shutil

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
    config.addinivalue_line("markers", "xdist_group(name): runs in one process with its group")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep a file's tests in one process; and in one, all that look at the whole kernel."""
    kernel = {
        item.path
        for item in items
        for marker in item.iter_markers("needs")
        if marker.args == ("ebpf",)
    }
    for item in items:
        group = "kernel" if item.path in kernel else str(item.path)
        item.add_marker(pytest.mark.xdist_group(group))


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
