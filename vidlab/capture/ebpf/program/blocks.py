"""The parts that programs are made of: counting, filtering, the span word, records.

Registers keep their meaning through a program: R6 is the context (``pt_regs``, a
tracepoint's record), R7 the probe's counts, R8 the record being written, R9 the stash of
the call that returns. A part changes R0 to R5, and those of R6 to R9 that it says it sets.
"""

from __future__ import annotations

from . import helpers
from .context import ProgramContext
from .encoding import R0, R1, R2, R3, R4, R6, R7, R8, R10, Label, Register
from .instructions import Builder
from .words import (
    COUNTS,
    COUNTS_MAP,
    DURATION_PLACE,
    PLACES,
    RING,
    SAMPLES,
    SLOTS,
    TARGETS,
    WORD_BYTES,
)

#: A ring wakes its reader each time that it is fuller by this part of its size.
WAKE_PARTS = 8


class Blocks:
    """Adds the parts of one program to a `Builder`.

    Parameters
    ----------
    b : Builder
    context : ProgramContext

    Attributes
    ----------
    end : Label
        Where the program ends, see `finish`.
    identity : int
        Where on the stack the tid (4 bytes) and then the pid are, once `identify` is there.
    thread : int
        The same as the kernel's first PID namespace numbers them.
    """

    def __init__(self, b: Builder, context: ProgramContext) -> None:
        self.b = b
        self.context = context
        self.end = b.label("end")
        self.thread = b.allocate(8)
        self.identity = self.thread if context.namespace is None else b.allocate(8)
        self._number = b.allocate(8)

    # --- begin and end ---------------------------------------------------------------

    def start(self) -> None:
        """Begin the program: R6 is its context."""
        self.b.move(R6, R1)

    def find_counts(self) -> None:
        """Set R7 to the counts of this probe, all of this CPU; R6 is the program's context."""
        b = self.b
        if self.context.index is None:
            b.comment("the probe's number: what it is attached with")
            b.move(R1, R6)
            b.call(helpers.ATTACH_COOKIE)
            b.truncate(R0)
            b.store(8, R10, self._number, R0)
        else:
            b.store(8, R10, self._number, self.context.index)
        self.lookup(COUNTS_MAP, self._number)
        b.jump_if(R0, "==", 0, self.end)
        b.move(R7, R0)

    def load_number(self, to: Register) -> None:
        """Set a register to the probe's number, once `find_counts` is there."""
        self.b.load(to, 8, R10, self._number)

    def lookup_number(self, map: str, key: int, missing: Label) -> None:
        """Set R0 to where the value of a 4-byte key is; go to the label if it is not there."""
        b = self.b
        with b.slot(8) as at:
            b.store(4, R10, at, key)
            self.lookup(map, at)
        b.jump_if(R0, "==", 0, missing)

    def lookup(self, map: str, key: int) -> None:
        """Set R0 to where the value of the key is, which is on the stack; 0 if nowhere."""
        self.b.load_map(R1, map)
        self.address(R2, R10, key)
        self.b.call(helpers.MAP_LOOKUP)

    def address(self, to: Register, base: Register, offset: int) -> None:
        """Set a register to `base` + `offset`."""
        self.b.move(to, base)
        if offset:
            self.b.alu(to, "+", offset)

    def count(self, name: str) -> None:
        """Count one more of this, see `COUNTS`; R7 is where.

        Atomically, as a program may be preempted by one on the same CPU.
        """
        self.b.move(R1, 1)
        self.b.atomic_add(R7, 8 * COUNTS.index(name), R1)

    def count_at(self, label: Label, name: str, go: Label | None = None) -> None:
        """Count one more of this wherever a jump leads to the label, then go on to the end."""
        self.b.place(label)
        self.count(name)
        self.b.jump(go or self.end)

    def finish(self, result: int = 0) -> None:
        """End the program, here and wherever it went to `end`."""
        self.b.place(self.end)
        self.b.move(R0, result)
        self.b.exit()

    # --- who and when ----------------------------------------------------------------

    def identify(self) -> None:
        """Put thread and process on the stack, see `identity`."""
        b = self.b
        b.call(helpers.PID_TGID)
        b.store(8, R10, self.thread, R0)
        if self.context.namespace is not None:
            device, inode = self.context.namespace
            b.comment("as our PID namespace numbers them; zeros if they are not of it")
            b.store(8, R10, self.identity, 0)
            b.move(R1, device)
            b.move(R2, inode)
            self.address(R3, R10, self.identity)
            b.move(R4, 8)
            b.call(helpers.NAMESPACE_PID_TGID)

    def read_time(self, at: int, base: Register = R10) -> None:
        """Put the time to `base` + `at`, in ns; it is in R0 too."""
        self.b.call(helpers.TIME_NS)
        self.b.store(8, base, at, R0)

    def only_targets(self, otherwise: Label) -> None:
        """Go to the label unless the process is one whose events are recorded."""
        b = self.b
        with b.slot(8) as key:
            b.load(R1, 4, R10, self.identity + 4)
            b.store(4, R10, key, R1)
            self.lookup(TARGETS, key)
        b.jump_if(R0, "==", 0, otherwise)

    def only_thread(self, tid: int, otherwise: Label) -> None:
        """Go to the label unless this is the thread."""
        self.b.load(R1, 4, R10, self.identity)
        self.b.move(R2, tid)
        self.b.jump_if(R1, "!=", R2, otherwise)

    def sample(self, every: int, otherwise: Label) -> None:
        """Go to the label, save for the first of each `every` hits, over all CPUs."""
        b = self.b
        self.lookup(SAMPLES, self._number)
        b.jump_if(R0, "==", 0, self.end)
        b.move(R1, 1)
        b.atomic_add(R0, 0, R1, fetch=True)
        b.move(R2, every)
        b.alu(R1, "%", R2)
        b.jump_if(R1, "!=", 0, otherwise)

    def read_word(self, base: Register, offset: int) -> None:
        """Read the thread's span word to `base` + `offset` (R6 to R10; 32 bytes, aligned).

        Its first 24 bytes become span, frame and labels: zeros where the thread has no
        word, or one that cannot be read, or is being written at this moment.
        """
        b = self.b
        unknown, known = b.label("no_word"), b.label("word")
        with b.slot(8) as key:
            b.load(R1, 4, R10, self.identity)
            b.store(4, R10, key, R1)
            self.lookup(SLOTS, key)
        b.jump_if(R0, "==", 0, unknown)
        b.load(R3, 8, R0, 0)
        self.address(R1, base, offset)
        b.move(R2, WORD_BYTES)
        b.call(helpers.READ_USER)  # where that fails, all of it is zero
        b.load(R1, 8, base, offset)
        b.load(R2, 8, base, offset + 24)
        b.jump_if(R1, "==", R2, known)
        b.place(unknown)
        for at in (0, 8, 16):
            b.store(8, base, offset + at, 0)
        b.place(known)

    # --- records ---------------------------------------------------------------------

    def reserve(self, lost: Label) -> None:
        """Set R8 to a new record in the ring; go to the label if there is no room.

        The room holds what was there before: every byte has to be written.
        """
        b = self.b
        b.load_map(R1, RING)
        b.move(R2, self.context.record_bytes)
        b.move(R3, 0)
        b.call(helpers.RING_RESERVE)
        b.jump_if(R0, "==", 0, lost)
        b.move(R8, R0)

    def write_identity(self) -> None:
        """Write thread, process, CPU and probe into the record."""
        b = self.b
        b.load(R1, 8, R10, self.identity)
        b.store(8, R8, PLACES["tid"], R1)
        b.call(helpers.CPU)
        b.store(2, R8, PLACES["cpu"], R0)
        self.load_number(R1)
        b.store(2, R8, PLACES["probe"], R1)

    def write_word(self, base: Register, offset: int) -> None:
        """Write span, frame and labels, as `read_word` left them, into the record."""
        b = self.b
        for name, size, at in (("span", 8, 0), ("frame", 8, 8), ("labels", 4, 16)):
            b.load(R1, size, base, offset + at)
            b.store(size, R8, PLACES[name], R1)

    def write_time(self, base: Register, offset: int) -> None:
        """Write the time at `base` + `offset` into the record."""
        self.b.load(R1, 8, base, offset)
        self.b.store(8, R8, PLACES["t_ns"], R1)

    def write_duration(self, base: Register, offset: int) -> None:
        """Write the duration at `base` + `offset` into a record that has one."""
        self.b.load(R1, 8, base, offset)
        self.b.store(8, R8, DURATION_PLACE, R1)

    def submit(self) -> None:
        """Hand the record to the reader and count it.

        The reader is woken when the ring is fuller by an eighth than it was, not for each
        record: it looks by itself now and then.
        """
        b, context = self.b, self.context
        assert context.layout is not None
        wake = b.label("submit")
        b.load_map(R1, RING)
        b.move(R2, helpers.UNREAD_BYTES)
        b.call(helpers.RING_QUERY)
        b.alu(R0, "&", context.ring_bytes // WAKE_PARTS - 1)
        b.move(R2, helpers.FORCE_WAKEUP)
        b.jump_if(R0, "<", context.layout.stride, wake)
        b.move(R2, helpers.NO_WAKEUP)
        b.place(wake)
        b.move(R1, R8)
        b.call(helpers.RING_SUBMIT)
        self.count("emitted")
