"""Programs for what happens at one moment: a function's entry, a tracepoint, a USDT probe."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ..declaring.metrics import Histogram, Metric
from ..declaring.operations import Expression
from ..declaring.probes import Probe, Tracepoint, Usdt
from ..declaring.values import Argument
from . import helpers
from .blocks import Blocks
from .context import ProgramContext
from .counting import add_value
from .encoding import R0, R1, R6, R8, R10
from .expressions import Compiler, Values
from .filling import Declared, Fields, declaration_of
from .instructions import Builder, Code
from .values import EntryValues, TracepointValues, UsdtValues
from .words import DURATION_PLACE, WORD_BYTES

if TYPE_CHECKING:
    from ..symbols.usdt import UsdtArgument


def entry(context: ProgramContext, source: Probe | Metric) -> Code:
    """Return the program that runs as a function begins.

    Parameters
    ----------
    context : ProgramContext
    source : Probe, Counter or Histogram
        Without exit fields.

    Raises
    ------
    InputError
        If it asks for what is not there to be read.
    """
    return _moment(context, source, EntryValues)


def tracepoint(context: ProgramContext, source: Tracepoint | Metric) -> Code:
    """Return the program that runs in a tracepoint, whose `format` the context has.

    Raises
    ------
    InputError
        If the tracepoint does not have the fields.
    """
    return _moment(context, source, TracepointValues)


def usdt(
    context: ProgramContext, source: Usdt | Metric, places: Sequence[Sequence[UsdtArgument]]
) -> Code:
    """Return the program that runs in a USDT probe.

    Parameters
    ----------
    context : ProgramContext
    source : Usdt, Counter or Histogram
    places : sequence of sequences of UsdtArgument
        The probe's arguments at each of its places. If they are not the same everywhere,
        the upper 32 bits of the cookie that the program is attached with say which place
        it is, counted from 0.

    Raises
    ------
    InputError
        If the probe does not have an argument, or it cannot be read.
    """
    asked = _expressions(source)
    needed = {part.index for value in asked for part in value.walk() if isinstance(part, Argument)}

    def values(blocks: Blocks) -> Values:
        known = UsdtValues(blocks, needed)
        if needed:
            _read_arguments(blocks, known, [tuple(place) for place in places])
        return known

    return _moment(context, source, values)


def _expressions(source: Declared | Metric) -> list[Expression]:
    of = declaration_of(source)
    asked = [value for value in of.values.values() if isinstance(value, Expression)]
    if of.when is not None:
        asked.append(of.when)
    if isinstance(source, Histogram):
        asked.append(source.value)
    return asked


def _read_arguments(
    blocks: Blocks, values: UsdtValues, places: Sequence[tuple[UsdtArgument, ...]]
) -> None:
    """Put a USDT probe's arguments on the stack, from where they are at this place of it."""
    b = blocks.b
    different = list(dict.fromkeys(places))
    labels = [b.label(f"place_{places.index(arguments)}") for arguments in different]
    done = b.label("arguments")
    if len(different) > 1:
        b.comment("which of the probe's places this is")
        b.move(R1, R6)
        b.call(helpers.ATTACH_COOKIE)
        b.alu(R0, ">>", 32)
        for number, arguments in enumerate(places):
            if arguments != different[0]:
                b.jump_if(R0, "==", number, labels[different.index(arguments)])
    for label, arguments in zip(labels, different, strict=True):
        b.place(label)
        values.read(b, arguments)
        if arguments != different[-1]:
            b.jump(done)
    b.place(done)


def _moment(
    context: ProgramContext, source: Declared | Metric, values_of: Callable[[Blocks], Values]
) -> Code:
    of = declaration_of(source)
    b = Builder()
    blocks = Blocks(b, context)
    filtered, sampled_out, lost = map(b.label, ("filtered", "sampled_out", "lost"))
    time, word = b.allocate(8), b.allocate(WORD_BYTES)
    blocks.start()
    blocks.identify()
    if context.targets:
        b.comment("only processes that are recorded")
        blocks.only_targets(blocks.end)
    blocks.find_counts()
    blocks.count("hits")
    blocks.read_time(time)
    if of.tid is not None:
        b.comment(f"only the thread {of.tid}")
        blocks.only_thread(of.tid, filtered)
    compiler = Compiler(b, values_of(blocks))
    if of.when is not None:
        b.comment(f"only if {of.when!r}")
        compiler.unless(of.when, filtered)
    if of.every > 1:
        b.comment(f"one of {of.every}")
        blocks.sample(of.every, sampled_out)
    b.comment("the thread's span, frame and labels")
    blocks.read_word(R10, word)
    if isinstance(source, Metric):
        add_value(blocks, compiler, source, R10, word, lost)
    else:
        blocks.reserve(lost)
        _write_record(blocks, compiler, of, time, word)
        blocks.submit()
    b.jump(blocks.end)
    blocks.count_at(filtered, "filtered")
    blocks.count_at(sampled_out, "sampled_out")
    blocks.count_at(lost, "lost_stash" if isinstance(source, Metric) else "lost_ring")
    blocks.finish()
    return b.assemble()


def _write_record(blocks: Blocks, compiler: Compiler, of: Declared, time: int, word: int) -> None:
    b, layout = blocks.b, blocks.context.layout
    assert layout is not None
    b.comment("the record: what all have")
    blocks.write_time(R10, time)
    blocks.write_identity()
    blocks.write_word(R10, word)
    if layout.returns:  # others of this table are calls
        b.store(8, R8, DURATION_PLACE, 0)
    fields = Fields(layout, blocks.context.fields_start)
    fields.clear(b, R8, 0, of.values)
    fields.write(compiler, b, R8, 0, of.values)
