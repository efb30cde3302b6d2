"""Where a recording was made: the machine, and the packages that took part."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
from typing import Any

#: Packages whose versions bear on what a recording shows.
_PACKAGES = (
    *("vidlab", "numpy", "pyarrow", "av", "opencv-python-headless", "opencv-python"),
    *("cupy-cuda12x", "cupy-cuda13x", "cupy", "nvidia-ml-py"),
)


def host() -> dict[str, Any]:
    """Return the machine's name, system, and sizes."""
    system = os.uname()
    return {
        "name": system.nodename,
        "system": f"{system.sysname} {system.release}",
        "machine": system.machine,
        "cpus": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
    }


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that are installed."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found
