"""Attaching a plan's programs: where each belongs, and the links that tie it there."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass

from ...errors import VidlabError
from .declaring.probes import Probe, Tracepoint, Usdt
from .kernel import links, tracefs
from .kernel.links import AttachError, Link
from .loads import Loads
from .objects import Attachment, Objects
from .plan import Member, Plan
from .programs import CALL, ENTRY, Programs
from .symbols.files import file_status
from .symbols.libraries import Process, Target, UnknownSymbolError, UsdtTarget
from .symbols.mappings import Library
from .symbols.matching import Pattern

__all__ = ["Attaching", "Attachment", "member_table"]


@dataclass(frozen=True)
class _Place:
    """Where in a file a program goes."""

    member: Member
    key: str  # what tells it from all others, also in another process
    offset: int
    counter: int  # where in the file the semaphore of a USDT probe is
    place: int  # which of the places of a USDT probe it is
    attachment: Attachment


class Attaching:
    """The links of a session.

    Parameters
    ----------
    plan : Plan
    programs : Programs
        What is attached.
    target : int
        The process in which functions are looked for.
    everyone : bool
        Whether links are of all processes: else they are of the target.
    objects : Objects
        Knows what is attached already.

    Attributes
    ----------
    attachments : list of Attachment
    problems : list of str
        Why parts that the plan can do without are not attached.
    pending : list of Member
        Programs whose library is neither loaded nor to be found: it may come yet.
    """

    def __init__(
        self, plan: Plan, programs: Programs, target: int, everyone: bool, objects: Objects
    ) -> None:
        self._plan = plan
        self._programs = programs
        self._target = target
        self._linked_pid = 0 if everyone else target
        self._objects = objects
        self._links: list[Link] = []
        self._loads = Loads(target)
        self._libraries: tuple[Library, ...] = ()  # those that were loaded when it last looked
        #: What is attached: by place, and for sets by table and place.
        self._known = set(objects.attached)
        self._taken: set[str] = set()
        self.attachments: list[Attachment] = list(objects.attached.values())
        self.problems: list[str] = []
        self.pending: list[Member] = []

    def attach(self) -> None:
        """Attach all that can be, or raise for what the plan cannot do without."""
        for member in self._plan.members:
            if member.attached is not None or isinstance(member.declaration, Tracepoint):
                self._attach_tracepoint(member)
        self.pending = self._attach_places(self._plan.members, self._process())

    def attach_pending(self) -> list[Attachment]:
        """Attach to what has been loaded since; return what is attached now.

        In this process that is known at the cost of a look at a counter. In another one it
        is looked for every five seconds.
        """
        if not self._loads.changed():
            return []
        process = self._process()
        before = {(one.device, one.inode) for one in self._libraries}
        new = [one for one in process.libraries if (one.device, one.inode) not in before]
        if not new:
            return []
        self._libraries = process.libraries
        attached = len(self.attachments)
        members = [member for member in self._plan.members if _may_be_in(member, new)]
        still = [member for member in self.pending if member not in members]
        for some in _apart(members):
            try:
                still += self._attach_places(some, process)
            except VidlabError as error:  # found at last, it is not what was declared
                self._note(str(error))
        self.pending = still
        return self.attachments[attached:]

    def close(self) -> None:
        """Detach everything. Entries go before returns, so that calls under way are told whole."""
        for link in reversed(self._links):
            link.close()
        self._links.clear()

    def _process(self) -> Process:
        return Process(None if self._target == os.getpid() else self._target)

    def _note(self, problem: str) -> None:
        if problem not in self.problems:
            self.problems.append(problem)

    def _attach_tracepoint(self, member: Member) -> None:
        if member.attached is not None:
            category, event = member.attached.category, member.attached.event
        else:
            assert isinstance(member.declaration, Tracepoint)
            category, event = member.declaration.category, member.declaration.event
        key = f"{member.number} {category} {event}"
        try:
            self._programs.load(member)
            if key in self._known:
                return
            program = self._programs.tracepoint_dispatcher(member)
            link = links.attach_tracepoint(program, category, event)
        except (tracefs.UnknownTracepointError, AttachError) as error:
            if not member.optional:
                raise
            self._note(f"{category}:{event}: {error}")
            return
        table = member_table(member)
        self._keep([link], {key: Attachment(member.number, table, event, category, "tracepoint")})

    def _keep(self, made: list[Link], places: dict[str, Attachment]) -> None:
        self._links += made
        self._objects.keep(made, places)
        self._known |= places.keys()
        self.attachments += places.values()

    def _attach_places(self, members: Sequence[Member], process: Process) -> list[Member]:
        """Attach to functions and USDT probes: those of one file by one link.

        Returns those members whose library is nowhere.
        """
        self._libraries = process.libraries
        members = [one for one in members if isinstance(one.declaration, Probe | Usdt)]
        groups: dict[tuple[str, str], list[_Place]] = {}
        pending: list[Member] = []
        found, files = _Found(process, members), _Files()
        for member in members:
            try:
                targets = found.targets(member)
            except UnknownSymbolError as error:
                if not member.optional:
                    raise
                self._note(str(error))
                continue
            if targets is None:
                pending.append(member)
            assert member.declaration is not None
            kind = CALL if member.declaration.returns else ENTRY
            for path, place in self._places(member, targets or (), files):
                groups.setdefault((path, kind), []).append(place)
        for (path, kind), places in groups.items():
            self._link(path, kind, places)
        return pending

    def _places(
        self, member: Member, targets: Sequence[Target | UsdtTarget], files: _Files
    ) -> list[tuple[str, _Place]]:
        """Return where a program goes: files as the kernel can open them, and places in them."""
        of = member.declaration
        table = member_table(member)
        new: list[tuple[str, Target | UsdtTarget]] = []
        for target in targets:
            where = f"{files[target.path]} {target.offset:x}"
            once = f"{table} {where}"
            if member.set and once in self._taken:
                continue  # two names of one function
            self._taken.add(once)
            if (key := f"{member.number} {where}") not in self._known:
                new.append((key, target))
        first = self._programs.load(member, [target for _, target in new]) if targets else 0
        how = "usdt" if isinstance(of, Usdt) else self._programs.how(member)
        return [
            (
                target.path,
                _Place(
                    member,
                    key,
                    target.offset,
                    target.ref_counter if isinstance(target, UsdtTarget) else 0,
                    place,
                    Attachment(member.number, table, member.label, target.library, how),
                ),
            )
            for place, (key, target) in enumerate(new, first)
        ]

    def _link(self, path: str, kind: str, places: list[_Place]) -> None:
        try:
            made = self._linked(path, kind, places)
        except AttachError as error:
            if len(places) == 1:
                if not places[0].member.optional:
                    raise
                self._note(f"{places[0].attachment.symbol}: {error}")
                return
            for place in places:  # one of them cannot be: the others can
                self._link(path, kind, [place])
            return
        self._keep(made, {place.key: place.attachment for place in places})

    def _linked(self, path: str, kind: str, places: list[_Place]) -> list[Link]:
        """Return the links for places of a file, the one to be closed last first."""
        made: list[Link] = []
        counters = [place.counter for place in places]
        with contextlib.ExitStack() as undo:
            for program, options in self._programs.uprobe_dispatchers(kind):
                link = links.attach_uprobes(
                    program,
                    path,
                    [place.offset for place in places],
                    cookies=[place.member.number | place.place << 32 for place in places],
                    ref_counters=counters if any(counters) else (),
                    pid=self._linked_pid,
                    **options,
                )
                made.append(undo.enter_context(link))
            undo.pop_all()
        return made


class _Files(dict[str, str]):
    """What tells files apart, by their paths."""

    def __missing__(self, path: str) -> str:
        status = file_status(path)
        known = self[path] = f"{status.st_dev}:{status.st_ino}"
        return known


class _Found:
    """Looks up where the members go; those of sets together, as most of them are nowhere.

    A set names the functions of all versions of its libraries: that some are missing is no
    problem, and not worth a search for near names.
    """

    def __init__(self, process: Process, members: Sequence[Member]) -> None:
        self._process = process
        symbols: dict[str, list[str]] = {}
        for member in members:
            of = member.declaration
            if isinstance(of, Probe) and member.optional:
                symbols.setdefault(of.library, []).append(of.symbol)
            if isinstance(of, Probe) and of.unless is not None:
                symbols.setdefault(of.library, []).append(of.unless)
        self._together = {
            library: process.find_all(library, names) for library, names in symbols.items()
        }

    def targets(self, member: Member) -> Sequence[Target | UsdtTarget] | None:
        """Return a member's places; None if its library is not there yet."""
        of = member.declaration
        if isinstance(of, Usdt):
            return self._process.find_usdt(of.library, of.provider, of.probe)
        assert isinstance(of, Probe)
        if not member.optional:
            found = self._process.find(of.library, of.symbol)
        else:
            known = self._together[of.library]
            if known is None or (of.library == "*" and of.symbol not in known):
                return None  # whoever has it may be loaded later
            found = known.get(of.symbol, [])
        if of.unless is None or not found:
            return found
        others = (self._together[of.library] or {}).get(of.unless, [])
        instead = {target.path for target in others}
        return [target for target in found if target.path not in instead]


def _may_be_in(member: Member, libraries: Sequence[Library]) -> bool:
    """Whether one of these libraries may be what a member names."""
    of = member.declaration
    if not isinstance(of, Probe | Usdt):
        return False
    pattern = _pattern(of.library)
    if pattern.is_absolute and not pattern.glob:  # it may be a link
        return True
    return any(pattern.matches(one.path) or pattern.may_name(one.name) for one in libraries)


_pattern = functools.lru_cache(1024)(Pattern)


def _apart(members: Sequence[Member]) -> list[list[Member]]:
    """Return members such that one that fails takes no other with it: sets as a whole."""
    of_sets = [member for member in members if member.optional]
    return [*([of_sets] if of_sets else []), *([one] for one in members if not one.optional)]


def member_table(member: Member) -> str:
    """Return the table that a program records into, or the metric that it counts into."""
    source = member.source
    return source.table if hasattr(source, "table") else source.metric
