"""What a list of probes and probe sets comes to: numbered programs, and the tables they fill.

A plan is made without the kernel, and the same from the same list wherever it is made: a
broker that loads the programs and the process that reads their records agree by it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

from ...errors import InputError
from . import sets
from .declaring.layout import Layout, Source
from .declaring.metrics import Counter, Histogram, Metric, metric_from_json
from .declaring.probes import Declaration, declaration_from_json
from .declaring.written import Attached, Written

#: What a recording can be asked for: declarations, or sets by name.
Asked: TypeAlias = Declaration | Metric | str

#: So many programs are numbered at most: the number is two bytes of a record.
MOST_PROGRAMS = 1024


@dataclass(frozen=True, eq=False)
class Member:
    """A program of a plan.

    Attributes
    ----------
    number : int
        By which records, counts and cookies name it.
    source : Declaration, Written or Metric
        What it does.
    attached : Attached or None
        Which program of a `Written` set.
    set : str
        The set that it is of, '' if it was declared by itself.
    """

    number: int
    source: Source | Metric
    attached: Attached | None = None
    set: str = ""

    @property
    def optional(self) -> bool:
        """Whether the rest works without it: a set spans versions of a library."""
        return bool(self.set) and (self.attached is None or self.attached.optional)

    @property
    def declaration(self) -> Declaration | None:
        """What it is attached to; None for a program of a `Written` set."""
        if isinstance(self.source, Written):
            return None
        return self.source.of if isinstance(self.source, Metric) else self.source

    @property
    def label(self) -> str:
        """What it is on, in a word."""
        if self.attached is not None:
            return self.attached.event
        assert self.declaration is not None
        return self.declaration.label


class Plan:
    """Numbered programs, and the records they write.

    Parameters
    ----------
    asked : iterable of Probe, Tracepoint, Usdt, Counter, Histogram or str
        Declarations; a text is the name of a probe set, such as "cuda".

    Attributes
    ----------
    asked : list
        The same, as a list.
    members : list of Member
        By number.
    layouts : dict of str to Layout
        By table.

    Raises
    ------
    InputError
        If the list cannot be recorded together.
    """

    def __init__(self, asked: Iterable[Asked]) -> None:
        self.asked = list(asked)
        self.members: list[Member] = []
        sets_taken: set[str] = set()  # one that is asked for twice is attached once
        for one in self.asked:
            if isinstance(one, str):
                if one in sets_taken:
                    continue
                sets_taken.add(one)
                for source in sets.probe_set(one):
                    self._add(source, one)
            elif isinstance(one, Declaration | Metric):
                self._add(one, "")
            else:
                raise InputError(
                    f"{one!r} is no probe: give a Probe, Tracepoint, Usdt, Counter, Histogram, "
                    f"or the name of a set: {', '.join(sets.names())}"
                )
        if len(self.members) > MOST_PROGRAMS:
            raise InputError(f"{len(self.members)} probes are too many: {MOST_PROGRAMS} at most")
        self._check_metrics()
        self.layouts = self._layouts()

    def _add(self, source: Source | Metric, set: str) -> None:
        number = len(self.members)
        if isinstance(source, Written):
            self.members += [
                Member(number + i, source, attached, set)
                for i, attached in enumerate(source.attached)
            ]
        else:
            self.members.append(Member(number, source, None, set))

    def _layouts(self) -> dict[str, Layout]:
        by_table: dict[str, dict[int, Source]] = {}
        for member in self.members:
            if not isinstance(member.source, Metric):
                by_table.setdefault(member.source.table, {})[member.number] = member.source
        return {table: Layout(members) for table, members in by_table.items()}

    def _check_metrics(self) -> None:
        for name, metrics in self._by_metric().items():
            first = metrics[0]
            if len({type(metric) for metric in metrics}) > 1:
                raise InputError(f"{name} is declared as a counter and as a histogram")
            units = {metric.unit for metric in metrics if isinstance(metric, Histogram)}
            if isinstance(first, Histogram) and len(units) > 1:
                raise InputError(f"{name} is declared in {' and in '.join(sorted(units))}")

    @cached_property
    def metrics(self) -> dict[str, Metric]:
        """The metrics by name; several probes may count into one."""
        return {name: metrics[0] for name, metrics in self._by_metric().items()}

    def _by_metric(self) -> dict[str, list[Metric]]:
        known: dict[str, list[Metric]] = {}
        for member in self.members:
            if isinstance(member.source, Counter | Histogram):
                known.setdefault(member.source.metric, []).append(member.source)
        return known

    def layout(self, member: Member) -> Layout | None:
        """Return the record that a program writes; None if it only counts."""
        if isinstance(member.source, Metric):
            return None
        return self.layouts[member.source.table]

    def replaced(self, number: int, declaration: Declaration) -> Member:
        """Return the program of this number, made anew from another declaration.

        Raises
        ------
        InputError
            If that does not fit: it has to be on the same function or event, and its fields
            have to be those that the table has, of the same types.
        """
        if not 0 <= number < len(self.members):
            raise InputError(f"there is no probe {number}")
        old = self.members[number]
        known = old.declaration
        if known is None or isinstance(old.source, Metric):
            raise InputError(f"the program on {old.label} is one of a set: it cannot be replaced")
        if type(declaration) is not type(known) or _where(declaration) != _where(known):
            raise InputError(
                f"a probe on {_where(known)} is replaced by one on the same, "
                f"not {_where(declaration)}"
            )
        if declaration.returns != known.returns or declaration.table != known.table:
            raise InputError("a probe is replaced by one of the same table, with or without exit=")
        if not self.layouts[known.table].takes(number, declaration):
            raise InputError(
                f"a probe is replaced by one with the same columns, of the same types: "
                f"{known.table} has {', '.join(known.values) or 'none of its own'}"
            )
        return Member(number, declaration, None, old.set)

    def to_json(self) -> list[Any]:
        """Return what was asked for as JSON values; `plan_from_json` is the way back."""
        return [one if isinstance(one, str) else one.to_json() for one in self.asked]


def asked_from_json(values: Sequence[Any]) -> list[Asked]:
    """Return what was asked for, of which this is the JSON, or raise InputError."""
    if not isinstance(values, list | tuple):
        raise InputError(f"{str(values)[:80]!r} is no list of probes")
    return [_one(value) for value in values]


def _one(value: Any) -> Asked:
    if isinstance(value, str | Declaration | Metric):
        return value
    if isinstance(value, dict) and value.get("kind") in (Counter.KIND, Histogram.KIND):
        return metric_from_json(value)
    return declaration_from_json(value)


def _where(declaration: Declaration) -> str:
    names = ("library", "symbol", "provider", "probe", "category", "event")
    return ":".join(str(getattr(declaration, name)) for name in names if hasattr(declaration, name))
