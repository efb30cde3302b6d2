"""The probe sets, and the programs of probes to read: `vidlab probes`."""

from __future__ import annotations

import contextlib
import importlib
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..capture.ebpf import sets
from ..capture.ebpf.attaching import member_table
from ..capture.ebpf.declaring.probes import Probe, Tracepoint, Usdt
from ..capture.ebpf.declaring.written import Attached
from ..capture.ebpf.kernel import links
from ..capture.ebpf.kernel.privileges import PrivilegeError
from ..capture.ebpf.kernel.tracefs import UnknownTracepointError
from ..capture.ebpf.plan import Asked, Member, Plan
from ..capture.ebpf.program.disassembly import disassemble
from ..capture.ebpf.programs import code_of, stash_room
from ..capture.ebpf.session import RING_BYTES
from ..capture.ebpf.symbols.libraries import Process
from ..capture.ebpf.symbols.names import near_text
from ..errors import InputError, VidlabError

_WIDTH = 96

#: So many functions of a table are named where all sets are listed.
_SHOWN = 4


def named(names: Sequence[str]) -> list[Asked]:
    """Return the probes of these names: what to give to `KernelEvents`.

    Parameters
    ----------
    names : sequence of str
        Each a set, such as "cuda"; or "module:attribute", where a module of the user's has
        a probe, a metric, or a list of them. Modules are looked for in the current folder
        too.

    Raises
    ------
    InputError
        If there is no such set, module or attribute, or it is no probe.
    """
    found: list[Asked] = []
    for name in dict.fromkeys(names):
        module, colon, attribute = name.partition(":")
        found += _loaded(module, attribute, name) if colon else [name]
    Plan(found)  # says what is no probe
    return found


def listed(names: Sequence[str] = ()) -> str:
    """Return the sets in words: what they are about, their tables, what is attached to what.

    Parameters
    ----------
    names : sequence of str, optional
        Sets, or "module:attribute": everything of these is told. By default all sets,
        in short.
    """
    blocks = []
    for name in names or sets.names():
        by_table: dict[str, dict[str, list[str]]] = {}
        for member in Plan(named([name])).members:
            where = by_table.setdefault(member_table(member), {})
            where.setdefault(_library(member), []).append(member.label)
        lines = textwrap.wrap(f"{name}: {_meaning(name)}".rstrip(": "), _WIDTH)
        for table, where in by_table.items():
            lines.append(f"  {table}")
            for library, labels in where.items():
                lines += _wrapped(library, list(dict.fromkeys(labels)), whole=bool(names))
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def shown(name: str, symbol: str | None = None, pairs: bool = False) -> str:
    """Return what each probe of a set runs in the kernel, instruction by instruction.

    Parameters
    ----------
    name : str
        A set; or "module:attribute", where a module of yours has a probe or a list of them.
    symbol : str, optional
        Only what is on this function or event.
    pairs : bool
        As for a kernel without session links, even if this one has them.

    Raises
    ------
    InputError
        If there is no such set, or it has nothing on that symbol.
    """
    plan = Plan(named([name]))
    members = [one for one in plan.members if symbol is None or one.label == symbol]
    if symbol is not None and not members:
        near = near_text(symbol, [member.label for member in plan.members])
        raise InputError(
            f"{name} has nothing on {symbol!r}{near or '.'} 'vidlab probes {name}' lists all"
        )
    return "\n\n".join(
        part for member in members for part in _programs(plan, member, not pairs and _sessions())
    )


def _meaning(name: str) -> str:
    """Return what a set is about: the first sentence of its module."""
    if ":" in name:
        return ""
    text = importlib.import_module(f"{sets.__name__}.{name}").__doc__ or ""
    return text.partition("\n\n")[0].partition(": ")[2].replace("\n", " ").rstrip(".")


def _library(member: Member) -> str:
    """Return what a program is attached to, but for the function or event."""
    of = member.attached or member.declaration
    if isinstance(of, Probe | Usdt):
        return of.library
    assert isinstance(of, Attached | Tracepoint)
    return f"tracepoints {of.category}"


def _wrapped(library: str, labels: list[str], whole: bool) -> list[str]:
    more = len(labels) - _SHOWN
    if not whole and more > 1:
        labels = [*labels[:_SHOWN], f"and {more} more"]
    return textwrap.wrap(
        f"{library}: {', '.join(labels)}",
        _WIDTH,
        initial_indent="    ",
        subsequent_indent="      ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _programs(plan: Plan, member: Member, sessions: bool) -> Iterator[str]:
    layout = plan.layout(member)
    title = f"{member_table(member)} {member.label}"
    try:
        codes = code_of(
            member,
            layout,
            number=member.number,
            ring_bytes=RING_BYTES,
            stash_room=stash_room(plan),
            sessions=sessions,
            places=_places(member),
        )
    except (UnknownTracepointError, PrivilegeError) as error:
        yield f"; {title}: {error}"  # where the fields are is known to the kernel alone
        return
    for role, code in codes.items():
        yield f"; {title}, {role}: {code.size} instructions\n{disassemble(code)}"


def _places(member: Member) -> list[tuple[object, ...]]:
    """Return where the arguments of a USDT probe are, in the programs that have it here."""
    of = member.declaration
    if not isinstance(of, Usdt):
        return []
    try:
        found = Process().find_usdt(of.library, of.provider, of.probe)
    except VidlabError:
        return []
    return [target.arguments for target in found or ()]


def _loaded(module: str, attribute: str, name: str) -> list[Asked]:
    """Return what an attribute of a module of the user's holds, as a list."""
    with _current_folder_first():
        try:
            found = getattr(importlib.import_module(module), attribute)
        except Exception as error:  # whatever the module raises as it is run
            raise InputError(
                f"the probes {name!r} cannot be had ({type(error).__name__}: {error}): give "
                "MODULE:ATTRIBUTE, of a module in this folder or one that is installed"
            ) from error
    return list(found) if isinstance(found, list | tuple) else [found]


@contextlib.contextmanager
def _current_folder_first() -> Iterator[None]:
    """Have modules looked for in the current folder, as Python does without a script."""
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(folder)


def _sessions() -> bool:
    try:
        return links.has_sessions()
    except VidlabError:  # who may not ask is shown what the newest kernels run
        return True
