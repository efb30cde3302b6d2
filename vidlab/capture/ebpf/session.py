"""The kernel's side of a recording: maps, programs and links, for one plan and one process.

All that a session has in the kernel hangs on descriptors of this process: when they
close, at the latest as the process ends, it is gone.

Uprobes go through a **dispatcher**: one program for each way of attaching, linked once to each
library with a cookie for each place. It tail-calls the program whose number is the
cookie. So sixty probes are attached by one call of the kernel, and a program can be
replaced while it runs without an event lost.
"""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from ...errors import InputError, RecordingError
from .attaching import Attaching, Attachment
from .declaring.probes import Declaration, Usdt
from .declaring.written import MapShape, Written
from .earlier import Earlier
from .kernel import bpf, links
from .kernel.bpf import MapType
from .kernel.maps import Map
from .objects import Objects
from .pinning import Pinned, add_target
from .plan import Member, Plan
from .program.words import (
    BLANK,
    COUNTS,
    COUNTS_MAP,
    SAMPLES,
    SLOT_KEY,
    SLOTS,
    STASH,
    STASH_ENTRIES,
    STASH_KEY,
    TARGETS,
    WORD_ADDRESS,
)
from .programs import Programs, stash_room

#: Bytes of a ring, unless asked otherwise; and the bounds.
RING_BYTES = 4 << 20
LEAST_RING, MOST_RING = 4096, 1 << 30

#: Threads, processes and calls in flight that a session can know at a time.
MOST_THREADS = 1 << 16
MOST_TARGETS = 1 << 12

#: Bytes of a program's counts.
_COUNTS = 8 * len(COUNTS)

#: Different buckets, over all labels, that a metric can count in.
MOST_BUCKETS = 1 << 15


@dataclass
class Shared:
    """The maps that the reading side uses: descriptors that any process may be given.

    Attributes
    ----------
    rings : dict of str to Map
        By table.
    counts : Map
        What became of the hits, by program.
    slots : Map
        Where each thread's span word is.
    metrics : dict of str to Map
        By name.
    """

    rings: dict[str, Map]
    counts: Map
    slots: Map
    metrics: dict[str, Map] = field(default_factory=dict)

    def all(self) -> Iterable[Map]:
        """Yield all of them."""
        yield from (*self.rings.values(), self.counts, self.slots, *self.metrics.values())

    def close(self) -> None:
        """Close all of them."""
        for map in self.all():
            map.close()


class UnsupportedError(RecordingError):
    """The kernel is too old, or was built without what kernel events need."""


