"""The program that is attached, and goes on to the one that is due: it may be exchanged.

One dispatcher serves all probes of a kind. The lower 32 bits of the cookie that it is
attached with are the probe's number: its place among the `PROGRAMS`. That is set in one step,
so a hit meets the old program or the new one, never none.
"""

from __future__ import annotations

from . import helpers
from .encoding import R0, R1, R2, R3, R6, R7, R9, R10
from .instructions import Builder, Code
from .words import COUNTS, COUNTS_MAP, PROGRAMS

#: The parts of a call that a dispatcher can stand for.
BEGINS, RETURNS, SESSION = "begins", "returns", "session"


def dispatcher(part: str = BEGINS, number: int | None = None) -> Code:
    """Return the program that goes on to another one.

    Where there is none, the hit is counted as one, and as lost; the return of a call that
    was kept as lost; and that of a pair, of which that is not known, as an orphan.

    Parameters
    ----------
    part : {"begins", "returns", "session"}
        What it stands for: `BEGINS` is also for what happens at one moment.
    number : int, optional
        The probe's number, if it is not in a cookie.
    """
    b = Builder()
    b.move(R6, R1)
    if number is None:
        b.comment("the probe's number")
        b.call(helpers.ATTACH_COOKIE)
        b.move(R7, R0)  # of which the tail call and the counts' key take the lower half
    else:
        b.move(R7, number)
    b.comment("the program that is due; if there is one, it does not come back")
    b.move(R1, R6)
    b.load_map(R2, PROGRAMS)
    b.move(R3, R7)
    b.call(helpers.TAIL_CALL)
    end, returns = b.label("end"), b.label("return")
    b.comment("there is none: nothing is lost in silence")
    with b.slot(8) as key:
        b.store(4, R10, key, R7)
        b.load_map(R1, COUNTS_MAP)
        b.move(R2, R10)
        b.alu(R2, "+", key)
        b.call(helpers.MAP_LOOKUP)
    b.jump_if(R0, "==", 0, end)
    b.move(R9, R0)
    if part == SESSION:
        b.move(R1, R6)
        b.call_kernel(helpers.IS_RETURN)
        b.alu(R0, "&", 0xFF)
        b.jump_if(R0, "!=", 0, returns)
    for name in ("orphans",) if part == RETURNS else ("hits", "lost_stash"):
        b.move(R1, 1)
        b.atomic_add(R9, 8 * COUNTS.index(name), R1)
    b.place(end)
    b.move(R0, 1 if part == SESSION else 0)  # the return of what was lost is not looked at
    b.exit()
    b.place(returns)
    b.move(R1, 1)
    b.atomic_add(R9, 8 * COUNTS.index("lost_stash"), R1)
    b.move(R0, 0)
    b.exit()
    return b.assemble()
