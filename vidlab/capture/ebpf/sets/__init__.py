"""Probe sets: declarations that belong together, under one name.

A set spans versions and builds of the libraries it is about: what of it the ones that are
loaded have is attached, and the rest is left out.
"""

from __future__ import annotations

import importlib

from ....errors import InputError
from ..declaring.metrics import Metric
from ..declaring.probes import Declaration
from ..declaring.written import Written
from ..symbols.names import near_text

#: The module of each set: its `declarations()` returns what the set consists of.
_MODULES = {
    "cpython": "cpython",
    "cpython_calls": "cpython_calls",
    "cuda": "cuda",
    "faults": "faults",
    "libav": "libav",
    "nvcodec": "nvcodec",
    "sched": "sched",
    "tcp": "tcp",
    "xid": "xid",
}


def names() -> list[str]:
    """Return the names of the sets."""
    return sorted(_MODULES)


def probe_set(name: str) -> list[Declaration | Metric | Written]:
    """Return what a set consists of, made anew.

    Raises
    ------
    InputError
        If there is no set of this name.
    """
    module = _MODULES.get(name) if isinstance(name, str) else None
    if module is None:
        near = near_text(str(name), _MODULES)
        raise InputError(f"{name!r} is no probe set{near or '.'} There are {', '.join(names())}")
    made = importlib.import_module(f".{module}", __name__)
    return list(made.declarations())
