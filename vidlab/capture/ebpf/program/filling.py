"""How the declared fields of a probe get into its record: every byte of it is written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias, cast

from ..declaring.checks import Value
from ..declaring.layout import Layout
from ..declaring.metrics import Metric
from ..declaring.operations import Constant, Expression
from ..declaring.probes import Probe, Tracepoint, Usdt
from ..declaring.values import SIZES, Text
from .encoding import R0, R1, Register
from .expressions import Compiler
from .instructions import Builder

#: What can be declared, a metric's probe or one by itself.
Declared: TypeAlias = Probe | Tracepoint | Usdt


def declaration_of(source: Declared | Metric) -> Declared:
    """Return what is attached somewhere: a metric's probe, or the probe itself."""
    return cast("Declared", source.of) if isinstance(source, Metric) else source


class Fields:
    """The own fields of a table's record, as one probe writes them.

    Parameters
    ----------
    layout : Layout
    start : int
        Where they begin in the record, in bytes.
    """

    def __init__(self, layout: Layout, start: int) -> None:
        self._layout = layout
        self._start = start
        self._end = layout.dtype.itemsize

    def clear(self, b: Builder, base: Register, move: int, written: Mapping[str, Value]) -> None:
        """Write zeros to all own fields but those that are going to be written.

        Parameters
        ----------
        b : Builder
        base : Register
            With `move` in bytes: where the record would begin.
        written : Mapping
            The fields that `write` or `copy` writes next.
        """
        covered = bytearray(self._end)  # a record has whole words of 8 bytes
        for name in self._stored(written):
            at, size = self._place(name)
            covered[at : at + size] = b"\1" * size
        at = self._start
        while at < self._end:
            if covered[at]:
                at += 1
                continue
            size = next(n for n in (8, 4, 2, 1) if at % n == 0 and not any(covered[at : at + n]))
            b.store(size, base, move + at, 0)
            at += size

    def write(
        self, compiler: Compiler, b: Builder, base: Register, move: int, fields: Mapping[str, Value]
    ) -> None:
        """Write fields, calculated here and now; `base` outlasts calls."""
        for name in self._stored(fields):
            value = fields[name]
            assert isinstance(value, Expression)
            at, size = self._place(name)
            b.comment(f"{name} = {value!r}")
            if isinstance(value, Text):
                compiler.text(value, base, move + at, size)
            else:
                compiler.value(value)
                b.store(size, base, move + at, R0)

    def copy(
        self, b: Builder, to: Register, source: Register, move: int, fields: Mapping[str, Value]
    ) -> None:
        """Copy fields to the record at `to`, from where it would begin at `source` + `move`."""
        for name in self._stored(fields):
            at, size = self._place(name)
            step = min(size, 8)
            for offset in range(at, at + size, step):
                b.load(R1, step, source, move + offset)
                b.store(step, to, offset, R1)

    def _stored(self, fields: Mapping[str, Value]) -> list[str]:
        """The names of those that are in the record: constants are not."""
        return [
            name
            for name, value in fields.items()
            if isinstance(value, Expression) and not isinstance(value, Constant)
        ]

    def _place(self, name: str) -> tuple[int, int]:
        kind = self._layout.stored(name)
        assert kind is not None
        return self._layout.offset(name), SIZES.get(kind) or int(kind[1:])
