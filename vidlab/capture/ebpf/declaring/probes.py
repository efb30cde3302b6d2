"""What is to be recorded: probes on functions, tracepoints and USDT probes, as data.

A declaration is checked as it is made, without asking the kernel: what cannot work is
refused in the words of what was written.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, ClassVar

from ....errors import InputError
from .checks import (
    NAME,
    SYMBOL,
    Kept,
    Value,
    check_at_entry,
    check_at_return,
    check_common,
    check_parts,
    check_usdt,
    kept,
)
from .expressions import from_json
from .operations import Expression
from .values import Duration, Field, Return


@dataclass(frozen=True, eq=False)
class Declaration:
    """What all declarations have.

    Attributes
    ----------
    table : str
        The table that it is recorded into.
    values : dict of str to Expression or str
        All its fields; a text is a constant.
    every : int
        One hit of so many is recorded.
    returns : bool
        Whether a row is a call, with its duration, rather than a moment.
    """

    KIND: ClassVar[str]

    @property
    def label(self) -> str:
        """What it is on, in a word: the value of the column `symbol`."""
        raise NotImplementedError

    @property
    def table(self) -> str:
        return f"kernel_{getattr(self, 'name', None) or self.label}"

    @property
    def values(self) -> dict[str, Kept]:
        raise NotImplementedError

    @property
    def returns(self) -> bool:
        return False

    @property
    def every(self) -> int:
        return round(1 / getattr(self, "sample", 1))

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values; `declaration_from_json` is the way back."""
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class Probe(Declaration):
    """A function of a library: each call of it is a row.

    Parameters
    ----------
    library : str
        The library as it is loaded: its soname ("libcuda.so.1"), a pattern
        ("libavcodec.so*"), a path, or "*" for any that exports the symbol. The name that
        a wheel gives it ("libavcodec-5e6b81c2.so.62.28") is found by the plain one.
    symbol : str
        The function, as the library names it.
    entry : Mapping[str, Expression, int or str]
        Columns by name, read as the call begins.
    exit : Mapping[str, Expression, int or str], optional
        Columns that are read as the call returns; `arg(i)` is what it was at first. With
        it, even empty, a row is written as the call returns and has `duration_ns`.
    when : Expression, optional
        Only calls for which this holds are recorded. What it needs is read at entry if
        that is possible: a call that is not recorded costs less.
    name : str, optional
        The table is `kernel_NAME`, by default `kernel_SYMBOL`. Several declarations of
        one name share a table.
    tid : int, optional
        Only this thread's calls.
    sample : float
        1/N: of N calls one is recorded, exactly each N-th.
    unless : str, optional
        Not in a library that has this function too: where a newer function does the work
        of an older one that goes on to it, one call is told once.

    Raises
    ------
    InputError
        If it cannot work.

    Examples
    --------
    >>> from vidlab.capture.ebpf import Probe, arg, deref, retval
    >>> probe = Probe(
    ...     "libcuda.so.1",
    ...     "cuMemAlloc_v2",
    ...     entry={"size_bytes": arg(1)},
    ...     exit={"address": deref(arg(0)), "status": retval()},
    ... )
    >>> probe.table
    'kernel_cuMemAlloc_v2'
    """

    KIND = "probe"

    library: str
    symbol: str
    entry: Mapping[str, Value] = field(default_factory=dict)
    exit: Mapping[str, Value] | None = None
    when: Expression | None = None
    _: KW_ONLY
    name: str | None = None
    tid: int | None = None
    sample: float = 1.0
    unless: str | None = None

    def __post_init__(self) -> None:
        self._check_place()
        what = f"the probe on {self.symbol}"
        object.__setattr__(self, "entry", kept(self.entry, what))
        if self.exit is not None:
            object.__setattr__(self, "exit", kept(self.exit, what))
            both = self.entry.keys() & self.exit.keys()
            if both:
                raise InputError(f"{what} declares {', '.join(sorted(both))} at entry and at exit")
        check_common(self, what)
        for name, value in self.values.items():
            check_parts(value, f"{name} of {what}", field_of_tracepoint=False)
        for name in self.entry:
            check_at_entry(self.values[name], f"{name} of {what}")
        for name in self.exit or ():
            check_at_return(self.values[name], f"{name} of {what}")
        if self.when is not None:
            check_parts(self.when, f"when of {what}", field_of_tracepoint=False)
            check_when = check_at_entry if self.exit is None else check_at_return
            if self.exit is None or not self.when_at_entry:
                check_when(self.when, f"when of {what}")

    def elsewhere(self, library: str, symbol: str) -> Probe:
        """Return the same on another function, recorded into the same table.

        What is recorded need not be checked again: a set has one declaration for many names.
        """
        other = copy.copy(self)
        object.__setattr__(other, "library", library)
        object.__setattr__(other, "symbol", symbol)
        object.__setattr__(other, "name", self.table.removeprefix("kernel_"))
        other._check_place()
        return other

    def _check_place(self) -> None:
        if not (isinstance(self.library, str) and self.library and "\0" not in self.library):
            raise InputError(f"library is a library's name or path, not {self.library!r}")
        if not (isinstance(self.symbol, str) and SYMBOL.fullmatch(self.symbol)):
            raise InputError(f"symbol is the name of a function, not {self.symbol!r}")
        if self.unless is not None and not (
            isinstance(self.unless, str) and SYMBOL.fullmatch(self.unless)
        ):
            raise InputError(f"unless is the name of a function, not {self.unless!r}")

    @property
    def label(self) -> str:
        return self.symbol

    @property
    def values(self) -> dict[str, Kept]:
        return {**self.entry, **(self.exit or {})}  # type: ignore[dict-item]

    @property
    def returns(self) -> bool:
        return self.exit is not None

    @property
    def when_at_entry(self) -> bool:
        """Whether the condition can be told as the call begins."""
        return self.when is not None and not any(
            isinstance(part, Return | Duration) for part in self.when.walk()
        )

    def to_json(self) -> dict[str, Any]:
        return {
            **_common_json(self),
            "library": self.library,
            "symbol": self.symbol,
            "unless": self.unless,
            "entry": _values_json(self.entry),
            "exit": None if self.exit is None else _values_json(self.exit),
        }


