"""Programs for calls: what is read as one begins is kept until it returns.

A call under way is kept in the stash, under its thread and a token that no other call of the
thread has meanwhile. Where entry and return share a link (a *session*, Linux 6.13), the
kernel keeps 8 bytes for us with the call, and the token is the time of its entry. Else they
are a *pair*, and the token is where the stack was as the call began.
"""

from __future__ import annotations

import errno

from ..declaring.metrics import Metric
from ..declaring.probes import Probe
from . import helpers
from .blocks import Blocks
from .context import ProgramContext
from .counting import add_value
from .encoding import R0, R1, R2, R3, R4, R6, R8, R9, R10, Register
from .expressions import Compiler
from .filling import Fields, declaration_of
from .instructions import Builder, Code
from .values import EntryValues, ReturnValues
from .words import (
    BLANK,
    FIELDS_START_OF_CALLS,
    KEPT_ARGUMENTS,
    STASH,
    STASH_ARGUMENTS,
    STASH_FIELDS,
    STASH_KEY,
    STASH_TIME,
    STASH_WORD,
    stash_bytes,
)

#: From where a record would begin to where a stash begins: the fields of both are one.
_FIELDS_MOVE = STASH_FIELDS - FIELDS_START_OF_CALLS

#: The program's number goes into the upper bits of a token: another probe on the same
#: function sees the same stack, and might read the same time.
_NUMBER_BITS = 48

#: What an entry of a session returns so that the return is not seen.
SKIP_RETURN = 1


def call_session(context: ProgramContext, source: Probe | Metric) -> Code:
    """Return the program that runs as a call begins and as it returns, by one link.

    Parameters
    ----------
    context : ProgramContext
    source : Probe, Counter or Histogram
        With exit fields, even none.

    Raises
    ------
    InputError
        If it asks for what is not there to be read, or for too much.
    """
    b = Builder()
    returns = b.label("return")
    b.move(R6, R1)
    b.comment("does the call begin or return?")
    b.call_kernel(helpers.IS_RETURN)
    b.alu(R0, "&", 0xFF)
    b.jump_if(R0, "!=", 0, returns)
    with b.scope():
        _Entry(b, context, source, session=True).write()
    b.place(returns)
    with b.scope():
        _Return(b, context, source, session=True).write()
    return b.assemble()


def call_pair(context: ProgramContext, source: Probe | Metric) -> tuple[Code, Code]:
    """Return the programs that run as a call begins and as it returns.

    Parameters and errors are those of `call_session`.
    """
    codes = []
    for part in (_Entry, _Return):
        b = Builder()
        b.move(R6, R1)
        part(b, context, source, session=False).write()
        codes.append(b.assemble())
    return codes[0], codes[1]


class _Side:
    """What the entry of a call and its return have in common."""

    def __init__(
        self, b: Builder, context: ProgramContext, source: Probe | Metric, session: bool
    ) -> None:
        of = declaration_of(source)
        assert isinstance(of, Probe)
        self.b, self.context, self.source, self.of = b, context, source, of
        self.session = session
        self.blocks = Blocks(b, context)
        self.key, self.time = b.allocate(STASH_KEY), b.allocate(8)
        self.filtered = b.label("filtered")
        self.sampled_out = b.label("sampled_out")
        self.lost = b.label("lost")
        layout = context.layout
        self.fields = None if layout is None else Fields(layout, FIELDS_START_OF_CALLS)

    def select(self, compiler: Compiler) -> None:
        """Leave the calls that the declaration does not want."""
        if self.of.when is not None:
            self.b.comment(f"only if {self.of.when!r}")
            compiler.unless(self.of.when, self.filtered)
        if self.of.every > 1:
            self.b.comment(f"one of {self.of.every}")
            self.blocks.sample(self.of.every, self.sampled_out)

    def set_key(self) -> None:
        """Complete the stash's key, of which R0 is the token, by the thread."""
        b = self.b
        b.store(8, R10, self.key + 8, R0)
        b.load(R1, 8, R10, self.blocks.thread)
        b.store(8, R10, self.key, R1)

    def number_token(self) -> None:
        """Put the program's number into the token in R0."""
        b = self.b
        self.blocks.load_number(R1)
        b.alu(R1, "<<", _NUMBER_BITS)
        b.alu(R0, "^", R1)


