"""Reading and writing pprof profiles (gzip or plain protobuf).

`read` and `write` are for the whole format; `samples` for the weighted stacks alone, with
their labels, as columns.
"""

from __future__ import annotations

from .extracting import Call, Labels, Samples, Stack, samples
from .model import (
    LIMITS,
    Function,
    Label,
    Limits,
    Line,
    Location,
    Mapping,
    PprofError,
    Profile,
    Sample,
    ValueType,
)
from .reading import read
from .writing import write

__all__ = [
    "LIMITS",
    "Call",
    "Function",
    "Label",
    "Labels",
    "Limits",
    "Line",
    "Location",
    "Mapping",
    "PprofError",
    "Profile",
    "Sample",
    "Samples",
    "Stack",
    "ValueType",
    "read",
    "samples",
    "write",
]
