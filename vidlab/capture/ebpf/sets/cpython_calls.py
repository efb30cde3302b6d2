"""The set `cpython_calls`: Python functions as they are entered and left.

A row of `kernel_python_calls` names the function, its file and the line that it was at. The rows
come from USDT probes of CPython's own, see the set `cpython`. Each call of a Python function is
two hits, of some microseconds together: a set for short looks, and therefore one of its own.
"""

from __future__ import annotations

from ..declaring.expressions import arg, string
from ..declaring.probes import Usdt
from .cpython import INTERPRETER

#: Room for a file's and a function's name, in bytes; what is longer is cut.
FILE_BYTES, FUNCTION_BYTES = 128, 64


def declarations() -> list[Usdt]:
    """Return the set."""
    fields = {
        "file": string(arg(0), size=FILE_BYTES),
        "function": string(arg(1), size=FUNCTION_BYTES),
        "line": arg(2, "i32"),
    }
    return [
        Usdt(INTERPRETER, "python", f"function__{op}", {"op": op, **fields}, name="python_calls")
        for op in ("entry", "return")
    ]
