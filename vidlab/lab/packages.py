"""Packages that only some experiments need."""

from __future__ import annotations

import importlib
from typing import Any

from ..errors import missing_extra


def cupy_module() -> Any:
    """Return CuPy, or raise MissingDependencyError, which says how to get it."""
    try:
        return importlib.import_module("cupy")
    except ImportError:
        raise missing_extra("cupy", "gpu") from None