class _Entry(_Side):
    """As a call begins."""

    def write(self) -> None:
        b, blocks, of = self.b, self.blocks, self.of
        b.comment("the call begins")
        blocks.identify()
        if self.context.targets:
            b.comment("only processes that are recorded")
            blocks.only_targets(blocks.end)
        blocks.find_counts()
        blocks.count("hits")
        if of.tid is not None:
            b.comment(f"only the thread {of.tid}")
            blocks.only_thread(of.tid, self.filtered)
        compiler = Compiler(b, EntryValues(blocks))
        if of.when is None or of.when_at_entry:
            self.select(compiler)
        if self.context.stashes_in_place:
            self._keep_in_place(compiler)
        else:
            self._keep_from_stack(compiler)
        if self.session:
            b.comment("the return finds it by the token")
            b.move(R1, R6)
            b.call_kernel(helpers.SESSION_COOKIE)
            b.load(R1, 8, R10, self.key + 8)
            b.store(8, R0, 0, R1)
        b.move(R0, 0)
        b.exit()
        blocks.count_at(self.filtered, "filtered")
        blocks.count_at(self.sampled_out, "sampled_out")
        blocks.count_at(self.lost, "lost_stash")
        blocks.finish(SKIP_RETURN if self.session else 0)

    def _keep_from_stack(self, compiler: Compiler) -> None:
        """Put the call together on the stack, and keep it."""
        b, blocks = self.b, self.blocks
        stash = b.allocate(self.context.stash_bytes)
        if self.fields is not None:
            self.fields.clear(b, R10, stash + _FIELDS_MOVE, self.of.entry)
        for at in range(stash_bytes(self.context.record_bytes), self.context.stash_bytes, 8):
            b.store(8, R10, stash + at, 0)
        self._fill(compiler, R10, stash)
        blocks.read_time(stash + STASH_TIME)
        self._set_token()
        blocks.address(R3, R10, stash)
        self._insert()

    def _keep_in_place(self, compiler: Compiler) -> None:
        """Keep an empty call, and put it together where it is kept."""
        b, blocks = self.b, self.blocks
        blocks.read_time(self.time)
        self._set_token()
        b.comment("it is larger than the stack: keep zeros, and fill them in")
        blocks.lookup_number(BLANK, 0, self.lost)
        b.move(R3, R0)
        self._insert()
        blocks.lookup(STASH, self.key)
        b.jump_if(R0, "==", 0, self.lost)
        b.move(R8, R0)
        self._fill(compiler, R8, 0)
        blocks.read_time(STASH_TIME, R8)

    def _fill(self, compiler: Compiler, base: Register, at: int) -> None:
        """Write span, arguments and fields to the stash at `base` + `at`."""
        b = self.b
        b.comment("the thread's span, frame and labels")
        self.blocks.read_word(base, at + STASH_WORD)
        b.comment("the arguments")
        arguments = self.context.architecture.arguments[:KEPT_ARGUMENTS]
        for number, register in enumerate(arguments):
            b.load(R1, 8, R6, register)
            b.store(8, base, at + STASH_ARGUMENTS + 8 * number, R1)
        if self.fields is not None:
            self.fields.write(compiler, b, base, at + _FIELDS_MOVE, self.of.entry)

    def _set_token(self) -> None:
        """Set the stash's key; R0 is the time."""
        if not self.session:
            self.b.load(R0, 8, R6, self.context.architecture.stack_pointer)
        self.number_token()
        self.set_key()

    def _insert(self) -> None:
        """Keep the stash to which R3 points."""
        b = self.b
        kept = b.label("kept")
        if self.session:
            self._update()
            b.jump_if(R0, "!=", 0, self.lost)
            return
        with b.slot(8) as value:
            b.store(8, R10, value, R3)
            self._update()
            b.jump_if(R0, "==", 0, kept)
            b.jump_if(R0, "!=", -errno.EEXIST, self.lost)
            b.comment("an earlier call began here and never returned")
            self.blocks.count("lost_stash")
            b.load_map(R1, STASH)
            self.blocks.address(R2, R10, self.key)
            b.call(helpers.MAP_DELETE)
            b.load(R3, 8, R10, value)
            self._update()
            b.jump_if(R0, "!=", 0, self.lost)
        b.place(kept)

    def _update(self) -> None:
        b = self.b
        b.load_map(R1, STASH)
        self.blocks.address(R2, R10, self.key)
        b.move(R4, helpers.NO_EXIST)
        b.call(helpers.MAP_UPDATE)


class _Return(_Side):
    """As a call returns."""

    def write(self) -> None:
        b, blocks, of = self.b, self.blocks, self.of
        orphan, drop = b.label("orphan"), b.label("drop")
        b.comment("the call returns")
        blocks.read_time(self.time)
        blocks.identify()
        if of.tid is not None and not self.session:
            blocks.only_thread(of.tid, blocks.end)
        blocks.find_counts()
        self._find_token()
        self.set_key()
        b.comment("what was kept as the call began")
        blocks.lookup(STASH, self.key)
        b.jump_if(R0, "==", 0, orphan)
        b.move(R9, R0)
        b.load(R1, 8, R10, self.time)
        b.load(R2, 8, R9, STASH_TIME)
        b.alu(R1, "-", R2)
        b.store(8, R10, self.time, R1)
        compiler = Compiler(b, ReturnValues(blocks, self.time))
        if of.when is not None and not of.when_at_entry:
            self.select(compiler)
        if isinstance(self.source, Metric):
            add_value(blocks, compiler, self.source, R9, STASH_WORD, self.lost)
        else:
            blocks.reserve(self.lost)
            self._write_record(compiler)
            blocks.submit()
        b.place(drop)
        b.comment("the call is over")
        b.load_map(R1, STASH)
        blocks.address(R2, R10, self.key)
        b.call(helpers.MAP_DELETE)
        b.jump(blocks.end)
        lost = "lost_stash" if isinstance(self.source, Metric) else "lost_ring"
        blocks.count_at(self.filtered, "filtered", drop)
        blocks.count_at(self.sampled_out, "sampled_out", drop)
        blocks.count_at(self.lost, lost, drop)
        blocks.count_at(orphan, "orphans")
        blocks.finish()

    def _find_token(self) -> None:
        """Set R0 to the token of the call that returns."""
        b, machine = self.b, self.context.architecture
        if self.session:
            b.move(R1, R6)
            b.call_kernel(helpers.SESSION_COOKIE)
            b.load(R0, 8, R0, 0)
            return
        b.load(R0, 8, R6, machine.stack_pointer)
        if machine.return_moves:
            b.alu(R0, "-", machine.return_moves)
        self.number_token()

    def _write_record(self, compiler: Compiler) -> None:
        b, blocks, of = self.b, self.blocks, self.of
        b.comment("the record: what all have")
        blocks.write_time(R9, STASH_TIME)
        blocks.write_identity()
        blocks.write_word(R9, STASH_WORD)
        blocks.write_duration(R10, self.time)
        assert self.fields is not None
        self.fields.clear(b, R8, 0, of.values)
        self.fields.copy(b, R8, R9, _FIELDS_MOVE, of.entry)
        self.fields.write(compiler, b, R8, 0, of.exit or {})
