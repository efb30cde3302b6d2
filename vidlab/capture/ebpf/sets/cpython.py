"""The set `cpython`: an interpreter's garbage collections and large allocations, from outside.

It needs nothing of the program.

Collections
    Rows of `kernel_python_gc`: a collection of a generation starts; it is done, and found so many
    unreachable objects. They come from USDT probes that CPython carries where it was built
    with ``--with-dtrace``: Debian's and Fedora's interpreters have them, others as a rule do
    not, and the recording then says so.

Large allocations
    Rows of `kernel_python_memory`: calls that asked for `LARGE_BYTES` or more, with how long
    they took. The interpreter cuts objects of up to 512 bytes from blocks of its own, and asks
    for everything larger through `PyMem_RawMalloc` and its like (`domain` is "raw"), which ask
    the C library (`domain` is "c"): an allocation that was asked for so has a row of each, on
    one address, that of "c" within the other's time. Compilers may merge these functions with
    their callers, as in Debian's interpreter: what it asks for has then a row of "c" only. So
    has what other libraries of the process ask for.

Rows tell what was asked for and not what was given back: to probe every `free` would cost more
than it tells. Each allocation of more than 512 bytes costs some microseconds while the set records.
"""

from __future__ import annotations

from ..declaring.expressions import arg, retval
from ..declaring.operations import Expression
from ..declaring.probes import Declaration, Probe, Usdt

#: The interpreter, by whichever name: its executable, or the library of a shared build.
INTERPRETER = "*python3*"

#: From this size on an allocation is recorded, in bytes. It is where the C library begins to take
#: an allocation's pages from the kernel, and to give them back as it is freed.
LARGE_BYTES = 128 << 10

#: How much each function asks for, by its domain.
_ALLOCATORS: dict[str, dict[str, Expression]] = {
    "raw": {
        "PyMem_RawMalloc": arg(0),
        "PyMem_RawCalloc": arg(0) * arg(1),
        "PyMem_RawRealloc": arg(1),
    },
    "c": {"malloc": arg(0), "calloc": arg(0) * arg(1), "realloc": arg(1)},
}

#: Who has the functions of a domain; the C library's may be replaced by another's.
_LIBRARIES = {"raw": INTERPRETER, "c": "*"}


def declarations() -> list[Declaration]:
    """Return the set."""
    return [*_collections(), *_allocations()]


def _collections() -> list[Declaration]:
    return [
        Usdt(INTERPRETER, "python", probe, {"op": op, column: arg(0, "i64")}, name="python_gc")
        for probe, op, column in (
            ("gc__start", "start", "generation"),
            ("gc__done", "done", "collected"),
        )
    ]


def _allocations() -> list[Declaration]:
    return [
        Probe(
            _LIBRARIES[domain],
            function,
            entry={"size_bytes": asked, "domain": domain},
            exit={"address": retval("u64")},
            when=asked >= LARGE_BYTES,
            name="python_memory",
        )
        for domain, functions in _ALLOCATORS.items()
        for function, asked in functions.items()
    ]
