"""The set `faults`: page faults of a program, by thread.

A row of `kernel_page_faults` is a fault that the program's own code took: it touched a page that
was not mapped for it yet, or not for writing. A large buffer that is used for the first time
takes one for every page; that is what a slow first frame is often made of. Faults that the
kernel takes on the program's behalf, as it copies into a buffer for `read`, are not among
them, nor are pages that were mapped along with a neighbour or as one huge page.
"""

from __future__ import annotations

from ..declaring.expressions import field
from ..declaring.probes import Tracepoint

#: Bits of `error_code` on x86: the page was there (else: not mapped); the access was a write;
#: it came from user mode; a reserved bit was set; an instruction was fetched.
PRESENT, WRITE, USER, RESERVED, FETCH = 1, 2, 4, 8, 16


def declarations() -> list[Tracepoint]:
    """Return the set: where the fault was, by which instruction, and the CPU's reason for it.

    The tracepoint is of x86: on other machines the set cannot be attached.
    """
    return [
        Tracepoint(
            "exceptions",
            "page_fault_user",
            {
                "address": field("address", "u64"),
                "ip": field("ip", "u64"),
                "error_code": field("error_code", "u64"),
            },
            name="page_faults",
        )
    ]
