"""The guard: a process that executes another program is no longer a target, from that moment on.

Executing a program can give a process the rights of another user (sudo). Who may see a
process's calls as long as it is theirs may not see them then. A broker cannot look in
time, so a program in the kernel takes the process off the map of targets, before the new
program's first instruction.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

from ..kernel.bpf import AttachType, ProgramType
from ..kernel.links import attach_tracepoint
from ..kernel.maps import Map
from ..kernel.programs import load
from ..program import helpers
from ..program.blocks import Blocks
from ..program.context import ProgramContext
from ..program.encoding import R1, R2, R10
from ..program.instructions import Builder, Code
from ..program.words import TARGETS


class Guard:
    """Takes processes off a map of targets as they execute a program, until `close`.

    Parameters
    ----------
    targets : Map
        HASH, pid u32 -> u64; whoever made it closes it.
    """

    def __init__(self, targets: Map) -> None:
        self._targets = targets
        self.close: Callable[[], None]
        with contextlib.ExitStack() as undo:
            code = code_of_guard().encode({TARGETS: targets.fd})
            program = undo.enter_context(
                load(code, ProgramType.TRACEPOINT, AttachType.NONE, "guard")
            )
            undo.enter_context(attach_tracepoint(program, "sched", "sched_process_exec"))
            self.close = undo.pop_all().close

    def let_go(self, pid: int) -> None:
        """Take a process off the map: it has ended, and its number may become another's."""
        self._targets.delete(pid.to_bytes(4, "little"))

    def holds(self, pid: int) -> bool:
        """Whether the process is still a target: it has executed no program since."""
        return self._targets.lookup(pid.to_bytes(4, "little")) is not None


def code_of_guard() -> Code:
    """Return the guard's program.

    Processes have the numbers of the broker's PID namespace, as in the map; it is the
    target's too (see `peers.check_target`).
    """
    status = Path("/proc/self/ns/pid").stat()
    b = Builder()
    blocks = Blocks(b, ProgramContext(index=0, namespace=(status.st_dev, status.st_ino)))
    blocks.start()
    blocks.identify()
    with b.slot(8) as key:
        b.load(R1, 4, R10, blocks.identity + 4)
        b.store(4, R10, key, R1)
        b.load_map(R1, TARGETS)
        blocks.address(R2, R10, key)
        b.call(helpers.MAP_DELETE)
    blocks.finish()
    return b.assemble()
