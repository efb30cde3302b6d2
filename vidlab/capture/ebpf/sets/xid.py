"""The set `xid`: what NVIDIA's driver reports as gone wrong with a GPU.

A row of `kernel_gpu_errors` is an "Xid": the message that the driver also writes to the kernel's
log, with the GPU's PCI address and the number by which NVIDIA documents it (31 is a page fault
of a GPU program, 79 a GPU that has fallen off the bus). Errors are recorded whichever process
is at fault: the driver reports many from an interrupt, where the current process is not to blame.

The driver has this tracepoint only in its open kernel modules, from release 560 or so on. Where
it is missing the recording goes on, and says so.
"""

from __future__ import annotations

from ..declaring.expressions import field, string
from ..declaring.probes import Tracepoint

#: Room for a PCI address such as "0000:3b:00.0", and for the driver's message, in bytes.
DEVICE_BYTES, MESSAGE_BYTES = 24, 192


def declarations() -> list[Tracepoint]:
    """Return the set."""
    return [
        Tracepoint(
            "nvidia",
            "nvidia_dev_xid",
            {
                "device": string(field("dev"), size=DEVICE_BYTES),
                "code": field("error_code", "u32"),
                "message": string(field("msg"), size=MESSAGE_BYTES),
            },
            name="gpu_errors",
            everywhere=True,
        )
    ]