@dataclass(frozen=True, eq=False)
class Tracepoint(Declaration):
    """An event of the kernel's own: each is a row.

    Parameters
    ----------
    category, event : str
        As under `events/` of the kernel's tracing file system: "sched", "sched_switch".
    fields : sequence of str, or Mapping[str, Expression, int or str]
        The event's fields to record by name, or columns made of `field(name)`.
    when : Expression, optional
        Only events for which this holds are recorded.
    name : str, optional
        The table is `kernel_NAME`, by default `kernel_EVENT`.
    tid : int, optional
        Only events in this thread.
    sample : float
        1/N: of N events one is recorded.
    everywhere : bool
        Events in all processes, not only in those that are recorded. The process in
        which an event happens need not be the one that it is about.

    Raises
    ------
    InputError
        If it cannot work.
    """

    KIND = "tracepoint"

    category: str
    event: str
    fields: Mapping[str, Value] = field(default_factory=dict)
    when: Expression | None = None
    _: KW_ONLY
    name: str | None = None
    tid: int | None = None
    sample: float = 1.0
    everywhere: bool = False

    def __post_init__(self) -> None:
        for part in (self.category, self.event):
            if not (isinstance(part, str) and NAME.fullmatch(part)):
                raise InputError(f"{part!r} is no tracepoint: give its category and its event")
        what = f"the tracepoint {self.category}:{self.event}"
        if not isinstance(self.everywhere, bool):
            raise InputError(f"everywhere of {what} is True or False, not {self.everywhere!r}")
        fields = self.fields
        if isinstance(fields, str) or not isinstance(fields, Iterable):
            raise InputError(f"the fields of {what} are a list of names or a dict, not {fields!r}")
        if not isinstance(fields, Mapping):
            fields = {name: Field(name, "i64") for name in fields}
        object.__setattr__(self, "fields", kept(fields, what))
        check_common(self, what)
        for name, value in self.values.items():
            check_parts(value, f"{name} of {what}", field_of_tracepoint=True)
        if self.when is not None:
            check_parts(self.when, f"when of {what}", field_of_tracepoint=True)

    @property
    def label(self) -> str:
        return self.event

    @property
    def values(self) -> dict[str, Kept]:
        return dict(self.fields)  # type: ignore[arg-type]

    def to_json(self) -> dict[str, Any]:
        return {
            **_common_json(self),
            "category": self.category,
            "event": self.event,
            "fields": _values_json(self.fields),
            "everywhere": self.everywhere,
        }


