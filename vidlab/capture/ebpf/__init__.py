"""Kernel and driver events: probes declared in Python, recorded by eBPF programs."""

from __future__ import annotations

from .declaring.expressions import (
    arg,
    choice,
    const,
    cpu,
    deref,
    duration,
    field,
    pid,
    retval,
    string,
    tid,
)
from .declaring.metrics import Counter, Histogram
from .declaring.operations import Expression
from .declaring.probes import Probe, Tracepoint, Usdt

__all__ = [
    "Counter",
    "Expression",
    "Histogram",
    "Probe",
    "Tracepoint",
    "Usdt",
    "arg",
    "choice",
    "const",
    "cpu",
    "deref",
    "duration",
    "field",
    "pid",
    "retval",
    "string",
    "tid",
]