class Session:
    """Programs of a plan in the kernel, for the events of one process.

    Parameters
    ----------
    plan : Plan
    target : int
        The process.
    ring_bytes : int
        Of each table's ring: a power of two.
    sessions : bool, optional
        Whether entry and return of a call share a link; by default where the kernel can.
    guarded : bool
        The maps that are only read get descriptors that can only read, to be given away;
        and programs run for no process that is not, or no longer, among the `targets`.
    pin : str, optional
        Keep all of it in the kernel under this name, or go on with what is kept.

    Attributes
    ----------
    shared : Shared
    targets : Map
        HASH, pid u32 -> u64: the processes whose events are meant.
    attachments : list of Attachment
    problems : list of str
        What could not be attached, of what the plan can do without.
    earlier : Earlier or None
        With a pin: what recordings of this name have told before.

    Raises
    ------
    PrivilegeError
        If this process may not do it; the error says how it may.
    UnsupportedError
        If the kernel knows no such programs at all.
    VidlabError
        If the kernel, or a library, lacks what a probe needs.
    """

    def __init__(
        self,
        plan: Plan,
        target: int,
        *,
        ring_bytes: int = RING_BYTES,
        sessions: bool | None = None,
        guarded: bool = False,
        pin: str | None = None,
    ) -> None:
        check_ring(ring_bytes)
        self.plan = plan
        self.target = target
        self.earlier: Earlier | None = None
        self._guarded = guarded
        self._pinned: Pinned | None = None
        with contextlib.ExitStack() as undo:
            if not links.has_uprobes():
                raise UnsupportedError(
                    "kernel events need Linux 6.6 or newer, built with CONFIG_UPROBES and "
                    f"CONFIG_BPF_EVENTS; this is {platform.release()}: 'vidlab doctor' tells "
                    "what it can do"
                )
            if sessions is None:
                sessions = links.has_sessions()
            self._objects = Objects()
            if pin is not None:
                check_pin(plan)
                self._pinned = self._objects = Pinned(pin, plan, ring_bytes, sessions)
                undo.callback(self._pinned.close)
            self.shared = undo.enter_context(contextlib.closing(self._make_shared(ring_bytes)))
            maps = {name: undo.enter_context(map) for name, map in self._maps()}
            self.targets = maps[TARGETS]
            self._programs = Programs(
                plan,
                maps,
                self.shared.rings,
                self.shared.metrics,
                sessions,
                everyone=guarded or pin is not None,
                objects=self._objects,
            )
            undo.enter_context(contextlib.closing(self._programs))
            self._attaching = Attaching(
                plan, self._programs, target, pin is not None, self._objects
            )
            undo.enter_context(contextlib.closing(self._attaching))
            if self._pinned is not None:
                self._go_on(undo)
            else:
                self.targets.update(target.to_bytes(4, "little"), (1).to_bytes(8, "little"))
            self._attaching.attach()
            if self._pinned is not None:
                self._pinned.settle()
            self._undo = undo.pop_all()

    @property
    def attachments(self) -> list[Attachment]:
        """What is attached, and to where."""
        return self._attaching.attachments

    @property
    def problems(self) -> list[str]:
        """What could not be attached, of what the plan can do without."""
        return self._attaching.problems

    @property
    def pending(self) -> list[Member]:
        """Programs whose library is nowhere yet: `attach_pending` tries again."""
        return self._attaching.pending

    def attach_pending(self) -> list[Attachment]:
        """Attach to what has been loaded since; return what was attached."""
        return self._attaching.attach_pending()

    def replace(self, number: int, declaration: Declaration) -> None:
        """Replace a running program by another, at one moment, with its maps kept.

        A call that is under way is finished by the new program.

        Raises
        ------
        InputError
            If the declaration does not fit: see `Plan.replaced`.
        VerifierError
            If the kernel refuses it; the old program goes on.
        """
        self._programs.replace(self.plan.replaced(number, declaration))

    def misses(self) -> dict[int, int]:
        """Return how often the kernel did not run a program; see `Programs.misses`."""
        return self._programs.misses()

    def detach(self) -> None:
        """Take all programs off; what they wrote can still be read.

        With a pin they stay. Of this process nothing more is recorded all the same; of
        another one it is, until it ends.
        """
        if self._pinned is not None and self.target == os.getpid():
            self.targets.delete(self.target.to_bytes(4, "little"))
        self._attaching.close()

    def close(self) -> None:
        """Leave nothing of this in the kernel, save what is to be kept."""
        self._undo.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _go_on(self, undo: contextlib.ExitStack) -> None:
        """Begin where an earlier recording has ended."""
        for key in list(self.shared.slots.keys()):  # the threads of a process that has ended
            self.shared.slots.delete(key)
        metrics = dict.fromkeys(self.plan.metrics, MOST_BUCKETS)
        earlier = Earlier(self._objects, max(len(self.plan.members), 1), metrics)
        self.earlier = undo.enter_context(contextlib.closing(earlier))
        add_target(self.targets, self.target)

    def _make_shared(self, ring_bytes: int) -> Shared:
        make = self._objects.map
        read_only = bpf.F_RDONLY if self._guarded else 0
        lazily = bpf.F_NO_PREALLOC
        programs = max(len(self.plan.members), 1)
        with contextlib.ExitStack() as undo:
            rings = {
                table: undo.enter_context(
                    make("ring", table.removeprefix("kernel_"), MapType.RINGBUF, 0, 0, ring_bytes)
                )
                for table in self.plan.layouts
            }
            counts = undo.enter_context(
                make("map", COUNTS_MAP, MapType.PERCPU_ARRAY, 4, _COUNTS, programs, read_only)
            )
            slots = undo.enter_context(
                make("map", SLOTS, MapType.HASH, SLOT_KEY, WORD_ADDRESS, MOST_THREADS, lazily)
            )
            metrics = {
                name: undo.enter_context(
                    make(
                        "metric", name, MapType.PERCPU_HASH, 8, 8, MOST_BUCKETS, read_only | lazily
                    )
                )
                for name in self.plan.metrics
            }
            undo.pop_all()
        return Shared(rings, counts, slots, metrics)

    def _maps(self) -> Iterator[tuple[str, Map]]:
        """Yield the maps that programs use, by the names that they have for them, as made."""
        yield COUNTS_MAP, self.shared.counts
        yield SLOTS, self.shared.slots
        make = self._objects.map
        programs = max(len(self.plan.members), 1)
        room = stash_room(self.plan)
        lazily = bpf.F_NO_PREALLOC
        yield TARGETS, make("map", TARGETS, MapType.HASH, 4, 8, MOST_TARGETS, lazily)
        yield STASH, make("map", STASH, MapType.HASH, STASH_KEY, room, STASH_ENTRIES, lazily)
        yield BLANK, make("map", BLANK, MapType.ARRAY, 4, room, 1)
        yield SAMPLES, make("map", SAMPLES, MapType.ARRAY, 4, 8, programs)
        named: dict[str, MapShape] = {}
        for member in self.plan.members:
            if isinstance(member.source, Written):
                named |= member.source.maps
        for name, shape in named.items():
            flags = lazily if shape.type == MapType.HASH else 0
            size = shape.key_size, shape.value_size, shape.max_entries
            yield name, make("map", name, MapType(shape.type), *size, flags)


def check_pin(plan: Plan) -> None:
    """Raise InputError if a plan has what cannot be kept under a name."""
    for member in plan.members:
        if isinstance(member.declaration, Usdt):
            raise InputError(
                f"the USDT probe {member.label} cannot be kept by pin=: where its arguments are "
                "differs from process to process. Record it without pin="
            )


def check_ring(ring_bytes: int) -> None:
    """Raise InputError unless a ring can have this size."""
    page = os.sysconf("SC_PAGE_SIZE")
    if ring_bytes & (ring_bytes - 1) or not max(LEAST_RING, page) <= ring_bytes <= MOST_RING:
        raise InputError(
            f"ring_bytes is a power of two from {page} to {MOST_RING} bytes, not {ring_bytes!r}"
        )