@dataclass(frozen=True, eq=False)
class Usdt(Declaration):
    """A USDT probe that a program's authors have put into it: each hit is a row.

    Parameters
    ----------
    library : str
        The library or program that has it; see `Probe`.
    provider, probe : str
        Its names, as in "python" and "gc__start".
    fields : Mapping[str, Expression, int or str]
        Columns by name; `arg(i)` is the probe's own argument, of the type that it has.
    when, name, tid, sample
        As those of `Probe`; the table is by default `kernel_PROBE`.

    Raises
    ------
    InputError
        If it cannot work.
    """

    KIND = "usdt"

    library: str
    provider: str
    probe: str
    fields: Mapping[str, Value] = field(default_factory=dict)
    when: Expression | None = None
    _: KW_ONLY
    name: str | None = None
    tid: int | None = None
    sample: float = 1.0

    def __post_init__(self) -> None:
        if not (isinstance(self.library, str) and self.library and "\0" not in self.library):
            raise InputError(f"library is a library's name or path, not {self.library!r}")
        for part in (self.provider, self.probe):
            if not (isinstance(part, str) and NAME.fullmatch(part)):
                raise InputError(f"{part!r} is no USDT probe: give its provider and its name")
        what = f"the USDT probe {self.provider}:{self.probe}"
        object.__setattr__(self, "fields", kept(self.fields, what))
        check_common(self, what)
        for name, value in self.values.items():
            check_parts(value, f"{name} of {what}", field_of_tracepoint=False)
            check_usdt(value, f"{name} of {what}")
        if self.when is not None:
            check_parts(self.when, f"when of {what}", field_of_tracepoint=False)
            check_usdt(self.when, f"when of {what}")

    @property
    def label(self) -> str:
        return self.probe

    @property
    def values(self) -> dict[str, Kept]:
        return dict(self.fields)  # type: ignore[arg-type]

    def to_json(self) -> dict[str, Any]:
        return {
            **_common_json(self),
            "library": self.library,
            "provider": self.provider,
            "probe": self.probe,
            "fields": _values_json(self.fields),
        }


# --- JSON ----------------------------------------------------------------------------


def _common_json(known: Any) -> dict[str, Any]:
    when = None if known.when is None else known.when.to_json()
    kept = {"name": known.name, "tid": known.tid, "when": when}
    return {"kind": known.KIND, **kept, "sample": known.sample}


def _values_json(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value if isinstance(value, str) else value.to_json() for name, value in values.items()
    }


_KINDS: dict[str, type[Declaration]] = {kind.KIND: kind for kind in (Probe, Tracepoint, Usdt)}


def declaration_from_json(values: object) -> Declaration:
    """Return the declaration of which this is the JSON.

    Raises
    ------
    InputError
        If it is not one's, or says what cannot work.
    """
    if not isinstance(values, dict):
        raise InputError(f"{str(values)[:80]!r} is no declaration of a probe")
    known = dict(values)
    name = known.pop("kind", None)
    kind = _KINDS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise InputError(f"{str(values.get('kind'))[:40]!r} is no kind of probe")
    if known.get("when") is not None:
        known["when"] = from_json(known["when"])
    for name in ("entry", "exit", "fields"):
        if isinstance(known.get(name), dict):
            known[name] = {
                column: value if isinstance(value, str) else from_json(value)
                for column, value in known[name].items()
            }
    try:
        return kind(**known)
    except TypeError as error:
        raise InputError(f"a declaration of a {kind.KIND} does not have that: {error}") from None
