"""The programs of a session: made from the plan, loaded, and reached through dispatchers."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence

from ...errors import InputError
from .coding import (
    BEGIN,
    EVENT,
    RETURN,
    SESSION,
    Shapes,
    code_of,
    encoded,
    encoded_of,
    stash_room,
)
from .declaring.metrics import Metric
from .kernel.bpf import AttachType, MapType, ProgramType
from .kernel.maps import Map
from .kernel.programs import Program, load
from .objects import Objects
from .plan import Member, Plan
from .program import dispatching
from .program.words import PROGRAMS, RING, VALUES
from .symbols.libraries import Target, UsdtTarget

__all__ = ["CALL", "ENTRY", "Programs", "code_of", "stash_room"]

#: What a program on a function is: for calls, or for their beginnings.
CALL, ENTRY = "call", "entry"

_TYPES = {
    SESSION: (ProgramType.KPROBE, AttachType.UPROBE_SESSION),
    BEGIN: (ProgramType.KPROBE, AttachType.UPROBE_MULTI),
    RETURN: (ProgramType.KPROBE, AttachType.UPROBE_MULTI),
    EVENT: (ProgramType.TRACEPOINT, AttachType.NONE),
}

_PARTS = {
    SESSION: dispatching.SESSION,
    BEGIN: dispatching.BEGINS,
    RETURN: dispatching.RETURNS,
    EVENT: dispatching.BEGINS,
}


class Programs:
    """The programs of a plan.

    Parameters
    ----------
    plan : Plan
    maps : Mapping of str to Map
        Those that all programs use, by the names that the code has for them.
    rings, metrics : Mapping of str to Map
        By table, and by metric.
    sessions : bool
        Whether entry and return of a call share a program.
    everyone : bool
        Other processes may run them: those that are meant are in the map of targets.
    objects : Objects
        Makes the arrays and dispatchers, or has them from an earlier recording.
    """

    def __init__(
        self,
        plan: Plan,
        maps: Mapping[str, Map],
        rings: Mapping[str, Map],
        metrics: Mapping[str, Map],
        sessions: bool,
        everyone: bool,
        objects: Objects,
    ) -> None:
        self._plan = plan
        self._objects = objects
        self._maps = maps
        self._rings = rings
        self._metrics = metrics
        self._sessions = sessions
        self._everyone = everyone
        self._undo = contextlib.ExitStack()
        self._arrays: dict[str, Map] = {}
        self._dispatchers: dict[tuple[str, int], Program] = {}
        #: The programs, by role and number; and those that several members share.
        self._loaded: dict[tuple[str, int], Program] = {}
        self._shared: dict[str, dict[str, Program]] = {}
        #: The members that are loaded, by number: what has replaced them, if they were.
        self._current: dict[int, Member] = {}
        self._owned: set[Program] = set()
        self._stash_room = stash_room(plan)
        self._targets: dict[int, list[UsdtTarget]] = {}
        self._shapes = Shapes()

    def load(self, member: Member, targets: Sequence[Target | UsdtTarget] = ()) -> int:
        """Load a member's programs, if they are not yet; return the first target's place.

        Parameters
        ----------
        member : Member
        targets : sequence of Target or UsdtTarget
            Where it will be attached, besides where it is: where the arguments of a USDT
            probe are depends on it. Its places are counted from 0.

        Raises
        ------
        VerifierError
            If the kernel refuses one.
        InputError
            If a field is not there to be read.
        """
        known = self._targets.get(member.number, [])
        more = [one for one in targets if isinstance(one, UsdtTarget)]
        current = self._current.get(member.number)
        if current is not None and not more:
            return 0
        self._targets[member.number] = known + more
        try:
            if current is not None:
                self.replace(current)
            else:
                self._load(member)
                self._current[member.number] = member
        except BaseException:
            self._targets[member.number] = known
            raise
        return len(known)

    def replace(self, member: Member) -> None:
        """Load a member's programs anew, and have them run in place of the old from now on."""
        old = [known for (_, number), known in self._loaded.items() if number == member.number]
        if not old:
            raise InputError(f"{member.label} is not attached yet: replace it once it is")
        made = self._made(member, self._shapes.of(member), member.number)
        self._put(member, made)
        self._current[member.number] = member
        used = {*self._loaded.values()}.union(*(one.values() for one in self._shared.values()))
        for program in old:
            if program not in used:
                program.close()
                self._owned.discard(program)

    def how(self, member: Member) -> str:
        """Return how a member's functions are attached: as a session, a pair, or an entry."""
        if member.declaration is None or not member.declaration.returns:
            return ENTRY
        return SESSION if self._sessions else "pair"

    def uprobe_dispatchers(self, kind: str) -> list[tuple[Program, dict[str, bool]]]:
        """Return what is attached to functions, and how, in the order of attaching.

        The return of a pair comes before its entry, so that no entry is without its return.
        """
        if kind == ENTRY:
            return [(self._dispatcher(BEGIN), {})]
        if self._sessions:
            return [(self._dispatcher(SESSION), {"session": True})]
        return [(self._dispatcher(RETURN), {"returns": True}), (self._dispatcher(BEGIN), {})]

    def tracepoint_dispatcher(self, member: Member) -> Program:
        """Return what is attached to a tracepoint."""
        return self._dispatcher(EVENT, member.number)

    def misses(self) -> dict[int, int]:
        """Return how often the kernel did not run a program because one was running.

        By the member's number; uprobes, of which the kernel counts none so far, are under -1.
        """
        known: dict[int, int] = {}
        for (role, number), program in self._dispatchers.items():
            missed = program.info().recursion_misses
            key = number if role == EVENT else -1
            known[key] = known.get(key, 0) + missed
        return known

    def close(self) -> None:
        """Let go of all programs; those that are attached stay as long as their links."""
        for program in self._owned:
            program.close()
        self._undo.close()

    # --- making them ------------------------------------------------------------------

    def _load(self, member: Member) -> None:
        """Have a member's programs loaded, and reached under its number.

        What does the same for several members, such as the versions of one function, is one
        program: it reads its number from the cookie that it is attached with.
        """
        shape = self._shapes.of(member)
        known = self._shared.get(shape) if shape else None
        if known is None:
            known = self._made(member, shape, None if shape else member.number)
            if shape:
                self._shared[shape] = known
        self._put(member, known)

    def _put(self, member: Member, programs: Mapping[str, Program]) -> None:
        """Have these programs reached under a member's number from now on."""
        for role, program in programs.items():
            self._array(role).update(
                member.number.to_bytes(4, "little"), program.fd.to_bytes(4, "little")
            )
            self._loaded[role, member.number] = program

    def _made(self, member: Member, shape: str | None, number: int | None) -> dict[str, Program]:
        layout = self._plan.layout(member)
        maps = {name: map.fd for name, map in self._maps.items()}
        if layout is not None:
            maps[RING] = self._rings[layout.name].fd
        else:
            assert isinstance(member.source, Metric)
            maps[VALUES] = self._metrics[member.source.metric].fd
        codes = encoded_of(
            member,
            shape,
            layout,
            number=number,
            ring_bytes=0 if layout is None else self._rings[layout.name].max_entries,
            stash_room=self._stash_room,
            sessions=self._sessions,
            everyone=self._everyone,
            places=tuple(one.arguments for one in self._targets.get(member.number, ())),
        )
        made: dict[str, Program] = {}
        for role, code in codes.items():
            made[role] = load(code.bound(maps), *_TYPES[role], member.label)
            self._owned.add(made[role])
        return made

    def _array(self, role: str) -> Map:
        """Return the array by which the dispatcher of a role finds its programs."""
        if role not in self._arrays:
            size = max(len(self._plan.members), 1)
            made = self._objects.map("programs", f"{role}s", MapType.PROG_ARRAY, 4, 4, size)
            self._arrays[role] = self._undo.enter_context(made)
        return self._arrays[role]

    def _dispatcher(self, role: str, number: int = -1) -> Program:
        """Return the dispatcher of a role: one for each tracepoint, else one for all places."""
        known = self._dispatchers.get((role, number))
        if known is None:

            def make() -> Program:
                code = encoded(dispatching.dispatcher(_PARTS[role], None if number < 0 else number))
                maps = {name: map.fd for name, map in self._maps.items()}
                maps[PROGRAMS] = self._array(role).fd
                return load(code.bound(maps), *_TYPES[role], f"to_{role}s")

            what = role if number < 0 else f"{role}-{number}"
            known = self._objects.program(what, make, _TYPES[role][1])
            self._dispatchers[role, number] = self._undo.enter_context(known)
        return known
