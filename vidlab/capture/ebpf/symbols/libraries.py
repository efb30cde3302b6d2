"""From the names in a probe's declaration to places in files: what a probe is attached to.

What the process has mapped is looked at first. A library that it has not loaded yet is looked
for on disk, where it would be loaded from. A symbol that is in several libraries is probed in
each: CuPy carries a CUDA runtime in every module that needs one.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from ....errors import InputError
from . import tables, usdt
from .disk import Disk
from .files import file_status, identity
from .mappings import Library, mapped_libraries
from .matching import Pattern, without_hash
from .names import near_text
from .tables import Symbol, SymbolTable

#: How many libraries an error names.
_SHOWN = 4


class UnknownSymbolError(InputError):
    """A library is there, and has no such function or probe; the message offers near names.

    They are looked for when the message is read: among the symbols of a large library that takes
    longer than to find out that there is no such one.
    """

    def __init__(self, message: str, name: str = "", known: Callable[[], Iterable[str]] = tuple):
        super().__init__(message)
        self._name = name
        self._known = known

    def __str__(self) -> str:
        return super().__str__() + self._near

    @functools.cached_property
    def _near(self) -> str:
        with contextlib.suppress(InputError):  # the library may be gone by now
            return near_text(self._name, self._known())
        return ""


class Target(NamedTuple):
    """A function to probe: a file and a place in it."""

    path: str  #: by which the kernel finds the file
    offset: int  #: of the function's first instruction in the file, in bytes
    symbol: str
    library: str  #: the file's path as its process sees it, for people
    size: int = 0  #: of the function in bytes; 0 if unknown
    mapped: bool = True  #: whether the process had it loaded


class UsdtTarget(NamedTuple):
    """A place of a USDT probe."""

    path: str
    offset: int
    ref_counter: int  #: the place in the file of the counter that switches it on; 0 for none
    arguments: tuple[usdt.UsdtArgument, ...]
    provider: str
    name: str
    library: str
    mapped: bool = True


class Process:
    """What can be probed in a process, as it is now: make another to see what it loads later.

    Parameters
    ----------
    pid : int, optional
        The process; this one if None.

    Raises
    ------
    InputError
        If there is no such process, or we may not know what it has mapped.
    """

    def __init__(self, pid: int | None = None) -> None:
        self.pid = pid
        self.libraries: tuple[Library, ...] = tuple(mapped_libraries(pid))
        self._matched: dict[tuple[str, bool], list[_Candidate]] = {}

    @functools.cached_property
    def _disk(self) -> Disk:
        return Disk(self.pid, [library.path for library in self.libraries])

    def find(self, library: str, symbol: str, *, later: bool = False) -> list[Target] | None:
        """Return where a function is; several places if several libraries have it.

        Parameters
        ----------
        library : str
            As `matching.Pattern` reads it; "*" for any mapped library that exports the symbol.
        symbol : str
            The function's name, without a version.
        later : bool
            Whether to return also what is on disk and not loaded, where some is loaded.

        Returns
        -------
        list of Target or None
            None if there is no such library, loaded or on disk.

        Raises
        ------
        UnknownSymbolError
            If the library is there and has no such function.
        InputError
            If it cannot be read, or (an `ElfError`) is no library that can be probed.
        """
        found = self.find_all(library, [symbol], later=later)
        if found is None or symbol in found:
            return None if found is None else found[symbol]
        raise self._unknown_symbol(library, symbol, self._candidates(library, later))

    def find_all(
        self, library: str, symbols: Iterable[str], *, later: bool = False
    ) -> dict[str, list[Target]] | None:
        """Return where functions are, those that there are: a missing one is no error.

        As `find` for each, at the cost of one; None if there is no such library.
        """
        candidates = self._candidates(library, later)
        if not candidates:
            return {} if library == "*" else None
        found: dict[str, list[Target]] = {}
        failed: InputError | None = None
        wanted = list(dict.fromkeys(symbols))
        for candidate in candidates:
            try:
                table = tables.symbols(candidate.open_path)
                for symbol in wanted:
                    known = table.exports(symbol) if library == "*" else table.lookup(symbol)
                    for function in known:
                        if function.is_function:
                            found.setdefault(symbol, []).append(candidate.target(function))
            except InputError as error:
                failed = failed or error
        if failed is not None and not found and library != "*":
            raise failed
        return found

    def find_usdt(
        self, library: str, provider: str, probe: str, *, later: bool = False
    ) -> list[UsdtTarget] | None:
        """Return the places of a USDT probe; None if there is no such library.

        Raises
        ------
        UnknownSymbolError
            If the library is there and has no such probe.
        InputError
            If it cannot be read, or (an `ElfError`) is no library that can be probed.
        """
        candidates = self._candidates(library, later)
        if not candidates:
            return None
        found, known = [], []
        failed: InputError | None = None
        for candidate in candidates:
            try:
                marked = usdt.probes(candidate.open_path)
            except InputError as error:
                failed = failed or error
                continue
            known += [f"{place.provider}:{place.name}" for place in marked]
            found += [
                UsdtTarget(
                    candidate.open_path,
                    place.offset,
                    place.ref_counter,
                    place.arguments,
                    provider,
                    probe,
                    candidate.path,
                    candidate.mapped,
                )
                for place in marked
                if (place.provider, place.name) == (provider, probe)
            ]
        if found:
            return found
        if failed is not None and library != "*":
            raise failed
        where, name = _shown(candidates), f"{provider}:{probe}"
        if not known:
            raise UnknownSymbolError(f"no USDT probes are built into {where}")
        raise UnknownSymbolError(f"no USDT probe {name} is in {where}", name, lambda: known)

    def near_libraries(self, library: str) -> str:
        """Return ", did you mean …?" for a library that is not there; empty if nothing is near."""
        known = [mapped.name for mapped in self.libraries] + self._disk.names()
        stems = [without_hash(name).partition(".so")[0] + ".so" for name in known if ".so" in name]
        name = without_hash(library.rpartition("/")[2])
        return near_text(name, stems if ".so" in name else [stem[:-3] for stem in stems])

    def _candidates(self, library: str, later: bool) -> list[_Candidate]:
        known = self._matched.get((library, later))
        if known is None:
            known = self._matched[library, later] = self._match(Pattern(library), later)
        return known

    def _match(self, pattern: Pattern, later: bool) -> list[_Candidate]:
        found = [
            _Candidate(mapped.path, mapped.open_path, True)
            for mapped in self.libraries
            if pattern.matches(mapped.path)
            or (pattern.may_name(mapped.name) and _soname_matches(mapped, pattern))
            or (pattern.is_absolute and not pattern.glob and _is_at(mapped, pattern.text))
        ]
        if later or not found:
            reached = {_file(candidate.open_path) for candidate in found}
            found += [
                _Candidate(place.path, place.open_path, False)
                for place in self._disk.find(pattern)
                if _file(place.open_path) not in reached
            ]
        return found

    def _unknown_symbol(
        self, library: str, symbol: str, candidates: Sequence[_Candidate]
    ) -> UnknownSymbolError:
        if library == "*":
            return UnknownSymbolError(
                f"no library that the process has loaded exports a function {symbol!r}: name the "
                "library to see near names"
            )
        partly = ""
        for table in _tables(candidates):
            for other in table.lookup(symbol):
                return UnknownSymbolError(f"{symbol!r} in {table.path} {_why_not(other)}")
            if not table.complete:
                partly = ", of which only what it exports could be searched"
        return UnknownSymbolError(
            f"no function {symbol!r} is in {_shown(candidates)}{partly}",
            symbol,
            lambda: [name for table in _tables(candidates) for name in table.names()],
        )


class _Candidate(NamedTuple):
    """A library that a pattern means."""

    path: str
    open_path: str
    mapped: bool

    def target(self, function: Symbol) -> Target:
        assert function.offset is not None
        return Target(
            self.open_path,
            function.offset,
            function.name,
            self.path,
            function.size,
            self.mapped,
        )


def find(pid: int | None, library: str, symbol: str) -> list[Target] | None:
    """Return where a function of a process is, as `Process.find`: for one or two symbols."""
    return Process(pid).find(library, symbol)


def find_usdt(pid: int | None, library: str, provider: str, probe: str) -> list[UsdtTarget] | None:
    """Return the places of a USDT probe of a process, as `Process.find_usdt`."""
    return Process(pid).find_usdt(library, provider, probe)


def _tables(candidates: Iterable[_Candidate]) -> Iterator[SymbolTable]:
    """Yield the symbols of those libraries that can be read."""
    for candidate in candidates:
        with contextlib.suppress(InputError):
            yield tables.symbols(candidate.open_path)


def _file(path: str) -> tuple[int, ...]:
    """Return what tells whether two paths lead to one file; empty if it can't be known."""
    try:
        return identity(file_status(path))
    except InputError:
        return ()


def _soname_matches(library: Library, pattern: Pattern) -> bool:
    try:
        soname = tables.symbols(library.open_path).soname
    except InputError:
        return False
    return soname is not None and pattern.names(soname)


def _is_at(library: Library, path: str) -> bool:
    """Whether a mapped library is at a path that may be a link, as its process sees it."""
    return library.is_at(path if library.pid is None else f"/proc/{library.pid}/root{path}")


def _why_not(symbol: Symbol) -> str:
    if symbol.indirect:
        return (
            "is no function itself: it is called once to choose one (IFUNC). Probe the function "
            "that is chosen, by its own name"
        )
    return "is not a function: there is no code at its address"


def _shown(candidates: Sequence[_Candidate]) -> str:
    paths = [candidate.path for candidate in candidates]
    more = f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
    return ", ".join(paths[:_SHOWN]) + more
