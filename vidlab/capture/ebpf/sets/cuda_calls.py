"""The calls that the set `cuda` is on: in which libraries, and under which names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..declaring.checks import Value
from ..declaring.expressions import retval
from ..declaring.probes import Probe

#: The driver's library. What the runtime does ends there, and what uses the driver itself.
DRIVER = "libcuda.so.1"

#: Where the runtime is: its own library (a wheel's copy too), CuPy's module, which has it
#: statically and not exported, but with its symbol table kept; and vidlab's host memory.
RUNTIMES = ("libcudart", "cupy_backends/cuda/api/runtime.*.so", "libhostcuda.so")


def driver(
    table: str, symbols: str, entry: Mapping[str, Value], exit: Mapping[str, Value] | None = None
) -> list[Probe]:
    """Return probes on functions of the driver; see `_calls`."""
    return _calls((DRIVER,), "driver", table, symbols, entry, exit or {})


def runtime(
    table: str, symbols: str, entry: Mapping[str, Value], exit: Mapping[str, Value] | None = None
) -> list[Probe]:
    """Return probes on functions of the runtime, wherever it is; see `_calls`."""
    return _calls(RUNTIMES, "runtime", table, symbols, entry, exit or {})


def _calls(
    libraries: Sequence[str],
    level: str,
    table: str,
    symbols: str,
    entry: Mapping[str, Value],
    exit: Mapping[str, Value],
) -> list[Probe]:
    """Return probes that record calls of functions with their level and status.

    Parameters
    ----------
    symbols : str
        Names, with blanks between. ``NAME+ptsz`` is NAME and NAME_ptsz: what programs that
        are compiled for a default stream of each thread call; ``NAME+ptds`` likewise.
    entry, exit : Mapping
        The columns besides level and status.
    """
    names = _names(symbols)
    first = Probe(
        libraries[0],
        names[0],
        entry={**entry, "level": level},
        exit={**exit, "status": retval()},
        name=table,
    )
    return [first.elsewhere(library, symbol) for library in libraries for symbol in names]


def _names(symbols: str) -> list[str]:
    names = []
    for symbol in symbols.split():
        name, _, suffix = symbol.partition("+")
        names += [name, f"{name}_{suffix}"] if suffix else [name]
    return names
